"""From what a node says to Kubernetes' words: edged.model's PodStatus and NodeStatus -> v1 status. Pure.

Nodes' clocks may be wrong: wall times from before this software existed count as unknown, and conditions carry the
hub's time (`now`, RFC 3339), kept from the old status for as long as they say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Literal, NamedTuple

from cloudlink.kube import core, names, quantity
from cloudlink.kube.container import DEVICE_PREFIX
from cloudlink.kube.meta import Condition, ConditionStatus
from edged import model

_EARLIEST = 1_577_836_800.0  # 2020-01-01: a board without a real-time clock boots in 1970
_LATEST = 4_102_444_800.0  # 2100-01-01
_State = tuple[ConditionStatus, str, str]  # status, reason, message
UNSEEN_EXIT_CODE = 137  # what Kubernetes reports for a container whose end nobody saw


def rfc3339(wall: float) -> str:
    """Unix seconds as Kubernetes writes times (UTC, whole seconds); "" where the clock can't have been right."""
    if not _EARLIEST <= wall <= _LATEST:
        return ""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


QosClass = Literal["Guaranteed", "Burstable", "BestEffort"]
_COMPUTE = ("memory", "cpu")
_READINESS = ("ContainersReady", "Ready")
# Node conditions that hold only when the node says so, and the reason while they don't.
_PRESSURES = (
    ("MemoryPressure", "SufficientMemory"),
    ("DiskPressure", "NoDiskPressure"),
    ("PIDPressure", "SufficientPID"),
)

# ---------------------------------------------------------------- pods


def pod_status(status: model.PodStatus, old: core.Pod, now: str, host_ip: str = "") -> core.PodStatus:
    """The pod's new status after a report of its node.

    :param old: the stored pod; its spec gives the QoS class, its status what hasn't changed.
    """
    readiness = _readiness(status, old.spec)
    conditions = _conditions(
        old.status.conditions,
        now,
        (
            ("PodScheduled", ("True", "", "")),
            ("Initialized", _initialization(status, old.spec)),
            ("ContainersReady", readiness),
            ("Ready", readiness),
            *_disruption(status),
        ),
    )
    return core.PodStatus(
        phase=status.phase.value,
        conditions=conditions,
        message=status.message,
        reason=status.reason,
        host_ip=host_ip,
        host_ips=(core.PodIP(ip=host_ip),) if host_ip else (),
        pod_ip=status.ip,
        pod_ips=(core.PodIP(ip=status.ip),) if status.ip else (),
        start_time=old.status.start_time or rfc3339(status.started_wall) or now,
        init_container_statuses=tuple(_container(c) for c in status.init),
        container_statuses=tuple(
            _container(c, "ContainerCreating" if status.initialized else "PodInitializing")
            for c in sorted(status.containers, key=lambda c: c.name)
        ),
        qos_class=old.status.qos_class or qos_class(old.spec),  # it never changes
    )


def _disruption(status: model.PodStatus) -> Iterator[tuple[str, _State]]:
    """DisruptionTarget, which a Job's podFailurePolicy may look for: it wasn't the pod's own fault."""
    if status.reason == "Evicted":
        yield "DisruptionTarget", ("True", "TerminationByKubelet", status.message)


def _readiness(status: model.PodStatus, spec: core.PodSpec) -> _State:
    """ContainersReady and Ready (kubelet's status.GeneratePodReadyCondition)."""
    if status.ready:
        return "True", "", ""
    if status.phase is model.Phase.SUCCEEDED:
        return "False", "PodCompleted", ""
    if status.phase is model.Phase.FAILED:
        return "False", "PodFailed", ""
    sidecars = {c.name for c in spec.init_containers if c.is_sidecar}
    unready = [c.name for c in status.init if c.name in sidecars and not c.ready]
    unready += [c.name for c in status.containers if not c.ready]
    unready += sorted({c.name for c in spec.containers} - {c.name for c in status.containers})
    message = f"containers with unready status: [{' '.join(unready)}]" if unready else status.message
    return "False", "ContainersNotReady", message


def _initialization(status: model.PodStatus, spec: core.PodSpec) -> _State:
    """Initialized (kubelet's status.GeneratePodInitializedCondition)."""
    if status.initialized or status.phase is model.Phase.SUCCEEDED:
        return "True", "", ""
    sidecars = {c.name for c in spec.init_containers if c.is_sidecar}
    there = {c.name: c for c in status.init}
    waiting = [
        c.name
        for c in spec.init_containers
        if (told := there.get(c.name)) is None or not (told.started if c.name in sidecars else told.exit_code == 0)
    ]
    return "False", "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(waiting)}]"


