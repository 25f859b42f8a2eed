"""Topics and bodies: what goes out comes back, equal values are equal bytes, and garbage is only ever refused."""

from __future__ import annotations

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import wire
from edged.errors import PermanentError
from edged.model import (
    Capacity,
    Container,
    ContainerStatus,
    Desired,
    Env,
    Event,
    HttpAction,
    Limits,
    NodeStatus,
    Phase,
    Pod,
    PodStatus,
    Probe,
    Refusal,
    SecretFiles,
    Service,
    ServicePort,
    Volume,
)

names = st.from_regex(wire._NAME, fullmatch=True)
texts = st.text(max_size=20)
walls = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**40).map(float)

capacities = st.builds(
    Capacity, memory=st.integers(0, 2**40), memory_allocatable=st.integers(0, 2**40), cpu=st.just(4000)
)
container_statuses = st.builds(
    ContainerStatus, name=texts, image=texts, state=texts, restarts=st.integers(0, 99), started_wall=walls
)
pod_statuses = st.builds(
    PodStatus,
    uid=texts,
    namespace=texts,
    name=texts,
    phase=st.sampled_from(Phase),
    containers=st.lists(container_statuses, max_size=3).map(tuple),
)
events = st.builds(
    Event, seq=st.integers(0, 2**62), wall=walls, kind=st.just("Normal"), reason=texts, message=texts, pod=texts
)
statuses = st.builds(
    NodeStatus,
    node=names,
    generation=st.integers(0, 2**62),
    epoch=texts,
    capacity=capacities,
    pods=st.lists(pod_statuses, max_size=3).map(tuple),
    events=st.lists(events, max_size=3).map(tuple),
    degraded=st.lists(texts, max_size=2).map(tuple),
    refused=st.none() | st.builds(Refusal, count=st.integers(1, 9), reason=texts, wall=walls),
)


def _status() -> NodeStatus:
    return NodeStatus("pi-1", 7, "e", Capacity(1 << 30, 1 << 29, 4000))


@given(names, names, st.sampled_from(sorted(wire.LEAVES)))
def test_a_topic_that_was_made_is_parsed_back(fleet: str, node: str, leaf: str) -> None:
    assert wire.parse_topic(wire.topic(fleet, node, leaf)) == (fleet, node, leaf)


@given(st.text(max_size=80) | st.lists(st.sampled_from(["edge", "v1", "a", "+", "#", "", "status"])).map("/".join))
def test_a_topic_is_parsed_only_if_it_is_the_one_that_would_be_made(name: str) -> None:
    try:
        parsed = wire.parse_topic(name)
    except wire.Refused:
        return
    assert wire.topic(*parsed) == name


def test_the_subscription_for_all_nodes_has_a_wildcard_for_the_node_only() -> None:
    assert wire.every_node("home", wire.STATUS) == "edge/v1/home/+/status"


@pytest.mark.parametrize("bad", ["", "a/b", "+", "#", "A", "a" * 64, "-a", "a-", "ä", "a\n"])
def test_names_that_would_bend_a_topic_are_not_made_into_one(bad: str) -> None:
    with pytest.raises(PermanentError):
        wire.topic("home", bad, wire.STATUS)
    with pytest.raises(PermanentError):
        wire.topic(bad, "pi-1", wire.STATUS)


@given(statuses)
def test_a_status_comes_back_as_it_went_and_encodes_to_the_same_bytes_again(status: NodeStatus) -> None:
    body = wire.encode_status(status)
    back = wire.decode_status(body)
    assert back == status
    assert wire.encode_status(back) == body


def test_equal_values_give_equal_bytes_however_they_were_made() -> None:
    probe = Probe(HttpAction(80, "/ready"))
    same = Probe(HttpAction(80, "/" + "ready"), period=float("10"), timeout=1, failure_threshold=int("3"))
    first = Desired(
        "f", "n", 1, (Pod("d", "p", "u", (Container("c", "i", liveness=probe),)),), configs={"a": {}, "b": {}}
    )
    container = Container("c", "i", liveness=same, limits=Limits(), env=())
    second = Desired("f", "n", 1, (Pod("d", "p", "u", (container,)),), configs={"b": {}, "a": {}})
    assert first == second
    assert wire.encode_desired(first) == wire.encode_desired(second)


def test_every_kind_of_field_survives_the_desired_document() -> None:
    container = Container(
        "c",
        "img:1",
        command=("/bin/sh", "-c", "true"),
        env=(Env("A", value=""), Env("B", secret="s", key="k")),
        limits=Limits(memory_limit=64 << 20, cpu_limit=500),
        readiness=Probe(HttpAction(80), period=2.5),
    )
    pod = Pod("d", "p", "u", (container,), (Volume("v", SecretFiles("s", mode=0o400)),))
    service = Service("d", "s", "10.96.0.1", (ServicePort(80, 8080),), pods=("u",))
    desired = Desired("f", "n", 3, (pod,), (service,), {"d/c": {"k": b"\x00\xff"}}, {"d/s": b"sealed"})
    assert wire.decode_desired(wire.unframe(wire.encode_desired(desired), "x")) == desired


