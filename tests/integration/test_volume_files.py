"""A folder of files that changes all at once: readers see the old or the new, whoever is cut leaves one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.runtime.volumes.content import File
from edged.runtime.volumes.files import write_files

OLD = {"a": File(b"old", 0o644), "sub/b": File(b"old", 0o600)}
NEW = {"a": File(b"new", 0o644), "c": File(b"new", 0o640)}


def seen(folder: Path) -> dict[str, bytes]:
    found = {}
    for below, _, names in os.walk(folder, followlinks=True):
        if "/.." not in below:
            found |= {os.path.relpath(f"{below}/{n}", folder): Path(below, n).read_bytes() for n in names}
    return {path: content for path, content in found.items() if not path.startswith("..")}


def inner(folder: Path) -> list[str]:
    return sorted(e.name for e in folder.iterdir() if e.name.startswith(".."))


def test_files_are_replaced_all_at_once_and_the_old_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    assert write_files(folder, OLD)
    assert seen(folder) == {"a": b"old", "sub/b": b"old"}
    assert not write_files(folder, OLD)
    assert write_files(folder, NEW)
    assert seen(folder) == {"a": b"new", "c": b"new"}
    assert inner(folder) == ["..2", "..data"]
    assert (folder / "c").stat().st_mode & 0o7777 == 0o640
    assert write_files(folder, {})
    assert seen(folder) == {}


def test_a_reader_that_opened_the_folder_never_sees_a_mixture(tmp_path: Path) -> None:
    """Through one open ..data, as Kubernetes' users are told to read."""
    folder = tmp_path / "volume"
    write_files(folder, OLD)
    fd = os.open(folder / "..data", os.O_RDONLY | os.O_DIRECTORY)
    write_files(folder, NEW)
    try:
        left = os.listdir(fd)  # noqa: PTH208 (a descriptor)
    finally:
        os.close(fd)
    assert "c" not in left


def steps(folder: Path) -> Iterator[None]:
    """What a writer that is killed may leave behind."""
    write_files(folder, OLD)
    yield
    (folder / "..2").mkdir()
    yield
    (folder / "..2/a").write_bytes(b"ha")
    yield
    (folder / "..data_tmp").symlink_to("..2")
    yield
    (folder / "..data_tmp").rename(folder / "..data")
    yield


@pytest.mark.parametrize("cut", range(1, 6))
def test_whoever_comes_after_a_cut_brings_the_new_content_and_tidies_up(tmp_path: Path, cut: int) -> None:
    folder = tmp_path / "volume"
    for _ in zip(range(cut), steps(folder), strict=False):
        pass
    write_files(folder, NEW)
    assert seen(folder) == {"a": b"new", "c": b"new"}
    assert len(inner(folder)) == 2
    write_files(folder, OLD)
    assert seen(folder) == {"a": b"old", "sub/b": b"old"}


@pytest.mark.root
def test_a_full_memory_leaves_the_old_content_in_place(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", room], check=True)
    try:
        write_files(room / "volume", OLD)
        with pytest.raises(OSError, match="No space left"):
            write_files(room / "volume", {"a": File(b"x" * (1 << 20), 0o644)})
        assert seen(room / "volume") == {"a": b"old", "sub/b": b"old"}
        assert inner(room / "volume") == ["..1", "..data"]
        write_files(room / "volume", NEW)
        assert seen(room / "volume") == {"a": b"new", "c": b"new"}
    finally:
        subprocess.run(["umount", room], check=True)


@pytest.mark.root
def test_files_belong_to_the_pods_group_and_it_may_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    write_files(folder, OLD)
    assert write_files(folder, OLD, group=4242)
    assert not write_files(folder, OLD, group=4242)
    told = (folder / "sub/b").stat()
    assert (told.st_gid, told.st_mode & 0o7777) == (4242, 0o640)
    assert ((folder / "sub").stat().st_gid, (folder / "sub").stat().st_mode & 0o7777) == (4242, 0o2755)
    assert write_files(folder, OLD, group=4243)
    assert (folder / "a").stat().st_gid == 4243


def test_the_umask_of_the_daemon_does_not_matter(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; os.umask(0o077)\n"
        "from edged.runtime.volumes.content import File; from edged.runtime.volumes.files import write_files\n"
        "write_files(Path(sys.argv[1]), {'sub/deep/b': File(b'x', 0o644)})"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "volume"], check=True)
    for part in (".", "sub", "sub/deep"):
        assert (tmp_path / "volume" / part).stat().st_mode & 0o7777 == 0o755
