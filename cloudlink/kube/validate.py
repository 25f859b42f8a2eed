"""What a schema can't say: names, references between parts, ranges. One function per kind; see validate().

The rules and phrases are those of k8s.io/kubernetes/pkg/apis/{core,apps}/validation, for what we support. Where we
are stricter, because Kubernetes would accept what can't work here, the comment says so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from cloudlink.kube import apps, core, names, quantity
from cloudlink.kube.annotations import check_annotations
from cloudlink.kube.claims import STORAGE_CLASS
from cloudlink.kube.errors import Cause
from cloudlink.kube.findings import Check, Findings
from cloudlink.kube.meta import KubeObject, LabelSelector, ObjectMeta
from cloudlink.kube.validate_pod import pod_spec

MAX_DATA = 1 << 20  # bytes of all values of a ConfigMap or Secret, as in Kubernetes
MAX_ANNOTATIONS = 256 << 10
MIN_CLAIM = 1 << 20  # bytes; less holds no file system
ACCESS_MODES = ("ReadWriteOnce", "ReadWriteOncePod")
_PERCENT = re.compile(r"\d{1,9}%", re.ASCII)


def validate(obj: KubeObject) -> list[Cause]:
    """All that is wrong with a structurally sound object; empty if it can be accepted."""
    found = Findings()
    _metadata(obj, found)
    check = _CHECKS.get(type(obj))
    if check is not None:
        check(obj, found)
    return found.causes


# ---------------------------------------------------------------- metadata

_CLUSTER_WIDE = (core.Namespace, core.Node)
_NAME_SYNTAX: Mapping[type[KubeObject], Check] = {
    core.Namespace: names.dns_label,
    core.Service: names.dns_label_1035,
}


def _metadata(obj: KubeObject, found: Findings) -> None:
    meta, syntax = obj.metadata, _NAME_SYNTAX.get(type(obj), names.dns_subdomain)
    if meta.name:
        found.text("metadata.name", meta.name, syntax)
    elif meta.generate_name:
        prefix = meta.generate_name
        # The end is still to come: a trailing "-" or "." is fine there.
        if why := syntax(prefix[:-1] + "a" if prefix[-1] in "-." else prefix):
            found.invalid("metadata.generateName", prefix, why)
    else:
        found.required("metadata.name", "name or generateName is required")
    if meta.namespace:
        if isinstance(obj, _CLUSTER_WIDE):
            found.forbidden("metadata.namespace", f"a {obj.kind} does not live in a namespace")
        else:
            found.text("metadata.namespace", meta.namespace, names.dns_label)
    _labels_and_annotations(meta, "metadata", found)
    controllers = [r for r in meta.owner_references if r.controller]
    if len(controllers) > 1:
        found.invalid("metadata.ownerReferences", [r.name for r in controllers], "only one may be the controller")


def _labels_and_annotations(meta: ObjectMeta, path: str, found: Findings) -> None:
    found.labels(f"{path}.labels", meta.labels)
    size = 0
    for key, value in meta.annotations.items():
        size += len(key) + len(value)
        if why := names.label_key(key.lower()):
            found.invalid(f"{path}.annotations", key, why)
    if size > MAX_ANNOTATIONS:
        found.too_long(f"{path}.annotations", MAX_ANNOTATIONS)


def _selector(selector: LabelSelector, path: str, found: Findings) -> None:
    found.labels(f"{path}.matchLabels", selector.match_labels)
    for i, term in enumerate(selector.match_expressions):
        here = f"{path}.matchExpressions[{i}]"
        found.text(f"{here}.key", term.key, names.label_key)
        if term.operator in ("In", "NotIn") and not term.values:
            found.required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        if term.operator in ("Exists", "DoesNotExist") and term.values:
            found.forbidden(f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        for j, value in enumerate(term.values):
            if why := names.label_value(value):
                found.invalid(f"{here}.values[{j}]", value, why)


# ---------------------------------------------------------------- core


def _config_map(obj: core.ConfigMap, found: Findings) -> None:
    for key in obj.data:
        found.text(f"data[{key[:64]}]", key, names.config_key)
    for key in obj.binary_data:
        found.text(f"binaryData[{key[:64]}]", key, names.config_key)
        if key in obj.data:
            found.invalid("data", key, "duplicate of a key in binaryData")
    size = found.base64("binaryData", obj.binary_data) + sum(len(v.encode()) for v in obj.data.values())
    if size > MAX_DATA:
        found.too_long("", MAX_DATA)


def _secret(obj: core.Secret, found: Findings) -> None:
    for key in obj.data:
        found.text(f"data[{key[:64]}]", key, names.config_key)
    if found.base64("data", obj.data) > MAX_DATA:
        found.too_long("data", MAX_DATA)
    needed = {"kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",)}
    for key in needed.get(obj.type, ()):
        if key not in obj.data:
            found.required(f"data[{key}]", f"a Secret of type {obj.type} has it")


def _service(obj: core.Service, found: Findings) -> None:
    spec = obj.spec
    found.labels("spec.selector", spec.selector)
    if not spec.ports and spec.cluster_ip != "None":
        found.required("spec.ports")
    seen_names: set[object] = set()
    seen_ports: set[object] = set()
    for i, port in enumerate(spec.ports):
        here = f"spec.ports[{i}]"
        if port.name:
            found.text(f"{here}.name", port.name, names.dns_label)
            found.unique(f"{here}.name", port.name, seen_names)
        elif len(spec.ports) > 1:
            found.required(f"{here}.name", "needed where there are several ports")
        found.port(f"{here}.port", port.port)
        found.unique(f"{here}.port", (port.port, port.protocol), seen_ports)
        if isinstance(port.target_port, int):
            if port.target_port != port.port:
                found.port(f"{here}.targetPort", port.target_port)
        else:
            found.text(f"{here}.targetPort", port.target_port, names.port_name)
    _cluster_ip(spec, found)


def _cluster_ip(spec: core.ServiceSpec, found: Findings) -> None:
    if spec.cluster_ip not in ("", "None"):
        try:
            ipaddress.IPv4Address(spec.cluster_ip)
        except ValueError:
            found.invalid("spec.clusterIP", spec.cluster_ip, 'must be empty, "None", or an IPv4 address')
    if spec.cluster_ips and spec.cluster_ips != (spec.cluster_ip,):
        found.invalid("spec.clusterIPs", list(spec.cluster_ips), "must be the same single address as `clusterIP`")


def _node(obj: core.Node, found: Findings) -> None:
    seen: set[object] = set()
    for i, taint in enumerate(obj.spec.taints):
        found.text(f"spec.taints[{i}].key", taint.key, names.label_key)
        if why := names.label_value(taint.value):
            found.invalid(f"spec.taints[{i}].value", taint.value, why)
        found.unique(f"spec.taints[{i}]", (taint.key, taint.effect), seen)


def _pod(obj: core.Pod, found: Findings) -> None:
    check_annotations(obj.metadata.annotations, obj.spec, "metadata.annotations", found)
    pod_spec(obj.spec, "spec", found)


def _claim(obj: core.PersistentVolumeClaim, found: Findings) -> None:
    spec = obj.spec
    if not spec.access_modes:
        found.required("spec.accessModes", "at least 1 access mode is required")
    for i, mode in enumerate(spec.access_modes):
        if mode in ("ReadWriteMany", "ReadOnlyMany"):
            why = "storage is local to one node; use ReadWriteOnce, or an nfs volume for what many nodes share"
            found.invalid(f"spec.accessModes[{i}]", mode, why)
        elif mode not in ACCESS_MODES:
            found.unsupported(f"spec.accessModes[{i}]", mode, ACCESS_MODES)
    if "ReadWriteOncePod" in spec.access_modes and len(set(spec.access_modes)) > 1:
        found.forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes")
    if spec.storage_class_name not in ("", STORAGE_CLASS):
        found.unsupported("spec.storageClassName", spec.storage_class_name, (STORAGE_CLASS,))
    path, requests = "spec.resources.requests", spec.resources.requests
    for name in requests:
        if name != "storage":
            found.unsupported(path, name, ("storage",))
    if "storage" not in requests:
        found.required(f"{path}[storage]")
    elif quantity.exact(requests["storage"]) <= 0:
        found.invalid(f"{path}[storage]", requests["storage"], "must be greater than zero")
    elif quantity.to_int(requests["storage"]) < MIN_CLAIM:
        why = 'too small for a file system; a suffix such as "Mi" is missing or wrong'
        found.invalid(f"{path}[storage]", requests["storage"], why)


def _event(obj: core.Event, found: Findings) -> None:
    if obj.type not in ("", "Normal", "Warning"):
        found.unsupported("type", obj.type, ("Normal", "Warning"))


# ---------------------------------------------------------------- apps


def _replicas(spec: apps.DeploymentSpec | apps.ReplicaSetSpec, kind: str, found: Findings) -> None:
    """What Deployments and ReplicaSets have in common."""
    found.at_least("spec.replicas", spec.replicas, 0)
    found.at_least("spec.minReadySeconds", spec.min_ready_seconds, 0)
    selector, template = spec.selector, spec.template
    _selector(selector, "spec.selector", found)
    if not selector.match_labels and not selector.match_expressions:
        found.invalid("spec.selector", {}, "empty selector is invalid; it would take every pod of the namespace")
    elif not selector.matches(template.metadata.labels):
        found.invalid(
            "spec.template.metadata.labels",
            dict(template.metadata.labels),
            "`selector` does not match template `labels`",
        )
    _labels_and_annotations(template.metadata, "spec.template.metadata", found)
    check_annotations(template.metadata.annotations, template.spec, "spec.template.metadata.annotations", found)
    if template.spec.active_deadline_seconds is not None:
        why = f"activeDeadlineSeconds in {kind} is not Supported"
        found.forbidden("spec.template.spec.activeDeadlineSeconds", why)
    if template.spec.restart_policy != "Always":
        found.unsupported("spec.template.spec.restartPolicy", template.spec.restart_policy, ["Always"])
    pod_spec(template.spec, "spec.template.spec", found)


def _deployment(obj: apps.Deployment, found: Findings) -> None:
    spec = obj.spec
    _replicas(spec, "Deployment", found)
    found.at_least("spec.revisionHistoryLimit", spec.revision_history_limit, 0)
    found.at_least("spec.progressDeadlineSeconds", spec.progress_deadline_seconds, 0)
    if 0 <= spec.progress_deadline_seconds <= spec.min_ready_seconds:
        found.invalid(
            "spec.progressDeadlineSeconds", spec.progress_deadline_seconds, "must be greater than minReadySeconds"
        )
    rolling = spec.strategy.rolling_update
    if rolling is None:
        return
    path = "spec.strategy.rollingUpdate"
    if spec.strategy.type == "Recreate":
        found.forbidden(path, "may not be specified when strategy `type` is 'Recreate'")
        return
    surge = _share(rolling.max_surge, f"{path}.maxSurge", found)
    unavailable = _share(rolling.max_unavailable, f"{path}.maxUnavailable", found)
    if isinstance(rolling.max_unavailable, str) and unavailable is not None and unavailable > 100:
        found.invalid(f"{path}.maxUnavailable", rolling.max_unavailable, "must not be greater than 100%")
    if surge == 0 and unavailable == 0:
        found.invalid(f"{path}.maxUnavailable", rolling.max_unavailable, "may not be 0 when `maxSurge` is 0")


def _share(value: int | str, path: str, found: Findings) -> int | None:
    """The number of a count or of a percentage; None where it is neither."""
    if isinstance(value, int):
        found.at_least(path, value, 0)
        return value
    if _PERCENT.fullmatch(value):
        return int(value[:-1])
    found.invalid(path, value, "must be a whole number or a percentage (e.g. 1 or '25%')")
    return None


def _replica_set(obj: apps.ReplicaSet, found: Findings) -> None:
    _replicas(obj.spec, "ReplicaSet", found)


_CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    core.ConfigMap: _config_map,
    core.Secret: _secret,
    core.Service: _service,
    core.Node: _node,
    core.PersistentVolumeClaim: _claim,
    core.Pod: _pod,
    core.Event: _event,
    apps.Deployment: _deployment,
    apps.ReplicaSet: _replica_set,
}
