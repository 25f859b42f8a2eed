"""Names, addresses and packets of the network: pure."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import PermanentError
from edged.runtime.network import masquerade_script
from edged.runtime.nftables import DELETE_TABLE, NEW_TABLE, table_events
from edged.runtime.wiring import (
    EnsureBridge,
    PodRange,
    RemoveBridge,
    Unwire,
    Wire,
    bridge_mac,
    decode_requests,
    encode_requests,
    veth_name,
    veth_prefix,
)


def test_the_bridge_has_the_first_address_and_pods_the_rest_but_the_broadcast_address() -> None:
    pods = PodRange.parse("10.88.0.0/29")
    assert pods.gateway == "10.88.0.1"
    assert [pods.pod_address(i) for i in range(pods.capacity)] == [f"10.88.0.{n}" for n in (2, 3, 4, 5, 6)]


@given(st.integers(8, 29), st.integers(0, 2**32 - 1), st.data())
def test_an_index_and_its_address_are_each_others_inverse(prefix: int, base: int, data: st.DataObject) -> None:
    size = 1 << (32 - prefix)
    network = PodRange(cidr="", base=base // size * size, prefix=prefix)
    index = data.draw(st.integers(0, network.capacity - 1))
    assert network.index(network.pod_address(index)) == index
    assert network.index(network.gateway) is None


@pytest.mark.parametrize(
    "cidr",
    ["", "10.88.0.0", "10.88.0.0/", "10.88.0/24", "10.88.0.1/24", "10.88.0.0/31", "0.0.0.0/0", "fd00::/64", "x/y"],
)
def test_a_range_that_makes_no_sense_is_refused_with_its_setting_named(cidr: str) -> None:
    with pytest.raises(PermanentError, match=r"network\.pod_cidr"):
        PodRange.parse(cidr)


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=15), st.integers(0, (1 << 24) - 4))
def test_a_veth_name_fits_into_what_the_kernel_allows(bridge: str, index: int) -> None:
    name = veth_name(bridge, index)
    assert len(name) <= 15
    assert name.startswith(veth_prefix(bridge))
    assert int(name.removeprefix(veth_prefix(bridge)), 16) == index


def test_nodes_with_different_bridges_have_different_names_and_addresses() -> None:
    assert veth_prefix("edged0") != veth_prefix("edged1")
    assert bridge_mac("edged0") != bridge_mac("edged1")
    assert bridge_mac("edged0").startswith("02:")  # unicast, locally administered
    assert len(bridge_mac("edged0")) == 17


def test_requests_travel_unchanged() -> None:
    requests = [
        (1, EnsureBridge("edged0", PodRange.parse("10.88.0.0/24"))),
        (2, Wire("/run/x", "10.88.0.2", "10.88.0.1", "ve0", "edged0")),
        (3, Unwire("/run/x", "")),
        (4, RemoveBridge("edged0")),
    ]
    assert decode_requests(encode_requests(requests)) == requests


def test_masquerade_is_only_for_what_leaves_the_bridge_and_only_with_egress() -> None:
    script = masquerade_script("edged", "edged0", "10.88.0.0/24", egress=True)
    assert 'ip saddr 10.88.0.0/24 oifname != "edged0" masquerade' in script
    assert masquerade_script("edged", "edged0", "10.88.0.0/24", egress=False) == (
        "table ip edged\ndelete table ip edged\n"
    )


def event(kind: int, name: bytes, family: int = 2) -> bytes:
    attribute = struct.pack("=HH", 5 + len(name), 1) + name + b"\0"
    body = struct.pack("=BBH", family, 0, 0) + struct.pack("=HHI", 8, 2, 0) + attribute + b"\0" * (-len(attribute) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_table_events_are_read_in_order_and_other_families_and_kinds_are_passed_over() -> None:
    packet = event(DELETE_TABLE, b"edged") + event(NEW_TABLE, b"other", family=10) + event(10 << 8 | 6, b"rule")
    packet += event(NEW_TABLE, b"edged")
    assert list(table_events(packet)) == [("edged", False), ("edged", True)]


@given(st.binary(max_size=200))
def test_garbage_is_no_event_and_no_error(packet: bytes) -> None:
    list(table_events(packet))


@given(st.integers(0, 60), st.binary(max_size=8))
def test_a_truncated_packet_is_no_error(cut: int, tail: bytes) -> None:
    list(table_events((event(DELETE_TABLE, b"edged") + event(NEW_TABLE, b"edged"))[:cut] + tail))
