"""Services as text: the nftables script that forwards to their pods. Pure.

Forwarding follows kube-proxy's nftables mode: one lookup from (cluster IP, protocol, port) to a chain that picks a
ready pod at random; what still goes to a cluster IP after that has nobody behind it and is refused at once.
Ports of the machine that lead to pods (host_ports) are in the same table, so both change in one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from edged.model import HostPort, ServicePort, ServiceRules
from edged.runtime import host_ports
from edged.runtime.nftables import removal_script
from edged.runtime.wiring import ip_number

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
PROTOCOLS = ("tcp", "udp", "sctp")
HEADLESS = ("", "None")  # Kubernetes' spellings of "no cluster IP": the name stands for the pods themselves


class Checked(NamedTuple):
    """Rules that can be applied as they are, and a sentence for each thing that was left out."""

    rules: tuple[ServiceRules, ...]
    problems: tuple[str, ...]


def check(services: Iterable[ServiceRules]) -> Checked:
    """Leave out what can't work or would make the whole fail: one bad Service must not take the others along."""
    kept: dict[str, ServiceRules] = {}
    problems: list[str] = []
    taken: dict[tuple[str, str, int], str] = {}
    for service in services:
        title = f"service {service.namespace}/{service.name}"
        if not (LABEL.fullmatch(service.namespace) and LABEL.fullmatch(service.name)):
            problems.append(f"{title!r} is left out: its name or namespace is no DNS label")
            continue
        if title in kept:
            problems.append(f"{title} is there twice; the second one is left out")
            continue
        wrong = [] if service.cluster_ip in HEADLESS or _is_ip(service.cluster_ip) else [service.cluster_ip]
        # "" is a pod in the machine's network while the machine has no address: it can't be reached now, that's all.
        addresses = tuple(dict.fromkeys(filter(None, service.addresses)))
        hosts = tuple((name, ip) for name, ip in dict.fromkeys(service.hosts) if ip and LABEL.fullmatch(name))
        wrong += [address for address in (*addresses, *(ip for _, ip in hosts)) if not _is_ip(address)]
        if wrong:
            problems.append(f"{title} is left out: {wrong[0]!r} is no IPv4 address")
            continue
        ports: list[ServicePort] = []
        for port in service.ports:
            key = (service.cluster_ip, port.protocol.lower(), port.port)
            if reason := _port_problem(port):
                problems.append(f"{title}: port {port.port}/{port.protocol} is left out: {reason}")
            elif key in taken and service.cluster_ip not in HEADLESS:
                problems.append(f"{title}: port {port.port}/{port.protocol} of {key[0]} is taken by {taken[key]}")
            else:
                taken[key] = title
                ports.append(port)
        kept[title] = msgspec.structs.replace(service, ports=tuple(ports), addresses=addresses, hosts=hosts)
    return Checked(tuple(kept.values()), tuple(problems))


def _is_ip(text: str) -> bool:
    try:
        ip_number(text)
    except (OSError, ValueError):
        return False
    return True


def _port_problem(port: ServicePort) -> str:
    if port.protocol.lower() not in PROTOCOLS:
        return "the protocol is none of TCP, UDP and SCTP"
    if not (0 < port.port < 65536 and 0 < port.target_port < 65536):
        return "ports go from 1 to 65535"
    return ""


# ---------------------------------------------------------------- forwarding


def cluster_ips(services: Iterable[ServiceRules]) -> tuple[str, ...]:
    """Of those that have one, each once."""
    return tuple(dict.fromkeys(s.cluster_ip for s in services if s.cluster_ip not in HEADLESS))


class Bridge(NamedTuple):
    """Where the pods are: the bridge's name and its own address."""

    name: str
    address: str


def forwarding_script(
    table: str, bridge: Bridge, services: Sequence[ServiceRules], ports: Sequence[HostPort] = ()
) -> str:
    """For `nft -f -`: the whole table replaced in one transaction; removed where there is nothing to forward.

    :param services: as `check` returns them.
    :param ports: as `host_ports.check_ports` returns them.
    """
    served = [s for s in services if s.cluster_ip not in HEADLESS]
    if not served and not ports:
        return removal_script(table)
    lines = _table(bridge, served, ports)
    return "\n".join((*removal_script(table).splitlines(), f"table ip {table} {{", *lines, "}", ""))


