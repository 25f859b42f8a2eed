"""What may not change once an object exists (ValidateXxxUpdate in kubernetes/pkg/apis). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cloudlink.hub.api import immutable_kinds
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.claims import SELECTED_NODE
from cloudlink.kube.core import ConfigMap, Container, PersistentVolumeClaim, Pod, Secret, Service
from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.quantity import exact
from cloudlink.kube.rbac import ClusterRoleBinding, RoleBinding

_FIXED = "field is immutable"
_IMMUTABLE = "field is immutable when `immutable` is set; delete the object and make it anew"


def check_update(new: KubeObject, old: KubeObject) -> None:
    """Invalid names each field that would change and may not. Both are of one kind."""
    found = [*_metadata(new, old), *_changed(new, old)]
    causes = [_cause(field, why) for field, why in found]
    before = old.metadata.finalizers
    if old.metadata.deletion_timestamp and (late := [f for f in new.metadata.finalizers if f not in before]):
        told = f"no new finalizers can be added if the object is being deleted, found new finalizers {late}"
        causes.append(Cause("metadata.finalizers", "FieldValueForbidden", f"Forbidden: {told}"))
    if causes:
        raise Invalid(causes, new.kind, new.metadata.name)


def _cause(field: str, why: str) -> Cause:
    """What is said of a whole spec forbids, as in Kubernetes; anything else is said of one value."""
    if field == "spec":
        return Cause(field, "FieldValueForbidden", f"Forbidden: {why}")
    return Cause(field, "FieldValueInvalid", f"Invalid value: {why}")


def _metadata(new: KubeObject, old: KubeObject) -> Iterator[tuple[str, str]]:
    """What is left out is kept (ValidateObjectMetaUpdate)."""
    for field, name in (("creation_timestamp", "creationTimestamp"), ("deletion_timestamp", "deletionTimestamp")):
        given, there = getattr(new.metadata, field), getattr(old.metadata, field)
        if given and given != there:
            yield f"metadata.{name}", f'"{given[:64]}": {_FIXED}'


def _changed(new: KubeObject, old: KubeObject) -> Iterator[tuple[str, str]]:
    match new, old:
        case Deployment() | ReplicaSet(), Deployment() | ReplicaSet():
            if new.spec.selector != old.spec.selector:
                yield "spec.selector", f"{_FIXED}; delete the {new.kind} and make it anew"
        case Pod(), Pod():
            yield from _pod(new, old)
        case Service(), Service():
            given_up = new.spec.type == "ExternalName" and not new.spec.cluster_ip
            if old.spec.cluster_ip and new.spec.cluster_ip != old.spec.cluster_ip and not given_up:
                yield "spec.clusterIP", _FIXED
        case PersistentVolumeClaim(), PersistentVolumeClaim():
            yield from _claim(new, old)
        case RoleBinding() | ClusterRoleBinding(), RoleBinding() | ClusterRoleBinding():
            if new.role_ref != old.role_ref:
                yield "roleRef", "cannot change roleRef"
        case ConfigMap(), ConfigMap():
            if old.immutable and (new.data, new.binary_data, new.immutable) != (old.data, old.binary_data, True):
                yield "data", _IMMUTABLE
        case Secret(), Secret():
            if new.type != old.type:
                yield "type", _FIXED
            if old.immutable and (new.data, new.immutable) != (old.data, True):
                yield "data", _IMMUTABLE
        case _:
            yield from immutable_kinds.changed(new, old)


def _pod(new: Pod, old: Pod) -> Iterator[tuple[str, str]]:
    if _frozen_part(new) != _frozen_part(old):
        yield (
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,"
            " `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations`"
            " and `spec.nodeName` while it is empty; delete the pod and make it anew",
        )
    if old.spec.node_name and new.spec.node_name != old.spec.node_name:
        yield "spec.nodeName", _FIXED
    before, after = old.spec.active_deadline_seconds, new.spec.active_deadline_seconds
    if before is not None and (after is None or after > before):
        yield "spec.activeDeadlineSeconds", f"must be less than or equal to previous value ({before})"


def _frozen_part(pod: Pod) -> object:
    spec = pod.spec
    return spec.model_copy(
        update={
            "containers": _without_images(spec.containers),
            "init_containers": _without_images(spec.init_containers),
            "tolerations": (),
            "node_name": "",
            "active_deadline_seconds": None,
        }
    )


def _without_images(containers: Sequence[Container]) -> tuple[Container, ...]:
    return tuple(c.model_copy(update={"image": "", "image_pull_policy": None}) for c in containers)


def _claim(new: PersistentVolumeClaim, old: PersistentVolumeClaim) -> Iterator[tuple[str, str]]:
    free: dict[str, object] = {"resources": old.spec.resources}
    if not old.spec.volume_name:
        free["volume_name"] = new.spec.volume_name
    if new.spec.model_copy(update=free) != old.spec.model_copy(update=free):
        yield "spec", "spec is immutable after creation except resources.requests"
    if exact(new.storage) < exact(old.storage):
        yield (
            "spec.resources.requests.storage",
            f"field can not be less than previous value ({old.storage}): a volume can grow, not shrink",
        )
    if old.node and new.node != old.node:
        yield f"metadata.annotations[{SELECTED_NODE}]", f"{_FIXED}: the data is on {old.node}"
