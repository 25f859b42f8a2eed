"""How many of what are on which row, found by what they have in common. Pure.

A copy shares what is counted with its original until it changes something: planning in a fleet with 100,000 pods costs
what the plan touches, not what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

Counts = Mapping[int, int]  # row -> how many, none of them zero
_NOTHING: Counts = MappingProxyType({})


class Tally(Generic[K]):
    """Counts by key and row; keys are found by their tags (see `tagged`).

    The original must not be changed while a copy of it is in use.
    """

    __slots__ = ("_below", "_counts", "_tagged", "_tags")

    def __init__(self, tags: Callable[[K], Iterable[Hashable]], below: Tally[K] | None = None) -> None:
        self._tags = tags
        self._below = below
        self._counts: dict[K, dict[int, int]] = {}  # of a copy: what differs from the original, also where it is none
        self._tagged: dict[Hashable, set[K]] = {}

    def copy(self) -> Tally[K]:
        return Tally(self._tags, self)

    def __getitem__(self, key: K) -> Counts:
        own = self._counts.get(key)
        if own is not None:
            return own
        return _NOTHING if self._below is None else self._below[key]

    def __iter__(self) -> Iterator[K]:
        """Everything that is somewhere."""
        yield from (key for key, counts in self._counts.items() if counts)
        if self._below is not None:
            yield from (key for key in self._below if key not in self._counts)

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def tagged(self, tag: Hashable) -> set[K]:
        """Keys with this tag; some of them may be nowhere any more."""
        own = self._tagged.get(tag)
        below = None if self._below is None else self._below.tagged(tag)
        return (own or set()) | below if below else own or set()

    def add(self, key: K, row: int, count: int = 1) -> None:
        """:param count: negative for fewer; what has come to nothing is forgotten."""
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = dict(self[key])
            if not counts:
                for tag in self._tags(key):
                    self._tagged.setdefault(tag, set()).add(key)
        now = counts.get(row, 0) + count
        if now:
            counts[row] = now
            return
        del counts[row]
        if not counts and self._below is None:
            self._forget(key)

    def _forget(self, key: K) -> None:
        del self._counts[key]
        for tag in self._tags(key):
            keys = self._tagged[tag]
            keys.discard(key)
            if not keys:
                del self._tagged[tag]

    def plain(self) -> dict[K, dict[int, int]]:
        """All of it, to be compared."""
        return {key: dict(self[key]) for key in self}
