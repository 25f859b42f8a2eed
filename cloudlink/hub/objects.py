"""Questions that controllers and scheduler ask of Kubernetes objects, and how times are written. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from cloudlink.kube.core import Pod
from cloudlink.kube.meta import Condition, KubeObject, ObjectMeta, OwnerReference
from cloudlink.kube.parse import dump
from cloudlink.kube.pod import PodTemplateSpec

C = TypeVar("C", bound=Condition)

FINISHED = ("Succeeded", "Failed")  # phases
HASH_LABEL = "pod-template-hash"
_SAFE = "bcdfghjklmnpqrstvwxz2456789"  # apimachinery's rand.SafeEncodeString: no vowels, so no words
NAME_MAX = 63  # a pod's name becomes its host name and a label's value


def rfc3339(now: float) -> str:
    """Wall-clock seconds since 1970 -> metav1.Time, whole seconds, UTC."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """metav1.Time -> seconds since 1970; 0.0 where it is absent or unreadable."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def controller_of(o: KubeObject) -> OwnerReference | None:
    """The one owner that manages this object (metav1.GetControllerOf)."""
    for reference in o.metadata.owner_references:
        if reference.controller:
            return reference
    return None


def owned_by(owner: KubeObject) -> OwnerReference:
    """The reference that a controller puts on what it makes (metav1.NewControllerRef)."""
    return OwnerReference(
        api_version=owner.api_version,
        kind=owner.kind,
        name=owner.metadata.name,
        uid=owner.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )


def with_meta(o: KubeObject, **fields: object) -> dict[str, object]:
    """For `o.model_copy(update=with_meta(o, labels=...))`."""
    return {"metadata": o.metadata.model_copy(update=fields)}


def is_deleted(o: KubeObject) -> bool:
    return bool(o.metadata.deletion_timestamp)


def is_finished(pod: Pod) -> bool:
    """No container of it will ever run again."""
    return pod.status.phase in FINISHED


def is_active(pod: Pod) -> bool:
    """Counts as a replica: neither finished nor on its way out."""
    return not is_deleted(pod) and not is_finished(pod)


def ended_at(pod: Pod) -> float:
    """When a finished pod ended, in seconds since 1970: when its last container did, else when it was last spoken of
    (the Job controller's getFinishedTime)."""
    states = (c.state.terminated for c in (*pod.status.init_container_statuses, *pod.status.container_statuses))
    ready = find_condition(pod.status.conditions, "Ready")
    times = [seconds(t.finished_at) for t in states if t is not None]
    told = seconds(ready.last_transition_time) if ready is not None else 0.0
    return max(times, default=0.0) or told or seconds(pod.metadata.creation_timestamp)


def find_condition(conditions: Sequence[C], kind: str) -> C | None:
    for condition in conditions:  # a generator would take three times as long, and controllers ask of every pod
        if condition.type == kind:
            return condition
    return None


def is_ready(pod: Pod) -> bool:
    ready = find_condition(pod.status.conditions, "Ready")
    return ready is not None and ready.status == "True"


def available_at(pod: Pod, min_ready_seconds: int) -> float:
    """When this pod counts as available, in seconds since 1970; infinity while it isn't ready."""
    ready = find_condition(pod.status.conditions, "Ready")
    if ready is None or ready.status != "True":
        return float("inf")
    return seconds(ready.last_transition_time) + min_ready_seconds if min_ready_seconds else 0.0


def generated_name(base: str, suffix: str) -> str:
    """Kubernetes' names.SimpleNameGenerator: the base is cut, never the suffix."""
    return base[: NAME_MAX - len(suffix)] + suffix


def template_hash(template: PodTemplateSpec, collisions: int = 0) -> str:
    """Ten characters for names and labels. Never compared: equality of templates is asked of the templates."""
    plain = json.dumps(dump(template), sort_keys=True, separators=(",", ":"))
    digest = hashlib.blake2b(f"{collisions}:{plain}".encode(), digest_size=10).digest()
    return "".join(_SAFE[b % len(_SAFE)] for b in digest)


def without_hash(template: PodTemplateSpec) -> PodTemplateSpec:
    """The template as the Deployment's author wrote it; for comparing (deploymentutil.EqualIgnoreHash)."""
    labels = {k: v for k, v in template.metadata.labels.items() if k != HASH_LABEL}
    return template.model_copy(
        update={"metadata": ObjectMeta(labels=labels, annotations=template.metadata.annotations)}
    )


def with_condition(conditions: Sequence[C], new: C) -> tuple[C, ...]:
    """Replace the condition of the same type, in its place, or add it.

    The time of the last transition is kept where the status is the same; a condition that says nothing new is
    kept as it is, so that looking twice changes nothing.
    """
    old = find_condition(conditions, new.type)
    if old is None:
        return (*conditions, new)
    if old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
        if (old.reason, old.message) == (new.reason, new.message):
            return tuple(conditions)
    return tuple(new if c.type == new.type else c for c in conditions)
