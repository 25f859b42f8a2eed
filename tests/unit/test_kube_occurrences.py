"""When a schedule's times are, also where clocks are put forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.kube.cron import parse
from cloudlink.kube.occurrences import after, all_after, ever, latest, more_than

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: tzinfo = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def times(line: str, since: str, count: int, zone: tzinfo = UTC) -> list[str]:
    found = islice(all_after(parse(line), at(since, zone), zone), count)
    return [datetime.fromtimestamp(t, zone).strftime("%Y-%m-%d %H:%M %Z") for t in found]


def test_each_field_narrows_the_times_down() -> None:
    assert times("*/20 8 * * *", "2026-01-01", 4) == [
        "2026-01-01 08:00 UTC",
        "2026-01-01 08:20 UTC",
        "2026-01-01 08:40 UTC",
        "2026-01-02 08:00 UTC",
    ]
    assert times("0 0 29 2 *", "2026-01-01", 2) == ["2028-02-29 00:00 UTC", "2032-02-29 00:00 UTC"]


def test_a_day_of_the_month_or_a_day_of_the_week_will_do_where_both_are_given() -> None:
    assert times("0 12 13 * fri", "2026-02-01", 3) == [
        "2026-02-06 12:00 UTC",
        "2026-02-13 12:00 UTC",
        "2026-02-20 12:00 UTC",
    ]


def test_a_time_that_the_clocks_skip_in_spring_does_not_come_that_day() -> None:
    assert times("30 2 * * *", "2026-03-28 12:00", 2, BERLIN) == ["2026-03-30 02:30 CEST", "2026-03-31 02:30 CEST"]
    assert times("0 * * * *", "2026-03-29 00:30", 3, BERLIN) == [
        "2026-03-29 01:00 CET",
        "2026-03-29 03:00 CEST",
        "2026-03-29 04:00 CEST",
    ]


def test_a_time_that_the_clocks_show_twice_in_autumn_comes_twice() -> None:
    assert times("30 2 * * *", "2026-10-24 12:00", 3, BERLIN) == [
        "2026-10-25 02:30 CEST",
        "2026-10-25 02:30 CET",
        "2026-10-26 02:30 CET",
    ]


def test_a_day_that_does_not_begin_at_midnight_is_found() -> None:
    zone = ZoneInfo("America/Asuncion")  # clocks went from 00:00 to 01:00 on 2023-10-01
    assert times("0 12 1 10 *", "2023-09-30 12:00", 1, zone) == ["2023-10-01 12:00 -03"]


def test_an_interval_counts_from_the_last_start() -> None:
    every = parse("@every 90s")
    assert after(every, 1000.0, UTC) == 1090
    assert latest(every, 1000.0, 1300.0, UTC) == 1270
    assert latest(every, 1000.0, 1080.0, UTC) is None


@pytest.mark.parametrize("line", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30,31 2 */2"])
def test_days_that_no_month_has_never_come(line: str) -> None:
    assert not ever(parse(line))
    assert after(parse(line), at("2026-01-01"), UTC) is None


@pytest.mark.parametrize("line", ["0 0 30 2 mon", "0 0 29 2 *", "0 0 31 * *", "@yearly", "@every 1s", "* * * * *"])
def test_days_that_some_month_has_come_some_time(line: str) -> None:
    assert ever(parse(line))
    assert after(parse(line), at("2026-01-01"), UTC) is not None


LINES = st.sampled_from(
    ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 1 * *", "15 3 * * sun", "0 0 29 2 *", "59 23 31 12 *", "@hourly"]
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])


@settings(max_examples=60, deadline=None)
@given(LINES, ZONES, st.integers(1_600_000_000, 1_900_000_000), st.integers(0, 40 * 86_400))
def test_the_last_time_is_the_one_that_counting_forward_finds(line: str, name: str, since: int, span: int) -> None:
    schedule, zone = parse(line), ZoneInfo(name)
    span = min(span, 5 * 86_400) if line.startswith("*") else span
    forward = []
    for t in all_after(schedule, since, zone):
        if t > since + span:
            break
        forward.append(t)
    assert forward == sorted(set(forward))
    assert latest(schedule, since, since + span, zone) == (forward[-1] if forward else None)
    assert more_than(schedule, 100, since, since + span, zone) == (len(forward) > 100)
    for t in forward[:20]:
        local = datetime.fromtimestamp(t, zone)
        assert local.minute in schedule.minutes
        assert local.hour in schedule.hours
