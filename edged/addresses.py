"""The machine's own IPv4 address, with whatever network it has, or none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator

SIOCGIFFLAGS, SIOCGIFADDR = 0x8913, 0x8915  # netdevice(7)
IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40
IFREQ = struct.Struct("16s24s")


def own_address() -> str:
    """The one that this machine would use towards the world; in a greenhouse without a gateway the one that its
    neighbours know; "" where there is none. Sends nothing: connecting a UDP socket only asks the routing table, and
    192.0.2.1 is nobody's (RFC 5737).

    Bridges and virtual cables count only where there is nothing else, and never the bridge of a node's pods;
    link-local addresses come last.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            pass
        return min(_candidates(probe), default=(0, 0, 0, ""))[3]


def _candidates(probe: socket.socket) -> Iterator[tuple[bool, bool, int, str]]:
    for index, name in socket.if_nameindex():
        try:
            (flags,) = struct.unpack_from("H", _ask(probe, SIOCGIFFLAGS, name))
            address = socket.inet_ntoa(_ask(probe, SIOCGIFADDR, name)[4:8])
        except OSError:  # it has none, or is gone
            continue
        if flags & IFF_UP and not flags & IFF_LOOPBACK and not _is_pods_bridge(name):
            virtual = not os.path.exists(f"/sys/class/net/{name}/device")  # noqa: PTH110
            yield address.startswith("169.254."), virtual, index, address


def is_up_with(interface: str, address: str) -> bool:
    """The interface is there, up, and has this as its first address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            (flags,) = struct.unpack_from("H", _ask(probe, SIOCGIFFLAGS, interface))
            return bool(flags & IFF_UP) and _ask(probe, SIOCGIFADDR, interface)[4:8] == socket.inet_aton(address)
        except OSError:
            return False


def has_line() -> bool:
    """Something is plugged in that may lead to a network: a cable with a carrier, or a radio, which takes a while to
    find its access point. Bridges and virtual cables count only on a machine that has nothing else."""
    real: list[bool] = []
    virtual: list[bool] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        for _, name in socket.if_nameindex():
            try:
                (flags,) = struct.unpack_from("H", _ask(probe, SIOCGIFFLAGS, name))
            except OSError:  # it is gone
                continue
            if flags & IFF_LOOPBACK or _is_pods_bridge(name):
                continue
            place = f"/sys/class/net/{name}"
            may_find = os.path.exists(f"{place}/phy80211") and bool(flags & IFF_UP)  # noqa: PTH110
            kind = real if os.path.exists(f"{place}/device") else virtual  # noqa: PTH110
            kind.append(may_find or _has_carrier(place, flags))
    return any(real or virtual)


def _has_carrier(place: str, flags: int) -> bool:
    """By sysfs, where this network is in it: the flag is up to a second late, and set for one just set up."""
    try:
        with open(f"{place}/carrier", "rb") as carrier:  # noqa: PTH123
            return carrier.read().strip() == b"1"
    except FileNotFoundError:
        return bool(flags & IFF_RUNNING)
    except OSError:  # EINVAL: it is down
        return False


def forwards() -> bool:
    """The machine passes packets on between its interfaces (ip_forward); also where that can't be learned."""
    try:
        with open("/proc/sys/net/ipv4/ip_forward", "rb") as setting:  # noqa: PTH123
            return setting.read().strip() != b"0"
    except OSError:
        return True


def _is_pods_bridge(interface: str) -> bool:
    with contextlib.suppress(OSError), open(f"/sys/class/net/{interface}/ifalias", "rb") as alias:  # noqa: PTH123
        return alias.read().startswith(b"edged ")
    return False


def _ask(probe: socket.socket, request: int, interface: str) -> bytes:
    answer = fcntl.ioctl(probe, request, IFREQ.pack(interface.encode(), b""))
    return bytes(IFREQ.unpack(answer)[1])
