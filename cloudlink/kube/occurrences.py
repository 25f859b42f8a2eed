"""When a schedule's times are: the next one after a moment, the last one before it. Pure.

As github.com/robfig/cron/v3 finds them: minutes pass one after the other, and each has a local time. So a local time
that the clocks skip in spring doesn't come, and one that they show twice in autumn comes twice. Times are seconds
since 1970; a zone is a tzinfo of the IANA database.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from itertools import islice

from cloudlink.kube.cron import Schedule

MINUTE, HOUR, DAY = 60, 3600, 86_400
FARTHEST = 9 * 366 * DAY  # 29 February is eight years away at most
_LONGEST = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}  # of months: days; 31 for the others
_WINDOWS = (HOUR, DAY, 32 * DAY, 367 * DAY, FARTHEST)


def ever(schedule: Schedule) -> bool:
    """Whether there is any such time: 30 February isn't one."""
    if schedule.every or not (schedule.any_day or schedule.any_weekday):
        return True
    return any(day <= _LONGEST.get(month, 31) for month in schedule.months for day in schedule.days)


def after(schedule: Schedule, moment: float, zone: tzinfo) -> float | None:
    """The first time later than `moment`; None if there is none within nine years."""
    if schedule.every:
        return int(moment) + schedule.every
    at = (int(moment) // MINUTE + 1) * MINUTE
    end = at + FARTHEST
    while at < end:
        local = datetime.fromtimestamp(at, zone)
        if local.month not in schedule.months or not _is_day(schedule, local):
            at = _midnight_after(local, at)
        elif local.hour not in schedule.hours:
            at += (60 - local.minute) * MINUTE
        elif local.minute not in schedule.minutes:
            at += MINUTE
        else:
            return float(at)
    return None


def all_after(schedule: Schedule, moment: float, zone: tzinfo) -> Iterator[float]:
    while (found := after(schedule, moment, zone)) is not None:
        yield found
        moment = found


def latest(schedule: Schedule, since: float, until: float, zone: tzinfo) -> float | None:
    """The last time in (since, until]."""
    if schedule.every:
        times = int(max(until - since, 0)) // schedule.every
        return float(int(since) + times * schedule.every) if times else None
    for window in _WINDOWS:
        start, found = max(since, until - window), None
        for at in all_after(schedule, start, zone):
            if at > until:
                break
            found = at
        if found is not None or start == since:
            return found
    return None


def more_than(schedule: Schedule, count: int, since: float, until: float, zone: tzinfo) -> bool:
    """Whether there are more than `count` times in (since, until]."""
    if schedule.every:
        return max(until - since, 0) // schedule.every > count
    last = next(islice(all_after(schedule, since, zone), count, None), None)
    return last is not None and last <= until


def _is_day(schedule: Schedule, local: datetime) -> bool:
    day, weekday = local.day in schedule.days, local.isoweekday() % 7 in schedule.weekdays
    return day and weekday if schedule.any_day or schedule.any_weekday else day or weekday


def _midnight_after(local: datetime, at: int) -> int:
    """Where the next local day begins; not always at 00:00."""
    date = (local + timedelta(days=1)).date()
    midnight = int(datetime(date.year, date.month, date.day, tzinfo=local.tzinfo).timestamp())
    return midnight if midnight > at else at + HOUR
