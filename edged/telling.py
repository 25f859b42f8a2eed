"""What the daemon tells: events, numbered and bounded, and the status, sent only when it says something new."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable

from edged.decide import happenings
from edged.decide.happenings import Happening
from edged.model import Event, NodeStatus

MAX_EVENTS = 64  # in the status; older ones are the hub's to keep


class Teller:
    """:param title_of: pod uid -> "namespace/name"; "" for one that is not known (any more).
    :param wall: seconds since 1970.
    """

    def __init__(
        self, report: Callable[[NodeStatus], None], title_of: Callable[[str], str], wall: Callable[[], float]
    ) -> None:
        self._report = report
        self._wall = wall
        self._title_of = title_of
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._numbers = itertools.count(1)
        self._told: NodeStatus | None = None

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)

    def event(self, kind: str, reason: str, message: str, pod: str = "", container: str = "") -> None:
        title = self._title_of(pod) if pod else ""
        if pod and not title:  # it may be gone by now: an earlier event knew it
            title = next((e.title for e in reversed(self._events) if e.pod == pod), "")
        self._events.append(Event(next(self._numbers), self._wall(), kind, reason, message, pod, title, container))

    def happened(self, items: Iterable[Happening]) -> None:
        for item in items:
            self.event(item.kind, item.reason, item.message, item.pod, item.container)

    def report(self, describe: Callable[[], NodeStatus]) -> None:
        """Send the status if it has changed, with the events for what it says for the first time.

        :param describe: the status now, `events` included.
        """
        status = describe()
        told = self._told
        news = (
            *happenings.told_anew(told.pods if told is not None else (), status.pods),
            *happenings.conditions(told.conditions if told is not None else (), status.conditions),
        )
        if news:
            self.happened(news)
            status = describe()
        if status != told:
            self._told = status
            self._report(status)
