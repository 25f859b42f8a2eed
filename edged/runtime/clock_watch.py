"""Is told when somebody sets the machine's clock: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET. Costs nothing until then.

A board without a clock of its own learns the time from the network, long after its start; what waits for a time must
look again then.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSTIME, _CANCEL_ON_SET = 1, 2
_NEVER = (1 << (8 * ctypes.sizeof(ctypes.c_long) - 1)) - 1 if ctypes.sizeof(ctypes.c_long) == 4 else 1 << 40

_libc = ctypes.CDLL(None, use_errno=True)
_Spec = ctypes.c_long * 4  # itimerspec: interval and value, in seconds and nanoseconds


def watch(told: Callable[[], None]) -> Callable[[], None]:
    """In the running loop, until what it answers is called there."""
    it = ClockWatch(told)
    it.open()
    return it.close


class ClockWatch:
    """Between `open` and `close` in one loop. Where the kernel can't do it, nobody is told, and it is logged."""

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told
        self._fd = -1

    def open(self) -> None:
        self._fd = _libc.timerfd_create(time.CLOCK_REALTIME, _NONBLOCK_CLOEXEC)
        if self._fd < 0 or not self._arm():
            log.warning("nobody will tell when the clock is set: %s", os.strerror(ctypes.get_errno()))
            self.close()
            return
        asyncio.get_running_loop().add_reader(self._fd, self._set)

    def close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(RuntimeError):  # no loop any more
                asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
        self._fd = -1

    def _arm(self) -> bool:
        spec = _Spec(0, 0, _NEVER, 0)
        return not _libc.timerfd_settime(self._fd, _ABSTIME | _CANCEL_ON_SET, ctypes.byref(spec), None)

    def _set(self) -> None:
        with contextlib.suppress(OSError):  # ECANCELED: that is the news
            os.read(self._fd, 8)
        self._arm()
        self._told()
