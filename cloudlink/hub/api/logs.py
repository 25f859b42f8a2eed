"""pods/log: a container's log as text, for as long as it goes on and somebody reads."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudlink.hub.api.answers import ApiError, bad_request
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.pods import check_log, container_of
from cloudlink.hub.api.protocol import break_off
from cloudlink.hub.api.talks import entered, pod_of, truth
from cloudlink.hub.remote import Conversation, Frame
from cloudlink.kube.errors import Cause
from edged.model.remote import STDOUT, End, LogsRequest

HEAD_WAIT = 1.0  # seconds for a node to say that it can't; after that the answer is that it can

_CODES = {"NotFound": (404, "NotFound"), "Refused": (400, "BadRequest"), "Unavailable": (503, "ServiceUnavailable")}


async def get_log(context: Context, call: Call, request: Request) -> ASGIApp:
    pod = pod_of(context, call)
    container = container_of(pod, call.query.get("container", ""))
    asked = log_request(pod.metadata.uid, container, call.query)
    if not pod.spec.node_name:  # as kube-apiserver: no log yet is an empty one
        return Response(b"", media_type="text/plain")
    check_log(pod, container, asked.previous)
    held = AsyncExitStack()
    conversation = await entered(held, context.ways.conversation(pod.spec.node_name, asked))
    log = Log(conversation, held)
    try:
        await log.begin()
    except BaseException:
        await log.close()
        raise
    return log


def log_request(pod: str, container: str, query: Mapping[str, str]) -> LogsRequest:
    """core/v1 PodLogOptions; 422 with the reasons where they don't make sense."""
    causes: list[Cause] = []
    tail, limit = _number(query, "tailLines"), _number(query, "limitBytes")
    seconds, moment = _number(query, "sinceSeconds"), query.get("sinceTime", "")
    if tail is not None and tail < 0:
        causes.append(_invalid("tailLines", tail, "must be greater than or equal to 0"))
    if limit is not None and limit < 1:
        causes.append(_invalid("limitBytes", limit, "must be greater than 0"))
    if seconds is not None and moment:
        message = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
        causes.append(Cause("", "FieldValueForbidden", message))
    elif seconds is not None and seconds < 1:
        causes.append(_invalid("sinceSeconds", seconds, "must be greater than 0"))
    if causes:
        listed = ", ".join(map(str, causes))
        message = f'PodLogOptions "" is invalid: {listed if len(causes) == 1 else f"[{listed}]"}'
        raise ApiError(422, "Invalid", message, causes=causes)
    return LogsRequest(
        pod=pod,
        container=container,
        follow=truth(query.get("follow")),
        previous=truth(query.get("previous")),
        timestamps=truth(query.get("timestamps")),
        tail=tail,
        since=float(seconds or 0),
        since_wall=_moment(moment) if moment else 0.0,
        limit=limit or 0,
    )


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not (text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 19):
        raise bad_request(f"the query parameter {name} must be a whole number, not {text[:64]!r}")
    return int(text)


def _moment(text: str) -> float:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise bad_request(
            f"the query parameter sinceTime must be a time as RFC 3339 has it, not {text[:64]!r}"
        ) from None
    return moment.replace(tzinfo=moment.tzinfo or dt.UTC).timestamp()


def _invalid(field: str, value: int, why: str) -> Cause:
    return Cause(field, "FieldValueInvalid", f"Invalid value: {value}: {why}")


class Log:
    """The ASGI response. Bounded: what the client doesn't read stays at the node."""

    def __init__(self, conversation: Conversation, held: AsyncExitStack) -> None:
        self._conversation = conversation
        self._held = held
        self._next = asyncio.create_task(conversation.receive(), name="log: next")

    async def begin(self) -> None:
        """ApiError where the node says at once that there is no such log."""
        await asyncio.wait([self._next], timeout=HEAD_WAIT)
        told = self._next.result() if self._next.done() else None
        if isinstance(told, End) and told.reason:
            code, reason = _CODES.get(told.reason, (500, "InternalError"))
            raise ApiError(code, reason, told.message)

    async def close(self) -> None:
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)
        await self._held.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        listening = asyncio.create_task(_gone(receive), name="log: client")
        telling = asyncio.create_task(self._tell(scope, send), name="log: text")
        try:
            await asyncio.wait([listening, telling], return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            for task in (listening, telling):
                task.cancel()
            await asyncio.gather(listening, telling, return_exceptions=True)
            await self.close()

    async def _tell(self, scope: Scope, send: Send) -> None:
        headers = [(b"content-type", b"text/plain"), (b"cache-control", b"no-cache, private")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while isinstance(told := await self._next, Frame):
            if told.channel == STDOUT and told.data:
                await send({"type": "http.response.body", "body": told.data, "more_body": True})
            self._next = asyncio.create_task(self._conversation.receive(), name="log: next")
        if told.reason:  # cut short: must not look like the log's end
            break_off(scope)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
