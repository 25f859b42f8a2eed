"""What pods ask for and nodes can give, in numbers that can be added and compared. Pure.

A pod's size is Kubernetes' effective request (component-helpers/resource): what its containers and sidecars ask for
together, or its most demanding moment while it is initialised, whichever is more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudlink.kube.annotations import devices_of
from cloudlink.kube.container import DEVICE_PREFIX
from cloudlink.kube.core import Container, Node, PodSpec
from cloudlink.kube.pod import effective
from cloudlink.kube.quantity import QuantityError, to_int, to_milli

DEFAULT_PODS = 110
UNLIMITED = 1 << 62  # bytes of storage of a node that doesn't say how many it has


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of memory and of storage, thousandths of a core, pods, and of each device how many containers have it."""

    memory: int = 0
    cpu: int = 0
    pods: int = 0
    storage: int = 0
    devices: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Size) -> Size:
        return self._combined(other, 1)

    def __sub__(self, other: Size) -> Size:
        return self._combined(other, -1)

    def _combined(self, other: Size, sign: int) -> Size:
        devices = self.devices
        if other.devices:
            both = {**self.devices, **other.devices}
            devices = {d: self.devices.get(d, 0) + sign * other.devices.get(d, 0) for d in both}
        return Size(
            self.memory + sign * other.memory,
            self.cpu + sign * other.cpu,
            self.pods + sign * other.pods,
            self.storage + sign * other.storage,
            devices,
        )

    def fits(self, free: Size) -> bool:
        return not self.lack(free)

    def lack(self, free: Size) -> tuple[str, str] | None:
        """The first thing that there isn't enough of, as (kind, detail); None where all of it fits."""
        if self.pods > free.pods:
            return "pods", ""
        if self.memory > free.memory:
            return "memory", ""
        if self.cpu > free.cpu:
            return "cpu", ""
        if self.storage > free.storage:
            return "storage", ""
        missing = [name for name, count in sorted(self.devices.items()) if count > free.devices.get(name, 0)]
        return ("device", missing[0]) if missing else None


def size_of(spec: PodSpec, annotations: Mapping[str, str] | None = None) -> Size:
    """What a pod asks for. A container without a request but with a limit asks for its limit, as in Kubernetes.

    :param annotations: the pod's, which may claim devices.
    """
    claimed = {c.name: devices_of(c, annotations or {}) for c in (*spec.init_containers, *spec.containers)}
    names = sorted({device for devices in claimed.values() for device in devices})

    def of(device: str) -> int:
        return effective(spec, lambda c: int(device in claimed[c.name]))

    return Size(
        memory=effective(spec, lambda c: to_int(asked(c, "memory"))),
        cpu=effective(spec, lambda c: to_milli(asked(c, "cpu"))),
        pods=1,
        storage=effective(spec, lambda c: to_int(asked(c, "ephemeral-storage"))),
        devices={name: of(name) for name in names},
    )


def asked(container: Container, resource: str) -> str:
    wanted = container.resources
    return wanted.requests.get(resource) or wanted.limits.get(resource, "0")


def allocatable(node: Node) -> Size | None:
    """What the node says it can give to pods; None while it hasn't said anything."""
    said = node.status.allocatable or node.status.capacity
    try:
        memory, cpu = said.get("memory"), said.get("cpu")
        if memory is None or cpu is None:
            return None
        storage = said.get("ephemeral-storage")
        return Size(
            to_int(memory),
            to_milli(cpu),
            to_int(said.get("pods", str(DEFAULT_PODS))),
            UNLIMITED if storage is None else to_int(storage),
            {k.removeprefix(DEVICE_PREFIX): to_int(v) for k, v in said.items() if k.startswith(DEVICE_PREFIX)},
        )
    except QuantityError:
        return None
