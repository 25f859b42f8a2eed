"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902): documents in, a new document out. Pure.

The originals are never changed; untouched parts are shared with the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cloudlink.hub.api.fields import same

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
PATCH_TYPES = (JSON_PATCH, MERGE, STRATEGIC, APPLY)

MAX_OPERATIONS = 10_000  # as in Kubernetes
MAX_COPIED = 3 << 20  # bytes of JSON that one patch's copies may add; likewise


class PatchError(ValueError):
    """The patch makes no sense for this document; the message says where."""


class MalformedPatchError(PatchError):
    """It would make no sense for any document."""


class TooLargePatchError(PatchError):
    """A JSON patch of more than MAX_OPERATIONS, or one that copies more than MAX_COPIED."""


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7386: mappings merge, null removes, everything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(document) if isinstance(document, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


# ---------------------------------------------------------------- RFC 6902

_INDEX = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_NEEDS = {
    "add": ("value",),
    "replace": ("value",),
    "test": ("value",),
    "remove": (),
    "move": ("from",),
    "copy": ("from",),
}


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902, all or nothing. Works on a copy of its own, so that ten thousand operations copy it once."""
    if not isinstance(operations, list):
        raise MalformedPatchError("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise TooLargePatchError(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        )
    document = _fresh(document)
    room = MAX_COPIED
    for number, operation in enumerate(operations):
        try:
            path = _checked(operation)
            if operation["op"] == "copy":
                value = _at(document, _pointer(operation["from"]))
                room -= len(json.dumps(value))
                if room < 0:
                    raise TooLargePatchError(f"copies more than {MAX_COPIED >> 20} MiB")
                document = _add(document, path, _fresh(value))
            else:
                document = _operate(document, operation, path)
        except TooLargePatchError:
            raise
        except PatchError as e:
            raise PatchError(f"operation {number}: {e}") from None
    return document


def _fresh(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _fresh(inner) for name, inner in value.items()}
    return [_fresh(inner) for inner in value] if isinstance(value, list) else value


def _checked(operation: Any) -> tuple[str, ...]:
    """The path of an operation that has all that it needs."""
    if not isinstance(operation, Mapping):
        raise PatchError("must be a mapping with op and path")
    op = operation.get("op")
    if not isinstance(op, str) or op not in _NEEDS:
        raise PatchError(f"unknown op {str(op)[:64]!r}; there are {', '.join(_NEEDS)}")
    missing = [key for key in ("path", *_NEEDS[op]) if key not in operation]
    if missing:
        raise PatchError(f"{op} needs {missing[0]}")
    return _pointer(operation["path"])


def _operate(document: Any, operation: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    match operation["op"]:
        case "add":
            return _add(document, path, _fresh(operation["value"]))
        case "replace":
            _at(document, path)
            return _replace(document, path, _fresh(operation["value"]))
        case "remove":
            return _remove(document, path)
        case "test":
            if not same(_at(document, path), operation["value"]):
                raise PatchError(f"test failed: {operation['path']} is not that value")
            return document
        case _:
            source = _pointer(operation["from"])
            if path[: len(source)] == source and len(path) > len(source):
                raise PatchError("can't move a value into itself")
            value = _at(document, source)
            return _add(_remove(document, source), path, value)


def _pointer(text: Any) -> tuple[str, ...]:
    """RFC 6901."""
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise PatchError(f"{text!r} is not a JSON pointer; it begins with /")
    return tuple(p.replace("~1", "/").replace("~0", "~") for p in text.split("/")[1:])


def _index(container: list[Any], step: str, most: int) -> int:
    if not _INDEX.fullmatch(step) or int(step) > most:
        raise PatchError(f"there is no index {step} in a list of {len(container)}")
    return int(step)


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if isinstance(document, Mapping) and step in document:
            document = document[step]
        elif isinstance(document, list):
            document = document[_index(document, step, len(document) - 1)]
        else:
            raise PatchError(f"there is nothing at /{'/'.join(path)}")
    return document


def _parent(document: Any, path: tuple[str, ...]) -> Any:
    """What contains the end of the path: a mapping or a list."""
    parent = _at(document, path[:-1])
    if not isinstance(parent, dict | list):
        raise PatchError(f"there is no mapping or list to put /{'/'.join(path)} in")
    return parent


def _add(document: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    parent, step = _parent(document, path), path[-1]
    if isinstance(parent, dict):
        parent[step] = value
    else:
        parent.insert(len(parent) if step == "-" else _index(parent, step, len(parent)), value)
    return document


def _replace(document: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    parent, step = _parent(document, path), path[-1]
    parent[step if isinstance(parent, dict) else int(step)] = value
    return document


def _remove(document: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return None
    _at(document, path)
    parent, step = _parent(document, path), path[-1]
    del parent[step if isinstance(parent, dict) else int(step)]
    return document
