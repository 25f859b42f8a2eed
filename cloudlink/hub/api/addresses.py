"""Cluster IPs for Services: each one once, out of one network. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from cloudlink.kube.core import Service
from cloudlink.kube.errors import Cause, Invalid

DEFAULT_NETWORK = ipaddress.IPv4Network("10.96.0.0/16")


def with_cluster_ip(service: Service, others: Iterable[Service], network: ipaddress.IPv4Network) -> Service:
    """The Service with an address that no other has; headless ones keep "None". Invalid where there is none to have.

    Free addresses are taken in a circle from the highest in use, so that a fresh Service doesn't get the address
    of one just deleted, which clients may still have in their caches.
    """
    wanted = service.spec.cluster_ip
    if wanted == "None" or service.spec.type == "ExternalName":
        return service
    taken = {o.spec.cluster_ip: o for o in others}
    if wanted:
        if wanted in taken:
            raise _refused(
                service, f'Invalid value: "{wanted}": provided IP is already allocated to {taken[wanted].title}'
            )
        if ipaddress.IPv4Address(wanted) not in network:
            raise _refused(service, f'Invalid value: "{wanted}": the range of valid IPs is {network}')
        return _with(service, wanted)
    first, count = int(network.network_address) + 1, network.num_addresses - 2
    used = {int(ipaddress.IPv4Address(ip)) for ip in taken if ip not in ("", "None")}
    start = max((ip for ip in used if ip in range(first, first + count)), default=first - 1) - first + 1
    for step in range(count):
        candidate = first + (start + step) % count
        if candidate not in used:
            return _with(service, str(ipaddress.IPv4Address(candidate)))
    raise _refused(service, f"no address left in {network}; delete a Service or give the hub a larger network")


def _with(service: Service, address: str) -> Service:
    spec = service.spec.model_copy(update={"cluster_ip": address, "cluster_ips": (address,), "ip_families": ("IPv4",)})
    return service.model_copy(update={"spec": spec})


def _refused(service: Service, why: str) -> Invalid:
    cause = Cause("spec.clusterIPs", "FieldValueInvalid", why)
    return Invalid([cause], service.kind, service.metadata.name)
