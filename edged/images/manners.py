"""How a process behaves that works for the daemon: it gives way to everybody else, and ends when the daemon does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
from pathlib import Path

from edged.errors import RetryError

PR_SET_PDEATHSIG = 1
NICENESS = 10  # pods that want the processor go first
LEAST = 19
EXPENDABLE = 500  # oom_score_adj, of -1000 to 1000: the daemon's own protection is not for us, a pull can be resumed
IOPRIO_WHO_PROCESS, IOPRIO_IDLE = 1, 3 << 13
SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "armv7l": 314, "armv6l": 314, "riscv64": 30}


def serve(parent: int) -> None:
    """:param parent: pid of the daemon. Once it dies, so do we (prctl(2)): its successor starts workers of its own."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise RetryError("the daemon that wanted this is gone")
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(EXPENDABLE))


def be_idle() -> None:
    """Only ever use the disk when nobody else does (ioprio_set(2)), and the processor likewise (nice(2))."""
    os.nice(LEAST)
    if number := SYS_IOPRIO_SET.get(platform.machine()):
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE)
