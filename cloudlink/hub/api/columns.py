"""The columns that kubectl's users know, kind by kind (kubernetes/pkg/printers/internalversion/printers.go). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloudlink.hub.api import columns_access, columns_network, columns_policy, columns_workloads
from cloudlink.hub.api.cells import NONE, containers, pairs, selector_text, wide
from cloudlink.hub.api.table import AGE, NAME, Cells, Column, duration, seconds_of, since
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import ConfigMap, Event, Namespace, Node, PersistentVolumeClaim, Pod, Secret, Service
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.pod import ContainerStateTerminated, ContainerStatus

# ---------------------------------------------------------------- Pod


def pod_status(pod: Pod) -> str:
    """The word in the STATUS column: the most telling reason that any container gives."""
    reason = pod.status.reason or pod.status.phase
    if (
        pod.status.phase != "Failed" or not pod.status.reason
    ):  # else it is Evicted, DeadlineExceeded: nothing tells more
        initializing = "" if _is(pod, "Initialized") else _init_reason(pod)
        reason = initializing or _main_reason(pod, reason)
    if pod.metadata.deletion_timestamp and pod.status.phase not in ("Succeeded", "Failed"):
        reason = "Unknown" if pod.status.reason == "NodeLost" else "Terminating"
    return reason


def _main_reason(pod: Pod, reason: str) -> str:
    running = False
    for status in reversed(pod.status.container_statuses):
        state = status.state
        if state.waiting is not None and state.waiting.reason:
            reason = state.waiting.reason
        elif state.terminated is not None:
            reason = state.terminated.reason or _ending(state.terminated)
        elif status.ready and state.running is not None:
            running = True
    if reason == "Completed" and running:
        reason = "Running" if _is(pod, "Ready") else "NotReady"
    return reason


def _init_reason(pod: Pod) -> str:
    """What the first init container that isn't through is at; "" once all are."""
    sidecars = {c.name for c in pod.spec.init_containers if c.is_sidecar}
    for number, status in enumerate(pod.status.init_container_statuses):
        ended, waiting = status.state.terminated, status.state.waiting
        if ended is not None and ended.exit_code == 0:
            continue
        if status.name in sidecars and status.started:
            continue
        if ended is not None:
            return f"Init:{ended.reason or _ending(ended)}"
        if waiting is not None and waiting.reason not in ("", "PodInitializing", "ContainerCreating"):
            return f"Init:{waiting.reason}"
        return f"Init:{number}/{len(pod.spec.init_containers)}"
    return ""


def _ending(ended: ContainerStateTerminated) -> str:
    return f"Signal:{ended.signal}" if ended.signal else f"ExitCode:{ended.exit_code}"


def _is(pod: Pod, condition: str) -> bool:
    return any(c.type == condition and c.status == "True" for c in pod.status.conditions)


def _restarts(statuses: Iterable[ContainerStatus], now: float) -> str:
    total, last = 0, 0.0
    for status in statuses:
        total += status.restart_count
        if status.last_state.terminated is not None:
            last = max(last, seconds_of(status.last_state.terminated.finished_at) or 0.0)
    return f"{total} ({duration(now - last)} ago)" if total and last else str(total)


def _pod(pod: Pod, now: float) -> Sequence[object]:
    """Sidecars count among the containers; restarts of other init containers only while they are at work."""
    sidecars = {c.name for c in pod.spec.init_containers if c.is_sidecar}
    of_init, main = pod.status.init_container_statuses, pod.status.container_statuses
    staying = (*(s for s in of_init if s.name in sidecars), *main)
    initializing = _init_reason(pod) and not _is(pod, "Initialized")
    ready = sum(s.ready and s.state.running is not None for s in staying)
    return (
        pod.metadata.name,
        f"{ready}/{len(pod.spec.containers) + len(sidecars)}",
        pod_status(pod),
        _restarts(of_init if initializing else staying, now),
        since(pod.metadata.creation_timestamp, now),
        pod.status.pod_ip or NONE,
        pod.spec.node_name or NONE,
        NONE,
        NONE,
    )


