"""Refuse at the door what no node of the fleet could ever run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cloudlink.hub.schedule.sizes import Size, allocatable, asked, size_of
from cloudlink.hub.schedule.words import in_bytes
from cloudlink.kube.core import Container, Node, PodSpec
from cloudlink.kube.errors import Cause
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.podspecs import pod_spec_of
from cloudlink.kube.quantity import format_milli, to_int, to_milli


def impossible(obj: KubeObject, old: KubeObject | None, nodes: Sequence[Node]) -> tuple[Cause, ...]:
    """Requests larger than the largest node, one cause each; nothing while no node has told its size.

    What was accepted before is not refused now: a fleet may have lost its largest node since.
    """
    there, before = pod_spec_of(obj), pod_spec_of(old)
    sizes = [size for node in nodes if (size := allocatable(node)) is not None]
    if there is None or not sizes:
        return ()
    path, spec = there
    if before is not None and size_of(before[1]) == size_of(spec):
        return ()
    needed = size_of(spec)
    largest = Size(max(s.memory for s in sizes), max(s.cpu for s in sizes))
    causes = [*_memory(path, spec, needed.memory, largest.memory), *_cpu(path, spec, needed.cpu, largest.cpu)]
    if not causes and not any(needed.memory <= s.memory and needed.cpu <= s.cpu for s in sizes):
        text = (
            f"needs {in_bytes(needed.memory)} and {format_milli(needed.cpu)} cpu together, no node has both allocatable"
        )
        causes.append(Cause(f"{path}.containers", "FieldValueInvalid", text))
    return tuple(causes)


def _memory(path: str, spec: PodSpec, together: int, largest: int) -> list[Cause]:
    end = f"the largest node has {in_bytes(largest)} allocatable"
    causes = [
        Cause(_field(here, container, "memory"), "FieldValueInvalid", f"needs {in_bytes(n)}, {end}")
        for here, container in _containers(path, spec)
        if (n := to_int(asked(container, "memory"))) > largest
    ]
    if not causes and together > largest:
        text = f"the containers together need {in_bytes(together)} memory, {end}"
        causes.append(Cause(f"{path}.containers", "FieldValueInvalid", text))
    return causes


def _cpu(path: str, spec: PodSpec, together: int, largest: int) -> list[Cause]:
    end = f"the largest node has {format_milli(largest)} allocatable"
    causes = [
        Cause(_field(here, container, "cpu"), "FieldValueInvalid", f"needs {format_milli(n)} cpu, {end}")
        for here, container in _containers(path, spec)
        if (n := to_milli(asked(container, "cpu"))) > largest
    ]
    if not causes and together > largest:
        text = f"the containers together need {format_milli(together)} cpu, {end}"
        causes.append(Cause(f"{path}.containers", "FieldValueInvalid", text))
    return causes


def _containers(path: str, spec: PodSpec) -> Iterator[tuple[str, Container]]:
    yield from ((f"{path}.containers[{i}]", c) for i, c in enumerate(spec.containers))
    yield from ((f"{path}.initContainers[{i}]", c) for i, c in enumerate(spec.init_containers))


def _field(path: str, container: Container, resource: str) -> str:
    part = "requests" if resource in container.resources.requests else "limits"
    return f"{path}.resources.{part}.{resource}"
