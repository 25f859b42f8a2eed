"""Rules for what makes pods of a template and keeps them: apps/v1, and core's ReplicationController. See `validate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cloudlink.kube import apps, names
from cloudlink.kube.annotations import check_annotations
from cloudlink.kube.findings import Findings
from cloudlink.kube.meta import KubeObject, LabelSelector
from cloudlink.kube.pod import PodTemplateSpec
from cloudlink.kube.replication import ReplicationController
from cloudlink.kube.rollouts import check_rollout_annotations
from cloudlink.kube.validate_core import claim_spec
from cloudlink.kube.validate_meta import labels_and_annotations, selector, share, share_of_all
from cloudlink.kube.validate_pod import pod_spec
from cloudlink.kube.volumes import PersistentVolumeClaimVolume, Volume

_NAME_MAX = 63  # of a pod whose name is a label and a host name, too
_NO_MATCH = "`selector` does not match template `labels`"


def template(it: PodTemplateSpec, path: str, found: Findings) -> None:
    """A pod's description inside of another kind."""
    _template_metadata(it, path, found)
    pod_spec(it.spec, f"{path}.spec", found)


def _template_metadata(it: PodTemplateSpec, path: str, found: Findings) -> None:
    labels_and_annotations(it.metadata, f"{path}.metadata", found)
    check_annotations(it.metadata.annotations, it.spec, f"{path}.metadata.annotations", found)


def _lasting(it: PodTemplateSpec, kind: str, found: Findings) -> None:
    """A template whose pods are to run for ever."""
    _template_metadata(it, "spec.template", found)
    if it.spec.active_deadline_seconds is not None:
        why = f"activeDeadlineSeconds in {kind} is not Supported"
        found.forbidden("spec.template.spec.activeDeadlineSeconds", why)
    if it.spec.restart_policy != "Always":
        found.unsupported("spec.template.spec.restartPolicy", it.spec.restart_policy, ["Always"])
    pod_spec(it.spec, "spec.template.spec", found)


def _selected(by: LabelSelector, it: PodTemplateSpec, why_not_empty: str, found: Findings) -> None:
    selector(by, "spec.selector", found)
    if not by.match_labels and not by.match_expressions:
        found.invalid("spec.selector", {}, why_not_empty)
    elif not by.matches(it.metadata.labels):
        found.invalid("spec.template.metadata.labels", dict(it.metadata.labels), _NO_MATCH)


def _replicas(spec: apps.DeploymentSpec | apps.ReplicaSetSpec, kind: str, found: Findings) -> None:
    """What Deployments and ReplicaSets have in common."""
    found.at_least("spec.replicas", spec.replicas, 0)
    found.at_least("spec.minReadySeconds", spec.min_ready_seconds, 0)
    why = "empty selector is invalid; it would take every pod of the namespace"
    _selected(spec.selector, spec.template, why, found)
    _lasting(spec.template, kind, found)


def _deployment(obj: apps.Deployment, found: Findings) -> None:
    spec = obj.spec
    _replicas(spec, "Deployment", found)
    found.at_least("spec.revisionHistoryLimit", spec.revision_history_limit, 0)
    found.at_least("spec.progressDeadlineSeconds", spec.progress_deadline_seconds, 0)
    if 0 <= spec.progress_deadline_seconds <= spec.min_ready_seconds:
        found.invalid(
            "spec.progressDeadlineSeconds", spec.progress_deadline_seconds, "must be greater than minReadySeconds"
        )
    check_rollout_annotations(obj.metadata.annotations, spec.strategy.type, "metadata.annotations", found)
    rolling = spec.strategy.rolling_update
    if rolling is None:
        return
    path = "spec.strategy.rollingUpdate"
    if spec.strategy.type == "Recreate":
        found.forbidden(path, "may not be specified when strategy `type` is 'Recreate'")
        return
    surge = share(rolling.max_surge, f"{path}.maxSurge", found)
    unavailable = share_of_all(rolling.max_unavailable, f"{path}.maxUnavailable", found)
    if surge == 0 and unavailable == 0:
        found.invalid(f"{path}.maxUnavailable", rolling.max_unavailable, "may not be 0 when `maxSurge` is 0")


def _replica_set(obj: apps.ReplicaSet, found: Findings) -> None:
    _replicas(obj.spec, "ReplicaSet", found)


def _replication_controller(obj: ReplicationController, found: Findings) -> None:
    spec = obj.spec
    found.at_least("spec.replicas", spec.replicas, 0)
    found.at_least("spec.minReadySeconds", spec.min_ready_seconds, 0)
    found.labels("spec.selector", spec.selector)
    labels = spec.template.metadata.labels
    if not spec.selector:
        found.required("spec.selector")
    elif any(labels.get(k) != v for k, v in spec.selector.items()):
        found.invalid("spec.template.metadata.labels", dict(labels), _NO_MATCH)
    _lasting(spec.template, "ReplicationController", found)