def unreachable(heard: core.PodStatus, old: core.Pod, now: str) -> core.PodStatus:
    """The pod's status while its node can't be asked: everything stays as last heard, readiness is Unknown.

    :param heard: by the node's last word; `old` is the stored pod, which gives the times.
    """
    unknown: _State = ("Unknown", "NodeUnreachable", "the node has not been heard of; the pod may well be running")
    there = {c.type: c for c in old.status.conditions}
    conditions = _conditions(
        [there.get(c.type, c) if c.type in _READINESS else c for c in heard.conditions],
        now,
        [(kind, unknown) for kind in _READINESS],
    )
    return heard.model_copy(update={"conditions": conditions})


def _conditions(
    old: Sequence[core.PodCondition], now: str, wanted: Sequence[tuple[str, _State]]
) -> tuple[core.PodCondition, ...]:
    """Conditions (type, (status, reason, message)), with the old time where the status is the same; others stay."""
    before = {c.type: c for c in old}
    fresh = {
        kind: core.PodCondition(
            type=kind,
            status=state,
            reason=reason,
            message=message,
            last_transition_time=_since(before.get(kind), state, now),
        )
        for kind, (state, reason, message) in wanted
    }
    kept = [fresh.pop(c.type, c) for c in old]
    return (*kept, *fresh.values())


def _since(old: Condition | None, state: str, now: str) -> str:
    return old.last_transition_time if old is not None and old.status == state and old.last_transition_time else now


def _container(status: model.ContainerStatus, waits: str = "ContainerCreating") -> core.ContainerStatus:
    """:param waits: the reason of one that waits and has none of its own."""
    last = core.ContainerState()
    if status.last_exit_code is not None or status.last_reason or status.last_finished_wall:
        last = core.ContainerState(
            terminated=_terminated(
                status.last_exit_code,
                status.last_reason,
                "",
                status.last_started_wall,
                status.last_finished_wall,
            )
        )
    return core.ContainerStatus(
        name=status.name,
        image=status.image,
        image_id=status.image_id,
        container_id=f"edged://{status.container_id}" if status.container_id else "",
        state=_state(status, waits),
        last_state=last,
        ready=status.ready,
        started=status.started,
        restart_count=status.restarts,
    )


def _state(status: model.ContainerStatus, waits: str) -> core.ContainerState:
    match status.state:
        case "running":
            return core.ContainerState(
                running=core.ContainerStateRunning(started_at=rfc3339(status.started_wall)),
            )
        case "terminated":
            return core.ContainerState(
                terminated=_terminated(
                    status.exit_code, status.reason, status.message, status.started_wall, status.finished_wall
                )
            )
        case _:
            return core.ContainerState(
                waiting=core.ContainerStateWaiting(reason=status.reason or waits, message=status.message)
            )


def _terminated(
    code: int | None, reason: str, message: str, started: float, finished: float
) -> core.ContainerStateTerminated:
    if code is None:
        reason = reason or "ContainerStatusUnknown"
        message = message or "nobody saw how the container ended"
    return core.ContainerStateTerminated(
        exit_code=UNSEEN_EXIT_CODE if code is None else code,
        reason=reason or ("Error" if code else "Completed"),
        message=message,
        started_at=rfc3339(started),
        finished_at=rfc3339(finished),
    )


def qos_class(spec: core.PodSpec) -> QosClass:
    """Kubernetes' rule: Guaranteed if every container's requests equal its limits for memory and CPU, init containers
    included; an amount of 0 counts as none (component-helpers/core/v1/pods/qos)."""
    containers = (*spec.init_containers, *spec.containers)
    resources = [
        (_amount(c.resources.limits, name), _amount(c.resources.requests, name))
        for c in containers
        for name in _COMPUTE
    ]
    if all(limit and limit == request for limit, request in resources):
        return "Guaranteed"
    return "Burstable" if any(limit or request for limit, request in resources) else "BestEffort"


def _amount(amounts: Mapping[str, str], name: str) -> Fraction:
    return quantity.exact(amounts.get(name, "0"))


# ---------------------------------------------------------------- nodes


class Absence(NamedTuple):
    """Why a node counts as away: reason and message of its Ready condition."""

    reason: str
    message: str


def lost_connection(now: str) -> Absence:
    """The broker has told the node's last will. `now` is when, RFC 3339."""
    return Absence(
        "NodeUnreachable",
        f"edged lost its connection to the broker, which was noticed at {now}; its pods run on, what they do now is not"
        " known",
    )


def silence(now: str, grace: float) -> Absence:
    """Nothing was heard of it for `grace` seconds after the hub had reached its broker."""
    return Absence(
        "NodeStatusUnknown",
        f"edged said nothing in the {grace:.0f} s until {now}, since the hub reached its broker; its pods may run on",
    )


