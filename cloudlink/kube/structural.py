"""Whether a schema is structural: what apiextensions.k8s.io/v1 asks of the schema in a CustomResourceDefinition. Pure.

Such a schema names a type for every place of a document, so that unknown fields can be told from known ones. After
k8s.io/apiextensions-apiserver/pkg/apiserver/schema and .../validation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cloudlink.kube.findings import Findings
from cloudlink.kube.jsonschema import check, compiled
from cloudlink.kube.schema import json_type

Schema = Mapping[str, Any]

MAX_NODES = 100_000  # parts of one schema; the largest that people use have some ten thousand

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_NUMBERS = ("maximum", "minimum", "multipleOf")
_COUNTS = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")
_FLAGS = ("exclusiveMaximum", "exclusiveMinimum", "uniqueItems", "nullable")
_TEXTS = ("id", "$schema", "$ref", "description", "type", "format", "title", "pattern")
_EXTENSIONS = ("preserve-unknown-fields", "embedded-resource", "int-or-string")
_OTHERS = (
    *("default", "enum", "required", "items", "allOf", "oneOf", "anyOf", "not", "properties", "additionalProperties"),
    *("patternProperties", "dependencies", "additionalItems", "definitions", "externalDocs", "example"),
)
_LISTS = ("list-type", "list-map-keys", "map-type", "validations")
KEYWORDS = frozenset(
    (*_NUMBERS, *_COUNTS, *_FLAGS, *_TEXTS, *_OTHERS, *(f"x-kubernetes-{e}" for e in (*_EXTENSIONS, *_LISTS)))
)
_FORBIDDEN: Mapping[str, str] = {
    "definitions": "must be empty to be structural",
    "dependencies": "must be empty to be structural",
    "id": "must be empty to be structural",
    "additionalItems": "must be empty to be structural",
    "patternProperties": "must be empty to be structural",
    "$ref": "must be empty to be structural",
}
# What says something about a place, and so may not stand where only values are judged.
_ONLY_OUTSIDE = ("type", "additionalProperties", "nullable", "default", "title", "description")
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_INT_OR_STRING = ({"type": "integer"}, {"type": "string"})


def check_schema(schema: Schema, path: str, found: Findings, unknown: list[str]) -> None:
    """All that is wrong with the schema of a whole kind.

    :param unknown: takes the paths of keywords that nobody knows.
    """
    walk = _Walk(found, unknown)
    if schema.get("type") != "object":
        value = schema.get("type")
        if value:
            found.invalid(f"{path}.type", value, "must be object at the root")
        else:
            found.required(f"{path}.type", "must not be empty at the root")
    walk.place(schema, path, "at the root", root=True)
    metadata = (schema.get("properties") or {}).get("metadata")
    if isinstance(metadata, Mapping):
        _only_names(metadata, f"{path}.properties[metadata]", found)


def _only_names(metadata: Schema, path: str, found: Findings) -> None:
    named = metadata.get("properties") or {}
    others = set(metadata) - {"type", "description", "properties", "title"}
    if others or (isinstance(named, Mapping) and set(named) - {"name", "generateName"}):
        found.forbidden(
            path, "must not specify anything other than name and generateName, but metadata is implicitly specified"
        )


class _Walk:
    def __init__(self, found: Findings, unknown: list[str]) -> None:
        self._found, self._unknown = found, unknown
        self._nodes = 0

    def place(self, schema: Any, path: str, where: str, root: bool = False) -> None:
        """A schema that describes a place of documents."""
        if not self._sound(schema, path):
            return
        found = self._found
        kind = schema.get("type")
        int_or_string = bool(schema.get("x-kubernetes-int-or-string"))
        if int_or_string and kind:
            found.forbidden(f"{path}.type", "must be empty if x-kubernetes-int-or-string is true")
        elif kind == "null":
            found.forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
        elif kind and kind not in _TYPES:
            found.unsupported(f"{path}.type", kind, _TYPES)
        elif not kind and not root and not int_or_string and not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.required(f"{path}.type", f"must not be empty {where}")
        self._extensions(schema, path)
        self._inner(schema, path)
        for word in _JUNCTORS:
            for i, part in enumerate(schema.get(word) or ()):
                self._judgement(part, schema, f"{path}.{word}[{i}]", int_or_string)
        if isinstance(schema.get("not"), Mapping):
            self._judgement(schema["not"], schema, f"{path}.not", False)
        if "default" in schema:
            self._default(schema, path)

    def _inner(self, schema: Schema, path: str) -> None:
        found = self._found
        properties, others = schema.get("properties"), schema.get("additionalProperties")
        if properties and others not in (None, False):
            found.forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
        if others is False:
            found.forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
        elif isinstance(others, Mapping):
            self.place(others, f"{path}.additionalProperties", "for specified object fields")
        for name, inner in (properties or {}).items():
            self.place(inner, f"{path}.properties[{name}]", "for specified object fields")
        items = schema.get("items")
        if isinstance(items, list):
            found.forbidden(f"{path}.items", "items must be a schema object and not an array")
        elif items is not None:
            self.place(items, f"{path}.items", "for specified array items")

    def _extensions(self, schema: Schema, path: str) -> None:
        found = self._found
        for name in _EXTENSIONS:
            if schema.get(f"x-kubernetes-{name}") is False:
                found.invalid(f"{path}.x-kubernetes-{name}", False, "must be true or undefined")
        if schema.get("x-kubernetes-embedded-resource"):
            if schema.get("type") != "object":
                found.invalid(
                    f"{path}.type", schema.get("type", ""), "must be object if x-kubernetes-embedded-resource is true"
                )
            if not schema.get("properties") and not schema.get("x-kubernetes-preserve-unknown-fields"):
                why = "must not be empty if x-kubernetes-embedded-resource is true without"
                why += " x-kubernetes-preserve-unknown-fields"
                found.required(f"{path}.properties", why)
        self._list_type(schema, path)
        map_type = schema.get("x-kubernetes-map-type")
        if map_type is not None and map_type not in ("granular", "atomic"):
            found.unsupported(f"{path}.x-kubernetes-map-type", map_type, ("atomic", "granular"))

    def _list_type(self, schema: Schema, path: str) -> None:
        found = self._found
        kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys")
        if kind is not None and schema.get("type") != "array":
            found.invalid(
                f"{path}.type", schema.get("type", ""), "must be array if x-kubernetes-list-type is specified"
            )
        if kind is not None and kind not in ("atomic", "set", "map"):
            found.unsupported(f"{path}.x-kubernetes-list-type", kind, ("atomic", "set", "map"))
        if keys and kind != "map":
            found.invalid(
                f"{path}.x-kubernetes-list-type", kind or "", "must be map if x-kubernetes-list-map-keys is non-empty"
            )
        if kind != "map":
            return
        items = schema.get("items")
        items = items if isinstance(items, Mapping) else {}
        if not keys:
            found.required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
        if items.get("type") != "object":
            found.invalid(
                f"{path}.items.type",
                items.get("type", ""),
                "must be object if parent array's x-kubernetes-list-type is map",
            )
        known = items.get("properties") or {}
        for i, key in enumerate(keys or ()):
            here = f"{path}.x-kubernetes-list-map-keys[{i}]"
            inner = known.get(key) if isinstance(known, Mapping) else None
            if not isinstance(inner, Mapping):
                found.invalid(here, key, "must be one of items.properties")
            elif inner.get("type") in ("array", "object"):
                found.invalid(
                    f"{path}.items.properties[{key}].type",
                    inner["type"],
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                )
            elif key not in (items.get("required") or ()) and "default" not in inner:
                why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be required"
                found.required(f"{path}.items.properties[{key}].default", why)

    def _judgement(self, schema: Any, place: Schema, path: str, int_or_string: bool) -> None:
        """A schema below a junctor: it may only name places that are named outside, and never say what they are."""
        if not self._sound(schema, path):
            return
        if int_or_string and (schema in _INT_OR_STRING or schema.get("anyOf") == list(_INT_OR_STRING)):
            return
        self._only_judges(schema, path)
        outside = place.get("properties") or {}
        for name, inner in (schema.get("properties") or {}).items():
            here = f"{path}.properties[{name}]"
            known = outside.get(name) if isinstance(outside, Mapping) else None
            if not isinstance(known, Mapping):
                if isinstance(place.get("additionalProperties"), Mapping):
                    known = place["additionalProperties"]
                else:
                    at = path.rsplit(".", 1)[0]
                    self._found.required(f"{at}.properties[{name}]", f"because it is defined in {here}")
                    known = {}
            self._judgement(inner, known, here, bool(known.get("x-kubernetes-int-or-string")))
        items = schema.get("items")
        if isinstance(items, Mapping):
            known = place.get("items")
            if not isinstance(known, Mapping):
                self._found.required(f"{path.rsplit('.', 1)[0]}.items", f"because it is defined in {path}.items")
                known = {}
            self._judgement(items, known, f"{path}.items", bool(known.get("x-kubernetes-int-or-string")))
        for word in _JUNCTORS:
            for i, part in enumerate(schema.get(word) or ()):
                self._judgement(part, place, f"{path}.{word}[{i}]", int_or_string)
        if isinstance(schema.get("not"), Mapping):
            self._judgement(schema["not"], place, f"{path}.not", False)

    def _only_judges(self, schema: Schema, path: str) -> None:
        for word in _ONLY_OUTSIDE:
            if word in schema:
                self._found.forbidden(f"{path}.{word}", "must be empty to be structural")
        for word in (*_EXTENSIONS, *_LISTS[:3]):
            if schema.get(f"x-kubernetes-{word}"):
                self._found.forbidden(f"{path}.x-kubernetes-{word}", "must be false to be structural")

    # ------------------------------------------------------------ the schema as a value

    def _sound(self, schema: Any, path: str) -> bool:
        """Whether the keywords have values that the rest of this house can work with."""
        found = self._found
        self._nodes += 1
        if self._nodes == MAX_NODES:
            found.invalid(path, self._nodes, f"a schema may have at most {MAX_NODES} parts")
        if self._nodes >= MAX_NODES:
            return False
        if not isinstance(schema, Mapping):
            found.of_type(path, json_type(schema), "must be a schema, which is a mapping")
            return False
        before = len(found.causes)
        for word, value in schema.items():
            here = f"{path}.{word}"
            if word not in KEYWORDS:
                self._unknown.append(here)
            elif why := _FORBIDDEN.get(word):
                if value:
                    found.forbidden(here, why)
            elif expected := _misfit(word, value):
                found.of_type(here, json_type(value), f"must be {expected}")
        if schema.get("uniqueItems") is True:
            found.forbidden(
                f"{path}.uniqueItems",
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            )
        self._pattern(schema, path)
        return not any(c.reason == "FieldValueTypeInvalid" for c in found.causes[before:])

    def _pattern(self, schema: Schema, path: str) -> None:
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and pattern:
            try:
                compiled(pattern)
            except (re.error, OverflowError, RecursionError) as e:
                self._found.invalid(f"{path}.pattern", pattern, f"must be a valid regular expression, but isn't: {e}")

    def _default(self, schema: Schema, path: str) -> None:
        inner = Findings()
        check(schema["default"], {k: v for k, v in schema.items() if k != "default"}, inner, f"{path}.default")
        for cause in inner.causes:
            self._found.causes.append(cause)


def _misfit(word: str, value: Any) -> str:
    """What the value of a keyword should be, "" where it is that."""
    if word in _NUMBERS:
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if word in _COUNTS:
        return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if word in _FLAGS or word.removeprefix("x-kubernetes-") in _EXTENSIONS:
        return "" if isinstance(value, bool) else "true or false"
    if word in _TEXTS or word in ("x-kubernetes-list-type", "x-kubernetes-map-type"):
        return "" if isinstance(value, str) else "a string"
    if word in ("required", "x-kubernetes-list-map-keys"):
        return "" if isinstance(value, list) and all(isinstance(v, str) for v in value) else "a list of strings"
    if word in ("enum", *_JUNCTORS):
        return "" if isinstance(value, list) else "a list"
    if word == "properties":
        return "" if isinstance(value, Mapping) else "a mapping"
    if word == "not":
        return "" if isinstance(value, Mapping) else "a schema"
    if word == "additionalProperties":
        return "" if isinstance(value, Mapping | bool) else "a schema or a boolean"
    if word == "x-kubernetes-validations":
        rules = isinstance(value, list) and all(
            isinstance(v, Mapping) and isinstance(v.get("rule"), str) for v in value
        )
        return "" if rules else "a list of rules"
    return ""


def has_rules(schema: Any) -> bool:
    """Whether rules in CEL are anywhere in it: they are kept, and not evaluated."""
    if isinstance(schema, Mapping):
        return bool(schema.get("x-kubernetes-validations")) or any(map(has_rules, schema.values()))
    return isinstance(schema, list) and any(map(has_rules, schema))
