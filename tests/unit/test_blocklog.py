"""What a card keeps at a cut, from a log of writes as qemu's blklogwrites writes it."""

from __future__ import annotations

import random
from pathlib import Path

from tests.vm.powercut.blocklog import ENTRY, FLUSH, FUA, MAGIC, PAGE, SUPER, Watch, Written, after_the_cut, lay, read

SECTOR = 512


def logged(*entries: tuple[int, bytes, int]) -> bytes:
    """(byte offset, data, flags) of each."""
    out = SUPER.pack(MAGIC, 1, 0, SECTOR).ljust(SECTOR, b"\0")
    for offset, data, flags in entries:
        out += ENTRY.pack(offset // SECTOR, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0") + data
    return out


def page(byte: bytes) -> bytes:
    return byte * PAGE


def test_a_log_is_read_back_entry_by_entry(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(logged((0, page(b"a"), 0), (0, b"", FLUSH), (PAGE, page(b"b"), FUA)))
    assert read(log) == [
        Written(0, PAGE, 0, 2 * SECTOR),
        Written(0, 0, FLUSH, 3 * SECTOR + PAGE),
        Written(PAGE, PAGE, FUA, 4 * SECTOR + PAGE),
    ]


def test_an_entry_that_was_cut_off_is_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(logged((0, page(b"a"), 0), (PAGE, page(b"b"), 0))[:-1])
    assert [entry.offset for entry in read(log)] == [0]


def test_a_log_with_a_hole_says_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    whole = logged((0, page(b"a"), 0), (PAGE, page(b"b"), 0), (2 * PAGE, page(b"c"), 0))
    second = 2 * SECTOR + PAGE
    log.write_bytes(whole[:second] + bytes(SECTOR + PAGE) + whole[second + SECTOR + PAGE :])
    assert read(log) == []


def test_a_log_is_followed_while_it_grows_and_unflushed_writes_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"")
    watch = Watch(log)
    assert list(watch.further()) == []
    writes = [(n * PAGE, page(b"a"), 0) for n in range(3)]
    counts = []
    for entries in (
        (),
        writes[:1],
        writes,
        [*writes, (0, page(b"f"), FUA)],
        [*writes, (0, page(b"f"), FUA), (0, b"", FLUSH)],
    ):
        log.write_bytes(logged(*entries))
        counts.append((len(list(watch.further())), watch.unflushed))
    assert counts == [(0, 0), (1, 1), (2, 3), (1, 3), (1, 0)]


def test_what_was_flushed_is_kept_whatever_the_dice_say() -> None:
    entries = [
        Written(0, PAGE, 0, 0),
        Written(0, 0, FLUSH, 0),
        Written(PAGE, PAGE, FUA, 0),
        Written(2 * PAGE, PAGE, 0, 0),
    ]
    for seed in range(50):
        pieces, loss = after_the_cut(entries, random.Random(seed), 1.0)
        assert [piece.offset for piece in pieces] == [0, PAGE]
        assert loss == (1, 1, 0)


def test_a_mere_kill_keeps_everything_in_its_order() -> None:
    entries = [Written(0, PAGE, 0, 7), Written(0, PAGE, 0, 9)]
    pieces, loss = after_the_cut(entries, random.Random(1), 0.0)
    assert [piece.place for piece in pieces] == [7, 9]
    assert loss == (2, 0, 0)


def test_what_came_after_the_last_flush_is_lost_in_parts_and_torn_by_pages() -> None:
    entries = [Written(n * 4 * PAGE, 4 * PAGE, 0, n * 4 * PAGE) for n in range(300)]
    pieces, loss = after_the_cut(entries, random.Random(3), 0.5)
    assert 100 < loss.lost < 200
    assert loss.torn > 3
    assert all(piece.length in (PAGE, 4 * PAGE) for piece in pieces)
    assert after_the_cut(entries, random.Random(3), 0.5) == (pieces, loss), "the same dice, the same card"


def test_pieces_are_laid_over_each_other_on_the_disk(tmp_path: Path) -> None:
    log, disk = tmp_path / "log", tmp_path / "disk"
    log.write_bytes(logged((0, page(b"a"), 0), (PAGE, page(b"b"), 0), (0, page(b"c"), 0)))
    disk.write_bytes(bytes(4 * PAGE))
    pieces, _ = after_the_cut(read(log), random.Random(0), 0.0)
    lay(log, disk, pieces)
    assert disk.read_bytes() == page(b"c") + page(b"b") + bytes(2 * PAGE)