def away(heard: core.NodeStatus, old: core.NodeStatus, absence: Absence, now: str) -> core.NodeStatus:
    """The Node's status while it can't be asked: what only it can tell is Unknown. A reason that is there stays.

    :param heard: by the node's last word; `old` is the stored one, which gives the times, and is returned itself if
        there is nothing new.
    """
    ready = next((c for c in old.conditions if c.type == "Ready"), None)
    if ready is not None and ready.status == "Unknown":
        states = {c.type: c for c in old.conditions if c.status == "Unknown"}
    else:
        said: list[tuple[str, _State]] = [("Ready", ("Unknown", *absence))]
        said += [
            (kind, ("Unknown", "NodeStatusUnknown", "edged is not heard"))
            for kind, _ in _PRESSURES
            if any(c.type == kind for c in heard.conditions)
        ]
        states = {c.type: c for c in _node_conditions(old.conditions, now, said)}
    kept = tuple(states.pop(c.type, c) for c in heard.conditions)
    fresh = heard.model_copy(update={"conditions": (*kept, *states.values())})
    return old if _same(fresh, old) else fresh


def node_status(status: model.NodeStatus, now: str, old: core.NodeStatus | None = None) -> core.NodeStatus:
    """The Node's new status after a report.

    :param old: the stored one; returned itself if there is nothing new, so that nothing needs to be written.
    """
    before = old if old is not None else core.NodeStatus()
    capacity = status.capacity
    degraded: _State = (
        ("True", "ReducedFunction", "; ".join(status.degraded))
        if status.degraded
        else ("False", "FullFunction", "this machine can do everything that edged may ask of it")
    )
    told = {c.kind: c for c in status.conditions}
    trouble = told.get(model.NOT_READY)
    ready: _State = (
        ("True", "NodeReady", "edged is reporting")
        if trouble is None
        else ("False", trouble.reason or "KubeletNotReady", trouble.message)
    )
    states: list[tuple[str, _State]] = [
        (kind, ("True", told[kind].reason, told[kind].message) if kind in told else ("False", calm, ""))
        for kind, calm in _PRESSURES
    ]
    states += [("Ready", ready), ("Degraded", degraded)]
    if status.refused is not None:
        message = f"{status.refused.count} refused so far, the last one because: {status.refused.reason}"
        states.append(("DesiredStateRefused", ("True", "NotAccepted", message)))
    fresh = core.NodeStatus(
        capacity=_resources(capacity, capacity.memory, capacity.storage),
        allocatable=_resources(capacity, capacity.memory_allocatable, capacity.storage_allocatable),
        conditions=_node_conditions(before.conditions, now, states),
        addresses=_addresses(status),
        node_info=core.NodeSystemInfo(
            boot_id=status.boot_id,
            kernel_version=capacity.kernel,
            os_image=capacity.os,
            container_runtime_version=capacity.runtime,
            kubelet_version=status.version,
            architecture=capacity.architecture,
        ),
        images=tuple(core.ContainerImage(names=(i.name,), size_bytes=i.size) for i in status.images),
    )
    return before if _same(fresh, before) else fresh


def _resources(capacity: model.Capacity, memory: int, storage: int) -> dict[str, str]:
    """cpu, memory, pods, ephemeral-storage where the node knows it, and its devices by name."""
    found = {
        "cpu": quantity.format_milli(capacity.cpu),
        "memory": quantity.format_bytes(memory),
        "pods": str(capacity.pods),
    }
    if capacity.storage:
        found["ephemeral-storage"] = quantity.format_bytes(storage)
    return found | {
        f"{DEVICE_PREFIX}{name}": str(count)
        for name, count in sorted(capacity.devices.items())
        if not names.device_name(name) and count >= 0
    }


def _addresses(status: model.NodeStatus) -> tuple[core.NodeAddress, ...]:
    found = [("InternalIP", status.address), ("Hostname", status.node)]
    return tuple(core.NodeAddress(type=kind, address=address) for kind, address in found if address)


def _node_conditions(
    old: Sequence[core.NodeCondition], now: str, wanted: Sequence[tuple[str, _State]]
) -> tuple[core.NodeCondition, ...]:
    before = {c.type: c for c in old}
    return tuple(
        core.NodeCondition(
            type=kind,
            status=state,
            reason=reason,
            message=message,
            last_heartbeat_time=now,
            last_transition_time=_since(before.get(kind), state, now),
        )
        for kind, (state, reason, message) in wanted
    )


def _same(fresh: core.NodeStatus, before: core.NodeStatus) -> bool:
    """Whether only heartbeats differ."""

    def still(status: core.NodeStatus) -> core.NodeStatus:
        silent = tuple(c.model_copy(update={"last_heartbeat_time": ""}) for c in status.conditions)
        return status.model_copy(update={"conditions": silent})

    return still(fresh) == still(before)
