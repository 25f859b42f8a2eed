"""The names that a pod sees: its /etc/hosts and /etc/resolv.conf, as text. Pure.

As the kubelet writes them (kubernetes.io: "Adding entries to Pod /etc/hosts", "DNS for Services and Pods"). One thing
is different: a cluster-first pod asks the machine's own name servers while this node serves no names.
"""

from __future__ import annotations

from collections.abc import Iterable

from edged.model import Dns, DnsPolicy, Pod, Value
from edged.runtime.bundle import hostname_of

MAX_NAMESERVERS = 3  # resolv.conf(5): MAXNS; further ones are never asked
MAX_SEARCHES = 32  # Kubernetes' limits for a pod
MAX_SEARCH_CHARACTERS = 2048
CLUSTER_OPTIONS = ("ndots:5",)


class NamePolicy(Value, frozen=True):
    """What is kept of a pod so that its resolv.conf can be written again while it runs."""

    policy: DnsPolicy = DnsPolicy.CLUSTER_FIRST
    own: Dns = Dns()
    host_network: bool = False


def policy_of(pod: Pod) -> NamePolicy:
    return NamePolicy(pod.dns_policy, pod.dns, pod.host_network)


def full_name(pod: Pod, domain: str) -> str:
    """The name under which other pods find it; "" for a pod without a subdomain."""
    return f"{hostname_of(pod)}.{pod.subdomain}.{pod.namespace}.svc.{domain}" if pod.subdomain else ""


def hosts_file(pod: Pod, ip: str, domain: str, machines_own: str = "") -> str:
    """hosts(5).

    :param machines_own: the machine's /etc/hosts, which a pod in the machine's network sees in place of an own one.
    """
    if pod.host_network:
        text = f"# of the machine, whose network this pod shares\n{machines_own.rstrip()}\n"
    else:
        text = (
            "# of the pod, not of the machine\n"
            "127.0.0.1\tlocalhost\n"
            "::1\tlocalhost ip6-localhost ip6-loopback\n"
            "fe00::\tip6-localnet\n"
            "ff00::\tip6-mcastprefix\n"
            "ff02::1\tip6-allnodes\n"
            "ff02::2\tip6-allrouters\n"
        )
        if ip:
            names = (full_name(pod, domain), hostname_of(pod))
            text += f"{ip}\t{' '.join(filter(None, names))}\n"
    lines = [f"{alias.ip}\t{' '.join(alias.hostnames)}" for alias in pod.host_aliases if alias.hostnames]
    # A line break in a value would be a line of its own; whoever let it through, it doesn't get in here.
    lines = [" ".join(line.split("\n")) for line in lines]
    return text + ("# aliases of the pod\n" + "\n".join(lines) + "\n" if lines else "")


def parse_resolv_conf(text: str) -> Dns:
    """resolv.conf(5): the last `search` or `domain` counts, options gather. Anything else is passed over."""
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        match words:
            case ["nameserver", address, *_]:
                servers.append(address)
            case ["search" | "domain", *names]:
                searches = tuple(name for name in names if name != ".")
            case ["options", *given]:
                options += given
    return Dns(tuple(servers), searches, tuple(options))


def is_loopback(nameserver: str) -> bool:
    """It answers on the machine only: a pod with a network of its own can't ask it."""
    return nameserver.startswith("127.") or nameserver == "::1"


def resolv_conf(namespace: str, names: NamePolicy, nameserver: str, domain: str, machine: Dns) -> str:
    """resolv.conf(5) of a pod.

    :param nameserver: who answers for Services here; "" while nobody does.
    :param machine: what the machine itself asks.
    """
    if not names.host_network:
        machine = Dns(tuple(s for s in machine.nameservers if not is_loopback(s)), machine.searches, machine.options)
    cluster = names.policy is DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET or (
        names.policy is DnsPolicy.CLUSTER_FIRST and not names.host_network
    )
    if names.policy is DnsPolicy.NONE:
        base = Dns()
    elif cluster and nameserver:
        searches = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *machine.searches)
        base = Dns((nameserver,), searches, CLUSTER_OPTIONS)
    else:
        base = machine
    return _render(_merged(base, names.own))


def _merged(base: Dns, own: Dns) -> Dns:
    """Kubernetes' rules for dnsConfig: servers and searches are added, an option takes the place of its namesake."""
    options = {option.partition(":")[0]: option for option in (*base.options, *own.options)}
    return Dns(
        tuple(dict.fromkeys((*base.nameservers, *own.nameservers)))[:MAX_NAMESERVERS],
        tuple(_fitting(dict.fromkeys((*base.searches, *own.searches)))),
        tuple(options.values()),
    )


def _fitting(searches: Iterable[str]) -> Iterable[str]:
    length = 0
    for number, search in enumerate(searches):
        length += len(search) + 1
        if number >= MAX_SEARCHES or length - 1 > MAX_SEARCH_CHARACTERS:
            return
        yield search


def _render(dns: Dns) -> str:
    lines = []
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    lines += [f"nameserver {server}" for server in dns.nameservers]
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    return "".join(f"{' '.join(line.split())}\n" for line in lines)
