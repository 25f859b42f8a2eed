"""Kubernetes' protobuf form of objects, read into documents: what `kubectl create` and `drain` and Go's clients write.
Pure.

An object comes as the magic "k8s\\0" and a runtime.Unknown that wraps its message. Answers are always JSON, which
every client that writes protobuf accepts. Fields are in `protobuf_fields`; one that isn't there and says anything
is an error, as an unknown field in JSON is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from cloudlink.hub.api.protobuf_fields import MESSAGES, ROOTS
from cloudlink.hub.revisions import timestamp

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_LATEST = 253402300799  # seconds; the last second of the year 9999


class ProtobufError(ValueError):
    """Not what it should be; the message says where."""


Wire = tuple[int, int, int | bytes]  # field number, wire type, value


def fields_of(message: bytes) -> Iterator[Wire]:
    """The fields of a message as they come (protobuf's encoding of wire types 0, 1, 2 and 5)."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ProtobufError(f"wire type {wire} is not used by Kubernetes")
        if size > len(message) - at:
            raise ProtobufError("the message ends too early")
        yield number, wire, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for step in range(10):
        if at + step >= len(message):
            raise ProtobufError("the message ends too early")
        byte = message[at + step]
        value |= (byte & 0x7F) << (7 * step)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + step + 1
    raise ProtobufError("a number is longer than ten bytes")


# ---------------------------------------------------------------- fields


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of `protobuf_fields`; see there for its notation."""

    name: str
    kind: str
    many: bool = False
    mapping: bool = False
    pointer: bool = False
    inline: bool = False


@cache
def _message(name: str) -> dict[int, Field]:
    fields: dict[int, Field] = {}
    for entry in MESSAGES[name].split(","):
        number, label, *rest = entry.split()
        kind = rest[0] if rest else "string"
        inline = label == "<"
        many, mapping = kind.endswith("*"), kind.endswith("{}")
        kind = kind.removesuffix("*").removesuffix("{}")
        fields[int(number)] = Field(label.rstrip("?"), kind, many, mapping, label.endswith("?"), inline)
    return fields


def _document(message: bytes, name: str, path: str) -> dict[str, Any]:
    fields = _message(name)
    document: dict[str, Any] = {}
    for number, wire, raw in fields_of(message):
        field = fields.get(number)
        if field is None:
            if raw not in (0, b""):
                raise ProtobufError(
                    f"{path or name}: field {number} of {name} is not supported by this version of edged"
                )
            continue
        where = f"{path}.{field.name}" if path else field.name
        if field.inline:
            document |= _document(_bytes(raw, wire, path), field.kind, path)
        elif field.mapping:
            key, value = _entry(_bytes(raw, wire, where), field.kind, where)
            document.setdefault(field.name, {})[key] = value
        elif field.many:
            document.setdefault(field.name, []).append(_value(raw, wire, field.kind, where))
        else:
            value = _value(raw, wire, field.kind, where)
            if field.pointer or value not in (None, "", 0, False):
                document[field.name] = value
    return document


def _entry(message: bytes, kind: str, path: str) -> tuple[str, Any]:
    """One entry of a map: its key is field 1, its value field 2; either may be left out where it is empty."""
    key, value = "", "" if kind in ("string", "bytes") else None
    for number, wire, raw in fields_of(message):
        if number == 1:
            key = _text(_bytes(raw, wire, path), path)
        elif number == 2:
            value = _value(raw, wire, kind, path)
    return key, value


def _value(raw: int | bytes, wire: int, kind: str, path: str) -> Any:
    if kind in ("int", "bool", "unsupported") and isinstance(raw, int):
        number = raw - (1 << 64) if raw >> 63 else raw
        return number if kind == "int" else bool(number)
    content = _bytes(raw, wire, path)
    match kind:
        case "string":
            return _text(content, path)
        case "bytes":
            return base64.b64encode(content).decode("ascii")
        case "unsupported":  # something that parse() will refuse by its name
            return {"": "as protobuf"} if content else None
        case "Time":
            return _time(content, path)
        case "Strings":
            return [_text(v, path) for n, _, v in fields_of(content) if n == 1 and isinstance(v, bytes)]
        case "IntOrString":
            parts = {number: value for number, _, value in fields_of(content)}
            return _value(parts.get(3, b""), 2, "string", path) if parts.get(1) else _int(parts.get(2, 0))
        case "RawExtension":
            return _json(content, path)
        case "Quantity":
            return next((_text(v, path) for n, _, v in fields_of(content) if n == 1 and isinstance(v, bytes)), "0")
        case _:
            return _document(content, kind, path)


def _json(content: bytes, path: str) -> Any:
    """runtime.RawExtension and metav1.FieldsV1: JSON, whole, in field 1."""
    raw = next((v for n, _, v in fields_of(content) if n == 1 and isinstance(v, bytes)), b"null")
    try:
        return json.loads(raw)
    except ValueError as e:
        raise ProtobufError(f"{path}: not JSON: {e}") from None


def _int(value: int | bytes) -> int:
    return value if isinstance(value, int) else 0


def _time(content: bytes, path: str) -> str:
    seconds = next((v for n, _, v in fields_of(content) if n == 1 and isinstance(v, int)), None)
    if seconds is None or seconds >> 63:  # Go's zero time lies before 1970
        return ""
    if seconds > _LATEST:
        raise ProtobufError(f"{path}: {seconds} s is no time that can be written down")
    return timestamp(seconds)


def _bytes(raw: int | bytes, wire: int, path: str) -> bytes:
    if not isinstance(raw, bytes) or wire != 2:
        raise ProtobufError(f"{path}: wire type {wire} does not fit this field")
    return raw


def _text(content: bytes, path: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as e:
        raise ProtobufError(f"{path}: not UTF-8: {e}") from None


# ---------------------------------------------------------------- objects


def from_protobuf(body: bytes) -> dict[str, Any]:
    """The document of an object (or of DeleteOptions). ProtobufError says what is wrong with it."""
    if not body.startswith(_MAGIC):
        raise ProtobufError('it does not begin with "k8s" and a zero')
    unknown = _document(body[len(_MAGIC) :], "Unknown", "")
    api_version, kind = unknown.get("apiVersion", ""), unknown.get("kind", "")
    if kind not in ROOTS:
        raise ProtobufError(f'a "{kind[:64]}" of "{api_version[:64]}" can only be read as JSON or YAML here')
    raw = base64.b64decode(unknown.get("raw", ""))
    return {"apiVersion": api_version, "kind": kind, **_document(raw, kind, "")}
