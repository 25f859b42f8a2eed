"""Documents of other people's kinds into objects: pruned, completed and checked by their schema. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cloudlink.kube import names
from cloudlink.kube.custom import CustomObject, Shape
from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.findings import Findings
from cloudlink.kube.jsonschema import check
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.prune import complete, prune
from cloudlink.kube.schema import causes_of, json_type
from cloudlink.kube.validate_meta import metadata

MAX_DEPTH = 64  # levels of nesting, as for kinds built in
_HEAD = ("apiVersion", "kind", "metadata")


def parse_custom(
    document: Mapping[str, Any],
    kind: str,
    shape: Shape,
    namespaced: bool,
    unknown: list[str] | None = None,
    validate: bool = True,
) -> CustomObject:
    """The object of a document: pruned, completed with defaults, checked; as it will be stored.

    :param unknown: takes the paths of the fields that the schema doesn't have, which are left out.
    :param validate: False leaves out the schema's checks, for what was accepted under an earlier schema.
    :raises Invalid: with every cause.
    """
    found = Findings()
    title = _name(document)
    _bounded(document, MAX_DEPTH, kind, title)
    meta = _metadata(document.get("metadata"), found)
    content = {k: v for k, v in document.items() if k not in _HEAD}
    pruned = prune(content, shape.schema, unknown if unknown is not None else [], root=True)
    content = complete(pruned, shape.schema)
    if validate:
        check(content, shape.schema, found, root=True)
    obj = CustomObject(api_version=shape.stored, kind=kind, metadata=meta or ObjectMeta(), content=content)
    if meta is not None:
        metadata(obj, namespaced, names.dns_subdomain, found)
    if found.causes:
        raise Invalid(found.causes, kind, title)
    return obj


def revive_custom(document: Mapping[str, Any]) -> CustomObject:
    """A document that `dump` has made; nothing but its metadata is looked at. Raises Invalid."""
    try:
        meta = ObjectMeta.model_validate(document.get("metadata", {}), by_alias=True, by_name=False)
    except ValidationError as e:
        raise Invalid(causes_of(e, ObjectMeta)[0], str(document.get("kind")), _name(document)) from None
    content = {k: v for k, v in document.items() if k not in _HEAD}
    return CustomObject(api_version=document["apiVersion"], kind=document["kind"], metadata=meta, content=content)


def as_version(obj: CustomObject, api_version: str, shape: Shape) -> CustomObject:
    """The object as one of its versions has it; itself where that is the stored one."""
    if obj.api_version == api_version:
        return obj
    content = complete(prune(obj.content, shape.schema, [], root=True), shape.schema)
    return obj.model_copy(update={"api_version": api_version, "content": content})


def _name(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name[:253] if isinstance(name, str) else ""


def _bounded(value: object, depth: int, kind: str, name: str) -> None:
    """Refuse what is too deep to be walked, what no encoder can write, and numbers that JSON readers disagree on."""
    if isinstance(value, dict | list):
        if depth == 0:
            raise Invalid([Cause("", "FieldValueInvalid", f"nested deeper than {MAX_DEPTH} levels")], kind, name)
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if not isinstance(key, str | int):
                raise Invalid([Cause("", "FieldValueInvalid", "the keys of a mapping are strings")], kind, name)
            if isinstance(key, str):
                _bounded(key, depth, kind, name)
            _bounded(inner, depth - 1, kind, name)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid([Cause("", "FieldValueInvalid", "must be valid Unicode text")], kind, name) from None
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise Invalid([Cause("", "FieldValueInvalid", "a number must fit into 64 bits")], kind, name)
    elif isinstance(value, float) and value - value != 0:
        raise Invalid([Cause("", "FieldValueInvalid", "a number must be finite")], kind, name)


def _metadata(document: object, found: Findings) -> ObjectMeta | None:
    """metav1.ObjectMeta, as strictly as everywhere; nulls count as absent."""
    if document is None:
        document = {}
    if not isinstance(document, dict):
        found.of_type("metadata", json_type(document), "must be a mapping")
        return None
    try:
        clean = {k: v for k, v in document.items() if v is not None}
        meta = ObjectMeta.model_validate(clean, by_alias=True, by_name=False)
    except ValidationError as e:
        for cause in causes_of(e, ObjectMeta)[0]:
            found.causes.append(Cause(f"metadata.{cause.field}", cause.reason, cause.message))
        return None
    return meta
