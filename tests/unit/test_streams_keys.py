"""Openings and answers: what a broker that isn't trusted can do with them, which is nothing."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import trust
from cloudlink.streams import keys
from cloudlink.streams.keys import Answer, Opening, Party
from cloudlink.wire import Refused

HUB_SEED, NODE_SECRET = bytes(range(32)), bytes(range(1, 33))
VERIFY, NODE_PUBLIC = trust.verify_key_of(HUB_SEED), trust.public_key_of(NODE_SECRET)
E_HUB, E_NODE = bytes(range(2, 34)), bytes(range(3, 35))
PARTY = Party("greenhouse", "pi-1", "0011223344556677")
HUB = "aabbccddeeff"


def opening(party: Party = PARTY, hub: str = HUB) -> bytes:
    return keys.make_opening(party, hub, E_HUB, HUB_SEED)


def test_hub_and_node_come_to_the_same_two_keys() -> None:
    read = keys.read_opening(opening(), PARTY, VERIFY)
    theirs = keys.node_keys(PARTY, read, E_NODE, NODE_SECRET)
    answer = keys.read_answer(keys.make_answer(E_NODE, b"first"))
    ours = keys.hub_keys(PARTY, HUB, E_HUB, answer, NODE_PUBLIC)
    assert ours == theirs
    assert ours.to_node != ours.to_hub
    assert answer.first == b"first"


def test_a_node_with_another_static_key_comes_to_other_keys() -> None:
    read = keys.read_opening(opening(), PARTY, VERIFY)
    impostor = keys.node_keys(PARTY, read, E_NODE, bytes(range(9, 41)))
    ours = keys.hub_keys(PARTY, HUB, E_HUB, keys.read_answer(keys.make_answer(E_NODE, b"")), NODE_PUBLIC)
    assert set(impostor).isdisjoint(ours)


def test_every_conversation_has_keys_of_its_own() -> None:
    read = keys.read_opening(opening(), PARTY, VERIFY)
    one = keys.node_keys(PARTY, read, E_NODE, NODE_SECRET)
    two = keys.node_keys(PARTY, read, bytes(range(7, 39)), NODE_SECRET)
    other = PARTY._replace(conversation="ffffffffffffffff")
    three = keys.node_keys(other, keys.read_opening(opening(other), other, VERIFY), E_NODE, NODE_SECRET)
    assert len({*one, *two, *three}) == 6


@pytest.mark.parametrize(
    "other",
    [
        PARTY._replace(fleet="orchard"),
        PARTY._replace(node="pi-2"),
        PARTY._replace(conversation="7766554433221100"),
        Party("greenhouse-pi", "1", PARTY.conversation),
    ],
)
def test_an_opening_can_not_be_moved_to_another_node_fleet_or_conversation(other: Party) -> None:
    with pytest.raises(Refused, match="badly signed"):
        keys.read_opening(opening(), other, VERIFY)


def test_an_opening_by_another_hub_is_refused() -> None:
    forged = keys.make_opening(PARTY, HUB, E_HUB, bytes(range(5, 37)))
    with pytest.raises(Refused, match="badly signed"):
        keys.read_opening(forged, PARTY, VERIFY)


def test_an_answer_can_not_be_led_elsewhere_by_changing_where_the_hub_waits() -> None:
    read = msgspec.msgpack.decode(opening(), type=Opening)
    moved = msgspec.msgpack.encode(msgspec.structs.replace(read, hub="0123456789ab"))
    with pytest.raises(Refused, match="badly signed"):
        keys.read_opening(moved, PARTY, VERIFY)


def test_a_key_that_would_make_everybody_agree_is_refused() -> None:
    zero = keys.read_opening(opening(), PARTY, VERIFY)
    with pytest.raises(Refused, match="none"):
        keys.node_keys(PARTY, msgspec.structs.replace(zero, key=bytes(32)), E_NODE, NODE_SECRET)
    with pytest.raises(Refused, match="none"):
        keys.hub_keys(PARTY, HUB, E_HUB, Answer(keys.VERSION, bytes(32), b""), NODE_PUBLIC)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_opening_with_any_byte_changed_is_refused(at: int, change: int) -> None:
    raw = bytearray(opening())
    raw[at % len(raw)] ^= change
    with pytest.raises(Refused):
        keys.read_opening(bytes(raw), PARTY, VERIFY)


@given(st.binary(max_size=700))
def test_garbage_is_refused_and_nothing_else_is_raised(raw: bytes) -> None:
    with pytest.raises(Refused):
        keys.read_opening(raw, PARTY, VERIFY)
    with contextlib.suppress(Refused):
        keys.read_answer(raw)
