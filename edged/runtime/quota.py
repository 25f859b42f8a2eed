"""Project quotas: the kernel itself keeps a folder and all that is made in it below a size (quotactl(2), ext4, xfs).

They exist where the owner of the machine has switched them on (`tune2fs -O project,quota -Q prjquota`, and
`prjquota` among the mount options); Raspberry Pi OS and Debian don't by default.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import struct
from pathlib import Path

SYS_QUOTACTL_FD = 443  # the same on every architecture (Linux 5.14)
PRJQUOTA = 2
Q_GETINFO, Q_GETQUOTA, Q_SETQUOTA = 0x800005, 0x800007, 0x800008
QIF_BLIMITS = 1
BLOCK = 1024  # bytes; what quota limits are counted in
DQBLK = struct.Struct("=8Q I 4x")  # struct if_dqblk: hard limit, soft limit, bytes in use, ..., valid
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
FSXATTR = struct.Struct("=5I 8x")  # struct fsxattr: flags, extent size, extents, project, copy-on-write extent size
FS_XFLAG_PROJINHERIT = 0x200
FIRST_PROJECT = 0x0ED00000  # ours are this and the million after it, far from those that people give by hand
PROJECTS = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def supported(folder: Path) -> bool:
    """Whether the file system of `folder` enforces project quotas now."""
    try:
        _call(folder, Q_GETINFO, 0, bytearray(64))
    except OSError:
        return False
    return True


def limit(folder: Path, key: str, size: int) -> None:
    """Let `folder`, which is empty or was limited before, hold `size` bytes at most.

    :param key: the same for the same folder; its project is derived from it. :raises OSError.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        project = _project(fd)
        if not project:
            project = _free_project(folder, key)
            _set_limit(folder, project, size)  # first, so that nothing is ever in it without a limit
            flags, extent, count, _, cow = FSXATTR.unpack(fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(FSXATTR.size)))
            fcntl.ioctl(fd, FS_IOC_FSSETXATTR, FSXATTR.pack(flags | FS_XFLAG_PROJINHERIT, extent, count, project, cow))
        else:
            _set_limit(folder, project, size)
    finally:
        os.close(fd)


def release(folder: Path) -> None:
    """Forget the limit of a folder that is about to be removed; nothing happens where it has none."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        project = _project(fd)
        if project:
            _set_limit(folder, project, 0)
    except OSError:
        pass  # it stays in the quota file, where it limits nothing
    finally:
        os.close(fd)


class ScratchQuotas:
    """Limits of emptyDirs on disk, where there are project quotas; elsewhere their size is only measured."""

    def __init__(self) -> None:
        self._supported: bool | None = None

    def limit(self, folder: Path, size: int) -> None:
        """:raises OSError."""
        if self._supported is None:
            self._supported = supported(folder)
        if self._supported:
            limit(folder, os.fspath(folder), size)

    def release(self, scratch: Path) -> None:
        """A pod's part of the disk is about to be removed."""
        if self._supported is not False and (scratch / "volumes").is_dir():
            for volume in (scratch / "volumes").iterdir():
                release(volume)


def _project(fd: int) -> int:
    """Its project, if that is one of ours; else 0."""
    try:
        project = int(FSXATTR.unpack(fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(FSXATTR.size)))[3])
    except OSError as e:
        if e.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
            return 0
        raise
    return project if FIRST_PROJECT <= project < FIRST_PROJECT + PROJECTS else 0


def _free_project(folder: Path, key: str) -> int:
    """One that nothing uses, the same for the same key unless another one has taken it."""
    start = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest())
    for step in range(1000):
        project = FIRST_PROJECT + (start + step) % PROJECTS
        hard, _, space, *_ = _quota(folder, project)
        if not hard and not space:
            return project
    raise OSError(errno.EBUSY, "a thousand project ids in a row are in use")


def _quota(folder: Path, project: int) -> tuple[int, ...]:
    data = bytearray(DQBLK.size)
    try:
        _call(folder, Q_GETQUOTA, project, data)
    except OSError as e:
        if e.errno != errno.ENOENT:  # xfs knows no project before its first use
            raise
    return DQBLK.unpack(data)


def _set_limit(folder: Path, project: int, size: int) -> None:
    """0 = none."""
    blocks = -(-size // BLOCK)
    _call(folder, Q_SETQUOTA, project, bytearray(DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, QIF_BLIMITS)))


def _call(folder: Path, command: int, project: int, data: bytearray) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        buffer = (ctypes.c_char * len(data)).from_buffer(data)
        if _libc.syscall(ctypes.c_long(SYS_QUOTACTL_FD), fd, command << 8 | PRJQUOTA, project, buffer) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"project quota of {folder}: {os.strerror(number)}")
    finally:
        os.close(fd)
