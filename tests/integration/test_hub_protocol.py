"""The hub's HTTP connections over real TLS: who is at the other end, and connections that change their language."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import uvicorn
from starlette.types import Receive, Scope, Send

from cloudlink.hub.api.protocol import Protocol, take_over, wants_upgrade
from cloudlink.hub.api.server import listen
from tests.fakes.hub_server import self_signed

App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Another language: everything comes back. Plain requests get what the connection knows about the client."""
    if wants_upgrade(scope) and scope["path"] == "/echo":
        taken = take_over(scope, [("connection", "upgrade"), ("upgrade", "echo")])
        while data := await taken.read():
            await taken.write(data)
        taken.close()
        return
    body = json.dumps(scope["extensions"].get("tls")).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(app: App, folder: Path) -> AsyncIterator[int]:
    certificate, key = self_signed(folder)
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_ca_certs=certificate,
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    door = listen("127.0.0.1", 0)
    task = asyncio.create_task(server.serve([door]))
    try:
        yield door.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        door.close()


async def connect(
    port: int, folder: Path, with_certificate: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cafile=str(folder / "hub.crt"))
    if with_certificate:
        context.load_cert_chain(folder / "hub.crt", folder / "hub.key")
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def answer_of(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next((int(h.partition(":")[2]) for h in head.lower().splitlines() if h.startswith("content-length")), 0)
    return head, await reader.readexactly(length)


def test_a_request_tells_which_certificate_its_client_has_shown(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(echo, tmp_path) as port:
            for shown in (False, True):
                reader, writer = await connect(port, tmp_path, shown)
                for _ in range(2):  # the second request of a connection too
                    writer.write(b"GET / HTTP/1.1\r\nhost: hub\r\n\r\n")
                    _, body = await answer_of(reader)
                    chain = json.loads(body)["client_cert_chain"]
                    assert chain == ([(tmp_path / "hub.crt").read_text()] if shown else [])
                writer.close()

    asyncio.run(run())


def test_a_connection_that_was_taken_over_speaks_bytes_both_ways(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(echo, tmp_path) as port:
            reader, writer = await connect(port, tmp_path)
            # With the first bytes of the other language sent before the answer is there.
            writer.write(b"GET /echo HTTP/1.1\r\nhost: hub\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\nearly")
            head, _ = await answer_of(reader)
            assert head.startswith("HTTP/1.1 101 ")
            assert await reader.readexactly(5) == b"early"
            much = bytes(range(256)) * 16384

            async def say() -> None:
                writer.write(much)
                await writer.drain()

            saying = asyncio.create_task(say())
            assert await reader.readexactly(len(much)) == much
            await saying
            writer.close()

    asyncio.run(run())


def test_an_upgrade_that_nobody_takes_is_answered_as_any_request_and_ends_the_connection(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(echo, tmp_path) as port:
            reader, writer = await connect(port, tmp_path)
            writer.write(b"GET /other HTTP/1.1\r\nhost: hub\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n")
            head, _ = await answer_of(reader)
            assert head.startswith("HTTP/1.1 200 ")
            assert "connection: close" in head
            assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_a_hub_that_stops_ends_the_connections_that_were_taken_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(echo, tmp_path) as port:
            reader, writer = await connect(port, tmp_path)
            writer.write(b"GET /echo HTTP/1.1\r\nhost: hub\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
            await answer_of(reader)
        assert await reader.read() == b""
        writer.close()

    asyncio.run(run())
