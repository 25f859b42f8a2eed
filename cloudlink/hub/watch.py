"""Who sees what changed: events, the bounded history of them, and the readers that follow.

Everything here belongs to one event loop's thread; a commit publishes synchronously, readers wake afterwards.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from cloudlink.hub.errors import Gone
from cloudlink.kube.meta import KubeObject

EventType = Literal["ADDED", "MODIFIED", "DELETED"]

HISTORY_EVENTS = 4096  # a reader that lost its connection has this many changes to come back in
HISTORY_BYTES = 16 << 20  # of JSON; whichever bound is met first
READER_EVENTS = 8192  # waiting for one reader; more than the history, so that a replay fits


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change of one object.

    :ivar object: as it is now; for DELETED as it last was, with the resourceVersion of its deletion.
    :ivar before: as it was, None when it is new; tells a filtering reader that an object came into view or left it.
    :ivar raw: `object` as JSON, encoded once for all readers.
    """

    type: EventType
    kind: str
    object: KubeObject
    revision: int
    before: KubeObject | None
    raw: bytes


class History:
    """The last changes, oldest first. Invariant: every change after `floor` is in it."""

    def __init__(self, floor: int, events: int = HISTORY_EVENTS, size: int = HISTORY_BYTES) -> None:
        self.floor = floor
        self._events: deque[WatchEvent] = deque(maxlen=events + 1)  # add() lets the oldest go before that
        self._most, self._most_bytes = events, size
        self._bytes = 0

    def add(self, event: WatchEvent) -> None:
        self._events.append(event)
        self._bytes += len(event.raw)
        while len(self._events) > self._most or (self._bytes > self._most_bytes and len(self._events) > 1):
            gone = self._events.popleft()
            self._bytes -= len(gone.raw)
            self.floor = gone.revision

    def since(self, revision: int, kinds: Container[str] | None) -> list[WatchEvent]:
        """Changes after `revision`. Gone where some of them are no longer kept."""
        if revision < self.floor:
            raise Gone(f"too old resource version: {revision} ({self.floor}); list again and watch from there")
        found: list[WatchEvent] = []
        for event in reversed(self._events):
            if event.revision <= revision:
                break
            if kinds is None or event.kind in kinds:
                found.append(event)
        return found[::-1]


class Subscription:
    """An async iterator of WatchEvents; ends when the store closes, raises Gone once when it fell too far behind.

    Use it as a context manager, or call close(): the store keeps a reference until then.
    """

    def __init__(
        self, readers: dict[Subscription, None], kinds: Container[str] | None, past: Iterable[WatchEvent], most: int
    ) -> None:
        self._readers = readers
        self._kinds = kinds
        self._waiting: deque[WatchEvent] = deque(past)  # bounded by offer()
        self._most = most
        self._behind = False
        self._closed = False
        self._wake = asyncio.Event()
        readers[self] = None

    def offer(self, event: WatchEvent) -> None:
        """Called by the store for each change. Never blocks: a reader that doesn't read is dropped."""
        if self._kinds is not None and event.kind not in self._kinds:
            return
        if len(self._waiting) >= self._most:
            self.fall_behind()
        else:
            self._waiting.append(event)
            self._wake.set()

    def fall_behind(self) -> None:
        """Called by the store: this reader has missed something and hears of it, once, as Gone."""
        self._waiting.clear()
        self._behind = True
        self._readers.pop(self, None)
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._readers.pop(self, None)
        self._wake.set()

    def drain(self) -> list[WatchEvent]:
        """What is waiting right now, without waiting; Gone if this reader was dropped."""
        if self._behind:
            raise Gone("this watch fell too far behind and was dropped; list again and watch from there")
        self._wake.clear()
        events = list(self._waiting)
        self._waiting.clear()
        return events

    async def batch(self) -> list[WatchEvent]:
        """Wait for at least one event, then return all that wait; [] once closed."""
        while not self._waiting and not self._closed and not self._behind:
            self._wake.clear()
            await self._wake.wait()
        return self.drain()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        while not self._waiting:
            if self._behind:
                raise Gone("this watch fell too far behind and was dropped; list again and watch from there")
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
