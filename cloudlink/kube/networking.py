"""networking.k8s.io/v1: NetworkPolicy, Ingress, IngressClass."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from cloudlink.kube.meta import IntOrString, KubeObject, LabelSelector, Many, Model, Report, put
from cloudlink.kube.references import TypedLocalObjectReference

# ---------------------------------------------------------------- NetworkPolicy


class NetworkPolicyPort(Model):
    """:ivar port: number or name; every port where nothing is said.
    :ivar end_port: last of a range that begins with `port`.
    """

    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    port: IntOrString | None = None
    end_port: int | None = None


class IPBlock(Model):
    cidr: str
    except_: Many[str] = ()


class NetworkPolicyPeer(Model):
    """Pods of this namespace, of selected namespaces, or a range of addresses."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class NetworkPolicyIngressRule(Model):
    ports: Many[NetworkPolicyPort] = ()
    from_: Many[NetworkPolicyPeer] = ()


class NetworkPolicyEgressRule(Model):
    ports: Many[NetworkPolicyPort] = ()
    to: Many[NetworkPolicyPeer] = ()


class NetworkPolicySpec(Model):
    """:ivar policy_types: Ingress, and Egress where there are egress rules, unless said otherwise."""

    pod_selector: LabelSelector = LabelSelector()
    ingress: Many[NetworkPolicyIngressRule] = ()
    egress: Many[NetworkPolicyEgressRule] = ()
    policy_types: Many[Literal["Ingress", "Egress"]] = ()

    @model_validator(mode="after")
    def _types(self) -> NetworkPolicySpec:
        """SetDefaults_NetworkPolicy."""
        if not self.policy_types:
            put(self, policy_types=("Ingress", "Egress") if self.egress else ("Ingress",))
        return self


class NetworkPolicy(KubeObject):
    api_version: Literal["networking.k8s.io/v1"] = "networking.k8s.io/v1"
    kind: Literal["NetworkPolicy"] = "NetworkPolicy"
    spec: NetworkPolicySpec = NetworkPolicySpec(policy_types=("Ingress",))


# ---------------------------------------------------------------- Ingress


class ServiceBackendPort(Model):
    name: str = ""
    number: int = 0


class IngressServiceBackend(Model):
    name: str
    port: ServiceBackendPort = ServiceBackendPort()


class IngressBackend(Model):
    """A Service of the namespace, or another object that leads somewhere."""

    service: IngressServiceBackend | None = None
    resource: TypedLocalObjectReference | None = None


class HTTPIngressPath(Model):
    path: str = ""
    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"]
    backend: IngressBackend


class HTTPIngressRuleValue(Model):
    paths: Many[HTTPIngressPath]


class IngressRule(Model):
    host: str = ""
    http: HTTPIngressRuleValue | None = None


class IngressTLS(Model):
    hosts: Many[str] = ()
    secret_name: str = ""


class IngressSpec(Model):
    ingress_class_name: str | None = None
    default_backend: IngressBackend | None = None
    tls: Many[IngressTLS] = ()
    rules: Many[IngressRule] = ()


class IngressPortStatus(Report):
    always: ClassVar = frozenset({"port", "protocol"})

    port: int = 0
    protocol: str = ""
    error: str | None = None


class IngressLoadBalancerIngress(Report):
    ip: str = ""
    hostname: str = ""
    ports: Many[IngressPortStatus] = ()


class IngressLoadBalancerStatus(Report):
    ingress: Many[IngressLoadBalancerIngress] = ()


class IngressStatus(Report):
    load_balancer: IngressLoadBalancerStatus = IngressLoadBalancerStatus()


class Ingress(KubeObject):
    api_version: Literal["networking.k8s.io/v1"] = "networking.k8s.io/v1"
    kind: Literal["Ingress"] = "Ingress"
    spec: IngressSpec = IngressSpec()
    status: IngressStatus = IngressStatus()


# ---------------------------------------------------------------- IngressClass


class IngressClassParameters(Model):
    api_group: str | None = None
    kind: str
    name: str
    scope: Literal["Cluster", "Namespace"] = "Cluster"
    namespace: str | None = None


class IngressClassSpec(Model):
    controller: str = ""
    parameters: IngressClassParameters | None = None


class IngressClass(KubeObject):
    api_version: Literal["networking.k8s.io/v1"] = "networking.k8s.io/v1"
    kind: Literal["IngressClass"] = "IngressClass"
    spec: IngressClassSpec = IngressClassSpec()
