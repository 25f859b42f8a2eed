"""Ports of the machine that lead to pods, as nftables rules. Pure.

A packet to one of the machine's own addresses is sent on to the pod before anybody else sees it: where a program of
the machine listens on the same port, the pod wins. Whoever asks from outside keeps his address; only the machine's
own loopback, which no pod could answer, and a pod that reaches itself are masqueraded.

For the machine's own 127.0.0.1 packets with such a source have to leave through the bridge (route_localnet, see
ip-sysctl). That alone would let pods send to services that listen on the machine's loopback only (CVE-2020-8558), so
whatever comes from the bridge with a loopback address on it is dropped in the same table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from edged.model import HostPort
from edged.runtime.wiring import ip_number

PROTOCOLS = ("tcp", "udp", "sctp")
ANY = ("", "0.0.0.0")  # every address of the machine


def check_ports(ports: Iterable[HostPort]) -> tuple[tuple[HostPort, ...], tuple[str, ...]]:
    """What can be applied, protocols in small letters, in a stable order; and a sentence for each that is left out."""
    kept: dict[tuple[str, str, int], HostPort] = {}
    problems: list[str] = []
    for port in ports:
        protocol, host_ip = port.protocol.lower(), "" if port.host_ip in ANY else port.host_ip
        title = f"host port {port.port}/{port.protocol}{f' of {host_ip}' if host_ip else ''}"
        key = (host_ip, protocol, port.port)
        if protocol not in PROTOCOLS:
            problems.append(f"{title} is left out: the protocol is none of TCP, UDP and SCTP")
        elif not (0 < port.port < 65536 and 0 < port.target_port < 65536):
            problems.append(f"{title} is left out: ports go from 1 to 65535")
        elif not _is_ip(port.address) or (host_ip and not _is_ip(host_ip)):
            problems.append(f"{title} is left out: {port.address!r} or {host_ip!r} is no IPv4 address")
        elif key in kept:
            problems.append(f"{title} is claimed twice; {kept[key].address} has it, {port.address} doesn't")
        else:
            kept[key] = msgspec.structs.replace(port, protocol=protocol, host_ip=host_ip)
    return tuple(kept.values()), tuple(problems)


def _is_ip(text: str) -> bool:
    try:
        ip_number(text)
    except (OSError, ValueError):
        return False
    return True


def wants_loopback(ports: Iterable[HostPort]) -> bool:
    """Some of them answer on 127.0.0.1."""
    return any(not p.host_ip or p.host_ip.startswith("127.") for p in ports)


def translations(ports: Sequence[HostPort]) -> Iterator[str]:
    """Rules of a chain that is reached by packets to the machine's own addresses. The restricted ports come first."""
    protocols = ", ".join(dict.fromkeys(p.protocol for p in ports))
    special = [f"{p.host_ip} . {p.protocol} . {p.port} : {p.address} . {p.target_port}" for p in ports if p.host_ip]
    general = [f"{p.protocol} . {p.port} : {p.address} . {p.target_port}" for p in ports if not p.host_ip]
    only = f"meta l4proto {{ {protocols} }} dnat ip to"
    if special:
        yield f"{only} ip daddr . meta l4proto . th dport map {{ {', '.join(special)} }}"
    if general:
        yield f"{only} meta l4proto . th dport map {{ {', '.join(general)} }}"


def stale_port_flows(
    before: Iterable[HostPort], after: Iterable[HostPort]
) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
    """(host IP or "", port, the pods that flows to it may keep going to) of each UDP port that has changed or gone."""
    now = {(p.host_ip, p.port): p.address for p in after if p.protocol == "udp"}
    then = {(p.host_ip, p.port): p.address for p in before if p.protocol == "udp"}
    changed = [key for key in dict.fromkeys((*now, *then)) if now.get(key) != then.get(key)]
    return tuple((*key, (now[key],) if key in now else ()) for key in changed)
