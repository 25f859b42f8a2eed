"""core/v1 Pod: the part of the user's language that says what runs. Defaults are Kubernetes' own.

Its parts: `container`, `env`, `probes`, `security`, `volumes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from cloudlink.kube.affinity import Affinity, PodReadinessGate, PreemptionPolicy, TopologySpreadConstraint
from cloudlink.kube.container import Container
from cloudlink.kube.meta import Condition, KubeObject, Many, Model, ObjectMeta, Report, StringMap, put
from cloudlink.kube.security import PodSecurityContext
from cloudlink.kube.volumes import Volume

# The two priority classes that every cluster has; others are objects (scheduling.PriorityClass).
PRIORITY_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}

# What keeps pods apart from the machine and from each other: fields that may not be true.
KEPT_APART = {
    "hostPID": "a pod that sees every process of the machine could end any of them; remove it",
    "hostIPC": "a pod that shares the machine's memory segments could read any of them; remove it",
    "shareProcessNamespace": "each container sees its own processes only; remove it",
    "setHostnameAsFQDN": "host names are short here; remove it",
}


class Toleration(Model):
    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int | None = None


class HostAlias(Model):
    """A further line of the pod's /etc/hosts."""

    ip: str
    hostnames: Many[str] = ()


class LocalObjectReference(Model):
    name: str = ""


class PodDNSConfigOption(Model):
    """As resolv.conf(5) has it: `ndots` with the value "5" say."""

    name: str = ""
    value: str | None = None


class PodDNSConfig(Model):
    """Added to what `dnsPolicy` gives."""

    nameservers: Many[str] = ()
    searches: Many[str] = ()
    options: Many[PodDNSConfigOption] = ()


class PodOS(Model):
    name: Literal["linux"]


class PodSpec(Model):
    """:ivar init_containers: one after the other before `containers`, each to success; sidecars among them stay.
    :ivar dns_policy: ClusterFirst: Services first, then the machine's own resolver; Default: that resolver only;
        None: what `dnsConfig` says.
    :ivar host_users: false gives the pod a user namespace of its own: root inside is nobody outside.
    :ivar image_pull_secrets: Secrets of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.
    :ivar priority: follows from `priorityClassName`; pods of lower priority are evicted first.
    :ivar priority_class_name: system-node-critical, system-cluster-critical or a PriorityClass of one's own.
    :ivar active_deadline_seconds: after its start the pod is ended; not in templates of pods that run for ever.
    :ivar enable_service_links: no link variables are made, whatever it says.
    :ivar tolerations: `tolerationSeconds` bounds how long a NoExecute taint is stood; new pods get the usual ones.
    :ivar affinity, topology_spread_constraints: as in Kubernetes; they decide where a pod is placed, and move none.
    :ivar preemption_policy: Never: the pod waits for room, whatever its priority; no other is ended for it.
    :ivar readiness_gates: kept, but a pod is ready when its containers are.
    :ivar host_pid: only false: a pod that sees every process of the machine could end any of them.
    :ivar host_ipc: only false: a pod that shares the machine's memory segments could read any of them.
    :ivar share_process_namespace: only false: each container sees its own processes.
    :ivar set_hostname_as_fqdn: only false: host names are short.
    """

    containers: Many[Container]
    init_containers: Many[Container] = ()
    volumes: Many[Volume] = ()
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"] = "ClusterFirst"
    dns_config: PodDNSConfig | None = None
    node_selector: StringMap = Field(default={})
    node_name: str = ""
    host_network: bool = False
    host_users: bool | None = None
    hostname: str = ""
    subdomain: str = ""
    host_aliases: Many[HostAlias] = ()
    image_pull_secrets: Many[LocalObjectReference] = ()
    security_context: PodSecurityContext | None = None
    tolerations: Many[Toleration] = ()
    scheduler_name: Literal["default-scheduler"] = "default-scheduler"
    priority: int | None = None
    priority_class_name: str = ""
    enable_service_links: bool = True
    service_account_name: str = ""
    service_account: str = ""
    automount_service_account_token: bool | None = None
    os: PodOS | None = None
    affinity: Affinity | None = None
    topology_spread_constraints: Many[TopologySpreadConstraint] = ()
    readiness_gates: Many[PodReadinessGate] = ()
    preemption_policy: PreemptionPolicy | None = None
    host_pid: bool = False
    host_ipc: bool = False
    share_process_namespace: bool | None = None
    set_hostname_as_fqdn: bool | None = None

    unsupported: ClassVar = frozenset(
        {"ephemeralContainers", "hostnameOverride", "overhead", "resourceClaims", "resources", "runtimeClassName"}
        | {"schedulingGates"}
    )
    why_not: ClassVar = {
        "overhead": "there is one runtime here, crun, and what it costs is in the node's own share; remove it",
        "resources": "give each container its own",
        "runtimeClassName": "there is one runtime here, crun; remove it",
        "schedulingGates": "the pod would be placed without waiting for them; create it when it may run",
    }

    @model_validator(mode="after")
    def _defaults(self) -> PodSpec:
        if self.host_network:
            put(self, containers=tuple(map(_on_the_host, self.containers)))
            put(self, init_containers=tuple(map(_on_the_host, self.init_containers)))
        if self.priority is None and self.priority_class_name in PRIORITY_CLASSES:
            put(self, priority=PRIORITY_CLASSES[self.priority_class_name])
        return self


