"""What a request asks for, in RBAC's words (apiserver's RequestInfo and authorizer.Attributes). Pure.

Taken from the path alone: a kind that isn't there is refused to whoever may not see it, before it is "not found".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}
_OF_NAMESPACES = ("status", "finalize")
_STREAMS = ("exec", "attach", "portforward")

HUB_GROUP = "edged.dev"  # resources of the hub itself, which have paths of their own
_HUB_PATHS: Mapping[tuple[str, ...], str] = {
    ("enroll", "v1", "tokens"): "jointokens",
    ("auth", "v1", "tokens"): "usertokens",
    ("auth", "v1", "certificates"): "usercertificates",
}


@dataclass(frozen=True, slots=True)
class Request:
    """:ivar path: the whole path; with `resource` "" it is what is asked for (a non-resource URL).
    :ivar resource: the plural; "*" and "" can come from reviews only.
    """

    verb: str
    path: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    of_resource: bool = True

    @property
    def combined(self) -> str:
        """As rules write it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def request_of(method: str, path: str, query: Mapping[str, str], upgrade: bool = False) -> Request:
    """:param upgrade: the connection is to become a WebSocket (or SPDY). Running something in a pod is "create" however
    it is asked for: WebSockets can only be opened by a GET, which "may read pods" must not come to mean.
    """
    parts = [p for p in path.split("/") if p]
    if hub := _HUB_PATHS.get(tuple(parts[:3])):
        return _hub_request(method, path, parts, hub)
    if parts[:1] == ["api"] and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return Request(method.lower(), path, of_resource=False)
    verb = _VERBS.get(method, method.lower())
    if rest[0] == "watch" and len(rest) > 1:
        verb, rest = ("watch" if method == "GET" else verb), rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and not (len(rest) == 3 and rest[2] in _OF_NAMESPACES):
            rest = rest[2:]
    resource = rest[0]
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if not name and verb in ("get", "watch") and not subresource:
        name = _named_by_selector(query.get("fieldSelector", ""))
        watched = verb == "watch" or query.get("watch", "") in ("true", "True", "1", "t")
        verb = "watch" if watched else "list"
    elif verb == "get" and not subresource and query.get("watch", "") in ("true", "True", "1", "t"):
        verb = "watch"
    elif not name and verb == "delete":
        verb = "deletecollection"
    if upgrade and verb == "get" and resource == "pods" and subresource in _STREAMS:
        verb = "create"
    return Request(verb, path, group, version, resource, subresource, namespace, name)


def _hub_request(method: str, path: str, parts: list[str], resource: str) -> Request:
    name = parts[3] if len(parts) > 3 else ""
    verb = _VERBS.get(method, method.lower())
    if verb == "get" and not name:
        verb = "list"
    return Request(verb, path, HUB_GROUP, "v1", resource, name=name)


def _named_by_selector(selector: str) -> str:
    """metadata.name=x: a list or watch of that one object, which a rule with resourceNames may allow."""
    for term in selector.split(","):
        key, _, value = term.partition("=")
        if key == "metadata.name" and value.lstrip("="):
            return value.lstrip("=")
    return ""


def refusal(user: str, request: Request, reason: str = "") -> str:
    """The sentence of a 403, as kubectl's users know it."""
    who = f'User "{user}" cannot {request.verb}'
    if not request.of_resource:
        text = f'forbidden: {who} path "{request.path}"'
    else:
        about = f"{request.resource}.{request.group}" if request.group else request.resource
        title = f'{about} "{request.name}"' if request.name else about
        text = f'{title} is forbidden: {who} resource "{request.combined}" in API group "{request.group}"'
        text += f' in the namespace "{request.namespace}"' if request.namespace else " at the cluster scope"
    return f"{text}: {reason}" if reason else text