def _daemon_set(obj: apps.DaemonSet, found: Findings) -> None:
    spec = obj.spec
    found.at_least("spec.minReadySeconds", spec.min_ready_seconds, 0)
    found.at_least("spec.revisionHistoryLimit", spec.revision_history_limit, 0)
    _selected(spec.selector, spec.template, "empty selector is invalid for daemonset", found)
    _lasting(spec.template, "DaemonSet", found)
    rolling = spec.update_strategy.rolling_update
    if rolling is None or spec.update_strategy.type == "OnDelete":
        return
    path = "spec.updateStrategy.rollingUpdate"
    unavailable = share_of_all(rolling.max_unavailable, f"{path}.maxUnavailable", found)
    surge = share_of_all(rolling.max_surge, f"{path}.maxSurge", found)
    if unavailable and surge:
        found.invalid(f"{path}.maxSurge", rolling.max_surge, "may not be set when maxUnavailable is non-zero")
    elif unavailable == 0 and surge == 0:
        found.required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0")


def _stateful_set(obj: apps.StatefulSet, found: Findings) -> None:
    spec = obj.spec
    found.at_least("spec.replicas", spec.replicas, 0)
    found.at_least("spec.minReadySeconds", spec.min_ready_seconds, 0)
    found.at_least("spec.revisionHistoryLimit", spec.revision_history_limit, 0)
    first = spec.ordinals.start if spec.ordinals is not None else 0
    found.at_least("spec.ordinals.start", first, 0)
    longest = f"{obj.metadata.name}-{max(first + spec.replicas - 1, 0)}"
    if len(longest) > _NAME_MAX:
        why = f"its pods are called like {longest}, which must be no more than {_NAME_MAX} characters"
        found.invalid("metadata.name", obj.metadata.name, why)
    if spec.service_name and (why := names.dns_label(spec.service_name)):
        found.invalid("spec.serviceName", spec.service_name, why)
    strategy, path = spec.update_strategy, "spec.updateStrategy.rollingUpdate"
    if strategy.type == "OnDelete" and strategy.rolling_update is not None:
        found.invalid(path, {}, "only allowed for updateStrategy 'RollingUpdate'")
    elif strategy.rolling_update is not None:
        found.at_least(f"{path}.partition", strategy.rolling_update.partition, 0)
        if strategy.rolling_update.max_unavailable is not None:
            number = share_of_all(strategy.rolling_update.max_unavailable, f"{path}.maxUnavailable", found)
            if number == 0:
                found.invalid(f"{path}.maxUnavailable", 0, "cannot be 0")
    _selected(spec.selector, spec.template, "empty selector is invalid for statefulset", found)
    _lasting(_with_claims(spec), "StatefulSet", found)
    _claim_templates(spec, found)


def _with_claims(spec: apps.StatefulSetSpec) -> PodTemplateSpec:
    """The template as its pods will have it: each claim template is a volume, whatever volume had that name."""
    made = {c.metadata.name: _claim_volume(c.metadata.name) for c in spec.volume_claim_templates}
    if not made:
        return spec.template
    pod = spec.template.spec
    there = {v.name for v in pod.volumes}
    volumes = (*(made.get(v.name, v) for v in pod.volumes), *(v for n, v in made.items() if n and n not in there))
    return spec.template.model_copy(update={"spec": pod.model_copy(update={"volumes": volumes})})


def _claim_volume(name: str) -> Volume:
    return Volume(name=name, persistent_volume_claim=PersistentVolumeClaimVolume(claim_name=name or "x"))


def _claim_templates(spec: apps.StatefulSetSpec, found: Findings) -> None:
    """Stricter than Kubernetes, which finds out when it makes the first claim."""
    seen: set[object] = set()
    for i, claim in enumerate(spec.volume_claim_templates):
        path = f"spec.volumeClaimTemplates[{i}]"
        if not claim.metadata.name:
            found.required(f"{path}.metadata.name")
        else:
            found.unique(f"{path}.metadata.name", claim.metadata.name, seen)
        labels_and_annotations(claim.metadata, f"{path}.metadata", found)
        claim_spec(claim.spec, f"{path}.spec", found)


def _controller_revision(obj: apps.ControllerRevision, found: Findings) -> None:
    if not obj.data:
        found.required("data", "data is mandatory")
    found.at_least("revision", obj.revision, 0)


CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    apps.Deployment: _deployment,
    apps.ReplicaSet: _replica_set,
    apps.DaemonSet: _daemon_set,
    apps.StatefulSet: _stateful_set,
    apps.ControllerRevision: _controller_revision,
    ReplicationController: _replication_controller,
}
