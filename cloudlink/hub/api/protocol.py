"""HTTP/1.1 connections: uvicorn's own, with what ASGI has no word for.

    scope["extensions"]["tls"]      who is at the other end: ASGI's TLS extension, as far as the API needs it
    scope["extensions"]["break_off"]  ends an answer in the middle, so that the client sees that it is not whole
    scope["extensions"]["upgrade"]  only where the client asks for another protocol: lets a handler take the connection

So requests for WebSocket and SPDY go through the same guard as all others, are refused with the same Status, and
only then speak another language.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Iterable
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD = 64 << 10  # bytes of a request before its body; labels in selectors need the most
HEAD_TIME = 30.0  # seconds for it to arrive; kube-apiserver's ReadHeaderTimeout is 32
CONNECTIONS = 4096  # open at once; each costs about 100 kB
HIGH_WATER = 64 << 10  # bytes received and not yet read, after which the client has to wait
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))  # seconds, seconds, times

Headers = Iterable[tuple[str, str]]


class Protocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=Protocol, ws="none")`."""

    head_time = HEAD_TIME
    _tls: dict[str, Any] | None = None
    _head: int | None = 0  # bytes of the head that is being received; None while none is
    _hurry: asyncio.TimerHandle | None = None
    _upgrading: RequestResponseCycle | None = None  # the request after which the parser lets go of the connection
    _through = False  # the parser has let go of it
    _rest = b""  # what the client sent after that request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= CONNECTIONS:
            transport.abort()
        super().connection_made(transport)
        self._tls = tls_facts(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._got_head()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        """Who opens connections and says nothing, or begins a request and never ends it, is let go."""
        if self._hurry is None:
            self._head = 0
            self._hurry = asyncio.get_running_loop().call_later(self.head_time, self._too_slow)

    def _got_head(self) -> None:
        self._head = None
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    def _too_slow(self) -> None:
        self._hurry = None
        self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()
        extensions: dict[str, Any] = {} if self._tls is None else {"tls": self._tls}
        cast("dict[str, Any]", self.scope)["extensions"] = extensions

    def on_headers_complete(self) -> None:
        self._got_head()
        super().on_headers_complete()
        extensions = cast("dict[str, Any]", self.scope)["extensions"]
        extensions["break_off"] = {"break_off": functools.partial(self._break_off, self.cycle)}
        if self.parser.should_upgrade():
            self._upgrading = self.cycle
            self.cycle.keep_alive = False  # the parser reads no second request from here
            extensions["upgrade"] = {"take_over": self._take_over}

    def data_received(self, data: bytes) -> None:
        if self._through:
            self._keep(data)
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as e:
            self._through = True
            self._keep(data[e.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._head is not None:
            self._head += len(data)
            if self._head > HEAD:
                self._refuse_head()

    def _refuse_head(self) -> None:
        text = f"the request line and headers may have {HEAD} bytes together".encode()
        lines = (
            b"HTTP/1.1 431 Request Header Fields Too Large",
            b"content-type: text/plain; charset=utf-8",
            b"content-length: %d" % len(text),
            b"connection: close",
        )
        self.transport.write(b"\r\n".join((*lines, b"", text)))
        self.transport.close()

    def _keep(self, data: bytes) -> None:
        """Few clients speak before they are answered, and none says much."""
        self._rest += data
        if len(self._rest) > HIGH_WATER:
            self.transport.close()

    def _break_off(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True  # uvicorn need not wonder where the rest is
        self.transport.close()

    def _take_over(self, headers: Headers) -> Taken:
        """Answer 101 and hand over the connection. The handler sees to the rest, and closes it.

        :raises ConnectionResetError: the client has left already.
        """
        cycle = self._upgrading
        if cycle is None or cycle.disconnected or cycle.response_started or self.transport.is_closing():
            raise ConnectionResetError("the client has left")
        lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in headers), "", ""]
        cycle.response_started = cycle.response_complete = True
        taken = Taken(self.transport, self._rest, self.connections)
        self.connections.discard(self)
        self.transport.set_protocol(taken)
        self.flow.resume_reading()
        self.transport.write("\r\n".join(lines).encode("latin-1"))
        return taken


class Taken(asyncio.Protocol):
    """A connection that speaks HTTP no more: bytes both ways, bounded both ways.

    :param among: uvicorn's open connections, which it ends and waits for when the hub stops.
    """

    def __init__(self, transport: asyncio.Transport, received: bytes, among: set[Any]) -> None:
        self._transport = transport
        self._received = bytearray(received)
        self._among = among
        self._gone = asyncio.Event()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        if received:
            self._readable.set()
        among.add(self)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    async def read(self) -> bytes:
        """What came since the last time; waits for something to come. b"" once the other side has left."""
        await self._readable.wait()
        data = bytes(self._received)
        self._received.clear()
        if not self._gone.is_set():
            self._readable.clear()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Waits while the other side is slow. Dropped once it has left: `read` tells."""
        await self._writable.wait()
        if not self._transport.is_closing():
            self._transport.write(data)

    async def left(self) -> None:
        """Waits until the other side has left: what was received and not read yet may still be read."""
        await self._gone.wait()

    def close(self) -> None:
        """What was written before still gets there. Harmless the second time."""
        self._left()
        self._transport.close()

    # ------------------------------------------------------------ asyncio.Protocol, and uvicorn's side of it

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._readable.set()
        if len(self._received) > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._among.discard(self)
        self._left()

    def _left(self) -> None:
        self._gone.set()
        self._readable.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def shutdown(self) -> None:
        """The hub stops."""
        self.close()


def tls_facts(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """ASGI's TLS extension; None without TLS.

    `client_cert_chain` is empty or has the client's own certificate as PEM: verified by the TLS library where it was
    asked for one, with nothing said yet about whose it is.
    """
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return None
    certificate = connection.getpeercert(binary_form=True)
    chain = [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else []
    return {"client_cert_chain": chain, "tls_version": connection.version()}


def take_over(scope: Scope, headers: Headers) -> Taken:
    """For handlers: see Protocol._take_over. Only where `scope` has the extension (`wants_upgrade`)."""
    taken: Taken = scope["extensions"]["upgrade"]["take_over"](headers)
    return taken


def break_off(scope: Scope) -> None:
    """For handlers: end the connection in the middle of the answer. What was sent before still gets there."""
    if extension := scope.get("extensions", {}).get("break_off"):
        extension["break_off"]()


def wants_upgrade(scope: Scope) -> bool:
    return "upgrade" in scope.get("extensions", {})
