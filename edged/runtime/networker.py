"""The network worker: a process that does what `wiring` asks for with pyroute2, and ends when nothing is asked.

    python -m edged.runtime.networker FOLDER    (descriptor 0 is one end of a SOCK_SEQPACKET pair)

It is apart because pyroute2 costs more memory than all the rest of the node. One worker at a time serves a folder
of namespaces (it holds a lock on FOLDER/.lock); a request half done by one that was killed is begun anew by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import importlib.util
import os
import select
import socket
import sys
import time
import types
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edged.errors import PermanentError
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


def _bare_package(name: str) -> None:
    """Let submodules of a package be imported without its `__init__`.

    pyroute2's own imports everything it has (NDB, WireGuard, Plan 9): 60 ms here and a third of a second on a Pi,
    which every cold start of a pod would wait for. Only its public submodule `pyroute2.iproute` is used.
    """
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None and name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules[name] = package


_bare_package("pyroute2")

from pyroute2.iproute import IPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

from edged.runtime.bridging import Bridges, gone_is_fine, index_of  # noqa: E402

IDLE_SECONDS = 3.0
END_SECONDS = 0.3  # given to the kernel to remove the cables of namespaces that have ended
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2
RTNH_F_ONLINK = 4
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
        self._netlink: Any = IPRoute()
        self._bridges = Bridges(self._netlink)

    def do(self, request: Request) -> str:
        """Returns a sentence on what could not be had fully, or "".

        :raises PermanentError: asking again can't help.
        :raises OSError: and NetlinkError: the kernel refused.
        """
        match request:
            case EnsureBridge():
                return self._ensure_bridge(request)
            case Wire():
                self._wire(request)
            case Unwire():
                self.unpin(request.path)
                self.cut(request.veth)
            case Tune(path, sysctls):
                self._tune(path, sysctls)
            case RemoveBridge():
                self._bridges.remove(request.bridge)
            case ForgetFlows():
                own = (request.address,) if request.address else self._bridges.addresses()
                forget_flows(own, request.keep, request.port)
        return ""

    # ------------------------------------------------------------ namespaces

    def _wire(self, wire: Wire) -> None:
        self.unpin(wire.path)
        self.cut(wire.veth)
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
            self._turn_around(index_of(wire.veth))
        except BaseException:
            self.unpin(wire.path)
            self.cut(wire.veth)
            raise

    def _pin_and_configure(self, wire: Wire, bridge: int) -> None:
        """Runs inside the new namespace; `self._netlink` still belongs to the machine's."""
        source = b"/proc/self/ns/net"
        _check(_libc.mount(source, os.fsencode(wire.path), b"none", MS_BIND, None), f"bind mount on {wire.path}")
        with open(source, "rb") as here, IPRoute() as inside:  # noqa: PTH123
            self._netlink.link(
                "add",
                ifname=wire.veth,
                kind="veth",
                master=bridge,
                state="up",
                peer={"ifname": INTERFACE, "net_ns_fd": here.fileno()},
            )
            # Every packet goes through the machine, even to a pod on the same bridge, because only there can the
            # answer of a Service's pod get the Service's address back. Hence a host address (/32), a gateway that
            # is declared to be on the link, and no heed to hints that a neighbour were nearer.
            for name in ("all", INTERFACE):
                Path(f"/proc/sys/net/ipv4/conf/{name}/accept_redirects").write_text("0")
            for name, value in OPEN_TO_USERS:
                Path("/proc/sys/net/ipv4", name).write_text(value)
            _quiet_ipv6(INTERFACE)
            index = socket.if_nametoindex(INTERFACE)
            inside.link("set", index=1, state="up")  # lo, always the first
            inside.link("set", index=index, state="up")
            inside.addr("add", index=index, address=wire.ip, prefixlen=32)
            inside.route("add", dst="default", gateway=wire.gateway, oif=index, flags=RTNH_F_ONLINK)

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

    def _ensure_bridge(self, wanted: EnsureBridge) -> str:
        degraded = self._bridges.ensure(wanted.bridge, wanted.pods)
        for port in filter(None, map(index_of, wanted.veths)):
            self._netlink.link("set", index=port, master=index_of(wanted.bridge))
            self._turn_around(port)
        return degraded

    def _turn_around(self, port: int) -> None:
        """Where br_netfilter is loaded (Docker does) a pod that reaches itself through its Service is turned around
        inside the bridge, which sends a frame back to where it came from only in hairpin mode."""
        self._netlink.brport("set", index=port, mode=1)

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

    def cut(self, veth: str) -> None:
        """No cable of this name any more."""
        if index := veth and index_of(veth):
            with gone_is_fine():
                self._netlink.link("del", index=index)


def forget_flows(addresses: Collection[str], keep: Collection[str], port: int) -> None:
    """See `ForgetFlows`. The library's module is heavy and this is rare, so it is loaded only here."""
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

    only = {"daddr": next(iter(addresses))} if len(addresses) == 1 else {}
    with contextlib.closing(NFCTSocket()) as table:
        wanted = NFCTAttrTuple(**only, proto=socket.IPPROTO_UDP)
        for entry in list(table.dump(tuple_orig=wanted)):
            answered_by = NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr("CTA_TUPLE_REPLY")).saddr
            original = NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr("CTA_TUPLE_ORIG"))
            asked = original.proto == socket.IPPROTO_UDP and original.daddr in addresses
            if answered_by in keep or not asked or (port and original.dport != port):
                continue
            try:
                table.entry("del", tuple_orig=original)
            except NetlinkError as e:
                if e.code != errno.ENOENT:  # it may have ended meanwhile
                    raise


def answer(number: int, work: Callable[[], str | None]) -> Reply:
    """Carry out one request; whatever the kernel says becomes a sentence."""
    try:
        return Reply(number, degraded=work() or "")
    except PermanentError as e:
        return Reply(number, error=str(e), permanent=True)
    except NetlinkError as e:
        return Reply(number, error=f"the kernel's routing refused it: {os.strerror(e.code)} ({e.code})")
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
