"""Conversations with nodes in memory: a `Remote` whose nodes are in this process. The real one passes the same contract
(tests/contract/test_remote_contract.py).

    FakeRemote({"pi-1": FakeNode()})     open(...) -> Conversation | queues of a few frames | Talk -> FakeNode.answer
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from cloudlink.hub.remote import Conversation, Frame
from edged.errors import EdgedError, PermanentError, RetryError
from edged.model.remote import (
    MAX_FRAME,
    RESIZE,
    STDERR,
    STDIN,
    STDOUT,
    AnyRequest,
    AttachRequest,
    ConnectRequest,
    End,
    ExecRequest,
    LogsRequest,
    Size,
    Usage,
    UsageRequest,
)
from edged.uplink import Asked, Talk

AT_ONCE = 4  # frames under way in one direction: less than any test sends, so that waiting is tried too


class FakeRemote:
    """Implements hub.remote.Remote.

    :ivar asked: (node, request) of everything that was opened, in order.
    :ivar offline: names of nodes that can't be reached now.
    :ivar live: conversations that are under way: 0 when everybody has let go.
    """

    def __init__(self, nodes: Mapping[str, Asked]) -> None:
        self.nodes = dict(nodes)
        self.asked: list[tuple[str, AnyRequest]] = []
        self.offline: set[str] = set()
        self.live = 0
        self._open: dict[_Conversation, str] = {}

    async def open(self, node: str, request: AnyRequest) -> Conversation:
        if node not in self.nodes:
            raise PermanentError(f"node {node} has not joined this fleet")
        if node in self.offline:
            raise RetryError(f"node {node} is not connected to the hub; try again when it is")
        self.asked.append((node, request))
        conversation = _Conversation(self.nodes[node], request, self._ended)
        self._open[conversation] = node
        self.live += 1
        return conversation

    def cut(self, node: str) -> None:
        """The node's link is lost: its conversations end, and it is offline from now on."""
        self.offline.add(node)
        for conversation in [c for c, name in self._open.items() if name == node]:
            conversation.end(End(reason="Gone", message=f"the connection to node {node} was lost"))

    def _ended(self, conversation: _Conversation) -> None:
        if self._open.pop(conversation, None) is not None:
            self.live -= 1


