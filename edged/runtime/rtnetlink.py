"""A little rtnetlink(7) for the daemon itself: host routes, and being told when addresses or links change.

Everything larger is the network worker's, with a library. These few messages are here so that a change of Services
needs no process, and so that waiting for the network to change needs none either.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)

# <linux/netlink.h> and <linux/rtnetlink.h>
NETLINK_ROUTE = 0
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP, EXCL, CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
NEWLINK, DELLINK, NEWADDR, DELADDR = 16, 17, 20, 21
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNETCONF = 80
GROUPS = 1 << 0 | 1 << 4 | 1 << 23  # RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR and RTNLGRP_IPV4_NETCONF, counted from 1
IFLA_IFNAME = 3
NETCONFA_IFINDEX, NETCONFA_FORWARDING, ALL_INTERFACES = 1, 2, struct.pack("=i", -1)
RTA_DST, RTA_OIF = 1, 4
RT_TABLE_MAIN, RT_SCOPE_LINK, RTN_UNICAST = 254, 253, 1
OURS = 237  # rtm_protocol: who made a route; this number is nobody's (iproute2's rt_protos)

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
LINK = struct.Struct("=BBHiII")  # ifinfomsg: family, pad, type, index, flags, change
ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
PACKET = 1 << 16  # bytes
TIMEOUT = 2.0  # seconds; the kernel answers while it is asked


def messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each message in a netlink packet; a broken rest is left out."""
    start = 0
    while start + HEADER.size <= len(packet):
        length, kind, _, _, _ = HEADER.unpack_from(packet, start)
        if length < HEADER.size or start + length > len(packet):
            return
        yield kind, packet[start + HEADER.size : start + length]
        start += (length + 3) & ~3


def attributes(body: bytes) -> dict[int, bytes]:
    """Type -> value, the last of each kind."""
    found, start = {}, 0
    while start + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, start)
        if length < ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = body[start + ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags | REQUEST, sequence, 0) + body


# ---------------------------------------------------------------- routes


def route_hosts(interface: str, addresses: Iterable[str]) -> None:
    """Exactly these addresses lead to the interface by a route of ours (/32 each); routes of others are left alone.

    :raises OSError: there is no such interface, or the kernel refused.
    """
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE) as link:
        link.settimeout(TIMEOUT)
        link.bind((0, 0))
        wanted, there = set(addresses), set(_our_routes(link, index))
        for address in sorted(wanted - there):
            _change(link, NEWROUTE, CREATE | EXCL, address, index, fine=errno.EEXIST)
        for address in sorted(there - wanted):
            _change(link, DELROUTE, 0, address, index, fine=errno.ESRCH)


def _route(address: str, index: int) -> bytes:
    head = ROUTE.pack(socket.AF_INET, 32, 0, 0, RT_TABLE_MAIN, OURS, RT_SCOPE_LINK, RTN_UNICAST, 0)
    return head + attribute(RTA_DST, socket.inet_aton(address)) + attribute(RTA_OIF, struct.pack("=i", index))


def _change(link: socket.socket, kind: int, flags: int, address: str, index: int, fine: int) -> None:
    link.send(message(kind, flags | ACK, _route(address, index)))
    for answer, body in messages(link.recv(PACKET)):
        number = -struct.unpack_from("=i", body)[0] if answer == NLMSG_ERROR else 0
        if number not in (0, fine):
            raise OSError(number, f"route to {address}: {os.strerror(number)}")


def _our_routes(link: socket.socket, index: int) -> Iterator[str]:
    link.send(message(GETROUTE, DUMP, ROUTE.pack(socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, OURS, 0, 0, 0)))
    while True:
        for kind, body in messages(link.recv(PACKET)):
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                return
            head, found = ROUTE.unpack_from(body), attributes(body[ROUTE.size :])
            if head[5] == OURS and head[1] == 32 and found.get(RTA_OIF) == struct.pack("=i", index):
                yield socket.inet_ntoa(found[RTA_DST])


# ---------------------------------------------------------------- changes


class Change:
    """What was heard of since the last call; `lost` where it was more than the socket could hold."""

    def __init__(self) -> None:
        self.addresses = False
        self.forwarding = False  # the machine's setting (ip_forward), not that of one interface
        self.links: set[str] = set()  # that came, went or changed; bounded by what the machine has
        self.lost = False

    def __bool__(self) -> bool:
        return self.addresses or self.forwarding or bool(self.links) or self.lost


def heard(packet: bytes, change: Change) -> None:
    """Add a packet's news to `change`."""
    for kind, body in messages(packet):
        if kind in (NEWADDR, DELADDR):
            change.addresses = True
        elif kind in (NEWLINK, DELLINK) and len(body) >= LINK.size:
            name = attributes(body[LINK.size :]).get(IFLA_IFNAME, b"").rstrip(b"\0")
            change.links.add(name.decode(errors="replace"))
        elif kind == NEWNETCONF:
            found = attributes(body[4:])
            change.forwarding |= found.get(NETCONFA_IFINDEX) == ALL_INTERFACES and NETCONFA_FORWARDING in found


class Watch:
    """Calls `changed` when IPv4 addresses, links or forwarding have changed, `pause` seconds after the first news."""

    def __init__(self, changed: Callable[[Change], None], pause: float = 0.25) -> None:
        self._changed = changed
        self._pause = pause
        self._socket: socket.socket | None = None
        self._change = Change()
        self._due: asyncio.TimerHandle | None = None

    def open(self) -> None:
        if self._socket is not None:
            return
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
            self._socket.bind((0, GROUPS))
        except OSError as e:
            log.warning("changes of the machine's addresses are not seen until something else happens: %s", e)
            self.close()
            return
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._socket is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        while self._socket is not None:
            try:
                heard(self._socket.recv(PACKET), self._change)
            except BlockingIOError:
                break
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    log.warning("changes of the machine's addresses are not seen any more: %s", e)
                    self.close()
                    return
                self._change.lost = True
        if self._change and self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._pause, self._tell)

    def _tell(self) -> None:
        self._due = None
        change, self._change = self._change, Change()
        self._changed(change)
