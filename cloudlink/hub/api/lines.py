"""Lines of watches: what happened, as one JSON document each, made once for everybody who is to see the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

KEPT = 4 << 20  # bytes; a change goes out to all watches within moments, and is never asked for again


class Lines:
    """The latest lines, by what makes them differ. Bounded: the oldest go first."""

    def __init__(self, kept: int = KEPT) -> None:
        self._lines: OrderedDict[Hashable, bytes] = OrderedDict()
        self._most, self._size = kept, 0

    def line(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The line of that key; made by `make` where nobody has needed it before."""
        known = self._lines.get(key)
        if known is not None:
            return known
        made = make()
        self._lines[key] = made
        self._size += len(made)
        while self._size > self._most:
            _, gone = self._lines.popitem(last=False)
            self._size -= len(gone)
        return made
