"""Answers on their way out: small ones at once, lists in parts, compressed where that is asked for and worth it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Iterator, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudlink.hub.api.answers import Answer
from cloudlink.hub.api.listing import PART, Listing
from cloudlink.hub.api.protocol import break_off

LEVEL = 1  # kube-apiserver's, too: a list shrinks to a tenth; more costs time and gains little
PATIENCE = 60.0  # seconds that a client may take to read a part

RawHeaders = list[tuple[bytes, bytes]]


def response(told: Answer, accept_encoding: str = "") -> ASGIApp:
    if isinstance(told, Listing):
        return _Parts(told, _takes_gzip(accept_encoding))
    headers = dict(told.headers)
    made = Response(told.body, told.code, None, None if "content-type" in headers else "application/json")
    made.raw_headers += raw(told.headers)
    return made


def raw(headers: Sequence[tuple[str, str]]) -> RawHeaders:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _takes_gzip(accept_encoding: str) -> bool:
    for offer in accept_encoding.split(","):
        coding, _, weight = offer.partition(";")
        if coding.strip().lower() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


class _Parts:
    """Sends a Listing part by part: never more than one part of it is in memory, and between parts others are served.

    What fits in one part is sent whole with its length, as any other answer.
    """

    def __init__(self, listing: Listing, gzip: bool) -> None:
        self._listing = listing
        self._gzip = gzip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self._listing.parts()
        first = next(parts)
        headers: RawHeaders = [(b"content-type", b"application/json"), (b"vary", b"Accept-Encoding")]
        headers += raw(self._listing.headers)
        if len(first) < PART:
            headers.append((b"content-length", str(len(first)).encode()))
            await send({"type": "http.response.start", "status": self._listing.code, "headers": headers})
            await send({"type": "http.response.body", "body": first})
            return
        if self._gzip:
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": self._listing.code, "headers": headers})
        try:
            await self._send_all(first, parts, send)
        except TimeoutError:
            break_off(scope)  # it reads nothing

    async def _send_all(self, first: bytes, rest: Iterator[bytes], send: Send) -> None:
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS) if self._gzip else None
        part: bytes | None = first
        while part is not None:
            body = await asyncio.to_thread(packer.compress, part) if packer is not None else part
            if body:
                await _within(send({"type": "http.response.body", "body": body, "more_body": True}))
            await asyncio.sleep(0)
            part = next(rest, None)
        await _within(send({"type": "http.response.body", "body": packer.flush() if packer is not None else b""}))


async def _within(sent: Awaitable[None]) -> None:
    async with asyncio.timeout(PATIENCE):
        await sent
