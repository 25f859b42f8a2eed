"""Refuse at the door what no node of the fleet could ever run. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cloudlink.hub.schedule.place import in_bytes
from cloudlink.hub.schedule.rooms import Size, allocatable, size_of
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import Node, Pod, PodSpec
from cloudlink.kube.errors import Cause
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.quantity import format_milli, to_int, to_milli


def pod_spec_of(obj: KubeObject | None) -> tuple[str, PodSpec] | None:
    """Where in the object its pods are described, and the description."""
    match obj:
        case Pod():
            return "spec", obj.spec
        case Deployment() | ReplicaSet():
            return "spec.template.spec", obj.spec.template.spec
    return None


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
    largest = Size(max(s.memory for s in sizes), max(s.cpu for s in sizes))
    causes = [*_memory(path, spec, largest.memory), *_cpu(path, spec, largest.cpu)]
    if not causes and not any(size_of(spec).fits(s) for s in sizes):
        size = size_of(spec)
        text = f"needs {in_bytes(size.memory)} and {format_milli(size.cpu)} cpu together, no node has both allocatable"
        causes.append(Cause(f"{path}.containers", "FieldValueInvalid", text))
    return tuple(causes)


def _memory(path: str, spec: PodSpec, largest: int) -> list[Cause]:
    asked = [to_int(_asked(spec, i, "memory")) for i in range(len(spec.containers))]
    end = f"the largest node has {in_bytes(largest)} allocatable"
    causes = [
        Cause(_field(path, spec, i, "memory"), "FieldValueInvalid", f"needs {in_bytes(n)}, {end}")
        for i, n in enumerate(asked)
        if n > largest
    ]
    if not causes and sum(asked) > largest:
        text = f"the containers together need {in_bytes(sum(asked))} memory, {end}"
        causes.append(Cause(f"{path}.containers", "FieldValueInvalid", text))
    return causes


def _cpu(path: str, spec: PodSpec, largest: int) -> list[Cause]:
    asked = [to_milli(_asked(spec, i, "cpu")) for i in range(len(spec.containers))]
    end = f"the largest node has {format_milli(largest)} allocatable"
    causes = [
        Cause(_field(path, spec, i, "cpu"), "FieldValueInvalid", f"needs {format_milli(n)} cpu, {end}")
        for i, n in enumerate(asked)
        if n > largest
    ]
    if not causes and sum(asked) > largest:
        text = f"the containers together need {format_milli(sum(asked))} cpu, {end}"
        causes.append(Cause(f"{path}.containers", "FieldValueInvalid", text))
    return causes


def _asked(spec: PodSpec, index: int, resource: str) -> str:
    wanted = spec.containers[index].resources
    return wanted.requests.get(resource) or wanted.limits.get(resource, "0")


def _field(path: str, spec: PodSpec, index: int, resource: str) -> str:
    part = "requests" if resource in spec.containers[index].resources.requests else "limits"
    return f"{path}.containers[{index}].resources.{part}.{resource}"
