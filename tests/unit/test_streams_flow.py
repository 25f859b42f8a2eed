"""Credit: nobody keeps more than he said, and nobody waits for ever."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.streams.flow import LEAST, MAX_WINDOW, Receiving, Sending, cost
from cloudlink.wire import Refused
from edged.model.remote import MAX_FRAME

SIZES = st.lists(st.integers(0, MAX_FRAME), max_size=200)


@given(SIZES, st.integers(MAX_FRAME, 1 << 19), st.randoms(use_true_random=False))
def test_whatever_is_sent_arrives_and_never_more_than_the_window_is_under_way(
    sizes: list[int], window: int, dice: object
) -> None:
    sending, receiving = Sending(window), Receiving(window)
    there: collections.deque[int] = collections.deque(maxlen=window // LEAST)
    left, taken = list(sizes), 0
    while left or there:
        amount = cost(bytes(left[0])) if left else 0
        if left and sending.may(amount) and (not there or dice.random() < 0.7):  # type: ignore[attr-defined]
            sending.spend(amount)
            receiving.came(amount)
            there.append(amount)
            left.pop(0)
        else:
            assert there, "both wait for each other"
            taken += 1
            if owed := receiving.taken(there.popleft()):
                sending.credited(owed)
        assert receiving.held <= window
    assert taken == len(sizes)


def test_who_sends_more_than_he_may_is_refused() -> None:
    receiving = Receiving(MAX_FRAME)
    receiving.came(MAX_FRAME)
    with pytest.raises(Refused, match="without waiting"):
        receiving.came(LEAST)


def test_a_credit_for_more_than_was_sent_is_refused() -> None:
    sending = Sending(1 << 18)
    sending.spend(LEAST)
    with pytest.raises(Refused, match="a credit of"):
        sending.credited(LEAST + 1)
    with pytest.raises(Refused, match="a credit of"):
        sending.credited(0)


@pytest.mark.parametrize("window", [0, -1, MAX_FRAME - 1, MAX_WINDOW + 1])
def test_a_window_that_nobody_could_mean_is_refused(window: int) -> None:
    with pytest.raises(Refused, match="window"):
        Sending(window)


def test_many_small_frames_count_so_that_their_number_is_bounded() -> None:
    assert cost(b"") == cost(b"x") == LEAST
    assert cost(bytes(MAX_FRAME)) == MAX_FRAME
