"""WATCH: one JSON document a line, for as long as somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from cloudlink.hub.api.answers import ApiError, encode, from_error
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.reads import as_table, partial, predicate, selected
from cloudlink.hub.errors import Gone
from cloudlink.hub.revisions import with_meta
from cloudlink.hub.watch import EventType, Subscription, WatchEvent
from cloudlink.kube.meta import KubeObject

DEFAULT_TIMEOUT = 1800.0  # seconds; clients watch again from where they were
BOOKMARK_EVERY = 60.0  # seconds, as kube-apiserver
MAX_WATCHES = 2000  # open at once; each costs about 20 kB and its queue


class _Encoder(Protocol):
    def __call__(self, kind: str, obj: KubeObject, raw: bytes | None) -> bytes: ...


class Watch:
    """An ASGI response. Owns its subscription and one task (that notices the client going) until it has ended."""

    def __init__(self, context: Context, call: Call) -> None:
        self._context = context
        self._call = call
        self._selects = predicate(call)
        self._bookmarks = call.flag("allowWatchBookmarks")
        self._timeout = float(call.number("timeoutSeconds") or DEFAULT_TIMEOUT)
        self._encode = self._encoder()
        kinds = frozenset({call.target.resource.kind})
        wanted = call.number("resourceVersion")
        if context.watches >= MAX_WATCHES:
            raise ApiError(429, "TooManyRequests", f"{MAX_WATCHES} watches are open already", retry_after=5)
        initial = call.flag("sendInitialEvents") or not wanted
        self._first = b"".join(self._initial()) if initial else b""
        self._reader: Subscription = context.store.subscribe(kinds, None if initial else wanted)

    def _encoder(self) -> _Encoder:
        context, call = self._context, self._call

        def document(kind: str, obj: KubeObject, raw: bytes | None) -> bytes:
            return b"".join((b'{"type":"', kind.encode(), b'","object":', raw or context.store.raw(obj), b"}\n"))

        def metadata(kind: str, obj: KubeObject, raw: bytes | None) -> bytes:
            return encode({"type": kind, "object": partial(obj)}) + b"\n"

        def row(kind: str, obj: KubeObject, raw: bytes | None) -> bytes:
            meta = {"resourceVersion": obj.metadata.resource_version}
            return encode({"type": kind, "object": as_table(context, call, [obj], meta)}) + b"\n"

        return {"object": document, "metadata": metadata, "table": row}[call.form]

    def _initial(self) -> Iterator[bytes]:
        for obj in selected(self._context, self._call):
            yield self._encode("ADDED", obj, None)
        if self._call.flag("sendInitialEvents"):
            yield self._bookmark({"k8s.io/initial-events-end": "true"})

    def _bookmark(self, annotations: dict[str, str] | None = None) -> bytes:
        metadata: dict[str, Any] = {"resourceVersion": str(self._context.store.revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        if self._call.form == "table":
            obj = as_table(self._context, self._call, [], metadata)
        else:
            resource = self._call.target.resource
            obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return encode({"type": "BOOKMARK", "object": obj}) + b"\n"

    def _line(self, event: WatchEvent) -> bytes:
        """What this client should hear of a change; b"" if nothing."""
        namespace = self._call.target.namespace
        if namespace and event.object.metadata.namespace != namespace:
            return b""
        selects = self._selects
        was = event.before is not None and (selects is None or selects(event.before))
        now = event.type != "DELETED" and (selects is None or selects(event.object))
        if now:
            kind: EventType = "MODIFIED" if was else "ADDED"
            return self._encode(kind, event.object, event.raw)
        if not was or event.before is None:
            return b""
        if event.type == "DELETED":
            return self._encode("DELETED", event.object, event.raw)
        # It went out of view: told as it was when the client last saw it, but at the new revision.
        return self._encode("DELETED", with_meta(event.before, resource_version=str(event.revision)), None)

    # ------------------------------------------------------------ streaming

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._context.watches += 1
        try:
            async with asyncio.TaskGroup() as group:
                listener = group.create_task(self._listen(receive), name="watch: client")
                await self._stream(send)
                listener.cancel()
        finally:
            self._context.watches -= 1
            self._reader.close()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._reader.close()

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache, private")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        self._first = b""
        clock = asyncio.get_running_loop().time
        end = clock() + self._timeout
        try:
            async with asyncio.timeout_at(end + BOOKMARK_EVERY):  # a client that reads nothing holds us in send()
                while (left := end - clock()) > 0:
                    lines = await self._next(min(left, BOOKMARK_EVERY))
                    if lines is None:
                        break
                    if lines:
                        await send({"type": "http.response.body", "body": lines, "more_body": True})
                if self._bookmarks:
                    await send({"type": "http.response.body", "body": self._bookmark(), "more_body": True})
        except TimeoutError:
            pass
        except Gone as e:
            status = b'{"type":"ERROR","object":' + from_error(e, None, "").answer().body + b"}\n"
            await send({"type": "http.response.body", "body": status, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, seconds: float) -> bytes | None:
        """The lines of what happens within that time; a bookmark if nothing does; None once it is over."""
        try:
            async with asyncio.timeout(seconds):
                events = await self._reader.batch()
        except TimeoutError:
            return self._bookmark() if self._bookmarks else b""
        return b"".join(map(self._line, events)) if events else None
