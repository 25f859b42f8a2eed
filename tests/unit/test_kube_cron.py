"""Schedules are read as Kubernetes' own parser reads them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.kube.cron import CronError, parse


def test_lists_ranges_steps_and_names_are_sets_of_numbers() -> None:
    schedule = parse("*/20 8-10,22 1 JAN-mar,dec sun")
    assert schedule.minutes == {0, 20, 40}
    assert schedule.hours == {8, 9, 10, 22}
    assert (schedule.days, schedule.months, schedule.weekdays) == ({1}, {1, 2, 3, 12}, {0})
    assert not schedule.any_day
    assert not schedule.any_weekday


def test_a_number_with_a_step_goes_on_to_the_end() -> None:
    assert parse("50/5 * ? * *").minutes == {50, 55}
    assert parse("50/5 * ? * *").any_day


def test_short_forms_stand_for_five_fields_or_an_interval() -> None:
    assert parse("@daily") == parse("0 0 * * *")
    assert parse("@every 1h30m").every == 5400
    assert parse("@every 100ms").every == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4"),
        ("60 * * * *", "end of range (60) above maximum (59)"),
        ("* * 0 * *", "beginning of range (0) below minimum (1)"),
        ("* * * * 7", "end of range (7) above maximum (6)"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1)"),
        ("*/0 * * * *", "step of range should be a positive number"),
        ("1-2-3 * * * *", "too many hyphens"),
        ("1/2/3 * * * *", "too many slashes"),
        ("a * * * *", "failed to parse int from a"),
        ("@often", "unrecognized descriptor: @often"),
        ("@every soon", "failed to parse duration @every soon"),
    ],
)
def test_what_is_no_schedule_is_told_where_it_goes_wrong(text: str, why: str) -> None:
    with pytest.raises(CronError) as caught:
        parse(text)
    assert why in str(caught.value)


@given(st.text("0123456789*/-,?@ every1hMONjan\u00b5", max_size=30))
def test_any_text_is_a_schedule_or_a_cron_error(text: str) -> None:
    with contextlib.suppress(CronError):
        schedule = parse(text)
        assert schedule.every > 0 or (schedule.minutes and schedule.hours and schedule.days)
