"""What a commit's changes do to the objects: a pure step from (objects, changes, now) to a list of writes.

Nothing here touches the database or a clock. Either every change is answered by a write, or a StoreError says
which one can't be done and nothing has happened.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, assert_never

from cloudlink.hub.changes import Create, Delete, MarkDeleted, ObjectChange, Update, UpdateStatus
from cloudlink.hub.errors import AlreadyExists, Conflict, NotFound, StoreError, Terminating
from cloudlink.hub.shelves import Key, Objects, key_of
from cloudlink.hub.watch import EventType
from cloudlink.kube.acceptance import accepted
from cloudlink.kube.batch import Job, with_generated_selector
from cloudlink.kube.catalogue import BUILT_IN, DEFINITIONS, Catalogue
from cloudlink.kube.custom import CustomObject
from cloudlink.kube.definitions import CLEANUP, CustomResourceDefinition
from cloudlink.kube.meta import KubeObject, ManagedFieldsEntry, ObjectMeta

Object = TypeVar("Object", bound=KubeObject)

EVENTS_KEPT = 1000
_FIRST_PHASE = {"Pod": "Pending", "Namespace": "Active"}  # as Kubernetes' own create strategies set it


def with_meta(obj: Object, **values: object) -> Object:
    """The same object with some of its metadata replaced (attribute names, not checked)."""
    return obj.model_copy(update={"metadata": obj.metadata.model_copy(update=values)})


def timestamp(seconds: float) -> str:
    """Unix seconds as Kubernetes writes metav1.Time: RFC 3339, UTC, whole seconds."""
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Write:
    """One object's step to a new revision. For DELETED, `object` is its last state."""

    type: EventType
    object: KubeObject
    before: KubeObject | None
    revision: int


