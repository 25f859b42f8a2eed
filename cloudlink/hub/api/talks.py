"""pods/exec, pods/attach, pods/portforward: from a request to a conversation with the pod's node."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from starlette.requests import Request
from starlette.types import ASGIApp

from cloudlink.hub.api.answers import ApiError, bad_request
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.pods import container_of, node_of
from cloudlink.hub.api.reads import existing
from cloudlink.hub.api.upgrades import Upgraded, negotiate
from cloudlink.hub.doors import forwards, terminals
from cloudlink.hub.doors.pipes import Pipe
from cloudlink.hub.doors.websocket import WebSocket
from cloudlink.hub.remote import Conversation
from cloudlink.kube.core import Pod
from edged.errors import RetryError
from edged.model.remote import AttachRequest, ConnectRequest, ExecRequest


async def exec_in(context: Context, call: Call, request: Request) -> ASGIApp:
    pod = pod_of(context, call)
    container, command = container_of(pod, call.query.get("container", "")), request.query_params.getlist("command")
    if not command or not command[0]:
        raise bad_request("you must specify at least one command for the container")
    asked = ExecRequest(pod.metadata.uid, container, tuple(command), **_streams(call.query))
    return await _terminal(context, request, pod, asked)


async def attach_to(context: Context, call: Call, request: Request) -> ASGIApp:
    pod = pod_of(context, call)
    container = container_of(pod, call.query.get("container", ""))
    return await _terminal(context, request, pod, AttachRequest(pod.metadata.uid, container, **_streams(call.query)))


def _streams(query: Mapping[str, str]) -> dict[str, bool]:
    """What the client wants to send and see. A terminal has no stderr of its own."""
    wanted = {name: truth(query.get(name)) for name in ("stdin", "stdout", "stderr", "tty")}
    if not (wanted["stdin"] or wanted["stdout"] or wanted["stderr"]):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    return wanted | {"stderr": wanted["stderr"] and not wanted["tty"]}


def truth(text: str | None) -> bool:
    """apimachinery's Convert_Slice_string_To_bool."""
    return text is not None and text.lower() not in ("false", "0")


async def _terminal(context: Context, request: Request, pod: Pod, asked: ExecRequest | AttachRequest) -> ASGIApp:
    node = node_of(pod)
    language = negotiate(request, terminals.WEBSOCKET, terminals.SPDY)
    held = AsyncExitStack()
    conversation = await entered(held, context.ways.conversation(node, asked))

    async def run(pipe: Pipe) -> None:
        over = terminals.over_websocket if language.websocket else terminals.over_spdy
        await over(pipe, language.protocol, conversation, asked)

    return Upgraded(language, run, held)


async def forward_to(context: Context, call: Call, request: Request) -> ASGIApp:
    pod = pod_of(context, call)
    node, name, uid = node_of(pod), pod.metadata.name, pod.metadata.uid
    language = negotiate(request, (*forwards.TUNNEL, *forwards.WEBSOCKET), forwards.SPDY)
    ports = _ports(request.query_params.getlist("ports"))
    if language.protocol in forwards.WEBSOCKET and not ports:
        raise bad_request('query parameter "ports" is required')

    def connect(port: int) -> AbstractAsyncContextManager[Conversation]:
        return context.ways.conversation(node, ConnectRequest(uid, port))

    async def run(pipe: Pipe) -> None:
        if language.protocol in forwards.WEBSOCKET:
            await forwards.forward_channels(WebSocket(pipe), language.protocol, ports, connect, name)
        elif language.websocket:
            await forwards.forward_tunnel(WebSocket(pipe), connect, name)
        else:
            await forwards.forward_session(pipe, connect, name)

    return Upgraded(language, run, AsyncExitStack())


def _ports(given: list[str]) -> list[int]:
    words = [word for text in given for word in text.split(",") if word]
    ports = [p for p in map(forwards.port_of, words) if p is not None]
    if len(ports) != len(words) or len(ports) > forwards.MAX_PORTS:
        raise bad_request(f'query parameter "ports" must be at most {forwards.MAX_PORTS} numbers from 1 to 65535')
    return ports


def pod_of(context: Context, call: Call) -> Pod:
    pod = existing(context, call)
    assert isinstance(pod, Pod)
    return pod


async def entered(held: AsyncExitStack, way: AbstractAsyncContextManager[Conversation]) -> Conversation:
    """The conversation, held until `held` ends. 503 without Retry-After where the node can't be reached: clients would
    try ten times before they tell anybody."""
    try:
        return await held.enter_async_context(way)
    except RetryError as e:
        raise ApiError(503, "ServiceUnavailable", str(e)) from e
