"""A disk that loses its power at a random byte of a pull or an import, as ext4 would find it at the next boot.

The file system is told to stop as if the power had gone (EXT4_IOC_SHUTDOWN without flushing its journal, what xfstests
calls "godown -f"): everything that had not reached the disk is lost, and the next mount replays the journal.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edged.images import filelist
from edged.images.importer import import_file
from edged.images.platforms import parse_platform
from edged.images.pull import pull
from edged.images.registry import PullConfig
from edged.images.store import ImageStore, layer_name
from tests.fakes.oci_layout import layer, member, one_image
from tests.fakes.registries import Link, ScriptedRegistry

EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
AMD64 = parse_platform("linux/amd64")
NAME = "localhost/a:1"
PATIENCE = 180.0
CUTS = 6


def loops_work() -> bool:
    done = subprocess.run(["losetup", "--find"], capture_output=True)
    return done.returncode == 0


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("mkfs.ext4") is None or not loops_work(), reason="needs mkfs.ext4 and loop devices"
    ),
]


class Disk:
    """An ext4 file system in a file."""

    def __init__(self, folder: Path) -> None:
        self._image, self.path = folder / "0.img", folder / "mounted"
        self.path.mkdir()
        with self._image.open("wb") as f:
            f.truncate(256 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1", self._image], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)

    def cut(self) -> None:
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def boot(self) -> None:
        """Mount what has reached the disk. A copy of it: some other process's mount namespace may have a copy of the
        mount, and while that is there the kernel gives the dead file system to whoever mounts the same file."""
        self.unmount()
        dead = self._image
        self._image = dead.with_name(f"{int(dead.stem) + 1}.img")
        subprocess.run(["cp", "--sparse=always", dead, self._image], check=True)
        dead.unlink()
        self.mount()

    def unmount(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(["umount", self.path], capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def used(self) -> int:
        return shutil.disk_usage(self.path).used


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk.path], capture_output=True)


def parts(version: int) -> list[bytes]:
    dice = random.Random(version)
    return [
        layer(*(member(f"l{n}f{i}", bytes([version]) + dice.randbytes(20_000)) for i in range(50))) for n in range(3)
    ]


def check(root: Path, reference: str) -> int:
    """What is listed is whole; returns the version that the image has, 0 where there is none."""
    store = ImageStore(root)
    for diff_id in store.read_index().layers:
        name = layer_name(diff_id)
        assert filelist.compare(root / "layers" / name, root / "lists" / name) == ""
    assert store.damage == ()
    image = store.resolve(reference)
    if image is None:
        return 0
    [version] = {Path(folder, f"l{n}f{i}").read_bytes()[0] for n, folder in enumerate(image.layers) for i in range(50)}
    return version


def run_and_cut(disk: Disk, command: list[str], far_enough: Callable[[], bool]) -> None:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + PATIENCE
        while child.poll() is None and not far_enough() and time.monotonic() < deadline:
            time.sleep(0.001)
        disk.cut()
        child.kill()
    disk.boot()


def test_the_power_goes_at_random_bytes_of_a_pull_and_what_is_there_is_whole(disk: Disk) -> None:
    dice, root = random.Random(8), disk.path / "images"
    with ScriptedRegistry() as registry, Link(registry.address) as link:
        reference = f"{link.address}/a:1"
        registry.tag("1", registry.layout.image(parts(1)))
        pull(root, reference, PullConfig(), machine=AMD64)
        known = {1}
        for cut in range(CUTS):
            version = cut + 2
            registry.tag("1", registry.layout.image(parts(version)))
            goal = link.passed + dice.randrange(3_100_000)
            link.per_second = 20_000_000
            command = [sys.executable, "-m", "edged.images", "pull", "--root", str(root), "--platform", "linux/amd64"]
            run_and_cut(disk, [*command, reference], lambda goal=goal: link.passed >= goal)  # type: ignore[misc]
            found = check(root, reference)
            assert found in known | {version}, f"cut {cut}: neither the old image nor the new"
            link.per_second = 0
            pull(root, reference, PullConfig(), machine=AMD64)
            assert check(root, reference) == version
            assert len(list((root / "layers").iterdir())) == 3
            assert not list((root / "tmp").iterdir())
            known = {version}


def test_the_power_goes_at_random_bytes_of_an_import_and_what_is_there_is_whole(disk: Disk, tmp_path: Path) -> None:
    dice, root = random.Random(9), disk.path / "images"
    archives = {v: one_image(NAME, *parts(v)).archive(tmp_path / f"{v}.tar") for v in range(1, CUTS + 2)}
    import_file(root, archives[1], machine=AMD64)
    for version in range(2, CUTS + 2):
        goal = disk.used() + dice.randrange(4_000_000)
        command = [sys.executable, "-m", "edged.images", "import", "--root", str(root), "--platform", "linux/amd64"]
        run_and_cut(disk, [*command, str(archives[version])], lambda goal=goal: disk.used() >= goal)  # type: ignore[misc]
        assert check(root, NAME) in (version - 1, version)
        import_file(root, archives[version], machine=AMD64)
        assert check(root, NAME) == version
        assert len(list((root / "layers").iterdir())) == 3
        assert not list((root / "tmp").iterdir())
