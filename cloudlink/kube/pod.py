"""core/v1 Pod: the part of the user's language that says what runs. Defaults are Kubernetes' own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from cloudlink.kube.meta import (
    Condition,
    Empty,
    IntOrString,
    KubeObject,
    Many,
    Model,
    ObjectMeta,
    Quantity,
    Report,
    ResourceList,
    StringMap,
)

Protocol = Literal["TCP", "UDP"]


def put(model: Model, **values: object) -> None:
    """Fill in defaults of a frozen model while it is being made; only for validators."""
    for name, value in values.items():
        object.__setattr__(model, name, value)


# ---------------------------------------------------------------- environment


class KeySelector(Model):
    """One key of a ConfigMap or Secret of the pod's namespace."""

    name: str
    key: str
    optional: bool = False


class EnvVarSource(Model):
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None

    unsupported: ClassVar = frozenset({"fieldRef", "resourceFieldRef", "fileKeyRef"})


class EnvVar(Model):
    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvFromRef(Model):
    name: str
    optional: bool = False


class EnvFromSource(Model):
    prefix: str = ""
    config_map_ref: EnvFromRef | None = None
    secret_ref: EnvFromRef | None = None


# ---------------------------------------------------------------- container


class SecurityContext(Empty):
    """Accepted while empty, as other clusters write it out."""

    unsupported: ClassVar = frozenset(
        {"allowPrivilegeEscalation", "appArmorProfile", "capabilities", "privileged", "procMount"}
        | {"readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxOptions"}
        | {"seccompProfile", "windowsOptions"}
    )


class PodSecurityContext(Empty):
    """Accepted while empty, as other clusters write it out."""

    unsupported: ClassVar = frozenset(
        {"appArmorProfile", "fsGroup", "fsGroupChangePolicy", "runAsGroup", "runAsNonRoot", "runAsUser"}
        | {"seLinuxChangePolicy", "seLinuxOptions", "seccompProfile", "supplementalGroups"}
        | {"supplementalGroupsPolicy", "sysctls", "windowsOptions"}
    )


class ContainerPort(Model):
    container_port: int
    name: str = ""
    protocol: Protocol = "TCP"

    unsupported: ClassVar = frozenset({"hostPort", "hostIP"})


class ResourceRequirements(Model):
    """Keys are memory, cpu and ephemeral-storage; a request that is not given is the limit."""

    limits: ResourceList = Field(default={})
    requests: ResourceList = Field(default={})

    unsupported: ClassVar = frozenset({"claims"})

    @model_validator(mode="after")
    def _requests_default_to_limits(self) -> ResourceRequirements:
        if self.limits.keys() - self.requests.keys():
            put(self, requests=self.limits | self.requests)
        return self


class VolumeMount(Model):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""

    unsupported: ClassVar = frozenset({"mountPropagation", "recursiveReadOnly", "subPathExpr"})


class ExecAction(Model):
    command: Many[str] = ()


class HTTPHeader(Model):
    name: str
    value: str


class HTTPGetAction(Model):
    port: IntOrString
    path: str = "/"
    host: str = ""
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    http_headers: Many[HTTPHeader] = ()


class TCPSocketAction(Model):
    port: IntOrString
    host: str = ""


class Probe(Model):
    """Times in seconds. A period, timeout or threshold of 0 stands for its default, as in Kubernetes."""

    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3

    unsupported: ClassVar = frozenset({"grpc", "terminationGracePeriodSeconds"})

    @model_validator(mode="after")
    def _zero_is_default(self) -> Probe:
        if not (self.timeout_seconds and self.period_seconds and self.success_threshold and self.failure_threshold):
            put(
                self,
                timeout_seconds=self.timeout_seconds or 1,
                period_seconds=self.period_seconds or 10,
                success_threshold=self.success_threshold or 1,
                failure_threshold=self.failure_threshold or 3,
            )
        return self


