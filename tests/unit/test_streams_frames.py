"""Frames: what is changed, made up, repeated, left out or put in another order on the way."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.streams import frames
from cloudlink.streams.answering import is_frame
from cloudlink.streams.frames import Accept, AnyFrame, Ask, Beat, Credit, Data, Finish, LetGo, Opener, Sealer
from cloudlink.streams.keys import Party, make_opening
from cloudlink.wire import Refused
from edged.model.remote import MAX_FRAME, ConnectRequest, End, ExecRequest, LogsRequest, UsageRequest

KEY = bytes(range(32))
EVERY: list[AnyFrame] = [
    Accept(1 << 18),
    Ask(ExecRequest("uid", "main", ("sh", "-c", "echo"), stdin=True, tty=True), 1 << 18),
    Ask(LogsRequest("uid", "main", tail=0, since=1.5), 1 << 18),
    Ask(ConnectRequest("uid", 80), 1 << 18),
    Ask(UsageRequest(), 1 << 18),
    Data(1, b"\0\xff" * 100),
    Data(0, b""),
    Credit(4096),
    Beat(),
    Finish(End(code=7, reason="Gone", message="why")),
    LetGo(),
]


def test_every_frame_comes_out_as_it_went_in() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    for frame in EVERY:
        assert opener.open(sealer.seal(frame)) == frame


def test_equal_frames_look_different_on_the_wire() -> None:
    sealer = Sealer(KEY)
    one, two = sealer.seal(Data(1, b"same")), sealer.seal(Data(1, b"same"))
    assert one[frames.HEAD.size :] != two[frames.HEAD.size :]
    assert b"same" not in one + two


def test_a_message_that_comes_again_is_ignored() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    first, second = sealer.seal(Beat()), sealer.seal(Data(1, b"x"))
    assert opener.open(first) == Beat()
    assert opener.open(first) is None
    assert opener.open(second) == Data(1, b"x")
    assert opener.open(first) is None
    assert opener.ignored == 2


def test_a_message_that_is_missing_ends_it_and_so_does_another_order() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    sealer.seal(Data(1, b"lost"))
    with pytest.raises(Refused, match="1 messages of the conversation were lost"):
        opener.open(sealer.seal(Data(1, b"later")))


def test_one_direction_can_not_be_played_back_as_the_other() -> None:
    there, back = Sealer(KEY), Opener(bytes(range(1, 33)))
    assert back.open(there.seal(Data(1, b"x"))) is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_message_with_any_byte_changed_is_ignored_and_the_right_one_still_believed(at: int, change: int) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    raw = sealer.seal(Data(1, b"content"))
    changed = bytearray(raw)
    changed[at % len(raw)] ^= change
    assert opener.open(bytes(changed)) is None
    assert opener.open(raw) == Data(1, b"content")


@given(st.binary(max_size=200))
def test_made_up_messages_are_ignored_whatever_they_are(raw: bytes) -> None:
    opener = Opener(KEY)
    assert opener.open(raw) is None
    assert opener.open(Sealer(KEY).seal(Beat())) == Beat()


def test_what_the_other_side_should_not_say_ends_it() -> None:
    sealer = Sealer(KEY)
    with pytest.raises(Refused, match="are allowed"):
        Opener(KEY).open(sealer.seal(Data(1, bytes(MAX_FRAME + 1))))
    with pytest.raises(Refused, match="are allowed"):
        sealer.seal(Ask(ExecRequest("uid", "main", ("x" * 70_000,)), 1 << 18))


def test_an_opening_is_told_from_a_frame_of_a_conversation_that_is_over() -> None:
    assert is_frame(Sealer(KEY).seal(Beat()))
    assert not is_frame(make_opening(Party("f", "n", "00" * 8), "aa" * 6, KEY, KEY))


def test_a_frame_of_the_future_is_refused_rather_than_misread() -> None:
    class Other(msgspec.Struct, array_like=True, tag_field="k", tag=99):
        x: int

    with pytest.raises(Refused, match="speaks otherwise"):
        Opener(KEY).open(Sealer(KEY).seal(Other(1)))  # type: ignore[arg-type]
