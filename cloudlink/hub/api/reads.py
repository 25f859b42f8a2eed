"""GET of one object and of a collection, as objects, as metadata or as a table."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cloudlink.hub.api.answers import Answer, ApiError, answer, bad_request, encode, not_found
from cloudlink.hub.api.calls import Call, Context, Form
from cloudlink.hub.api.columns import columns_of
from cloudlink.hub.api.selectors import Predicate, SelectorError, selection
from cloudlink.hub.api.table import table
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump
from cloudlink.kube.registry import Resource

INCLUDE = ("None", "Metadata", "Object")


def get_one(context: Context, call: Call) -> Answer:
    obj = existing(context, call)
    return shown(context, call, obj)


def existing(context: Context, call: Call) -> KubeObject:
    """The object that the path names, or 404."""
    target = call.target
    obj = context.store.get(target.resource.kind, target.namespace, target.name)
    if obj is None:
        raise not_found(target.resource, target.name)
    return obj


def shown(context: Context, call: Call, obj: KubeObject, code: int = 200) -> Answer:
    """One object in the form that the client asked for."""
    match call.form:
        case "table":
            meta = {"resourceVersion": obj.metadata.resource_version}
            return answer(as_table(context, call, [obj], meta), code)
        case "metadata":
            return answer(partial(obj), code)
        case _:
            return Answer(code, context.store.raw(obj))


def partial(obj: KubeObject) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": dump(obj.metadata)}


def as_table(context: Context, call: Call, objects: Sequence[KubeObject], metadata: dict[str, Any]) -> dict[str, Any]:
    include = call.query.get("includeObject", "Metadata")
    if include not in INCLUDE:
        raise bad_request(f"the query parameter includeObject must be one of {', '.join(INCLUDE)}")
    columns, cells = columns_of(call.target.resource.model)
    return table(columns, cells, objects, context.now(), metadata, include)


def predicate(call: Call) -> Predicate | None:
    """The request's selectors; 400 where they can't be understood. A name in the path of a watch selects too."""
    fields = call.query.get("fieldSelector", "")
    if call.target.name:
        fields = f"metadata.name={call.target.name}" + (f",{fields}" if fields else "")
    try:
        return selection(call.target.resource.kind, call.query.get("labelSelector", ""), fields)
    except SelectorError as e:
        raise bad_request(str(e)) from None


def selected(context: Context, call: Call) -> list[KubeObject]:
    objects = context.store.list(call.target.resource.kind, call.target.namespace or None)
    selects = predicate(call)
    return objects if selects is None else [obj for obj in objects if selects(obj)]


# ---------------------------------------------------------------- collections


@dataclass(frozen=True, slots=True)
class Page:
    """Where a list that came in parts goes on: after this namespace and name, told as of that revision."""

    revision: str
    namespace: str
    name: str

    def token(self) -> str:
        return base64.urlsafe_b64encode(encode([self.revision, self.namespace, self.name])).decode()

    @classmethod
    def of(cls, token: str) -> Page:
        try:
            revision, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        except (ValueError, binascii.Error) as e:
            raise bad_request("the continue token is not one of ours; list again from the start") from e
        if not all(isinstance(part, str) for part in (revision, namespace, name)) or not revision.isdecimal():
            raise bad_request("the continue token is not one of ours; list again from the start")
        return cls(revision, namespace, name)


def get_list(context: Context, call: Call) -> Answer:
    """A collection, whole or (limit, continue) in parts. Parts show objects as they are when asked for; the
    resourceVersion stays the first part's, so that a watch from there misses nothing."""
    check_revision(context, call)
    metadata: dict[str, Any] = {"resourceVersion": str(context.store.revision)}
    after: tuple[str, str] | None = None
    if token := call.query.get("continue", ""):
        page = Page.of(token)
        metadata["resourceVersion"] = page.revision
        after = (page.namespace, page.name)
    objects, left = _part(context, call, after, call.number("limit") or 0)
    if left:
        last = objects[-1].metadata
        metadata["continue"] = Page(metadata["resourceVersion"], last.namespace, last.name).token()
        metadata["remainingItemCount"] = left
    form: Form = call.form
    if form == "table":
        return answer(as_table(context, call, objects, metadata))
    if form == "metadata":
        kind, version, items = "PartialObjectMetadata", "meta.k8s.io/v1", [encode(partial(o)) for o in objects]
    else:
        resource: Resource = call.target.resource
        kind, version, items = resource.kind, resource.api_version, [context.store.raw(o) for o in objects]
    head = encode({"kind": f"{kind}List", "apiVersion": version, "metadata": metadata})
    return Answer(200, b"".join((head[:-1], b',"items":[', b",".join(items), b"]}")))


def _part(context: Context, call: Call, after: tuple[str, str] | None, limit: int) -> tuple[Sequence[KubeObject], int]:
    """Up to `limit` (0 = all) of the selected objects behind (namespace, name), and how many are left over."""
    if limit and predicate(call) is None:
        return context.store.page(call.target.resource.kind, call.target.namespace or None, after, limit)
    objects = selected(context, call)
    if after is not None:
        objects = [o for o in objects if (o.metadata.namespace, o.metadata.name) > after]
    return (objects[:limit], max(len(objects) - limit, 0)) if limit else (objects, 0)


def check_revision(context: Context, call: Call) -> None:
    """A list at a revision that doesn't exist yet is refused; any other is answered with the newest."""
    wanted = call.number("resourceVersion")
    if wanted is not None and wanted > context.store.revision:
        message = f"Too large resource version: {wanted}, current: {context.store.revision}"
        raise ApiError(504, "Timeout", message, retry_after=1)
