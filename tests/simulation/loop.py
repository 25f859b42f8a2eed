"""An event loop whose time is virtual: it never sleeps, it moves the clock to the next thing that is due.

Everything runs in one thread and in one order, so a run depends on nothing but what was drawn from the seed.
"""

from __future__ import annotations

import asyncio
from asyncio import base_events
from collections.abc import Coroutine
from typing import Any

TURN = 1e-6  # seconds; more than the distance of two floats that are seconds since 1970
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class DeadlockError(RuntimeError):
    """Nobody waits for the clock, and nobody has anything to do."""


class _Selector:
    """Stands where the loop would wait for sockets."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise DeadlockError(f"nothing will ever happen after second {self._loop.time():g}")
        if timeout > 0:
            self._loop.leap()
        else:
            self._loop.tick()
        return []


class VirtualLoop(base_events.BaseEventLoop):
    """:ivar leaps: how often the clock has moved.
    :ivar bugs: exceptions that nobody waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 1e-6  # a year has 3e7 seconds, and a float 16 digits
        self._selector = _Selector(self)
        self.leaps = 0
        self.bugs: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.bugs.append(context))

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self._now

    def leap(self) -> None:
        """To the next timer. BaseEventLoop has thrown away those at the top that were cancelled."""
        self.leaps += 1
        self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]

    def tick(self) -> None:
        """Work takes time, too: who waits for a moment that is a rounding error away would spin for ever."""
        self._now += TURN

    def _process_events(self, event_list: list[object]) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """No other thread calls."""


def run(loop: VirtualLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run to the end of `main`; what is left then is cancelled."""

    async def sweep() -> None:
        left = [t for t in asyncio.all_tasks(loop) if t is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    try:
        loop.run_until_complete(main)
    finally:
        loop.run_until_complete(sweep())
        loop.close()
