"""core/v1: Namespace, ConfigMap, Secret, Service, Event; and, from rooms of their own, Pod with its parts, Node and
PersistentVolumeClaim."""

from __future__ import annotations

import base64
from typing import Literal

from pydantic import Field, model_validator

from cloudlink.kube.claims import PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus
from cloudlink.kube.container import Container, ContainerPort, Protocol, ResourceRequirements
from cloudlink.kube.env import (
    EnvFromRef,
    EnvFromSource,
    EnvVar,
    EnvVarSource,
    KeySelector,
    ObjectFieldSelector,
    ResourceFieldSelector,
)
from cloudlink.kube.meta import (
    Condition,
    IntOrString,
    KubeObject,
    Many,
    Model,
    ObjectMeta,
    Report,
    StringMap,
    put,
)
from cloudlink.kube.nodes import (
    ContainerImage,
    Node,
    NodeAddress,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    NodeSystemInfo,
    Taint,
)
from cloudlink.kube.pod import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    Pod,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
    PodTemplateSpec,
    Toleration,
)
from cloudlink.kube.probes import (
    ExecAction,
    GRPCAction,
    HTTPGetAction,
    HTTPHeader,
    Lifecycle,
    LifecycleHandler,
    Probe,
    SleepAction,
    TCPSocketAction,
)
from cloudlink.kube.references import ObjectReference
from cloudlink.kube.security import Capabilities, PodSecurityContext, SeccompProfile, SecurityContext
from cloudlink.kube.volumes import (
    ConfigMapVolume,
    DownwardAPIVolumeFile,
    EmptyDirVolume,
    HostPathVolume,
    KeyToPath,
    SecretVolume,
    Volume,
    VolumeMount,
    VolumeProjection,
)

# ---------------------------------------------------------------- Namespace


class NamespaceSpec(Model):
    finalizers: Many[str] = ()


class NamespaceStatus(Report):
    phase: Literal["", "Active", "Terminating"] = ""
    conditions: Many[Condition] = ()


class Namespace(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["Namespace"] = "Namespace"
    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


# ---------------------------------------------------------------- ConfigMap and Secret


class ConfigMap(KubeObject):
    """`data` is text, `binary_data` base64; no key may be in both."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ConfigMap"] = "ConfigMap"
    data: StringMap = Field(default={})
    binary_data: StringMap = Field(default={})
    immutable: bool | None = None


class Secret(KubeObject):
    """`data` is base64. `stringData` is only for writing: it is merged into `data` at once, as in Kubernetes."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Secret"] = "Secret"
    type: str = "Opaque"
    data: StringMap = Field(default={}, repr=False)
    string_data: StringMap = Field(default={}, repr=False)
    immutable: bool | None = None

    @model_validator(mode="after")
    def _string_data_is_data(self) -> Secret:
        if self.string_data:
            # surrogatepass: a lone surrogate can come out of JSON; it must not crash us here
            plain = {k: v.encode("utf-8", "surrogatepass") for k, v in self.string_data.items()}
            encoded = {k: base64.b64encode(v).decode("ascii") for k, v in plain.items()}
            put(self, data=self.data | encoded, string_data={})
        return self


# ---------------------------------------------------------------- Service


class ServicePort(Model):
    """`target_port` is a number or the name of a container port; the same as `port` where not given.

    :ivar node_port: kept; no port of the nodes leads here yet.
    """

    port: int
    name: str = ""
    protocol: Protocol = "TCP"
    app_protocol: str = ""
    target_port: IntOrString = 0
    node_port: int = 0

    @model_validator(mode="after")
    def _target_is_port(self) -> ServicePort:
        if self.target_port in (0, ""):
            put(self, target_port=self.port)
        return self


class ClientIPConfig(Model):
    timeout_seconds: int = 10800


class SessionAffinityConfig(Model):
    client_ip: ClientIPConfig = ClientIPConfig()


