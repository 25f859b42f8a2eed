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
    watch = Watch(log)
    found = list(watch.further())
    return [] if _anything_after(log, watch.place) else found


class Watch:
    """Follows a log, also one that is being written.

    :ivar place: where the next entry begins, or what the emulator has not finished yet.
    :ivar unflushed: how many writes there are since the last flush, as far as it was followed.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self.place = 0
        self.unflushed = 0

    def further(self) -> Iterator[Written]:
        """The entries that are there by now and were not at the last call."""
        with self._log.open("rb") as file:
            head = file.read(SUPER.size)
            if len(head) < SUPER.size:
                return
            magic, version, _, sector = SUPER.unpack(head)
            assert (magic, version) == (MAGIC, 1), f"{self._log} is no log of writes"
            self.place = self.place or sector
            fd, end = file.fileno(), os.fstat(file.fileno()).st_size
            while self.place + ENTRY.size <= end:
                first, count, flags, _ = ENTRY.unpack(os.pread(fd, ENTRY.size, self.place))
                length = 0 if flags & DISCARD else count * sector
                data = self.place + sector
                if not (count or flags) or data + length > end:  # not written yet, or cut off
                    return
                self.place = data + length
                if flags & FLUSH:
                    self.unflushed = 0
                elif length and not flags & FUA:
                    self.unflushed += 1
                yield Written(first * sector, length, flags, data)


def _anything_after(log: Path, place: int) -> bool:
    """Whether the log goes on behind an entry that was never written. One that the end has cut off is no such."""
    with log.open("rb") as file:
        fd, end = file.fileno(), os.fstat(file.fileno()).st_size
        if any(os.pread(fd, ENTRY.size, place)):
            return False
        try:
            data = os.lseek(fd, place, os.SEEK_DATA)
        except OSError:
            return False
        while data < end and (piece := os.pread(fd, COPY, data)):
            if any(piece):
                return True
            data += len(piece)
        return False


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
