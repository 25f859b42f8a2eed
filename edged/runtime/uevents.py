"""Word from the kernel that something was plugged in or out (netlink(7), NETLINK_KOBJECT_UEVENT); no polling.

The kernel speaks first, udev when its links below /dev are made: both are heard, because names by-id are such links
and because there are boards without udev.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

NETLINK_KOBJECT_UEVENT = 15
KERNEL, UDEV = 1, 2  # multicast groups
SUBSYSTEMS = (
    *("tty", "usb", "usb-serial", "gpio", "i2c-dev", "spidev", "video4linux", "media", "input", "hidraw"),
    *("rtc", "drm", "lirc", "misc", "dma_heap"),
)
BUFFER = 256 << 10  # bytes: a hub with many devices says a lot at once


class Uevents:
    """:param on_change: called from the loop, once for all that was heard at a time."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """:raises OSError: this machine (or container) has no such messages."""
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT)
        try:
            made.setblocking(False)
            with contextlib.suppress(OSError):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            made.bind((0, KERNEL | UDEV))
            asyncio.get_running_loop().add_reader(made, self._heard)
        except OSError:
            made.close()
            raise
        self._socket = made

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _heard(self) -> None:
        found = False
        while self._socket is not None:
            try:
                found = matters(self._socket.recv(8192)) or found
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: some were lost, and any of them may have been meant for us
                found = True
        if found:
            self._on_change()


def matters(message: bytes) -> bool:
    """Whether a device of a claimable kind came or left. The kernel's messages and udev's have their `KEY=value` parts
    between zeros alike, after a header each."""
    parts = message.split(b"\0")
    came_or_left = b"ACTION=add" in parts or b"ACTION=remove" in parts or b"ACTION=change" in parts
    return came_or_left and any(f"SUBSYSTEM={name}".encode() in parts for name in SUBSYSTEMS)


class Board(Protocol):
    """What is needed of edged.runtime.devices.Devices."""

    def there(self) -> Mapping[str, str]: ...
    def shares(self, there: Collection[str]) -> Mapping[str, int]: ...


class Plugged:
    """Says when what can be claimed has changed; messages about anything else wake nobody."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen: Mapping[str, str] = {}
        self._uevents: Uevents | None = None
        self.degraded: tuple[str, ...] = ()

    def open(self, on_change: Callable[[], None]) -> None:
        def heard() -> None:
            now = self._board.there()
            if now != self._seen:
                self._seen = now
                on_change()

        self._seen = self._board.there()
        self._uevents = Uevents(heard)
        try:
            self._uevents.open()
        except OSError as e:
            self.degraded = (f"devices that are plugged in later are found only by chance: no word of them ({e})",)

    def close(self) -> None:
        if self._uevents is not None:
            self._uevents.close()
            self._uevents = None

    def names(self) -> Mapping[str, int]:
        """See Devices.names; /sys and /dev are looked at again only where nobody says when they change."""
        listens = self._uevents is not None and not self.degraded
        return self._board.shares(self._seen if listens else self._board.there())
