"""All device files of the machine, for privileged containers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from edged.runtime.bundle import Device

NOT_FOR_CONTAINERS = ("pts", "shm", "mqueue", "fd", ".udev", ".lxc")  # they have these of their own
MADE_BY_CRUN = ("console", "full", "null", "ptmx", "random", "tty", "urandom", "zero")
MOST = 4096  # a board has some two hundred


def everything(folder: str = "/dev") -> tuple[Device, ...]:
    """As they are now; what is plugged in later isn't there."""
    found: list[Device] = []
    for device in _walk(folder, "/dev"):
        if len(found) >= MOST:
            break
        found.append(device)
    return tuple(found)


def with_all(claimed: Sequence[Device]) -> tuple[Device, ...]:
    """What a privileged container claims, and everything else."""
    taken = {d.path for d in claimed}
    return (*claimed, *(d for d in everything() if d.path not in taken))


def _walk(folder: str, inside: str) -> Iterator[Device]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return
    for entry in entries:
        path = f"{inside}/{entry.name}"
        try:
            told = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # unplugged this moment
        if stat.S_ISDIR(told.st_mode):
            if inside != "/dev" or entry.name not in NOT_FOR_CONTAINERS:
                yield from _walk(entry.path, path)
        elif (stat.S_ISCHR(told.st_mode) or stat.S_ISBLK(told.st_mode)) and (
            inside != "/dev" or entry.name not in MADE_BY_CRUN
        ):
            yield Device(
                path,
                "b" if stat.S_ISBLK(told.st_mode) else "c",
                os.major(told.st_rdev),
                os.minor(told.st_rdev),
                stat.S_IMODE(told.st_mode),
                told.st_uid,
                told.st_gid,
            )