class ServiceSpec(Model):
    """`cluster_ip` "" means not assigned yet, "None" a headless Service.

    What leads into the fleet from outside (node ports, load balancers, external addresses) is kept, and nobody acts
    upon it yet; see `inert`.
    """

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    selector: StringMap = Field(default={})
    ports: Many[ServicePort] = ()
    cluster_ip: str = ""
    cluster_ips: Many[str] = ()
    external_name: str = ""
    external_ips: Many[str] = ()
    session_affinity: Literal["None", "ClientIP"] = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    external_traffic_policy: Literal["", "Cluster", "Local"] = ""
    traffic_distribution: str | None = None
    publish_not_ready_addresses: bool = False
    health_check_node_port: int = 0
    load_balancer_ip: str = ""
    load_balancer_class: str | None = None
    load_balancer_source_ranges: Many[str] = ()
    allocate_load_balancer_node_ports: bool | None = None
    ip_families: Many[Literal["IPv4"]] = ()
    ip_family_policy: Literal["SingleStack", "PreferDualStack"] = "SingleStack"

    @model_validator(mode="after")
    def _defaults(self) -> ServiceSpec:
        """SetDefaults_Service."""
        if self.session_affinity == "ClientIP" and self.session_affinity_config is None:
            put(self, session_affinity_config=SessionAffinityConfig())
        if self.session_affinity == "None" and self.session_affinity_config is not None:
            put(self, session_affinity_config=None)
        if self.type in ("NodePort", "LoadBalancer") and not self.external_traffic_policy:
            put(self, external_traffic_policy="Cluster")
        if self.type == "LoadBalancer" and self.allocate_load_balancer_node_ports is None:
            put(self, allocate_load_balancer_node_ports=True)
        return self


class LoadBalancerIngress(Report):
    ip: str = ""
    hostname: str = ""
    ip_mode: str | None = None


class LoadBalancerStatus(Report):
    """Empty until something in front of the fleet writes there where it can be reached."""

    ingress: Many[LoadBalancerIngress] = ()


class ServiceStatus(Report):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: Many[Condition] = ()


class Service(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["Service"] = "Service"
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


# ---------------------------------------------------------------- Event


class EventSource(Model):
    component: str = ""
    host: str = ""


class EventSeries(Model):
    count: int = 0
    last_observed_time: str = ""


class Event(KubeObject):
    """core/v1 Event, as `kubectl describe` and `kubectl get events` read it."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Event"] = "Event"
    involved_object: ObjectReference
    reason: str = ""
    message: str = ""
    type: str = ""
    count: int = 0
    source: EventSource = EventSource()
    first_timestamp: str = ""
    last_timestamp: str = ""
    event_time: str = ""
    series: EventSeries | None = None
    action: str = ""
    related: ObjectReference | None = None
    reporting_component: str = ""
    reporting_instance: str = ""


__all__ = [
    "Capabilities",
    "ConfigMap",
    "ConfigMapVolume",
    "Container",
    "ContainerImage",
    "ContainerPort",
    "ContainerState",
    "ContainerStateRunning",
    "ContainerStateTerminated",
    "ContainerStateWaiting",
    "ContainerStatus",
    "DownwardAPIVolumeFile",
    "EmptyDirVolume",
    "EnvFromRef",
    "EnvFromSource",
    "EnvVar",
    "EnvVarSource",
    "Event",
    "EventSeries",
    "EventSource",
    "ExecAction",
    "GRPCAction",
    "HTTPGetAction",
    "HTTPHeader",
    "HostPathVolume",
    "KeySelector",
    "KeyToPath",
    "Lifecycle",
    "LifecycleHandler",
    "LoadBalancerStatus",
    "Namespace",
    "NamespaceSpec",
    "NamespaceStatus",
    "Node",
    "NodeAddress",
    "NodeCondition",
    "NodeSpec",
    "NodeStatus",
    "NodeSystemInfo",
    "ObjectFieldSelector",
    "ObjectMeta",
    "ObjectReference",
    "PersistentVolumeClaim",
    "PersistentVolumeClaimSpec",
    "PersistentVolumeClaimStatus",
    "Pod",
    "PodCondition",
    "PodIP",
    "PodSecurityContext",
    "PodSpec",
    "PodStatus",
    "PodTemplateSpec",
    "Probe",
    "ResourceFieldSelector",
    "ResourceRequirements",
    "SeccompProfile",
    "Secret",
    "SecretVolume",
    "SecurityContext",
    "Service",
    "ServicePort",
    "ServiceSpec",
    "ServiceStatus",
    "SleepAction",
    "TCPSocketAction",
    "Taint",
    "Toleration",
    "Volume",
    "VolumeMount",
    "VolumeProjection",
]
