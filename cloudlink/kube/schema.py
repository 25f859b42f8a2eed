"""From what pydantic says to what people read: structural errors as Causes with paths in their own names."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cloudlink.kube.errors import MAX_CAUSES, Cause
from cloudlink.kube.meta import MAX_STRING, Model

MAX_ERRORS = 10_000  # that are looked at, one by one

Location = tuple[int | str, ...]

_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a number of a sensible size",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "int_or_string_type": "a whole number or a short text",
}


def json_type(value: object) -> str:
    """What a JSON or YAML author calls the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a mapping" if isinstance(value, Mapping) else "a list"


def causes_of(error: ValidationError, model: type[Model]) -> tuple[list[Cause], list[Location]]:
    """Each error as a Cause, and the places of the offending values (none for what is missing).

    Only the first of many: to put a million errors in words takes a minute, and only a hostile document has them.
    """
    causes: list[Cause] = []
    places: list[Location] = []
    if error.error_count() > MAX_ERRORS:
        return [Cause("", "FieldValueInvalid", f"{error.error_count()} fields or items are wrong")], []
    for detail in error.errors(include_url=False)[: 2 * MAX_CAUSES]:
        location = detail["loc"]
        path, owner, annotation = _resolve(location, model)
        causes.append(_cause(detail, path, owner, annotation))
        if detail["type"] != "missing":
            places.append(location)
    return causes, places


def _cause(detail: ErrorDetails, path: str, owner: type[Model] | None, annotation: Any) -> Cause:
    # Values are never shown here: this may be a Secret.
    kind, value = detail["type"], detail["input"]
    if kind == "missing":
        return Cause(path, "FieldValueRequired", "Required value")
    if kind == "extra_forbidden" and owner is not None:
        return _extra(path, str(detail["loc"][-1]), owner)
    if kind == "literal_error":
        options = [o for o in _literals(annotation) if o != ""]
        listed = ", ".join(f'"{o}"' if isinstance(o, str) else str(o).lower() for o in options)
        shown = f'"{value[:64]}"' if isinstance(value, str) else str(value).lower()[:64]
        return Cause(path, "FieldValueNotSupported", f"Unsupported value: {shown}: supported values: {listed}")
    if kind in _EXPECTED:
        advice = ""
        if kind == "string_type" and isinstance(value, bool | int | float):
            advice = "; put quotes around it"
        message = f"must be {_EXPECTED[kind]}, not {json_type(value)}{advice}"
        return Cause(path, "FieldValueTypeInvalid", message)
    if kind == "string_unicode":
        return Cause(path, "FieldValueInvalid", "must be valid Unicode text")
    if kind == "string_too_long":
        return Cause(path, "FieldValueTooLong", f"Too long: may not be more than {MAX_STRING} characters")
    return Cause(path, "FieldValueInvalid", detail["msg"])


def _extra(path: str, name: str, owner: type[Model]) -> Cause:
    if name in owner.unsupported:
        why = owner.why_not.get(name)
        text = f"not supported: {why}" if why else "not supported by this version of edged; remove it"
        return Cause(path, "FieldValueNotSupported", text)
    known = [f.alias or n for n, f in owner.model_fields.items()] + sorted(owner.unsupported)
    close = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.6)
    by_case = [k for k in known if k.lower() == name.replace("_", "").lower()]
    meant = (by_case or close or [""])[0]
    hint = f' (did you mean "{meant}"?)' if meant else ""
    return Cause(path, "FieldValueInvalid", f"unknown field{hint}")


# ---------------------------------------------------------------- paths


def _resolve(location: Location, root: type[Model]) -> tuple[str, type[Model] | None, Any]:
    """A pydantic location as a path, the model that owns its last step, and that step's annotation."""
    path = ""
    here: Any = root
    owner: type[Model] | None = None
    for step in location:
        model = _model_in(here)
        if model is not None:
            owner = model
            path += f".{_short(str(step))}" if path else _short(str(step))
            here = next((f.annotation for n, f in model.model_fields.items() if (f.alias or n) == step), None)
        elif step == "[key]":
            continue
        else:
            owner = None
            path += f"[{_short(str(step))}]"
            here = _item_of(here)
    return path, owner, here


def _short(step: str) -> str:
    return step if len(step) <= 128 else f"{step[:128]}..."


def _alternatives(annotation: Any) -> Sequence[Any]:
    """The members of a union without None, or the annotation itself."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [a for a in typing.get_args(annotation) if a is not type(None)]
    if typing.get_origin(annotation) is typing.Annotated:
        return [typing.get_args(annotation)[0]]
    return [annotation]


def _model_in(annotation: Any) -> type[Model] | None:
    for a in _alternatives(annotation):
        if isinstance(a, type) and issubclass(a, BaseModel):
            return typing.cast(type[Model], a)
    return None


def _item_of(annotation: Any) -> Any:
    """tuple[X, ...] -> X, dict[str, X] -> X."""
    for a in _alternatives(annotation):
        args = typing.get_args(a)
        if typing.get_origin(a) is tuple:
            return args[0] if args else None
        if typing.get_origin(a) is dict:
            return args[1]
    return None


def _literals(annotation: Any) -> Sequence[Any]:
    return [v for a in _alternatives(annotation) if typing.get_origin(a) is typing.Literal for v in typing.get_args(a)]


# ---------------------------------------------------------------- what is left without the wrong parts


def without(data: dict[str, Any], places: Sequence[Location]) -> dict[str, Any] | None:
    """A copy of the document without the wrong values, so that what is left can be checked as well.

    None where that would move or take away items of a list: what follows would be judged wrongly.
    """
    if any(not location or isinstance(location[-1], int) or location[-1] == "[key]" for location in places):
        return None
    copy: dict[str, Any] = dict(data)
    copied: dict[Location, Any] = {(): copy}
    for location in places:
        for depth in range(1, len(location)):
            head = location[:depth]
            if head in copied:
                continue
            parent, step = copied[location[: depth - 1]], location[depth - 1]
            inner = parent[step]
            copied[head] = parent[step] = dict(inner) if isinstance(inner, Mapping) else list(inner)
        copied[location[:-1]].pop(location[-1], None)
    return copy
