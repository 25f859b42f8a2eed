"""The part of kubectl's JSONPath that printer columns use. Pure.

`.spec.a`, `.a[0].b`, `.a['x.y/z']`, `.a[?(@.type=="Ready")].b`, `.a[*].b`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any


class JsonPathError(ValueError):
    """The path can't be understood."""


Step = Callable[[Any], Iterator[Any]]

_STEP = re.compile(
    r"""\.?\[\s*(?:(?P<index>-?\d+)|(?P<all>\*)|'(?P<quoted>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"
    |\?\(\s*@(?P<left>(?:\.[^=!<>\s()]+)+)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<right>'[^']*'|"[^"]*"|[^\s()]+)\s*)?\))\s*\]
    |\.(?P<name>(?:[^.\[\]\\'"{}()\s]|\\.)+)""",
    re.VERBOSE,
)


def find(path: str, document: Any) -> list[Any]:
    """All values at a path. Nothing where the document has no such place; JsonPathError where it is no path."""
    values = [document]
    for step in steps(path):
        values = [found for value in values for found in step(value)]
        if not values:
            break
    return values


def simple_fields(path: str) -> tuple[str, ...]:
    """The names along a path of names alone, ("spec", "replicas"); JsonPathError for any other."""
    steps(path)
    if not re.fullmatch(r"(\.[A-Za-z_][-A-Za-z0-9_]*)+", path, re.ASCII):
        raise JsonPathError("must be a JSON path without indexes, such as .spec.replicas")
    return tuple(path[1:].split("."))


@lru_cache(maxsize=1024)
def steps(path: str) -> tuple[Step, ...]:
    text = path.strip()
    text = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    text = text.removeprefix("$").removeprefix("@")
    found: list[Step] = []
    at = 0
    while at < len(text) and text != ".":
        match = _STEP.match(text, at)
        if match is None:
            raise JsonPathError(f"is no JSON path at {text[at : at + 32]!r}")
        found.append(_step(match))
        at = match.end()
    return tuple(found)


def _step(match: re.Match[str]) -> Step:
    if match["index"] is not None:
        return _item(int(match["index"]))
    if match["all"] or match["name"] == "*":
        return _everything
    if match["left"] is not None:
        right = match["right"]
        return _where(match["left"], match["op"] or "", _literal(right) if right is not None else None)
    name = next(match[g] for g in ("quoted", "double", "name") if match[g] is not None)
    return _member(re.sub(r"\\(.)", r"\1", name))


def _member(name: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _item(index: int) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, list) and -len(value) <= index < len(value):
            yield value[index]

    return step


def _everything(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _literal(text: str) -> Any:
    if text[:1] in "'\"":
        return text[1:-1]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _where(left: str, op: str, right: Any) -> Step:
    inner = steps(left)

    def holds(item: Any) -> bool:
        values = [item]
        for step in inner:
            values = [found for value in values for found in step(value)]
        if not op or not values:
            return bool(values)
        return _compares(values[0], op, right)

    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, list):
            yield from (item for item in value if holds(item))

    return step


def _compares(left: Any, op: str, right: Any) -> bool:
    if op in ("==", "!="):
        return bool(left == right) is (op == "==")
    if type(left) is not type(right) or not isinstance(left, int | float | str):
        return False
    below, equal = left < right, left == right
    return bool({"<": below, "<=": below or equal, ">": not below and not equal, ">=": not below}[op])
