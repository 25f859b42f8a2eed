"""The network worker: a process that does what `wiring` asks for, and ends when nothing is asked.

    python -m edged.runtime.networker FOLDER    (descriptor 0 is one end of a SOCK_SEQPACKET pair)

It is apart because it goes into other network namespaces, and because pyroute2, which the rarer requests need, costs
more memory than all the rest of the node. One worker at a time serves a folder
of namespaces (it holds a lock on FOLDER/.lock); a request half done by one that was killed is begun anew by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from edged.errors import PermanentError
from edged.runtime import cables
from edged.runtime.cables import index_of
from edged.runtime.sysctls import path_of
from edged.runtime.wiring import (
    INTERFACE,
    PACKET,
    EnsureBridge,
    ForgetFlows,
    RemoveBridge,
    Reply,
    Request,
    Tune,
    Unwire,
    Wire,
    decode_requests,
)

IDLE_SECONDS = 3.0
END_SECONDS = 0.3  # given to the kernel to remove the cables of namespaces that have ended
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2
# As Docker and containerd have it: there is nothing in a pod's own network that low ports would protect from its users,
# and a user other than root may ping.
OPEN_TO_USERS = (("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647"))

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _quiet_ipv6(interface: str) -> None:
    """No link-local address: it would only bring multicast chatter, which wakes an idle board."""
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").write_text("1")


class Wirer:
    """Carries requests out in this process's network namespace."""

    def __init__(self) -> None:
        self._host = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._netlink = cables.Netlink()

    def do(self, request: Request) -> str:
        """Returns a sentence on what could not be had fully, or "".

        :raises PermanentError: asking again can't help.
        :raises OSError: the kernel refused.
        """
        match request:
            case Wire():
                self._wire(request)
            case Unwire():
                self.unpin(request.path)
                self._netlink.cut(request.veth)
            case Tune(path, sysctls):
                self._tune(path, sysctls)
            case _:
                return self._do_rarely(request)
        return ""

    def _do_rarely(self, request: EnsureBridge | RemoveBridge | ForgetFlows) -> str:
        from edged.runtime.bridging import Bridges  # loads pyroute2

        with Bridges() as bridges:
            match request:
                case EnsureBridge(bridge, pods, veths):
                    degraded = bridges.ensure(bridge, pods)
                    for port in filter(None, map(index_of, veths)):
                        self._netlink.do(cables.into_bridge(port, index_of(bridge)), cables.hairpin(port))
                    return degraded
                case RemoveBridge(bridge):
                    bridges.remove(bridge)
                case ForgetFlows(address, keep, port):
                    bridges.forget_flows(address, keep, port)
        return ""

    # ------------------------------------------------------------ namespaces

    def _wire(self, wire: Wire) -> None:
        self.unpin(wire.path)
        self._netlink.cut(wire.veth)
        bridge = index_of(wire.bridge)
        if not bridge:
            raise OSError(errno.ENODEV, f"bridge {wire.bridge} is gone; the next start of the node makes it again")
        os.close(os.open(wire.path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        try:
            _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
            try:
                self._pin_and_configure(wire, bridge)
            finally:
                self._return()
            _quiet_ipv6(wire.veth)
            # Where br_netfilter is loaded (Docker does) a pod that reaches itself through its Service is turned around
            # inside the bridge, which sends a frame back to where it came from only in hairpin mode.
            self._netlink.do(cables.hairpin(index_of(wire.veth)))
        except BaseException:
            self.unpin(wire.path)
            self._netlink.cut(wire.veth)
            raise

    def _pin_and_configure(self, wire: Wire, bridge: int) -> None:
        """Runs inside the new namespace; `self._netlink` still belongs to the machine's."""
        source = b"/proc/self/ns/net"
        _check(_libc.mount(source, os.fsencode(wire.path), b"none", MS_BIND, None), f"bind mount on {wire.path}")
        with open(source, "rb") as here, cables.Netlink() as inside:  # noqa: PTH123
            self._netlink.do(cables.veth(wire.veth, bridge, INTERFACE, here.fileno()))
            # Every packet goes through the machine, even to a pod on the same bridge, because only there can the
            # answer of a Service's pod get the Service's address back. Hence a host address (/32), a gateway that
            # is declared to be on the link, and no heed to hints that a neighbour were nearer.
            for name in ("all", INTERFACE):
                Path(f"/proc/sys/net/ipv4/conf/{name}/accept_redirects").write_text("0")
            for name, value in OPEN_TO_USERS:
                Path("/proc/sys/net/ipv4", name).write_text(value)
            _quiet_ipv6(INTERFACE)
            index = socket.if_nametoindex(INTERFACE)
            inside.do(
                cables.up(cables.LOOPBACK),
                cables.up(index),
                cables.host_address(index, wire.ip),
                cables.default_route(index, wire.gateway),
            )

    def _tune(self, path: str, sysctls: tuple[tuple[str, str], ...]) -> None:
        with open(path, "rb") as namespace:  # noqa: PTH123
            _check(_libc.setns(namespace.fileno(), CLONE_NEWNET), f"setns to {path}")
        try:
            for name, value in sysctls:
                try:
                    Path("/proc/sys", path_of(name)).write_text(value)
                except OSError as e:
                    raise PermanentError(f"{name} can't be set to {value!r}: {e.strerror}") from e
        finally:
            self._return()

    def _return(self) -> None:
        if _libc.setns(self._host, CLONE_NEWNET) != 0:
            sys.exit("the network worker can't get back to the machine's namespace")  # never go on elsewhere

    def cut(self, veth: str) -> None:
        """No cable of this name any more."""
        self._netlink.cut(veth)

    def unpin(self, path: str) -> None:
        """No namespace pinned at `path` any more; with its last process it ends, and its cable with it."""
        if path and os.path.lexists(path):
            while _libc.umount2(os.fsencode(path), MNT_DETACH) == 0:
                pass
            number = ctypes.get_errno()
            if number not in (errno.EINVAL, errno.ENOENT):  # EINVAL: it is not, or no longer, a mount
                raise OSError(number, f"unmount of {path}: {os.strerror(number)}")
            # Since Linux 3.18 this also ends the copies of the mount in other mount namespaces (conmon's, say).
            Path(path).unlink(missing_ok=True)


def answer(number: int, work: Callable[[], str | None]) -> Reply:
    """Carry out one request; whatever the kernel says becomes a sentence."""
    try:
        return Reply(number, degraded=work() or "")
    except PermanentError as e:
        return Reply(number, error=str(e), permanent=True)
    except OSError as e:
        return Reply(number, error=e.strerror or str(e))


def answers(wirer: Wirer, batch: list[tuple[int, Request]]) -> Iterator[Reply]:
    """Carry out a batch: first what somebody waits for to start, then the removals, all in one go.

    The kernel takes 20 ms to remove one cable and 60 ms for twenty together, if it does so by itself because their
    namespaces have ended. No request of a batch needs the removal of another: who asks has awaited its answer.
    """
    removals: list[tuple[int, Unwire]] = []
    for number, request in batch:
        if isinstance(request, Unwire):
            removals.append((number, request))
        else:
            yield answer(number, partial(wirer.do, request))
    unpinned = [(request, answer(number, partial(wirer.unpin, request.path))) for number, request in removals]
    _wait_until_gone({request.veth for request, reply in unpinned if request.path and not reply.error})
    for request, reply in unpinned:
        yield reply if reply.error else answer(reply.id, partial(wirer.cut, request.veth))


def _wait_until_gone(veths: set[str]) -> None:
    """Not for long: a namespace with a process in it lives on, and its cable has to be cut."""
    deadline = time.monotonic() + END_SECONDS
    while veths & {name for _, name in socket.if_nameindex()} and time.monotonic() < deadline:
        time.sleep(0.002)


def main() -> None:
    folder = Path(sys.argv[1])
    parent = os.getppid()
    channel = socket.socket(fileno=0)
    channel.setblocking(True)
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a worker of a daemon that was killed may still be at its last request
    wirer = Wirer()
    idle = select.poll()
    idle.register(channel, select.POLLIN)
    while idle.poll(IDLE_SECONDS * 1000):
        packet = channel.recv(PACKET)
        if not packet:
            return
        for reply in answers(wirer, decode_requests(packet)):
            try:
                channel.send(msgspec.msgpack.encode(reply))
            except OSError:
                return
            if os.getppid() != parent:
                return  # nobody would record what is made now


if __name__ == "__main__":
    main()
