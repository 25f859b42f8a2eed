"""The network worker's room for what is rare: the node's bridge, what all nodes of one machine share because of it, and
the kernel's memory of UDP flows.

Settings of the whole machine that a node changes (SETTINGS) are put back when the last node's bridge goes. What they
were is kept in every bridge's ifalias: "edged ip_forward=0 send_redirects=1".

Never imported by the daemon: pyroute2 costs more memory than all the rest of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import os
import socket
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edged.errors import PermanentError
from edged.runtime.cables import index_of
from edged.runtime.wiring import ALIAS, PodRange, bridge_mac, ip_number


def _bare_package(name: str) -> None:
    """Let submodules of a package be imported without its `__init__`.

    pyroute2's own imports everything it has (NDB, WireGuard, Plan 9): 60 ms here and a third of a second on a Pi,
    which every start of a node would wait for. Only its public submodule `pyroute2.iproute` is used.
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

RT_TABLE_MAIN = 254
MACHINE = Path("/proc/sys/net/ipv4")  # what every node of this machine (of this network namespace) shares
# Name in the alias -> (file, what we need).
# Redirects: no hints to pods that a neighbour were nearer. All go through the machine on purpose, and each hint uses up
# the kernel's allowance of ICMP for that pod, so that a Service without pods would be silent instead of refusing. They
# are sent where either "all" or the bridge says so; every other interface keeps its own setting.
SETTINGS = {"ip_forward": ("ip_forward", "1"), "send_redirects": ("conf/all/send_redirects", "0")}


class Bridges:
    """What is done with pyroute2, in the machine's network namespace. Its errors are OSErrors to whoever asks."""

    def __enter__(self) -> Bridges:
        self._netlink: Any = IPRoute()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._netlink.close()
        if isinstance(error, NetlinkError):
            said = f"the kernel's routing refused it: {os.strerror(error.code)} ({error.code})"
            raise OSError(error.code, said) from error

    def ensure(self, name: str, pods: PodRange) -> str:
        """See `wiring.EnsureBridge`. Returns a sentence on what could not be had fully, or ""."""
        self._refuse_overlap(name, pods)
        with _machine_lock():
            index = index_of(name)
            ours = _alias(name).startswith(ALIAS)
            if not index:
                self._netlink.link("add", ifname=name, kind="bridge", address=bridge_mac(name))
                index, ours = index_of(name), True
            elif not Path("/sys/class/net", name, "bridge").exists():
                raise PermanentError(f"there is an interface {name} that is no bridge; set network.bridge to another")
            with contextlib.suppress(OSError):
                (MACHINE / "conf" / name / "send_redirects").write_text("0")
            self._ensure_address(name, index, pods.gateway, pods.prefix, ours)
            alias, degraded = _change_settings()
            self._netlink.link("set", index=index, state="up", ifalias=alias)
        return degraded

    def remove(self, name: str) -> None:
        """See `wiring.RemoveBridge`."""
        with _machine_lock():
            mine = _our_bridges().get(name)
            if mine is None:
                return  # not there, or not made by us
            if index := index_of(name):
                try:
                    self._netlink.link("del", index=index)
                except NetlinkError as e:
                    if e.code not in (errno.ENODEV, errno.ENXIO):
                        raise
            if not _our_bridges():
                for setting, before in _settings_in(mine).items():
                    with contextlib.suppress(OSError, KeyError):
                        (MACHINE / SETTINGS[setting][0]).write_text(before)

    def forget_flows(self, address: str, keep: tuple[str, ...], port: int) -> None:
        """See `wiring.ForgetFlows`."""
        from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket  # heavier still

        addresses = {address} if address else self._addresses()
        only = {"daddr": address} if address else {}
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

    def _addresses(self) -> set[str]:
        """The machine's own."""
        return {dict(m["attrs"])["IFA_LOCAL"] for m in self._netlink.get_addr(family=2)}

    def _ensure_address(self, name: str, index: int, address: str, prefix: int, ours: bool) -> None:
        there = [(dict(m["attrs"])["IFA_LOCAL"], m["prefixlen"]) for m in self._netlink.get_addr(family=2, index=index)]
        for other in there:
            if other == (address, prefix):
                continue
            if not ours:
                raise PermanentError(f"bridge {name} has {other[0]}/{other[1]} and isn't ours; choose another name")
            self._netlink.addr("del", index=index, address=other[0], prefixlen=other[1])
        if (address, prefix) not in there:
            broadcast = ip_number(address) | ((1 << (32 - prefix)) - 1)
            self._netlink.addr(
                "add",
                index=index,
                address=address,
                prefixlen=prefix,
                broadcast=socket.inet_ntoa(broadcast.to_bytes(4, "big")),
            )

    def _refuse_overlap(self, bridge: str, pods: PodRange) -> None:
        for route in self._netlink.get_routes(family=2, table=RT_TABLE_MAIN):
            attributes = dict(route["attrs"])
            destination, bits = attributes.get("RTA_DST"), route["dst_len"]
            if not destination or not bits:
                continue
            shorter = min(bits, pods.prefix)
            if (ip_number(destination) ^ pods.base) >> (32 - shorter):
                continue
            try:
                interface = socket.if_indextoname(attributes.get("RTA_OIF", 0))
            except OSError:
                interface = "nowhere"
            if interface != bridge:
                raise PermanentError(
                    f"network.pod_cidr {pods.cidr} overlaps the route {destination}/{bits} of {interface};"
                    " choose another"
                )


def _change_settings() -> tuple[str, str]:
    """(a bridge's alias, a sentence or ""). What another bridge says of the time before the first node is believed."""
    known: dict[str, str] = {}
    for alias in _our_bridges().values():
        known = _settings_in(alias) | known
    words, degraded = [], ""
    for name, (file, wanted) in SETTINGS.items():
        setting = MACHINE / file
        now = setting.read_text().strip()
        # A node of a version that kept less may have changed the rest: then nobody knows what it was.
        if name in known or not known:
            words.append(f"{name}={known.get(name, now)}")
        if now != wanted:
            try:
                setting.write_text(wanted)
            except OSError as e:
                if name == "ip_forward":
                    degraded = f"{setting} can't be set to 1 ({e.strerror}): pods reach only this machine"
    return ALIAS + " ".join(words), degraded


def _settings_in(alias: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in alias.removeprefix(ALIAS).split())
    return {name: value for name, _, value in pairs if value in ("0", "1")}


def _our_bridges() -> dict[str, str]:
    """Name -> alias of the bridges of all nodes on this machine."""
    aliases = {name: _alias(name) for _, name in socket.if_nameindex()}
    return {name: alias for name, alias in aliases.items() if alias.startswith(ALIAS)}


def _alias(interface: str) -> str:
    try:
        return Path("/sys/class/net", interface, "ifalias").read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _machine_lock() -> Iterator[None]:
    fd = os.open(MACHINE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
