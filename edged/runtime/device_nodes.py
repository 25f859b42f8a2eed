"""Device files inside containers, and the cgroup's word on who may open them.

A container that claims devices finds each of them at /dev/<name>, and what libraries look for by itself (usb, camera,
media, video, gpio) under the kernel's own path as well. The files are the container's own, with mode 0666: which of its
users may open them is the pod's affair, and the host's device files stay as they are.

A device that comes back may have another number. With cgroup v1 the list of what may be opened is changed then; with
v2 it is a program that is fixed when the container is made. There, containers may open every device of the kinds that
they claim, and can't make device files themselves (no CAP_MKNOD), so what they find below /dev is what they can reach.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from edged.errors import PermanentError
from edged.runtime import mounts
from edged.runtime.devices import Node

MODE = 0o666
FOLDER = os.O_PATH | os.O_DIRECTORY
ALSO_KERNELS_OWN = ("usb/", "camera", "media/", "video/", "gpio/", "input/", "dri/")  # libraries look there
MAJORS = {  # kinds that are plugged in and out -> character majors (Documentation/admin-guide/devices.txt)
    "serial/": (188, 166, 204),  # ttyUSB, ttyACM, ttyAMA
    "usb/": (189,),
    "video/": (81,),
    "input/": (13,),
}
BY_DRIVER = {"media/": ("media",), "camera": ("media", "video4linux", "dma_heap"), "gpio": ("gpiochip",)}


class Inside(NamedTuple):
    """A device file in a container."""

    path: str
    major: int
    minor: int


def files_inside(name: str, target: str, nodes: Collection[Node]) -> tuple[Inside, ...]:
    """Where a container finds them.

    :param name: what it claims. :param target: what that stands for, see Devices.target.
    """
    found = [Inside(n.path, n.major, n.minor) for n in nodes if target.startswith(ALSO_KERNELS_OWN)]
    if len(nodes) == 1:
        (node,) = nodes
        found.append(Inside(f"/dev/{name}", node.major, node.minor))
    return tuple({one.path: one for one in found}.values())


def majors_of(targets: Collection[str], drivers: Mapping[str, int]) -> set[int]:
    """Majors that what is claimed may have when it comes back."""
    found: set[int] = set()
    for target in targets:
        for kind, majors in MAJORS.items():
            if target.startswith(kind):
                found.update(majors)
        for kind, names in BY_DRIVER.items():
            if target.startswith(kind):
                found.update(drivers[n] for n in names if n in drivers)
    return found


def character_majors(text: str) -> dict[str, int]:
    """/proc/devices, the part about character devices."""
    found: dict[str, int] = {}
    for line in text.partition("Block devices:")[0].splitlines():
        number, _, name = line.strip().partition(" ")
        if number.isdecimal():
            found.setdefault(name, int(number))
    return found


class ContainersDev:
    """The /dev of a running container, held open: the paths below never lead out of it, whatever is linked inside.

    :raises OSError: the process has ended.
    """

    def __init__(self, pid: int) -> None:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fd = mounts.open_beneath(root, "dev", FOLDER, mounts.RESOLVE_NO_SYMLINKS)
        finally:
            os.close(root)

    def __enter__(self) -> ContainersDev:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def make(self, file: Inside) -> None:
        """Replace whatever is there. :raises PermanentError: the container has put something in the way."""
        parts = _below_dev(file.path)
        with self._folder(parts[:-1], make=True) as parent:
            device = os.makedev(file.major, file.minor)
            with contextlib.suppress(FileNotFoundError):
                seen = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
                if stat.S_ISCHR(seen.st_mode) and seen.st_rdev == device:
                    return
                if stat.S_ISDIR(seen.st_mode):
                    raise PermanentError(f"{file.path} is a folder inside the container; it hides the device")
                os.unlink(parts[-1], dir_fd=parent)
            before = os.umask(0)
            try:
                os.mknod(parts[-1], MODE | stat.S_IFCHR, device, dir_fd=parent)
            finally:
                os.umask(before)

    def remove(self, file: Inside) -> None:
        """Take it away, if it still is that device."""
        parts = _below_dev(file.path)
        with contextlib.suppress(FileNotFoundError), self._folder(parts[:-1], make=False) as parent:
            seen = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            if stat.S_ISCHR(seen.st_mode) and seen.st_rdev == os.makedev(file.major, file.minor):
                os.unlink(parts[-1], dir_fd=parent)

    @contextlib.contextmanager
    def _folder(self, parts: tuple[str, ...], make: bool) -> Iterator[int]:
        fd = os.dup(self._fd)
        try:
            for part in parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                try:
                    below = mounts.open_beneath(fd, part, FOLDER, mounts.RESOLVE_NO_SYMLINKS)
                except OSError as e:
                    if e.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                    raise PermanentError(f"/dev/{'/'.join(parts)} is not a folder inside the container") from e
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)


def _below_dev(path: str) -> tuple[str, ...]:
    parts = tuple(p for p in path.removeprefix("/dev/").split("/") if p not in ("", "."))
    if not path.startswith("/dev/") or not parts or ".." in parts:
        raise PermanentError(f"device path {path!r} is not below /dev")
    return parts
