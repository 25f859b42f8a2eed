"""What is there: all that the decider sees of the machine."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from edged.model.actions import Hook
from edged.model.base import Value
from edged.model.pods import ServicePort
from edged.model.told import PodStatus


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
    stop_signal: str = ""


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
    :ivar stop_requested_at: when its end was decided; its grace period counts from here.
    :ivar signalled: the stop signal was sent. With `pre_stop` that comes after the hook, else at once.
    :ivar post_started: False while its postStart hook has not succeeded yet; it isn't ready before.
    :ivar devices: what it was given, "name=path major:minor", as in Observed.devices.
    :ivar message: its termination message, at most 4096 bytes.
    :ivar sidecar: its place among its pod's sidecars, from 1; they end after the rest, the last first. 0 = it is none.
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
    signalled: bool = False
    post_started: bool = True
    pre_stop: Hook | None = None
    devices: tuple[str, ...] = ()
    message: str = ""
    sidecar: int = 0


class SandboxState(Value, frozen=True):
    """What a pod has before its containers: its folders and its network namespace.

    :ivar ready: False when a part is missing (the namespace, after a power cut, say) and it must be made again.
    :ivar pod: "namespace/name", so that a sandbox whose pod is no longer wanted still has a name.
    :ivar material: digest of the configs, secrets and labels that its files show (Material.digest).
    :ivar evicted: why the pod was ended for good ("Evicted", "DeadlineExceeded"); "" = it wasn't. Such a pod is not
        started again under this uid as long as the sandbox stays.
    :ivar frozen: the degradation ladder has stopped it in its tracks; nobody in it can answer.
    """

    pod_uid: str
    pod: str
    ip: str
    ready: bool = True
    termination_grace: float = 30.0
    memory_request: int = 0  # still in use while the pod is leaving
    created_at: float = 0.0  # CLOCK_BOOTTIME second; the active deadline counts from here
    material: str = ""
    evicted: str = ""
    evicted_message: str = ""
    frozen: bool = False


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

    :ivar hosts: (host name, IP) for <host name>.<service>.<namespace>.svc: pods with a `subdomain`.
    """

    namespace: str
    name: str
    cluster_ip: str
    ports: tuple[ServicePort, ...]
    addresses: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()


class HostPort(Value, frozen=True):
    """A port of the machine that leads to a pod; `host_ip` "" = on every address."""

    protocol: str
    port: int
    address: str
    target_port: int
    host_ip: str = ""


class Observed(Value, frozen=True):
    """All that the decider sees. Owners (`Step.owner`) in `busy` have steps under way and are left alone.

    :ivar images: references, as written in containers, that are here and complete.
    :ivar services: the rules in force; None when nobody knows (a daemon that has just started).
    :ivar host_ports: likewise.
    :ivar setbacks: by owner.
    :ivar asked: uids of pods whose `Always` images need not be asked for (again), and "<uid> <reference>" where that
        holds for one image.
    :ivar devices: claimed device name -> "path major:minor" of what is plugged in now.
    :ivar claims: uids of the persistent volumes on this node's storage.
    :ivar claim_sizes: bytes that they hold, by uid, as far as this daemon has seen to it.
    :ivar killed: container id -> when it was last sent SIGKILL.
    :ivar wall: seconds since 1970; None where the clock can't be right.
    :ivar unheard: the hub may yet say which pods it has moved while this node was away (edged.first_word).
    :ivar ended: pods that are not started again: uid -> the last that was told of it (edged.endings).
    """

    containers: tuple[ContainerState, ...] = ()
    sandboxes: tuple[SandboxState, ...] = ()
    images: frozenset[str] = frozenset()
    services: tuple[ServiceRules, ...] | None = None
    health: Mapping[str, Health] = {}
    setbacks: Mapping[str, Setback] = {}
    busy: frozenset[str] = frozenset()
    host_ports: tuple[HostPort, ...] | None = None
    asked: frozenset[str] = frozenset()
    devices: Mapping[str, str] = {}
    claims: frozenset[str] = frozenset()
    claim_sizes: Mapping[str, int] = {}
    killed: Mapping[str, float] = {}
    wall: float | None = None
    unheard: bool = False
    ended: Mapping[str, PodStatus] = {}
