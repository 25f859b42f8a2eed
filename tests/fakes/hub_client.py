"""The hub's API called in memory: ASGI without a socket, and watches line by line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from fastapi import FastAPI

TOKEN = "a-good-token"


class Client:
    """Each request is one event loop; `request` returns (status, JSON body)."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def raw(
        self, method: str, path: str, content: bytes = b"", token: str = TOKEN, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
                auth = {"authorization": f"Bearer {token}"} if token else {}
                return await client.request(method, path, content=content, headers={**auth, **(headers or {})})

        return asyncio.run(run())

    def request(
        self, method: str, path: str, document: object = None, content_type: str = "application/json", accept: str = ""
    ) -> tuple[int, Any]:
        content = b"" if document is None else json.dumps(document).encode()
        headers = {"content-type": content_type, "accept": accept or "application/json"}
        response = self.raw(method, path, content, headers=headers)
        return response.status_code, json.loads(response.content)


class OpenWatch:
    """One watch on the running loop; `line` waits for the next event."""

    def __init__(self, app: FastAPI, path: str, query: str, accept: str = "application/json") -> None:
        self._lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(1000)
        self._gone = asyncio.Event()
        self._rest = b""
        self.status = 0
        headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"accept", accept.encode())]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "server": ("hub", 80),
            "client": ("test", 1),
        }
        self._app: Callable[..., Awaitable[None]] = app

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)
        await self._lines.put(None)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        *lines, self._rest = (self._rest + message.get("body", b"")).split(b"\n")
        for line in lines:
            await self._lines.put(json.loads(line))
        if not message.get("more_body") and self._rest:
            await self._lines.put(json.loads(self._rest))

    async def line(self) -> dict[str, Any] | None:
        """None once the server has ended it."""
        return await asyncio.wait_for(self._lines.get(), 20)

    def disconnect(self) -> None:
        self._gone.set()
