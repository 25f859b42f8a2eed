"""One container as it is wanted."""

from __future__ import annotations

import enum

from edged.model.actions import Hook, Probe
from edged.model.base import Value
from edged.model.volumes import Mount, ResourceRef


class RestartPolicy(enum.StrEnum):
    """When an ended container is started again."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class PullPolicy(enum.StrEnum):
    """When an image is fetched (v1 PullPolicy).

    ALWAYS asks the registry once for each new pod; where an image of that name is here and the registry can't be
    reached, what is here is used, and after a power cut nobody is asked: a node needs no permission to go on.
    """

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Limits(Value, frozen=True):
    """What a container asks for and may use. None means no limit.

    :ivar memory_request: bytes set aside at admission.
    :ivar memory_limit: bytes at which the kernel kills.
    :ivar cpu_request: thousandths of a core; becomes weight.
    :ivar cpu_limit: thousandths of a core; becomes quota.
    :ivar storage_request: bytes of node storage set aside (writable layer, disk emptyDirs).
    :ivar storage_limit: bytes of node storage at which the pod is evicted.
    """

    memory_request: int = 0
    memory_limit: int | None = None
    cpu_request: int = 0
    cpu_limit: int | None = None
    pids_limit: int = 1024
    storage_request: int = 0
    storage_limit: int | None = None


class Env(Value, frozen=True):
    """One environment variable: a literal `value`, a key of a config or of a secret of the pod's namespace, a field of
    the pod ("status.podIP", "metadata.labels['app']"), or a number.

    Exactly one of the sources is given. `optional` lets a missing config, secret or key pass as unset.
    """

    name: str
    value: str | None = None
    config: str | None = None
    secret: str | None = None
    key: str = ""
    optional: bool = False
    field: str = ""
    resource: ResourceRef | None = None


class EnvFrom(Value, frozen=True):
    """Every key of a config or secret as a variable, names prefixed."""

    config: str | None = None
    secret: str | None = None
    prefix: str = ""
    optional: bool = False


class Port(Value, frozen=True):
    """A port that a container says it listens on; `protocol` is TCP or UDP.

    :ivar host_port: the machine's own port that leads here; 0 = none. `host_ip` "" = on all addresses.
    """

    port: int
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = ""


class Security(Value, frozen=True):
    """What a container's processes are and may: the pod's and the container's securityContext as one.

    :ivar user: numeric; None = as the image says. `group` likewise.
    :ivar non_root: refuse to start as uid 0.
    :ivar groups: supplementalGroups; the pod's fs_group comes on top.
    :ivar add, drop: capabilities without "CAP_"; "ALL" stands for all of them.
    :ivar escalation: may gain privileges by set-uid programs and file capabilities. Kubernetes' default is yes, ours
        no: who needs it says so.
    :ivar seccomp: "RuntimeDefault", "Unconfined", or "Localhost/<file below the node's seccomp folder>".
    """

    user: int | None = None
    group: int | None = None
    non_root: bool = False
    groups: tuple[int, ...] = ()
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    read_only_root: bool = False
    escalation: bool = False
    privileged: bool = False
    seccomp: str = "RuntimeDefault"


class Container(Value, frozen=True):
    """One container of a pod.

    :ivar command: replaces the image's entrypoint; None keeps it. `$(VAR)` is expanded at start.
    :ivar args: replaces the image's cmd; None keeps it unless `command` is given.
    :ivar sidecar: among a pod's `init` containers: keeps running beside the others (v1 restartPolicy: Always).
    :ivar devices: names of boards' devices that it may use, see edged.runtime.devices.
    :ivar termination_message_fallback: the end of the log stands in where an unsuccessful end left no message.
    :ivar stdin: its standard input is kept open for who attaches; otherwise there is none. `stdin_once`: it ends when
        the first of them leaves.
    :ivar tty: its standard streams are a terminal.
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
    pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    security: Security = Security()
    post_start: Hook | None = None
    pre_stop: Hook | None = None
    sidecar: bool = False
    devices: tuple[str, ...] = ()
    termination_message_path: str = "/dev/termination-log"
    termination_message_fallback: bool = False
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
