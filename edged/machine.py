"""What the daemon needs to know of the machine under it, as arguments: clocks, size, identity of the boot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edged import addresses, host, systemd
from edged.config import NodeConfig
from edged.model import Capacity
from edged.runtime import clock_watch


def boottime() -> float:
    """Seconds since boot, sleep included; no wrong or jumping clock can move it (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Machine:
    """The one that we are on, unless a simulation says otherwise.

    :ivar boottime: seconds since boot; what is decided counts in these.
    :ivar wall: seconds since 1970, for people and for pods with a time: it may be wrong by decades.
    :ivar line: whether it is plugged into anything.
    :ivar watch_clock: takes who is to be told when `wall` is set; answers with what ends that.
    :ivar tell: word to whoever started us (sd_notify(3)), who wants a sign of life every `watchdog()` seconds; 0: no.
    """

    boottime: Callable[[], float] = boottime
    wall: Callable[[], float] = time.time
    capacity: Callable[[NodeConfig], Capacity] = host.capacity
    boot_id: Callable[[], str] = host.boot_id
    address: Callable[[], str] = host.own_address
    line: Callable[[], bool] = addresses.has_line
    watch_clock: Callable[[Callable[[], None]], Callable[[], None]] = clock_watch.watch
    tell: Callable[[str], None] = systemd.notify
    watchdog: Callable[[], float] = systemd.watchdog_interval
