"""The routes. All are GET without effect; `guard.Guard` stands in front of every one but /healthz."""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from edged.control import ControlClient
from edged.dashboard.feed import Feed
from edged.errors import EdgedError, PermanentError

STATIC = Path(__file__).parent / "static"
FOLLOWERS = 8  # logs followed at once by all pages together; each is a connection to the daemon

Tail = Annotated[int, Query(ge=0, le=5000, description="lines from the end")]


class EventStream(StreamingResponse):
    """Server-Sent Events (HTML standard, 9.2) from (event, JSON) pairs; b"" is a heartbeat.

    Closes its source at once when the viewer leaves, not whenever the garbage collector comes by.
    """

    media_type = "text/event-stream"

    def __init__(self, event: str, source: AsyncGenerator[bytes, None]) -> None:
        self._source = source
        super().__init__(self._framed(event, source))

    @staticmethod
    async def _framed(event: str, source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for message in source:
            yield b"event: %s\ndata: %s\n\n" % (event.encode(), message) if message else b": still here\n\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _error(status: int, message: str) -> Response:
    return _json({"error": {"message": message}}, status)


def make_app(client: ControlClient, feed: Feed) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)  # those pages load scripts from elsewhere
    app.include_router(_pages(_static_files()))
    app.include_router(_api(client, feed))
    app.include_router(_log_api(client, feed))

    @app.exception_handler(EdgedError)
    async def away(_request: Request, error: EdgedError) -> Response:
        return _error(503, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        return _error(422, "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()))

    @app.exception_handler(404)
    async def unknown(_request: Request, _error_: HTTPException) -> Response:
        return _error(404, "there is no such page; / shows the node")

    return app


def _pages(files: dict[str, _StaticFile]) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain")

    @router.get("/")
    async def page(request: Request) -> Response:
        return _file(files["index.html"], request)

    @router.get("/static/{name}")
    async def static(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _file(files[name], request)

    return router


def _api(client: ControlClient, feed: Feed) -> APIRouter:
    router = APIRouter(prefix="/api")

    @router.get("/status")
    async def status() -> Response:
        return _json(await client.status())

    @router.get("/events")
    async def events() -> Response:
        if feed.full:
            return _error(503, "as many pages as this board can serve are open; close one")
        return EventStream("view", feed.views())

    return router


def _log_api(client: ControlClient, feed: Feed) -> APIRouter:
    router = APIRouter(prefix="/api/logs")
    followers: set[object] = set()

    @router.get("/{container_id}")
    async def logs(container_id: str, tail: Tail = 200) -> Response:
        try:
            async with contextlib.aclosing(client.logs(container_id, tail)) as lines:
                return _json({"lines": [line async for line in lines]})
        except PermanentError as e:
            return _error(404, str(e))

    @router.get("/{container_id}/follow")
    async def follow(container_id: str, tail: Tail = 200) -> Response:
        if len(followers) >= FOLLOWERS:
            return _error(503, "as many logs as this board can serve are followed already; close one")
        return EventStream("log", feed.alongside(_lines(client, container_id, tail, followers)))

    return router


async def _lines(
    client: ControlClient, container_id: str, tail: int, followers: set[object]
) -> AsyncGenerator[bytes, None]:
    """The log as JSON lines, then `{"end": why}`: a browser would otherwise ask for an ended stream again."""
    me = object()
    followers.add(me)
    try:
        async with contextlib.aclosing(client.logs(container_id, tail, follow=True)) as lines:
            async for line in lines:
                yield msgspec.json.encode(line)
        yield b'{"end":""}'
    except EdgedError as e:
        yield msgspec.json.encode({"end": str(e)})
    finally:
        followers.discard(me)


class _StaticFile(msgspec.Struct, frozen=True):
    content: bytes
    media_type: str
    etag: str


def _static_files() -> dict[str, _StaticFile]:
    """All of them, in memory: together less than one page of a library that would serve them from disk."""
    found = {}
    for path in sorted(STATIC.iterdir()):
        content = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        etag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
        found[path.name] = _StaticFile(content, media_type, etag)
    return found


def _file(file: _StaticFile, request: Request) -> Response:
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
