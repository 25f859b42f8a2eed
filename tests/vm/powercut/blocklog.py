"""What a card keeps of what it was told to write, when the power goes.

The emulator's writes end in the host's page cache, so killing it alone loses nothing that the guest has issued. A card
is not so kind: what came after the last flush may be there or not, in any combination, and in parts. qemu's
`blklogwrites` driver keeps every write and every flush in order, in the format of the kernel's dm-log-writes
(Documentation/admin-guide/device-mapper/log-writes.rst), from which such a disk can be made:

    everything before the last flush is there; of what came after, the dice decide, page by page.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

MAGIC = 0x6A736677736872
SUPER = struct.Struct("<QQQI")  # magic, version, entries, bytes of a sector
ENTRY = struct.Struct("<QQQQ")  # first sector, sectors, flags, bytes of data where they aren't the sectors'
FLUSH, FUA, DISCARD = 1, 2, 4
PAGE = 4096  # what flash programs as one
COPY = 1 << 20


class Written(NamedTuple):
    """One entry: `length` bytes at `offset` of the disk; they are at `place` of the log. A mere flush has length 0."""

    offset: int
    length: int
    flags: int
    place: int


class Piece(NamedTuple):
    """Bytes of the log that reach the disk."""

    offset: int
    length: int
    place: int


class Loss(NamedTuple):
    """What became of the writes after the last flush, in numbers for the table."""

    unflushed: int
    lost: int
    torn: int


def read(log: Path) -> list[Written]:
    """All entries that are whole, in order. Empty where the log has a hole: then it says nothing about the end."""
    with log.open("rb") as file:
        magic, version, _, sector = SUPER.unpack(file.read(SUPER.size))
        assert (magic, version) == (MAGIC, 1), f"{log} is no log of writes"
        fd, at = file.fileno(), sector
        end = os.fstat(fd).st_size
        found: list[Written] = []
        while at + ENTRY.size <= end:
            first, count, flags, _ = ENTRY.unpack(os.pread(fd, ENTRY.size, at))
            length = 0 if flags & DISCARD else count * sector
            if not (count or flags):
                return [] if _anything_after(log, at) else found
            if at + sector + length > end:  # the one that the kill has cut off
                break
            found.append(Written(first * sector, length, flags, at + sector))
            at += sector + length
        return found


def _anything_after(log: Path, place: int) -> bool:
    fd = os.open(log, os.O_RDONLY)
    try:
        try:
            data = os.lseek(fd, place, os.SEEK_DATA)
        except OSError:
            return False
        while data < os.fstat(fd).st_size and (piece := os.pread(fd, COPY, data)):
            if any(piece):
                return True
            data += len(piece)
        return False
    finally:
        os.close(fd)


def after_the_cut(entries: Sequence[Written], dice: random.Random, share: float) -> tuple[list[Piece], Loss]:
    """What is on the disk afterwards.

    :param share: of the unflushed writes that is lost; a tenth of the others is torn, page by page.
    """
    flushed = max((n for n, entry in enumerate(entries) if entry.flags & FLUSH), default=-1)
    pieces: list[Piece] = []
    unflushed = lost = torn = 0
    for n, entry in enumerate(entries):
        if not entry.length:
            continue
        whole = Piece(entry.offset, entry.length, entry.place)
        if n <= flushed or entry.flags & FUA:
            pieces.append(whole)
            continue
        unflushed += 1
        if dice.random() < share:
            lost += 1
        elif share and entry.length > PAGE and dice.random() < 0.1:
            torn += 1
            pieces += (page for page in _pages(whole) if dice.random() < 0.5)
        else:
            pieces.append(whole)
    return pieces, Loss(unflushed, lost, torn)


def _pages(piece: Piece) -> Iterator[Piece]:
    for at in range(0, piece.length, PAGE):
        yield Piece(piece.offset + at, min(PAGE, piece.length - at), piece.place + at)


def lay(log: Path, disk: Path, pieces: Iterable[Piece]) -> None:
    """Write the pieces to the disk, in their order."""
    with log.open("rb") as source, disk.open("r+b") as target:
        for piece in pieces:
            _copy(source.fileno(), piece.place, target.fileno(), piece.offset, piece.length)


def _copy(source: int, place: int, target: int, offset: int, length: int) -> None:
    while length:
        data = os.pread(source, min(length, COPY), place)
        assert data, "the file ends early"
        os.pwrite(target, data, offset)
        place, offset, length = place + len(data), offset + len(data), length - len(data)
