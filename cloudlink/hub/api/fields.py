"""Sets of fields: which parts of a document somebody owns (fieldpath of sigs.k8s.io/structured-merge-diff). Pure.

A path is a tuple of steps, each written as managedFields writes it: "f:spec" is a field, 'k:{"name":"main"}' the item
of a list by its keys, 'v:"a"' an item by its value. Union and difference are Python's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cloudlink.hub.api.shapes import Shape

Path = tuple[str, ...]
Fields = frozenset[Path]

NONE: Fields = frozenset()
MISSING: Any = object()  # a side of a comparison that isn't there; null is a value


class FieldsError(ValueError):
    """A set of fields, or the key of an item, that can't be understood; `path` says where."""

    def __init__(self, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.path = path


def same(a: Any, b: Any) -> bool:
    """Equality of JSON: true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# ---------------------------------------------------------------- steps


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def step_to(item: Any, shape: Shape, path: Path) -> str:
    """The step that leads to an item of a list of this shape. A key with a default may be left out."""
    if not shape.keys:
        if item is None or isinstance(item, Mapping | list):
            raise FieldsError("an item of a set must be a plain value", path)
        return "v:" + _json(item)
    if not isinstance(item, Mapping):
        raise FieldsError(f"an item of a list with keys must be a mapping with {', '.join(shape.keys)}", path)
    key: dict[str, Any] = {}
    for name in shape.keys:
        value = item.get(name)
        value = shape.item.child(name).default if value is None else value
        if value is not None:
            key[name] = value
    if not key:
        raise FieldsError(f"an item of this list must have {' or '.join(shape.keys)}", path)
    return "k:" + _json(key)


def by_step(items: Sequence[Any], shape: Shape, path: Path) -> dict[str, list[Any]]:
    """Items by the steps that lead to them, in order; a live list may have several under one key."""
    found: dict[str, list[Any]] = {}
    for item in items:
        found.setdefault(step_to(item, shape, path), []).append(item)
    return found


def told(path: Path) -> str:
    """As people read it: .spec.containers[name="main"].image"""
    return "".join(map(_told_step, path))


def _told_step(step: str) -> str:
    kind, rest = step[:2], step[2:]
    if kind == "k:":
        return f"[{','.join(f'{k}={_json(v)}' for k, v in json.loads(rest).items())}]"
    if kind == "v:":
        return f"[={rest}]"
    return f"[{rest}]" if kind == "i:" else f".{rest}"


# ---------------------------------------------------------------- of documents


def fields_of(document: Any, shape: Shape, unique: bool = False) -> Fields:
    """The leaves of a document, and its items of lists and mappings (TypedValue.ToFieldSet).

    :param unique: refuse items with the same key; FieldsError.
    """
    found: set[Path] = set()
    _collect(document, shape, (), found.add, unique)
    found.discard(())  # nobody owns the whole
    return frozenset(found)


def _collect(value: Any, shape: Shape, path: Path, add: Callable[[Path], None], unique: bool) -> None:
    if isinstance(value, Mapping) and not shape.atomic:
        for name, inner in value.items():
            there = (*path, f"f:{name}")
            _collect(inner, shape.child(name), there, add, unique)
            if name not in shape.named or inner is None or (isinstance(inner, Mapping) and not inner):
                add(there)
    elif isinstance(value, list) and shape.keys is not None:
        for step, items in by_step(value, shape, path).items():
            if len(items) == 1:
                _collect(items[0], shape.item, (*path, step), add, unique)
            elif unique:
                raise FieldsError(f"duplicate entries for key {_told_step(step)}", path)
            add((*path, step))
    else:
        add(path)


def with_containers(fields: Iterable[Path], root: Shape) -> Fields:
    """With every field that the schema names on the way to one of them (EnsureNamedFieldsAreMembers)."""
    found: set[Path] = set()
    for path in fields:
        found.add(path)
        shape = root
        for depth, step in enumerate(path[:-1]):
            name = step[2:]
            if step[:2] == "f:":
                if name in shape.named:
                    found.add(path[: depth + 1])
                shape = shape.child(name)
            else:
                shape = shape.item
    return frozenset(found)


def reconciled(fields: Fields, root: Shape) -> Fields:
    """What the schema has come to see as a whole is owned as a whole (ReconcileFieldSetWithSchema)."""
    return frozenset(_cut(path, root) for path in fields)


def _cut(path: Path, shape: Shape) -> Path:
    for depth, step in enumerate(path):
        is_field = step[:2] == "f:"
        if depth and (shape.atomic if is_field else shape.keys is None):
            return path[:depth]
        shape = shape.child(step[2:]) if is_field else shape.item
    return path


# ---------------------------------------------------------------- as managedFields has them


def to_document(fields: Fields) -> dict[str, Any]:
    """FieldsV1: steps in mappings; "." is in one that is a member and has members."""
    root: dict[str, Any] = {}
    for path in fields:
        here = root
        for step in path:
            here = here.setdefault(step, {})
    inner = {path[:depth] for path in fields for depth in range(1, len(path))}
    for path in fields & inner:
        here = root
        for step in path:
            here = here[step]
        here["."] = {}
    return _sorted(root)


def _sorted(tree: dict[str, Any]) -> dict[str, Any]:
    return {step: _sorted(tree[step]) for step in sorted(tree)}


def from_document(document: Any) -> Fields:
    """FieldsError for what is not FieldsV1; steps of a kind that we don't know are passed over, as in Kubernetes."""
    found: set[Path] = set()
    _read(document, (), found)
    found.discard(())
    return frozenset(found)


def _read(node: Any, path: Path, found: set[Path]) -> None:
    if not isinstance(node, Mapping):
        raise FieldsError("must be a mapping of mappings", path)
    inner = [key for key in node if key != "."]
    if not inner or "." in node:
        found.add(path)
    for key in inner:
        step = _step(key, path)
        if step:
            _read(node[key], (*path, step), found)


def _step(key: str, path: Path) -> str:
    """The step as we write it, "" where its kind is unknown."""
    if len(key) < 2 or key[1] != ":":
        raise FieldsError(f"{key[:64]!r} is no step of a path", path)
    if key[:2] not in ("k:", "v:"):
        return key if key[:2] in ("f:", "i:") else ""
    try:
        value = json.loads(key[2:])
    except ValueError:
        raise FieldsError(f"{key[:64]!r} has no JSON after its colon", path) from None
    if key[:2] == "k:" and not isinstance(value, dict):
        raise FieldsError(f"{key[:64]!r} must have a mapping after its colon", path)
    return key[:2] + _json(value)
