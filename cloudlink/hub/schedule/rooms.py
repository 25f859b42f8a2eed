"""How much room each node has, and whether a pod may go there at all. Pure.

A pod's size is the sum of its containers' requests, as in Kubernetes. Pods on their way out keep their room until
their node says that they are gone: memory on a board can't be promised twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cloudlink.kube.core import Node, Pod, PodSpec, Taint, Toleration
from cloudlink.kube.meta import matches
from cloudlink.kube.quantity import QuantityError, to_int, to_milli

DEFAULT_PODS = 110


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of memory, thousandths of a core, and pods."""

    memory: int = 0
    cpu: int = 0
    pods: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.memory + other.memory, self.cpu + other.cpu, self.pods + other.pods)

    def __sub__(self, other: Size) -> Size:
        return Size(self.memory - other.memory, self.cpu - other.cpu, self.pods - other.pods)

    def fits(self, free: Size) -> bool:
        return self.memory <= free.memory and self.cpu <= free.cpu and self.pods <= free.pods


@dataclass(frozen=True, slots=True)
class Room:
    """One node as the scheduler sees it. Invariant kept by `place`: no part of `free` is made negative."""

    node: Node
    free: Size
    whole: Size
    ready: bool

    @property
    def name(self) -> str:
        return self.node.metadata.name

    def without(self, size: Size) -> Room:
        return replace(self, free=self.free - size)


def size_of(spec: PodSpec) -> Size:
    """What a pod asks for. A container without a request but with a limit asks for its limit, as in Kubernetes."""
    memory = cpu = 0
    for container in spec.containers:
        asked = {**container.resources.limits, **container.resources.requests}
        memory += to_int(asked.get("memory", "0"))
        cpu += to_milli(asked.get("cpu", "0"))
    return Size(memory, cpu, 1)


def allocatable(node: Node) -> Size | None:
    """What the node says it can give to pods; None while it hasn't said anything."""
    said = node.status.allocatable or node.status.capacity
    try:
        memory, cpu = said.get("memory"), said.get("cpu")
        if memory is None or cpu is None:
            return None
        return Size(to_int(memory), to_milli(cpu), to_int(said.get("pods", str(DEFAULT_PODS))))
    except QuantityError:
        return None


def is_ready(node: Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def rooms(nodes: Iterable[Node], pods: Iterable[Pod]) -> list[Room]:
    """Every node that has told its size, with what its pods leave free; ordered by name."""
    taken: dict[str, Size] = {}
    for pod in pods:
        if pod.spec.node_name and pod.status.phase not in ("Succeeded", "Failed"):
            taken[pod.spec.node_name] = taken.get(pod.spec.node_name, Size()) + size_of(pod.spec)
    found: list[Room] = []
    for node in nodes:
        whole = allocatable(node) or Size()
        free = whole - taken.get(node.metadata.name, Size())
        found.append(Room(node, free, whole, is_ready(node) and allocatable(node) is not None))
    return sorted(found, key=lambda r: r.name)


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


def obstacle(spec: PodSpec, size: Size, room: Room) -> tuple[str, str]:
    """Why this pod can't go there: (kind of obstacle, detail); ("", "") if it can.

    Nodes with the same kind and detail are counted together in the sentence for people.
    """
    node = room.node
    if not room.ready:
        return "ready", ""
    if node.spec.unschedulable:
        return "cordoned", ""
    if not matches(spec.node_selector, node.metadata.labels):
        missing = sorted(f"{k}={v}" for k, v in spec.node_selector.items() if node.metadata.labels.get(k) != v)
        return "selector", ",".join(missing)
    if taints := untolerated(node.spec.taints, spec.tolerations, ("NoSchedule", "NoExecute")):
        taint = taints[0]
        return "taint", f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"
    if size.pods > room.free.pods:
        return "pods", str(room.whole.pods)
    if size.memory > room.free.memory:
        return "memory", ""
    if size.cpu > room.free.cpu:
        return "cpu", ""
    return "", ""
