"""One call of grpc.health.v1.Health/Check over HTTP/2 without TLS, as Kubernetes asks (GRPC Health Checking Protocol).

A whole client would cost the daemon more than all its pods' probes together; this is one stream on one connection.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import NamedTuple

from edged.runtime import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH = 1, 2
STREAM = 1
MAX_FRAME = 1 << 14  # bytes; what a peer may send that was not told otherwise
MAX_ANSWER = 1 << 16  # bytes of headers and of body
MAX_FRAMES = 200
SERVING = 1
HEALTH = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
UNIMPLEMENTED, NOT_FOUND = "12", "5"


class Answer(NamedTuple):
    """:ivar headers: of the beginning and of the end together."""

    headers: dict[str, str]
    body: bytes


async def check(host: str, port: int, service: str) -> str:
    """ "" where it serves, else a sentence on what it said instead. The caller limits the time.

    :raises OSError, ValueError, asyncio.IncompleteReadError: nobody there, or somebody who does not speak HTTP/2.
    """
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_FRAME)
    try:
        writer.write(_question(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", service))
        return verdict(await _answer(reader, writer), service)
    finally:
        writer.transport.abort()


def verdict(answer: Answer, service: str) -> str:
    """ "" or a sentence."""
    http, status = answer.headers.get(":status", ""), answer.headers.get("grpc-status", "")
    if status == UNIMPLEMENTED:
        return "it does not implement grpc.health.v1.Health"
    if status == NOT_FOUND:
        return f"it knows no service {service!r}"
    if status not in ("", "0"):
        said = answer.headers.get("grpc-message", "")
        return f"the call failed with gRPC status {status}{': ' + said if said else ''}"
    if http not in ("", "200"):
        return f"it answered with HTTP {http}, not gRPC"
    found = health_of(answer.body)
    return "" if found == SERVING else f"it says {HEALTH.get(found, str(found))}"


def health_of(body: bytes) -> int:
    """HealthCheckResponse.status (field 1; 0 where it is left out) of the first message in a gRPC body.

    :raises ValueError: there is none.
    """
    if len(body) < 5:
        raise ValueError("the answer holds no message")
    compressed, length = struct.unpack_from("!BI", body)
    message = body[5 : 5 + length]
    if compressed or len(message) < length:
        raise ValueError("the answer is compressed or cut off")
    status, at = 0, 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            status = value if tag >> 3 == 1 else status
        elif kind == 2:
            length, at = _varint(message, at)
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("the answer is no protobuf message")
    return status


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        value |= (message[at] & 0x7F) << shift
        at += 1
        if not message[at - 1] & 0x80:
            return value, at
    raise ValueError("the answer is no protobuf message")


# ---------------------------------------------------------------- HTTP/2


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _question(authority: str, service: str) -> bytes:
    name = service.encode()
    length = bytes(_varint_bytes(len(name)))
    request = b"\n" + length + name if name else b""  # HealthCheckRequest.service, field 1
    headers = hpack.encode(
        (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "kube-probe/edged"),
        )
    )
    return (
        PREFACE
        + _frame(SETTINGS, 0, 0, struct.pack("!HIHI", HEADER_TABLE_SIZE, 0, ENABLE_PUSH, 0))
        + _frame(HEADERS, END_HEADERS, STREAM, headers)
        + _frame(DATA, END_STREAM, STREAM, struct.pack("!BI", 0, len(request)) + request)
    )


def _varint_bytes(number: int) -> Iterator[int]:
    while number >= 0x80:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    """Everything on our stream until its end; what belongs to the connection is answered as it must be."""
    headers: dict[str, str] = {}
    block, body = bytearray(), bytearray()
    ended = False
    for _ in range(MAX_FRAMES):
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        if length > MAX_FRAME:
            raise ValueError("it does not speak HTTP/2 without TLS")
        payload = await reader.readexactly(length)
        if kind in (SETTINGS, PING) and not flags & ACK:
            writer.write(_frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == GOAWAY and int.from_bytes(payload[:4], "big") & 0x7FFFFFFF < STREAM:
            raise ValueError(f"it closed the connection: {payload[8:].decode(errors='replace')[:200] or 'no reason'}")
        elif stream == STREAM and kind == RST_STREAM:
            raise ValueError(f"it broke the call off (HTTP/2 error {int.from_bytes(payload, 'big')})")
        elif stream == STREAM and kind in (DATA, HEADERS, CONTINUATION):
            (body if kind == DATA else block).extend(_without_padding(kind, flags, payload))
            ended = ended or bool(kind != CONTINUATION and flags & END_STREAM)
            if kind != DATA and flags & END_HEADERS:
                headers.update(hpack.decode(bytes(block)))
                block.clear()
            if ended and not block:
                return Answer(headers, bytes(body))
        if len(block) + len(body) > MAX_ANSWER:
            break
    raise ValueError("its answer has no end")


def _without_padding(kind: int, flags: int, payload: bytes) -> bytes:
    if kind != CONTINUATION and flags & PADDED and payload:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if kind == HEADERS and flags & PRIORITY else payload
