"""Sets of completion indexes as intervals, and as text: "1,3-5,7" (batch/v1 JobStatus.completedIndexes). Pure.

After Kubernetes' pkg/controller/job/indexed_job_utils. Intervals and not sets, for a text of twelve characters may
name two thousand million of them.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Indexes:
    """:ivar spans: (first, last), both included, ascending, with a gap between any two."""

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, text: str, below: int) -> Indexes:
        """What can be read of it, of the indexes below a bound."""
        found = [(int(m[1]), int(m[2] or m[1])) for part in text.split(",") if (m := _PART.fullmatch(part))]
        return cls(_joined((a, min(b, below - 1)) for a, b in found if a <= b and a < below))

    def __str__(self) -> str:
        return ",".join(_words(self.spans))

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.spans)

    def __contains__(self, index: int) -> bool:
        at = bisect.bisect_right(self.spans, index, key=lambda span: span[0])
        return at > 0 and index <= self.spans[at - 1][1]

    def plus(self, more: Iterable[int]) -> Indexes:
        return Indexes(_joined((*self.spans, *((i, i) for i in more))))

    def united(self, other: Indexes) -> Indexes:
        return Indexes(_joined((*self.spans, *other.spans)))

    def common(self, other: Indexes) -> int:
        """How many are in both."""
        return len(self) + len(other) - len(self.united(other))

    def missing(self, below: int) -> Iterator[int]:
        """Those that aren't in it, ascending."""
        at = 0
        for first, last in self.spans:
            yield from range(at, min(first, below))
            at = last + 1
        yield from range(at, below)


def _joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    return tuple(joined)


def _words(spans: Iterable[tuple[int, int]]) -> Iterator[str]:
    """Two in a row are two numbers, as Kubernetes writes them."""
    for first, last in spans:
        if last > first + 1:
            yield f"{first}-{last}"
        else:
            yield from map(str, range(first, last + 1))
