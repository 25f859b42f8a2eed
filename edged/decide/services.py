"""Where traffic goes: Services and host ports of the document, resolved to the pods that are here now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from edged.decide import health as healths
from edged.decide.attempts import Found, Scene
from edged.decide.steps import SyncServices
from edged.model import Desired, HostPort, Observed, Pod, Port, Service, ServiceRules

TAKEN = "OutOfports"


def pod_ready(pod: Pod, scene: Scene) -> bool:
    """Every container and every sidecar is ready, and the pod isn't ended, nor frozen."""
    if scene.sandbox is not None and (scene.sandbox.evicted or scene.sandbox.frozen):
        return False
    for container in (*(c for c in pod.init if c.sidecar), *pod.containers):
        state = scene.newest.get(container.name)
        health = scene.observed.health.get(state.id) if state else None
        if not healths.of(container, state, health).ready:
            return False
    return True


def resolve(desired: Desired, scenes: Mapping[str, Scene]) -> tuple[ServiceRules, ...]:
    """Every Service with the addresses that should get its traffic now: local ready pods (or all) and remote ones.

    :param scenes: pod uid -> how it is on the machine.
    """
    pods = {p.uid: p for p in desired.pods}

    def ready(service: Service) -> Iterator[tuple[Pod, str]]:
        for uid in service.pods:
            pod, scene = pods.get(uid), scenes.get(uid)
            if pod is None or scene is None or scene.sandbox is None or not scene.sandbox.ready:
                continue
            if (service.unready and not scene.sandbox.evicted) or pod_ready(pod, scene):
                yield pod, scene.sandbox.ip

    def rules(service: Service) -> ServiceRules:
        local = list(ready(service))
        return ServiceRules(
            namespace=service.namespace,
            name=service.name,
            cluster_ip=service.cluster_ip,
            ports=service.ports,
            addresses=(*(ip for _, ip in local), *service.remote),
            hosts=tuple(
                (p.hostname, ip)
                for p, ip in local
                if p.hostname and (p.namespace, p.subdomain) == (service.namespace, service.name)
            ),
        )

    return tuple(rules(s) for s in sorted(desired.services, key=lambda s: (s.namespace, s.name)))


# ---------------------------------------------------------------- ports of the machine


def _ports(pod: Pod) -> Iterator[Port]:
    return (port for container in pod.all_containers for port in container.ports if port.host_port)


def _overlap(a: Port, b: Port) -> bool:
    return (a.protocol, a.host_port) == (b.protocol, b.host_port) and (
        a.host_ip == b.host_ip or not a.host_ip or not b.host_ip
    )


def port_conflicts(desired: Desired, refused: Collection[str], present: Collection[str]) -> dict[str, str]:
    """Pod uid -> sentence, of those whose host port another one has; those `present` come first, then the document's
    own order decides."""
    taken: list[tuple[Port, Pod]] = []
    conflicts: dict[str, str] = {}
    for pod in sorted(desired.pods, key=lambda p: p.uid not in present):
        wanted = list(_ports(pod)) if pod.uid not in refused else []
        for port in wanted:
            holder = next((holder for other, holder in taken if _overlap(port, other)), None)
            if holder is not None:
                conflicts[pod.uid] = f"host port {port.host_port}/{port.protocol} is taken by {holder.title}"
                break
        else:
            taken += [(port, pod) for port in wanted]
    return conflicts


def host_ports(desired: Desired, scenes: Mapping[str, Scene], out: Collection[str]) -> tuple[HostPort, ...]:
    """Those of pods that have a network, ready or not; pods in the machine's own network need none.

    :param out: uids of pods that are refused or over.
    """
    found = []
    for pod in desired.pods:
        scene = scenes.get(pod.uid)
        if pod.host_network or pod.uid in out or scene is None or scene.sandbox is None or not scene.sandbox.ready:
            continue
        for port in _ports(pod):
            found.append(HostPort(port.protocol, port.host_port, scene.sandbox.ip, port.port, port.host_ip))
    return tuple(sorted(found, key=lambda p: (p.port, p.protocol, p.host_ip, p.address)))


def sync(desired: Desired, scenes: Mapping[str, Scene], out: Collection[str], observed: Observed) -> Found:
    rules, ports = resolve(desired, scenes), host_ports(desired, scenes, out)
    if observed.services is None or rules != observed.services or ports != (observed.host_ports or ()):
        yield SyncServices(rules, "services or their ready pods have changed", ports)
