"""YAML text -> documents, as JSON could have said them. No object is checked here; see parse().

YAML as Kubernetes reads it: only JSON's types (dates stay text), keys are text as written, a key may stand only
once in a mapping, aliases may neither loop nor multiply a small text into a huge document.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import yaml

from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.schema import json_type

MAX_TEXT = 16 << 20  # characters; one object of Kubernetes may have 1.5 MiB
MAX_NODES = 1_000_000  # values after following aliases, in one document
MAX_DEPTH = 200  # brackets or indentations; what parse() takes is far less

if TYPE_CHECKING:
    from yaml import SafeLoader as _Base
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast, where it is there

_TAG = "tag:yaml.org,2002:"
_TRUE = frozenset({"true", "yes", "on"})


class _Loader(_Base):
    """Used for its parser and its resolver only; values are built by _Reader."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way


def _resolves(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(_TAG + tag, re.compile(pattern, re.ASCII), list(first))


# The forms that Kubernetes' parser (goyaml.v2) takes; no dates, no base 60, no infinities.
_resolves("bool", r"(?:true|True|TRUE|yes|Yes|YES|on|On|ON|false|False|FALSE|no|No|NO|off|Off|OFF)\Z", "tTyYoOfFnN")
_resolves("int", r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)\Z", "-+0123456789")
_resolves("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", "-+.0123456789")
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])


class _BadError(Exception):
    """Something that can't be said in JSON, and where it stands."""

    def __init__(self, problem: str, event: yaml.Event) -> None:
        super().__init__(problem)
        self.mark = event.start_mark


class _Reader:
    """Values straight from the parser's events: libyaml's own composer recurses in C and dies on deep nesting.

    A value with an anchor is built once and shared by its aliases, but each alias counts all of it again.
    """

    def __init__(self, text: str) -> None:
        self._loader: Any = _Loader(text)  # PyYAML's stubs know neither get_event nor the events' fields
        self._anchors: dict[str, tuple[Any, int] | None] = {}  # None while it is being built

    def close(self) -> None:
        self._loader.dispose()

    def documents(self) -> Iterator[Any]:
        loader = self._loader
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                yield self._value(loader.get_event(), 0)[0]

    def _value(self, event: Any, depth: int) -> tuple[Any, int]:
        """The value, and how many values it holds with every alias followed."""
        if isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            built = self._anchors.get(anchor, ("", 0))
            if built is None:
                raise _BadError("an alias refers to a value that it is a part of", event)
            if built[1] == 0:
                raise _BadError(f"no anchor &{anchor[:64]} before this alias", event)
            return built
        if depth > MAX_DEPTH:
            raise _BadError(f"nested deeper than {MAX_DEPTH} levels", event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        built = self._built(event, depth + 1)
        if built[1] > MAX_NODES:
            raise _BadError(f"more than {MAX_NODES} values after following aliases", event)
        if event.anchor is not None:
            self._anchors[event.anchor] = built
        return built

    def _built(self, event: Any, depth: int) -> tuple[Any, int]:
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event, self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)), 1
        if isinstance(event, yaml.MappingStartEvent) and event.tag in (None, "!", _TAG + "map"):
            return self._mapping(depth)
        if isinstance(event, yaml.SequenceStartEvent) and event.tag in (None, "!", _TAG + "seq"):
            items, count = [], 1
            while not isinstance(event := self._loader.get_event(), yaml.SequenceEndEvent):
                value, size = self._value(event, depth)
                items.append(value)
                count += size
            return items, count
        raise _BadError(f"the tag {event.tag[:64]} is not supported; leave it out", event)

    def _mapping(self, depth: int) -> tuple[dict[str, Any], int]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        count = 1
        while not isinstance(key := self._loader.get_event(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise _BadError("a key must be a text, not a mapping, a list or an alias", key)
            event = self._loader.get_event()
            value, size = self._value(event, depth)
            count += size
            if key.value == "<<" and key.implicit[0]:
                sources = value if isinstance(value, list) else [value]
                if not all(isinstance(s, dict) for s in sources):
                    raise _BadError("only mappings can be merged with <<", event)
                for source in sources:
                    merged = source | merged
            elif key.value in own:
                raise _BadError(f'duplicate key "{key.value[:64]}"', key)
            else:
                own[key.value] = value
        return (merged | own if merged else own), count


def _scalar(event: yaml.ScalarEvent, resolved: str) -> Any:
    text: str = event.value
    tag: str = resolved if event.tag in (None, "!") else event.tag
    try:
        match tag.removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() in _TRUE
            case "int" if len(text) <= 40:
                return _integer(text.replace("_", ""))
            case "float" if math.isfinite(float(text)):
                return float(text)
            case "int" | "float":
                return text
    except ValueError as e:
        raise _BadError(f'"{text[:64]}" is not of the type that its tag says', event) from e
    raise _BadError(f"the tag {tag[:64]} is not supported; leave it out", event)


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    value = int(digits, 8 if octal else 0)
    return -value if text[0] == "-" else value


def load_yaml(text: str, source: str) -> list[dict[str, Any]]:
    """All documents of one text; empty ones are passed over, the items of a `kind: List` stand for themselves.

    :param source: where the text is from, a file name say; errors begin with it.
    :raises Invalid: with one cause that names source, line and column.
    """
    if len(text) > MAX_TEXT:
        raise _invalid(source, f"larger than {MAX_TEXT >> 20} MiB; split it")
    documents: list[dict[str, Any]] = []
    try:
        with closing(_Reader(text)) as reader:
            for number, value in enumerate(reader.documents(), 1):
                documents += _objects(value, source, number)
    except _BadError as e:
        raise _invalid(_place(source, e.mark), str(e)) from None
    except yaml.MarkedYAMLError as e:
        problem = ", ".join(part for part in (e.context, e.problem) if part)
        raise _invalid(_place(source, e.problem_mark or e.context_mark), problem) from None
    except yaml.reader.ReaderError as e:
        before = text[: e.position] if isinstance(e.position, int) else ""
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _invalid(f"{source}, about line {line}, column {column}", f"{e.reason}; save the file as UTF-8") from None
    except (yaml.YAMLError, UnicodeError) as e:
        raise _invalid(source, str(e)) from None
    return documents


def _objects(value: Any, source: str, number: int) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise _invalid(source, f"document {number}: a Kubernetes object is a mapping, not {json_type(value)}")
    if value.get("kind") == "List" and isinstance(value.get("items"), list):
        return [o for item in value["items"] for o in _objects(item, source, number)]
    return [value]


def _place(source: str, mark: Any) -> str:
    return source if mark is None else f"{source}, line {mark.line + 1}, column {mark.column + 1}"


def _invalid(place: str, problem: str) -> Invalid:
    return Invalid([Cause("", "FieldValueInvalid", f"{place}: {problem}")])
