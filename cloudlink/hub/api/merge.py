"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902): documents in, a new document out. Pure.

The originals are never changed; untouched parts are shared with the result.
"""

from __future__ import annotations

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


class PatchError(ValueError):
    """The patch makes no sense for this document; the message says where."""


class MalformedPatchError(PatchError):
    """It would make no sense for any document."""


class TooManyOperationsError(PatchError):
    """A JSON patch longer than MAX_OPERATIONS."""


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
    """RFC 6902, all or nothing."""
    if not isinstance(operations, list):
        raise MalformedPatchError("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise TooManyOperationsError(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        )
    for number, operation in enumerate(operations):
        try:
            document = _operate(document, operation)
        except PatchError as e:
            raise PatchError(f"operation {number}: {e}") from None
    return document


def _operate(document: Any, operation: Any) -> Any:
    if not isinstance(operation, Mapping):
        raise PatchError("must be a mapping with op and path")
    op = operation.get("op")
    if op not in _NEEDS:
        raise PatchError(f"unknown op {op!r}; there are {', '.join(_NEEDS)}")
    missing = [key for key in ("path", *_NEEDS[op]) if key not in operation]
    if missing:
        raise PatchError(f"{op} needs {missing[0]}")
    path = _pointer(operation["path"])
    match op:
        case "add":
            return _put(document, path, operation["value"], insert=True)
        case "replace":
            _at(document, path)
            return _put(document, path, operation["value"], insert=False)
        case "remove":
            return _remove(document, path)
        case "test":
            if not same(_at(document, path), operation["value"]):
                raise PatchError(f"test failed: {operation['path']} is not that value")
            return document
        case "copy":
            return _put(document, path, _at(document, _pointer(operation["from"])), insert=True)
        case _:
            source = _pointer(operation["from"])
            if path[: len(source)] == source and len(path) > len(source):
                raise PatchError("can't move a value into itself")
            value = _at(document, source)
            return _put(_remove(document, source), path, value, insert=True)


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


def _put(document: Any, path: tuple[str, ...], value: Any, insert: bool) -> Any:
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(document, Mapping):
        if rest and step not in document:
            raise PatchError(f"there is nothing at /{step} to put /{'/'.join(rest)} in")
        return {**document, step: _put(document.get(step), rest, value, insert)}
    if isinstance(document, list):
        copy = list(document)
        if rest:
            index = _index(copy, step, len(copy) - 1)
            copy[index] = _put(copy[index], rest, value, insert)
        elif not insert:
            copy[_index(copy, step, len(copy) - 1)] = value
        else:
            copy.insert(len(copy) if step == "-" else _index(copy, step, len(copy)), value)
        return copy
    raise PatchError(f"there is no mapping or list to put /{'/'.join(path)} in")


def _remove(document: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return None
    _at(document, path)
    step, rest = path[0], path[1:]
    if isinstance(document, Mapping):
        copy = dict(document)
        if rest:
            copy[step] = _remove(copy[step], rest)
        else:
            del copy[step]
        return copy
    items = list(document)
    index = int(step)
    if rest:
        items[index] = _remove(items[index], rest)
    else:
        del items[index]
    return items
