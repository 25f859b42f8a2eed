"""The schedule of a CronJob: five fields, or @hourly and the like; as github.com/robfig/cron/v3 reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_TEXT = 1024
_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9}
_MONTHS |= {"oct": 10, "nov": 11, "dec": 12}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class CronError(ValueError):
    """The text is no schedule; the message says why."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When it is time: every `every` seconds, or (0) at each minute whose parts are all in the sets.

    :ivar any_day: the day of the month was given as `*`; `any_weekday` likewise. Where both were not, either will do.
    """

    minutes: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    any_day: bool = True
    any_weekday: bool = True
    every: int = 0


@dataclass(frozen=True, slots=True)
class _Field:
    least: int
    most: int
    names: Mapping[str, int]


_FIELDS: Final = (
    _Field(0, 59, {}),
    _Field(0, 23, {}),
    _Field(1, 31, {}),
    _Field(1, 12, _MONTHS),
    _Field(0, 6, _DAYS),
)


def parse(text: str) -> Schedule:
    """CronError says what is wrong."""
    if not text:
        raise CronError("empty spec string")
    if len(text) > MAX_TEXT:
        raise CronError(f"longer than {MAX_TEXT} characters")
    if text.startswith("@every "):
        return Schedule(every=_duration(text.removeprefix("@every "), text))
    if text.startswith("@"):
        if text not in _DESCRIPTORS:
            raise CronError(f"unrecognized descriptor: {text}")
        text = _DESCRIPTORS[text]
    words = text.split()
    if len(words) != len(_FIELDS):
        raise CronError(f"expected exactly {len(_FIELDS)} fields, found {len(words)}: [{' '.join(words)}]")
    minutes, hours, days, months, weekdays = (_set(w, field) for w, field in zip(words, _FIELDS, strict=True))
    return Schedule(minutes, hours, days, months, weekdays, any_day=_is_any(words[2]), any_weekday=_is_any(words[4]))


def _is_any(word: str) -> bool:
    return any(part.partition("/")[0] in ("*", "?") for part in word.split(","))


def _set(word: str, field: _Field) -> frozenset[int]:
    parts = [part for part in word.split(",") if part]
    if not parts:
        raise CronError(f"failed to parse int from {word}: nothing is there")
    return frozenset(n for part in parts for n in _range(part, field))


def _range(text: str, field: _Field) -> range:
    """number | * | ?, with -number and /step."""
    bounds, *steps = text.split("/")
    low_text, *highs = bounds.split("-")
    if len(highs) > 1:
        raise CronError(f"too many hyphens: {text}")
    if len(steps) > 1:
        raise CronError(f"too many slashes: {text}")
    if low_text in ("*", "?"):
        if highs:
            raise CronError(f"failed to parse int from {bounds}: a range goes from number to number")
        low, high = field.least, field.most
    else:
        low = _number(low_text, field)
        high = _number(highs[0], field) if highs else field.most if steps else low
    step = _number(steps[0], _FIELDS[0]) if steps else 1
    if low < field.least:
        raise CronError(f"beginning of range ({low}) below minimum ({field.least}): {text}")
    if high > field.most:
        raise CronError(f"end of range ({high}) above maximum ({field.most}): {text}")
    if low > high:
        raise CronError(f"beginning of range ({low}) beyond end of range ({high}): {text}")
    if step == 0:
        raise CronError(f"step of range should be a positive number: {text}")
    return range(low, high + 1, step)


def _number(text: str, field: _Field) -> int:
    named = field.names.get(text.lower())
    if named is not None:
        return named
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise CronError(f"failed to parse int from {text}: it must be a number")
    return int(text)


def _duration(text: str, whole: str) -> int:
    """Go's time.ParseDuration, rounded down to whole seconds; 1 at least."""
    at, total = 0, 0.0
    for match in _DURATION.finditer(text):
        if match.start() != at:
            break
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if at == 0 or at != len(text) or total > 1e10:
        raise CronError(f'failed to parse duration {whole}: write a number and a unit, such as "1h30m"')
    return max(int(total), 1)
