"""The other end of the socket, for the dashboard and edgectl."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from edged.control.logs import LogLine
from edged.control.protocol import (
    MAX_REPLY,
    AnyRequest,
    Logs,
    Ping,
    Plan,
    Refresh,
    Reply,
    Snapshot,
    Status,
    Watch,
    encode,
)
from edged.errors import PermanentError, RetryError

_decode = msgspec.json.Decoder(Reply).decode


class ControlClient:
    """Asks the daemon behind `path`; one connection for each question.

    Every method raises RetryError while the daemon doesn't answer, and PermanentError where it says no.

    :param timeout: seconds to wait for a single answer (streams may pause for longer).
    """

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout

    async def ping(self) -> None:
        await self._once(Ping())

    async def status(self) -> Snapshot:
        reply = await self._once(Status())
        if reply.snapshot is None:
            raise RetryError(f"edged at {self._path} answered without a snapshot")
        return reply.snapshot

    async def plan(self) -> str:
        """What the node would do now, a line for each step."""
        return (await self._once(Plan())).plan or ""

    async def refresh(self) -> None:
        """Tell the daemon that the image store has changed."""
        await self._once(Refresh())

    async def watch(self, interval: float = 2.0) -> AsyncGenerator[Snapshot, None]:
        """A snapshot now, at each change, and every `interval` seconds. Ends only by RetryError."""
        async with contextlib.aclosing(self._replies(Watch(interval=interval), interval + self._timeout)) as replies:
            async for reply in replies:
                if reply.snapshot is not None:
                    yield reply.snapshot
        raise RetryError(f"edged at {self._path} ended the connection; it may be restarting")

    async def logs(
        self, container_id: str, tail: int = 100, follow: bool = False, previous: bool = False, since: float = 0.0
    ) -> AsyncGenerator[LogLine, None]:
        """The last `tail` lines; with `follow`, those to come until the container has ended.

        :param previous: of the attempt before `container_id`.
        :param since: seconds since 1970 by the node's clock (Snapshot.wall); what is older is left out.
        """
        asked = {"container": container_id, "tail": tail, "follow": follow, "previous": previous, "since": since}
        try:
            request = msgspec.convert({"op": "logs", **asked}, Logs)
        except msgspec.ValidationError as e:
            raise PermanentError(f"not a container id or a number of lines: {e}") from e
        async with contextlib.aclosing(self._replies(request, None if follow else self._timeout)) as replies:
            async for reply in replies:
                if reply.log is not None:
                    yield reply.log
                elif reply.ok:
                    return
        raise RetryError(f"edged at {self._path} ended the connection in the middle of a log; ask again")

    async def _once(self, request: AnyRequest) -> Reply:
        async with contextlib.aclosing(self._replies(request, self._timeout)) as replies:
            async for reply in replies:
                return reply
        raise RetryError(f"edged at {self._path} ended the connection without an answer; it may be restarting")

    async def _replies(self, request: AnyRequest, patience: float | None) -> AsyncGenerator[Reply, None]:
        reader, writer = await self._connect()
        try:
            writer.write(encode(request) + b"\n")
            await writer.drain()
            while True:
                async with asyncio.timeout(patience):
                    line = await reader.readline()
                if not line.endswith(b"\n"):
                    return
                reply = _decode(line)
                if reply.error is not None:
                    raise PermanentError(reply.error.message)
                yield reply
        except TimeoutError as e:
            raise RetryError(f"edged at {self._path} has not answered for {patience:.0f} s") from e
        except OSError as e:
            raise RetryError(f"the connection to edged at {self._path} broke: {e}") from e
        except (msgspec.DecodeError, ValueError) as e:
            raise PermanentError(f"{self._path} speaks another language: {e}; is it edged's, of this version?") from e
        finally:
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.open_unix_connection(self._path, limit=MAX_REPLY)
        except PermissionError as e:
            raise PermanentError(
                f"not allowed to use {self._path}: be root (sudo) or a member of the group edged"
            ) from e
        except (OSError, TimeoutError) as e:
            raise RetryError(f"edged does not answer at {self._path} ({e}); is the daemon running?") from e
