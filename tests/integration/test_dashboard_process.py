"""The page's process: streams, a daemon that goes and comes, viewers that crowd or vanish, its end, its memory."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from edged import host
from edged.dashboard.__main__ import DEAD_VIEWER_MS, listen
from edged.dashboard.app import FOLLOWERS
from edged.dashboard.feed import VIEWERS
from tests.fakes.dashboard import PATIENCE, Dashboard, dashboard, events

BUDGET = 60 << 20  # bytes of PSS


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3 * PATIENCE):
            await scenario()

    asyncio.run(bounded())


async def view_where(response: httpx.Response, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        async for event, view in events(response):
            assert event == "view"
            if true(view):
                return dict(view)
    raise AssertionError("the stream ended")


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.02)


def test_a_change_at_the_node_reaches_every_page_over_one_watch() -> None:
    async def scenario() -> None:
        async with dashboard() as page, page.client() as client, contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(client.stream("GET", "/api/events")) for _ in range(3)]
            assert streams[0].headers["content-type"].startswith("text/event-stream")
            assert all(stream.status_code == 200 for stream in streams)
            wanted = [
                asyncio.ensure_future(view_where(s, lambda v: v["snapshot"]["status"]["generation"] == 77))
                for s in streams
            ]
            await until(lambda: page.source.watchers == 1)
            page.source.set(generation=77)
            for view in await asyncio.gather(*wanted):
                assert view["answering"] is True
            assert page.source.watchers == 1
            await stack.aclose()
            await until(lambda: page.source.watchers == 0)  # nobody looks: the daemon is asked nothing

    run(scenario)


def test_a_page_survives_its_daemons_restart_and_says_since_when_it_is_away() -> None:
    async def scenario() -> None:
        async with (
            dashboard(daemon=False) as page,
            page.client() as client,
            client.stream("GET", "/api/events") as response,
        ):
            stream = events(response)
            _, view = await anext(stream)
            assert view["answering"] is False
            assert view["snapshot"] is None
            assert view["node"] == "pi-kitchen"
            assert "is the daemon running" in view["reason"]
            assert (await client.get("/api/status")).status_code == 503
            await page.start_daemon()
            while not view["answering"]:
                _, view = await anext(stream)
            assert view["snapshot"]["status"]["node"] == "pi-kitchen"
            await page.stop_daemon()
            while view["answering"]:
                _, view = await anext(stream)
            assert view["since"] > 0
            assert view["snapshot"]["status"]["node"] == "pi-kitchen"  # the last that is known
            since = view["since"]
            _, view = await anext(stream)
            assert view["since"] == since
            await page.start_daemon()
            while not view["answering"]:
                _, view = await anext(stream)
            assert (await client.get("/api/status")).status_code == 200

    run(scenario)


def test_a_log_is_followed_and_ends_with_its_container() -> None:
    async def scenario() -> None:
        async with dashboard() as page, page.client() as client:
            container = page.source.status.pods[0].containers[0].container_id
            async with client.stream("GET", f"/api/logs/{container}/follow?tail=1") as response:
                stream = events(response)
                assert (await anext(stream))[1]["text"] == "reading 29: 21.9 °C"
                page.source.write_log(container, "<b>hello</b>", "stderr")
                _, line = await anext(stream)
                assert (line["text"], line["stream"]) == ("<b>hello</b>", "stderr")
                page.source.crash(0)
                assert (await anext(stream))[1] == {"end": ""}
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
            async with client.stream("GET", "/api/logs/unknown/follow") as response:
                assert "no container" in (await anext(events(response)))[1]["end"]

    run(scenario)


def test_more_viewers_than_the_board_can_serve_are_told_so() -> None:
    async def crowd(client: httpx.AsyncClient, path: str, limit: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            streams = []  # held on to: httpx closes a response whose reader is dropped
            for _ in range(limit):
                response = await stack.enter_async_context(client.stream("GET", path))
                streams.append(events(response))
                await anext(streams[-1])
            late = await client.get(path)
            assert late.status_code == 503
            assert "close one" in late.json()["error"]["message"]

        status = 0
        async with asyncio.timeout(PATIENCE):
            while status != 200:
                async with client.stream("GET", path) as response:
                    status = response.status_code

    async def scenario() -> None:
        async with dashboard() as page, page.client(limits=httpx.Limits(max_connections=None)) as client:
            container = page.source.status.pods[0].containers[0].container_id
            await crowd(client, "/api/events", VIEWERS)
            await crowd(client, f"/api/logs/{container}/follow", FOLLOWERS)

    run(scenario)


async def raw(page: Dashboard, request: bytes) -> bytes:
    address = httpx.URL(page.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(request)
        with contextlib.suppress(OSError):  # it may have hung up already
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


def test_garbage_instead_of_http_leaves_the_page_as_it_was() -> None:
    async def scenario() -> None:
        async with dashboard() as page, page.client() as client:
            for request in (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody tries TLS
                b"GET / HTTP/1.1\r\n\r\n",  # no Host
                b"GET /?token=%ff%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a" * 4000 + b"\r\nConnection: close\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
                b"GET /static/%2e%2e/app.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n",
            ):
                answer = await raw(page, request)
                assert not answer.startswith(b"HTTP/1.1 2"), request
                assert not answer.startswith(b"HTTP/1.1 5"), request
            assert (await client.get("/api/status")).status_code == 200

    run(scenario)


def test_a_viewer_that_vanishes_without_a_word_is_given_up_by_tcp() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == DEAD_VIEWER_MS


def test_the_process_ends_when_nobody_looks_and_stays_while_somebody_does() -> None:
    async def scenario() -> None:
        async with dashboard(idle_seconds=1.5) as page, page.client() as client:
            async with client.stream("GET", "/api/events") as response:
                stream = events(response)
                began = (await anext(stream))[1]["snapshot"]["wall"]
                while (await anext(stream))[1]["snapshot"]["wall"] < began + 4:  # more than twice the idle time
                    assert page.process.returncode is None
            async with asyncio.timeout(PATIENCE):
                assert await page.process.wait() == 0

    run(scenario)


def test_it_ends_at_once_when_told_to_though_pages_are_open() -> None:
    async def scenario() -> None:
        async with dashboard() as page, page.client() as client:
            container = page.source.status.pods[0].containers[0].container_id
            async with (
                client.stream("GET", "/api/events") as view,
                client.stream("GET", f"/api/logs/{container}/follow") as log,
            ):
                streams = [events(view), events(log)]  # held on to: httpx closes a response whose reader is dropped
                for stream in streams:
                    await anext(stream)
                page.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(PATIENCE):
                    await page.process.wait()
            assert page.process.stderr is not None
            said = (await page.process.stderr.read()).decode()
            assert "Traceback" not in said
            assert "timeout graceful shutdown exceeded" not in said

    run(scenario)


def test_it_stays_within_its_memory_with_many_pods_and_viewers() -> None:
    async def scenario() -> None:
        async with (
            dashboard(pods=40) as page,
            page.client(limits=httpx.Limits(max_connections=None)) as client,
            contextlib.AsyncExitStack() as stack,
        ):
            streams = []
            for _ in range(VIEWERS):
                streams.append(events(await stack.enter_async_context(client.stream("GET", "/api/events"))))
                await anext(streams[-1])
            await client.get("/api/status")
            pss = host.pss(page.process.pid)
            print(f"dashboard: {pss / (1 << 20):.1f} MiB PSS with 40 pods and {VIEWERS} viewers")
            assert 0 < pss <= BUDGET

    run(scenario)


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    async def scenario() -> None:
        async with dashboard() as page:
            port = httpx.URL(page.url).port
            second = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edged.dashboard", "--config", str(page.folder / "node.toml"),
                "--port", str(port), stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert second.stderr is not None
            said = (await second.stderr.read()).decode()
            assert await second.wait() == 1
            assert f"cannot listen on 127.0.0.1 port {port}" in said
            assert "--port" in said

    run(scenario)


ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "edged.dashboard", "--config", sys.argv[2]])
"""


def test_systemds_socket_is_used_where_it_is_handed_over() -> None:
    async def scenario() -> None:
        async with dashboard() as page:  # for its folder and its token
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", ACTIVATED, str(listener.fileno()), str(page.folder / "node.toml"),
                    pass_fds=(listener.fileno(),), stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            try:
                async with page.client() as client:  # the kernel has listened all along: nobody is turned away
                    answer = await client.get(f"http://127.0.0.1:{port}/api/status")
                    assert answer.json()["status"]["node"] == "pi-kitchen"
            finally:
                process.terminate()
                await process.wait()

    run(scenario)
