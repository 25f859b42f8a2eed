"""What may not change, for workloads, batch, policies and the like; see `immutable`. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from cloudlink.kube.apps import ControllerRevision, DaemonSet, StatefulSet
from cloudlink.kube.batch import Job, JobSpec
from cloudlink.kube.endpoints import EndpointSlice
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.networking import IngressClass
from cloudlink.kube.pod import PodTemplateSpec
from cloudlink.kube.quotas import ResourceQuota
from cloudlink.kube.scheduling import PriorityClass

FIXED = "field is immutable"
_FREE_OF_STATEFUL_SETS = (
    *("replicas", "template", "update_strategy", "revision_history_limit", "ordinals"),
    *("persistent_volume_claim_retention_policy", "min_ready_seconds"),
)
# As Kubernetes names them in its sentence.
_FREE_WORDS = (
    "'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit',"
    " 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds'"
)
_OF_JOBS = {
    "completion_mode": "spec.completionMode",
    "selector": "spec.selector",
    "pod_failure_policy": "spec.podFailurePolicy",
    "success_policy": "spec.successPolicy",
    "backoff_limit_per_index": "spec.backoffLimitPerIndex",
    "managed_by": "spec.managedBy",
}


def changed(new: KubeObject, old: KubeObject) -> Iterator[tuple[str, str]]:
    """Field and reason, for each that would change and may not."""
    match new, old:
        case DaemonSet(), DaemonSet():
            if new.spec.selector != old.spec.selector:
                yield "spec.selector", f"{FIXED}; delete the DaemonSet and make it anew"
        case StatefulSet(), StatefulSet():
            free = {name: getattr(old.spec, name) for name in _FREE_OF_STATEFUL_SETS}
            if new.spec.model_copy(update=free) != old.spec:
                yield "spec", f"updates to statefulset spec for fields other than {_FREE_WORDS} are forbidden"
        case ControllerRevision(), ControllerRevision():
            if new.data != old.data:
                yield "data", FIXED
        case Job(), Job():
            yield from _job(new.spec, old)
        case _:
            yield from _others(new, old)


def _others(new: KubeObject, old: KubeObject) -> Iterator[tuple[str, str]]:
    match new, old:
        case EndpointSlice(), EndpointSlice():
            if new.address_type != old.address_type:
                yield "addressType", FIXED
        case IngressClass(), IngressClass():
            if new.spec.controller != old.spec.controller:
                yield "spec.controller", FIXED
        case PriorityClass(), PriorityClass():
            if new.value != old.value:
                yield "value", "may not be changed in an update."
            if new.preemption_policy != old.preemption_policy:
                yield "preemptionPolicy", FIXED
        case ResourceQuota(), ResourceQuota():
            if set(new.spec.scopes) != set(old.spec.scopes):
                yield "spec.scopes", FIXED
        case _:
            pass


def _job(new: JobSpec, job: Job) -> Iterator[tuple[str, str]]:
    """ValidateJobSpecUpdate. A suspended Job that hasn't started may still be told where to run."""
    old = job.spec
    for name, path in _OF_JOBS.items():
        if getattr(new, name) != getattr(old, name):
            yield path, FIXED
    elastic = old.completion_mode == "Indexed" and new.completions == new.parallelism
    if new.completions != old.completions and not elastic:
        yield "spec.completions", FIXED
    template = new.template
    if old.suspend and not job.status.start_time:
        template = _placed_as(template, old.template)
    if template != old.template:
        yield "spec.template", FIXED


def _placed_as(new: PodTemplateSpec, old: PodTemplateSpec) -> PodTemplateSpec:
    free = {name: getattr(old.spec, name) for name in ("node_selector", "tolerations", "affinity")}
    kept = {name: getattr(old.metadata, name) for name in ("labels", "annotations")}
    return new.model_copy(
        update={"spec": new.spec.model_copy(update=free), "metadata": new.metadata.model_copy(update=kept)}
    )
