"""Kubernetes' strategic merge patch: mappings merge, lists merge by key where the API says so. Pure.

Follows apimachinery/pkg/util/strategicpatch: the directives `$patch` (replace, delete, merge), `$retainKeys`,
`$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`. The originals are never changed.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Union

from cloudlink.hub.api.merge import PatchError
from cloudlink.kube.meta import Model

Document = Mapping[str, Any]
Schema = type[Model] | None  # None: a mapping with people's own keys, labels say

_ORDER = "$setElementOrder/"
_DELETE_PRIMITIVE = "$deleteFromPrimitiveList/"
_RETAIN = "$retainKeys"
_PATCH = "$patch"


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a field merges (the `patchStrategy` and `patchMergeKey` tags of Kubernetes' Go types).

    :ivar key: merge key of a list of mappings; "" for a list of plain values that merges as a set.
    :ivar merge: False: lists are replaced as a whole.
    :ivar retain: a mapping (or list item) of which only one alternative may be set; told by $retainKeys.
    """

    key: str = ""
    merge: bool = True
    retain: bool = False

    @property
    def name(self) -> str:
        return ",".join(w for w, on in (("merge", self.merge), ("retainKeys", self.retain)) if on)


_BY_TYPE = Strategy(key="type")
STRATEGIES: Mapping[tuple[str, str], Strategy] = {
    ("ObjectMeta", "ownerReferences"): Strategy(key="uid"),
    ("ObjectMeta", "finalizers"): Strategy(),
    ("PodSpec", "containers"): Strategy(key="name"),
    ("PodSpec", "initContainers"): Strategy(key="name"),
    ("PodSpec", "imagePullSecrets"): Strategy(key="name"),
    ("PodSpec", "hostAliases"): Strategy(key="ip"),
    ("PodSpec", "volumes"): Strategy(key="name", retain=True),
    ("Container", "ports"): Strategy(key="containerPort"),
    ("Container", "env"): Strategy(key="name"),
    ("Container", "volumeMounts"): Strategy(key="mountPath"),
    ("ServiceSpec", "ports"): Strategy(key="port"),
    ("DeploymentSpec", "strategy"): Strategy(merge=False, retain=True),
    ("NodeSpec", "podCIDRs"): Strategy(),
    ("PodStatus", "conditions"): _BY_TYPE,
    ("PodStatus", "podIPs"): Strategy(key="ip"),
    ("PodStatus", "hostIPs"): Strategy(key="ip"),
    ("NodeStatus", "conditions"): _BY_TYPE,
    ("NodeStatus", "addresses"): _BY_TYPE,
    ("DeploymentStatus", "conditions"): _BY_TYPE,
    ("ReplicaSetStatus", "conditions"): _BY_TYPE,
    ("NamespaceStatus", "conditions"): _BY_TYPE,
    ("ServiceStatus", "conditions"): _BY_TYPE,
    ("PersistentVolumeClaimStatus", "conditions"): _BY_TYPE,
}
_REPLACE = Strategy(merge=False)


@cache
def _fields(model: type[Model]) -> Mapping[str, type[Model] | None]:
    """Names in documents -> the model of the field, or of its items; None where there is none."""
    return {field.alias or name: _model_in(field.annotation) for name, field in model.model_fields.items()}


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
    model_name = schema.__name__ if schema is not None else ""
    for key, value in patch.items():
        if key in (_PATCH, _RETAIN) or key.startswith((_ORDER, _DELETE_PRIMITIVE)):
            continue
        if value is None:
            result.pop(key, None)
            continue
        there = result.get(key)
        where = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            result[key] = _mapping(there if isinstance(there, Mapping) else {}, value, fields.get(key), where)
        elif isinstance(value, list):
            strategy = STRATEGIES.get((model_name, key), _REPLACE)
            if strategy.merge:
                order = patch.get(_ORDER + key)
                before = there if isinstance(there, list) else []
                result[key] = _list(before, value, strategy, fields.get(key), order, where)
            else:
                result[key] = [_plain(v) for v in value]
        else:
            result[key] = value
    _list_directives(result, patch, model_name, path)
    return result


def _list_directives(result: dict[str, Any], patch: Document, model_name: str, path: str) -> None:
    """Deletions from lists of plain values, and orders of lists of which the patch sets no element."""
    for key, value in patch.items():
        if key.startswith(_DELETE_PRIMITIVE):
            field = key.removeprefix(_DELETE_PRIMITIVE)
            gone = _a_list(value, f"{path}.{key}")
            if isinstance(result.get(field), list):
                result[field] = [v for v in result[field] if v not in gone]
        elif key.startswith(_ORDER):
            field = key.removeprefix(_ORDER)
            strategy = STRATEGIES.get((model_name, field), _REPLACE)
            order = _a_list(value, f"{path}.{key}")
            if strategy.merge and field not in patch and isinstance(result.get(field), list):
                result[field] = _ordered(result[field], result[field], order, strategy)


def _list(before: list[Any], patch: list[Any], strategy: Strategy, schema: Schema, order: Any, path: str) -> list[Any]:
    if strategy.key:
        merged = _keyed(before, patch, strategy.key, schema, path)
    else:
        items = [*before, *patch]
        merged = [v for i, v in enumerate(items) if v not in items[:i]]
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
    gone = [item[key] for item in patch if item.get(_PATCH) == "delete"]
    merged = [item for item in before if not (isinstance(item, Mapping) and item.get(key) in gone)]
    for item in patch:
        if item.get(_PATCH) == "delete":
            continue
        at = next((i for i, there in enumerate(merged) if _key(there, key) == item[key]), None)
        if at is None:
            merged.append(_mapping({}, item, schema, path))
        else:
            merged[at] = _mapping(merged[at], item, schema, f"{path}[{at}]")
    return merged


def _key(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, Mapping) and key else item


def _ordered(merged: list[Any], before: list[Any], order: Sequence[Any], strategy: Strategy) -> list[Any]:
    """The items that the patch's author knew, in his order, and among them the others where they were before."""
    key = strategy.key
    wanted = [_key(o, key) for o in order]
    known = sorted((v for v in merged if _key(v, key) in wanted), key=lambda v: wanted.index(_key(v, key)))
    others = [v for v in merged if _key(v, key) not in wanted]
    earlier = [_key(v, key) for v in before]

    def place(item: Any) -> int:
        return earlier.index(_key(item, key)) if _key(item, key) in earlier else -1

    others.sort(key=lambda v: place(v) if place(v) >= 0 else len(earlier))
    result: list[Any] = []
    while known and others:
        mine, other = place(known[0]), place(others[0])
        result.append(known.pop(0) if 0 <= mine < other else others.pop(0))
    return result + known + others


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
