"""What a pod uses of the disk, measured in pieces and only when it may have changed."""

from __future__ import annotations

import os
from pathlib import Path

from edged.runtime import storage
from edged.runtime.storage import LAYERS, Storage

KIB = 1024


def write(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\1" * size)


def total(room: Storage, pod: str) -> int:
    return sum(room.used(pod).values())


def test_volumes_and_layers_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "uid-1/volumes/data/a/b", 64 * KIB)
    write(tmp_path / "uid-1/volumes/cache/c", 8 * KIB)
    write(tmp_path / "uid-1/main-0/upper/etc/x", 16 * KIB)
    used = Storage(tmp_path).used("uid-1")
    assert used.keys() == {"data", "cache", LAYERS}
    assert 64 * KIB <= used["data"] <= 64 * KIB + 3 * 4096
    assert 8 * KIB <= used["cache"] <= 8 * KIB + 2 * 4096
    assert 16 * KIB <= used[LAYERS] <= 16 * KIB + 6 * 4096


def test_a_pod_that_has_written_nothing_uses_nothing(tmp_path: Path) -> None:
    assert Storage(tmp_path).used("uid-1") == {}


def test_holes_count_nothing_and_hard_links_count_once(tmp_path: Path) -> None:
    write(tmp_path / "uid-1/volumes/data/file", 256 * KIB)
    for number in range(5):
        os.link(tmp_path / "uid-1/volumes/data/file", tmp_path / f"uid-1/volumes/data/link{number}")
    with (tmp_path / "uid-1/volumes/data/hole").open("wb") as hole:
        hole.truncate(1 << 30)
    assert total(Storage(tmp_path), "uid-1") <= 256 * KIB + 8 * 4096


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", 512 * KIB)
    (tmp_path / "uid-1/volumes/data").mkdir(parents=True)
    (tmp_path / "uid-1/volumes/data/link").symlink_to(tmp_path)
    (tmp_path / "uid-1/volumes/loop").symlink_to(tmp_path / "uid-1")
    assert total(Storage(tmp_path), "uid-1") < 64 * KIB


def test_many_files_are_counted_piece_by_piece_and_never_too_high(tmp_path: Path) -> None:
    for number in range(300):
        write(tmp_path / f"uid-1/volumes/data/{number}", 4096)
    room, walk = Storage(tmp_path), storage._Walk(tmp_path / "uid-1", 0)
    whole, seen = total(room, "uid-1"), []
    while not walk.advance(50):
        seen.append(sum(walk.parts.values()))
    assert len(seen) == 6
    assert seen == sorted(seen)
    assert all(size <= whole for size in seen)
    assert sum(walk.parts.values()) == whole


def test_it_is_measured_anew_only_when_the_disk_has_changed(tmp_path: Path) -> None:
    free = 1 << 30
    room = Storage(tmp_path, lambda folder: free)
    write(tmp_path / "uid-1/volumes/data/a", 4 * KIB)
    before = total(room, "uid-1")
    write(tmp_path / "uid-1/volumes/data/b", 8 << 20)
    assert total(room, "uid-1") == before
    free -= 8 << 20
    assert total(room, "uid-1") >= before + (8 << 20)
    free -= storage.CHANGE // 2
    (tmp_path / "uid-1/volumes/data/b").unlink()
    assert total(room, "uid-1") >= before + (8 << 20)
    room.forget("uid-1")
    assert total(room, "uid-1") == before
