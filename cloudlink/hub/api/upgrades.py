"""From HTTP to what kubectl's remote commands speak: which protocol, and the answer that changes to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from cloudlink.hub.api.answers import ApiError, bad_request
from cloudlink.hub.api.protocol import take_over, wants_upgrade
from cloudlink.hub.doors.pipes import Pipe
from cloudlink.hub.doors.websocket import VERSION, acceptance


@dataclass(frozen=True, slots=True)
class Language:
    """What will be spoken.

    :ivar protocol: what Kubernetes calls it: v5.channel.k8s.io, portforward.k8s.io…
    :ivar headers: of the 101 that says so.
    """

    websocket: bool
    protocol: str
    headers: tuple[tuple[str, str], ...]


def negotiate(request: Request, websocket: Sequence[str], spdy: Sequence[str]) -> Language:
    """The first protocol that the client offers and we know.

    :raises ApiError: 400 where it asks for no upgrade, or for one that can't be; 403 where we have no protocol in
        common (as kube-apiserver).
    """
    upgrade = request.headers.get("upgrade", "").lower()
    if not wants_upgrade(request.scope) or upgrade not in ("websocket", "spdy/3.1"):
        raise bad_request("Upgrade request required: this needs a client that speaks WebSocket or SPDY/3.1 (kubectl)")
    if upgrade == "websocket":
        try:
            version = request.headers.get("sec-websocket-version", VERSION)
            accepted = acceptance(request.headers.get("sec-websocket-key", ""), version)
        except ValueError as e:
            raise bad_request(f"unable to upgrade: {e}") from None
        chosen = _common(request, "sec-websocket-protocol", websocket)
        named = (("Sec-WebSocket-Accept", accepted), ("Sec-WebSocket-Protocol", chosen))
        return Language(True, chosen, (("Connection", "Upgrade"), ("Upgrade", "websocket"), *named))
    chosen = _common(request, "x-stream-protocol-version", spdy)
    headers = (("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", chosen))
    return Language(False, chosen, headers)


def _common(request: Request, header: str, ours: Sequence[str]) -> str:
    offered = [word.strip() for line in request.headers.getlist(header) for word in line.split(",")]
    chosen = next((protocol for protocol in offered if protocol in ours), None)
    if chosen is None:
        theirs = " ".join(offered)[:256]
        message = f"unable to upgrade: unable to negotiate protocol: client supports [{theirs}], server accepts {ours}"
        raise ApiError(403, "Forbidden", message)
    return chosen


class Upgraded:
    """The ASGI response that takes the connection over. What `held` holds is let go of at the end.

    :param run: speaks with the client until it is over.
    """

    def __init__(self, language: Language, run: Callable[[Pipe], Awaitable[None]], held: AsyncExitStack) -> None:
        self._language = language
        self._run = run
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            try:
                pipe = take_over(scope, self._language.headers)
            except ConnectionResetError:
                return
            try:
                await self._run(pipe)
            finally:
                pipe.close()
