"""Equal parts of objects held once: the pods of a ReplicaSet have the same containers, labels and owner.

A stored Pod is 30 kB as pydantic makes it, of which less than a tenth is its own. The JSON tells which parts are equal:
what is spelled the same two levels down (`spec.containers`, `metadata.labels`) is the same value. So reading an object
costs less where its parts are known already, since only the rest is checked.

Objects are frozen; a part that is shared is as immutable as it was before.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from cloudlink.kube.errors import Invalid
from cloudlink.kube.meta import KubeObject, Model
from cloudlink.kube.parse import revive

V = TypeVar("V")

PARTS_KEPT = 8192  # known by their spelling, twice that at most
STRINGS_KEPT = 16384
LONGEST_STRING = 128  # longer ones are hardly ever the same

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_set_slot = object.__setattr__
# Which fields were given is asked of requests, never of what is stored; a set for each part is most of its weight.
# pydantic copies it before it changes one.
_NO_FIELDS: set[str] = set()
_EMPTY: dict[str, Any] = {}


class _Young(Generic[V]):
    """A table that forgets what wasn't asked for in a while: two generations, each of a bounded size."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._new: dict[Any, V] = {}
        self._old: dict[Any, V] = {}

    def get(self, key: Any) -> V | None:
        found = self._new.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: Any, value: V) -> None:
        if len(self._new) >= self._most:
            self._old, self._new = self._new, {}
        self._new[key] = value


class _Part(NamedTuple):
    """One value two levels down: where it is, as documents name it, and how it is spelled.

    :ivar known: the value that an equal spelling has become before; None = not seen.
    """

    top: str
    name: str
    spelling: tuple[bytes, bytes, str, str, bytes]
    known: Any


