"""Documents in, objects out, and back: `parse` checks everything and says all that is wrong at once.

`parse(dump(obj)) == obj` for every object that `parse` has made.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from cloudlink.kube.catalogue import BUILT_IN, is_foreign
from cloudlink.kube.custom import CustomObject
from cloudlink.kube.errors import Cause, Invalid, Reason
from cloudlink.kube.manifest import load_yaml
from cloudlink.kube.meta import FieldsV1, KubeObject, Model
from cloudlink.kube.parse_custom import parse_custom, revive_custom
from cloudlink.kube.registry import Resource
from cloudlink.kube.schema import causes_of, json_type, without
from cloudlink.kube.validate import validate

__all__ = ["Cause", "Invalid", "Reason", "dump", "load_yaml", "parse", "revive"]

MAX_DEPTH = 64  # levels of nesting; a Deployment needs about 12

# Mappings whose keys belong to people: a null there is a forgotten value, not an absent field.
_PEOPLE_S_KEYS = frozenset({"data", "binaryData", "stringData", "labels", "annotations", "matchLabels", "nodeSelector"})


def parse(data: object, resource: Resource | None = None, unknown: list[str] | None = None) -> KubeObject:
    """One document, as JSON or YAML gave it, checked and with Kubernetes' defaults filled in.

    :param resource: what it must be; None = whichever of those built in it says that it is.
    :param unknown: takes the paths of fields that are left out because other people's schema doesn't have them; of
        kinds built in they are an error.

    Nulls count as absent, as in Kubernetes. Raises Invalid with every cause; nothing else, whatever comes.
    """
    document, resource = _recognise(data, resource)
    name = _name(document)
    if resource.shape is not None:
        return parse_custom(document, resource.kind, resource.shape, resource.namespaced, unknown)
    try:
        obj = resource.model.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as e:
        causes = _structural(e, document, resource)
        raise Invalid(causes, resource.kind, name) from None
    found = validate(obj)
    if found:
        raise Invalid(found, resource.kind, name)
    return obj


def revive(data: object) -> KubeObject:
    """A document that `dump` has made, from a place that we trust (the hub's own store): only its structure is
    checked. Raises Invalid."""
    document = _a_mapping(data)
    if is_foreign(document.get("apiVersion"), document.get("kind")):
        return revive_custom(document)
    document, resource = _recognise(document)
    try:
        return resource.model.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as e:
        raise Invalid(causes_of(e, resource.model)[0], resource.kind, _name(document)) from None


def _structural(error: ValidationError, document: dict[str, Any], resource: Resource) -> list[Cause]:
    """What is wrong with the structure, and then whatever else is wrong with the parts that are right."""
    causes, places = causes_of(error, resource.model)
    rest = without(document, places)
    if rest is None:
        return causes
    try:
        obj = resource.model.model_validate(rest, by_alias=True, by_name=False)
    except ValidationError:
        return causes
    wrong = [c.field for c in causes]
    return causes + [c for c in validate(obj) if not any(_related(c.field, w) for w in wrong)]


def _related(one: str, other: str) -> bool:
    """Whether one path is the other or lies above or below it."""
    short, long = sorted((one, other), key=len)
    return long.startswith(short) and (len(long) == len(short) or long[len(short)] in ".[" or not short)


def _a_mapping(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Invalid([Cause("", "FieldValueTypeInvalid", f"a Kubernetes object is a mapping, not {json_type(data)}")])
    return data


def _recognise(data: object, given: Resource | None = None) -> tuple[dict[str, Any], Resource]:
    """The document, without its nulls where the kind is built in: of other people's kinds the schema says what a null
    means."""
    document = _a_mapping(data)
    clean = _without_nulls(document, MAX_DEPTH)
    missing = [
        Cause(field, "FieldValueRequired", f"Required value: such as {example}")
        for field, example in (("apiVersion", '"v1" or "apps/v1"'), ("kind", '"Pod" or "Deployment"'))
        if clean.get(field) in (None, "")
    ]
    if missing:
        raise Invalid(missing, name=_name(document))
    api_version, kind = clean["apiVersion"], clean["kind"]
    for field, value in (("apiVersion", api_version), ("kind", kind)):
        if not isinstance(value, str):
            raise Invalid([Cause(field, "FieldValueTypeInvalid", f"must be a string, not {json_type(value)}")])
    resource = given or BUILT_IN.by_kind(api_version, kind)
    if resource is None or (resource.api_version, resource.kind) != (api_version, kind):
        raise Invalid([_unknown_kind(api_version, kind)], name=_name(document))
    return (clean if resource.shape is None else document), resource


def _unknown_kind(api_version: str, kind: str) -> Cause:
    for resource in BUILT_IN.resources:
        if resource.kind == kind:
            message = f'no kind "{kind}" in "{api_version[:64]}"; write apiVersion: {resource.api_version}'
            return Cause("apiVersion", "FieldValueNotSupported", message)
    kinds = {r.kind: r.api_version for r in BUILT_IN.resources if r.stored}
    close = difflib.get_close_matches(kind[:64], kinds, n=1)
    hint = f'did you mean "{close[0]}"?' if close else "`kubectl api-resources` lists those that there are"
    return Cause("kind", "FieldValueNotSupported", f'no kind "{kind[:64]}" in "{api_version[:64]}"; {hint}')


def _name(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name[:253] if isinstance(name, str) else ""


def _without_nulls(data: dict[str, Any], depth: int) -> dict[str, Any]:
    """The mapping without its nulls; itself where there are none, so that the usual case copies nothing."""
    changed: dict[str, Any] = {}
    nulls = False
    for key, value in data.items():
        if value is None:
            nulls = True
        elif isinstance(value, dict):
            if value and key not in _PEOPLE_S_KEYS:
                inner = _without_nulls(value, _deeper(depth))
                if inner is not value:
                    changed[key] = inner
        elif isinstance(value, list) and value:
            items = _items_without_nulls(value, _deeper(depth))
            if items is not value:
                changed[key] = items
    if not nulls and not changed:
        return data
    return {k: changed.get(k, v) for k, v in data.items() if v is not None}


def _items_without_nulls(items: list[Any], depth: int) -> list[Any]:
    cleaned = [
        _without_nulls(i, depth)
        if isinstance(i, dict)
        else _items_without_nulls(i, _deeper(depth))
        if isinstance(i, list)
        else i
        for i in items
    ]
    return cleaned if any(a is not b for a, b in zip(cleaned, items, strict=True)) else items


def _deeper(depth: int) -> int:
    if depth == 0:
        raise Invalid([Cause("", "FieldValueInvalid", f"nested deeper than {MAX_DEPTH} levels")])
    return depth - 1


# ---------------------------------------------------------------- back to documents


@cache  # one entry per model class
def _shape(model: type[Model]) -> tuple[tuple[str, str, object], ...]:
    """Attribute, name in documents, and the value that stands for absent (a required field has none)."""
    return tuple(
        (
            name,
            field.alias or name,
            _PRESENT if field.is_required() or field.default or name in model.always else field.default,
        )
        for name, field in model.model_fields.items()
    )


_PRESENT = object()  # equal to nothing


def dump(obj: Model) -> dict[str, Any]:
    """The document of an object (or of any part of one): camelCase, JSON-able, nothing that is absent."""
    if type(obj) is CustomObject:
        return _dump_custom(obj)
    values = obj.__dict__
    document: dict[str, Any] = {}
    for name, alias, absent in _shape(type(obj)):
        value = values[name]
        if value is absent or value is None:
            continue  # most fields of most objects
        kind = type(value)
        if kind is str or kind is int or kind is bool:
            if value != absent:
                document[alias] = value
        elif kind is tuple:
            if value or name in obj.always:
                document[alias] = [dump(v) if isinstance(v, Model) else v for v in value]
        elif kind is dict:
            if value:
                document[alias] = value.copy()
        elif kind is FieldsV1:
            document[alias] = value.document()
        else:
            document[alias] = dump(value)
    return document


def _dump_custom(obj: CustomObject) -> dict[str, Any]:
    head = {"apiVersion": obj.api_version, "kind": obj.kind, "metadata": dump(obj.metadata)}
    return {**head, **obj.content}
