"""What any hub has acknowledged before a request, that request sees, whichever hub it comes to.

Without this door a client that wrote through one hub and reads through another could miss its own write. It costs one
round trip to PostgreSQL, and nothing with SQLite. While the database can't be reached, requests are answered with 503.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudlink.hub.api.answers import from_error
from cloudlink.hub.store import Store
from edged.errors import EdgedError, RetryError

_PLACES = ("/api/", "/apis/", "/enroll/")  # where something stored is looked at


class Fresh:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app, self._store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PLACES):
            return await self._app(scope, receive, send)
        try:
            self._store.refresh()
        except RetryError as e:
            if not _takes_any(Request(scope)):
                return await _refusal(e)(scope, receive, send)
        return await self._app(scope, receive, send)


def _takes_any(request: Request) -> bool:
    """A read that is content with whatever this hub knows: Kubernetes' resourceVersion=0."""
    return request.method == "GET" and request.query_params.get("resourceVersion") == "0"


def _refusal(error: EdgedError) -> Response:
    told = from_error(error, None, "").answer()
    return Response(told.body, told.code, dict(told.headers), "application/json")
