"""Looks at a board; changes nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from . import plan
from .apply import BOOT, Run
from .plan import Facts, JoinFile
from .settings import MAX_SIZE, Settings

EXAMPLE = "edged.toml.example"
SLACK = 8 << 20  # bytes: less behind the partition isn't worth a change of the table
GROWN = 0.85  # of the partition that a whole file system can be seen to have: the rest is its own tables
LABEL = "/dev/disk/by-label/edged-data"
PYTHON = "/opt/edged/current/bin/python"


class Completed(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def boot_device(mountinfo: str) -> Path | None:
    """What is mounted at /boot/firmware; None = nothing. (proc(5), mountinfo; the last one is on top)"""
    found = None
    for line in mountinfo.splitlines():
        words = line.split(" ")
        if words[4] == BOOT:
            found = Path(words[words.index("-") + 2])
    return found


def look(root: Path, boot: bool, is_mount: Callable[[Path], bool] = os.path.ismount) -> Facts:
    """:param boot: the boot partition is mounted."""

    def at(path: str) -> Path:
        return root / path.lstrip("/")

    if not is_mount(at(plan.DATA)):
        why = "it can't be mounted (journalctl -b says more)" if at(LABEL).exists() else "there is no such partition"
        return Facts(no_data=why)
    read_only = at("/usr/lib/edged/read-only-root").exists()
    etc = f"{plan.DATA}/etc" if read_only else "/etc"
    names = [n for n in plan.NAMES if boot and at(f"{BOOT}/{n}").is_file()]
    return Facts(
        grow=growth(at("/sys/dev/block"), at(plan.DATA)),
        etc=etc,
        machine_id=_text(at("/etc/machine-id")),
        # A writable root keeps its own (systemd-machine-id-commit.service).
        machine_id_kept=not read_only or bool(_text(at(f"{etc}/machine-id"))),
        hostname=_text(at(f"{etc}/hostname")) or plan.DEFAULT_NAME,
        host_key=bool(_text(at(plan.HOST_KEY))),
        factory=_names(at(plan.FACTORY)),
        versions=_names(at(plan.VERSIONS)),
        current=at(plan.CURRENT).is_symlink(),
        join_files=tuple(JoinFile(n, _start(at(f"{BOOT}/{n}"))) for n in names),
        example_edited=boot and _example_edited(at(f"{BOOT}/{EXAMPLE}"), at(f"/usr/lib/edged/{EXAMPLE}")),
        wiping=_text(at(plan.WIPING)),
        node=kept_node(at(plan.NODE)),
        joined=at("/etc/edged/node.toml").exists(),
        done=at(plan.DONE).exists(),
    )


def checked(facts: Facts, settings: Settings, root: Path, run: Run) -> Facts:
    """With what must be known to be wrong before anything is done. The daemon's own tool says it: this program knows
    neither tokens nor node.toml."""
    zone = settings.timezone
    exists = zone is None or (root / "usr/share/zoneinfo" / zone).is_file()
    wrong = ""
    node = dict(settings.node or {}) | plan.watchdog(settings)
    if settings.token is not None or node:
        done = join_command(run, root, "--check", token=settings.token or "", node=node)
        if done.returncode:
            wrong = sentence(done.stderr)
    return replace(facts, zone_exists=exists, node_wrong=wrong)


def join_command(run: Run, root: Path, *words: str, token: str, node: dict[str, object]) -> Completed:
    """`edgectl join` of the current version. The token goes by stdin, the settings by a file in memory."""
    file = root / "run/edged-first-boot/settings.json"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(json.dumps(node))
    argv = [PYTHON, "-m", "cloudlink.cli", "join", "-", "--settings", os.fspath(file), *words]
    done = run(argv, given=token)
    return Completed(done.returncode, done.stdout.strip(), done.stderr.strip())


def kept_node(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def sentence(said: str) -> str:
    """The last line of what a tool says, without its name."""
    return (said.splitlines() or ["it said nothing"])[-1].removeprefix("edgectl: ")[:1000]


def growth(blocks: Path, mount: Path) -> tuple[str, int] | None:
    """(disk, partition) if there is room behind the partition, or in it behind the file system.

    :param blocks: /sys/dev/block.
    """
    number = mount.stat().st_dev
    part = blocks / f"{os.major(number)}:{os.minor(number)}"
    if not (part / "partition").exists():
        return None  # not on a partition: not a card of ours
    part = part.resolve()
    start, size = int(_text(part / "start")) * 512, int(_text(part / "size")) * 512
    seen = os.statvfs(mount)
    behind = int(_text(part.parent / "size")) * 512 - start - size
    if behind < SLACK and seen.f_blocks * seen.f_frsize > size * GROWN:
        return None
    return f"/dev/{part.parent.name}", int(_text(part / "partition"))


def _example_edited(example: Path, shipped: Path) -> bool:
    """Line ends don't count: some editors change them without being asked."""
    try:
        return example.read_bytes().split() != shipped.read_bytes().split()
    except OSError:
        return False


def _names(folder: Path) -> tuple[str, ...]:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return ()
    return tuple(n for n in names if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", n))


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_SIZE + 1)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
