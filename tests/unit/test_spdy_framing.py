"""SPDY/3.1 frames: what one end says the other hears, however the bytes are cut; and what is no SPDY is refused."""

from __future__ import annotations

import contextlib
import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.doors import spdy
from cloudlink.hub.doors.spdy import (
    Data,
    Frame,
    Framing,
    GoAway,
    MoreHeaders,
    Ping,
    RstStream,
    Setting,
    Settings,
    SpdyError,
    SynReply,
    SynStream,
    WindowUpdate,
)

ids = st.integers(0, 2**31 - 1)
words = st.integers(0, 2**32 - 1)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(str.lower)
values = st.text(st.characters(max_codepoint=255), max_size=50)
headers = st.dictionaries(names, values, max_size=6)
settings = st.builds(Setting, st.integers(0, 2**24 - 1), words, st.integers(0, 255))
frames = st.one_of(
    st.builds(SynStream, ids, headers, st.booleans(), st.booleans(), ids, st.integers(0, 7)),
    st.builds(SynReply, ids, headers, st.booleans()),
    st.builds(MoreHeaders, ids, headers, st.booleans()),
    st.builds(Data, ids, st.binary(max_size=300), st.booleans()),
    st.builds(RstStream, ids, words),
    st.builds(Settings, st.lists(settings, max_size=5).map(tuple), st.booleans()),
    st.builds(Ping, words),
    st.builds(GoAway, ids, words),
    st.builds(WindowUpdate, ids, ids),
)


def hear(framing: Framing, *pieces: bytes) -> list[Frame]:
    return [frame for piece in pieces for frame in framing.receive(piece)]


def joined(heard: list[Frame]) -> list[Frame]:
    """Data as it was sent: pieces of one frame together, and the frames that say nothing left out."""
    whole: list[Frame] = []
    open_data: Data | None = None
    for frame in heard:
        if isinstance(frame, Data) and open_data is not None and open_data.stream == frame.stream:
            frame = Data(frame.stream, open_data.data + frame.data, frame.fin)
            if open_data.data:
                whole.pop()
        if not isinstance(frame, Data) or frame.data or frame.fin:
            whole.append(frame)
        open_data = frame if isinstance(frame, Data) and not frame.fin else None
    return whole


@given(st.lists(frames, max_size=12), st.lists(st.integers(0, 4000), max_size=20))
def test_what_one_end_says_the_other_hears_however_it_is_cut(said: list[Frame], cuts: list[int]) -> None:
    speaker, listener = Framing(), Framing()
    wire = b"".join(map(speaker.encode, said))
    edges = [0, *sorted(min(c, len(wire)) for c in cuts), len(wire)]
    pieces = [wire[a:b] for a, b in itertools.pairwise(edges)]
    assert joined(hear(listener, *pieces)) == joined(said)


@given(st.lists(frames, max_size=3), st.binary(max_size=400))
def test_whatever_comes_is_a_frame_or_a_refusal_and_never_a_crash(said: list[Frame], noise: bytes) -> None:
    speaker, listener = Framing(), Framing()
    with contextlib.suppress(SpdyError):
        hear(listener, b"".join(map(speaker.encode, said)), noise, noise)


@given(frames, st.integers(0, 500), st.integers(0, 255))
def test_a_frame_with_one_byte_changed_is_never_a_crash(said: Frame, where: int, what: int) -> None:
    wire = bytearray(Framing().encode(said))
    wire[where % len(wire)] = what
    with contextlib.suppress(SpdyError):
        hear(Framing(), bytes(wire))


def test_the_dictionary_is_the_one_of_the_protocol() -> None:
    # Its Adler-32 is in every zlib stream that uses it: the other end would not take another.
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


def control(kind: int, body: bytes, version: int = 3, length: int | None = None) -> bytes:
    return struct.pack(">II", 0x80000000 | version << 16 | kind, len(body) if length is None else length) + body


def deflated(plain: bytes) -> bytes:
    compressor = zlib.compressobj(zdict=spdy.DICTIONARY)
    return compressor.compress(plain) + compressor.flush(zlib.Z_SYNC_FLUSH)


def syn(plain: bytes) -> bytes:
    return control(1, struct.pack(">IIBB", 1, 0, 0, 0) + deflated(plain))


def pair(name: bytes, value: bytes) -> bytes:
    return struct.pack(">I", len(name)) + name + struct.pack(">I", len(value)) + value


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (control(6, b"\0\0\0\1", version=2), "SPDY version 2"),
        (control(99, b""), "unknown type 99"),
        (control(6, b""), "too short"),
        (control(1, b"", length=1 << 20), "1048576 bytes"),
        (control(4, struct.pack(">I", 9)), "9 entries"),
        (control(1, struct.pack(">IIBB", 1, 0, 0, 0) + b"nonsense"), "can't be inflated"),
        (syn(struct.pack(">I", 2**32 - 1)), "4294967295 headers"),
        (syn(struct.pack(">II", 1, 2**31) + bytes(16)), "longer than its frame"),
        (syn(struct.pack(">I", 1) + pair(b"Upper", b"")), "lower case"),
        (syn(struct.pack(">I", 2) + pair(b"a", b"") + pair(b"a", b"")), "twice"),
        (syn(struct.pack(">I", 1) + pair(b"a", b"") + b"more"), "more follows"),
        (syn(struct.pack(">I", 1) + pair(b"bomb", bytes(10 << 20))), "headers of more than 65536 bytes"),
    ],
)
def test_frames_that_break_the_rules_are_refused_with_a_reason(wire: bytes, why: str) -> None:
    with pytest.raises(SpdyError, match=why):
        hear(Framing(), wire)


def test_a_large_data_frame_is_handed_on_as_it_comes_and_never_held() -> None:
    listener = Framing()
    head = struct.pack(">II", 5, 1 << 24 | 1 << 20)
    assert hear(listener, head) == []
    for _ in range(15):
        assert hear(listener, bytes(1 << 16)) == [Data(5, bytes(1 << 16))]
    assert hear(listener, bytes(1 << 16)) == [Data(5, bytes(1 << 16), fin=True)]
