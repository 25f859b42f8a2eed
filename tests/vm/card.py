"""A flashed card: an image of images/node/build.py, and what a person does to its boot partition elsewhere."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.vm.image import ROOT, Image
from tests.vm.machine import Machine

FAT_START = "boot"


@functools.cache
def key_pair(folder: Path) -> tuple[Path, str]:
    """A person's ssh key. :returns: the private half's file, the public half as one line."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@laptop", "-f", key], check=True)
    return key, key.with_suffix(".pub").read_text().strip()


class Flash:
    """An image as it was built. :ivar about: what FILE.json says."""

    def __init__(self, file: Path, key: Path) -> None:
        self.file = file
        self.about = json.loads(file.with_suffix(".json").read_text())
        self._key = key

    @classmethod
    def build(cls, folder: Path, key: Path, read_only_root: bool, wheels: Path) -> Flash:
        """With the probe image in it. Takes a minute."""
        probe, file = folder / "probe.tar", folder / f"{'ro' if read_only_root else 'rw'}.img"
        if not probe.exists():
            _python("images/build.py", "probe", "--output", str(probe))
        words = ("--board", "qemu-amd64", "--output", str(file), "--preload", str(probe), "--wheels", str(wheels))
        _python("images/node/build.py", *words, *(["--read-only-root"] if read_only_root else []))
        return cls(file, key)

    def card(self, folder: Path, files: dict[str, bytes]) -> Image:
        """A copy with files on its boot partition, which is not booted yet."""
        raw = folder / "card.img"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.file, raw], check=True)
        for name, content in files.items():
            self._put(raw, name, content)
        side = self.file.with_suffix
        return Image(raw, self._key, side(".vmlinuz"), side(".initrd"), "LABEL=edged-root")

    def part(self, name: str) -> tuple[int, int]:
        """(start, size) in bytes of "boot", "root" or "data" (which has grown meanwhile)."""
        place = self.about["partitions"][name]
        return int(place["start"]), int(place["size"])

    # ------------------------------------------------------------ in a card reader

    def pull(self, machine: Machine) -> Path:
        """All of the card as bytes; the machine is off."""
        assert not machine.is_on
        raw = machine.folder / "pulled.img"
        subprocess.run(["qemu-img", "convert", "-O", "raw", machine.disk, raw], check=True)
        return raw

    def read(self, machine: Machine, name: str) -> str:
        """A file on the boot partition; "" where there is none."""
        raw = self.pull(machine)
        done = subprocess.run(["mtype", "-i", self._fat(raw), f"::{name}"], capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def write(self, machine: Machine, name: str, content: bytes) -> None:
        raw = self.pull(machine)
        self._put(raw, name, content)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, machine.disk], check=True)
        raw.unlink()

    def bytes_of(self, raw: Path, name: str) -> bytes:
        start, size = self.part(name)
        with raw.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def _fat(self, raw: Path) -> str:
        return f"{raw}@@{self.part('boot')[0]}"

    def _put(self, raw: Path, name: str, content: bytes) -> None:
        file = raw.with_name("put")
        file.write_bytes(content)
        subprocess.run(["mcopy", "-o", "-i", self._fat(raw), file, f"::{name}"], check=True)
        file.unlink()


def wheelhouse(folder: Path, extra: tuple[str, ...] = ()) -> Path:
    """What an image's daemon is installed from."""
    _python("tools/wheelhouse.py", "--output", str(folder), "--arch", "amd64", "--python", "3.11", *extra)
    return folder


def _python(script: str, *words: str) -> None:
    done = subprocess.run([sys.executable, os.fspath(ROOT / script), *words], capture_output=True, text=True)
    assert done.returncode == 0, f"{script}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