def _on_the_host(container: Container) -> Container:
    """In the machine's network every port is one of the machine's (Kubernetes' SetDefaults_PodSpec)."""
    if all(p.host_port for p in container.ports):
        return container
    ports = tuple(p if p.host_port else p.model_copy(update={"host_port": p.container_port}) for p in container.ports)
    return container.model_copy(update={"ports": ports})


class PodTemplateSpec(Model):
    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec


# ---------------------------------------------------------------- status


class ContainerStateWaiting(Report):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(Report):
    started_at: str = ""


class ContainerStateTerminated(Report):
    exit_code: int
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str = ""
    finished_at: str = ""
    container_id: str = ""


class ContainerState(Report):
    """At most one of the three; none means waiting."""

    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Report):
    always: ClassVar = frozenset({"image", "image_id", "ready", "restart_count"})

    name: str
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    ready: bool
    restart_count: int
    image: str
    image_id: str = ""
    container_id: str = ""
    started: bool | None = None


class PodCondition(Condition):
    always: ClassVar = frozenset()

    last_probe_time: str = ""


class PodIP(Report):
    ip: str


class PodStatus(Report):
    phase: Literal["", "Pending", "Running", "Succeeded", "Failed", "Unknown"] = ""
    conditions: Many[PodCondition] = ()
    message: str = ""
    reason: str = ""
    nominated_node_name: str = ""
    host_ip: str = ""
    host_ips: Many[PodIP] = ()
    pod_ip: str = ""
    pod_ips: Many[PodIP] = ()
    start_time: str = ""
    init_container_statuses: Many[ContainerStatus] = ()
    container_statuses: Many[ContainerStatus] = ()
    qos_class: Literal["", "Guaranteed", "Burstable", "BestEffort"] = ""


class Pod(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["Pod"] = "Pod"
    spec: PodSpec
    status: PodStatus = PodStatus()


def effective(spec: PodSpec, amount: Callable[[Container], int]) -> int:
    """What a pod needs at its most demanding moment (component-helpers/resource): init containers run alone, but beside
    the sidecars before them."""
    sidecars, most = 0, 0
    for container in spec.init_containers:
        if container.is_sidecar:
            sidecars += amount(container)
            most = max(most, sidecars)
        else:
            most = max(most, sidecars + amount(container))
    return max(most, sidecars + sum(map(amount, spec.containers)))
