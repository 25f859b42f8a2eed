"""Requests out of what nodes have measured, for pods that leave theirs to it (kube/learned.py).

Nodes tell of each container how much memory it stays below 95 % of the time. The hub keeps the largest of these for
each workload and container, as a record that outlives it; it is written when it has changed by more than a little, not
with each status. New pods of the workload ask for that and a margin, within their bound. Pods that are there and
templates stay as they are: nothing is restarted because of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from cloudlink.hub.changes import Change, DeleteRecord, PutRecord
from cloudlink.hub.decision import Note
from cloudlink.hub.objects import is_active
from cloudlink.hub.roots import root_of
from cloudlink.hub.store import Store
from cloudlink.hub.world import World
from cloudlink.kube.container import Container
from cloudlink.kube.core import Pod
from cloudlink.kube.learned import GIVEN, Wish, declared_memory, wish_of
from cloudlink.kube.quantity import format_bytes
from edged import model

BUCKET = "learned"
MARGIN = 1.2  # of the p95: its own steps are 12 %, and one pod in twenty moments uses more
STEP = 1 << 20  # bytes that requests are rounded up to
RAISED, LOWERED = 1.06, 0.75  # less of a change than this isn't worth a write
MOST = 4096  # workloads; about 100 bytes each


class Known(msgspec.Struct, frozen=True):
    """A record. :ivar p95: container -> bytes."""

    p95: dict[str, int] = {}


def known_of(key: str, store: Store) -> Known:
    raw = store.get_record(BUCKET, key)
    try:
        return msgspec.msgpack.decode(raw, type=Known) if raw else Known()
    except msgspec.MsgspecError:
        return Known()  # it will be learned again


def workload_of(pod: Pod, store: Store) -> str:
    root = root_of(pod, store)
    return f"{root.key}/{root.metadata.namespace}/{root.metadata.name}"


# ---------------------------------------------------------------- hearing


class Lessons:
    """What nodes said of pods that want to learn, since this hub began to listen. Bounded by those pods."""

    def __init__(self, store: Store, world: World) -> None:
        self._store, self._world = store, world
        self._heard: dict[str, dict[str, dict[str, int]]] = {}  # workload -> uid of a pod -> container -> bytes
        self._fresh: set[str] = set()

    def hear(self, pod: Pod, report: model.PodStatus) -> None:
        if wish_of(pod.metadata.annotations) is None:
            return
        told = {c.name: c.working_set_p95 for c in report.containers if c.working_set_p95}
        workload = workload_of(pod, self._store)
        pods = self._heard.setdefault(workload, {})
        if told and pods.get(pod.metadata.uid) != told:
            pods[pod.metadata.uid] = told
            self._fresh.add(workload)

    def changes(self) -> list[Change]:
        """What to write down now; mostly nothing."""
        changes: list[Change] = []
        fresh, self._fresh = sorted(self._fresh), set()
        for workload in fresh:
            before = known_of(workload, self._store)
            after = self._learn(workload, before)
            if after != before:
                self._fresh.add(workload)  # looked at again: the commit may fail
                changes += self._make_room(workload)
                changes.append(PutRecord(BUCKET, workload, msgspec.msgpack.encode(after)))
        return changes

    def _learn(self, workload: str, before: Known) -> Known:
        """More is believed at once; less only if all of its pods have been heard."""
        namespace = workload.split("/")[1]
        there = [
            p
            for p in self._world.all(Pod, namespace)
            if p.spec.node_name and is_active(p) and workload_of(p, self._store) == workload
        ]
        heard = self._heard.get(workload, {})
        self._heard[workload] = told = {p.metadata.uid: heard[p.metadata.uid] for p in there if p.metadata.uid in heard}
        p95 = dict(before.p95)
        for container in {name for of_pod in told.values() for name in of_pod}:
            most, old = max(of_pod.get(container, 0) for of_pod in told.values()), p95.get(container, 0)
            if most > old * RAISED or (most < old * LOWERED and len(told) == len(there)):
                p95[container] = most
        return Known(p95)

    def _make_room(self, workload: str) -> Iterator[Change]:
        """Those that are gone are forgotten, once there are many."""
        kept = self._store.records(BUCKET)
        if workload in kept or len(kept) < MOST:
            return
        for key in kept:
            kind, namespace, name = key.split("/", 2)
            if self._store.get(kind, namespace or None, name) is None:
                self._heard.pop(key, None)
                yield DeleteRecord(BUCKET, key)


# ---------------------------------------------------------------- giving


class Requests:
    """For the pods of one commit: those of one template go on sharing their description."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._given: dict[tuple[str, int], tuple[Pod, Pod]] = {}  # beside the description that the id is of

    def of(self, pod: Pod) -> Pod:
        """The pod with what was learned in place of what it declares; the same pod where nothing was."""
        wish = wish_of(pod.metadata.annotations)
        if wish is None:
            return pod
        workload = workload_of(pod, self._store)
        key = (workload, id(pod.spec))
        if key not in self._given:
            self._given[key] = (pod, _with_requests(pod, wish, known_of(workload, self._store)))
        first, given = self._given[key]
        if given is first:
            return pod
        said = {GIVEN: given.metadata.annotations[GIVEN]}
        metadata = pod.metadata.model_copy(update={"annotations": pod.metadata.annotations | said})
        return pod.model_copy(update={"spec": given.spec, "metadata": metadata})


def _with_requests(pod: Pod, wish: Wish, known: Known) -> Pod:
    said: list[str] = []

    def filled(container: Container) -> Container:
        p95 = known.p95.get(container.name, 0)
        if not p95:
            return container
        amount = wish.clamped(-(-int(p95 * MARGIN) // STEP) * STEP, container)
        declared = declared_memory(container)
        if amount == declared:
            return container
        before = format_bytes(declared) if declared else "nothing"
        said.append(f"{container.name}={format_bytes(amount)} (uses {format_bytes(p95)}, declares {before})")
        requests = container.resources.requests | {"memory": format_bytes(amount)}
        return container.model_copy(update={"resources": container.resources.model_copy(update={"requests": requests})})

    spec = pod.spec.model_copy(update={"containers": tuple(map(filled, pod.spec.containers))})
    if not said:
        return pod
    annotations = pod.metadata.annotations | {GIVEN: ", ".join(said)}
    metadata = pod.metadata.model_copy(update={"annotations": annotations})
    return pod.model_copy(update={"spec": spec, "metadata": metadata})


def notes(pods: Iterable[Pod], component: str) -> Iterator[Note]:
    for pod in pods:
        if said := pod.metadata.annotations.get(GIVEN):
            yield Note(pod, "Normal", "RequestsLearned", f"Memory requests as learned: {said}", component)
