"""Columns of what leads to pods, and of what bounds it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudlink.hub.api.cells import NONE, UNSET, first_few, selector_text
from cloudlink.hub.api.table import AGE, NAME, Column, since
from cloudlink.kube.endpoints import Endpoints, EndpointSlice
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.networking import Ingress, IngressClass, NetworkPolicy

_ADDRESS_WIDTH = 16


def _endpoints(obj: Endpoints, now: float) -> Sequence[object]:
    shown: list[str] = []
    for subset in obj.subsets:
        if not subset.ports:
            shown += [a.ip for a in subset.addresses]
        for port in subset.ports:
            shown += [_with_port(a.ip, port.port) for a in subset.addresses]
    return obj.metadata.name, first_few(shown, NONE), since(obj.metadata.creation_timestamp, now)


def _with_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _slice(obj: EndpointSlice, now: float) -> Sequence[object]:
    ports = ["*" if p.port is None and not p.name else str(p.port or p.name) for p in obj.ports]
    return (
        obj.metadata.name,
        obj.address_type,
        first_few(ports, UNSET),
        first_few([a for e in obj.endpoints for a in e.addresses], UNSET),
        since(obj.metadata.creation_timestamp, now),
    )


def _ingress(obj: Ingress, now: float) -> Sequence[object]:
    hosts = [rule.host for rule in obj.spec.rules if rule.host]
    addresses = [i.ip or i.hostname for i in obj.status.load_balancer.ingress]
    address = ",".join(filter(None, addresses))
    if len(address) > _ADDRESS_WIDTH:
        address = f"{address[: _ADDRESS_WIDTH - 3]}..."
    return (
        obj.metadata.name,
        NONE if obj.spec.ingress_class_name is None else obj.spec.ingress_class_name,
        first_few(hosts, "*"),
        address,
        "80, 443" if obj.spec.tls else "80",
        since(obj.metadata.creation_timestamp, now),
    )


def _ingress_class(obj: IngressClass, now: float) -> Sequence[object]:
    parameters = obj.spec.parameters
    shown = NONE
    if parameters is not None:
        kind = f"{parameters.kind}.{parameters.api_group}" if parameters.api_group else parameters.kind
        shown = f"{kind}/{parameters.name}"
    return obj.metadata.name, obj.spec.controller, shown, since(obj.metadata.creation_timestamp, now)


def _network_policy(obj: NetworkPolicy, now: float) -> Sequence[object]:
    return obj.metadata.name, selector_text(obj.spec.pod_selector), since(obj.metadata.creation_timestamp, now)


COLUMNS: Mapping[type[KubeObject], tuple[tuple[Column, ...], Any]] = {
    Endpoints: ((NAME, Column("Endpoints"), AGE), _endpoints),
    EndpointSlice: ((NAME, Column("AddressType"), Column("Ports"), Column("Endpoints"), AGE), _slice),
    Ingress: ((NAME, Column("Class"), Column("Hosts"), Column("Address"), Column("Ports"), AGE), _ingress),
    IngressClass: ((NAME, Column("Controller"), Column("Parameters"), AGE), _ingress_class),
    NetworkPolicy: ((NAME, Column("Pod-Selector"), AGE), _network_policy),
}
