"""Values against a structural schema, in the words of kube-openapi's validation. Pure.

What apiextensions.k8s.io/v1 knows of JSON Schema: types, bounds, patterns, formats, enums, the logical junctors, and
the x-kubernetes extensions. Rules in CEL (x-kubernetes-validations) are not evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from cloudlink.kube.findings import Findings, shown
from cloudlink.kube.formats import is_of_format

Schema = Mapping[str, Any]

MAX_MATCHED = 16 << 10  # characters of a text that a pattern is tried on; Python's engine may need their square
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}
_ENVELOPE = ("apiVersion", "kind", "metadata")


def check(value: Any, schema: Schema, found: Findings, path: str = "", root: bool = False) -> None:
    """Everything that is wrong with a value. A `root` is a whole document without its apiVersion, kind and metadata,
    which others have looked at."""
    if value is None:
        if not schema.get("nullable") and not schema.get("x-kubernetes-preserve-unknown-fields"):
            _wrong_type(value, schema, found, path)
        return
    if not _has_type(value, schema):
        _wrong_type(value, schema, found, path)
        return
    if isinstance(value, dict):
        _mapping(value, schema, found, path, root)
    elif isinstance(value, list):
        _list(value, schema, found, path)
    elif isinstance(value, str):
        _text(value, schema, found, path)
    elif not isinstance(value, bool):
        _number(value, schema, found, path)
    options = schema.get("enum")
    if options is not None and not any(_same(value, o) for o in options):
        found.unsupported(path, value, [o if isinstance(o, str) else shown(o) for o in options])
    _junctors(value, schema, found, path, root)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _has_type(value: Any, schema: Schema) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, int | str) and not isinstance(value, bool)
    wanted = schema.get("type")
    if not wanted:
        return True
    if isinstance(value, bool):
        return bool(wanted == "boolean")
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(wanted, (object,)))


def _wrong_type(value: Any, schema: Schema, found: Findings, path: str) -> None:
    wanted = "integer,string" if schema.get("x-kubernetes-int-or-string") else schema.get("type", "object")
    told = "null" if value is None else _type_of(value)
    found.of_type(path, told, f"{path} in body must be of type {wanted}: {shown(told)}".lstrip())


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


# ---------------------------------------------------------------- by type


def _mapping(value: dict[str, Any], schema: Schema, found: Findings, path: str, root: bool) -> None:
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    for name in schema.get("required") or ():
        if name not in value and not (root and name in _ENVELOPE):
            found.required(f"{path}.{name}" if path else name)
    if schema.get("x-kubernetes-embedded-resource"):
        for name in ("apiVersion", "kind"):
            if not isinstance(value.get(name), str) or not value[name]:
                found.required(f"{path}.{name}", "must not be empty")
    for key, inner in value.items():
        if root and key in _ENVELOPE:
            continue
        if key in properties:
            check(inner, properties[key], found, f"{path}.{key}" if path else key)
        elif isinstance(others, Mapping):
            check(inner, others, found, f"{path}[{key[:128]}]" if path else key[:128])
    least, most = schema.get("minProperties"), schema.get("maxProperties")
    if least is not None and len(value) < least:
        found.invalid(path, len(value), f"{path} in body should have at least {least} properties")
    if most is not None and len(value) > most:
        found.too_many(path, len(value), most)


def _list(value: list[Any], schema: Schema, found: Findings, path: str) -> None:
    least, most = schema.get("minItems"), schema.get("maxItems")
    if least is not None and len(value) < least:
        found.invalid(path, len(value), f"{path} in body should have at least {least} items")
    if most is not None and len(value) > most:
        found.too_many(path, len(value), most)
        return
    items = schema.get("items")
    if isinstance(items, Mapping):
        for i, inner in enumerate(value):
            check(inner, items, found, f"{path}[{i}]")
    kind = schema.get("x-kubernetes-list-type")
    if kind == "set":
        _unique(value, list(value), found, path)
    elif kind == "map":
        keys = schema.get("x-kubernetes-list-map-keys") or ()
        _unique(value, [{k: v[k] for k in keys if k in v} if isinstance(v, dict) else v for v in value], found, path)


def _unique(value: Sequence[Any], ids: Sequence[Any], found: Findings, path: str) -> None:
    seen: set[str] = set()
    for i, identity in enumerate(ids):
        text = _identity(identity)
        if text in seen:
            found.duplicate(f"{path}[{i}]", identity)
        seen.add(text)


def _identity(value: Any) -> str:
    """Equal for values that JSON calls equal, whatever the order of their keys."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{_identity(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_identity, value)) + "]"
    return f"{type(value).__name__}:{value!r}"


