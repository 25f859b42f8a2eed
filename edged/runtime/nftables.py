"""nftables: one way to apply a script, and a watch that tells when one of our tables is taken away.

`systemctl restart nftables` and every `nft flush ruleset` remove the tables of everybody; without the watch the
node's pods would be cut off until the next restart of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator

from edged.runtime import process
from edged.runtime.rtnetlink import ACK, NLMSG_ERROR, PACKET, attribute, attributes, message, messages

log = logging.getLogger(__name__)

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h> and <linux/netfilter/nf_tables.h>
NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NFNLGRP_NFTABLES = 7
SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
NEW_TABLE, GET_TABLE, DELETE_TABLE, GET_CHAIN, DELETE_CHAIN, DELETE_RULE = (SUBSYSTEM | n for n in (0, 1, 2, 4, 5, 8))
TABLE_NAME = 1  # NFTA_TABLE_NAME, and the same in chains and rules
CHAIN_TABLE, CHAIN_NAME, CHAIN_POLICY = 1, 3, 5  # NFTA_CHAIN_*
NFPROTO_IPV4 = 2
FAMILY = struct.Struct("=BBH")  # nfgenmsg: family, version, resource id
TIMEOUT = 2.0  # seconds; the kernel answers while it is asked
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


def table_there(table: str) -> bool:
    """The kernel is asked directly. :raises OSError: it can't be."""
    return _ask(GET_TABLE, attribute(TABLE_NAME, table.encode() + b"\0")) is not None


def forward_policy_drops() -> bool:
    """iptables' chain FORWARD (Docker's, say) drops what its rules don't let through; no table can overrule it."""
    wanted = attribute(CHAIN_TABLE, b"filter\0") + attribute(CHAIN_NAME, b"FORWARD\0")
    try:
        chain = _ask(GET_CHAIN, wanted)
    except OSError:
        return False
    return chain is not None and chain.get(CHAIN_POLICY) == b"\0\0\0\0"  # NF_DROP


def _ask(kind: int, wanted: bytes) -> dict[int, bytes] | None:
    """Attributes of one thing of family ip; None where it isn't there. :raises OSError: the kernel can't be asked."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as link:
        link.settimeout(TIMEOUT)
        link.bind((0, 0))
        link.send(message(kind, ACK, FAMILY.pack(NFPROTO_IPV4, 0, 0) + wanted))
        for answer, body in messages(link.recv(PACKET)):
            if answer != NLMSG_ERROR:
                return attributes(body[FAMILY.size :])
            number = -struct.unpack_from("=i", body)[0]
            if number not in (0, errno.ENOENT):
                raise OSError(number, os.strerror(number))
    return None


def table_events(packet: bytes) -> Iterator[tuple[str, bool]]:
    """(table of family ip, True if it came and False if it or a part of it went), in order, of one netlink packet."""
    for kind, body in messages(packet):
        gone = kind in (DELETE_TABLE, DELETE_CHAIN, DELETE_RULE)
        if (gone or kind == NEW_TABLE) and len(body) >= FAMILY.size and body[0] == NFPROTO_IPV4:
            name = attributes(body[FAMILY.size :]).get(TABLE_NAME, b"").rstrip(b"\0").decode(errors="replace")
            yield name, not gone


class TableWatch:
    """Calls `lost` when the table, or a part of it, is gone and was not put back within GRACE.

    The kernel drops news where more happens at once than fits (somebody loads a large ruleset): then nobody knows
    what became of the table, and it is looked at instead.
    """

    def __init__(self, table: str, lost: Callable[[], None]) -> None:
        self._table = table
        self._lost = lost
        self._there = True
        self._missed = False
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
            except OSError:  # ENOBUFS
                self._missed = True
                continue
            for table, came in table_events(packet):
                if table == self._table:
                    self._there = came
        if (self._missed or not self._there) and self._check_due is None:
            self._check_due = asyncio.get_running_loop().call_later(GRACE, self._check)

    def _check(self) -> None:
        self._check_due = None
        lost = not self._there
        if self._missed:
            with contextlib.suppress(OSError):
                lost = not table_there(self._table)
        self._there, self._missed = True, False  # said once; the next loss is another one
        if lost:
            self._lost()