_POD = (
    NAME,
    Column("Ready"),
    Column("Status"),
    Column("Restarts"),
    AGE,
    *wide("IP", "Node", "Nominated Node", "Readiness Gates"),
)

# ---------------------------------------------------------------- Deployment, ReplicaSet


def _deployment(obj: Deployment, now: float) -> Sequence[object]:
    status = obj.status
    return (
        obj.metadata.name,
        f"{status.ready_replicas}/{obj.spec.replicas}",
        status.updated_replicas,
        status.available_replicas,
        since(obj.metadata.creation_timestamp, now),
        *containers(obj.spec.template.spec.containers),
        selector_text(obj.spec.selector),
    )


_DEPLOYMENT = (
    NAME,
    Column("Ready"),
    Column("Up-to-date", "integer"),
    Column("Available", "integer"),
    AGE,
    *wide("Containers", "Images", "Selector"),
)


def _replica_set(obj: ReplicaSet, now: float) -> Sequence[object]:
    return (
        obj.metadata.name,
        obj.spec.replicas,
        obj.status.replicas,
        obj.status.ready_replicas,
        since(obj.metadata.creation_timestamp, now),
        *containers(obj.spec.template.spec.containers),
        selector_text(obj.spec.selector),
    )


_REPLICA_SET = (
    NAME,
    Column("Desired", "integer"),
    Column("Current", "integer"),
    Column("Ready", "integer"),
    AGE,
    *wide("Containers", "Images", "Selector"),
)

# ---------------------------------------------------------------- Service, ConfigMap, Secret, Namespace


def _service(obj: Service, now: float) -> Sequence[object]:
    return (
        obj.metadata.name,
        obj.spec.type,
        obj.spec.cluster_ip or NONE,
        _from_outside(obj),
        ",".join(f"{p.port}{f':{p.node_port}' if p.node_port else ''}/{p.protocol}" for p in obj.spec.ports) or NONE,
        since(obj.metadata.creation_timestamp, now),
        pairs(obj.spec.selector),
    )


def _from_outside(obj: Service) -> str:
    """EXTERNAL-IP."""
    spec = obj.spec
    if spec.type == "ExternalName":
        return spec.external_name
    addresses = list(spec.external_ips)
    if spec.type == "LoadBalancer":
        addresses = [i.ip or i.hostname for i in obj.status.load_balancer.ingress] + addresses
    return ",".join(addresses) or ("<pending>" if spec.type == "LoadBalancer" else NONE)


_SERVICE = (
    NAME,
    Column("Type"),
    Column("Cluster-IP"),
    Column("External-IP"),
    Column("Port(s)"),
    AGE,
    Column("Selector", wide=True),
)


def _config_map(obj: ConfigMap, now: float) -> Sequence[object]:
    return obj.metadata.name, len(obj.data) + len(obj.binary_data), since(obj.metadata.creation_timestamp, now)


def _secret(obj: Secret, now: float) -> Sequence[object]:
    return obj.metadata.name, obj.type, len(obj.data), since(obj.metadata.creation_timestamp, now)


def _namespace(obj: Namespace, now: float) -> Sequence[object]:
    return obj.metadata.name, obj.status.phase, since(obj.metadata.creation_timestamp, now)


# ---------------------------------------------------------------- PersistentVolumeClaim

_SHORT_MODES = {"ReadWriteOnce": "RWO", "ReadWriteOncePod": "RWOP"}


