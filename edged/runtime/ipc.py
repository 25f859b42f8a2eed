"""What the containers of one pod share beside its network: System V IPC, POSIX message queues and /dev/shm.

    run_dir/pods/<uid>/ipc    the namespace, pinned by a bind mount (namespaces(7)), so that it outlives any container
    run_dir/pods/<uid>/shm    a tmpfs for /dev/shm; what is in it counts as memory of whoever wrote it

Only pods with more than one container have them. Both are mounts below the pod's folder and go with it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from edged.errors import PermanentError, RetryError
from edged.runtime import mounts
from edged.runtime.sysctls import path_of

CLONE_NEWIPC = 0x08000000
OWN = "/proc/thread-self/ns/ipc"  # namespaces are a thread's, not a process's
SHM_SIZE = 64 << 20  # bytes, as Docker and Kubernetes have it

_libc = ctypes.CDLL(None, use_errno=True)


def make(folder: Path, sysctls: Sequence[tuple[str, str]]) -> None:
    """What is missing of the two; kernel parameters are set in a new namespace only.

    :raises PermanentError: a parameter that the kernel does not take.
    :raises RetryError: the kernel has no room for now.
    """
    pin, shm = folder / "ipc", folder / "shm"
    try:
        if not _is_mounted(pin):
            pin.touch(mode=0o400)
            _pin_new(os.fspath(pin), sysctls)
        if not _is_mounted(shm):
            shm.mkdir(exist_ok=True)
            flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
            mounts.mount("shm", os.fspath(shm), "tmpfs", flags, f"mode=1777,size={SHM_SIZE}")
    except OSError as e:
        raise RetryError(f"IPC namespace of {folder} can't be made: {e}") from e


def there(folder: Path) -> bool:
    """Both are."""
    return _is_mounted(folder / "ipc") and _is_mounted(folder / "shm")


def _pin_new(pin: str, sysctls: Sequence[tuple[str, str]]) -> None:
    """This thread is inside the new namespace for some microseconds, and nothing else happens meanwhile."""
    before = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(CLONE_NEWIPC), "unshare(CLONE_NEWIPC)")
        try:
            for name, value in sysctls:
                _set(name, value)
            mounts.mount(OWN, pin, "", mounts.MS_BIND)
        finally:
            _check(_libc.setns(before, CLONE_NEWIPC), "setns(CLONE_NEWIPC)")
    finally:
        os.close(before)


def _set(name: str, value: str) -> None:
    try:
        Path("/proc/sys", path_of(name)).write_text(value)
    except OSError as e:
        raise PermanentError(f"sysctl {name} can't be set to {value!r}: {e.strerror}") from e


def _is_mounted(path: Path) -> bool:
    try:
        return os.lstat(path).st_dev != os.lstat(path.parent).st_dev
    except OSError:
        return False


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
