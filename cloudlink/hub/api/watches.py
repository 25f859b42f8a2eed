"""WATCH: one JSON document a line, for as long as somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from cloudlink.hub.api.answers import ApiError, encode, from_error
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.custom import columns_for, viewed
from cloudlink.hub.api.listing import PART, check_watch_options
from cloudlink.hub.api.protocol import break_off
from cloudlink.hub.api.reads import include_of, partial, predicate, too_large
from cloudlink.hub.api.table import head, row
from cloudlink.hub.errors import Gone
from cloudlink.hub.revisions import with_meta
from cloudlink.hub.watch import EventType, Subscription, WatchEvent
from cloudlink.kube.meta import KubeObject

DEFAULT_TIMEOUT = 1800.0  # seconds; clients watch again from where they were
LONGEST = 86_400.0
BOOKMARK_EVERY = 60.0  # seconds, as kube-apiserver
MAX_WATCHES = 2000  # open at once; each costs about 20 kB and its queue
PATIENCE = 60.0  # seconds that a client may take to read what it was sent; then it is dropped
CATCH_UP = 3.0  # seconds to wait for a revision that another replica has given out already, as kube-apiserver


Write = Callable[[bytes], Awaitable[None]]


class Watch:
    """An ASGI response. Owns its subscription and one task (that notices the client going) until it has ended.

    :raises ApiError: the request makes no sense; what goes wrong later is told as an event of type ERROR.
    """

    def __init__(self, context: Context, call: Call) -> None:
        check_watch_options(call)
        self._context = context
        self._call = call
        self._form = call.form
        self._include = include_of(call)
        self._selects = predicate(call)
        self._bookmarks = call.flag("allowWatchBookmarks")
        self._timeout = min(float(call.number("timeoutSeconds") or DEFAULT_TIMEOUT), LONGEST)
        self._wanted = call.number("resourceVersion") or 0
        said = call.query.get("sendInitialEvents", "")
        self._initial = call.flag("sendInitialEvents") if said else not self._wanted
        self._marks_end = bool(said) and self._initial and self._bookmarks
        self._named = False  # whether a table's columns have been told
        self._reader: Subscription | None = None
        self._started = 0  # the revision of the initial objects
        self._gone = False
        if context.watches >= MAX_WATCHES:
            raise ApiError(429, "TooManyRequests", f"{MAX_WATCHES} watches are open already", retry_after=5)

    # ------------------------------------------------------------ lines

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
            return self._shared(kind, event, event.object, event.raw)
        if not was or event.before is None:
            return b""
        if event.type == "DELETED":
            return self._shared("DELETED", event, event.object, event.raw)
        # It went out of view: told as it was when the client last saw it, but at the new revision.
        return self._shared("DELETED", event, with_meta(event.before, resource_version=str(event.revision)), None)

    def _shared(self, kind: EventType, event: WatchEvent, obj: KubeObject, raw: bytes | None) -> bytes:
        named, self._named = self._named, True
        key = (
            event.revision,
            kind,
            self._call.target.resource.api_version,
            self._form,
            self._form == "table" and (self._include, named),
        )
        return self._context.lines.line(key, lambda: self._encoded(kind, obj, raw, named))

    def _encoded(self, kind: str, obj: KubeObject, raw: bytes | None, named: bool) -> bytes:
        match self._form:
            case "object":
                shown = viewed(obj, self._call.target.resource)
                raw = raw if raw and shown is obj else self._context.store.raw(shown)
            case "metadata":
                raw = encode(partial(obj))
            case _:
                raw = encode(self._table({"resourceVersion": obj.metadata.resource_version}, [obj], named))
        return b"".join((b'{"type":"', kind.encode(), b'","object":', raw, b"}\n"))

    def _table(self, metadata: dict[str, Any], objects: Sequence[KubeObject], named: bool) -> dict[str, Any]:
        """The columns are told once."""
        columns, cells = columns_for(self._call.target.resource)
        now = self._context.now()
        table = head(columns, metadata) | {"rows": [row(cells(o, now), o, self._include) for o in objects]}
        return table | {"columnDefinitions": None} if named else table

    def _bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        resource = self._call.target.resource
        obj: dict[str, Any] = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        if self._form == "metadata":
            obj |= {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        elif self._form == "table":
            obj = self._table(metadata, [], self._named)
        return encode({"type": "BOOKMARK", "object": obj}) + b"\n"

    # ------------------------------------------------------------ streaming

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._context.watches += 1
        try:
            async with asyncio.TaskGroup() as group:
                listener = group.create_task(self._listen(receive), name="watch: client")
                await self._stream(scope, send)
                listener.cancel()
        finally:
            self._context.watches -= 1
            self._end()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._end()

    def _end(self) -> None:
        if self._reader is not None:
            self._reader.close()

    async def _stream(self, scope: Scope, send: Send) -> None:
        async def write(body: bytes, more: bool = True) -> None:
            async with asyncio.timeout(PATIENCE):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache, private")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await write(b"")
        try:
            await self._speak(write)
            await write(b"", more=False)
        except TimeoutError:  # it reads nothing, and would keep us in memory
            break_off(scope)

    async def _speak(self, write: Write) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + self._timeout
        try:
            for part in _parts(await self._begin()):
                await write(part)
            if self._marks_end:
                await write(self._bookmark(self._started, {"k8s.io/initial-events-end": "true"}))
            while (left := end - clock()) > 0 and not self._gone:
                events = await self._next(min(left, BOOKMARK_EVERY))
                if events is None:
                    return
                for part in _parts(map(self._line, events)):
                    await write(part)
                if not events and self._bookmarks:
                    await write(self._bookmark(self._context.store.revision))
            await self._leave(write)
        except Gone as e:
            await write(_error(from_error(e, None, "")))
        except ApiError as e:
            await write(_error(e))

    async def _leave(self, write: Write) -> None:
        """Its time is over: what has happened until now, and until when that was."""
        assert self._reader is not None
        rest, revision = self._reader.drain(), self._context.store.revision
        for part in _parts(map(self._line, rest)):
            await write(part)
        if self._bookmarks:
            await write(self._bookmark(revision))

    async def _begin(self) -> Iterator[bytes]:
        """Subscribe, as of the very moment of the initial objects, if any. Gone, ApiError where that can't be."""
        store, resource = self._context.store, self._call.target.resource
        await self._catch_up()
        self._started = store.revision
        since = self._wanted if self._wanted and not self._initial else None
        self._reader = store.subscribe(frozenset({resource.key}), since)
        if self._gone:
            self._reader.close()
        if not self._initial:
            return iter(())
        objects = store.list(resource.key, self._call.target.namespace or None)
        return (self._first(obj) for obj in objects if self._selects is None or self._selects(obj))

    def _first(self, obj: KubeObject) -> bytes:
        named, self._named = self._named, True
        return self._encoded("ADDED", obj, None, named)

    async def _catch_up(self) -> None:
        """A client may have seen more than this replica has, yet."""
        store = self._context.store
        if self._wanted <= store.revision:
            return
        with store.subscribe() as news:
            try:
                async with asyncio.timeout(CATCH_UP):
                    while store.revision < self._wanted and not self._gone and await news.batch():
                        pass
            except TimeoutError:
                pass
        if self._wanted > store.revision:
            raise too_large(self._wanted, store.revision)

    async def _next(self, seconds: float) -> list[WatchEvent] | None:
        """What happens within that time; None once it is over. [] means that until now there is nothing to tell."""
        assert self._reader is not None
        try:
            async with asyncio.timeout(seconds):
                return await self._reader.batch() or None
        except TimeoutError:
            return self._reader.drain()


def _parts(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines put together, so that few are written at a time and none is kept long."""
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        if line:
            waiting.append(line)
            size += len(line)
        if size >= PART:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _error(error: ApiError) -> bytes:
    return b'{"type":"ERROR","object":' + error.answer().body + b"}\n"
