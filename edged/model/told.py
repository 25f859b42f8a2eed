"""What is told to people and to the hub."""

from __future__ import annotations

import enum

from edged.model.base import Value


class Phase(enum.StrEnum):
    """A pod's phase, in Kubernetes' words and meanings (v1 PodPhase)."""

    PENDING = "Pending"  # accepted; not every container has been started yet
    RUNNING = "Running"  # every container was started, and at least one runs or is being restarted
    SUCCEEDED = "Succeeded"  # every container ended with 0 and won't be restarted
    FAILED = "Failed"  # every container ended, at least one badly, and won't be restarted
    UNKNOWN = "Unknown"  # the node could not be asked


class ContainerStatus(Value, frozen=True):
    """One container as it is told to people: `state` is waiting, running or terminated (v1 ContainerState).

    :ivar working_set_p95: bytes of memory that it stays below 95 % of the time, learned and coarsely rounded, so that
        it seldom changes; 0 = not known yet. `working_set_peak` likewise.
    """

    name: str
    image: str
    state: str
    reason: str = ""
    message: str = ""
    ready: bool = False
    started: bool = False
    restarts: int = 0
    exit_code: int | None = None
    started_wall: float = 0.0
    finished_wall: float = 0.0
    container_id: str = ""
    image_id: str = ""
    last_reason: str = ""
    last_exit_code: int | None = None
    last_started_wall: float = 0.0
    last_finished_wall: float = 0.0
    working_set_p95: int = 0
    working_set_peak: int = 0


class PodStatus(Value, frozen=True):
    uid: str
    namespace: str
    name: str
    phase: Phase
    ready: bool = False
    ip: str = ""
    reason: str = ""
    message: str = ""
    started_wall: float = 0.0
    containers: tuple[ContainerStatus, ...] = ()
    init: tuple[ContainerStatus, ...] = ()
    initialized: bool = True
    qos: str = ""


class Event(Value, frozen=True):
    """Something that a person may want to know. `seq` grows within one boot of one daemon (`NodeStatus.epoch`).

    :ivar kind: Normal or Warning, as in Kubernetes' Event.type.
    :ivar pod: uid of the pod, or "" for the node itself.
    """

    seq: int
    wall: float
    kind: str
    reason: str
    message: str
    pod: str = ""
    title: str = ""
    container: str = ""


class Capacity(Value, frozen=True):
    """What the board has. Memory and storage in bytes, CPU in thousandths of a core.

    :ivar devices: claimable device name -> how many containers may have it (edged.runtime.devices).
    """

    memory: int
    memory_allocatable: int
    cpu: int
    pods: int = 110
    architecture: str = ""
    kernel: str = ""
    os: str = ""
    runtime: str = ""
    storage: int = 0
    storage_allocatable: int = 0
    devices: dict[str, int] = {}


NOT_READY = "NotReady"  # kind of the condition that makes the Node's Ready False


class NodeCondition(Value, frozen=True):
    """MemoryPressure, DiskPressure or PIDPressure (v1 NodeConditionType), or NOT_READY: no pod can be started here now.
    Only those that hold are told."""

    kind: str
    reason: str
    message: str
    since_wall: float = 0.0


class Refusal(Value, frozen=True):
    """Documents that the node would not take: how many, and why the last one.

    :ivar generation: of the last one; 0 = it could not be told.
    """

    count: int
    reason: str
    wall: float
    generation: int = 0


class StoredImage(Value, frozen=True):
    """An image that needn't be fetched.

    :ivar name: canonical ("docker.io/library/busybox:1.36").
    :ivar size: bytes; layers that others share count here, too.
    """

    name: str
    size: int


class NodeStatus(Value, frozen=True):
    """What one node says of itself; sent whole, and only when it differs from the last one sent.

    :ivar generation: of the desired document that this status speaks of.
    :ivar epoch: changes when the daemon starts, so that event numbers can't be confused.
    :ivar images: the largest that are here, by name; not all, where there are very many.
    :ivar degraded: sentences, one for each thing this machine can't do fully (a cgroup v1 rung, say).
    """

    node: str
    generation: int
    epoch: str
    capacity: Capacity
    pods: tuple[PodStatus, ...] = ()
    events: tuple[Event, ...] = ()
    degraded: tuple[str, ...] = ()
    refused: Refusal | None = None
    boot_id: str = ""
    version: str = ""
    address: str = ""
    dashboard: str = ""
    conditions: tuple[NodeCondition, ...] = ()
    labels: dict[str, str] = {}
    images: tuple[StoredImage, ...] = ()


class LinkState(enum.StrEnum):
    """How this node stands to its hub."""

    CONNECTED = "connected"  # the broker is there and we are subscribed
    AWAY = "away"  # there is a hub, but no connection to it now; the node carries on alone
    LOCAL = "local"  # no hub by choice: desired state comes from a file


class HubLink(Value, frozen=True):
    """:ivar since_wall: when `state` began, seconds since 1970; 0 where unknown.
    :ivar reason: why it is away ("" when connected or local), a sentence for people.
    """

    state: LinkState = LinkState.LOCAL
    since_wall: float = 0.0
    reason: str = ""


class ContainerUsage(Value, frozen=True):
    """What a container uses right now; for the local dashboard and the bench, never in NodeStatus."""

    memory: int = 0
    memory_limit: int | None = None
    cpu_seconds: float = 0.0
    pids: int = 0
