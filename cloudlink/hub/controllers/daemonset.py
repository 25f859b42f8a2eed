"""DaemonSet -> Pods: one on each node that lets its template run, and one after the other when the template changes.

After Kubernetes' pkg/controller/daemon. A pod is tied to its node by a required affinity to the node's name; the
scheduler binds it, so that one that doesn't fit waits with a sentence, or sends others away by its priority. By their
tolerations daemon pods go to nodes that take no others (cordoned, under pressure).

Invariants: a node has one active pod of a DaemonSet at most, but for `maxSurge` nodes that have one of each of two
revisions; a node gets no new pod before the one that leaves is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from cloudlink.hub.changes import Create, ObjectChange, UpdateStatus
from cloudlink.hub.controllers import history, retries
from cloudlink.hub.controllers.history import REVISION_LABEL
from cloudlink.hub.controllers.replicaset import BURST, is_available, remove_pod, tell
from cloudlink.hub.controllers.rollout import percent_of
from cloudlink.hub.decision import NEVER, Decision, Note, Suffix
from cloudlink.hub.objects import (
    available_at,
    ended_at,
    generated_name,
    is_active,
    is_deleted,
    is_finished,
    is_ready,
    owned_by,
)
from cloudlink.kube.affinity import Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from cloudlink.kube.apps import ControllerRevision, DaemonSet, DaemonSetStatus
from cloudlink.kube.core import Node, Pod, PodSpec, Toleration
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.placement import CORDONED, NAME_FIELD, untolerated, wants

COMPONENT = "daemonset-controller"
_Effect = Literal["NoSchedule", "NoExecute"]
_TOLERATED: tuple[tuple[str, _Effect], ...] = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
_OF_HOST_NETWORK: tuple[str, _Effect] = ("node.kubernetes.io/network-unavailable", "NoSchedule")


@dataclass(frozen=True, slots=True)
class Berth:
    """One node, and the DaemonSet's pods there, oldest first.

    :ivar wanted: a pod should run there. :ivar stays: one that is there may stay.
    :ivar active: those of the pods that count; `new` and `old`: the oldest of them with the present template, and
        with another one.
    """

    node: str
    wanted: bool
    stays: bool
    pods: tuple[Pod, ...] = ()
    active: tuple[Pod, ...] = ()
    new: Pod | None = None
    old: Pod | None = None


@dataclass(slots=True)
class _Plan:
    """What comes of the berths, collected."""

    created: list[Pod]
    removed: list[Pod]
    notes: list[Note]
    wake_at: float = NEVER


def reconcile(
    ds: DaemonSet,
    nodes: Sequence[Node],
    pods: Sequence[Pod],
    revisions: Sequence[ControllerRevision],
    taken: Collection[str],
    now: float,
    suffix: Suffix,
) -> Decision:
    """Decide about one DaemonSet. `now` in seconds since 1970.

    :param pods: all that it controls. :param revisions: likewise; `taken`: the names of all of the namespace.
    """
    if is_deleted(ds):
        return Decision()
    past = history.remember(ds, revisions, taken)
    if past.collisions != ds.status.collision_count:
        status = ds.status.model_copy(update={"collision_count": past.collisions})
        return Decision((UpdateStatus(ds.model_copy(update={"status": status})),))
    label = history.label_of(past.update, ds)
    sites = _sites(ds, nodes)
    found = _berths(sites, pods, label)
    plan = _Plan([], [], [])
    touched = {b.node for b in found if _tend(ds, b, label, now, suffix, plan)}
    if ds.spec.update_strategy.type == "RollingUpdate":
        _roll(ds, found, touched, label, now, suffix, plan)
    plan.created, plan.removed = plan.created[:BURST], plan.removed[:BURST]
    gone = {p.metadata.name for p in plan.removed}
    labels = {p.metadata.labels.get(REVISION_LABEL) for p in pods}
    used = {r.metadata.name for r in past.known if history.label_of(r, ds) in labels}
    if plan.created or plan.removed:
        found = _berths(sites, [p for p in pods if p.metadata.name not in gone] + plan.created, label)
    status = _status(ds, found, now)
    changes: list[ObjectChange] = [*past.changes, *map(remove_pod, plan.removed), *map(Create, plan.created)]
    changes += history.forget(ds, past, used)
    if status != ds.status:
        changes.append(UpdateStatus(ds.model_copy(update={"status": status})))
    notes = (
        *plan.notes,
        *tell(ds, "SuccessfulDelete", "Deleted pod", plan.removed),
        *tell(ds, "SuccessfulCreate", "Created pod", plan.created),
    )
    waits = ds.spec.min_ready_seconds
    times = [t for b in found for p in b.pods if (t := available_at(p, waits)) > now] if waits else []
    return Decision(tuple(changes), notes, min(plan.wake_at, *times, NEVER))


# ---------------------------------------------------------------- where


def tolerations(spec: PodSpec) -> tuple[Toleration, ...]:
    """The template's, and those that every daemon pod has (AddOrUpdateDaemonPodTolerations)."""
    own = (*_TOLERATED, _OF_HOST_NETWORK) if spec.host_network else _TOLERATED
    added = (Toleration(key=key, operator="Exists", effect=effect) for key, effect in own)
    return (*spec.tolerations, *(t for t in added if t not in spec.tolerations))


