"""exec and attach: the client's channels on one side, one conversation with a node on the other.

Kubernetes' remote command protocol (k8s.io/apimachinery/pkg/util/remotecommand): v1 to v4 over SPDY streams, v4 and
v5 over a WebSocket whose messages begin with their channel's number, as a byte or (base64) as a digit.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from cloudlink.hub.doors.pipes import PING_EVERY, Pipe, end_all, every
from cloudlink.hub.doors.sessions import Session, Stream, serving
from cloudlink.hub.doors.websocket import WebSocket
from cloudlink.hub.remote import Conversation, Frame
from edged.model.remote import RESIZE, STDERR, STDIN, STDOUT, AttachRequest, End, ExecRequest, Size

ERROR, CLOSE = 3, 255  # channels that only the client's side has
MAX_RESIZE = 4096  # bytes; more is no size of a terminal
STREAMS_WITHIN = 30.0  # seconds that a client has to open its streams, as kubelet's

WEBSOCKET = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io")
SPDY = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")  # the best first

Say = Callable[[Frame], Awaitable[None]]


class Terminal(Protocol):
    async def listen(self, say: Say) -> None:
        """Pass on what the client says; returns when it has left."""

    async def show(self, channel: int, data: bytes) -> None: ...

    async def finish(self, end: End) -> None:
        """Tell how it ended, and hang up."""

    async def left(self) -> None: ...

    async def ping(self) -> None: ...


async def converse(terminal: Terminal, conversation: Conversation, accepted: frozenset[int]) -> None:
    """Until the node is through or the client has left. Closes neither the connection nor the conversation.

    :param accepted: channels on which the node expects to hear something.
    """

    async def say(frame: Frame) -> None:
        if frame.channel in accepted:
            await conversation.send(frame)

    async def show() -> End:
        while isinstance(told := await conversation.receive(), Frame):
            await terminal.show(told.channel, told.data)
        return told

    showing = asyncio.create_task(show(), name="terminal: output")
    others = [
        asyncio.create_task(terminal.listen(say), name="terminal: input"),
        asyncio.create_task(terminal.left(), name="terminal: client"),
        asyncio.create_task(every(PING_EVERY, terminal.ping), name="terminal: pings"),
    ]
    try:
        await asyncio.wait([showing, *others], return_when=asyncio.FIRST_COMPLETED)
        if showing.done():
            await end_all(others)
            await terminal.finish(showing.result())
    finally:
        await end_all([showing, *others])


def status_of(end: End) -> dict[str, Any]:
    """How a command ended, as metav1.Status: what kubelet and its clients agree on."""
    if not end.reason and end.code == 0:
        return {"metadata": {}, "status": "Success"}
    failure: dict[str, Any] = {"metadata": {}, "status": "Failure"}
    if not end.reason:
        causes = [{"reason": "ExitCode", "message": str(end.code)}]
        message = f"command terminated with non-zero exit code: exit status {end.code}"
        return failure | {"reason": "NonZeroExitCode", "message": message, "details": {"causes": causes}}
    causes = [{"message": end.message}]
    message = f"Internal error occurred: {end.message}"
    return failure | {"reason": "InternalError", "message": message, "details": {"causes": causes}, "code": 500}


class _Dimensions(msgspec.Struct, rename="pascal"):
    """remotecommand.TerminalSize."""

    width: int
    height: int


def resize_of(document: bytes) -> Frame | None:
    """A client's terminal's new size; None where it is none (which says nothing about the rest of what it sends)."""
    try:
        told = msgspec.json.decode(document, type=_Dimensions)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not (0 < told.width < 1 << 16 and 0 < told.height < 1 << 16):
        return None
    return Frame(RESIZE, msgspec.msgpack.encode(Size(told.width, told.height)))


# ---------------------------------------------------------------- WebSocket


class Channels:
    """Numbered channels in a WebSocket's messages."""

    def __init__(self, websocket: WebSocket, protocol: str) -> None:
        self._websocket = websocket
        self._base64 = "base64" in protocol
        self._closes = protocol.startswith("v5.")
        self._channel = -1

    async def receive(self) -> tuple[int, bytes] | None:
        """(channel, data); (CLOSE, channel as a byte) where the client says no more on one; None: it has left."""
        while (piece := await self._websocket.receive()) is not None:
            data = piece.data
            if piece.first:
                self._channel, data = self._split(data)
            if self._channel == CLOSE and not self._closes:
                continue
            if self._base64:
                try:
                    data = base64.b64decode(data, validate=True)
                except (binascii.Error, ValueError):
                    return None
            if self._channel >= 0 and data:  # an empty message means nothing
                return self._channel, data
        return None

    def _split(self, data: bytes) -> tuple[int, bytes]:
        if not data:
            return -1, b""
        return data[0] - ord("0") if self._base64 else data[0], data[1:]

    async def send(self, channel: int, data: bytes) -> None:
        if self._base64:
            await self._websocket.send(b"%d%s" % (channel, base64.b64encode(data)), text=True)
        else:
            await self._websocket.send(bytes([channel]) + data)


