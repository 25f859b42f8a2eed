"""The hub's first word after a boot, for which pods wait that the hub may have moved while this node was away.

It is waited for in vain where hub or network are off. Pods come first then: after `hub_wait` seconds (node.toml),
or at once where nothing is plugged in. Who runs already is not concerned: a daemon that restarts holds up nothing.
"""

from __future__ import annotations

from collections.abc import Callable


class FirstWord:
    """:param until: CLOCK_BOOTTIME second at which waiting ends. :param line: whether there may be a network."""

    def __init__(self, until: float, line: Callable[[], bool]) -> None:
        self._until = until
        self._line = line
        self._over = False

    def is_awaited(self, heard: bool, now: float) -> bool:
        """Still? Once it isn't, it never is again."""
        self._over = self._over or heard or now >= self._until or not self._line()
        return not self._over

    def until(self) -> float:
        """When to look again, if nothing happens; infinity = there is nothing to wait for."""
        return float("inf") if self._over else self._until
