"""What a layer's files should be: made while they are written, compared when a power cut may have spoiled them.

A list lies beside its layer and reaches the disk with it. It is a checksum (CRC-32), not a proof: it finds what a disk
lost or mixed up, at a tenth of the cost of a digest on a board without instructions for SHA-256. Whoever could forge a
file with the same checksum has root on this node already; what came from outside was verified by its digest.

    edged-files 1 NUL
    <kind> SP <size> SP <crc, 8 hex> SP <path> NUL      for each entry, as the layer has it
    end SP <entries> SP <crc of all before, 8 hex> NUL

Kinds: f a file, l a symbolic link (the crc is its target's), d a folder, o one that hides what is below (opaque),
w a whiteout, x anything else, which only has to be there (a hard link, a device). Owners, modes and attributes are not
compared: they live in the file system's own journal.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 256 << 10
OPAQUE_XATTR = "trusted.overlay.opaque"
_MAGIC = b"edged-files 1\0"
_LONGEST_RECORD = 8192  # PATH_MAX and what stands before it


def beside(folder: Path) -> Path:
    """Where the list of a layer lies that is still in a scratch folder."""
    return folder.with_name(folder.name + ".files")


class Recorder:
    """Writes a list. Of two entries with one path only one exists in the end: then `rebuild` instead of `finish`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begin()

    def _begin(self) -> None:
        self._crc, self._count = zlib.crc32(_MAGIC), 0
        self._file.write(_MAGIC)

    def add(self, kind: str, path: bytes, size: int = 0, crc: int = 0) -> None:
        record = b"%b %d %08x %b\0" % (kind.encode(), size, crc, path)
        self._crc, self._count = zlib.crc32(record, self._crc), self._count + 1
        self._file.write(record)

    def finish(self) -> None:
        self._file.write(b"end %d %08x\0" % (self._count, self._crc))
        self._file.flush()

    def rebuild(self, folder: Path) -> None:
        """Start again, from what is in `folder` now."""
        self._file.seek(0)
        self._file.truncate()
        self._begin()
        root = os.fsencode(folder)
        for place, names, files in os.walk(root):
            below = place[len(root) + 1 :]
            for name in names + files:
                self._add_existing(os.path.join(place, name), os.path.join(below, name))  # noqa: PTH118 (bytes)
        self.finish()

    def _add_existing(self, full: bytes, path: bytes) -> None:
        s = os.lstat(full)
        if stat.S_ISREG(s.st_mode):
            self.add("f", path, *_sum(full))
        elif stat.S_ISLNK(s.st_mode):
            target = os.readlink(full)  # noqa: PTH115 (bytes)
            self.add("l", path, len(target), zlib.crc32(target))
        elif stat.S_ISDIR(s.st_mode):
            self.add("o" if _is_opaque(full) else "d", path)
        else:
            self.add("w" if _is_whiteout(s) else "x", path)


def compare(folder: Path, listing: Path, progress: Callable[[int], None] = lambda _: None) -> str:
    """What is wrong with the layer in `folder`, in words; "" if all of it is as it was written. Never raises OSError.

    :param progress: called with the number of bytes read, now and then.
    """
    root = os.fsencode(folder)
    try:
        for kind, size, crc, path in _records(listing):
            if wrong := _look(os.path.join(root, path), kind, size, crc, progress):  # noqa: PTH118 (bytes)
                return f"{os.fsdecode(path)} {wrong}"
    except OSError as e:
        return f"the list of its files cannot be read: {e.strerror}"
    except ValueError as e:
        return f"the list of its files is damaged: {e}"
    return ""


def _look(full: bytes, kind: str, size: int, crc: int, progress: Callable[[int], None]) -> str:
    try:
        s = os.lstat(full)
        if not _is_of_kind(full, s, kind):
            return "is something else than it was"
        if kind == "l" and zlib.crc32(os.readlink(full)) != crc:  # noqa: PTH115 (bytes)
            return "leads elsewhere than it did"
        if kind != "f":
            return ""
        if s.st_size != size:
            return f"has {s.st_size} bytes instead of {size}"
        return "" if _sum(full, progress)[1] == crc else "has other content than it had"
    except OSError as e:
        return f"cannot be read: {e.strerror}"


def _is_of_kind(full: bytes, s: os.stat_result, kind: str) -> bool:
    match kind:
        case "f":
            return stat.S_ISREG(s.st_mode)
        case "l":
            return stat.S_ISLNK(s.st_mode)
        case "d":
            return stat.S_ISDIR(s.st_mode)
        case "o":
            return stat.S_ISDIR(s.st_mode) and _is_opaque(full)
        case "w":
            return _is_whiteout(s)
    return True


def _sum(full: bytes, progress: Callable[[int], None] = lambda _: None) -> tuple[int, int]:
    """Length and CRC-32 of a file."""
    size = crc = 0
    fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while data := os.read(fd, CHUNK):
            size, crc = size + len(data), zlib.crc32(data, crc)
            progress(len(data))
    finally:
        os.close(fd)
    return size, crc


def _records(listing: Path) -> Iterator[tuple[str, int, int, bytes]]:
    """:raises ValueError: it is not what was written."""
    with listing.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it does not begin like one")
        crc, count, rest = zlib.crc32(_MAGIC), 0, b""
        while True:
            while b"\0" not in rest and len(rest) <= _LONGEST_RECORD and (data := file.read(CHUNK)):
                rest += data
            record, end, rest = rest.partition(b"\0")
            if not end:
                raise ValueError("it ends early")
            if record.startswith(b"end "):
                if record != b"end %d %08x" % (count, crc):
                    raise ValueError("its checksum is wrong")
                return
            crc, count = zlib.crc32(record + b"\0", crc), count + 1
            kind, size, digits, path = record.split(b" ", 3)
            yield kind.decode("ascii", "replace"), int(size), int(digits, 16), path


def _is_whiteout(s: os.stat_result) -> bool:
    return stat.S_ISCHR(s.st_mode) and s.st_rdev == 0


def _is_opaque(full: bytes) -> bool:
    try:
        return os.getxattr(full, OPAQUE_XATTR, follow_symlinks=False) == b"y"
    except OSError:
        return False
