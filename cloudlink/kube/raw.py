"""Parts of objects that are people's own: any JSON, kept as it came, if JSON, msgpack and UTF-8 can carry it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

MAX_DEPTH = 48  # levels below the field itself; parse() bounds the whole document
_INTEGERS = range(-(1 << 63), 1 << 64)


def _json(value: object, depth: int = MAX_DEPTH) -> None:
    if depth == 0:
        raise PydanticCustomError("json_depth", "nested too deeply")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise PydanticCustomError("json_key", "keys must be text")
            _text(key)
            _json(inner, depth - 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _json(inner, depth - 1)
    elif isinstance(value, str):
        _text(value)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if value not in _INTEGERS:
            raise PydanticCustomError("json_number", "must be a number of a sensible size")
    elif not isinstance(value, float) or not math.isfinite(value):
        raise PydanticCustomError("json_type", "must be JSON")


def _text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "must be valid Unicode text") from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "must be a mapping")
    _json(value)
    return value


JsonObject = Annotated[dict[str, Any], PlainValidator(_object)]
