"""What may not change once an object exists (ValidateXxxUpdate in kubernetes/pkg/apis). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import ConfigMap, Pod, Secret, Service
from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.meta import KubeObject

_FIXED = "field is immutable"
_IMMUTABLE = "field is immutable when `immutable` is set; delete the object and make it anew"


def check_update(new: KubeObject, old: KubeObject) -> None:
    """Invalid names each field that would change and may not. Both are of one kind."""
    causes = [Cause(field, "FieldValueInvalid", f"Invalid value: {why}") for field, why in _changed(new, old)]
    if causes:
        raise Invalid(causes, new.kind, new.metadata.name)


def _changed(new: KubeObject, old: KubeObject) -> Iterator[tuple[str, str]]:
    match new, old:
        case Deployment() | ReplicaSet(), Deployment() | ReplicaSet():
            if new.spec.selector != old.spec.selector:
                yield "spec.selector", f"{_FIXED}; delete the {new.kind} and make it anew"
        case Pod(), Pod():
            yield from _pod(new, old)
        case Service(), Service():
            if old.spec.cluster_ip and new.spec.cluster_ip != old.spec.cluster_ip:
                yield "spec.clusterIP", _FIXED
        case ConfigMap(), ConfigMap():
            if old.immutable and (new.data, new.binary_data, new.immutable) != (old.data, old.binary_data, True):
                yield "data", _IMMUTABLE
        case Secret(), Secret():
            if new.type != old.type:
                yield "type", _FIXED
            if old.immutable and (new.data, new.immutable) != (old.data, True):
                yield "data", _IMMUTABLE
        case _:
            pass


def _pod(new: Pod, old: Pod) -> Iterator[tuple[str, str]]:
    if _frozen_part(new) != _frozen_part(old):
        yield (
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`, `spec.tolerations`"
            " and `spec.nodeName` while it is empty; delete the pod and make it anew",
        )
    if old.spec.node_name and new.spec.node_name != old.spec.node_name:
        yield "spec.nodeName", _FIXED


def _frozen_part(pod: Pod) -> object:
    containers = tuple(c.model_copy(update={"image": "", "image_pull_policy": None}) for c in pod.spec.containers)
    return pod.spec.model_copy(update={"containers": containers, "tolerations": (), "node_name": ""})
