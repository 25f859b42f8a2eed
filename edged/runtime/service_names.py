"""The names of Services as dnsmasq reads them (Kubernetes DNS-Based Service Discovery). Pure.

    <service>.<namespace>.svc.<domain>              A: the cluster IP, or every ready pod of a headless Service
    <host>.<service>.<namespace>.svc.<domain>       A: a pod with that hostname and the Service as its subdomain
    _<port>._<protocol>.<service>.<namespace>.svc.<domain>     SRV: a named port of the Service

SRV points at the Service's own name, also for a headless one, where Kubernetes points at each pod: so its answer
changes only with the Service itself, never with the pods behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged.model import ServiceRules
from edged.runtime.service_rules import HEADLESS, LABEL


def hosts_file(domain: str, services: Sequence[ServiceRules]) -> str:
    """hosts(5), for dnsmasq's addn-hosts.

    :param services: as `service_rules.check` returns them.
    """
    lines = []
    for service in services:
        name = f"{service.name}.{service.namespace}.svc.{domain}"
        addresses = service.addresses if service.cluster_ip in HEADLESS else (service.cluster_ip,)
        lines += [f"{ip} {host}.{name}\n" for host, ip in service.hosts]  # first: asked for an address, it's the pod
        lines += [f"{address} {name}\n" for address in addresses]
    return "".join(lines)


def settings_file(domain: str, services: Sequence[ServiceRules]) -> str:
    """dnsmasq(8)'s settings for what a hosts file can't say: its SRV records."""
    lines = []
    for service in services:
        name = f"{service.name}.{service.namespace}.svc.{domain}"
        for port in service.ports:
            if LABEL.fullmatch(port.name):
                number = port.target_port if service.cluster_ip in HEADLESS else port.port
                lines.append(f"srv-host=_{port.name}._{port.protocol.lower()}.{name},{name},{number}\n")
    return "".join(lines)