class _Conversation:
    """Both ends of one: `Conversation` for the hub, `Talk` (inner class) for the node."""

    def __init__(self, node: Asked, request: AnyRequest, ended: Callable[[_Conversation], None]) -> None:
        self._to_node: asyncio.Queue[Frame] = asyncio.Queue(maxsize=AT_ONCE)
        self._to_hub: asyncio.Queue[Frame] = asyncio.Queue(maxsize=AT_ONCE)
        self._over = asyncio.Event()
        self._end: End | None = None
        self._told = ended
        self._task = asyncio.get_running_loop().create_task(self._answer(node, request), name=f"fake node: {request}")

    async def _answer(self, node: Asked, request: AnyRequest) -> None:
        try:
            end = await node.answer(request, _NodeTalk(self._to_node, self._to_hub))
        except asyncio.CancelledError:
            end = End(reason="Gone", message="the conversation was closed")
        except RetryError as e:
            end = End(reason="Unavailable", message=str(e))
        except EdgedError as e:
            end = End(reason="Refused", message=str(e))
        self.end(end)

    def end(self, end: End) -> None:
        if self._end is None:
            self._end = end
            self._over.set()
            self._told(self)
            if self._task is not asyncio.current_task():
                self._task.cancel()

    async def send(self, frame: Frame) -> None:
        for piece in pieces(frame.data):
            if self._end is not None:
                return
            put = asyncio.ensure_future(self._to_node.put(Frame(frame.channel, piece)))
            await self._or_over(put)

    async def receive(self) -> Frame | End:
        if self._to_hub.empty() and self._end is None:
            await self._or_over(asyncio.ensure_future(_filled(self._to_hub)))
        if not self._to_hub.empty():
            return self._to_hub.get_nowait()
        assert self._end is not None
        return self._end

    async def _or_over(self, work: asyncio.Future[None]) -> None:
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((work, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, over):
                task.cancel()
            await asyncio.gather(work, over, return_exceptions=True)

    async def close(self) -> None:
        self.end(End(reason="Gone", message="the conversation was closed"))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((self._task,))


class _NodeTalk:
    """Implements edged.uplink.Talk."""

    def __init__(self, incoming: asyncio.Queue[Frame], outgoing: asyncio.Queue[Frame]) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    async def send(self, channel: int, data: bytes) -> None:
        for piece in pieces(data):
            await self._outgoing.put(Frame(channel, piece))

    async def receive(self) -> tuple[int, bytes]:
        frame = await self._incoming.get()
        return frame.channel, frame.data


async def _filled(queue: asyncio.Queue[Frame]) -> None:
    """Until there is something in it; takes nothing out, so that a cancelled waiter loses nothing."""
    while queue.empty():  # noqa: ASYNC110 (asyncio.Queue can't be waited for without taking)
        await asyncio.sleep(0.001)


def pieces(data: bytes) -> list[bytes]:
    return [data[at : at + MAX_FRAME] for at in range(0, len(data), MAX_FRAME)] or [b""]


# ---------------------------------------------------------------- a node

Program = Callable[[ExecRequest | AttachRequest, Talk], Awaitable[End]]


class FakeNode:
    """Implements edged.uplink.Asked: pods with containers in which the commands below can be run.

    :ivar pods: uid -> names of its containers.
    :ivar logs: (pod uid, container) -> lines of its log; of the attempt before it: `previous`.
    :ivar programs: first word of a command -> what it does; more may be put in.
    :ivar ports: what listens on a port of any pod: gets the talk, returns when the connection is closed.
    :ivar sizes: every terminal size that was told.
    """

    def __init__(self, pods: Mapping[str, Sequence[str]]) -> None:
        self.pods = {uid: tuple(names) for uid, names in pods.items()}
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.previous: dict[tuple[str, str], list[str]] = {}
        self.usage = Usage(cpu=0.25, memory=100 << 20, window=1.0)
        self.sizes: list[Size] = []
        self.programs: dict[str, Program] = {
            "true": _exit(0),
            "false": _exit(1),
            "exit": lambda request, talk: _exit(int(_words(request)[1]))(request, talk),
            "echo": _echo,
            "cat": _cat,
            "sleep": _sleep,
            "size": self._size,
        }
        self.attached: Program = _cat
        self.ports: dict[int, Callable[[Talk], Awaitable[End]]] = {80: _serve}

    async def answer(self, request: AnyRequest, talk: Talk) -> End:
        if isinstance(request, UsageRequest):
            await talk.send(STDOUT, msgspec.msgpack.encode(self.usage))
            return End()
        if request.pod not in self.pods:
            return End(reason="NotFound", message=f"this node has no pod {request.pod}")
        if isinstance(request, ConnectRequest):
            if request.port not in self.ports:
                return End(reason="Refused", message=f"nothing listens on port {request.port} of the pod")
            return await self.ports[request.port](talk)
        if request.container not in self.pods[request.pod]:
            return End(reason="NotFound", message=f"the pod has no container {request.container}")
        if isinstance(request, LogsRequest):
            return await self._logs(request, talk)
        if isinstance(request, AttachRequest):
            return await self.attached(request, talk)
        program = self.programs.get(request.command[0])
        if program is None:
            message = f"executable file `{request.command[0]}` not found in $PATH: No such file or directory"
            return End(code=127, reason="Refused", message=message)
        return await program(request, talk)

    async def _logs(self, request: LogsRequest, talk: Talk) -> End:
        key = (request.pod, request.container)
        if request.previous and key not in self.previous:
            return End(
                reason="Refused",
                message=f'previous terminated container "{request.container}" in pod "{request.pod}" not found',
            )
        lines = self.previous[key] if request.previous else self.logs.setdefault(key, [])
        stamp = "2026-01-02T03:04:05.000000006Z " if request.timestamps else ""
        at = 0 if request.tail is None else max(len(lines) - request.tail, 0)
        left = request.limit or 1 << 60
        while True:
            text = "".join(f"{stamp}{line}\n" for line in lines[at:]).encode()[:left]
            at, left = len(lines), left - len(text)
            if text:
                await talk.send(STDOUT, text)
            if not request.follow or left <= 0:
                return End()
            await asyncio.sleep(0.002)

    async def _size(self, request: ExecRequest | AttachRequest, talk: Talk) -> End:
        """Says each size that it is told, until there is no more input."""
        while True:
            channel, data = await talk.receive()
            if channel == RESIZE:
                self.sizes.append(msgspec.msgpack.decode(data, type=Size))
                await talk.send(STDOUT, f"{self.sizes[-1].width}x{self.sizes[-1].height}\n".encode())
            elif not data:
                return End()


def _words(request: ExecRequest | AttachRequest) -> tuple[str, ...]:
    return request.command if isinstance(request, ExecRequest) else ()


def _exit(code: int) -> Program:
    async def program(request: ExecRequest | AttachRequest, talk: Talk) -> End:
        return End(code=code)

    return program


async def _echo(request: ExecRequest | AttachRequest, talk: Talk) -> End:
    """`echo -e ...` says it on stderr, for want of a shell."""
    words = _words(request)[1:]
    channel = STDERR if words[:1] == ("-e",) else STDOUT
    text = " ".join(words[1:] if channel == STDERR else words)
    await talk.send(channel, f"{text}\n".encode())
    return End()


async def _cat(request: ExecRequest | AttachRequest, talk: Talk) -> End:
    while request.stdin:
        channel, data = await talk.receive()
        if channel == STDIN:
            if not data:
                break
            await talk.send(STDOUT, data)
    return End()


async def _sleep(request: ExecRequest | AttachRequest, talk: Talk) -> End:
    await asyncio.sleep(float(_words(request)[1]))
    return End()


async def _serve(talk: Talk) -> End:
    """Gives back what it gets, until it gets no more."""
    while True:
        _, data = await talk.receive()
        if not data:
            return End()
        await talk.send(STDOUT, data)