def tied_to(affinity: Affinity | None, node: str) -> Affinity:
    """The template's affinity, with this node as the only one that will do (ReplaceDaemonSetPodNodeNameNodeAffinity);
    whether it meets what the template requires was asked before."""
    name = NodeSelectorRequirement(key=NAME_FIELD, operator="In", values=(node,))
    only = NodeSelector(node_selector_terms=(NodeSelectorTerm(match_fields=(name,)),))
    there = affinity or Affinity()
    nodes = (there.node_affinity or NodeAffinity()).model_copy(
        update={"required_during_scheduling_ignored_during_execution": only}
    )
    return there.model_copy(update={"node_affinity": nodes})


def target(pod: Pod) -> str:
    """The node that a daemon pod is on, or is tied to; "" for neither (GetTargetNodeName)."""
    if pod.spec.node_name:
        return pod.spec.node_name
    nodes = pod.spec.affinity.node_affinity if pod.spec.affinity is not None else None
    required = nodes.required_during_scheduling_ignored_during_execution if nodes is not None else None
    for term in required.node_selector_terms if required is not None else ():
        for field in term.match_fields:
            if (field.key, field.operator, len(field.values)) == (NAME_FIELD, "In", 1):
                return field.values[0]
    return ""


def suits(spec: PodSpec, node: Node, tolerated: Sequence[Toleration]) -> tuple[bool, bool]:
    """Whether a pod should run on a node, and whether one that is there may stay (NodeShouldRunDaemonPod)."""
    if spec.node_name not in ("", node.metadata.name) or not wants(spec, node):
        return False, False
    taints = (*node.spec.taints, CORDONED) if node.spec.unschedulable else node.spec.taints
    if untolerated(taints, tolerated, "NoSchedule", "NoExecute"):
        return False, not untolerated(taints, tolerated, "NoExecute")
    return True, True


def _sites(ds: DaemonSet, nodes: Sequence[Node]) -> list[Berth]:
    """The nodes, still without pods."""
    spec = ds.spec.template.spec
    tolerated = tolerations(spec)
    ordered = sorted((n for n in nodes if not is_deleted(n)), key=lambda n: n.metadata.name)
    return [Berth(n.metadata.name, *suits(spec, n, tolerated)) for n in ordered]


def _berths(sites: Sequence[Berth], pods: Sequence[Pod], label: str) -> list[Berth]:
    there: dict[str, list[Pod]] = {}
    for pod in sorted(pods, key=lambda p: (p.metadata.creation_timestamp or "~", p.metadata.name)):
        there.setdefault(target(pod), []).append(pod)
    found = [_berth(site, there.get(site.node, ()), label) for site in sites]
    # Pods of a node that was removed are ended by the garbage collector, once that is certain; those that wait for
    # one that isn't there (or, adopted ones, for any) have nowhere to go.
    known = {s.node for s in sites}
    lost = tuple(p for node, here in there.items() if node not in known for p in here if not p.spec.node_name)
    return [*found, Berth("", wanted=False, stays=False, pods=lost)] if lost else found


def _berth(site: Berth, pods: Sequence[Pod], label: str) -> Berth:
    active = tuple(p for p in pods if is_active(p))
    revisions = [p.metadata.labels.get(REVISION_LABEL) for p in active]
    new = next((p for p, has in zip(active, revisions, strict=True) if has == label), None)
    old = next((p for p, has in zip(active, revisions, strict=True) if has != label), None)
    return Berth(site.node, site.wanted, site.stays, tuple(pods), active, new, old)


# ---------------------------------------------------------------- one pod each


