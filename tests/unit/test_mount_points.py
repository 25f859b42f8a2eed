"""What an image lacks of its mount points is made in a layer above it, as crun would have made it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.runtime import mount_points


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The daemon's."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def layers(tmp_path: Path) -> list[str]:
    """Two layers; the upper one has the newer /etc."""
    for path in ("low/etc", "low/proc", "low/sys", "low/dev", "low/var/lib", "high/etc", "high/data"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "low/etc/hosts").touch()
    (tmp_path / "low/etc").chmod(0o700)
    (tmp_path / "high/etc").chmod(0o2751)
    (tmp_path / "low/link").symlink_to("etc")
    return [str(tmp_path / "low"), str(tmp_path / "high")]


def made(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o7777 for path in folder.rglob("*")}


def test_only_what_is_missing_is_made_and_the_way_to_it_is_the_images(tmp_path: Path, layers: list[str]) -> None:
    (tmp_path / "source-file").touch()
    file, folder = str(tmp_path / "source-file"), str(tmp_path)
    binds = [(file, "/etc/hosts"), (file, "/etc/resolv.conf"), (folder, "/data"), (folder, "/srv/a/b")]
    assert mount_points.make(layers, binds, str(tmp_path / "new"))
    assert made(tmp_path / "new") == {
        "etc": 0o2751,
        "etc/resolv.conf": 0o644,
        "srv": 0o755,
        "srv/a": 0o755,
        "srv/a/b": 0o755,
    }


def test_where_nothing_is_missing_nothing_is_made(tmp_path: Path, layers: list[str]) -> None:
    assert not mount_points.make(layers, [(str(tmp_path), "/data"), (str(tmp_path), "/")], str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_link_on_the_way_or_a_file_is_left_to_crun(tmp_path: Path, layers: list[str]) -> None:
    binds = [(str(tmp_path), "/link/x"), (str(tmp_path), "/etc/hosts/x"), (str(tmp_path), "/../x")]
    assert not mount_points.make(layers, binds, str(tmp_path / "new"))


def test_many_layers_leave_no_room_for_one_more(tmp_path: Path, layers: list[str]) -> None:
    assert not mount_points.make(layers * 100, [(str(tmp_path), "/new")], str(tmp_path / "new"))


def test_an_image_of_nothing_but_a_program_gets_what_the_runtime_needs(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    assert mount_points.make([str(tmp_path / "layer")], [], str(tmp_path / "new"))
    assert sorted(made(tmp_path / "new")) == ["dev", "proc", "sys"]
