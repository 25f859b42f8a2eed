"""How much room each node has, and whether a pod may go there at all. Pure.

Pods on their way out keep their room until their node says that they are gone: memory on a board can't be promised
twice. So do claims, whether or not a pod uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from cloudlink.hub.schedule.sizes import DEFAULT_PODS, Size, allocatable, size_of
from cloudlink.hub.schedule.storage import Places, elsewhere
from cloudlink.kube.core import Node, Pod, PodSpec, Taint, Toleration
from cloudlink.kube.meta import matches
from cloudlink.kube.status import qos_class

__all__ = ["DEFAULT_PODS", "Room", "Size", "allocatable", "obstacle", "rooms", "size_of", "untolerated"]

HostPort = tuple[str, int, str]  # protocol, port, address ("" = all)
NO_PLACES: Places = MappingProxyType({})
_EVERYWHERE = ("", "0.0.0.0")
# Conditions that keep pods away, as the taints that Kubernetes makes of them.
PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
}


@dataclass(frozen=True, slots=True)
class Room:
    """One node as the scheduler sees it. Invariant kept by `place`: no part of `free` is made negative.

    :ivar ports: the machine's ports that lead to its pods.
    """

    node: Node
    free: Size
    whole: Size
    ready: bool
    ports: frozenset[HostPort] = frozenset()

    @property
    def name(self) -> str:
        return self.node.metadata.name

    def without(self, size: Size, ports: Iterable[HostPort] = ()) -> Room:
        return replace(self, free=self.free - size, ports=self.ports | frozenset(ports))


def is_ready(node: Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def rooms(nodes: Iterable[Node], pods: Iterable[Pod], places: Places = NO_PLACES) -> list[Room]:
    """Every node, with what its pods and claims leave free; ordered by name."""
    taken: dict[str, Size] = {}
    ports: dict[str, set[HostPort]] = {}
    for pod in pods:
        name = pod.spec.node_name
        if name and pod.status.phase not in ("Succeeded", "Failed"):
            taken[name] = taken.get(name, Size()) + size_of(pod.spec, pod.metadata.annotations)
            ports.setdefault(name, set()).update(host_ports(pod.spec))
    for place in places.values():
        taken[place.node] = taken.get(place.node, Size()) + Size(storage=place.size)
    found: list[Room] = []
    for node in nodes:
        name, whole = node.metadata.name, allocatable(node) or Size()
        free = whole - taken.get(name, Size())
        ready = is_ready(node) and allocatable(node) is not None
        found.append(Room(node, free, whole, ready, frozenset(ports.get(name, ()))))
    return sorted(found, key=lambda r: r.name)


def host_ports(spec: PodSpec) -> tuple[HostPort, ...]:
    """Those that a pod takes on its machine while it runs."""
    running = (*(c for c in spec.init_containers if c.is_sidecar), *spec.containers)
    return tuple((p.protocol, p.host_port, p.host_ip) for c in running for p in c.ports if p.host_port)


# ---------------------------------------------------------------- why not


def untolerated(taints: Iterable[Taint], tolerations: Sequence[Toleration], effects: Sequence[str]) -> list[Taint]:
    """Taints with one of these effects that no toleration covers."""
    return [t for t in taints if t.effect in effects and not any(_tolerates(x, t) for x in tolerations)]


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    """v1.Toleration.ToleratesTaint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def _pressure(spec: PodSpec, node: Node) -> str:
    """The condition of the node that keeps this pod away; "" if none does. Only pods that ask for nothing are kept
    from a node that is short of memory: the others have been promised theirs."""
    for condition in node.status.conditions:
        taint = PRESSURES.get(condition.type)
        if taint is None or condition.status != "True":
            continue
        if condition.type == "MemoryPressure" and qos_class(spec) != "BestEffort":
            continue
        if untolerated([Taint(key=taint, effect="NoSchedule")], spec.tolerations, ("NoSchedule",)):
            return condition.type
    return ""


def _taken_port(wanted: Iterable[HostPort], taken: Iterable[HostPort]) -> str:
    """A port that two would have (scheduler's HostPortInfo.CheckConflict)."""
    there = list(taken)
    for protocol, port, address in wanted:
        for other_protocol, other_port, other_address in there:
            same_address = address == other_address or address in _EVERYWHERE or other_address in _EVERYWHERE
            if (protocol, port) == (other_protocol, other_port) and same_address:
                return f"{port}/{protocol}"
    return ""


def obstacle(pod: Pod, size: Size, room: Room, places: Places = NO_PLACES) -> tuple[str, str]:
    """Why this pod can't go there: (kind of obstacle, detail); ("", "") if it can.

    Nodes with the same kind and detail are counted together in the sentence for people.
    """
    spec, node = pod.spec, room.node
    if not room.ready:
        return "ready", ""
    if node.spec.unschedulable:
        return "cordoned", ""
    if not matches(spec.node_selector, node.metadata.labels):
        missing = sorted(f"{k}={v}" for k, v in spec.node_selector.items() if node.metadata.labels.get(k) != v)
        return "selector", ",".join(missing)
    if claim := elsewhere(pod, room.name, places):
        return "claim", claim
    if taints := untolerated(node.spec.taints, spec.tolerations, ("NoSchedule", "NoExecute")):
        taint = taints[0]
        return "taint", f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"
    if pressure := _pressure(spec, node):
        return "pressure", pressure
    if port := _taken_port(host_ports(spec), room.ports):
        return "port", port
    kind, detail = size.lack(room.free) or ("", "")
    return (kind, str(room.whole.pods)) if kind == "pods" else (kind, detail)
