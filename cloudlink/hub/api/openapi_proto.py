"""A Swagger document as protobuf: openapi.v2.Document of google/gnostic, as far as Kubernetes' clients read it. Pure.

Left out is what they never look at: answers, media types, security. Values of any type are YAML inside, which JSON is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}
_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_DOUBLES = {"multipleOf": 6, "maximum": 7, "minimum": 9}
_NUMBERS = {"maxLength": 11, "minLength": 12, "maxItems": 14, "minItems": 15, "maxProperties": 17, "minProperties": 18}
_FLAGS = {"exclusiveMaximum": 8, "exclusiveMinimum": 10, "uniqueItems": 16}


def document_bytes(document: Mapping[str, Any]) -> bytes:
    info = _field(1, document["info"]["title"]) + _field(2, document["info"]["version"])
    paths = b"".join(_named(2, path, _path(item)) for path, item in document["paths"].items())
    definitions = b"".join(_named(1, name, _schema(schema)) for name, schema in document["definitions"].items())
    return _field(1, "2.0") + _field(2, info) + _field(8, paths) + _field(9, definitions)


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _field(number: int, content: bytes | str) -> bytes:
    """A length-delimited field: a string or a message."""
    raw = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(int(value))


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _named(number: int, name: str, content: bytes) -> bytes:
    return _field(number, _field(1, name) + _field(2, content))


def _any(value: Any) -> bytes:
    return _field(2, json.dumps(value))


def _extensions(number: int, value: Mapping[str, Any]) -> bytes:
    return b"".join(_named(number, k, _any(v)) for k, v in value.items() if k.startswith("x-"))


# ---------------------------------------------------------------- paths


def _path(item: Mapping[str, Any]) -> bytes:
    operations = b"".join(_field(number, _operation(item[m])) for m, number in _METHODS.items() if m in item)
    return operations + b"".join(_field(9, _parameter(p)) for p in item["parameters"])


def _operation(operation: Mapping[str, Any]) -> bytes:
    parameters = b"".join(_field(8, _parameter(p)) for p in operation["parameters"])
    return _field(5, operation["operationId"]) + parameters + _extensions(13, operation)


def _parameter(parameter: Mapping[str, Any]) -> bytes:
    """ParametersItem > Parameter > BodyParameter, or NonBodyParameter > Query- or PathParameterSubSchema."""
    name = parameter["name"]
    if parameter["in"] == "body":
        body = _field(2, name) + _field(3, "body") + _field(5, _schema(parameter["schema"]))
        return _field(1, _field(1, body))
    if parameter["in"] == "path":
        inner = _field(4, _number(1, 1) + _field(2, "path") + _field(4, name) + _field(5, parameter["type"]))
    else:
        inner = _field(3, _field(2, "query") + _field(4, name) + _field(5, parameter["type"]))
    return _field(1, _field(2, inner))


# ---------------------------------------------------------------- schemas


def _schema(schema: Mapping[str, Any]) -> bytes:
    parts: list[bytes] = []
    for name, value in schema.items():
        if name in _TEXTS:
            parts.append(_field(_TEXTS[name], value))
        elif name in _DOUBLES:
            parts.append(_double(_DOUBLES[name], value))
        elif name in _NUMBERS:
            parts.append(_number(_NUMBERS[name], value))
        elif name in _FLAGS:
            parts.append(_number(_FLAGS[name], value))
        else:
            parts.append(_structure(name, value))
    return b"".join(parts) + _extensions(31, schema)


def _structure(name: str, value: Any) -> bytes:
    match name:
        case "default":
            return _field(5, _any(value))
        case "required":
            return b"".join(_field(19, v) for v in value)
        case "enum":
            return b"".join(_field(20, _any(v)) for v in value)
        case "additionalProperties":
            return _field(21, _field(1, _schema(value)))
        case "type":
            return _field(22, _field(1, value))
        case "items":
            return _field(23, _field(1, _schema(value)))
        case "properties":
            return _field(25, b"".join(_named(1, k, _schema(v)) for k, v in value.items()))
        case _:
            return b""
