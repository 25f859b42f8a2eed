"""News of links and addresses as the kernel sends them (rtnetlink(7)), and the messages that are sent to it."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from edged.runtime import cables
from edged.runtime import rtnetlink as rt


def link(kind: int, name: str) -> bytes:
    return rt.message(kind, 0, rt.LINK.pack(0, 0, 1, 5, 1, 1) + rt.attribute(rt.IFLA_IFNAME, name.encode() + b"\0"))


def netconf(index: int, setting: int) -> bytes:
    body = bytes([socket.AF_INET, 0, 0, 0]) + rt.attribute(rt.NETCONFA_IFINDEX, struct.pack("=i", index))
    return rt.message(rt.NEWNETCONF, 0, body + rt.attribute(setting, struct.pack("=i", 0)))


def heard(*packets: bytes) -> rt.Change:
    change = rt.Change()
    for packet in packets:
        rt.heard(packet, change)
    return change


def test_links_are_known_by_name_and_addresses_are_only_counted() -> None:
    change = heard(link(rt.NEWLINK, "edged0") + link(rt.DELLINK, "ve1"), rt.message(rt.NEWADDR, 0, b"\0" * 8))
    assert (change.links, change.addresses, change.forwarding) == ({"edged0", "ve1"}, True, False)
    assert not heard(b"")
    assert heard(link(rt.NEWLINK, "x"))


def test_only_the_machines_own_forwarding_counts() -> None:
    assert heard(netconf(-1, rt.NETCONFA_FORWARDING)).forwarding
    assert not heard(netconf(3, rt.NETCONFA_FORWARDING))
    assert not heard(netconf(-1, 3))


@given(st.binary(max_size=300))
def test_no_packet_is_a_surprise(packet: bytes) -> None:
    heard(packet)


@given(st.integers(0, 200), st.binary(max_size=40))
def test_a_packet_that_is_cut_or_has_a_tail_is_no_surprise(cut: int, tail: bytes) -> None:
    heard((link(rt.NEWLINK, "edged0") + netconf(-1, 2) + rt.message(rt.DELADDR, 0, b""))[:cut] + tail)


@given(st.dictionaries(st.integers(1, 60), st.binary(max_size=30), max_size=8))
def test_attributes_are_read_as_they_were_written(written: dict[int, bytes]) -> None:
    assert rt.attributes(b"".join(rt.attribute(kind, value) for kind, value in written.items())) == written


def test_a_cable_is_one_message_whose_parts_name_both_ends() -> None:
    ((kind, body),) = rt.messages(cables.veth("ve1", 7, "eth0", 11))
    found = rt.attributes(body[rt.LINK.size :])
    assert kind == rt.NEWLINK
    assert found[rt.IFLA_IFNAME] == b"ve1\0"
    assert found[cables.IFLA_MASTER] == struct.pack("=I", 7)
    info = rt.attributes(found[cables.IFLA_LINKINFO])
    peer = rt.attributes(info[cables.IFLA_INFO_DATA])[cables.VETH_INFO_PEER]
    other = rt.attributes(peer[rt.LINK.size :])
    assert info[cables.IFLA_INFO_KIND] == b"veth"
    assert (other[rt.IFLA_IFNAME], other[cables.IFLA_NET_NS_FD]) == (b"eth0\0", struct.pack("=I", 11))