def _tend(ds: DaemonSet, berth: Berth, label: str, now: float, suffix: Suffix, plan: _Plan) -> bool:
    """Bring one node to the right number of pods, whatever their revision; True if something is to be done there."""
    if not berth.stays:
        unwanted = [p for p in berth.pods if not is_deleted(p)]
        plan.removed += unwanted
        return bool(unwanted)
    if len(berth.active) == len(berth.pods) == 1:  # as nearly always
        return False
    finished = [p for p in berth.pods if is_finished(p) and not is_deleted(p)]
    if berth.active:
        surplus = _surplus(berth, may_surge=_surge(ds, 1) > 0) + finished
        plan.removed += surplus
        return bool(surplus)
    if any(is_deleted(p) for p in berth.pods):
        return False  # what leaves is gone first
    if finished:
        last = max(finished, key=ended_at)
        if (due := retries.due(last)) > now:
            plan.wake_at = min(plan.wake_at, due)
            return False
        word = "failed" if last.status.phase == "Failed" else "succeeded"
        reason = "FailedDaemonPod" if word == "failed" else "SucceededDaemonPod"
        text = f"Found {word} daemon pod {last.title} on node {berth.node}, will try to kill it"
        plan.notes.append(Note(ds, "Warning" if word == "failed" else "Normal", reason, text, COMPONENT))
        plan.removed += finished
        if berth.wanted:
            plan.created.append(_new_pod(ds, berth.node, label, suffix, last))
        return True
    if berth.wanted:
        plan.created.append(_new_pod(ds, berth.node, label, suffix))
    return berth.wanted


def _surplus(berth: Berth, *, may_surge: bool) -> list[Pod]:
    """All but the oldest; where a surge is under way, all but the oldest of the new and the oldest of the old."""
    kept = (berth.new, berth.old) if may_surge else berth.active[:1]
    return [p for p in berth.active if all(p is not k for k in kept)]


def _new_pod(ds: DaemonSet, node: str, label: str, suffix: Suffix, last: Pod | None = None) -> Pod:
    """:param last: the pod that it follows, where that one has ended."""
    template, base = ds.spec.template, f"{ds.metadata.name}-"
    meta = ObjectMeta(
        name=generated_name(base, suffix()),
        generate_name=base,
        namespace=ds.metadata.namespace,
        labels=template.metadata.labels | {REVISION_LABEL: label},
        annotations={**template.metadata.annotations, **retries.mark(last)},
        owner_references=(owned_by(ds),),
    )
    tied = {"affinity": tied_to(template.spec.affinity, node), "tolerations": tolerations(template.spec)}
    return Pod(metadata=meta, spec=template.spec.model_copy(update=tied))


# ---------------------------------------------------------------- rolling update


def _surge(ds: DaemonSet, desired: int) -> int:
    rolling = ds.spec.update_strategy.rolling_update
    return 0 if rolling is None else percent_of(rolling.max_surge, desired, up=True)


def _roll(
    ds: DaemonSet, found: Sequence[Berth], touched: set[str], label: str, now: float, suffix: Suffix, plan: _Plan
) -> None:
    """Replace pods of old revisions, as many nodes at a time as the strategy allows; what isn't available anyway is
    replaced at once."""
    desired = sum(b.wanted for b in found)
    surge, rolling = _surge(ds, desired), ds.spec.update_strategy.rolling_update
    most = min(percent_of(rolling.max_unavailable, desired, up=True), desired) if rolling is not None else 1
    wait = ds.spec.min_ready_seconds
    missing, busy = 0, 0
    healthy: list[Berth] = []
    broken: list[Berth] = []
    for berth in found:
        if not berth.stays:
            continue
        new, old = (berth.new, berth.old) if berth.node not in touched else (None, None)
        if new is not None and old is not None:  # a surge that is under way, or was when the strategy had one
            if is_available(new, wait, now):
                plan.removed.append(old)
            else:
                busy += 1
        elif old is not None:
            (healthy if is_available(old, wait, now) else broken).append(berth)
        elif new is None or not is_available(new, wait, now):
            missing += berth.wanted
    if surge:
        for berth in broken + healthy[: max(surge - busy, 0)]:
            if berth.wanted:
                plan.created.append(_new_pod(ds, berth.node, label, suffix))
        return
    spare = max((most or 1) - missing - len(broken), 0)
    for berth in broken + healthy[:spare]:
        plan.removed += berth.active


def _status(ds: DaemonSet, found: Sequence[Berth], now: float) -> DaemonSetStatus:
    """The oldest active pod stands for its node, as in Kubernetes; a pod that leaves still occupies it."""
    wait = ds.spec.min_ready_seconds
    wanted = [b for b in found if b.wanted]
    ready = [[p for p in b.active if is_ready(p)] for b in wanted]
    available = sum(any(is_available(p, wait, now) for p in pods) for pods in ready)
    return ds.status.model_copy(
        update={
            "observed_generation": ds.metadata.generation,
            "desired_number_scheduled": len(wanted),
            "current_number_scheduled": sum(bool(b.pods) for b in wanted),
            "number_misscheduled": sum(bool(b.pods) for b in found if not b.wanted),
            "number_ready": sum(map(bool, ready)),
            "number_available": available,
            "number_unavailable": len(wanted) - available,
            "updated_number_scheduled": sum(b.new is not None and b.new is b.active[0] for b in wanted),
        }
    )
