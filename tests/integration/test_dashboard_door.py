"""The page's door: token, session, Host, methods and headers, on the real app in front of a fake node."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from edged.control import ControlClient, ControlServer
from edged.dashboard.access import FAILURES
from edged.dashboard.app import make_app
from edged.dashboard.feed import Feed
from edged.dashboard.guard import Guard
from tests.fakes.control import FakeSource

TOKEN = "t0ken-" + "x" * 37
NOW = 1_790_000_000.0


class Door:
    def __init__(self, client: httpx.AsyncClient, source: FakeSource, touched: list[int]) -> None:
        self.client = client
        self.source = source
        self.touched = touched

    @property
    def container(self) -> str:
        return self.source.status.pods[0].containers[0].container_id


@contextlib.asynccontextmanager
async def door(address: str = "192.168.1.7", name: str = "pi-kitchen") -> AsyncIterator[Door]:
    with tempfile.TemporaryDirectory(prefix="edged-door-") as folder:
        source = FakeSource(Path(folder) / "logs")
        path = Path(folder) / "control.sock"
        async with ControlServer(path, source, group="no-such-group"):
            control = ControlClient(path)
            touched: list[int] = []
            app = Guard(
                make_app(control, Feed("pi-kitchen", control, lambda: NOW)), name=name, token=TOKEN,
                hosts=frozenset({"pi-kitchen.local"}), clock=lambda: NOW, touch=lambda: touched.append(1),
            )  # fmt: skip
            transport = httpx.ASGITransport(app, client=(address, 40000))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                yield Door(client, source, touched)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


PATHS = ["/", "/static/app.js", "/static/style.css", "/api/status", "/api/events", "/api/logs/x", "/api/logs/x/follow"]


def test_everything_but_healthz_needs_the_token() -> None:
    async def scenario() -> None:
        async with door() as d:
            health = await d.client.get("/healthz")
            assert (health.status_code, health.text) == (200, "ok\n")
            for path in [*PATHS, "/nothing", "/docs", "/openapi.json", "//", "/static/../app.py"]:
                answer = await d.client.get(path)
                assert answer.status_code == 401, path
                assert "pi-kitchen-" not in answer.text
            assert d.touched == []

    run(scenario)


def test_the_bearer_token_opens_the_page_and_the_interface() -> None:
    async def scenario() -> None:
        async with door() as d:
            d.client.headers["authorization"] = f"Bearer {TOKEN}"
            page = await d.client.get("/")
            assert page.status_code == 200
            assert page.headers["content-type"].startswith("text/html")
            status = (await d.client.get("/api/status")).json()
            assert status["status"]["node"] == "pi-kitchen"
            assert len(d.touched) == 2
            for kind in ("app.js", "style.css", "favicon.svg"):
                assert (await d.client.get(f"/static/{kind}")).status_code == 200
            assert (await d.client.get("/static/nothing.js")).status_code == 404
            assert (await d.client.get("/docs")).status_code == 404

    run(scenario)


def test_a_link_with_the_token_makes_a_session_and_leaves_the_address_bar() -> None:
    async def scenario() -> None:
        async with door() as d:
            answer = await d.client.get(f"/?token={TOKEN}")
            assert answer.status_code == 303
            assert answer.headers["location"] == "/"
            cookie = answer.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert TOKEN.lower() not in cookie
            assert (await d.client.get("/")).status_code == 200  # the client has kept the cookie
            assert (await d.client.get("/api/status")).status_code == 200
            odd = {"cookie": f"other=a b{{c}}\x7f; {cookie.partition(';')[0]}"}
            d.client.cookies.clear()
            assert (await d.client.get("/api/status", headers=odd)).status_code == 200  # other pages' odd cookies
            assert (await d.client.get("/api/status")).status_code == 401

    run(scenario)


def test_wrong_tokens_and_sessions_are_refused_and_guessing_is_slowed_down() -> None:
    async def scenario() -> None:
        async with door() as d:
            for value in ("1.2", "", "x" * 5000, "1790000000." + "0" * 64):
                answer = await d.client.get("/api/status", headers={"cookie": f"edged_00000000={value}"})
                assert answer.status_code == 401
            for n in range(FAILURES):
                assert (await d.client.get(f"/?token=guess{n}")).status_code == 401
            late = await d.client.get(f"/?token={TOKEN}")
            assert late.status_code == 429
            assert int(late.headers["retry-after"]) > 0
            bearer = await d.client.get("/api/status", headers={"authorization": f"Bearer {TOKEN}"})
            assert bearer.status_code == 429

    run(scenario)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_sent_to_the_page(method: str) -> None:
    async def scenario() -> None:
        async with door() as d:
            for path in PATHS:
                answer = await d.client.request(method, path, headers={"authorization": f"Bearer {TOKEN}"})
                assert answer.status_code == 405

    run(scenario)


def test_a_name_that_could_be_an_attackers_is_not_answered() -> None:
    async def scenario() -> None:
        async with door() as d:
            d.client.headers["authorization"] = f"Bearer {TOKEN}"
            for host, status in {
                "evil.example": 421,
                "evil.example:8470": 421,
                "": 421,
                "localhost:9000": 200,
                "127.0.0.1:8470": 200,
                "pi-kitchen.local:8470": 200,
            }.items():
                assert (await d.client.get("/api/status", headers={"host": host})).status_code == status, host

    run(scenario)


def test_every_answer_carries_the_security_headers() -> None:
    async def scenario() -> None:
        async with door() as d:
            bearer = {"authorization": f"Bearer {TOKEN}"}
            answers = [
                await d.client.get("/healthz"),
                await d.client.get("/"),
                await d.client.get("/", headers=bearer),
                await d.client.get("/static/app.js", headers=bearer),
                await d.client.get("/api/status", headers=bearer),
                await d.client.get("/nothing", headers=bearer),
                await d.client.post("/", headers=bearer),
                await d.client.get("/", headers={"host": "evil.example"}),
            ]
            for answer in answers:
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'none'; script-src 'self';")
                assert "frame-ancestors 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] == "no-referrer"
                assert answer.headers["cache-control"] in ("no-store", "no-cache")
                assert "access-control-allow-origin" not in answer.headers

    run(scenario)


def test_the_login_page_escapes_the_nodes_name_and_has_a_fresh_nonce() -> None:
    async def scenario() -> None:
        async with door(name="<script>alert(1)</script>") as d:
            first, second = await d.client.get("/"), await d.client.get("/")
            assert "<script>alert" not in first.text
            assert first.headers["content-security-policy"] != second.headers["content-security-policy"]
            assert "http-equiv" not in first.text
            from_elsewhere = await d.client.get("/", headers={"sec-fetch-site": "cross-site"})
            assert 'http-equiv="refresh"' in from_elsewhere.text  # a strict cookie comes along the second time

    run(scenario)


def test_logs_are_lines_and_unknown_containers_a_sentence() -> None:
    async def scenario() -> None:
        async with door() as d:
            d.client.headers["authorization"] = f"Bearer {TOKEN}"
            lines = (await d.client.get(f"/api/logs/{d.container}?tail=2")).json()["lines"]
            assert [line["text"] for line in lines] == ["reading 28: 21.8 °C", "reading 29: 21.9 °C"]
            for path in ("/api/logs/unknown", "/api/logs/..%2f..%2fetc%2fpasswd", "/api/logs/-x", "/api/logs/%00"):
                answer = await d.client.get(path)
                assert answer.status_code == 404, path
                assert answer.json()["error"]["message"]
            for query in ("tail=-1", "tail=x", "tail=999999999"):
                answer = await d.client.get(f"/api/logs/{d.container}?{query}")
                assert answer.status_code == 422
                assert answer.json()["error"]["message"].startswith("tail: ")

    run(scenario)


def test_an_unchanged_file_is_not_sent_twice() -> None:
    async def scenario() -> None:
        async with door() as d:
            d.client.headers["authorization"] = f"Bearer {TOKEN}"
            first = await d.client.get("/static/app.js")
            again = await d.client.get("/static/app.js", headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")

    run(scenario)


def test_a_source_in_trouble_is_told_as_such() -> None:
    async def scenario() -> None:
        async with door() as d:
            d.source.broken = KeyError("a bug")
            answer = await d.client.get("/api/status", headers={"authorization": f"Bearer {TOKEN}"})
            assert answer.status_code == 503
            assert "edged made a mistake" in answer.json()["error"]["message"]

    run(scenario)