class Draft:
    """The objects as they will be once a commit is done, and the writes that lead there."""

    def __init__(
        self,
        objects: Objects,
        revision: int,
        now: float,
        new_uid: Callable[[], str],
        catalogue: Catalogue = BUILT_IN,
    ) -> None:
        self._objects = objects
        self._catalogue = catalogue
        self._changed: dict[Key, KubeObject | None] = {}
        self._now = now
        self._new_uid = new_uid
        self.revision = revision
        self.writes: list[Write] = []

    # ------------------------------------------------------------ reading through

    def get(self, key: Key) -> KubeObject | None:
        return self._changed[key] if key in self._changed else self._objects.get(key)

    def _need(self, kind: str, namespace: str, name: str, uid: str | None, expect: str | None) -> KubeObject:
        """The object as the caller thinks it is, or a StoreError."""
        there = self.get((kind, namespace, name))
        if there is None:
            raise NotFound(kind, namespace, name)
        if uid and uid != there.metadata.uid:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {there.metadata.uid}"
            raise Conflict(kind, namespace, name, f"{why}: it was made anew")
        if expect and expect != there.metadata.resource_version:
            raise Conflict(
                kind,
                namespace,
                name,
                "the object has been modified; please apply your changes to the latest version and try again"
                f" (resourceVersion is {there.metadata.resource_version}, not {expect})",
            )
        return there

    # ------------------------------------------------------------ changes

    def apply(self, change: ObjectChange) -> KubeObject | None:
        """Do one change; what became of its object, or None for an Event that had nowhere to go."""
        match change:
            case Create(obj):
                return self._create(obj)
            case Update(obj, expect):
                return self._update(obj, expect)
            case UpdateStatus(obj, expect, managed):
                return self._update_status(obj, expect, managed)
            case Delete(kind, namespace, name, uid, expect):
                there = self._need(kind, namespace or "", name, uid, expect)
                held = there.metadata.finalizers or isinstance(there, CustomResourceDefinition)
                return self._mark(there, 0, None) if held else self._remove(there)
            case MarkDeleted(kind, namespace, name, grace, uid, expect, finalizers):
                return self._mark(self._need(kind, namespace or "", name, uid, expect), grace, finalizers)
            case _:
                assert_never(change)

    def _create(self, obj: KubeObject) -> KubeObject | None:
        kind, namespace, name = key_of(obj)
        resource = self._catalogue.by_key(kind)
        if resource is None or not name or resource.namespaced != bool(namespace):
            place = "a namespace" if resource and resource.namespaced else "no namespace"
            raise StoreError(f'{kind} "{name}" needs a name and {place}; it has {namespace!r}', kind, namespace, name)
        if namespace:
            home = self.get(("Namespace", "", namespace))
            if home is None and kind == "Event":
                return None
            if home is None:
                raise NotFound("Namespace", "", namespace)
            if home.metadata.deletion_timestamp and kind != "Event":
                raise Terminating(kind, namespace, name)
        if self.get((kind, namespace, name)) is not None:
            raise AlreadyExists(kind, namespace, name)
        made = with_meta(
            obj,
            uid=self._new_uid(),
            creation_timestamp=timestamp(self._now),
            generation=1 if resource.shape is not None or kind in _WITH_GENERATION else 0,
            deletion_timestamp="",
            deletion_grace_period_seconds=None,
        )
        if isinstance(made, Job):
            made = with_generated_selector(made)
        phase = _FIRST_PHASE.get(kind)
        status = getattr(made, "status", None)
        if phase and status is not None and not status.phase:
            made = made.model_copy(update={"status": status.model_copy(update={"phase": phase})})
        if kind == "Namespace" and not _holds_itself(made):
            spec = getattr(made, "spec")  # noqa: B009
            held = spec.model_copy(update={"finalizers": (*spec.finalizers, _HUBS_OWN)})
            made = made.model_copy(update={"spec": held})
        return self._write("ADDED", self._with_names(made), None)

    def _update(self, obj: KubeObject, expect: str | None) -> KubeObject:
        there = self._need(*key_of(obj), obj.metadata.uid, expect)
        respec = self._worked_off(obj) != self._worked_off(there)
        made = _own_metadata(obj, there.metadata)
        if hasattr(there, "status"):
            made = made.model_copy(update={"status": there.status})
        if respec and there.metadata.generation:
            made = with_meta(made, generation=there.metadata.generation + 1)
        if _only_waited_for_finalizers(there) and not made.metadata.finalizers:
            return self._remove(there)
        return self._write("MODIFIED", self._with_names(made), there)

    def _worked_off(self, obj: KubeObject) -> object:
        """What `generation` counts the changes of: the spec; of other people's kinds all that they don't report."""
        if not isinstance(obj, CustomObject):
            return getattr(obj, "spec", None)
        resource = self._catalogue.by_key(obj.key)
        if resource is None or resource.shape is None or not resource.shape.status:
            return obj.content
        return {k: v for k, v in obj.content.items() if k != "status"}

    def _update_status(
        self, obj: KubeObject, expect: str | None, managed: tuple[ManagedFieldsEntry, ...] | None
    ) -> KubeObject:
        there = self._need(*key_of(obj), obj.metadata.uid, expect)
        if isinstance(obj, CustomObject) and isinstance(there, CustomObject):
            content = {k: v for k, v in there.content.items() if k != "status"}
            content |= {k: v for k, v in obj.content.items() if k == "status"}
            made: KubeObject = there.model_copy(update={"content": content})
        elif hasattr(obj, "status"):
            made = there.model_copy(update={"status": obj.status})
        else:
            raise StoreError(f"{obj.kind} has no status", *key_of(obj))
        if managed is not None:
            made = with_meta(made, managed_fields=managed)
        return self._write("MODIFIED", made, there)

    def _mark(self, there: KubeObject, grace: int, finalizers: tuple[str, ...] | None) -> KubeObject:
        """registry.BeforeDelete and markAsDeleting: the first mark counts as a change of what is wanted."""
        meta = there.metadata
        grace, before = max(grace, 0), meta.deletion_grace_period_seconds
        made = there if finalizers is None else with_meta(there, finalizers=finalizers)
        if not meta.deletion_timestamp or before is None or grace < before:
            made = with_meta(made, deletion_timestamp=timestamp(self._now + grace), deletion_grace_period_seconds=grace)
        if not meta.deletion_timestamp and meta.generation:
            made = with_meta(made, generation=meta.generation + 1)
        if isinstance(made, CustomResourceDefinition):  # it goes once its objects have: until then this holds it
            made = self._with_names(
                with_meta(made, finalizers=tuple(dict.fromkeys((*made.metadata.finalizers, CLEANUP))))
            )
        if there.key == "Namespace":
            status = getattr(there, "status").model_copy(update={"phase": "Terminating"})  # noqa: B009
            made = made.model_copy(update={"status": status})
        return self._write("MODIFIED", made, there)

    def _with_names(self, obj: Object) -> Object:
        """A definition with what is decided of its names; everything else as it is."""
        if not isinstance(obj, CustomResourceDefinition):
            return obj
        others = [d for d in self._definitions() if d.metadata.name != obj.metadata.name]
        return accepted(obj, others, timestamp(self._now))  # type: ignore[return-value]  # it is of that type

    def _definitions(self) -> list[CustomResourceDefinition]:
        there = {key_of(obj): obj for obj in self._objects.list(DEFINITIONS)}
        now = there | {key: obj for key, obj in self._changed.items() if key[0] == DEFINITIONS}
        return [obj for obj in now.values() if isinstance(obj, CustomResourceDefinition)]

    def _remove(self, there: KubeObject) -> KubeObject:
        return self._write("DELETED", there, there)

    def _write(self, kind: EventType, made: KubeObject, before: KubeObject | None) -> KubeObject:
        """Give it the next revision; an update that changes nothing is no write at all."""
        if kind == "MODIFIED" and before is not None and made == before:
            return before
        self.revision += 1
        made = with_meta(made, resource_version=str(self.revision))
        self._changed[key_of(made)] = None if kind == "DELETED" else made
        self.writes.append(Write(kind, made, before, self.revision))
        return made

    # ------------------------------------------------------------ what follows by itself

    def settle(self, events_kept: int) -> None:
        """Remove terminating namespaces that are empty now, and the oldest Events beyond the bound."""
        touched = {w.object.metadata.namespace or w.object.metadata.name for w in self.writes}
        for name in sorted(touched):
            namespace = self.get(("Namespace", "", name))
            if namespace is None or not namespace.metadata.deletion_timestamp:
                continue
            keys = {key_of(obj) for obj in self._objects.within(name)} | {k for k in self._changed if k[1] == name}
            left = [obj for key in sorted(keys) if (obj := self.get(key)) is not None]
            held = (*namespace.metadata.finalizers, *_others_hold(namespace))
            if not held and all(obj.key == "Event" for obj in left):
                for obj in [*left, namespace]:
                    self._remove(obj)
        if any(w.object.key == DEFINITIONS and w.type == "DELETED" for w in self.writes):
            for definition in self._definitions():  # the names may be free now that these waited for
                self._write("MODIFIED", self._with_names(definition), definition)
        self._forget_events(events_kept)

    def _forget_events(self, kept: int) -> None:
        grown = sum((w.type == "ADDED") - (w.type == "DELETED") for w in self.writes if w.object.key == "Event")
        surplus = self._objects.count("Event") + grown - kept
        if grown <= 0 or surplus <= 0:
            return
        events = {key_of(obj): obj for obj in self._objects.list("Event")}
        events |= {key: obj for key, obj in self._changed.items() if key[0] == "Event" and obj is not None}
        alive = [obj for key in events if (obj := self.get(key)) is not None]
        alive.sort(key=lambda obj: int(obj.metadata.resource_version))
        for obj in alive[:surplus]:
            self._remove(obj)


