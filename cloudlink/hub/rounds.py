"""What the answers of one round come to, taken together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloudlink.hub.changes import Create, Delete, MarkDeleted, ObjectChange, Update, UpdateStatus
from cloudlink.hub.decision import Decision, Note
from cloudlink.hub.objects import is_finished
from cloudlink.hub.watch import WatchEvent
from cloudlink.hub.workqueue import Task
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import KubeObject

MANY = 100  # pods, from which on counting them again for each piece of news is worth avoiding
PAUSE_EACH = 1e-4  # seconds for each of them: twice what counting it takes


@dataclass(frozen=True, slots=True)
class Answer:
    """What one task wants done."""

    task: Task
    changes: tuple[ObjectChange, ...] = ()
    notes: tuple[Note, ...] = ()


def pause_after(obj: KubeObject | None, decision: Decision) -> float:
    """Seconds for which whoever controls many pods need not look again, if there was nothing to do but count them."""
    replicas = getattr(getattr(obj, "spec", None), "replicas", None)
    if not isinstance(replicas, int) or replicas < MANY or any(type(c) is not UpdateStatus for c in decision.changes):
        return 0.0
    return replicas * PAUSE_EACH


def is_news_of_a_pod(event: WatchEvent) -> bool:
    """Whether a pod's node has told something of it, and no more: by far the most of all changes. Nothing is decided
    about the pod itself then."""
    new, old = event.object, event.before
    if event.type != "MODIFIED" or not isinstance(new, Pod) or not isinstance(old, Pod):
        return False
    meta = old.metadata.model_copy(update={"resource_version": new.metadata.resource_version})
    return new.spec is old.spec and new.metadata == meta and is_finished(new) == is_finished(old)


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
