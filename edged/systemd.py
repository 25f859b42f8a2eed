"""Word to systemd (sd_notify(3)); silence where a process was started by anybody else. Node and hub share it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable


def notify(message: str) -> None:
    """ "READY=1", "STOPPING=1", "STATUS=...", "WATCHDOG=1". Nothing without NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
        try:
            peer.sendto(message.encode(), address)
        except OSError:
            return  # systemd went away; nobody here depends on being heard


def watchdog_interval() -> float:
    """Seconds between two keep-alives: half of WATCHDOG_USEC (sd_watchdog_enabled(3)); 0 = no watchdog."""
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6


class Watchdog:
    """WATCHDOG=1, for a loop that says itself that it goes on: whoever awaits anything for ever says nothing more.

    :param interval: seconds, as `watchdog_interval` has them; 0: nobody listens.
    """

    def __init__(self, interval: float, tell: Callable[[str], None]) -> None:
        self._interval = interval
        self._tell = tell
        self._due = float("-inf")

    def feed(self, now: float) -> None:
        """Called as often as one likes; a busy loop doesn't send a datagram each time."""
        if self._interval and now >= self._due:
            self._tell("WATCHDOG=1")
            self._due = now + self._interval / 2

    def pause(self, seconds: float) -> float:
        """How much of a wait is to be done at a stretch."""
        return min(seconds, self._interval) if self._interval else seconds
