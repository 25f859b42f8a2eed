"""Debian's part of an image: a tree that mmdebstrap makes, kept as a tar below .cache/ for a week.

    .cache/node-image/<hash>/{tree.tar, epoch}

Nothing of ours is in it, so that a change of the project needs no new one: another architecture's takes a quarter of
an hour under emulation.
"""

from __future__ import annotations

import email.utils
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from images.node.boards import Board, packages
from images.node.programs import BuildError, run

KEPT = 7 * 86400.0  # seconds: after that, Debian's updates are wanted
OPTIONS = (
    '--aptopt=APT::Install-Recommends "false"',
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",  # licences must come along
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
# The dates that the archive signed: nothing in it is newer.
DATES = "grep -h '^Date:' \"$1\"/var/lib/apt/lists/*InRelease"
# Times inside an initrd say nothing to anybody; one that never changes makes the initrd the same whenever it is built.
EPOCH_OF_INITRD = 1


class Tree(NamedTuple):
    """:ivar epoch: seconds since 1970, the newest date of the Debian archive it was made from."""

    tar: Path
    epoch: int


def cache_key(board: Board, release: str) -> str:
    parts = (release, board.arch, *packages(board), *board.components, *OPTIONS)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def newest(dates: str) -> int:
    """Of the lines "Date: Thu, 26 Nov 2026 02:14:46 UTC" of some InRelease files."""
    lines = [line.partition(":")[2].strip() for line in dates.splitlines() if line.startswith("Date:")]
    if not lines:
        raise BuildError("mmdebstrap's tree has no InRelease file: the archive's date is unknown")
    return max(int(email.utils.parsedate_to_datetime(line).timestamp()) for line in lines)


def debian(board: Board, release: str, cache: Path, fresh: bool, now: float) -> Tree:
    """The tree, from the cache if it is there and young. :param fresh: make it anew whatever is there."""
    folder = cache / cache_key(board, release)
    made = folder / "epoch"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds it made
        if fresh or not made.exists() or now - made.stat().st_mtime > KEPT:
            _make(board, release, folder)
        return Tree(folder / "tree.tar", int(made.read_text()))


def _make(board: Board, release: str, folder: Path) -> None:
    cache = folder.parent
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as name:
        work = Path(name)
        epoch = _bootstrap(board, release, work)
        (work / "epoch").write_text(f"{epoch}\n")
        (work / "result").mkdir()
        for file in ("tree.tar", "epoch"):
            (work / file).rename(work / "result" / file)
        if folder.exists():  # who has it open reads on; it goes with the folder of this build
            folder.rename(work / "old")
        (work / "result").rename(folder)


def _bootstrap(board: Board, release: str, work: Path) -> int:
    """Leaves tree.tar in `work`. The archive and its keys are those that mmdebstrap knows for Debian; of this machine's
    apt only the way to get there is used, and taken out of the tree again."""
    acquire = run("apt-config", "dump", "Acquire").splitlines() if shutil.which("apt-config") else []
    (work / "apt.conf").write_text("".join(f"{line}\n" for line in acquire if "IndexTargets" not in line))
    tree = work / "tree"
    run(
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", f"--arch={board.arch}"),
        *(f"--include={','.join(packages(board))}", f"--components={','.join(board.components)}"),
        f"--aptopt={work}/apt.conf",
        *OPTIONS,
        f"--customize-hook={DATES} > {work}/dates",
        '--customize-hook=rm "$1/etc/apt/apt.conf.d/99mmdebstrap"',
        *("--skip=check/empty", release, os.fspath(tree)),
        epoch=EPOCH_OF_INITRD,
        cwd=work,
    )
    epoch = newest((work / "dates").read_text())
    # No device nodes: the kernel makes them, and whoever unpacks the tree may not.
    run(
        *("tar", "-C", os.fspath(tree), "--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=*"),
        *(f"--mtime=@{epoch}", "--clamp-mtime", "--one-file-system", "--exclude=./dev/*"),
        *("-cf", os.fspath(work / "tree.tar"), "."),
    )
    shutil.rmtree(tree)
    return epoch


def unpack(tree: Tree, folder: Path) -> None:
    folder.mkdir(mode=0o755)
    argv = ("tar", "-C", os.fspath(folder), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", tree.tar)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{tree.tar} can't be unpacked; remove its folder and build again: {done.stderr[-1000:]}")
