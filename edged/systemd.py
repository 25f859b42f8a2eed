"""Word to systemd (sd_notify(3)); silence where a process was started by anybody else. Node and hub share it."""

from __future__ import annotations

import os
import socket


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
