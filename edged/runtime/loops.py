"""Loop devices (loop(4)): a file as a block device. They clear themselves when nothing uses them any more, so none
is left behind whoever dies when."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

CONTROL = "/dev/loop-control"
BLOCKS = Path("/sys/block")
LOOP_MAJOR = 7
LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LOOP_SET_CAPACITY = 0x4C82, 0x4C0A, 0x4C07
LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO = 4, 16
CONFIG = struct.Struct("=II QQQQQ IIII 64s 64s 32s QQ 64x")  # struct loop_config
ATTEMPTS = 16  # others look for a free one at the same time


def usable() -> bool:
    """Whether this machine has loop devices and we may use them."""
    return os.access(CONTROL, os.R_OK | os.W_OK)


def device_of(file: Path) -> str:
    """The loop device that shows `file`, wherever it is still mounted; "" if there is none.

    Two devices for one file would be two file systems that know nothing of each other.
    """
    wanted = os.path.realpath(file)
    for name in sorted(os.listdir(BLOCKS)):  # noqa: PTH208
        if name.startswith("loop"):
            with contextlib.suppress(OSError):
                if (BLOCKS / name / "loop" / "backing_file").read_text().rstrip("\n") == wanted:
                    return f"/dev/{name}"
    return ""


@contextlib.contextmanager
def attached(file: Path) -> Iterator[str]:
    """A device that shows `file` at least as long as this lasts, and as long as it is mounted.

    Direct I/O where the file system can: what is read would be in memory twice otherwise.

    :raises OSError: there is none to be had.
    """
    there = device_of(file)
    fd = _open(there) if there else _attach(file)
    try:
        yield os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    finally:
        os.close(fd)


def follow_size(device: str) -> None:
    """The file behind it has grown."""
    fd = _open(device)
    try:
        fcntl.ioctl(fd, LOOP_SET_CAPACITY, 0)
    finally:
        os.close(fd)


def _attach(file: Path) -> int:
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        name = os.fsencode(file)[-63:]
        flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO
        config = CONFIG.pack(backing, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
        for _ in range(ATTEMPTS):
            fd = _open(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}")
            try:
                fcntl.ioctl(fd, LOOP_CONFIGURE, config)
            except OSError as e:
                os.close(fd)
                if e.errno != errno.EBUSY:
                    raise
            else:
                return fd
        raise OSError(errno.EBUSY, "no loop device is free")
    finally:
        os.close(control)
        os.close(backing)


def _open(device: str) -> int:
    """Its node is made where nobody (devtmpfs) has made it."""
    if not os.path.exists(device):  # noqa: PTH110
        number = int(device.removeprefix("/dev/loop"))
        with contextlib.suppress(FileExistsError):
            os.mknod(device, 0o600 | 0o060000, os.makedev(LOOP_MAJOR, number))
    return os.open(device, os.O_RDWR | os.O_CLOEXEC)
