"""Only what the hub signed, for this fleet and node, is believed; all else is refused with a reason."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import trust, wire
from cloudlink.wire import Refused
from edged.errors import PermanentError
from edged.model import Container, Desired, Pod
from edged.uplink import Inbox

SEED = bytes(range(32))
KEY = trust.verify_key_of(SEED)
POD = Pod("default", "web", "u-1", (Container("c", "demo:1"),))
DESIRED = Desired("home", "pi-1", 5, (POD,), configs={"default/c": {"k": b"v"}})
RAW = trust.sign_desired(DESIRED, SEED, 1.75e9)


def _envelope(**changes: object) -> bytes:
    held = msgspec.msgpack.decode(RAW, type=trust.Envelope)
    return msgspec.msgpack.encode(msgspec.structs.replace(held, **changes))


def test_what_the_hub_signed_is_opened() -> None:
    opened = trust.open_envelope(RAW, KEY, "home", "pi-1")
    assert opened.desired == DESIRED
    assert opened.issued_at == 1.75e9
    assert trust.open_desired(RAW, KEY, "home", "pi-1") == DESIRED


def test_signing_the_same_content_later_keeps_its_digest() -> None:
    later = trust.sign_desired(DESIRED, SEED, 1.76e9)
    assert later != RAW
    assert (
        trust.open_envelope(later, KEY, "home", "pi-1").digest == trust.open_envelope(RAW, KEY, "home", "pi-1").digest
    )


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, flip: int) -> None:
    damaged = bytearray(RAW)
    damaged[at] ^= flip
    with pytest.raises(Refused) as caught:
        trust.open_desired(bytes(damaged), KEY, "home", "pi-1")
    assert caught.value.reason


@given(st.integers(0, len(RAW) - 1))
def test_any_cut_document_is_refused(length: int) -> None:
    with pytest.raises(Refused):
        trust.open_desired(RAW[:length], KEY, "home", "pi-1")


@given(st.binary(min_size=1, max_size=40))
def test_anything_behind_a_document_is_refused(tail: bytes) -> None:
    with pytest.raises(Refused):
        trust.open_desired(RAW + tail, KEY, "home", "pi-1")


@given(st.binary(max_size=400))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(Refused):
        trust.open_desired(garbage, KEY, "home", "pi-1")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "v": st.integers(0, 3),
            "fleet": st.sampled_from(["home", "other", "", "pi-1"]),
            "node": st.sampled_from(["pi-1", "pi-2", "", "home"]),
            "generation": st.integers(-(2**63), 2**64 - 1),
            "issued_at": st.floats(),
            "content": st.binary(max_size=50),
            "signature": st.binary(max_size=70),
        },
    )
)
def test_an_envelope_with_any_field_exchanged_is_refused(changes: dict[str, object]) -> None:
    raw = _envelope(**changes)
    if raw == RAW:
        return
    with pytest.raises(Refused):
        trust.open_desired(raw, KEY, "home", "pi-1")


def test_content_of_one_document_in_the_envelope_of_another_is_refused() -> None:
    other = msgspec.msgpack.decode(trust.sign_desired(Desired("home", "pi-1", 6), SEED, 1.75e9), type=trust.Envelope)
    with pytest.raises(Refused, match="badly signed"):
        trust.open_desired(_envelope(content=other.content), KEY, "home", "pi-1")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (_envelope(signature=b""), "unsigned"),
        (_envelope(signature=bytes(64)), "badly signed"),
        (_envelope(signature=bytes(63)), "64"),
        (_envelope(v=2), "version 2"),
        (b"hello", "not a signed envelope"),
        (b"\x91" * 100_000, "not a signed envelope"),
        (bytes(wire.MAX_PACKET + 4096), "allowed"),
        (trust.sign_desired(DESIRED, bytes(32), 1.75e9), "badly signed"),
        (trust.sign_desired(Desired("home", "pi-2", 5), SEED, 0), "for node 'pi-2'"),
        (trust.sign_desired(Desired("away", "pi-1", 5), SEED, 0), "for fleet 'away'"),
    ],
)
def test_each_refusal_says_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        trust.open_desired(raw, KEY, "home", "pi-1")


def _signed_by_the_hub_but_wrong_inside(content: bytes) -> bytes:
    envelope = trust.Envelope(trust.ENVELOPE, "home", "pi-1", 5, 0.0, content)
    secret = trust.nacl.bindings.crypto_sign_seed_keypair(SEED)[1]
    signature = trust.nacl.bindings.crypto_sign(trust._signed_message(envelope), secret)[:64]
    return msgspec.msgpack.encode(msgspec.structs.replace(envelope, signature=signature))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (wire.encode_desired(Desired("home", "pi-1", 6)), "generation 6, its envelope 5"),
        (wire.encode_desired(Desired("home", "pi-2", 5)), "inside is for"),
        (wire.encode_desired(Desired("away", "pi-1", 5)), "inside is for"),
        (b"\x03" + wire.encode_desired(DESIRED)[1:], "schema version 3"),
        (wire.frame(b"\x80", "x"), "schema"),
        (b"", "empty"),
    ],
)
def test_even_a_signed_document_is_refused_if_its_inside_disagrees(content: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        trust.open_desired(_signed_by_the_hub_but_wrong_inside(content), KEY, "home", "pi-1")


def test_a_replayed_older_document_is_refused_by_the_inbox() -> None:
    inbox = Inbox(wake=lambda: None)
    for generation in (5, 6, 5):
        raw = trust.sign_desired(Desired("home", "pi-1", generation), SEED, 0)
        opened = trust.open_envelope(raw, KEY, "home", "pi-1")
        inbox.offer(opened.desired, opened.digest)
    assert inbox.generation == 6
    assert "older generation 5" in inbox.last_refusal


@pytest.mark.parametrize("generation", [0, -1, 1 << 63])
def test_a_generation_that_is_none_is_not_signed(generation: int) -> None:
    with pytest.raises(PermanentError, match="generation"):
        trust.sign_desired(Desired("home", "pi-1", generation), SEED, 0)


@given(st.floats(allow_nan=False), st.integers(1, 2**63 - 1))
def test_every_generation_and_time_can_be_signed(issued_at: float, generation: int) -> None:
    raw = trust.sign_desired(Desired("f", "n", generation), SEED, issued_at)
    opened = trust.open_envelope(raw, KEY, "f", "n")
    assert (opened.desired.generation, opened.issued_at) == (generation, issued_at)
