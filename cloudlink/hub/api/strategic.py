"""Kubernetes' strategic merge patch: mappings merge, lists merge by key where the API says so. Pure.

Follows apimachinery/pkg/util/strategicpatch: the directives `$patch` (replace, delete, merge), `$retainKeys`,
`$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`. The originals are never changed.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Union

from cloudlink.hub.api.merge import PatchError
from cloudlink.kube.meta import Model
from cloudlink.kube.strategies import Strategy, strategy_of

Document = Mapping[str, Any]
Schema = type[Model] | None  # None: a mapping with people's own keys, labels say

_ORDER = "$setElementOrder/"
_DELETE_PRIMITIVE = "$deleteFromPrimitiveList/"
_RETAIN = "$retainKeys"
_PATCH = "$patch"
_PLAIN = Strategy()


@cache
def _fields(model: type[Model]) -> Mapping[str, type[Model] | None]:
    """Names in documents -> the model of the field, or of its items; None where there is none."""
    return {field.alias or name: _model_in(field.annotation) for name, field in model.model_fields.items()}


def _strategy(schema: Schema, field: str) -> Strategy:
    return strategy_of(schema, field) if schema is not None else _PLAIN


def _model_in(annotation: Any) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    if typing.get_origin(annotation) in (tuple, Union, types.UnionType, typing.Annotated):
        return next((m for a in typing.get_args(annotation) if (m := _model_in(a)) is not None), None)
    return None


def strategic_merge(document: Document, patch: Any, model: type[Model]) -> dict[str, Any]:
    """The document with the patch applied. PatchError says which part of the patch makes no sense."""
    if not isinstance(patch, Mapping):
        raise PatchError("a strategic merge patch is a mapping")
    return _mapping(document, patch, model, "")


def _mapping(document: Document, patch: Document, schema: Schema, path: str) -> dict[str, Any]:
    match patch.get(_PATCH):
        case None | "merge":
            pass
        case "replace":
            return {k: _plain(v) for k, v in patch.items() if v is not None and not k.startswith("$")}
        case "delete":
            return {}
        case other:
            raise PatchError(f"{path or '.'}: $patch: {other!r} is none of replace, delete, merge")
    result = dict(document)
    if _RETAIN in patch:
        kept = _a_list(patch[_RETAIN], f"{path}.{_RETAIN}")
        if not all(k in kept for k, v in patch.items() if not k.startswith("$") and v is not None):
            raise PatchError(f"{path or '.'}: $retainKeys must name every field that the patch sets")
        result = {k: v for k, v in result.items() if k in kept}
    fields = _fields(schema) if schema is not None else {}
    for key, value in patch.items():
        if key in (_PATCH, _RETAIN) or key.startswith((_ORDER, _DELETE_PRIMITIVE)):
            continue
        if value is None:
            result.pop(key, None)
            continue
        there = result.get(key)
        where = f"{path}.{key}" if path else key
        strategy = _strategy(schema, key)
        if isinstance(value, Mapping):
            before = there if isinstance(there, Mapping) and strategy.patch != "replace" else {}
            result[key] = _mapping(before, value, fields.get(key), where)
        elif isinstance(value, list):
            if strategy.merges:
                order = patch.get(_ORDER + key)
                items = there if isinstance(there, list) else []
                result[key] = _list(items, value, strategy, fields.get(key), order, where)
            else:
                result[key] = [_plain(v) for v in value]
        else:
            result[key] = value
    _list_directives(result, patch, schema, path)
    return result


def _list_directives(result: dict[str, Any], patch: Document, schema: Schema, path: str) -> None:
    """Deletions from lists of plain values, and orders of lists of which the patch sets no element."""
    for key, value in patch.items():
        if key.startswith(_DELETE_PRIMITIVE):
            field = key.removeprefix(_DELETE_PRIMITIVE)
            gone = _a_list(value, f"{path}.{key}")
            if isinstance(result.get(field), list):
                unwanted = set(map(_identity, gone))
                result[field] = [v for v in result[field] if _identity(v) not in unwanted]
        elif key.startswith(_ORDER):
            field = key.removeprefix(_ORDER)
            strategy = _strategy(schema, field)
            order = _a_list(value, f"{path}.{key}")
            if strategy.merges and field not in patch and isinstance(result.get(field), list):
                result[field] = _ordered(result[field], result[field], order, strategy)


def _list(before: list[Any], patch: list[Any], strategy: Strategy, schema: Schema, order: Any, path: str) -> list[Any]:
    if strategy.patch_key:
        merged = _keyed(before, patch, strategy.patch_key, schema, path)
    else:
        merged = list({_identity(v): v for v in [*before, *patch]}.values())
    if order is None:
        return merged
    return _ordered(merged, before, _a_list(order, path), strategy)


def _keyed(before: list[Any], patch: list[Any], key: str, schema: Schema, path: str) -> list[Any]:
    """A list of mappings, merged by the value of `key`."""
    for item in patch:
        if not isinstance(item, Mapping):
            raise PatchError(f"{path}: every item must be a mapping")
        if item.get(_PATCH) != "replace" and key not in item:
            raise PatchError(f'{path}: an item has no "{key}", by which items of this list are told apart')
    if any(item.get(_PATCH) == "replace" for item in patch):
        return [_plain({k: v for k, v in item.items() if k != _PATCH}) for item in patch if item.keys() != {_PATCH}]
    gone = {_identity(item[key]) for item in patch if item.get(_PATCH) == "delete"}
    merged = [item for item in before if not (isinstance(item, Mapping) and _identity(item.get(key)) in gone)]
    places: dict[object, int] = {}
    for place, item in enumerate(merged):
        places.setdefault(_identity(_key(item, key)), place)
    for item in patch:
        if item.get(_PATCH) == "delete":
            continue
        at = places.setdefault(_identity(item[key]), len(merged))
        if at == len(merged):
            merged.append(_mapping({}, item, schema, path))
        else:
            merged[at] = _mapping(merged[at], item, schema, f"{path}[{at}]")
    return merged


def _key(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, Mapping) and key else item


def _identity(value: Any) -> object:
    """Something that can be looked up, equal where the values are the same JSON."""
    if isinstance(value, Mapping | list):
        return json.dumps(value, sort_keys=True)
    return type(value), value


def _ordered(merged: list[Any], before: list[Any], order: Sequence[Any], strategy: Strategy) -> list[Any]:
    """The items that the patch's author knew, in his order, and among them the others where they were before."""
    key = strategy.patch_key

    def identity(item: Any) -> object:
        return _identity(_key(item, key))

    wanted: dict[object, int] = {}
    earlier: dict[object, int] = {}
    for places, items in ((wanted, order), (earlier, before)):
        for place, item in enumerate(items):
            places.setdefault(identity(item), place)
    known = sorted((v for v in merged if identity(v) in wanted), key=lambda v: wanted[identity(v)])
    others = [v for v in merged if identity(v) not in wanted]
    others.sort(key=lambda v: earlier.get(identity(v), len(earlier)))
    result: list[Any] = []
    mine, theirs = 0, 0
    while mine < len(known) and theirs < len(others):
        place = earlier.get(identity(known[mine]), -1)
        if 0 <= place < earlier.get(identity(others[theirs]), -1):
            result.append(known[mine])
            mine += 1
        else:
            result.append(others[theirs])
            theirs += 1
    return result + known[mine:] + others[theirs:]


def _a_list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise PatchError(f"{path}: must be a list")
    return value


def _plain(value: Any) -> Any:
    """A part of a patch that becomes the document: without directives, nulls and deleted items."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None and not k.startswith("$")}
    if isinstance(value, list):
        return [_plain(v) for v in value if not (isinstance(v, Mapping) and v.get(_PATCH) == "delete")]
    return value
