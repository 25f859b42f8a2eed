"""The hub's first word after a boot, for which pods wait that the hub may have moved while this node was away.

It is waited for in vain where hub or network are off. Pods come first then: after `hub_wait` seconds (node.toml),
or sooner where nothing is plugged in. Who runs already is not concerned: a daemon that restarts holds up nothing.
"""

from __future__ import annotations

from collections.abc import Callable

LINE = 3.0  # seconds until a missing carrier counts: after a boot the two ends of a cable first agree on a speed


class FirstWord:
    """:param began: CLOCK_BOOTTIME second of the daemon's start. :param patience: seconds.
    :param line: whether there may be a network."""

    def __init__(self, began: float, patience: float, line: Callable[[], bool]) -> None:
        self._ends = began + patience
        self._looks = min(began + LINE, self._ends)
        self._line = line
        self._over = False

    def is_awaited(self, heard: bool, now: float) -> bool:
        """Still? Once it isn't, it never is again."""
        cut_off = now >= self._looks and not self._line()
        self._over = self._over or heard or now >= self._ends or cut_off
        return not self._over

    def next_look(self, now: float) -> float:
        """When to ask again, if nothing happens; infinity = there is nothing to wait for."""
        if self._over:
            return float("inf")
        return self._looks if now < self._looks else self._ends