class WebSocketTerminal:
    def __init__(self, websocket: WebSocket, protocol: str) -> None:
        self._websocket = websocket
        self._channels = Channels(websocket, protocol)

    async def listen(self, say: Say) -> None:
        while (told := await self._channels.receive()) is not None:
            channel, data = told
            if channel == STDIN:
                await say(Frame(STDIN, data))
            elif channel == CLOSE and data[0] == STDIN:
                await say(Frame(STDIN, b""))
            elif channel == RESIZE and (size := resize_of(data)) is not None:
                await say(size)

    async def show(self, channel: int, data: bytes) -> None:
        await self._channels.send(channel, data)

    async def finish(self, end: End) -> None:
        await self._channels.send(ERROR, msgspec.json.encode(status_of(end)))
        await self._websocket.close()

    async def left(self) -> None:
        await self._websocket.left()

    async def ping(self) -> None:
        await self._websocket.ping()


# ---------------------------------------------------------------- SPDY

_KINDS = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}


async def streams_of(session: Session, wanted: frozenset[int]) -> Mapping[int, Stream] | None:
    """The streams that the client opens, by channel; None where it leaves, or takes too long, or opens others."""
    found: dict[int, Stream] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STREAMS_WITHIN):
            while not wanted <= found.keys():
                stream = await session.accept()
                channel = None if stream is None else _KINDS.get(stream.headers.get("streamtype", "").lower())
                if stream is None or channel is None or channel in found:
                    return None
                found[channel] = stream
            return found
    return None


class SpdyTerminal:
    def __init__(self, session: Session, streams: Mapping[int, Stream], protocol: str) -> None:
        self._session = session
        self._streams = streams
        self._protocol = protocol

    async def listen(self, say: Say) -> None:
        async with asyncio.TaskGroup() as tasks:
            if stdin := self._streams.get(STDIN):
                tasks.create_task(self._stdin(stdin, say), name="terminal: stdin")
            if resize := self._streams.get(RESIZE):
                tasks.create_task(self._resize(resize, say), name="terminal: resize")
            tasks.create_task(self.left(), name="terminal: client")

    async def _stdin(self, stream: Stream, say: Say) -> None:
        while data := await stream.read():
            await say(Frame(STDIN, data))
        if not stream.broken:
            await say(Frame(STDIN, b""))

    async def _resize(self, stream: Stream, say: Say) -> None:
        """One JSON document a line."""
        rest = b""
        while data := await stream.read():
            *documents, rest = (rest + data).split(b"\n")
            sizes = [size for d in documents if (size := resize_of(d))]
            if sizes:  # only the last one counts
                await say(sizes[-1])
            rest = rest if len(rest) <= MAX_RESIZE else b""

    async def show(self, channel: int, data: bytes) -> None:
        if stream := self._streams.get(channel):
            await stream.write(data)

    async def finish(self, end: End) -> None:
        status = status_of(end)  # before v4: nothing, or its sentence
        told = msgspec.json.encode(status) if self._protocol == SPDY[0] else status.get("message", "").encode()
        for stream in self._streams.values():
            stream.ignore()
        if error := self._streams.get(ERROR):
            await error.write(told)
        for stream in self._streams.values():
            await stream.finish()

    async def left(self) -> None:
        await self._session.left()

    async def ping(self) -> None:
        await self._session.ping()


# ---------------------------------------------------------------- put together


def _accepted(asked: ExecRequest | AttachRequest) -> frozenset[int]:
    return frozenset({STDIN} if asked.stdin else ()) | frozenset({RESIZE} if asked.tty else ())


async def over_websocket(
    pipe: Pipe, protocol: str, conversation: Conversation, asked: ExecRequest | AttachRequest
) -> None:
    """Until it is over."""
    terminal = WebSocketTerminal(WebSocket(pipe), protocol)
    # As kube-apiserver does: an empty message says that the channels are there.
    await terminal.show(STDOUT if asked.stdout else STDERR if asked.stderr else ERROR, b"")
    await converse(terminal, conversation, _accepted(asked))


async def over_spdy(pipe: Pipe, protocol: str, conversation: Conversation, asked: ExecRequest | AttachRequest) -> None:
    """Until it is over."""
    wanted = {ERROR} | _accepted(asked)
    wanted |= {STDOUT} if asked.stdout else set()
    wanted |= {STDERR} if asked.stderr else set()
    if protocol not in SPDY[:2]:  # resizing came with v3
        wanted -= {RESIZE}
    async with serving(Session(pipe)) as session:
        streams = await streams_of(session, frozenset(wanted))
        if streams is not None:
            await converse(SpdyTerminal(session, streams, protocol), conversation, _accepted(asked))