def default_pull_policy(image: str) -> Literal["Always", "IfNotPresent"]:
    """Kubernetes': Always for :latest and for no tag at all."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "IfNotPresent" if tag and tag != "latest" else "Always"


class Container(Model):
    name: str
    image: str = ""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    command: Many[str] = ()
    args: Many[str] = ()
    working_dir: str = ""
    ports: Many[ContainerPort] = ()
    env: Many[EnvVar] = ()
    env_from: Many[EnvFromSource] = ()
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: Many[VolumeMount] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: Literal["File", "FallbackToLogsOnError"] = "File"
    security_context: SecurityContext | None = None

    unsupported: ClassVar = frozenset(
        {"lifecycle", "resizePolicy", "restartPolicy", "stdin", "stdinOnce", "tty", "volumeDevices"}
    )

    @model_validator(mode="after")
    def _pull_policy(self) -> Container:
        if self.image_pull_policy is None:
            put(self, image_pull_policy=default_pull_policy(self.image))
        return self


# ---------------------------------------------------------------- volumes


class EmptyDirVolume(Model):
    medium: Literal["", "Memory"] = ""
    size_limit: Quantity | None = None


class HostPathVolume(Model):
    path: str
    type: Literal[
        "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"
    ] = ""


class KeyToPath(Model):
    key: str
    path: str
    mode: int | None = None


class ConfigMapVolume(Model):
    name: str
    items: Many[KeyToPath] = ()
    default_mode: int = 0o644
    optional: bool = False


class SecretVolume(Model):
    secret_name: str
    items: Many[KeyToPath] = ()
    default_mode: int = 0o644
    optional: bool = False


class Volume(Model):
    """A name and exactly one source; no source at all is an emptyDir, as in Kubernetes."""

    name: str
    empty_dir: EmptyDirVolume | None = None
    host_path: HostPathVolume | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None

    unsupported: ClassVar = frozenset(
        {"awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "downwardAPI", "ephemeral"}
        | {"fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "image", "iscsi", "nfs"}
        | {"persistentVolumeClaim", "photonPersistentDisk", "portworxVolume", "projected", "quobyte", "rbd"}
        | {"scaleIO", "storageos", "vsphereVolume"}
    )

    @model_validator(mode="after")
    def _empty_dir_by_default(self) -> Volume:
        if self.empty_dir is None and self.host_path is None and self.config_map is None and self.secret is None:
            put(self, empty_dir=EmptyDirVolume())
        return self


# ---------------------------------------------------------------- pod


class Toleration(Model):
    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int | None = None


class PodSpec(Model):
    containers: Many[Container]
    volumes: Many[Volume] = ()
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: int = 30
    dns_policy: Literal["ClusterFirst"] = "ClusterFirst"
    node_selector: StringMap = Field(default={})
    node_name: str = ""
    hostname: str = ""
    tolerations: Many[Toleration] = ()
    scheduler_name: Literal["default-scheduler"] = "default-scheduler"
    enable_service_links: bool = True
    service_account_name: str = ""
    service_account: str = ""
    automount_service_account_token: Literal[False] | None = None
    security_context: PodSecurityContext | None = None

    unsupported: ClassVar = frozenset(
        {"activeDeadlineSeconds", "affinity", "dnsConfig", "ephemeralContainers", "hostAliases", "hostIPC"}
        | {"hostNetwork", "hostPID", "hostUsers", "imagePullSecrets", "initContainers", "os", "overhead"}
        | {"preemptionPolicy", "priority", "priorityClassName", "readinessGates", "resourceClaims", "resources"}
        | {"runtimeClassName", "schedulingGates", "setHostnameAsFQDN", "shareProcessNamespace", "subdomain"}
        | {"topologySpreadConstraints"}
    )


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
    last_probe_time: str = ""


class PodIP(Report):
    ip: str


class PodStatus(Report):
    phase: Literal["", "Pending", "Running", "Succeeded", "Failed", "Unknown"] = ""
    conditions: Many[PodCondition] = ()
    message: str = ""
    reason: str = ""
    host_ip: str = ""
    host_ips: Many[PodIP] = ()
    pod_ip: str = ""
    pod_ips: Many[PodIP] = ()
    start_time: str = ""
    container_statuses: Many[ContainerStatus] = ()
    qos_class: Literal["", "Guaranteed", "Burstable", "BestEffort"] = ""


class Pod(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["Pod"] = "Pod"
    spec: PodSpec
    status: PodStatus = PodStatus()
