"""Which fields two states of a document differ in (TypedValue.Compare of structured-merge-diff). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudlink.hub.api.fields import MISSING, Fields, Path, by_step, same
from cloudlink.hub.api.shapes import Shape


@dataclass(frozen=True, slots=True)
class Difference:
    """:ivar added: fields of the new state only, with the mappings and items that contain them.
    :ivar modified: leaves of both with different values.
    :ivar removed: fields of the old state only.
    """

    added: Fields
    modified: Fields
    removed: Fields

    @property
    def changed(self) -> Fields:
        """What whoever made the new state has a hand in."""
        return self.added | self.modified


def difference(old: Any, new: Any, shape: Shape) -> Difference:
    """FieldsError where an item of a list has no key."""
    walk = _Walk()
    walk.compare(old, new, shape, ())
    for found in (walk.added, walk.modified, walk.removed):
        found.discard(())
    return Difference(frozenset(walk.added), frozenset(walk.modified), frozenset(walk.removed))


class _Walk:
    def __init__(self) -> None:
        self.added: set[Path] = set()
        self.modified: set[Path] = set()
        self.removed: set[Path] = set()

    def compare(self, old: Any, new: Any, shape: Shape, path: Path) -> None:
        if _both(old, new, Mapping) and not shape.atomic:
            self._mappings(old, new, shape, path)
        elif _both(old, new, list) and shape.keys is not None:
            self._lists(old, new, shape, path)
        elif old is not MISSING and new is not MISSING and not same(old, new):
            self.modified.add(path)
        if old is MISSING:
            self.added.add(path)
        elif new is MISSING:
            self.removed.add(path)

    def _mappings(self, old: Any, new: Any, shape: Shape, path: Path) -> None:
        before: Mapping[str, Any] = {} if old is MISSING else old
        after: Mapping[str, Any] = {} if new is MISSING else new
        for name in before.keys() | after.keys():
            inner = shape.child(name)
            left, right = before.get(name, MISSING), after.get(name, MISSING)
            if left is right:
                continue
            if inner.always and old is not MISSING and new is not MISSING:
                left, right = _empty(left, right), _empty(right, left)
            self.compare(left, right, inner, (*path, f"f:{name}"))

    def _lists(self, old: Any, new: Any, shape: Shape, path: Path) -> None:
        before = {} if old is MISSING else by_step(old, shape, path)
        after = {} if new is MISSING else by_step(new, shape, path)
        for step in before.keys() | after.keys():
            left, right = before.get(step, []), after.get(step, [])
            there = (*path, step)
            if len(left) <= 1 and len(right) <= 1:
                self.compare(left[0] if left else MISSING, right[0] if right else MISSING, shape.item, there)
            elif not same(left, right):  # several under one key are owned as one
                self._several(left, right, shape, there)

    def _several(self, left: list[Any], right: list[Any], shape: Shape, path: Path) -> None:
        if len(left) > 1 and len(right) > 1:
            self.modified.add(path)
        elif len(left) > 1:
            if right:
                self.compare(MISSING, right[0], shape.item, path)
            self.removed.add(path)
        else:
            if left:
                self.compare(left[0], MISSING, shape.item, path)
            self.added.add(path)


def _both(old: Any, new: Any, form: type) -> bool:
    """Whether the sides that are there have this form."""
    return all(side is MISSING or isinstance(side, form) for side in (old, new))


def _empty(side: Any, other: Any) -> Any:
    """What is always there is empty where it seems to be missing."""
    return type(other)() if side is MISSING and isinstance(other, dict | list) else side
