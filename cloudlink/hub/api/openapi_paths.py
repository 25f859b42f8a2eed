"""The operations on a kind, as OpenAPI 3.0 has them: parameters, bodies, and every answer that may come. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudlink.hub.api.discovery import subresource_of
from cloudlink.hub.api.merge import JSON_PATCH, PATCH_TYPES, STRATEGIC
from cloudlink.hub.api.openapi_schemas import META, REF, gvk
from cloudlink.kube.registry import Resource

Schema = dict[str, Any]

STATUS = f"{META}.Status"
_JSON = "application/json"
_REASONS: Mapping[int, str] = {
    400: "Bad Request: the request can't be understood",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable: no such form can be had here",
    409: "Conflict: it exists already, or was changed meanwhile",
    410: "Gone: that resourceVersion is no longer known; list again",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity: every cause with its field's path",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway: the node said something that makes no sense",
    503: "Service Unavailable",
    504: "Gateway Timeout: that resourceVersion isn't there yet",
}
_ALWAYS = (400, 401, 403, 404, 405, 406, 410, 429, 500, 503, 504)
_WRITES = (*_ALWAYS, 409, 413, 415, 422)

_DRY_RUN = ("dryRun", "All: do everything but store it.")
_MANAGER = ("fieldManager", "Who owns the fields that this request sets.")
_VALIDATION = ("fieldValidation", "What happens to unknown fields: Strict, Warn or Ignore.")
_READ = (("resourceVersion", "Not older than that."),)
_LIST = (
    ("labelSelector", "Only objects with these labels."),
    ("fieldSelector", "Only objects with these fields."),
    ("limit", "At most so many objects; the rest follows by `continue`."),
    ("continue", "Where a list that came in parts goes on."),
    ("resourceVersion", "As of that revision; see resourceVersionMatch."),
    ("resourceVersionMatch", "Exact or NotOlderThan."),
    ("timeoutSeconds", "How long a watch is kept open."),
    ("watch", "Tell of changes instead of listing, one JSON document a line."),
    ("allowWatchBookmarks", "A watch tells how far it is."),
    ("sendInitialEvents", "A watch begins with what is there."),
)
_DELETE = (
    _DRY_RUN,
    ("gracePeriodSeconds", "How long it may take to end."),
    ("propagationPolicy", "Background, Foreground or Orphan: what becomes of what it owns."),
    ("orphanDependents", "The older word for propagationPolicy."),
)
_TYPES = {"limit": "integer", "timeoutSeconds": "integer", "gracePeriodSeconds": "integer"} | dict.fromkeys(
    ("watch", "allowWatchBookmarks", "sendInitialEvents", "orphanDependents", "force"), "boolean"
)


def parameter(name: str, description: str, place: str = "query") -> Schema:
    schema: Schema = {"type": _TYPES.get(name, "string"), "uniqueItems": True}
    found: Schema = {"name": name, "in": place, "description": description, "schema": schema}
    return found | {"required": True} if place == "path" else found


def ref(name: str) -> Schema:
    return {"$ref": REF + name}


def responses(good: Mapping[int, Schema | None], errors: Sequence[int], media: Sequence[str] = (_JSON,)) -> Schema:
    """:param good: code -> schema of the body; None = text."""
    found: Schema = {}
    for code, schema in good.items():
        content = {m: {"schema": schema} for m in media} if schema else {"text/plain": {"schema": {"type": "string"}}}
        found[str(code)] = {"description": {201: "Created", 202: "Accepted"}.get(code, "OK"), "content": content}
    for code in sorted(errors):
        found[str(code)] = {"description": _REASONS[code], "content": {_JSON: {"schema": ref(STATUS)}}}
    return found


class Operations:
    """Those of one kind.

    :ivar name: of its schema.
    """

    def __init__(self, resource: Resource, name: str) -> None:
        self._resource, self._name = resource, name
        self._tag = f"{resource.group or 'core'}_{resource.version}"

    def _id(self, action: str, sub: str = "", everywhere: bool = False) -> str:
        resource = self._resource
        group = "".join(part.capitalize() for part in (resource.group or "core").removesuffix(".k8s.io").split("."))
        place = "Namespaced" if resource.namespaced and not everywhere else ""
        tail = sub.capitalize() + ("ForAllNamespaces" if everywhere else "")
        return f"{action}{group}{resource.version.capitalize()}{place}{resource.kind}{tail}"

    def _operation(self, action: str, id_: str, queries: Sequence[tuple[str, str]], told: Schema) -> Schema:
        return {
            "tags": [self._tag],
            "operationId": id_,
            "parameters": [parameter(*q) for q in (*queries, ("pretty", "Ignored."))],
            "responses": told,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(self._resource),
        }

    def paths(self) -> Schema:
        resource = self._resource
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        space = [parameter("namespace", "Object name and auth scope, such as for teams and projects", "path")]
        where = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
        place = space if resource.namespaced else []
        found: Schema = {f"{where}/{resource.plural}": {**self._collection(), "parameters": place}}
        if resource.namespaced and "list" in resource.verbs:
            everywhere = self._list(self._id("list", everywhere=True))
            found[f"{root}/{resource.plural}"] = {"get": everywhere, "parameters": []}
        if not resource.stored:
            return found
        named = [parameter("name", f"name of the {resource.kind}", "path"), *place]
        one = f"{where}/{resource.plural}/{{name}}"
        found[one] = {**self._object("", resource.verbs), "parameters": named}
        for sub in resource.subresources:
            if operations := self._subresource(sub):
                found[f"{one}/{sub}"] = {**operations, "parameters": named}
        return found

    def _collection(self) -> Schema:
        resource, verbs = self._resource, self._resource.verbs
        found: Schema = {}
        if "list" in verbs:
            found["get"] = self._list(self._id("list"))
        if "create" in verbs:
            found["post"] = self._post(self._id("create"), self._name)
        if "deletecollection" in verbs and resource.kind != "Namespace":
            told = responses({200: ref(f"{self._name}List"), 202: ref(STATUS)}, _WRITES)
            queries = (*_DELETE, *_LIST[:6])
            found["delete"] = self._operation("deletecollection", self._id("deleteCollection"), queries, told)
            found["delete"]["requestBody"] = self._body(f"{META}.DeleteOptions", required=False)
        return found

    def _list(self, id_: str) -> Schema:
        told = responses({200: ref(f"{self._name}List")}, (*_ALWAYS, 422))
        told["200"]["content"]["application/json;stream=watch"] = {"schema": ref(f"{META}.WatchEvent")}
        return self._operation("list", id_, _LIST, told)

    def _post(self, id_: str, name: str) -> Schema:
        told = responses({200: ref(name), 201: ref(name), 202: ref(name)}, _WRITES)
        operation = self._operation("post", id_, (_DRY_RUN, _MANAGER, _VALIDATION), told)
        operation["requestBody"] = self._body(name)
        return operation

    def _body(self, name: str, required: bool = True) -> Schema:
        media = (_JSON, "application/yaml")
        found: Schema = {"content": {m: {"schema": ref(name)} for m in media}}
        return found | {"required": True} if required else found

    def _object(self, sub: str, verbs: Sequence[str], name: str = "") -> Schema:
        name = name or self._name
        found: Schema = {}
        if "get" in verbs:
            told = responses({200: ref(name)}, _ALWAYS)
            found["get"] = self._operation("get", self._id("read", sub), _READ, told)
        if "update" in verbs:
            told = responses({200: ref(name), 201: ref(name)}, _WRITES)
            queries = (_DRY_RUN, _MANAGER, _VALIDATION)
            found["put"] = self._operation("put", self._id("replace", sub), queries, told)
            found["put"]["requestBody"] = self._body(name)
        if "patch" in verbs:
            found["patch"] = self._patch(self._id("patch", sub), name)
        if "delete" in verbs:
            told = responses({200: {"type": "object"}, 202: {"type": "object"}}, _WRITES)
            found["delete"] = self._operation("delete", self._id("delete"), _DELETE, told)
            found["delete"]["requestBody"] = self._body(f"{META}.DeleteOptions", required=False)
        return found

    def _patch(self, id_: str, name: str) -> Schema:
        told = responses({200: ref(name), 201: ref(name)}, _WRITES)
        queries = (_DRY_RUN, _MANAGER, _VALIDATION, ("force", "An apply takes over what others own."))
        operation = self._operation("patch", id_, queries, told)
        types = [t for t in PATCH_TYPES if t != STRATEGIC or self._resource.shape is None]
        shapes: dict[str, Schema] = {
            t: {"type": "array", "items": {"type": "object"}} if t == JSON_PATCH else ref(f"{META}.Patch")
            for t in types
        }
        operation["requestBody"] = {"content": {t: {"schema": s} for t, s in shapes.items()}, "required": True}
        return operation

    def _subresource(self, sub: str) -> Schema:
        if sub in _STREAMS:
            return self._stream(sub)
        (group, version, kind), verbs = subresource_of(self._resource, sub)
        own = (group, version, kind) == (self._resource.group, self._resource.version, self._resource.kind)
        name = self._name if own else OTHER_KINDS.get(kind, self._name)
        if verbs == ("create",):
            return {"post": self._post(self._id("create", sub), name)}
        return self._object(sub, verbs, name)

    def _stream(self, sub: str) -> Schema:
        """Text, or a connection whose other protocol has no word in OpenAPI."""
        told = responses({200: None}, (*_ALWAYS, 501, 502))
        if sub != "log":
            told["101"] = {"description": "Switching Protocols: WebSocket or SPDY"}
        action = "get" if sub == "log" else "connect"
        methods = ("get",) if sub == "log" else ("get", "post")
        return {
            m: self._operation(action, self._id(f"{action}{m.capitalize() * (action == 'connect')}", sub), q, told)
            for q in (_STREAMS[sub],)
            for m in methods
        }


_STREAMS: Mapping[str, Sequence[tuple[str, str]]] = {
    "log": (
        ("container", "Whose; the only one, or the one that an annotation names, where it isn't said."),
        ("follow", "Go on with what is written from now on."),
        ("previous", "Of the container's run before this one."),
        ("timestamps", "Begin each line with when it was written."),
        ("sinceSeconds", "Only what is younger than that."),
        ("sinceTime", "Only what was written since."),
        ("tailLines", "Only the last lines."),
        ("limitBytes", "At most so many bytes."),
    ),
    "exec": tuple((n, "") for n in ("container", "command", "stdin", "stdout", "stderr", "tty")),
    "attach": tuple((n, "") for n in ("container", "stdin", "stdout", "stderr", "tty")),
    "portforward": (("ports", "Which ports of the pod, for WebSocket."),),
}
OTHER_KINDS: Mapping[str, str] = {
    "Scale": "io.k8s.api.autoscaling.v1.Scale",
    "Eviction": "io.k8s.api.policy.v1.Eviction",
    "Binding": "io.k8s.api.core.v1.Binding",
    "TokenRequest": "io.k8s.api.authentication.v1.TokenRequest",
}
