#!/usr/bin/python
"""Spares an SD card: mount options in fstab, and swap that isn't on the card. Each only if asked for."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edged_card
short_description: Mount options that spare a card, and no swap on it
version_added: 0.1.0
description:
  - With I(commit) above 0, the root file system gets C(noatime) and C(commit=) in /etc/fstab and at once. The first
    fstab is kept as /etc/fstab.before-edged; with 0 it is put back, if nobody has changed the file since.
  - With I(swap) other than C(keep), swap files and swap partitions on the card are turned off, for good.
options:
  commit: {description: Seconds that ext4 may keep written data in memory; 0 = as it was., type: int, default: 0}
  swap:
    description: C(keep) leaves swap alone; with C(zram) and C(off) none is on a disk.
    type: str
    choices: [keep, zram, 'off']
    default: keep
author: The edged authors (@edged)
"""
EXAMPLES = r"""
- name: Spare the card
  edged_card:
    commit: 60
    swap: zram
"""
RETURN = r"""
done: {description: What was changed., type: list, elements: str, returned: always}
"""

FSTAB = Path("/etc/fstab")
SAVED = Path("/etc/fstab.before-edged")
SWAP_SERVICES = ("dphys-swapfile.service",)  # Raspberry Pi OS bookworm's; trixie's rpi-swap is zram already
JOURNALED = ("ext3", "ext4")


def spared(text: str, commit: int) -> str:
    """fstab with noatime and commit= for the root, every other line and the line's own columns kept. Pure."""
    lines = []
    for line in text.splitlines(keepends=True):
        found = re.match(r"(\s*[^#\s]\S*\s+)(\S+)(\s+)(\S+)(\s+)(\S+)(.*)", line, re.DOTALL)
        if found and found[2] == "/":
            options = with_options(found[6], found[4], commit)
            line = f"{found[1]}{found[2]}{found[3]}{found[4]}{found[5]}{options}{found[7]}"
        lines.append(line)
    return "".join(lines)


def with_options(options: str, kind: str, commit: int) -> str:
    """Every file system can do without access times; only ext3 and ext4 know commit=. Pure."""
    kept = [
        o for o in options.split(",") if o not in ("relatime", "strictatime", "noatime", "atime") and o[:7] != "commit="
    ]
    return ",".join([*kept, "noatime", *([f"commit={commit}"] if kind in JOURNALED else [])])


def without_swap(text: str) -> str:
    """fstab whose swap lines are comments now; those of zram stay. Pure."""
    lines = []
    for line in text.splitlines(keepends=True):
        words = line.split()
        swap = len(words) >= 3 and not words[0].startswith("#") and words[2] == "swap" and "zram" not in words[0]
        lines.append(f"#edged# {line}" if swap else line)
    return "".join(lines)


def on_disk(swaps: str) -> list[str]:
    """From /proc/swaps: what is swapped to that isn't zram. Pure."""
    names = [line.split()[0] for line in swaps.splitlines()[1:] if line.strip()]
    return [name for name in names if not name.startswith("/dev/zram")]


def write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    new.replace(path)
    os.sync()


def root_options() -> set[str]:
    words = next(w for w in map(str.split, reversed(Path("/proc/self/mounts").read_text().splitlines())) if w[1] == "/")
    return set(words[3].split(","))


def call(module: AnsibleModule, *argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        module.fail_json(msg=f"`{' '.join(argv)}` failed: {(done.stderr or done.stdout).strip()}")


def enabled(service: str) -> bool:
    return subprocess.run(["systemctl", "is-enabled", "--quiet", service], check=False).returncode == 0


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "commit": {"type": "int", "default": 0},
            "swap": {"type": "str", "choices": ["keep", "zram", "off"], "default": "keep"},
        },
        supports_check_mode=True,
    )
    commit, swap = module.params["commit"], module.params["swap"]
    before = FSTAB.read_text() if FSTAB.exists() else ""
    original = SAVED.read_text() if SAVED.exists() else before
    after = spared(before, commit) if commit else before
    after = without_swap(after) if swap != "keep" else after
    if not commit and swap == "keep" and SAVED.exists():
        after = original
    done = ["/etc/fstab"] if after != before else []
    services = [s for s in SWAP_SERVICES if swap != "keep" and enabled(s)]
    swaps = on_disk(Path("/proc/swaps").read_text()) if swap != "keep" else []
    wanted = {"noatime"} | ({f"commit={commit}"} if commit else set())
    remount = bool(commit) and any(w[2] in JOURNALED for w in fields(after)) and not wanted <= root_options()
    done += [*services, *swaps, *(["the root's mount options"] if remount else [])]
    if not module.check_mode:
        if after != before:
            if not SAVED.exists():
                write(SAVED, before)
            write(FSTAB, after)
        if after == original and not commit and swap == "keep":
            SAVED.unlink(missing_ok=True)
        for service in services:
            call(module, "systemctl", "disable", "--now", service)
        for place in on_disk(Path("/proc/swaps").read_text()) if swaps else []:
            call(module, "swapoff", place)
        if remount:
            call(module, "mount", "-o", f"remount,{','.join(sorted(wanted))}", "/")
    diff = {"before": before, "after": after, "before_header": str(FSTAB), "after_header": str(FSTAB)}
    module.exit_json(changed=bool(done), done=done, diff=diff)


def fields(fstab: str) -> list[list[str]]:
    """The root's entries."""
    words = [line.split() for line in fstab.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [w for w in words if len(w) >= 4 and w[1] == "/"]


if __name__ == "__main__":
    main()
