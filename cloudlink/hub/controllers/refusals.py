"""What a controller's object says of pods that it wanted and that weren't let in. Pure.

Controllers count the pods that they are about to make; these are taken off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudlink.hub.changes import ObjectChange, UpdateStatus
from cloudlink.hub.controllers.history import REVISION_LABEL
from cloudlink.hub.objects import rfc3339, with_condition
from cloudlink.kube.apps import DaemonSetStatus, ReplicaSetStatus, StatefulSetStatus
from cloudlink.kube.batch import JobStatus
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import Condition, KubeObject
from cloudlink.kube.replication import ReplicationControllerStatus

FAILURE = "ReplicaFailure"


def with_refusals(
    owner: KubeObject, changes: Sequence[ObjectChange], missing: Sequence[Pod], why: str, now: float
) -> tuple[ObjectChange, ...]:
    """The changes that a controller wants, with its object's status as it is without these of the new pods."""
    others = tuple(c for c in changes if not _is_status_of(c, owner))
    wanted: Any = next((c for c in changes if _is_status_of(c, owner)), UpdateStatus(owner))
    before: Any = owner
    status = _without(wanted.object.status, before.status, missing, why, now)
    if status == before.status:
        return others
    return (*others, UpdateStatus(owner.model_copy(update={"status": status})))


def _without(status: object, before: Any, pods: Sequence[Pod], why: str, now: float) -> object:
    missing = len(pods)
    match status:
        case ReplicaSetStatus() | ReplicationControllerStatus():
            failure = Condition(
                type=FAILURE, status="True", reason="FailedCreate", message=why, last_transition_time=rfc3339(now)
            )
            counts = {"replicas": status.replicas, "fully_labeled_replicas": status.fully_labeled_replicas}
            told = {"conditions": with_condition(before.conditions, failure)}
            return status.model_copy(update={k: max(n - missing, 0) for k, n in counts.items()} | told)
        case DaemonSetStatus():
            counts = {n: getattr(status, n) for n in ("current_number_scheduled", "updated_number_scheduled")}
            return status.model_copy(update={k: max(n - missing, 0) for k, n in counts.items()})
        case StatefulSetStatus():
            of = [p.metadata.labels.get(REVISION_LABEL, "") for p in pods]
            less = {
                "replicas": missing,
                "current_replicas": of.count(status.current_revision),
                "updated_replicas": of.count(status.update_revision),
            }
            return status.model_copy(update={k: max(getattr(status, k) - n, 0) for k, n in less.items()})
        case JobStatus():
            return status.model_copy(update={"active": max(status.active - missing, 0)})
    return status


def _is_status_of(change: ObjectChange, owner: KubeObject) -> bool:
    if not isinstance(change, UpdateStatus) or change.object.key != owner.key:
        return False
    meta = change.object.metadata
    return (meta.namespace, meta.name) == (owner.metadata.namespace, owner.metadata.name)