def _text(value: str, schema: Schema, found: Findings, path: str) -> None:
    least, most = schema.get("minLength"), schema.get("maxLength")
    if least is not None and len(value) < least:
        found.invalid(path, value, f"{path} in body should be at least {least} chars long")
    if most is not None and len(value) > most:
        found.too_long(path, most)
        return
    pattern = schema.get("pattern")
    if pattern:
        if len(value) > MAX_MATCHED:
            found.too_long(path, MAX_MATCHED, "characters where a pattern is to match")
        elif compiled(pattern).search(value) is None:
            found.invalid(path, value, f"{path} in body should match '{pattern}'")
    wanted = schema.get("format")
    if wanted and schema.get("type") == "string" and not is_of_format(wanted, value):
        found.invalid(path, value, f"{path} in body must be of type {wanted}: {shown(value)}")


def _number(value: float, schema: Schema, found: Findings, path: str) -> None:
    least, most, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if least is not None and (value < least or (schema.get("exclusiveMinimum") and value == least)):
        more = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        found.invalid(path, value, f"{path} in body should be {more} {least}")
    if most is not None and (value > most or (schema.get("exclusiveMaximum") and value == most)):
        less = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        found.invalid(path, value, f"{path} in body should be {less} {most}")
    if step and abs(value / step - round(value / step)) > 1e-9:
        found.invalid(path, value, f"{path} in body should be a multiple of {step}")
    bits = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
    if bits and isinstance(value, int) and not -(1 << bits) <= value < 1 << bits:
        found.invalid(path, value, f"{path} in body must be of type {schema['format']}: {shown(str(value))}")


def _junctors(value: Any, schema: Schema, found: Findings, path: str, root: bool) -> None:
    where = path or "<nil>"
    for part in schema.get("allOf") or ():
        check(value, part, found, path, root)
    if (any_of := schema.get("anyOf")) and not any(_valid(value, s, path, root) for s in any_of):
        found.invalid(path, _type_of(value), f"{where} in body must validate at least one schema (anyOf)")
    if one_of := schema.get("oneOf"):
        count = sum(_valid(value, s, path, root) for s in one_of)
        if count != 1:
            told = "Found none valid" if count == 0 else f"Found {count} valid alternatives"
            why = f"{where} in body must validate one and only one schema (oneOf). {told}"
            found.invalid(path, _type_of(value), why)
    if (not_ := schema.get("not")) is not None and _valid(value, not_, path, root):
        found.invalid(path, _type_of(value), f"{where} in body must not validate the schema (not)")


def _valid(value: Any, schema: Schema, path: str, root: bool) -> bool:
    found = Findings()
    check(value, schema, found, path, root)
    return not found.causes


# ---------------------------------------------------------------- patterns


@lru_cache(maxsize=2048)
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern in RE2's syntax. Raises re.error where it is none of Python's either."""
    return re.compile(_PYTHON.sub(_spelt, _with_scopes(pattern)), re.ASCII)


_STEP = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?([is]+)\)|.", re.DOTALL)


def _with_scopes(pattern: str) -> str:
    """RE2 takes flags at the beginning of any group, for the rest of it; Python only as a group of their own:
    `((?i)a|b)` is `((?i:a|b))`. Flags in the middle of a group stay as they are: Python refuses them."""
    out: list[str] = []
    scopes = [0]  # opened by us in each group that is open, the whole being the first
    fresh = True  # nothing but "^" has come in this group
    for step in _STEP.finditer(pattern):
        text = step[0]
        if step[1] and fresh:
            scopes[-1] += 1
            out.append(f"(?{step[1]}:")
            continue
        if text == ")" and len(scopes) > 1:
            out.append(")" * scopes.pop())
        elif text == "(":
            scopes.append(0)
        fresh = text == "(" or (fresh and text == "^")
        out.append(text)
    return "".join(out) + ")" * scopes[0]


# `\z` and `$` end the text in RE2 (without (?m)); Python's `$` also stands before a last newline.
_PYTHON = re.compile(r"\\(.)|\[\[:(\w+):\]\]|\$|\[(?:\\.|[^\]\\])*\]", re.DOTALL)
_CLASSES = {"alnum": "A-Za-z0-9", "alpha": "A-Za-z", "digit": "0-9", "lower": "a-z", "upper": "A-Z", "space": r"\s"}


def _spelt(match: re.Match[str]) -> str:
    text = match[0]
    if text == "$" or match[1] == "z":
        return r"\Z"
    if match[2]:
        return f"[{_CLASSES.get(match[2], match[2])}]"
    return re.sub(r"\[:(\w+):\]", lambda m: _CLASSES.get(m[1], m[1]), text)
