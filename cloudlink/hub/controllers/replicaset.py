"""ReplicaSet, ReplicationController -> Pods: as many as asked for, from the template, the least useful ones go first.

After Kubernetes' pkg/controller/replicaset, which does both, too. Which pods are its own is told by `claiming`.

Invariant: a decision creates or removes exactly the difference between `spec.replicas` and the active pods, and
never removes an available pod while one that isn't available is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cloudlink.hub.changes import Create, Delete, MarkDeleted, ObjectChange, UpdateStatus
from cloudlink.hub.controllers.refusals import FAILURE
from cloudlink.hub.decision import NEVER, Decision, Note, Suffix
from cloudlink.hub.objects import (
    available_at,
    find_condition,
    generated_name,
    is_active,
    is_deleted,
    is_finished,
    is_ready,
    owned_by,
    seconds,
)
from cloudlink.kube.apps import ReplicaSet, ReplicaSetStatus
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import KubeObject, ObjectMeta
from cloudlink.kube.replication import ReplicationController, ReplicationControllerStatus

Replicated = ReplicaSet | ReplicationController

BURST = 500  # pods made or removed in one decision, as Kubernetes' BurstReplicas; the next decision goes on
FINISHED_KEPT = 3  # finished pods that stay for people to look at; more would grow for ever
_COMPONENTS = {"ReplicationController": "replication-controller"}
NOTES_EACH = 10  # events naming a pod each; beyond that one event stands for the rest


def reconcile(rs: Replicated, pods: Sequence[Pod], now: float, suffix: Suffix) -> Decision:
    """Decide about one ReplicaSet, given every pod that it controls. `now` in seconds since 1970."""
    active = [p for p in pods if is_active(p)]
    staying = active  # what the commit will leave; so the status needs no second round
    changes: list[ObjectChange] = []
    notes: list[Note] = []
    if not is_deleted(rs):
        missing = rs.spec.replicas - len(active)
        if missing > 0:
            made = _new_pods(rs, {p.metadata.name for p in pods}, min(missing, BURST), suffix)
            staying = active + made
            changes += [Create(p) for p in made]
            notes += tell(rs, "SuccessfulCreate", "Created pod", made)
        elif missing < 0:
            gone = least_useful(active, min(-missing, BURST))
            names = {p.metadata.name for p in gone}
            staying = [p for p in active if p.metadata.name not in names]
            changes += [remove_pod(p) for p in gone]
            notes += tell(rs, "SuccessfulDelete", "Deleted pod", gone)
        changes += [remove_pod(p) for p in _surplus_finished(pods)]
    status = _status(rs, staying, now)
    if status != rs.status:
        changes.append(UpdateStatus(rs.model_copy(update={"status": status})))
    return Decision(tuple(changes), tuple(notes), _next_available(rs, staying, now))


def remove_pod(pod: Pod) -> ObjectChange:
    """A pod on a node is asked to end and goes when the node says so; one that never left the hub goes at once."""
    meta = pod.metadata
    if pod.spec.node_name and not is_finished(pod):
        return MarkDeleted("Pod", meta.namespace, meta.name, pod.spec.termination_grace_period_seconds)
    return Delete("Pod", meta.namespace, meta.name, uid=meta.uid or None)


def is_available(pod: Pod, min_ready_seconds: int, now: float) -> bool:
    return available_at(pod, min_ready_seconds) <= now


def least_useful(active: Sequence[Pod], count: int) -> list[Pod]:
    """Those that are removed first."""
    company = Counter(p.spec.node_name for p in active)
    return sorted(active, key=lambda p: _usefulness(p, company))[:count]


def _new_pods(rs: Replicated, taken: set[str], count: int, suffix: Suffix) -> list[Pod]:
    template = rs.spec.template
    base = f"{rs.metadata.name}-"
    pods: list[Pod] = []
    for _ in range(count):
        name = generated_name(base, suffix())
        while name in taken:
            name = generated_name(base, suffix())
        taken.add(name)
        meta = ObjectMeta(
            name=name,
            generate_name=base,
            namespace=rs.metadata.namespace,
            labels=template.metadata.labels,
            annotations=template.metadata.annotations,
            owner_references=(owned_by(rs),),
        )
        pods.append(Pod(metadata=meta, spec=template.spec))
    return pods


def _usefulness(pod: Pod, company: Mapping[str, int]) -> tuple[bool, int, bool, int, float, int, float, str]:
    """Sort key: the smallest is removed first (controller.ActivePodsWithRanks).

    In order: without a node; pending, unknown, running; not ready; more company of its kind on its node; ready
    for a shorter time; more restarts; younger; name.

    :param company: how many of these pods each node has.
    """
    ready = find_condition(pod.status.conditions, "Ready")
    ready_since = seconds(ready.last_transition_time) if ready and ready.status == "True" else float("inf")
    neighbours = company[pod.spec.node_name] if pod.spec.node_name else 0
    return (
        bool(pod.spec.node_name),
        {"Unknown": 1, "Running": 2}.get(pod.status.phase, 0),
        is_ready(pod),
        -neighbours,
        -ready_since,
        -sum(c.restart_count for c in pod.status.container_statuses),
        -seconds(pod.metadata.creation_timestamp),
        pod.metadata.name,
    )


def _surplus_finished(pods: Sequence[Pod]) -> list[Pod]:
    finished = [p for p in pods if is_finished(p) and not is_deleted(p)]
    finished.sort(key=lambda p: (seconds(p.metadata.creation_timestamp), p.metadata.name))
    return finished[:-FINISHED_KEPT]


def _status(rs: Replicated, active: Sequence[Pod], now: float) -> ReplicaSetStatus | ReplicationControllerStatus:
    labels = rs.spec.template.metadata.labels
    return rs.status.model_copy(
        update={
            "replicas": len(active),
            "fully_labeled_replicas": sum(labels.items() <= p.metadata.labels.items() for p in active),
            "ready_replicas": sum(is_ready(p) for p in active),
            "available_replicas": sum(is_available(p, rs.spec.min_ready_seconds, now) for p in active),
            "observed_generation": rs.metadata.generation,
            # Said anew by whoever refuses a pod (refusals.py).
            "conditions": tuple(c for c in rs.status.conditions if c.type != FAILURE),
        }
    )


def _next_available(rs: Replicated, active: Sequence[Pod], now: float) -> float:
    """When the next ready pod will have been ready for long enough."""
    return min((at for p in active if (at := available_at(p, rs.spec.min_ready_seconds)) > now), default=NEVER)


def tell(rs: KubeObject, reason: str, verb: str, pods: Sequence[Pod]) -> list[Note]:
    """What was done with pods, as events about their controller: a few by name, the rest counted."""
    component = _COMPONENTS.get(rs.kind, f"{rs.kind.lower()}-controller")
    notes = [Note(rs, "Normal", reason, f"{verb}: {p.metadata.name}", component) for p in pods[:NOTES_EACH]]
    if len(pods) > NOTES_EACH:
        rest = len(pods) - NOTES_EACH
        notes.append(Note(rs, "Normal", reason, f"{verb}: {pods[-1].metadata.name} and {rest - 1} others", component))
    return notes
