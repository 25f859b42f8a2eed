"""The node's vocabulary: everything resolved, in bytes and seconds, with no I/O and no optional cruft.

Three families: what is wanted (`Desired` and below), what is there (`Observed` and below), and what is
told (`NodeStatus` and below). All are frozen; a change is a new value. All travel as msgpack, so every field
has a default only where leaving it out has one obvious meaning, and fields are only ever added at the end.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping

import msgspec


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of every struct here: frozen, compared by value, small on the wire. Subclasses repeat `frozen` for mypy."""


# ---------------------------------------------------------------- what is wanted


class RestartPolicy(enum.StrEnum):
    """When an ended container is started again."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Limits(Value, frozen=True):
    """What a container asks for and may use. None means no limit.

    :ivar memory_request: bytes set aside at admission.
    :ivar memory_limit: bytes at which the kernel kills.
    :ivar cpu_request: thousandths of a core; becomes weight.
    :ivar cpu_limit: thousandths of a core; becomes quota.
    """

    memory_request: int = 0
    memory_limit: int | None = None
    cpu_request: int = 0
    cpu_limit: int | None = None
    pids_limit: int = 1024


class Env(Value, frozen=True):
    """One environment variable: a literal `value`, or a key of a config or of a secret of the pod's namespace.

    Exactly one of the three sources is given. `optional` lets a missing config, secret or key pass as unset.
    """

    name: str
    value: str | None = None
    config: str | None = None
    secret: str | None = None
    key: str = ""
    optional: bool = False


class EnvFrom(Value, frozen=True):
    """Every key of a config or secret as a variable, names prefixed."""

    config: str | None = None
    secret: str | None = None
    prefix: str = ""
    optional: bool = False


class Mount(Value, frozen=True):
    """Where a volume of the pod appears inside one container."""

    volume: str
    path: str
    read_only: bool = False
    sub_path: str = ""


class KeyToPath(Value, frozen=True):
    """One key of a config or secret as a file below the mount; mode are permission bits."""

    key: str
    path: str
    mode: int | None = None


class EmptyDir(Value, frozen=True, tag="emptyDir"):
    """Scratch space that lives as long as the pod."""

    memory: bool = False
    size_limit: int | None = None


class HostPath(Value, frozen=True, tag="hostPath"):
    """A file or folder of the machine itself. `kind` is Kubernetes' hostPath type ("" = no check)."""

    path: str
    kind: str = ""


class ConfigFiles(Value, frozen=True, tag="config"):
    """A config's keys as files; all of them unless `items` picks some."""

    config: str
    items: tuple[KeyToPath, ...] = ()
    mode: int = 0o644
    optional: bool = False


class SecretFiles(Value, frozen=True, tag="secret"):
    """A secret's keys as files on memory-backed storage."""

    secret: str
    items: tuple[KeyToPath, ...] = ()
    mode: int = 0o644
    optional: bool = False


VolumeSource = EmptyDir | HostPath | ConfigFiles | SecretFiles


class Volume(Value, frozen=True):
    name: str
    source: VolumeSource


class ExecAction(Value, frozen=True, tag="exec"):
    """Healthy when the command ends with 0 inside the container."""

    command: tuple[str, ...]


class HttpAction(Value, frozen=True, tag="http"):
    """Healthy when GET answers with 200 to 399. `host` "" means the pod's own address."""

    port: int
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()


class TcpAction(Value, frozen=True, tag="tcp"):
    """Healthy when the port accepts a connection. `host` "" means the pod's own address."""

    port: int
    host: str = ""


ProbeAction = ExecAction | HttpAction | TcpAction


class Probe(Value, frozen=True):
    """How to ask a container how it is; all times in seconds."""

    action: ProbeAction
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


