"""The parts of a gRPC health check that need no network: header blocks, the answer's message, what it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.runtime import hpack
from edged.runtime.grpc_health import Answer, health_of, verdict

# As another encoder writes it, with Huffman's code: an error whose message holds short and long codes.
CODED = bytes.fromhex(
    "885f8b1d75d0620d263d4c4d656440889acac8b21234da8f816f40899acac8b5254207317f94b6aeb51fc54a20b677310aa7f23fffd1fffa4fe7"
)


def test_headers_in_huffmans_code_are_read() -> None:
    assert dict(hpack.decode(CODED)) == {
        ":status": "200",
        "": "application/grpc",  # a name of the static table that doesn't matter here
        "grpc-status": "5",
        "grpc-message": 'unknown service "a{b}c"',
    }


@given(st.lists(st.tuples(st.text("abcd-:", min_size=1), st.text(st.characters(max_codepoint=126), max_size=300))))
def test_what_is_encoded_is_decoded_the_same(headers: list[tuple[str, str]]) -> None:
    assert hpack.decode(hpack.encode(headers)) == headers


@given(st.binary(max_size=200))
def test_no_header_block_is_a_surprise(block: bytes) -> None:
    try:
        hpack.decode(block)
    except ValueError:
        return


@given(st.integers(0, len(CODED) - 1))
def test_a_block_that_is_cut_anywhere_is_refused_or_shorter(end: int) -> None:
    try:
        assert len(hpack.decode(CODED[:end])) < 4
    except ValueError:
        return


@given(st.binary(max_size=200))
def test_no_body_is_a_surprise(body: bytes) -> None:
    try:
        assert health_of(body) >= 0
    except ValueError:
        return


def test_the_state_is_found_behind_fields_of_a_later_version() -> None:
    message = b"\x12\x03abc" + b"\x08\x01" + b"\x19" + b"\0" * 8 + b"\x25" + b"\0" * 4
    assert health_of(b"\0\0\0\0" + bytes([len(message)]) + message) == 1
    assert health_of(b"\0\0\0\0\0") == 0


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({":status": "200", "grpc-status": "0"}, b"\0\0\0\0\2\x08\1", ""),
        ({":status": "200", "grpc-status": "0"}, b"\0\0\0\0\2\x08\2", "it says NOT_SERVING"),
        ({":status": "200", "grpc-status": "0"}, b"\0\0\0\0\0", "it says UNKNOWN"),
        ({":status": "200", "grpc-status": "0"}, b"\0\0\0\0\2\x08\x63", "it says 99"),
        ({":status": "200", "grpc-status": "5"}, b"", "it knows no service 'shop'"),
        ({":status": "200", "grpc-status": "12"}, b"", "it does not implement grpc.health.v1.Health"),
        ({":status": "200", "grpc-status": "14", "grpc-message": "busy"}, b"", "failed with gRPC status 14: busy"),
        ({":status": "404"}, b"", "it answered with HTTP 404, not gRPC"),
    ],
)
def test_only_serving_is_a_yes(headers: dict[str, str], body: bytes, said: str) -> None:
    found = verdict(Answer(headers, body), "shop")
    assert found == said if not said else said in found
