"""The network worker's quick way to the kernel: what every pod needs, as rtnetlink(7) messages of our own.

pyroute2 could do it as well, but loading it costs more than all of a pod's messages, on a Pi a third of a second. It
is left for what happens once in a while, see `bridging`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from edged.runtime.rtnetlink import (
    ACK,
    CREATE,
    DELLINK,
    EXCL,
    IFLA_IFNAME,
    LINK,
    NETLINK_ROUTE,
    NEWADDR,
    NEWLINK,
    NEWROUTE,
    NLMSG_ERROR,
    PACKET,
    ROUTE,
    RT_TABLE_MAIN,
    RTA_OIF,
    RTN_UNICAST,
    TIMEOUT,
    attribute,
    message,
)
from edged.runtime.rtnetlink import messages as answers

# <linux/if_link.h>, <linux/if_addr.h>, <linux/rtnetlink.h>
SETLINK = 19
IFLA_MASTER, IFLA_PROTINFO, IFLA_LINKINFO, IFLA_NET_NS_FD = 10, 12, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_BRPORT_MODE = 4
NESTED = 0x8000
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_GATEWAY = 5
RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTNH_F_ONLINK = 4, 0, 4
IFF_UP = 1
LOOPBACK = 1  # index of lo, always the first
ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefix length, flags, scope, index


def index_of(interface: str) -> int:
    """0 where there is none."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _link(index: int = 0, up: bool = False, family: int = socket.AF_UNSPEC) -> bytes:
    return LINK.pack(family, 0, 0, index, IFF_UP * up, IFF_UP * up)


def _name(name: str) -> bytes:
    return attribute(IFLA_IFNAME, name.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def veth(name: str, bridge: int, peer: str, namespace: int) -> bytes:
    """A cable, up and in the bridge (its index), whose other end is in `namespace` (a descriptor)."""
    other = _link() + _name(peer) + _number(IFLA_NET_NS_FD, namespace)
    info = attribute(IFLA_INFO_KIND, b"veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, other))
    return message(
        NEWLINK,
        ACK | CREATE | EXCL,
        _link(up=True) + _name(name) + _number(IFLA_MASTER, bridge) + attribute(IFLA_LINKINFO, info),
    )


def into_bridge(port: int, bridge: int) -> bytes:
    return message(NEWLINK, ACK, _link(port) + _number(IFLA_MASTER, bridge))


def hairpin(port: int) -> bytes:
    """A bridge's port may send a frame back to where it came from."""
    mode = attribute(IFLA_PROTINFO | NESTED, attribute(IFLA_BRPORT_MODE, b"\1"))
    return message(SETLINK, ACK, _link(port, family=socket.AF_BRIDGE) + mode)


def delete(index: int) -> bytes:
    return message(DELLINK, ACK, _link(index))


def up(index: int) -> bytes:
    return message(NEWLINK, ACK, _link(index, up=True))


def host_address(index: int, ip: str) -> bytes:
    """A /32."""
    packed = socket.inet_aton(ip)
    body = ADDRESS.pack(socket.AF_INET, 32, 0, 0, index)
    return message(NEWADDR, ACK | CREATE | EXCL, body + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed))


def default_route(index: int, gateway: str) -> bytes:
    """Through a gateway that is declared to be on the link."""
    head = ROUTE.pack(
        socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, RTNH_F_ONLINK
    )
    body = head + attribute(RTA_GATEWAY, socket.inet_aton(gateway)) + _number(RTA_OIF, index)
    return message(NEWROUTE, ACK | CREATE | EXCL, body)


class Netlink:
    """A socket of the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.settimeout(TIMEOUT)
        self._socket.bind((0, 0))

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def do(self, *messages: bytes, fine: tuple[int, ...] = ()) -> None:
        """All of them in this order, up to and including the last; the first refusal is told.

        :param fine: errors that don't matter.
        :raises OSError: the kernel refused.
        """
        numbered = (one[:8] + struct.pack("=I", number) + one[12:] for number, one in enumerate(messages, 1))
        self._socket.send(b"".join(numbered))
        refused, answered = 0, 0
        while answered < len(messages):
            for kind, body in answers(self._socket.recv(PACKET)):
                if kind == NLMSG_ERROR:  # also says that all is well
                    answered += 1
                    number = -struct.unpack_from("=i", body)[0]
                    refused = refused or (0 if number in fine else number)
        if refused:
            raise OSError(refused, f"the kernel's routing refused it: {os.strerror(refused)} ({refused})")

    def cut(self, interface: str) -> None:
        """No interface of this name any more."""
        if index := index_of(interface):
            self.do(delete(index), fine=(errno.ENODEV, errno.ENXIO))