class Port(Value, frozen=True):
    """A port that a container says it listens on; `protocol` is TCP or UDP."""

    port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Value, frozen=True):
    """One container of a pod.

    :ivar command: replaces the image's entrypoint; None keeps it. `$(VAR)` is expanded at start.
    :ivar args: replaces the image's cmd; None keeps it unless `command` is given.
    """

    name: str
    image: str
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str = ""
    env: tuple[Env, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    limits: Limits = Limits()
    liveness: Probe | None = None
    readiness: Probe | None = None
    startup: Probe | None = None


class Pod(Value, frozen=True):
    """A group of containers that share one network namespace. `uid` is unique for ever, `name` only now."""

    namespace: str
    name: str
    uid: str
    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...] = ()
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    termination_grace: float = 30.0
    hostname: str = ""

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def memory_request(self) -> int:
        return sum(c.limits.memory_request for c in self.containers)


class ServicePort(Value, frozen=True):
    port: int
    target_port: int
    name: str = ""
    protocol: str = "TCP"


class Service(Value, frozen=True):
    """A stable address for some pods. `pods` are uids on this node, `remote` addresses on others."""

    namespace: str
    name: str
    cluster_ip: str
    ports: tuple[ServicePort, ...]
    pods: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()


class Desired(Value, frozen=True):
    """Everything one node should do, as one document.

    :ivar generation: grows with every change; a node never goes back.
    :ivar configs: "namespace/name" -> key -> bytes.
    :ivar secrets: "namespace/name" -> sealed bytes that only this node can open (see Uplink.unseal).
    """

    fleet: str
    node: str
    generation: int
    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    configs: dict[str, dict[str, bytes]] = {}
    secrets: dict[str, bytes] = {}


class Material(Value, frozen=True):
    """The plain content that one pod refers to: config and secret name (without namespace) -> key -> bytes.

    Exists only while a pod is being started; its secrets are never printed, stored or sent.
    """

    configs: Mapping[str, Mapping[str, bytes]] = {}
    secrets: Mapping[str, Mapping[str, bytes]] = {}

    def __repr__(self) -> str:
        return f"Material(configs={sorted(self.configs)}, secrets={sorted(self.secrets)})"


def container_identity(pod: Pod, container: Container) -> str:
    """A short hash of everything that can only be changed by starting a new container.

    The content of configs and secrets is left out on purpose: changing it must not restart anything.
    Probes are left out too: they are asked from outside.
    """
    lasting = msgspec.structs.replace(container, liveness=None, readiness=None, startup=None, ports=())
    used = tuple(v for v in pod.volumes if any(m.volume == v.name for m in container.mounts))
    packed = msgspec.msgpack.encode((lasting, used, pod.hostname))
    return hashlib.blake2b(packed, digest_size=6).hexdigest()


# ---------------------------------------------------------------- what is there


class Image(Value, frozen=True):
    """An image that is in the store, ready to be stacked. `layers` are folders, the lowest first.

    :ivar id: "sha256:<hex>" of the image's config, as OCI defines the image id.
    """

    reference: str
    id: str
    layers: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    size: int = 0


class ContainerPhase(enum.StrEnum):
    """Where one container is in its life."""

    STARTING = "starting"  # being created; not yet known to run
    RUNNING = "running"  # its first process is alive
    EXITED = "exited"  # its first process has ended; exit_code tells how
    UNKNOWN = "unknown"  # there are traces of it, but neither a process nor an exit code


class ContainerState(Value, frozen=True):
    """One attempt at running one container, as seen on the machine.

    Times are seconds of CLOCK_BOOTTIME, which no wrong clock can move; wall times are for people only.

    :ivar id: unique on the node: "<pod uid>.<container name>.<attempt>".
    :ivar attempt: 0 for the first start in this pod, then counting up.
    :ivar crashes: consecutive ends that count towards backoff, as decided when this attempt was started.
    :ivar identity: container_identity() that it was started with.
    :ivar exit_code: 128 + signal for a signalled end; None while running or where nobody saw the end.
    :ivar monitored: False once its conmon is gone; it runs on, its logs are then kept by the daemon.
    """

    id: str
    pod_uid: str
    name: str
    attempt: int
    identity: str
    phase: ContainerPhase
    crashes: int = 0
    pid: int = 0
    started_at: float = 0.0
    started_wall: float = 0.0
    finished_at: float = 0.0
    finished_wall: float = 0.0
    exit_code: int | None = None
    oom_killed: bool = False
    monitored: bool = True
    image_id: str = ""
    stop_requested_at: float = 0.0
    stop_reason: str = ""


