"""Short ways to make the hub's objects in tests: parsed manifests, nodes that are ready, a clock, a deck of names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from cloudlink.hub.changes import Create, Delete, ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers import deployment as deployments
from cloudlink.hub.controllers import replicaset as replica_sets
from cloudlink.hub.decision import Decision
from cloudlink.hub.objects import controller_of, is_active, is_ready, rfc3339, with_condition
from cloudlink.hub.revisions import draft
from cloudlink.hub.shelves import Objects, key_of
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import Namespace, Node, NodeCondition, NodeStatus, Pod, PodCondition
from cloudlink.kube.meta import KubeObject, ObjectMeta
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


class Cluster:
    """One Deployment with its ReplicaSets and pods, in memory; every change goes by the store's own pure rules."""

    def __init__(self, wanted: Deployment) -> None:
        self.clock = Clock()
        self.objects = Objects()
        self.revision = 0
        self._uids = itertools.count(1)
        self._names = names()
        self.commit(Create(Namespace(metadata=ObjectMeta(name="default"))), Create(wanted))

    def commit(self, *changes: ObjectChange) -> None:
        work, _ = draft(self.objects, changes, self.revision, self.clock.now, lambda: f"uid-{next(self._uids)}")
        for write in work.writes:
            if write.type == "DELETED":
                self.objects.remove(key_of(write.object))
            else:
                self.objects.put(write.object)
        self.revision = work.revision

    def _all(self, kind: type[KubeObject]) -> list[Any]:
        return [o for o in self.objects.list(kind.__name__) if isinstance(o, kind)]

    @property
    def deployment(self) -> Deployment:
        [found] = self._all(Deployment)
        return found  # type: ignore[no-any-return]

    @property
    def sets(self) -> list[ReplicaSet]:
        return self._all(ReplicaSet)

    @property
    def all_pods(self) -> list[Pod]:
        return self._all(Pod)

    @property
    def pods(self) -> list[Pod]:
        """Those that count: neither finished nor on their way out."""
        return [p for p in self.all_pods if is_active(p)]

    def available(self) -> int:
        return sum(is_ready(p) for p in self.pods)

    def change(self, **spec: Any) -> None:
        wanted = self.deployment
        self.commit(Update(wanted.model_copy(update={"spec": wanted.spec.model_copy(update=spec)})))

    def use_image(self, image: str) -> None:
        template = self.deployment.spec.template
        [main] = template.spec.containers
        spec = template.spec.model_copy(update={"containers": (main.model_copy(update={"image": image}),)})
        self.change(template=template.model_copy(update={"spec": spec}))

    # ------------------------------------------------------------ controllers

    def ask_deployment(self) -> Decision:
        uids = {s.metadata.uid for s in self.sets}
        owned = [p for p in self.all_pods if (owner := controller_of(p)) is not None and owner.uid in uids]
        taken = frozenset(s.metadata.name for s in self.sets)
        return deployments.reconcile(self.deployment, self.sets, owned, self.clock.now, taken)

    def ask_set(self, rs: ReplicaSet) -> Decision:
        owned = [p for p in self.all_pods if (owner := controller_of(p)) is not None and owner.uid == rs.metadata.uid]
        return replica_sets.reconcile(rs, owned, self.clock.now, self._names)

    def step(self) -> bool:
        """Each controller once; False if none of them wanted anything."""
        before = self.revision
        self.commit(*self.ask_deployment().changes)
        for rs in self.sets:
            self.commit(*self.ask_set(rs).changes)
        return self.revision != before

    def settle(self) -> None:
        for _ in range(100):
            if not self.step():
                return
        raise AssertionError("the controllers don't come to an end")

    # ------------------------------------------------------------ the node

    def bind_all(self) -> None:
        for p in self.pods:
            if not p.spec.node_name:
                self.commit(Update(p.model_copy(update={"spec": p.spec.model_copy(update={"node_name": "pi"})})))

    def report(self, pod: Pod, ready: bool) -> None:
        self.commit(UpdateStatus(reported(pod, self.clock.now, ready)))

    def take_away(self) -> None:
        """The node is through with every pod that it was asked to end."""
        for p in self.all_pods:
            if p.metadata.deletion_timestamp:
                self.commit(Delete("Pod", p.metadata.namespace, p.metadata.name))

    def run(self) -> None:
        """Until nothing changes: every pod starts and becomes ready, every ended one goes."""
        for _ in range(200):
            before = self.revision
            self.settle()
            self.bind_all()
            self.take_away()
            for p in self.pods:
                if not is_ready(p):
                    self.report(p, True)
            if self.revision == before:
                return
        raise AssertionError("the rollout doesn't come to an end")
