"""The socket's server: who may ask, how much, and for how long.

Invariants: at most 2 * MAX_CONNECTIONS connections exist; each holds at most one request, one reply line and one
send buffer; every wait for a client has an end. So no client can block or grow the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import struct
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from edged.control.logs import LogLine, LogReader, is_since
from edged.control.protocol import (
    MAX_REQUEST,
    AnyRequest,
    Failure,
    Logs,
    Ping,
    Plan,
    Refresh,
    Reply,
    Snapshot,
    Status,
    Watch,
    decode_request,
    encode,
)
from edged.errors import EdgedError, PermanentError

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 24  # answered at once; a dashboard takes one and one more per open log
RESERVED_FOR_ROOT = 4  # of those, so that members of the group can't lock the administrator out
REQUEST_SECONDS = 10.0  # a client that connects has to say something by then
SEND_SECONDS = 20.0  # a client that reads nothing for this long is dropped
BUFFER = 64 << 10  # bytes waiting for a slow reader before we stop producing
WATCH_GAP = 0.1  # seconds between two watch lines at least: a start of 20 pods is a hundred changes
LOG_GAP = 0.25  # seconds between looks at a followed file; only while somebody follows, so no inotify for it
ACCEPT_STEPS = 4  # turns of the loop until a connection that asyncio has accepted is handed to us
SO_PEERGROUPS = 59  # asm-generic/socket.h; Python's socket module has no name for it


class ControlSource(Protocol):
    """What the daemon hands in. All of it is called from the loop and may raise PermanentError or RetryError."""

    def snapshot(self) -> Snapshot:
        """Status, usage and facts, computed now."""

    async def changed(self) -> None:
        """Returns when the status has changed next."""

    def plan_text(self) -> str:
        """What would be done now, a line for each step."""

    def log_file(self, container_id: str, previous: bool = False) -> Path | None:
        """Where that container's log is (it may not exist yet); None for a container that this node doesn't know.

        :param previous: of the attempt before it. PermanentError where there is none, or none any more.
        """

    def writes(self, container_id: str) -> bool:
        """Whether its log may still grow: a log ends with its container, and a restart makes another id."""

    async def refresh(self) -> None:
        """Images have changed: look again."""


class Peer(msgspec.Struct, frozen=True):
    """Who connected, as the kernel knows it (unix(7), SO_PEERCRED and SO_PEERGROUPS)."""

    pid: int
    uid: int
    gids: frozenset[int]

    def may_use(self, own_uid: int, group: int | None) -> bool:
        """Root, whoever the daemon runs as, or a member of the group."""
        return self.uid in (0, own_uid) or (group is not None and group in self.gids)


def peer_of(connection: socket.socket) -> Peer:
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    groups: tuple[int, ...] = ()
    with contextlib.suppress(OSError):  # more groups than fit: the primary one has to do
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
        groups = struct.unpack(f"{len(packed) // 4}i", packed)
    return Peer(pid, uid, frozenset((gid, *groups)))


class ControlServer:
    """`async with ControlServer(path, source):` serves until left. PermanentError if the socket can't be made.

    The socket is owned by root and `group` (by the daemon's own group where no such group exists), mode 0660.
    """

    def __init__(self, path: Path, source: ControlSource, group: str = "edged") -> None:
        self._path = path
        self._source = source
        self._group = _group_id(group)
        self._own_uid = os.geteuid()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        async with self:
            await asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> ControlServer:
        listener = self._bind()
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=MAX_REQUEST)
        return self

    async def __aexit__(self, *_details: object) -> None:
        if self._server is not None:
            self._server.close()
        for _ in range(ACCEPT_STEPS):
            await asyncio.sleep(0)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    def _bind(self) -> socket.socket:
        """Made under another name and renamed, so that nobody meets it before its mode is right, or a stale one."""
        fresh = self._path.with_suffix(".new")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            listener.bind(str(fresh))
            if self._group is not None and self._own_uid == 0:
                os.chown(fresh, 0, self._group)
            fresh.chmod(0o660)
            listener.listen(16)
            fresh.rename(self._path)
        except OSError as e:
            listener.close()
            raise PermanentError(
                f"cannot make the control socket {self._path}: {e}; set run_dir to a folder that this user may write "
                "and whose path is shorter than 90 characters"
            ) from e
        listener.setblocking(False)
        return listener

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= 2 * MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="control connection")
        self._connections.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._connections.discard(task)
            writer.transport.abort()  # also where the task was cancelled before its first step

        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its request to its end; nothing that happens here may reach the daemon."""
        connection = _Connection(reader, writer, self._source)
        try:
            refusal = self._refusal(peer_of(writer.get_extra_info("socket")))
            request = await connection.request()
            if refusal:
                await connection.send(Reply(error=Failure(refusal)))
            else:
                await connection.answer(request)
        except EdgedError as e:
            await connection.last_words(str(e))
        except (OSError, EOFError, TimeoutError):
            pass  # the client went away or sleeps; there is nobody to tell
        except Exception:
            log.exception("control: a request failed; this is a bug in edged")
            await connection.last_words("edged made a mistake while answering; its log has the details")
        finally:
            await connection.close()

    def _refusal(self, peer: Peer) -> str:
        if not peer.may_use(self._own_uid, self._group):
            return "not allowed: be root or a member of the group edged to talk to this node's daemon"
        room = MAX_CONNECTIONS if peer.uid == 0 else MAX_CONNECTIONS - RESERVED_FOR_ROOT
        if len(self._connections) > room:
            return f"too many connections ({room} at once); close one and try again"
        return ""


class _Connection:
    """One client: reads its request, writes replies no faster than they are read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: ControlSource) -> None:
        self._reader = reader
        self._writer = writer
        self._source = source
        writer.transport.set_write_buffer_limits(high=BUFFER)

    async def request(self) -> AnyRequest:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                line = await self._reader.readuntil(b"\n")
            return decode_request(line)
        except asyncio.LimitOverrunError as e:
            raise PermanentError(f"the request is longer than {MAX_REQUEST} bytes") from e
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise PermanentError(
                f'not a request this node knows: {e}; send one line like {{"op":"status"}} '
                "with op one of ping, status, watch, logs, plan, refresh"
            ) from e

    async def send(self, reply: Reply) -> None:
        self._writer.write(encode(reply) + b"\n")
        async with asyncio.timeout(SEND_SECONDS):
            await self._writer.drain()

    async def last_words(self, message: str) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            await self.send(Reply(error=Failure(message)))

    async def close(self) -> None:
        """Flush what is left, then cut: `close` alone would keep a sleeping client's buffer for ever."""
        self._writer.close()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass
        finally:
            self._writer.transport.abort()

    async def answer(self, request: AnyRequest) -> None:
        match request:
            case Ping():
                await self.send(Reply(ok=True))
            case Status():
                await self.send(Reply(snapshot=self._source.snapshot()))
            case Plan():
                await self.send(Reply(plan=self._source.plan_text()))
            case Refresh():
                await self._source.refresh()
                await self.send(Reply(ok=True))
            case Watch():
                await self._until_gone(self._watch(request.interval), "control watch")
            case Logs():
                await self._until_gone(self._logs(request), "control logs")

    async def _until_gone(self, stream: Coroutine[object, object, None], name: str) -> None:
        """Run a stream until it ends or the client hangs up (or says something more, which nobody may)."""
        loop = asyncio.get_running_loop()
        work = loop.create_task(stream, name=name)
        gone = loop.create_task(self._reader.read(1), name=f"{name}: client")
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            await _cancelled(work, gone)

    async def _watch(self, interval: float) -> None:
        loop = asyncio.get_running_loop()
        change: asyncio.Task[None] | None = None
        try:
            while True:
                if change is None or change.done():
                    if change is not None:
                        change.result()
                    change = loop.create_task(self._source.changed(), name="control watch: change")
                    await asyncio.sleep(0)  # it listens before we look, so no change falls between
                await self.send(Reply(snapshot=self._source.snapshot()))
                await asyncio.sleep(WATCH_GAP)
                await asyncio.wait((change,), timeout=interval - WATCH_GAP)
        finally:
            if change is not None:
                await _cancelled(change)

    async def _logs(self, request: Logs) -> None:
        path = self._source.log_file(request.container, request.previous)
        if path is None:
            raise PermanentError(f"this node has no container {request.container!r}; `edged status` lists them")
        with LogReader(path) as reader:
            reader.seek_tail(request.tail)
            await self._copy(reader, request.since)
            while request.follow and not request.previous and self._source.writes(request.container):
                await asyncio.sleep(LOG_GAP)
                await self._copy(reader, request.since)
            await self._copy(reader, request.since)
            await self._tell(reader.finish(), request.since)
        await self.send(Reply(ok=True))

    async def _copy(self, reader: LogReader, since: float) -> None:
        while lines := reader.read():
            await self._tell(lines, since)

    async def _tell(self, lines: Sequence[LogLine], since: float) -> None:
        for line in lines:
            if not since or is_since(line, since):
                await self.send(Reply(log=line))


async def _cancelled(*tasks: asyncio.Task[object]) -> None:
    """Cancel and see the end of each, so that none outlives its owner and no failure goes unseen."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, (OSError, EdgedError)):
            log.warning("control: %r while ending a stream", outcome)


def _group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
