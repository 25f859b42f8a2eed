"""What pods use of the node's disk: emptyDirs and the layers that their containers write to.

Measured only when asked, and only when it may have changed: while the file system's free space stays about the same
(one statvfs) the last answer holds. A measurement goes on where the last one stopped, a piece at each call, so that a
pod with a million files makes nobody wait; until it is complete the answer is a lower bound, so nobody is evicted for
what isn't there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edged.model import Value
from edged.runtime import quota

LAYERS = ""  # the part that belongs to no volume
CHANGE = 1 << 20  # bytes by which the free space may differ before it is measured anew
PIECE = 4000  # files and folders looked at in one call: some 20 ms on a board
HARD_LINKS = 100_000  # inodes remembered so that each counts once; further ones count each time


class Used(Value, frozen=True):
    """Bytes of each part: volume name -> bytes, LAYERS for all else; `free` is what the disk had left then."""

    parts: Mapping[str, int]
    free: int


class _Walk:
    """A measurement that is under way."""

    def __init__(self, folder: Path, free: int) -> None:
        self.free = free
        self.parts: dict[str, int] = {LAYERS: 0}
        self._links: set[int] = set()
        self._steps = self._all(os.fspath(folder))

    def advance(self, count: int) -> bool:
        """True when it is complete."""
        return any(next(self._steps, None) is None for _ in range(count))

    def _all(self, folder: str) -> Iterator[bool]:
        for entry in _entries(folder):
            if entry.name == "volumes":
                for volume in _entries(entry.path):
                    self.parts[volume.name] = 0
                    yield from self._below(volume, volume.name)
            else:
                yield from self._below(entry, LAYERS)

    def _below(self, top: os.DirEntry[str], part: str) -> Iterator[bool]:
        waiting = [top]
        while waiting:
            entry = waiting.pop()
            try:
                seen = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError:  # it is gone
                continue
            if is_folder:
                waiting += _entries(entry.path)
            elif seen.st_nlink > 1:
                if seen.st_ino in self._links:
                    continue
                if len(self._links) < HARD_LINKS:
                    self._links.add(seen.st_ino)
            self.parts[part] += seen.st_blocks * 512
            yield True


class Storage:
    """:param writable: the folder that holds the pods' parts of the disk, by uid.
    :param free: bytes that the file system of a folder has left. :raises OSError: there is no such folder.
    """

    def __init__(self, writable: Path, free: Callable[[Path], int] | None = None) -> None:
        self._writable = writable
        self._free = free or free_bytes
        self._known: dict[str, Used] = {}
        self._walks: dict[str, _Walk] = {}

    def used(self, pod_uid: str) -> Mapping[str, int]:
        """Bytes by volume; LAYERS stands for what its containers wrote to their roots."""
        folder = self._writable / pod_uid
        try:
            free = self._free(folder)
        except OSError:  # most pods write nothing to the disk
            self.forget(pod_uid)
            return {}
        known, walk = self._known.get(pod_uid), self._walks.get(pod_uid)
        if walk is None:
            if known is not None and abs(free - known.free) < CHANGE:
                return known.parts
            walk = self._walks[pod_uid] = _Walk(folder, free)
        if walk.advance(PIECE):
            del self._walks[pod_uid]
            self._known[pod_uid] = known = Used(self._with_quotas(folder, walk.parts), walk.free)
            return known.parts
        before = known.parts if known is not None else {}
        return {part: max(size, before.get(part, 0)) for part, size in walk.parts.items()}

    def forget(self, pod_uid: str) -> None:
        self._known.pop(pod_uid, None)
        self._walks.pop(pod_uid, None)

    def _with_quotas(self, folder: Path, parts: Mapping[str, int]) -> dict[str, int]:
        """The kernel knows better where it counts itself."""
        counted = {name: quota.used(folder / "volumes" / name) for name in parts if name != LAYERS}
        return {name: size if counted.get(name) is None else counted[name] or 0 for name, size in parts.items()}


def free_bytes(folder: Path) -> int:
    seen = os.statvfs(folder)
    return seen.f_bfree * seen.f_frsize


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