def test_a_field_that_this_side_does_not_know_yet_is_skipped() -> None:
    document = msgspec.msgpack.decode(wire.canonical(_status()))
    body = wire.frame(msgspec.msgpack.encode({**document, "invented_later": [1, 2]}), "status")
    assert wire.decode_status(body) == _status()


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else(garbage: bytes) -> None:
    for decode in (wire.decode_status, wire.decode_presence):
        for body in (garbage, b"\x01" + garbage, wire.frame(garbage, "x")):
            with pytest.raises(wire.Refused):
                decode(body)


@given(st.data())
def test_a_changed_or_cut_status_is_refused_or_still_a_status(data: st.DataObject) -> None:
    body = bytearray(wire.encode_status(data.draw(statuses)))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    for damaged in (bytes(body), cut):
        try:
            assert isinstance(wire.decode_status(damaged), NodeStatus)
        except wire.Refused:
            continue


@pytest.mark.parametrize(
    "document",
    [
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa4node\xa2\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_documents_made_to_hurt_a_decoder_are_refused(document: bytes) -> None:
    with pytest.raises(wire.Refused):
        wire.decode_status(wire.frame(document, "x"))


def test_a_bomb_is_refused_by_what_it_declares() -> None:
    bomb = b"\x01" + zstandard.ZstdCompressor().compress(bytes(wire.MAX_DOCUMENT + 1))
    assert len(bomb) < 2000
    with pytest.raises(wire.Refused, match="decompressed"):
        wire.decode_status(bomb)


def test_a_frame_that_hides_its_size_is_refused() -> None:
    shy = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(wire.Refused, match="declare"):
        wire.decode_status(b"\x01" + shy)


def test_bytes_behind_the_frame_are_refused() -> None:
    with pytest.raises(wire.Refused):
        wire.decode_status(wire.encode_status(_status()) + b"x")


def test_another_schema_version_is_refused_by_name() -> None:
    with pytest.raises(wire.Refused, match="schema version 3"):
        wire.decode_status(b"\x03" + wire.encode_status(_status())[1:])


def test_only_documents_with_a_time_in_them_ask_for_a_node_that_knows_times() -> None:
    pod = Pod("default", "later", "uid", ())
    assert wire.encode_desired(Desired("home", "pi", 1, (pod,)))[0] == wire.FIRST
    timed = Desired("home", "pi", 1, (msgspec.structs.replace(pod, start_at=1.75e9),))
    assert wire.encode_desired(timed)[0] == wire.TIMED
    assert wire.decode_desired(wire.unframe(wire.encode_desired(timed), "x")) == timed


def test_a_body_too_large_to_travel_is_refused_on_both_sides() -> None:
    with pytest.raises(wire.Refused, match="allowed"):
        wire.decode_status(b"\x01" + bytes(wire.MAX_PACKET))
    with pytest.raises(PermanentError, match="make it smaller"):
        wire.frame(bytes(wire.MAX_DOCUMENT + 1), "status")


def test_a_status_on_another_nodes_topic_is_refused() -> None:
    assert wire.decode_status(wire.encode_status(_status()), "pi-1") == _status()
    with pytest.raises(wire.Refused, match="pi-1"):
        wire.decode_status(wire.encode_status(_status()), "pi-2")


@given(st.booleans(), texts, walls)
def test_presence_comes_back_as_it_went(online: bool, epoch: str, since: float) -> None:
    presence = wire.Presence(online, epoch, since)
    assert wire.decode_presence(wire.encode_presence(presence)) == presence


# ---------------------------------------------------------------- topics of conversations


def test_topics_of_conversations_are_read_as_they_were_made() -> None:
    asked = wire.request_topic("lab", "pi-1", "0123456789abcdef")
    assert wire.parse_request(asked) == wire.Stream("lab", "pi-1", "", "0123456789abcdef")
    said = wire.response_topic("lab", "pi-1", "aabbccddeeff", "0123456789abcdef")
    assert wire.parse_response(said) == wire.Stream("lab", "pi-1", "aabbccddeeff", "0123456789abcdef")


@pytest.mark.parametrize(
    "name",
    [
        "edge/v1/lab/pi-1/req/+",
        "edge/v1/lab/pi-1/req/../../desired",
        "edge/v1/lab/pi-1/req/0123456789ABCDEF",
        "edge/v2/lab/pi-1/req/0123456789abcdef",
        "edge/v1/lab/Pi/req/0123456789abcdef",
        "edge/v1/lab/pi-1/res/aabbccddeeff/0123456789abcdef/more",
        "edge/v1/lab/pi-1/res/#/0123456789abcdef",
        "",
    ],
)
def test_other_topics_are_no_conversations(name: str) -> None:
    with pytest.raises(wire.Refused):
        wire.parse_request(name)
    with pytest.raises(wire.Refused):
        wire.parse_response(name)


def test_an_answer_can_not_be_sent_to_a_topic_of_somebodys_choice() -> None:
    with pytest.raises(wire.Refused):
        wire.response_topic("lab", "pi-1", "../../other", "0123456789abcdef")
