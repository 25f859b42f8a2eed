"""What a play came to, told: what runs where, what waits and why, who had to go. See foresight.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cloudlink.hub.controllers.history import REVISION_LABEL
from cloudlink.hub.objects import HASH_LABEL, controller_of, find_condition, is_active
from cloudlink.hub.roots import root_of
from cloudlink.hub.schedule import fullness
from cloudlink.hub.schedule.binding import SCHEDULED
from cloudlink.hub.schedule.fleet import Fleet, fleet_with, tenant_of
from cloudlink.hub.schedule.storage import places
from cloudlink.hub.shelves import Key, key_of
from cloudlink.hub.store import Store
from cloudlink.hub.watch import WatchEvent
from cloudlink.kube.apps import DaemonSet, Deployment, ReplicaSet, StatefulSet
from cloudlink.kube.batch import CronJob, Job
from cloudlink.kube.core import Event, Namespace, Node, PersistentVolumeClaim, Pod
from cloudlink.kube.fits import FitStatus, FitVictim, FitWorkload
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.replication import ReplicationController

MAKERS: frozenset[type[KubeObject]] = frozenset(
    {Pod, Deployment, ReplicaSet, ReplicationController, DaemonSet, StatefulSet, Job, CronJob}
)


class Outcome:
    """What has happened so far in a store that is being tried out.

    :ivar asked: objects of the manifest that have pods, as they were applied.
    :ivar made: pods by uid that weren't there before, as they are; those that ended again are not in it.
    :ivar ended: pods by uid that were there before and are gone, as they were last.
    :ivar by: node -> for whom its victims had to go.
    :ivar refused: what wouldn't be taken at all.
    :ivar roots: what people wrote that any pods were made or ended for.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.before = _fleet(store)
        self.asked: list[KubeObject] = []
        self.made: dict[str, Pod] = {}
        self.ended: dict[str, Pod] = {}
        self.by: dict[str, Pod] = {}
        self.refused: list[FitWorkload] = []
        self.roots: dict[Key, KubeObject] = {}
        self._root_of: dict[str, Key] = {}
        self._changed: set[tuple[str, str]] = set()
        self._there = frozenset(p.metadata.uid for p in _pods(store))

    def hear(self, news: Iterable[WatchEvent], newest: dict[str, Pod]) -> None:
        """Take in what has happened to pods. :param newest: gets those that have changed, as they are, by uid."""
        for event in news:
            pod = event.object
            if not isinstance(pod, Pod):
                continue
            uid, gone = pod.metadata.uid, event.type == "DELETED"
            self.root_of(pod)  # before its owners may be forgotten
            self._changed.add((pod.metadata.namespace, pod.metadata.name))
            if uid in self._there:
                if gone:
                    self.ended[uid] = pod
            elif gone:
                self.made.pop(uid, None)
            else:
                self.made[uid] = pod
            if pod.status.nominated_node_name:
                self.by[pod.status.nominated_node_name] = pod
            if gone:
                newest.pop(uid, None)
            else:
                newest[uid] = pod

    def after(self) -> Fleet:
        """The nodes with what their pods take now."""
        there = {n.metadata.name: n for n in self.store.list("Node") if isinstance(n, Node)}
        if any(there.get(n.metadata.name) is not n for n in self.before.map.nodes) or len(there) != len(self.before):
            return _fleet(self.store)  # the manifest has nodes in it
        fleet = self.before.copy()
        for key in self._changed:
            if (old := fleet.tenants.get(key)) is not None:
                fleet.evict(old)
            pod = self.store.get("Pod", *key)
            tenant = tenant_of(pod, {}) if isinstance(pod, Pod) else None
            if tenant is not None:
                fleet.house(tenant)
        return fleet

    def current(self) -> list[KubeObject]:
        """The objects of the manifest as they are now."""
        found = (self.store.get(o.key, o.metadata.namespace or None, o.metadata.name) for o in self.asked)
        return [o for o in found if o is not None]

    def waiting(self) -> bool:
        return any(not p.spec.node_name and is_active(p) for p in self.made.values())

    def root_of(self, pod: Pod) -> Key:
        key = self._root_of.get(pod.metadata.uid)
        if key is None:
            root = root_of(pod, self.store)
            key = self._root_of[pod.metadata.uid] = key_of(root)
            self.roots[key] = root
        return key


def told(outcome: Outcome) -> FitStatus:
    after = outcome.after()
    asked = {key_of(o): o for o in outcome.current()}
    changed = {outcome.root_of(p) for p in (*outcome.made.values(), *outcome.ended.values())}
    touched = asked | {key: outcome.roots[key] for key in sorted(changed - asked.keys())}
    of: dict[Key, list[Pod]] = {key: [] for key in touched}
    for pod in (p for space in sorted({key[1] for key in touched}) for p in _pods(outcome.store, space)):
        if (key := outcome.root_of(pod)) in of:
            of[key].append(pod)
    ended: dict[Key, list[Pod]] = {}
    for pod in outcome.ended.values():
        ended.setdefault(outcome.root_of(pod), []).append(pod)
    workloads = outcome.refused + [
        _workload(o, of[key], ended.get(key, ()), key in asked, outcome) for key, o in touched.items()
    ]
    victims = sorted(
        (p for p in outcome.ended.values() if _was_preempted(p)), key=lambda p: (p.spec.node_name, p.metadata.name)
    )
    return FitStatus(
        fits=all(w.placed >= w.pods and not w.why for w in workloads if w.asked),
        workloads=tuple(w for w in workloads if w.asked or w.ended or w.nodes or w.waiting),
        preempted=tuple(_victim(p, outcome) for p in victims),
        nodes=fullness.rows(outcome.before, after),
        occupied=fullness.occupied(after),
        needed=fullness.needed(after),
    )