def stale_flows(
    before: Iterable[ServiceRules], after: Iterable[ServiceRules]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(cluster IP, the pods that flows to it may keep going to) of every UDP Service that has changed or gone."""
    now = {s.cluster_ip: s for s in after if _has_udp(s)}
    then = {s.cluster_ip: s for s in before if _has_udp(s)}
    changed = [ip for ip in dict.fromkeys((*now, *then)) if now.get(ip) != then.get(ip)]
    return tuple((ip, now[ip].addresses if ip in now else ()) for ip in changed)


def _has_udp(service: ServiceRules) -> bool:
    return service.cluster_ip not in HEADLESS and any(p.protocol.lower() == "udp" for p in service.ports)


def _table(bridge: Bridge, services: Sequence[ServiceRules], ports: Sequence[HostPort]) -> Iterator[str]:
    yield from _set("cluster_ips", "ipv4_addr", cluster_ips(services))
    addresses = dict.fromkeys((*(a for s in services for a in s.addresses), *(p.address for p in ports)))
    yield from _set("hairpin", "ipv4_addr . ipv4_addr", [f"{a} . {a}" for a in addresses])
    lookup = []
    for service in services:
        for port in service.ports if service.addresses else ():
            protocol = port.protocol.lower()
            chain = f"{protocol}/{service.namespace}/{service.name}/{port.port}"
            yield f"  chain {chain} {{"
            yield f"    meta l4proto {protocol} dnat to {_pick(service.addresses)}:{port.target_port}"
            yield "  }"
            lookup.append(f"{service.cluster_ip} . {protocol} . {port.port} : goto {chain}")
    yield from _chain("services", [f"ip daddr . meta l4proto . th dport vmap {{ {', '.join(lookup)} }}"] * bool(lookup))
    to_machine = []
    if ports:
        yield from _chain("host_ports", list(host_ports.translations(ports)))
        # The bridge's own address stays what it is: a pod that serves names on port 53 must not take them from all.
        to_machine = [f"ip daddr != {bridge.address} fib daddr type local jump host_ports"]
    from_pods = f'iifname "{bridge.name}" jump services'
    yield from _chain("arriving", ["type nat hook prerouting priority dstnat", from_pods, *to_machine])
    yield from _chain("from_here", ["type nat hook output priority -100", "jump services", *to_machine])
    masquerade = [
        # A pod that reaches itself through its Service would answer itself directly, and not know the answer.
        "ct status dnat ip saddr . ip daddr @hairpin masquerade",
        # The machine begins with the bridge's address, which only its own pods know.
        f'ct status dnat fib saddr type local oifname != "{bridge.name}" masquerade',
        *([f'ct status dnat ip saddr 127.0.0.0/8 oifname "{bridge.name}" masquerade'] if ports else []),
    ]
    yield from _chain("leaving", ["type nat hook postrouting priority srcnat", *masquerade])
    if host_ports.wants_loopback(ports):
        private = [f'iifname "{bridge.name}" ip {side} 127.0.0.0/8 drop' for side in ("daddr", "saddr")]
        yield from _chain("loopback_is_private", ["type filter hook prerouting priority raw", *private])
    refuse = [
        "ip daddr @cluster_ips meta l4proto tcp reject with tcp reset",
        "ip daddr @cluster_ips reject with icmp port-unreachable",
    ]
    yield from _chain("refuse_forwarded", ["type filter hook forward priority filter", *refuse])
    yield from _chain("refuse_local", ["type filter hook output priority filter", *refuse])


def _pick(addresses: Sequence[str]) -> str:
    if len(addresses) == 1:
        return addresses[0]
    choices = ", ".join(f"{number} : {address}" for number, address in enumerate(addresses))
    return f"numgen random mod {len(addresses)} map {{ {choices} }}"


def _set(name: str, kind: str, elements: Iterable[str]) -> Iterator[str]:
    joined = ", ".join(elements)
    yield f"  set {name} {{"
    yield f"    type {kind}"
    if joined:
        yield f"    elements = {{ {joined} }}"
    yield "  }"


def _chain(name: str, rules: Sequence[str]) -> Iterator[str]:
    yield f"  chain {name} {{"
    for rule in rules:
        yield f"    {rule}{'; policy accept;' if rule.startswith('type ') else ''}"
    yield "  }"
