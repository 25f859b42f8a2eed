"""Server-side apply without its owners' names: a document merged into another, and what is left once fields are taken
away (TypedValue.Merge and RemoveItems, Updater.Apply's pruning, of structured-merge-diff). Pure.

The originals are never changed; untouched parts are shared with the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cloudlink.hub.api.fields import MISSING, Fields, Path, by_step, fields_of, step_to, with_containers
from cloudlink.hub.api.shapes import Shape


def overlaid(live: Any, applied: Any, shape: Shape, path: Path = ()) -> Any:
    """`live` with everything that `applied` says. Lists with keys come in the order of `applied`, and items that only
    `live` has stay where they were among them. FieldsError where an item has no key."""
    if isinstance(live, Mapping) and isinstance(applied, Mapping) and not shape.atomic:
        merged = dict(live)
        for name, value in applied.items():
            merged[name] = overlaid(live.get(name, MISSING), value, shape.child(name), (*path, f"f:{name}"))
        return merged
    if isinstance(live, list) and isinstance(applied, list) and shape.keys is not None:
        return _lists(live, applied, shape, path)
    return applied


def _lists(live: list[Any], applied: list[Any], shape: Shape, path: Path) -> list[Any]:
    before = by_step(live, shape, path)
    mine = {step: items[0] for step, items in by_step(applied, shape, path).items()}
    merged = [
        overlaid(before[step][0] if len(before.get(step, ())) == 1 else MISSING, item, shape.item, (*path, step))
        for step, item in mine.items()
    ]
    shared = iter([step for step in mine if step in before])
    places = {step: place for place, step in enumerate(mine)}
    result: list[Any] = []
    due, done = next(shared, None), 0
    for item in live:
        step = step_to(item, shape, path)
        if step not in places:
            result.append(item)
        elif step == due:  # any other that is shared has its turn later
            result += merged[done : places[step] + 1]
            due, done = next(shared, None), places[step] + 1
    return result + merged[done:]


# ---------------------------------------------------------------- taking away


def without(document: Any, gone: Iterable[Path], shape: Shape) -> Any:
    """The document without these fields and all that is in them. A mapping or list that loses everything becomes null:
    it was somebody's, and is nobody's now."""
    tree: dict[str, Any] = {}
    for path in gone:
        here = tree
        for step in path[:-1]:
            here = here.setdefault(step, {})
            if here is _ALL:
                break
        else:
            here[path[-1]] = _ALL
    return _pruned(document, tree, shape, ())


_ALL: dict[str, Any] = {}  # told by identity: everything here


def _pruned(value: Any, tree: Mapping[str, Any], shape: Shape, path: Path) -> Any:
    if isinstance(value, Mapping) and not shape.atomic:
        left: dict[str, Any] = {}
        for name, inner in value.items():
            gone = tree.get(f"f:{name}")
            if gone is not _ALL:
                left[name] = inner if gone is None else _pruned(inner, gone, shape.child(name), (*path, f"f:{name}"))
        return left or None
    if isinstance(value, list) and shape.keys is not None:
        kept: list[Any] = []
        for item in value:
            step = step_to(item, shape, path)
            gone = tree.get(step)
            if gone is not _ALL:
                kept.append(item if gone is None else _pruned(item, gone, shape.item, (*path, step)))
        return kept or None
    return value


def pruned(merged: Any, last: Fields, owned: Fields, shape: Shape) -> Any:
    """What one manager applied before and doesn't now is taken away, unless somebody owns it (Updater.prune).

    :param last: what it applied last time.
    :param owned: what anybody owns, including what it applies now.
    """
    if not last:
        return merged
    gone = with_containers(last, shape)
    everything = with_containers(fields_of(merged, shape), shape)
    left = with_containers(fields_of(without(merged, gone, shape), shape), shape)
    kept = without(merged, everything - (left | with_containers(owned, shape)), shape)
    left = with_containers(fields_of(kept, shape), shape)  # what was below it and nobody's stays as well
    return without(merged, (everything - left) & gone, shape)
