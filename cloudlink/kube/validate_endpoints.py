"""Rules for Endpoints and EndpointSlices. See `validate`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping

from cloudlink.kube import endpoints, names
from cloudlink.kube.findings import Findings
from cloudlink.kube.meta import KubeObject

MAX_ADDRESSES = 100  # of one endpoint
MAX_PORTS = 100


def _endpoints(obj: endpoints.Endpoints, found: Findings) -> None:
    for i, subset in enumerate(obj.subsets):
        path = f"subsets[{i}]"
        if not subset.addresses and not subset.not_ready_addresses:
            found.required(path, "must specify `addresses` or `notReadyAddresses`")
        for field, group in (("addresses", subset.addresses), ("notReadyAddresses", subset.not_ready_addresses)):
            for j, address in enumerate(group):
                here = f"{path}.{field}[{j}]"
                _address(address.ip, f"{here}.ip", found)
                if address.hostname:
                    found.text(f"{here}.hostname", address.hostname, names.dns_label)
        for j, port in enumerate(subset.ports):
            here = f"{path}.ports[{j}]"
            if port.name:
                found.text(f"{here}.name", port.name, names.dns_label)
            elif len(subset.ports) > 1:
                found.required(f"{here}.name")
            found.port(f"{here}.port", port.port)


def _address(text: str, path: str, found: Findings) -> None:
    """A Service may not be a way to the machine itself or to what only its own network segment should reach."""
    before = len(found.causes)
    found.ip(path, text, v6=True)
    if len(found.causes) > before or not text:
        return
    address = ipaddress.ip_address(text)
    for holds, why in (
        (address.is_unspecified, "may not be unspecified (0.0.0.0 or ::)"),
        (address.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (address.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (address in _LINK_LOCAL_MULTICAST, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ):
        if holds:
            found.invalid(path, text, why)


_LINK_LOCAL_MULTICAST = ipaddress.ip_network("224.0.0.0/24")


def _slice(obj: endpoints.EndpointSlice, found: Findings) -> None:
    if len(obj.endpoints) > endpoints.MAX_ENDPOINTS:
        found.too_long("endpoints", endpoints.MAX_ENDPOINTS, "items")
        return
    for i, endpoint in enumerate(obj.endpoints):
        path = f"endpoints[{i}]"
        if not endpoint.addresses:
            found.required(f"{path}.addresses", "must contain at least 1 address")
        elif len(endpoint.addresses) > MAX_ADDRESSES:
            found.too_long(f"{path}.addresses", MAX_ADDRESSES, "items")
            continue
        for j, address in enumerate(endpoint.addresses):
            here = f"{path}.addresses[{j}]"
            if obj.address_type == "FQDN":
                found.text(here, address, names.dns_subdomain)
            else:
                _address(address, here, found)
                _family(address, obj.address_type, here, found)
        if endpoint.node_name is not None:
            found.text(f"{path}.nodeName", endpoint.node_name, names.dns_subdomain)
        if endpoint.hostname is not None:
            found.text(f"{path}.hostname", endpoint.hostname, names.dns_label)
        if len(endpoint.deprecated_topology) > 0:
            found.labels(f"{path}.deprecatedTopology", endpoint.deprecated_topology)
    _slice_ports(obj, found)


def _family(address: str, family: str, path: str, found: Findings) -> None:
    if (":" in address) is not (family == "IPv6") and address:
        found.invalid(path, address, f"must be a valid {family} address")


def _slice_ports(obj: endpoints.EndpointSlice, found: Findings) -> None:
    if len(obj.ports) > MAX_PORTS:
        found.too_long("ports", MAX_PORTS, "items")
        return
    seen: set[object] = set()
    for i, port in enumerate(obj.ports):
        here = f"ports[{i}]"
        if port.name:
            found.text(f"{here}.name", port.name, names.dns_label)
        found.unique(f"{here}.name", port.name or "", seen)
        if port.port is not None:
            found.port(f"{here}.port", port.port)


CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {
    endpoints.Endpoints: _endpoints,
    endpoints.EndpointSlice: _slice,
}