class SandboxState(Value, frozen=True):
    """What a pod has before its containers: its folders and its network namespace.

    :ivar ready: False when a part is missing (the namespace, after a power cut, say) and it must be made again.
    :ivar pod: "namespace/name", so that a sandbox whose pod is no longer wanted still has a name.
    """

    pod_uid: str
    pod: str
    ip: str
    ready: bool = True
    termination_grace: float = 30.0
    memory_request: int = 0  # still in use while the pod is leaving


class Health(Value, frozen=True):
    """What the probes of one running container have said so far, folded by decide.health."""

    started: bool
    ready: bool
    live: bool = True
    reason: str = ""
    startup_run: int = 0
    readiness_run: int = 0
    liveness_run: int = 0


class Setback(Value, frozen=True):
    """The last failure of a step for one pod, kept until a step of it succeeds.

    :ivar retry_at: CLOCK_BOOTTIME second before which the pod isn't tried again; infinity for permanent ones.
    :ivar clearing: it was a stop, a removal or the services that failed: nothing of this pod is tried before then.
        Otherwise only starts wait.
    """

    reason: str
    message: str
    count: int
    retry_at: float
    clearing: bool = False


class ServiceRules(Value, frozen=True):
    """One Service resolved to addresses: what the machine should forward and answer for.

    `addresses` are pod IPs that are ready, in a stable order; none means connections are refused.
    """

    namespace: str
    name: str
    cluster_ip: str
    ports: tuple[ServicePort, ...]
    addresses: tuple[str, ...] = ()


class Observed(Value, frozen=True):
    """All that the decider sees. `busy` pods have steps under way and are left alone.

    :ivar services: the rules in force; None when nobody knows (a daemon that has just started).
    """

    containers: tuple[ContainerState, ...] = ()
    sandboxes: tuple[SandboxState, ...] = ()
    images: frozenset[str] = frozenset()
    services: tuple[ServiceRules, ...] | None = None
    health: Mapping[str, Health] = {}
    setbacks: Mapping[str, Setback] = {}
    busy: frozenset[str] = frozenset()


# ---------------------------------------------------------------- what is told


class Phase(enum.StrEnum):
    """A pod's phase, in Kubernetes' words and meanings (v1 PodPhase)."""

    PENDING = "Pending"  # accepted; not every container has been started yet
    RUNNING = "Running"  # every container was started, and at least one runs or is being restarted
    SUCCEEDED = "Succeeded"  # every container ended with 0 and won't be restarted
    FAILED = "Failed"  # every container ended, at least one badly, and won't be restarted
    UNKNOWN = "Unknown"  # the node could not be asked


class ContainerStatus(Value, frozen=True):
    """One container as it is told to people: `state` is waiting, running or terminated (v1 ContainerState)."""

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
    """What the board has. Memory in bytes, CPU in thousandths of a core."""

    memory: int
    memory_allocatable: int
    cpu: int
    pods: int = 110
    architecture: str = ""
    kernel: str = ""
    os: str = ""
    runtime: str = ""


class Refusal(Value, frozen=True):
    """Documents that the node would not take: how many, and why the last one."""

    count: int
    reason: str
    wall: float


class NodeStatus(Value, frozen=True):
    """What one node says of itself; sent whole, and only when it differs from the last one sent.

    :ivar generation: of the desired document that this status speaks of.
    :ivar epoch: changes when the daemon starts, so that event numbers can't be confused.
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
