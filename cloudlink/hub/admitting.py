"""What the answers of a round may make: each new object as `admission` lets it in, and what becomes of a controller
whose objects it doesn't."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cloudlink.hub import admission, learned, quotas
from cloudlink.hub.changes import Create, ObjectChange
from cloudlink.hub.controllers.refusals import with_refusals
from cloudlink.hub.decision import Note
from cloudlink.hub.errors import Forbidden
from cloudlink.hub.patience import Patience
from cloudlink.hub.rounds import Answer
from cloudlink.hub.store import Store, WatchEvent
from cloudlink.hub.workqueue import Task
from cloudlink.hub.world import World
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.quotas import LimitRange, ResourceQuota
from cloudlink.kube.scheduling import PriorityClass

QUOTAS = Task("quotas", "", "", "")  # who writes what was used


class Admitting:
    """Remembers whom it refused something, until that may have changed. Bounded by the objects there are."""

    def __init__(self, world: World, store: Store, patience: Patience) -> None:
        self._world, self._store, self._patience = world, store, patience
        self._refused: dict[Task, str] = {}  # and why, last time

    def answers(self, answers: Sequence[Answer], now: float) -> list[Answer]:
        """The answers without what is refused, and one more with what is used of quotas then."""
        room = admission.Room(self._store, now, self._patience)
        let_in = [self._let_in(answer, room, now) for answer in answers]
        charged = tuple(room.ledger.changes())
        return [*let_in, Answer(QUOTAS, charged)] if charged else let_in

    def notice(self, event: WatchEvent) -> Iterator[Task]:
        """Who has to look because of it: quotas whose use has changed, and those that were refused something."""
        obj = event.object
        yield from self._of_quotas(event)
        if isinstance(obj, ResourceQuota | LimitRange | PriorityClass):
            namespace = obj.metadata.namespace
            yield from (t for t in self._refused if not namespace or t.namespace == namespace)
        if event.type == "DELETED":
            self._refused.pop(Task(obj.key, obj.key, obj.metadata.namespace, obj.metadata.name), None)

    def _of_quotas(self, event: WatchEvent) -> Iterator[Task]:
        obj = event.object
        there = self._world.all(ResourceQuota, obj.metadata.namespace) if obj.metadata.namespace else []
        resource = self._store.catalogue.by_key(obj.key)
        if not there or resource is None or not _counts_anew(event, resource.plural, resource.group):
            return
        yield from (Task(q.key, q.key, q.metadata.namespace, q.metadata.name) for q in there)

    def _let_in(self, answer: Answer, room: admission.Room, now: float) -> Answer:
        kept: list[ObjectChange] = []
        missing: list[KubeObject] = []
        why: dict[str, None] = {}
        pods: list[Pod] = []
        for change in answer.changes:
            if not isinstance(change, Create):
                kept.append(change)
                continue
            try:
                new = room.let_in(change.object)
                kept.append(Create(new))
                pods += [new] if isinstance(new, Pod) else []
            except Forbidden as e:
                missing.append(change.object)
                why[_sentence(room, change.object, e)] = None
        told = learned.notes(pods, f"{answer.task.kind.lower()}-controller")
        answer = replace(answer, notes=(*answer.notes, *told))
        if not missing:
            self._refused.pop(answer.task, None)
            return replace(answer, changes=tuple(kept))
        return self._refuse(answer, kept, missing, list(why), now)

    def _refuse(
        self, answer: Answer, kept: Sequence[ObjectChange], missing: Sequence[KubeObject], why: list[str], now: float
    ) -> Answer:
        """Told once for each reason; the status says it for as long as it is so."""
        task = answer.task
        names = [obj.metadata.name for obj in missing]
        notes = [n for n in answer.notes if not any(name in n.message for name in names)]
        owner = self._store.get(task.kind, task.namespace or None, task.name)
        if owner is None:
            return replace(answer, changes=tuple(kept), notes=tuple(notes))
        if self._refused.get(task) != why[0]:
            self._refused[task] = why[0]
            notes += [Note(owner, "Warning", "FailedCreate", text, f"{task.kind.lower()}-controller") for text in why]
        pods = [obj for obj in missing if isinstance(obj, Pod)]
        return replace(answer, changes=with_refusals(owner, kept, pods, why[0], now), notes=tuple(notes))


def _sentence(room: admission.Room, obj: KubeObject, why: Forbidden) -> str:
    """As Kubernetes' controllers say it; without the made-up name, so that each reason is one."""
    resource = room.catalogue.by_key(obj.key)
    return f"Error creating: {resource.plural if resource else obj.kind} is forbidden: {why}"


def _counts_anew(event: WatchEvent, plural: str, group: str) -> bool:
    """Whether an object counts otherwise than before; most changes are of statuses. (Time matters to neither side.)"""
    new, old = event.object, event.before
    if event.type == "DELETED" or old is None or isinstance(new, ResourceQuota):
        return True
    if bool(new.metadata.deletion_timestamp) != bool(old.metadata.deletion_timestamp):
        return True
    return quotas.usage(new, plural, group, 0.0) != quotas.usage(old, plural, group, 0.0)
