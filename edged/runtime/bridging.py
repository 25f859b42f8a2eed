"""The network worker's room for bridges: the node's own, and what all nodes of one machine share because of them.

Settings of the whole machine that a node changes (SETTINGS) are put back when the last node's bridge goes. What they
were is kept in every bridge's ifalias: "edged ip_forward=0 send_redirects=1".

Never imported by the daemon: pyroute2 costs more memory than all the rest of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from edged.errors import PermanentError
from edged.runtime.wiring import ALIAS, PodRange, bridge_mac, ip_number

RT_TABLE_MAIN = 254
ENODEV, ENXIO = 19, 6
MACHINE = Path("/proc/sys/net/ipv4")  # what every node of this machine (of this network namespace) shares
# Name in the alias -> (file, what we need).
# Redirects: no hints to pods that a neighbour were nearer. All go through the machine on purpose, and each hint uses up
# the kernel's allowance of ICMP for that pod, so that a Service without pods would be silent instead of refusing. They
# are sent where either "all" or the bridge says so; every other interface keeps its own setting.
SETTINGS = {"ip_forward": ("ip_forward", "1"), "send_redirects": ("conf/all/send_redirects", "0")}


def index_of(interface: str) -> int:
    """0 where there is none."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as e:
        if e.code not in (ENODEV, ENXIO):
            raise


class Bridges:
    """:param netlink: an IPRoute of the machine's namespace."""

    def __init__(self, netlink: Any) -> None:
        self._netlink = netlink

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
                with gone_is_fine():
                    self._netlink.link("del", index=index)
            if not _our_bridges():
                for setting, before in _settings_in(mine).items():
                    with contextlib.suppress(OSError, KeyError):
                        (MACHINE / SETTINGS[setting][0]).write_text(before)

    def addresses(self) -> set[str]:
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