def _claim(obj: PersistentVolumeClaim, now: float) -> Sequence[object]:
    bound = bool(obj.spec.volume_name)
    return (
        obj.metadata.name,
        "Terminating" if obj.metadata.deletion_timestamp else obj.status.phase,
        obj.spec.volume_name,
        obj.status.capacity.get("storage", "") if bound else "",
        ",".join(_SHORT_MODES.get(m, m) for m in obj.status.access_modes) if bound else "",
        obj.spec.storage_class_name,
        "<unset>",
        since(obj.metadata.creation_timestamp, now),
        obj.spec.volume_mode,
    )


_CLAIM = (
    NAME,
    *(Column(n) for n in ("Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass")),
    AGE,
    Column("VolumeMode", wide=True),
)

# ---------------------------------------------------------------- Node

_ROLE = "node-role.kubernetes.io/"


def _node(obj: Node, now: float) -> Sequence[object]:
    ready = next((c.status for c in obj.status.conditions if c.type == "Ready"), "")
    words = ["Ready" if ready == "True" else "NotReady" if ready else "Unknown"]  # Unknown: it never spoke
    if obj.spec.unschedulable:
        words.append("SchedulingDisabled")
    roles = sorted(k.removeprefix(_ROLE) for k in obj.metadata.labels if k.startswith(_ROLE))
    addresses = {a.type: a.address for a in obj.status.addresses}
    info = obj.status.node_info
    return (
        obj.metadata.name,
        ",".join(words),
        ",".join(roles) or NONE,
        since(obj.metadata.creation_timestamp, now),
        info.kubelet_version,
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        info.os_image or "<unknown>",
        info.kernel_version or "<unknown>",
        info.container_runtime_version or "<unknown>",
    )


_NODE = (
    NAME,
    Column("Status"),
    Column("Roles"),
    AGE,
    Column("Version"),
    *wide("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"),
)

# ---------------------------------------------------------------- Event


def _event(obj: Event, now: float) -> Sequence[object]:
    about = obj.involved_object
    first = obj.first_timestamp or obj.event_time
    last = (obj.series.last_observed_time if obj.series else "") or obj.last_timestamp or first
    target = f"{about.kind.lower()}/{about.name}" if about.name else about.kind.lower()
    component = obj.source.component or obj.reporting_component
    return (
        since(last, now),
        obj.type,
        obj.reason,
        target,
        about.field_path,
        ", ".join(filter(None, (component, obj.source.host or obj.reporting_instance))),
        obj.message.strip(),
        since(first, now),
        (obj.series.count if obj.series else obj.count) or 1,
        obj.metadata.name,
    )


_EVENT = (
    Column("Last Seen"),
    Column("Type"),
    Column("Reason"),
    Column("Object"),
    *wide("Subobject", "Source"),
    Column("Message"),
    *wide("First Seen"),
    Column("Count", "integer", wide=True),
    Column("Name", wide=True, format="name"),
)

_ALL: Mapping[type[KubeObject], tuple[tuple[Column, ...], Any]] = {
    Pod: (_POD, _pod),
    Deployment: (_DEPLOYMENT, _deployment),
    ReplicaSet: (_REPLICA_SET, _replica_set),
    Service: (_SERVICE, _service),
    ConfigMap: ((NAME, Column("Data", "integer"), AGE), _config_map),
    Secret: ((NAME, Column("Type"), Column("Data", "integer"), AGE), _secret),
    Namespace: ((NAME, Column("Status"), AGE), _namespace),
    PersistentVolumeClaim: (_CLAIM, _claim),
    Node: (_NODE, _node),
    Event: (_EVENT, _event),
    **columns_workloads.COLUMNS,
    **columns_network.COLUMNS,
    **columns_policy.COLUMNS,
    **columns_access.COLUMNS,
}


def _only_names(obj: KubeObject, now: float) -> Sequence[object]:
    return obj.metadata.name, since(obj.metadata.creation_timestamp, now)


def columns_of(model: type[KubeObject]) -> tuple[tuple[Column, ...], Cells]:
    """A kind's columns, and the function that fills a row; name and age for a kind without its own."""
    return _ALL.get(model, ((NAME, AGE), _only_names))
