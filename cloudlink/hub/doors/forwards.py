"""port-forward: many TCP connections of the client's through one upgraded connection, each a conversation of its own.

    SPDY (also through a WebSocket)   a pair of streams, error and data, for each connection, whenever one is made
    WebSocket                         two channels for each port in the request, data and error, one connection each

As kubelet has them (k8s.io/kubelet/pkg/cri/streaming/portforward).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from cloudlink.hub.doors.pipes import PING_EVERY, Pipe, end_all, every
from cloudlink.hub.doors.sessions import Session, Stream, serving
from cloudlink.hub.doors.spdy import PROTOCOL_ERROR, RstStream
from cloudlink.hub.doors.terminals import Channels
from cloudlink.hub.doors.websocket import Tunnel, WebSocket
from cloudlink.hub.remote import Conversation, Frame
from edged.errors import EdgedError
from edged.model.remote import STDIN, STDOUT

SPDY = ("portforward.k8s.io",)
TUNNEL = ("SPDY/3.1+portforward.k8s.io",)
WEBSOCKET = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")
MAX_PORTS = 64  # in one request; a channel's number is one byte

# A connection to a port of the pod, closed on leaving; EdgedError on entering says why there is none.
Connect = Callable[[int], AbstractAsyncContextManager[Conversation]]


class Forwarding:
    """Connections through one SPDY session.

    :param pod: its name, for messages.
    """

    def __init__(self, session: Session, connect: Connect, pod: str) -> None:
        self._session = session
        self._connect = connect
        self._pod = pod

    async def run(self) -> None:
        """Until the client has left."""
        waiting: dict[str, dict[str, Stream]] = {}  # connections whose other stream is still to come
        async with asyncio.TaskGroup() as tasks:
            pings = tasks.create_task(every(PING_EVERY, self._session.ping), name="forward: pings")
            carried: set[asyncio.Task[None]] = set()
            while (stream := await self._session.accept()) is not None:
                kind = stream.headers.get("streamtype", "")
                number = _request(stream, kind)
                port = port_of(stream.headers.get("port", ""))
                there = waiting.setdefault(number, {})
                if kind not in ("error", "data") or kind in there or port is None:
                    await self._session.say(RstStream(stream.number, PROTOCOL_ERROR))
                    stream.break_off()
                    self._session.forget(stream)
                    continue
                there[kind] = stream
                if len(there) == 2:
                    del waiting[number]
                    task = tasks.create_task(self._carry(port, there["data"], there["error"]), name="forward")
                    carried.add(task)
                    task.add_done_callback(carried.discard)
                waiting = {n: w for n, w in waiting.items() if any(not s.broken for s in w.values())}
            for task in (pings, *carried):
                task.cancel()

    async def _carry(self, port: int, data: Stream, error: Stream) -> None:
        error.ignore()
        try:
            async with self._connect(port) as conversation:
                trouble = await _exchange(data, conversation)
        except EdgedError as e:
            trouble = str(e)
        data.ignore()
        if trouble:
            await error.write(trouble_with(port, self._pod, trouble).encode())
        await data.finish()
        await error.finish()


def trouble_with(port: int, pod: str, why: str) -> str:
    return f"error forwarding port {port} to pod {pod}: {why}"


def _request(stream: Stream, kind: str) -> str:
    """Which connection a stream belongs to; old clients give no number, but open data right after error."""
    given = stream.headers.get("requestid", "")
    return given or str(stream.number - 2 if kind == "data" else stream.number)


def port_of(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else 0
    return number if 0 < number < 1 << 16 else None


async def _exchange(data: Stream, conversation: Conversation) -> str:
    """Both directions, until the pod's end is through or the client has given up; returns what went wrong, or ""."""

    async def up() -> None:
        while received := await data.read():
            await conversation.send(Frame(STDIN, received))
        if not data.broken:
            await conversation.send(Frame(STDIN, b""))  # the pod may still answer
            await data.broke()

    async def down() -> str:
        while isinstance(told := await conversation.receive(), Frame):
            if told.channel == STDOUT:
                await data.write(told.data)
        return told.message if told.reason else ""

    upwards = asyncio.create_task(up(), name="forward: to the pod")
    downwards = asyncio.create_task(down(), name="forward: from the pod")
    try:
        await asyncio.wait([upwards, downwards], return_when=asyncio.FIRST_COMPLETED)
        return downwards.result() if downwards.done() else ""
    finally:
        await end_all([upwards, downwards])


async def forward_session(pipe: Pipe, connect: Connect, pod: str) -> None:
    """Until the client has left."""
    async with serving(Session(pipe)) as session:
        await Forwarding(session, connect, pod).run()


async def forward_tunnel(websocket: WebSocket, connect: Connect, pod: str) -> None:
    """The same inside of a WebSocket's messages."""
    await forward_session(Tunnel(websocket), connect, pod)
    await websocket.close()


# ---------------------------------------------------------------- WebSocket


async def forward_channels(
    websocket: WebSocket, protocol: str, ports: Sequence[int], connect: Connect, pod: str
) -> None:
    """Until all connections are through or the client has left."""
    channels = Channels(websocket, protocol)
    inboxes: list[asyncio.Queue[bytes]] = [asyncio.Queue(1) for _ in ports]
    over: set[int] = set()
    for n, port in enumerate(ports):
        for channel in (2 * n, 2 * n + 1):
            await channels.send(channel, struct.pack("<H", port))

    async def carry(n: int, port: int) -> None:
        try:
            async with connect(port) as conversation:
                trouble = await _exchange_channel(channels, 2 * n, inboxes[n], conversation)
        except EdgedError as e:
            trouble = str(e)
        over.add(n)
        while not inboxes[n].empty():  # nobody waits to be heard there
            inboxes[n].get_nowait()
        if trouble:
            await channels.send(2 * n + 1, trouble_with(port, pod, trouble).encode())

    async def carry_all() -> None:
        async with asyncio.TaskGroup() as group:
            carried = [group.create_task(carry(n, port), name="forward") for n, port in enumerate(ports)]
            listening = group.create_task(_distribute(channels, inboxes, over), name="forward: client")
            await asyncio.wait([listening, group.create_task(_all(carried))], return_when=asyncio.FIRST_COMPLETED)
            for task in (listening, *carried):
                task.cancel()

    tasks = [
        asyncio.create_task(carry_all(), name="forward: all"),
        asyncio.create_task(websocket.left(), name="forward: client gone"),
        asyncio.create_task(every(PING_EVERY, websocket.ping), name="forward: pings"),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_all(tasks)
    await websocket.close()


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


async def _distribute(channels: Channels, inboxes: Sequence[asyncio.Queue[bytes]], over: set[int]) -> None:
    """What the client says, to the connection that it is for, until it has left."""
    while (told := await channels.receive()) is not None:
        n, kind = divmod(told[0], 2)
        if kind == 0 and n < len(inboxes) and n not in over:
            await inboxes[n].put(told[1])


async def _exchange_channel(
    channels: Channels, channel: int, inbox: asyncio.Queue[bytes], conversation: Conversation
) -> str:
    async def up() -> None:
        while True:
            await conversation.send(Frame(STDIN, await inbox.get()))

    upwards = asyncio.create_task(up(), name="forward: to the pod")
    try:
        while isinstance(told := await conversation.receive(), Frame):
            if told.channel == STDOUT and told.data:
                await channels.send(channel, told.data)
        return told.message if told.reason else ""
    finally:
        await end_all([upwards])
