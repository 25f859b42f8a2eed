"""`edged.uplink.Asked` on a running daemon: finds what is meant, and has it done."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from edged.errors import PermanentError, RetryError
from edged.model import ContainerPhase, ContainerState, ContainerStatus, NodeStatus, Observed, PodStatus
from edged.model.remote import (
    STDERR,
    STDOUT,
    AnyRequest,
    AttachRequest,
    ConnectRequest,
    End,
    ExecRequest,
    LogsRequest,
    Size,
    UsageRequest,
)
from edged.remote import logs, pumps
from edged.remote.usage import Looks
from edged.runtime import attaching, process
from edged.runtime.api import Access, Runtime
from edged.runtime.inside import Inside, Wanted
from edged.uplink import Talk

LIVE = (ContainerPhase.STARTING, ContainerPhase.RUNNING)


class Node(Protocol):
    """What is needed of edged.daemon.Daemon."""

    @property
    def observed(self) -> Observed: ...
    @property
    def runtime(self) -> Runtime: ...
    def status(self) -> NodeStatus: ...


class Answers:
    """Implements edged.uplink.Asked."""

    def __init__(self, node: Node, access: Access) -> None:
        self._node = node
        self._access = access
        self._looks = Looks(node)

    async def answer(self, request: AnyRequest, talk: Talk) -> End:
        try:
            return await self._answer(request, talk)
        except _NotFoundError as e:
            return End(reason="NotFound", message=str(e))

    async def _answer(self, request: AnyRequest, talk: Talk) -> End:
        match request:
            case LogsRequest():
                return await self._logs(request, talk)
            case ExecRequest():
                return await self._exec(request, talk)
            case AttachRequest():
                return await self._attach(request, talk)
            case ConnectRequest():
                return await self._connect(request, talk)
            case UsageRequest():
                return await self._looks.tell(talk)

    # ------------------------------------------------------------ finding

    def _pod(self, uid: str) -> PodStatus:
        found = next((p for p in self._node.status().pods if p.uid == uid), None)
        if found is None:
            raise _NotFoundError(f"pod {uid} is not on this node (any more)")
        return found

    def _container(self, uid: str, name: str) -> tuple[PodStatus, ContainerStatus]:
        pod = self._pod(uid)
        found = next((c for c in (*pod.init, *pod.containers) if c.name == name), None)
        if found is None:
            raise _NotFoundError(f'container "{name}" is not valid for pod "{pod.name}"')
        return pod, found

    def _running(self, uid: str, name: str) -> ContainerState:
        """The attempt that runs now. :raises PermanentError, RetryError: none does, or it can't be talked to."""
        pod, status = self._container(uid, name)
        state = next((c for c in self._attempts(uid, name) if c.phase is ContainerPhase.RUNNING), None)
        if state is None:
            why = status.reason or pod.reason
            raise PermanentError(f'container "{name}" of pod "{pod.name}" is not running{": " + why if why else ""}')
        if any(s.pod_uid == uid and s.frozen for s in self._node.observed.sandboxes):
            raise RetryError(f'pod "{pod.name}" is paused while the node is short of memory')
        return state

    def _attempts(self, uid: str, name: str) -> list[ContainerState]:
        """The newest first, read afresh where the daemon's last look may be old."""
        known = [c for c in self._node.observed.containers if (c.pod_uid, c.name) == (uid, name)]
        return sorted(known, key=lambda c: c.attempt, reverse=True)

    # ------------------------------------------------------------ logs

    async def _logs(self, request: LogsRequest, talk: Talk) -> End:
        path, container = self._log_file(request)
        since = request.since_wall or (time.time() - request.since if request.since else 0.0)

        def writes() -> bool:
            found = self._node.runtime.inspect(container)
            return found is not None and found.phase in LIVE

        await logs.tell(path, request, since, writes, talk)
        return End()

    def _log_file(self, request: LogsRequest) -> tuple[Path, str]:
        """(file, container id). While a container waits for its restart, the attempt that has ended is both the present
        and the previous one, as for the kubelet."""
        pod, status = self._container(request.pod, request.container)
        attempts = self._attempts(request.pod, request.container)
        if request.previous and status.state != "waiting":
            attempts = attempts[1:]
        attempts = [a for a in attempts if a.started_at]
        if not attempts and request.previous:
            raise PermanentError(f'previous terminated container "{request.container}" in pod "{pod.name}" not found')
        if not attempts:
            why = status.reason or pod.reason or "ContainerCreating"
            raise PermanentError(f'container "{request.container}" in pod "{pod.name}" is waiting to start: {why}')
        path = self._node.runtime.log_file(attempts[0].id)
        if attempts[0].phase not in LIVE and not path.exists():
            raise PermanentError(
                f'the log of container "{request.container}" in pod "{pod.name}" is gone: the memory for logs was'
                " used up (log_node_bytes in node.toml)"
            )
        return path, attempts[0].id

    # ------------------------------------------------------------ exec

    async def _exec(self, request: ExecRequest, talk: Talk) -> End:
        state = self._running(request.pod, request.container)
        wanted = Wanted(tty=request.tty, stdin=request.stdin)
        async with self._access.enter(state.id, request.command, wanted) as inside:
            if not await inside.ran() and await inside.wait() != 0:
                said = inside.complaint() or "crun gave no reason"
                return End(code=127, reason="Refused", message=f"{' '.join(request.command)[:200]}: {said}")
            feeding = pumps.inward(talk, inside.stdin, inside.no_more_input, inside.resize)
            code = await _beside(feeding, self._follow(request, inside, talk))
        return End(code=code)

    async def _follow(self, request: ExecRequest, inside: Inside, talk: Talk) -> int:
        """Its output until it ends; what it left running in the background isn't waited for."""
        outputs = [(inside.stdout, STDOUT, request.stdout)]
        if not inside.terminal:
            outputs.append((inside.stderr, STDERR, request.stderr))
        deaf = _Deaf()
        ends = [pumps.Outward(fd, channel, talk if heard else deaf) for fd, channel, heard in outputs if fd >= 0]
        async with asyncio.TaskGroup() as tasks:
            pumping = [tasks.create_task(end.pump(), name="exec output") for end in ends]
            code = await inside.wait()
            for task in pumping:
                task.cancel()
        for end in ends:
            await end.rest()
        return code

    # ------------------------------------------------------------ attach

    async def _attach(self, request: AttachRequest, talk: Talk) -> End:
        state = self._running(request.pod, request.container)
        with self._access.attach(state.id) as peer:

            def resized(size: Size) -> None:
                self._access.resize(state.id, size)

            fd = peer.fileno() if request.stdin else -1
            feeding = pumps.inward(_Pieces(talk), fd, lambda: _shut(peer), resized)
            await _beside(feeding, self._overhear(request, peer, talk))
        ended = self._node.runtime.inspect(state.id)
        return End(code=ended.exit_code or 0 if ended is not None and ended.phase not in LIVE else 0)

    async def _overhear(self, request: AttachRequest, peer: socket.socket, talk: Talk) -> None:
        wanted = {STDOUT: request.stdout, STDERR: request.stderr}
        while True:
            try:
                packet = peer.recv(attaching.PACKET + 1)
            except BlockingIOError:
                await process.readable(peer.fileno())
                continue
            except OSError:
                return
            if not packet:
                return
            channel, body = attaching.unpack(packet)
            if body and wanted[channel]:
                await talk.send(channel, body)

    # ------------------------------------------------------------ connect

    async def _connect(self, request: ConnectRequest, talk: Talk) -> End:
        self._pod(request.pod)
        try:
            peer = await self._access.dial(request.pod, request.port)
        except RetryError as e:
            return End(reason="Refused", message=str(e))
        with peer:
            feeding = pumps.inward(talk, peer.fileno(), lambda: _shut(peer), lambda _: None)
            await _beside(feeding, pumps.outward(peer.fileno(), STDOUT, talk))
        return End()


class _NotFoundError(PermanentError):
    """Becomes an End of that reason."""


class _Deaf:
    """A Talk for output that nobody wants."""

    async def send(self, channel: int, data: bytes) -> None:
        pass

    async def receive(self) -> tuple[int, bytes]:
        raise AssertionError("nobody talks to it")


class _Pieces:
    """A Talk whose frames fit into conmon's packets."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._rest = b""
        self._channel = 0
        self.send = talk.send

    async def receive(self) -> tuple[int, bytes]:
        if not self._rest:
            self._channel, self._rest = await self._talk.receive()
        piece, self._rest = self._rest[: attaching.PACKET], self._rest[attaching.PACKET :]
        return self._channel, piece


async def _beside(feeding: Coroutine[Any, Any, None], work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns; the input ends with it, whether it was used up or not."""
    task = asyncio.get_running_loop().create_task(feeding, name="input of a conversation")
    try:
        return await work
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def _shut(peer: socket.socket) -> None:
    try:
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        return  # it has left already
