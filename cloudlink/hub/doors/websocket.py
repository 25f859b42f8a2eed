"""WebSocket (RFC 6455), the server's end, over an upgraded connection."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.utils import accept_key

from cloudlink.hub.doors.pipes import Pipe, linger

MAX_MESSAGE = 8 << 20  # bytes; kubectl sends 32 KiB, programs with the Python client whatever they have in hand
VERSION = "13"


class Piece(NamedTuple):
    """A message or, where it came in fragments, a part of one. `first`: it begins a message."""

    data: bytes
    first: bool


def acceptance(key: str, version: str) -> str:
    """The Sec-WebSocket-Accept for a request's Sec-WebSocket-Key.

    :raises ValueError: it is no proper handshake; says why.
    """
    if version != VERSION:
        raise ValueError(f"Sec-WebSocket-Version must be {VERSION}, not {version[:16]!r}")
    try:
        proper = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        proper = False
    if not proper:
        raise ValueError("Sec-WebSocket-Key must be 16 bytes in base64")
    return accept_key(key)


class WebSocket:
    """One task receives, any number send. Pings are answered; what breaks the protocol ends it."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=MAX_MESSAGE)
        self._pieces: list[Piece] = []  # at most what one read of the pipe has brought

    async def receive(self) -> Piece | None:
        """The next piece; None once the other side has left or said goodbye."""
        while not self._pieces:
            if self._protocol.state is not State.OPEN or not await self._read():
                return None
        return self._pieces.pop(0)

    async def _read(self) -> bool:
        data = await self._pipe.read()
        if not data:
            return False
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
                self._pieces.append(Piece(bytes(event.data), event.opcode is not Opcode.CONT))
        await self._flush()
        return True

    async def _flush(self) -> None:
        if out := b"".join(self._protocol.data_to_send()):
            await self._pipe.write(out)

    async def send(self, data: bytes, text: bool = False) -> None:
        """One message; dropped once the connection is closing."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(data) if text else self._protocol.send_binary(data)
            await self._flush()

    async def ping(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"edged")
            await self._flush()

    async def left(self) -> None:
        await self._pipe.left()

    async def close(self) -> None:
        """Say goodbye and wait a little for the other side's."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            await self._flush()
        await linger(self._last_words)

    async def _last_words(self) -> bool:
        self._pieces.clear()
        return self._protocol.state is not State.CLOSED and self._protocol.close_rcvd is None and await self._read()


class Tunnel:
    """A pipe through a WebSocket's binary messages."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def read(self) -> bytes:
        while (piece := await self._websocket.receive()) is not None:
            if piece.data:
                return piece.data
        return b""

    async def write(self, data: bytes) -> None:
        await self._websocket.send(data)

    async def left(self) -> None:
        await self._websocket.left()

    def close(self) -> None:
        """Whoever made the WebSocket closes it."""