# Kinds whose spec is worked off by somebody; `generation` tells them whether they have seen it.
_WITH_GENERATION = frozenset(
    {"Deployment", "ReplicaSet", "Pod", "DaemonSet", "StatefulSet", "ReplicationController", "Job", "CronJob"}
    | {"PodDisruptionBudget", "NetworkPolicy", "Ingress", "IngressClass", "EndpointSlice"}
)


_HUBS_OWN = "kubernetes"  # a namespace's spec.finalizers: it is emptied before it goes


def _holds_itself(namespace: KubeObject) -> bool:
    return _HUBS_OWN in getattr(namespace, "spec").finalizers  # noqa: B009


def _others_hold(namespace: KubeObject) -> tuple[str, ...]:
    """The finalizers in its spec (namespaces/{name}/finalize) but Kubernetes' own, which means: once it is empty."""
    spec = getattr(namespace, "spec", None)
    return tuple(f for f in getattr(spec, "finalizers", ()) if f != _HUBS_OWN)


def _only_waited_for_finalizers(obj: KubeObject) -> bool:
    """Marked, and held by finalizers alone: not by a node that still runs it, nor by what a namespace contains."""
    meta = obj.metadata
    elsewhere = obj.key == "Namespace" or bool(meta.deletion_grace_period_seconds)
    return bool(meta.deletion_timestamp and meta.finalizers) and not elsewhere


def _own_metadata(obj: Object, there: ObjectMeta) -> Object:
    """What belongs to the store stays as it is, whatever the caller sent."""
    return with_meta(
        obj,
        uid=there.uid,
        creation_timestamp=there.creation_timestamp,
        resource_version=there.resource_version,
        generation=there.generation,
        deletion_timestamp=there.deletion_timestamp,
        deletion_grace_period_seconds=there.deletion_grace_period_seconds,
        generate_name=there.generate_name,
    )


def draft(
    objects: Objects,
    changes: Sequence[ObjectChange],
    revision: int,
    now: float,
    new_uid: Callable[[], str],
    events_kept: int = EVENTS_KEPT,
    catalogue: Catalogue = BUILT_IN,
) -> tuple[Draft, list[KubeObject | None]]:
    """Work out a whole commit: the draft with its writes, and what became of each change's object."""
    work = Draft(objects, revision, now, new_uid, catalogue)
    results = [work.apply(change) for change in changes]
    work.settle(events_kept)
    return work, results
