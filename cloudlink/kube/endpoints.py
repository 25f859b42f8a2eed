"""Where Services lead to: core/v1 Endpoints and discovery.k8s.io/v1 EndpointSlice."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cloudlink.kube.meta import KubeObject, Many, Model, StringMap, put
from cloudlink.kube.references import ObjectReference

SERVICE_NAME = "kubernetes.io/service-name"  # label: the Service that a slice belongs to
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MAX_ENDPOINTS = 1000  # of one slice, by hand; the hub's own hold 100


class EndpointAddress(Model):
    ip: str
    hostname: str = ""
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class EndpointsPort(Model):
    port: int
    name: str = ""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    app_protocol: str | None = None


class EndpointSubset(Model):
    """Every address has every port."""

    addresses: Many[EndpointAddress] = ()
    not_ready_addresses: Many[EndpointAddress] = ()
    ports: Many[EndpointsPort] = ()


class Endpoints(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["Endpoints"] = "Endpoints"
    subsets: Many[EndpointSubset] = ()


class EndpointConditions(Model):
    """:ivar ready: traffic may go there; absent counts as true.
    :ivar serving: ready, or would be if it weren't on its way out.
    """

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Model):
    name: str


class ForNode(Model):
    name: str


class EndpointHints(Model):
    for_zones: Many[ForZone] = ()
    for_nodes: Many[ForNode] = ()


class Endpoint(Model):
    addresses: Many[str]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    target_ref: ObjectReference | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None
    deprecated_topology: StringMap = Field(default={})


class EndpointPort(Model):
    """:ivar port: every port where nothing is said."""

    name: str | None = None
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    port: int | None = None
    app_protocol: str | None = None

    @model_validator(mode="after")
    def _has_a_name(self) -> EndpointPort:
        """SetDefaults_EndpointPort: "" rather than absent; kubectl describe falls over without."""
        if self.name is None:
            put(self, name="")
        return self


class EndpointSlice(KubeObject):
    api_version: Literal["discovery.k8s.io/v1"] = "discovery.k8s.io/v1"
    kind: Literal["EndpointSlice"] = "EndpointSlice"
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: Many[Endpoint] = ()
    ports: Many[EndpointPort] = ()
