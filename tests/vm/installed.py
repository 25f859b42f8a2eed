"""The node image with this checkout's daemon in it, installed once in a machine of its own and kept for all others.

Kept below .cache/vm as images are, under a hash of the image and of all that is installed. A board that boots it has
everything but a node.toml: it joins, or is told its pods by a file (`Node.install`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.vm import image
from tests.vm.image import CACHE, ROOT, Image
from tests.vm.machine import Machine
from tests.vm.node import INSTALL, SOURCES, Node

# Whoever boots this enables it when its node.toml is there, and no test starts one by accident.
SETTLE = """
set -eu
systemctl disable -q edged
sync
"""


def build() -> Image:
    """From the cache if nothing has changed; else a machine is booted for it, a minute or two."""
    base = image.build()
    place = CACHE / _key(base)
    with (CACHE / f".{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            with tempfile.TemporaryDirectory(prefix="build-", dir=CACHE) as folder:
                _install(base, Path(folder))
                done = CACHE / f"done-{os.getpid()}"
                done.mkdir()
                shutil.move(Path(folder) / "disk.img", done)
            done.rename(place)
    os.utime(place)
    return replace(base, disk=place / "disk.img")


def _install(base: Image, folder: Path) -> None:
    machine = Machine(base, folder)
    try:
        machine.boot()
        Node(machine, []).install_daemon()
        machine.run(SETTLE, timeout=600.0)
        machine.shut_down(600.0)
    finally:
        machine.cut_power()
    flat = ("qemu-img", "convert", "-O", "raw", os.fspath(machine.disk), os.fspath(folder / "disk.img"))
    subprocess.run(flat, check=True)


def _key(base: Image) -> str:
    found = hashlib.sha256(f"{base.disk.parent.name}\0{INSTALL}\0{SETTLE}\0".encode())
    for name in SOURCES:
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and not {"__pycache__", "node_modules"} & set(path.parts):
                found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


if __name__ == "__main__":
    print(build().disk)
