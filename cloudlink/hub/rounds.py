"""What the answers of one round come to, taken together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloudlink.hub.changes import Create, Delete, MarkDeleted, ObjectChange, Update, UpdateStatus
from cloudlink.hub.decision import Note
from cloudlink.hub.workqueue import Task
from cloudlink.kube.core import Pod


@dataclass(frozen=True, slots=True)
class Answer:
    """What one task wants done."""

    task: Task
    changes: tuple[ObjectChange, ...] = ()
    notes: tuple[Note, ...] = ()


def placed_change(change: ObjectChange, placed: dict[tuple[str, str], Pod]) -> ObjectChange:
    if not isinstance(change, Create):
        return change
    meta = change.object.metadata
    there = placed.get((meta.namespace, meta.name)) if isinstance(change.object, Pod) else None
    return Create(there) if there is not None else change


def as_changes(before: Pod, placed: dict[tuple[str, str], Pod]) -> list[ObjectChange]:
    after = placed.get((before.metadata.namespace, before.metadata.name), before)
    changes: list[ObjectChange] = []
    if after.spec.node_name != before.spec.node_name:
        changes.append(Update(after, expect=before.metadata.resource_version))
    if after.status != before.status:
        changes.append(UpdateStatus(after))
    return changes


def without_repeats(answers: Sequence[Answer]) -> list[Answer]:
    """Two may want the same object gone; the store would refuse the second."""
    gone: set[tuple[str, str, str]] = set()
    kept: list[Answer] = []
    for a in answers:
        changes: list[ObjectChange] = []
        for change in a.changes:
            if isinstance(change, Delete | MarkDeleted):
                key = (change.kind, change.namespace or "", change.name)
                if key in gone:
                    continue
                gone.add(key)
            changes.append(change)
        kept.append(replace(a, changes=tuple(changes)))
    deleted = {(c.kind, c.namespace or "", c.name) for a in kept for c in a.changes if isinstance(c, Delete)}
    return [replace(a, changes=tuple(c for c in a.changes if not _is_about(c, deleted))) for a in kept]


def _is_about(change: ObjectChange, deleted: set[tuple[str, str, str]]) -> bool:
    """A change to something that goes for good in the same commit."""
    if not isinstance(change, Update | UpdateStatus):
        return isinstance(change, MarkDeleted) and (change.kind, change.namespace or "", change.name) in deleted
    meta = change.object.metadata
    return (change.object.key, meta.namespace, meta.name) in deleted
