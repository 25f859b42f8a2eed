"""Objects of other people's kinds: which version of them is shown, their columns, and what a write may change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cloudlink.hub.api.columns import columns_of
from cloudlink.hub.api.table import AGE, NAME, Cells, Column, since
from cloudlink.kube.custom import CustomObject, Shape
from cloudlink.kube.jsonpath import find
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump
from cloudlink.kube.parse_custom import as_version, parse_custom
from cloudlink.kube.registry import Resource

# ---------------------------------------------------------------- reading


def viewed(obj: KubeObject, resource: Resource) -> KubeObject:
    """The object as the version that a path names has it; itself for kinds built in."""
    if resource.shape is None or not isinstance(obj, CustomObject):
        return obj
    return as_version(obj, resource.api_version, resource.shape)


def columns_for(resource: Resource) -> tuple[tuple[Column, ...], Cells]:
    """The columns of a kind, and the function that fills a row."""
    return columns_of(resource.model) if resource.shape is None else _columns(resource.shape)


@lru_cache(maxsize=256)
def _columns(shape: Shape) -> tuple[tuple[Column, ...], Cells]:
    """`additionalPrinterColumns`, or the age where there are none (apiextensions' tableconvertor)."""
    if not shape.columns:
        return (NAME, AGE), lambda obj, now: (obj.metadata.name, since(obj.metadata.creation_timestamp, now))
    columns = [
        Column(
            c.name,
            c.type,
            c.priority > 0,
            c.format,
            c.description or f"Custom resource definition column (in JSONPath format): {c.path}",
        )
        for c in shape.columns
    ]

    def cells(obj: KubeObject, now: float) -> Sequence[object]:
        document = dump(obj)
        return (obj.metadata.name, *(_cell(find(c.path, document), c.type, now) for c in shape.columns))

    return (NAME, *columns), cells


def _cell(found: Sequence[Any], kind: str, now: float) -> object:
    """null where there is nothing, or nothing of that type."""
    value = found[0] if found else None
    if value is None:
        return None
    if kind == "date":
        return since(value, now) if isinstance(value, str) else "<invalid>"
    if kind == "string":
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if isinstance(value, bool) or kind == "boolean":
        return value if kind == "boolean" and isinstance(value, bool) else None
    if isinstance(value, int | float):
        return int(value) if kind == "integer" else value
    return None


# ---------------------------------------------------------------- writing


def as_new(obj: CustomObject, resource: Resource) -> CustomObject:
    """Who makes an object can't say how it is, where that is told through a subresource."""
    if resource.shape is None or not resource.shape.status:
        return obj
    return obj.model_copy(update={"content": _without_status(obj)})


def as_changed(new: CustomObject, old: CustomObject, resource: Resource, subresource: str) -> CustomObject:
    """Through the object itself all but the status changes, and through its subresource the status alone."""
    shape = resource.shape
    if shape is None or not shape.status:
        return new
    told, said = (new, old) if subresource == "status" else (old, new)
    status = {k: v for k, v in told.content.items() if k == "status"}
    return new.model_copy(update={"content": _without_status(said) | status})


def status_document(document: dict[str, Any], old: KubeObject) -> dict[str, Any]:
    """What a PUT to /status comes to: the object as it is, with that status."""
    kept = {k: v for k, v in dump(old).items() if k not in ("status", "metadata")}
    return {**kept, **{k: v for k, v in document.items() if k in ("status", "metadata", "apiVersion", "kind")}}


def _without_status(obj: CustomObject) -> dict[str, Any]:
    return {k: v for k, v in obj.content.items() if k != "status"}


# ---------------------------------------------------------------- scale


def at(document: dict[str, Any], path: str) -> Any:
    """The value at a path of names alone; None where there is none."""
    found = find(path, document) if path else []
    return found[0] if found else None


def scaled(obj: CustomObject, resource: Resource, replicas: int) -> CustomObject:
    """The object with that many replicas, checked. Invalid where its schema doesn't allow them."""
    shape = resource.shape
    assert shape is not None
    assert shape.scale is not None
    document = dump(obj)
    here = document
    *above, last = shape.scale.spec.lstrip(".").split(".")
    for step in above:
        inner = here.get(step)
        here[step] = dict(inner) if isinstance(inner, dict) else {}
        here = here[step]
    here[last] = replicas
    return parse_custom(document, resource.kind, shape, resource.namespaced)
