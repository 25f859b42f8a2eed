"""One watch of the daemon, shared by everybody who looks; nothing is asked while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

import msgspec

from edged.control import ControlClient, Snapshot
from edged.errors import EdgedError

log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two looks at usage
RETRY = 1.0  # seconds between two tries to reach a daemon that doesn't answer
HEARTBEAT = 15.0  # seconds of silence after which a stream says that it is alive
VIEWERS = 16  # pages open at once; each costs a connection and one message of memory


class View(msgspec.Struct, frozen=True):
    """What a page is told.

    :ivar node: its name, so that there is one before the daemon has answered for the first time.
    :ivar answering: whether the daemon answers now; if not, `snapshot` is the last one known, or None.
    :ivar since: seconds since 1970 since when it doesn't; 0 while it does.
    """

    node: str
    answering: bool
    since: float
    reason: str
    snapshot: Snapshot | None


class Feed:
    """The newest view wins: a slow viewer skips, and costs one message however slow it is."""

    def __init__(self, node: str, client: ControlClient, clock: Callable[[], float]) -> None:
        self._node = node
        self._client = client
        self._clock = clock
        self._upstream: asyncio.Task[None] | None = None
        self._view = View(node, True, 0.0, "", None)
        self._message = b""
        self._version = 0
        self._news = asyncio.Condition()
        self._closing = asyncio.Event()
        self.viewers = 0

    @property
    def full(self) -> bool:
        return self.viewers >= VIEWERS

    async def close(self) -> None:
        """End every stream; for a process that is about to end."""
        self._closing.set()
        async with self._news:
            self._news.notify_all()
        await self._stop_watching()

    async def views(self) -> AsyncGenerator[bytes, None]:
        """JSON views: one as soon as there is one, then each newer one; b"" after HEARTBEAT seconds of silence."""
        self.viewers += 1
        seen = 0
        try:
            if self._upstream is None:
                self._message = b""  # what is left from the last viewer is old; wait for a new one
                loop = asyncio.get_running_loop()
                self._upstream = loop.create_task(self._watch(), name="dashboard: watch of the daemon")
            while True:
                fresh = await self._newer_than(seen)
                if self._closing.is_set():
                    return
                seen = self._version
                yield self._message if fresh else b""
        finally:
            self.viewers -= 1
            if self.viewers == 0:
                await self._stop_watching()

    async def alongside(self, source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Another stream under the same rules: b"" after HEARTBEAT seconds of silence, an end when we close."""
        loop = asyncio.get_running_loop()
        closing = loop.create_task(self._closing.wait(), name="dashboard: closing")
        item: asyncio.Task[bytes] | None = None
        try:
            while not closing.done():
                item = item or loop.create_task(anext(source), name="dashboard: stream")
                await asyncio.wait((item, closing), timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if item.done():
                    found, item = item, None
                    yield found.result()
                elif not closing.done():
                    yield b""
        except StopAsyncIteration:
            return
        finally:
            for task in filter(None, (item, closing)):
                task.cancel()
                await asyncio.wait((task,))
            await source.aclose()

    async def _newer_than(self, seen: int) -> bool:
        try:
            async with asyncio.timeout(HEARTBEAT), self._news:
                await self._news.wait_for(
                    lambda: self._closing.is_set() or (self._version > seen and self._message != b"")
                )
                return True
        except TimeoutError:
            return False

    async def _stop_watching(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upstream

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._client.watch(INTERVAL)) as snapshots:
                    async for snapshot in snapshots:
                        await self._publish(View(self._node, True, 0.0, "", snapshot))
            except EdgedError as e:
                await self._away(str(e))
            except Exception:  # the outermost loop of this process: a page that says so beats one that hangs
                log.exception("dashboard: watching the daemon failed; this is a bug")
                await self._away("the dashboard made a mistake; its log has the details")
            await asyncio.sleep(RETRY)

    async def _away(self, reason: str) -> None:
        since = self._clock() if self._view.answering else self._view.since
        await self._publish(View(self._node, False, since, reason, self._view.snapshot))

    async def _publish(self, view: View) -> None:
        self._view = view
        self._message = msgspec.json.encode(view)
        async with self._news:
            self._version += 1
            self._news.notify_all()
