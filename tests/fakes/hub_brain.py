"""Short ways to make the hub's objects in tests: parsed manifests, nodes that are ready, a clock, a deck of names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from cloudlink.hub.objects import rfc3339, with_condition
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import Node, NodeCondition, NodeStatus, Pod, PodCondition
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.parse import parse
from cloudlink.kube.quantity import format_bytes, format_milli

NOW = 1_750_000_000.0
MIB = 1 << 20


class Clock:
    """Wall clock of a test: moves only when told to."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def names() -> Callable[[], str]:
    """Suffixes 00000, 00001, ...: as unique as random ones, and known beforehand."""
    counter = itertools.count()
    return lambda: f"{next(counter):05d}"


def pod_spec(memory: str = "", cpu: str = "", **more: Any) -> dict[str, Any]:
    requests = {k: v for k, v in (("memory", memory), ("cpu", cpu)) if v}
    return {"containers": [{"name": "main", "image": "demo:1", "resources": {"requests": requests}}], **more}


def deployment(name: str = "web", replicas: int = 1, image: str = "demo:1", **spec: Any) -> Deployment:
    pods = pod_spec()
    pods["containers"][0]["image"] = image
    document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pods},
            **spec,
        },
    }
    parsed = parse(document)
    assert isinstance(parsed, Deployment)
    return parsed


def replica_set(name: str = "web-1", replicas: int = 1, uid: str = "rs-1", min_ready_seconds: int = 0) -> ReplicaSet:
    document = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "generation": 1},
        "spec": {
            "replicas": replicas,
            "minReadySeconds": min_ready_seconds,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()},
        },
    }
    parsed = parse(document)
    assert isinstance(parsed, ReplicaSet)
    return parsed


def pod(name: str = "lone", node: str = "", memory: str = "", cpu: str = "", **more: Any) -> Pod:
    spec = pod_spec(memory, cpu, **more)
    if node:
        spec["nodeName"] = node
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
    parsed = parse(document)
    assert isinstance(parsed, Pod)
    return parsed


def node(
    name: str = "pi", memory: int = 900 * MIB, cpu: int = 4000, pods: int = 110, ready: bool = True, **spec: Any
) -> Node:
    labels = spec.pop("labels", {})
    size = {"memory": format_bytes(memory), "cpu": format_milli(cpu), "pods": str(pods)}
    parsed = parse({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec})
    assert isinstance(parsed, Node)
    condition = NodeCondition(type="Ready", status="True" if ready else "Unknown")
    return parsed.model_copy(update={"status": NodeStatus(capacity=size, allocatable=size, conditions=(condition,))})


def reported(pod: Pod, now: float, ready: bool = True, phase: str = "Running") -> Pod:
    """The pod after its node has spoken of it."""
    status = pod.status.model_copy(
        update={
            "phase": phase,
            "start_time": rfc3339(now),
            "conditions": with_condition(
                pod.status.conditions,
                PodCondition(type="Ready", status="True" if ready else "False", last_transition_time=rfc3339(now)),
            ),
        }
    )
    return pod.model_copy(update={"status": status})


def with_meta(obj: Any, **fields: Any) -> Any:
    meta: ObjectMeta = obj.metadata.model_copy(update=fields)
    return obj.model_copy(update={"metadata": meta})