class Pool:
    """What is shared among the objects of one store."""

    def __init__(self) -> None:
        self._parts: _Young[Any] = _Young(PARTS_KEPT)
        self._strings: _Young[str] = _Young(STRINGS_KEPT)
        self._blank: dict[type[Model], Model] = {}  # parts that say nothing, one of each class

    def read(self, raw: bytes) -> KubeObject:
        """An object out of the JSON that the store has of it. :raises Invalid, msgspec.DecodeError:"""
        document, parts = self._take_apart(raw)
        if not any(p.known is not None for p in parts):
            obj = revive(msgspec.json.decode(raw))
        else:
            try:
                obj = revive(document)
            except Invalid:  # a kind of a user's own may have changed its form meanwhile
                obj = revive(msgspec.json.decode(raw))
                parts = [p._replace(known=None) for p in parts]
        self._put_together(obj, parts)
        return obj

    def adopt(self, obj: KubeObject, raw: bytes, before: KubeObject | None = None) -> None:
        """Let an object that was made elsewhere share what it can. It stays equal to what it was.

        :param before: what it was made from: parts that are still the same need no second look.
        """
        if type(before) is type(obj) and before is not None:
            self._renew(obj, raw, before)
        else:
            self._put_together(obj, self._take_apart(raw)[1])

    def _renew(self, obj: KubeObject, raw: bytes, before: KubeObject) -> None:
        """Most writes change a status alone, and of that a part or two."""
        old, fresh = before.__dict__, dict[str, set[str]]()
        for attribute, value in obj.__dict__.items():
            theirs = old.get(attribute)
            if value is theirs or not isinstance(value, Model):
                continue
            if not isinstance(theirs, Model) or type(value) is not type(theirs):
                self._put_together(obj, self._take_apart(raw)[1])
                return
            if changed := _changed(value, theirs.__dict__):
                fresh[attribute] = changed
            _set_slot(value, "__pydantic_fields_set__", _NO_FIELDS)
        names, top = _names(type(obj)), _fields(raw) if fresh else {}
        for alias, spelled in top.items():
            attribute = names.get(alias, alias)
            if attribute in fresh:
                place = (bytes(top["apiVersion"]), bytes(top["kind"]), alias)
                self._renew_part(obj.__dict__[attribute], fresh[attribute], place, bytes(spelled))
        _set_slot(obj, "__pydantic_fields_set__", _NO_FIELDS)

    def _renew_part(self, holder: Model, changed: set[str], place: tuple[bytes, bytes, str], raw: bytes) -> None:
        names, values = _names(type(holder)), holder.__dict__
        spellings = {names.get(alias, alias): (alias, bytes(spelled)) for alias, spelled in _fields(raw).items()}
        for name in changed:
            alias, spelled = spellings.get(name, ("", b""))
            if spelled[:1] not in (b"{", b"["):
                values[name] = self._slim(values[name])
                continue
            key = (*place, alias, spelled)
            known = self._parts.get(key)
            if known is None:
                known = self._slim(values[name])
                self._parts.put(key, known)
            values[name] = known

    def _take_apart(self, raw: bytes) -> tuple[dict[str, Any], list[_Part]]:
        """The document with known parts in place of their spelling, and what its parts are."""
        top = _fields(raw)
        version, kind = bytes(top.get("apiVersion", b"")), bytes(top.get("kind", b""))
        document: dict[str, Any] = {}
        parts: list[_Part] = []
        for name, value in top.items():
            if bytes(memoryview(value)[:1]) != b"{":
                document[name] = msgspec.json.decode(value)
                continue
            inside: dict[str, Any] = {}
            for field, content in _fields(value).items():
                spelled = bytes(content)
                if spelled[:1] not in (b"{", b"["):
                    inside[field] = msgspec.json.decode(spelled)
                    continue
                key = (version, kind, name, field, spelled)
                known = self._parts.get(key)
                inside[field] = known if known is not None else msgspec.json.decode(spelled)
                parts.append(_Part(name, field, key, known))
            document[name] = inside
        return document, parts

    def _put_together(self, obj: KubeObject, parts: list[_Part]) -> None:
        attributes = obj.__dict__
        names = _names(type(obj))
        holders = {n: attributes.get(names.get(n, n)) for n in {p.top for p in parts}}
        done: set[tuple[str, str]] = set()
        for part in parts:
            holder = holders[part.top]
            if not isinstance(holder, Model):
                continue
            name = _names(type(holder)).get(part.name, part.name)
            value = holder.__dict__.get(name)
            if value is None:
                continue
            if part.known is not None:
                holder.__dict__[name] = part.known
            else:
                holder.__dict__[name] = value = self._slim(value)
                self._parts.put(part.spelling, value)
            done.add((part.top, name))
        for attribute, value in attributes.items():
            if isinstance(value, Model):
                self._slim_fields(value, skip={n for top, n in done if names.get(top, top) == attribute})
        _set_slot(obj, "__pydantic_fields_set__", _NO_FIELDS)

    def _slim(self, value: Any) -> Any:
        """The same value, lighter."""
        kind = type(value)
        if kind is str:
            return self._string(value)
        if kind is tuple:
            return tuple(map(self._slim, value)) if value else ()
        if kind is dict:
            if not value:
                return _EMPTY
            for key, inner in value.items():
                value[key] = self._slim(inner)
            return value
        if isinstance(value, Model):
            if not any(value.__dict__.values()):
                return self._blank.setdefault(kind, value)
            self._slim_fields(value)
        return value

    def _slim_fields(self, model: Model, skip: set[str] | frozenset[str] = frozenset()) -> None:
        values = model.__dict__
        for name, value in values.items():
            kind = type(value)
            if value is None or kind is bool or kind is int or name in skip:
                continue
            lighter = self._slim(value)
            if lighter is not value:
                values[name] = lighter
        _set_slot(model, "__pydantic_fields_set__", _NO_FIELDS)

    def _string(self, text: str) -> str:
        if len(text) > LONGEST_STRING:
            return text
        found = self._strings.get(text)
        if found is None:
            self._strings.put(text, text)
            return text
        return found


def _changed(holder: Model, old: Mapping[str, Any]) -> set[str]:
    """The fields that differ from what they were; those that are equal become the very same."""
    found: set[str] = set()
    values = holder.__dict__
    for name, value in values.items():
        theirs = old[name]
        if value is theirs:
            continue
        if value == theirs and type(value) is type(theirs):
            values[name] = theirs
        else:
            found.add(name)
    return found


@cache  # one entry per model class
def _names(model: type[Model]) -> Mapping[str, str]:
    """Name in documents -> attribute."""
    return {field.alias or name: name for name, field in model.model_fields.items()}
