"""What carries bytes: an upgraded connection, or a WebSocket on top of one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

PING_EVERY = 30.0  # seconds: a path that says nothing is forgotten by address translators within a few minutes
LINGER = 5.0  # seconds that a client gets to hear the end of what it was told, before its connection is closed


class Pipe(Protocol):
    """Bounded both ways. One task reads, any number write."""

    async def read(self) -> bytes:
        """What has come; waits for it. b"" once the other side has left."""

    async def write(self, data: bytes) -> None:
        """All of it or (when the other side has left) nothing; waits while the other side is slow."""

    async def left(self) -> None:
        """Waits until the other side has left, also while nobody reads."""

    def close(self) -> None: ...


async def linger(read: Callable[[], Awaitable[object]]) -> None:
    """Take, and drop, what the client still sends, until it leaves: a connection that is closed with something unread
    is reset, and what the client has not read yet is lost to it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while await read():
                pass


async def every(seconds: float, deed: Callable[[], Awaitable[None]]) -> None:
    """For ever."""
    while True:
        await asyncio.sleep(seconds)
        await deed()


async def end_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel them and wait; raises what one of them had ended with, if it was an error."""
    for task in tasks:
        task.cancel()
    for told in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(told, Exception):
            raise told