def packing(store: Store) -> FitStatus:
    """How the fleet is packed, and nothing else."""
    fleet = _fleet(store)
    nodes, occupied, needed = fullness.rows(fleet, fleet), fullness.occupied(fleet), fullness.needed(fleet)
    return FitStatus(nodes=nodes, occupied=occupied, needed=needed)


def _workload(obj: KubeObject, pods: Sequence[Pod], ended: Sequence[Pod], asked: bool, outcome: Outcome) -> FitWorkload:
    made = [p for p in pods if p.metadata.uid in outcome.made]
    active = [p for p in pods if is_active(p)]
    fresh = [p for p in active if p.metadata.uid in outcome.made and p.spec.node_name]
    waiting = [p for p in active if not p.spec.node_name]
    kept = [p for p in active if p.metadata.uid not in outcome.made and p.spec.node_name]
    stale = _stale(kept, made)
    why = _why(pods, waiting, outcome)
    wanted = wanted_of(obj, outcome.store)
    placed = min(len(fresh) + len(kept) - len(stale), wanted)
    return FitWorkload(
        kind=obj.kind,
        namespace=obj.metadata.namespace,
        name=obj.metadata.name,
        asked=asked,
        pods=wanted,
        placed=placed,
        stay=len(kept) - len(stale),
        nodes=_by_node(fresh),
        ended=_by_node(ended),
        waiting=len(waiting),
        stuck=len(stale),
        why=why or (_held(obj, pods, outcome) if placed < wanted else ""),
    )


def _by_node(pods: Iterable[Pod]) -> dict[str, int]:
    return dict(sorted(Counter(p.spec.node_name for p in pods if p.spec.node_name).items()))


def _stale(kept: Sequence[Pod], made: Sequence[Pod]) -> list[Pod]:
    """Pods of another revision than the new ones."""
    new = {_revision(p) for p in made}
    return [p for p in kept if new and _revision(p) not in new]


def _revision(pod: Pod) -> str:
    labels = pod.metadata.labels
    return labels.get(HASH_LABEL) or labels.get(REVISION_LABEL, "")


def _why(pods: Sequence[Pod], waiting: Sequence[Pod], outcome: Outcome) -> str:
    for pod in waiting:
        condition = find_condition(pod.status.conditions, SCHEDULED)
        if condition is not None and condition.message:
            return condition.message
    refused = [p for p in pods if p.metadata.uid in outcome.made and p.status.reason == "OutOfResources"]
    return "; ".join(sorted({p.status.message for p in refused}))


def _held(obj: KubeObject, pods: Sequence[Pod], outcome: Outcome) -> str:
    """Why there are fewer pods than it wants, though none waits: what was said about it meanwhile."""
    events = [e for e in outcome.store.list("Event", obj.metadata.namespace) if isinstance(e, Event)]
    for event in events:
        reference = event.involved_object
        there = outcome.store.get(reference.kind, obj.metadata.namespace, reference.name)
        mine = there is not None and root_of(there, outcome.store).metadata.uid == obj.metadata.uid
        if event.type == "Warning" and mine:
            return event.message
    if not pods:
        resource = outcome.store.catalogue.by_kind(obj.api_version, obj.kind)
        return (resource.inert if resource is not None else "") or f"nothing makes pods of this {obj.kind}"
    return "its controller makes no more pods for now"


def wanted_of(obj: KubeObject, store: Store) -> int:
    match obj:
        case Deployment() | ReplicaSet() | ReplicationController() | StatefulSet():
            return obj.spec.replicas if obj.spec.replicas is not None else 1
        case DaemonSet():
            return obj.status.desired_number_scheduled
        case Job():
            return 0 if obj.spec.suspend else _parallel(obj)
        case CronJob():
            jobs = [j for j in store.list("Job", obj.metadata.namespace) if isinstance(j, Job)]
            mine = [j for j in jobs if (o := controller_of(j)) is not None and o.uid == obj.metadata.uid]
            return sum(_parallel(j) for j in mine if not j.status.completion_time)
    return 1


def _parallel(job: Job) -> int:
    at_once = job.spec.parallelism if job.spec.parallelism is not None else 1
    left = at_once if job.spec.completions is None else max(job.spec.completions - job.status.succeeded, 0)
    return min(at_once, left)


# ---------------------------------------------------------------- who has to go


def _was_preempted(pod: Pod) -> bool:
    target = find_condition(pod.status.conditions, "DisruptionTarget")
    return target is not None and target.reason == "PreemptionByScheduler"


def _victim(pod: Pod, outcome: Outcome) -> FitVictim:
    by = outcome.by.get(pod.spec.node_name)
    root = outcome.roots[outcome.root_of(by)] if by is not None else None
    return FitVictim(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        node=pod.spec.node_name,
        priority=pod.spec.priority or 0,
        by=f"{root.kind.lower()}/{root.metadata.name}" if root is not None else "",
    )


# ---------------------------------------------------------------- the store


def _pods(store: Store, namespace: str | None = None) -> list[Pod]:
    return [p for p in store.list("Pod", namespace) if isinstance(p, Pod)]


def _fleet(store: Store) -> Fleet:
    claims = [c for c in store.list("PersistentVolumeClaim") if isinstance(c, PersistentVolumeClaim)]
    nodes = [n for n in store.list("Node") if isinstance(n, Node)]
    spaces = {n.metadata.name: n.metadata.labels for n in store.list("Namespace") if isinstance(n, Namespace)}
    pods = _pods(store)
    return fleet_with(nodes, pods, places(claims, pods), spaces)
