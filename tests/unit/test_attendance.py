"""Who is there: a lost connection is believed at once, unless that happens all the time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.attendance import FREE, LONGEST, NEVER, Attendance


def test_a_lost_connection_is_believed_at_once_and_news_only_once() -> None:
    board = Attendance()
    assert board.came("life.1")
    assert not board.came("life.1")
    assert board.left("life.1", 0.0)
    assert board.present is False
    assert not board.left("life.1", 1.0)
    assert board.came("life.2")


def test_the_will_of_an_earlier_connection_is_stale() -> None:
    board = Attendance()
    board.came("life.2")
    assert not board.left("life.1", 0.0)
    assert board.present is True


def test_a_node_that_comes_and_goes_is_believed_to_be_away_later_and_later() -> None:
    board, delays = Attendance(), []
    for second in range(0, 12):
        board.came("a")
        board.left("a", float(second))
        delays.append(0.0 if board.present is False else board.due - second)
    assert delays[:3] == [0.0, 0.0, 0.0]
    assert delays[3:] == sorted(delays[3:])
    assert 10.0 < delays[3] < 20.0
    assert delays[-1] == LONGEST
    board.came("a")
    assert board.due == NEVER


def test_a_quiet_hour_makes_a_nodes_word_count_at_once_again() -> None:
    board = Attendance()
    for second in range(6):
        board.came("a")
        board.left("a", float(second))
    board.came("a")
    assert board.left("a", 3600.0)


@given(st.lists(st.tuples(st.floats(0.1, 60.0), st.floats(0.1, 60.0)), min_size=1, max_size=300))
def test_however_a_line_flaps_the_changes_are_few(spans: list[tuple[float, float]]) -> None:
    board, now, changes = Attendance(), 0.0, 0
    for up, down in spans:
        changes += board.came("a")
        now += up
        changes += board.left("a", now)
        now += down
        if board.overdue(now):
            board.gone()
            changes += 1
    assert changes <= 2 * (FREE + 5 + now / 60.0)
