"""nftables: one way to apply a script, and a watch that tells when one of our tables is taken away.

`systemctl restart nftables` and every `nft flush ruleset` remove the tables of everybody; without the watch the
node's pods would be cut off until the next restart of the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterator

from edged.runtime import process

log = logging.getLogger(__name__)

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h> and <linux/netfilter/nf_tables.h>
NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NFNLGRP_NFTABLES = 7
NEW_TABLE = 10 << 8 | 0  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWTABLE
DELETE_TABLE = 10 << 8 | 2
NFTA_TABLE_NAME = 1
NFPROTO_IPV4 = 2
MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
FAMILY = struct.Struct("=BBH")  # nfgenmsg: family, version, resource id
ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
PACKET = 1 << 16  # bytes
GRACE = 0.2  # seconds: replacing a table looks like a loss until the second half of the news is here


def removal_script(table: str) -> str:
    """For `apply`: no such table, whether there was one or not."""
    return f"table ip {table}\ndelete table ip {table}\n"


async def apply(script: str) -> None:
    """All of it or nothing.

    :raises PermanentError: nft is not installed.
    :raises RetryError: the kernel or nft refused, with what it said.
    """
    await process.run(["nft", "-f", "-"], stdin=script.encode(), timeout=10.0)


def table_events(packet: bytes) -> Iterator[tuple[str, bool]]:
    """(table of family ip, True if it came and False if it went), in order, out of one netlink packet."""
    start = 0
    while start + MESSAGE.size <= len(packet):
        length, kind, _, _, _ = MESSAGE.unpack_from(packet, start)
        if length < MESSAGE.size:
            return
        body = packet[start + MESSAGE.size : start + length]
        if kind in (NEW_TABLE, DELETE_TABLE) and len(body) >= FAMILY.size and body[0] == NFPROTO_IPV4:
            name = _attribute(body[FAMILY.size :], NFTA_TABLE_NAME).rstrip(b"\0").decode(errors="replace")
            yield name, kind == NEW_TABLE
        start += (length + 3) & ~3


def _attribute(attributes: bytes, wanted: int) -> bytes:
    start = 0
    while start + ATTRIBUTE.size <= len(attributes):
        length, kind = ATTRIBUTE.unpack_from(attributes, start)
        if length < ATTRIBUTE.size:
            break
        if kind & 0x3FFF == wanted:
            return attributes[start + ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return b""


class TableWatch:
    """Calls `lost` when the table is gone and was not put back within GRACE."""

    def __init__(self, table: str, lost: Callable[[], None]) -> None:
        self._table = table
        self._lost = lost
        self._there = True
        self._socket: socket.socket | None = None
        self._check_due: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Where the kernel has no nftables nothing is watched; there is nothing to lose then."""
        if self._socket is not None:
            return
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError as e:
            log.warning("tables of nftables are not watched: %s", e)
            self.close()
            return
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        if self._check_due is not None:
            self._check_due.cancel()
            self._check_due = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        while self._socket is not None:
            try:
                packet = self._socket.recv(PACKET)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: more happened than fits; nobody knows what, so have it put back
                self._there = False
                continue
            for table, came in table_events(packet):
                if table == self._table:
                    self._there = came
        if not self._there and self._check_due is None:
            self._check_due = asyncio.get_running_loop().call_later(GRACE, self._check)

    def _check(self) -> None:
        self._check_due = None
        if not self._there:
            self._there = True  # said once; the next loss is another one
            self._lost()
