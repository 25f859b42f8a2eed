"""What pods have on the disk, counted by walking (the layout is in edged.runtime.records)."""

from __future__ import annotations

import os
from pathlib import Path

from edged.model import Value

MOST_ENTRIES = 50_000  # files and folders of one pod; who has more is told too small, which evicts nobody unjustly


class StorageUse(Value, frozen=True):
    """Bytes on disk, by volume and by container (all attempts that are there)."""

    volumes: tuple[tuple[str, int], ...] = ()
    layers: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> int:
        return sum(used for _, used in (*self.volumes, *self.layers))


def measure(scratch: Path) -> StorageUse:
    """:param scratch: a pod's folder below state_dir/rw. Takes a while: not for the loop's own thread."""
    left = [MOST_ENTRIES]
    volumes = {e.name: _size(e.path, left) for e in _folders(scratch / "volumes")}
    layers: dict[str, int] = {}
    for entry in _folders(scratch):
        name, dash, attempt = entry.name.rpartition("-")
        if dash and attempt.isdecimal():
            layers[name] = layers.get(name, 0) + _size(f"{entry.path}/upper", left)
    return StorageUse(tuple(sorted(volumes.items())), tuple(sorted(layers.items())))


def disk_free(folder: Path) -> tuple[int, int]:
    """Bytes free and in all of the file system (statvfs(3)); 0, 0 where nobody can tell."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return 0, 0
    return facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _size(folder: str, left: list[int]) -> int:
    """Blocks in use, each file once for each name it has; other file systems are not entered."""
    total, waiting = 0, [folder]
    try:
        device = os.lstat(folder).st_dev
    except OSError:
        return 0
    while waiting and left[0] > 0:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    left[0] -= 1
                    facts = entry.stat(follow_symlinks=False)
                    if facts.st_dev != device or left[0] <= 0:
                        continue
                    total += facts.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue  # it has just gone, and its bytes with it
    return total
