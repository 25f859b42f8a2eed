"""Which paths lead to a node rather than into the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.types import ASGIApp

from cloudlink.hub.api.answers import ApiError
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.logs import get_log
from cloudlink.hub.api.paths import Target
from cloudlink.hub.api.talks import attach_to, exec_in, forward_to

Doorway = Callable[[Context, Call, Request], Awaitable[ASGIApp]]

_DOORWAYS: Mapping[str, tuple[tuple[str, ...], Doorway]] = {
    "log": (("GET",), get_log),
    "exec": (("GET", "POST"), exec_in),
    "attach": (("GET", "POST"), attach_to),
    "portforward": (("GET", "POST"), forward_to),
}


def doorway(target: Target, method: str) -> Doorway | None:
    """None for everything else. 405 for methods that these don't have."""
    if target.resource.key != "Pod" or target.subresource not in _DOORWAYS:
        return None
    methods, way = _DOORWAYS[target.subresource]
    if method not in methods:
        message = "the server does not allow this method on the requested resource"
        raise ApiError(405, "MethodNotAllowed", message, target.resource, target.name)
    return way
