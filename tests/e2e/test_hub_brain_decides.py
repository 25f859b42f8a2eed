"""The manager over a real store: manifests in, pods bound to nodes out, with a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update, UpdateStatus
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import find_condition, is_active
from cloudlink.hub.store import Store
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import Event, Namespace, Pod
from cloudlink.kube.meta import KubeObject, ObjectMeta
from tests.fakes.hub_brain import MIB, Clock, deployment, names, node, pod, reported


class Hub:
    """A store in a folder of its own, and its manager."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.url = f"sqlite:///{folder}/hub.db"
        self.store = Store.open(self.url, self.clock)
        self.manager = Manager(self.store, self.clock, names())
        self.commits = 0

    def add(self, *objects: KubeObject) -> None:
        self.store.commit([Create(o) for o in objects])
        for o in objects:
            if getattr(o, "status", None) is not None and o.kind == "Node":
                self.store.commit([UpdateStatus(o)])

    def all(self, kind: type[KubeObject]) -> list:
        return [o for o in self.store.list(kind.__name__) if isinstance(o, kind)]

    def pods(self) -> list[Pod]:
        return [p for p in self.all(Pod) if is_active(p)]

    def nodes_report(self, ready: bool = True) -> None:
        """Every node says that all its pods run, and that those it was asked to end are gone."""
        for p in self.all(Pod):
            if p.metadata.deletion_timestamp:
                self.store.commit([Delete("Pod", p.metadata.namespace, p.metadata.name)])
            elif p.spec.node_name and not find_condition(p.status.conditions, "Ready"):
                self.store.commit([UpdateStatus(reported(p, self.clock.now, ready))])

    def rollout(self) -> None:
        for _ in range(50):
            revision = self.store.revision
            self.manager.settle()
            self.nodes_report()
            self.manager.settle()
            if self.store.revision == revision:
                return
        raise AssertionError("the rollout doesn't end")

    def reasons(self) -> set[str]:
        return {e.reason for e in self.all(Event)}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    yield hub
    hub.store.close()


def test_a_deployment_becomes_pods_that_are_bound_to_the_only_node(hub: Hub) -> None:
    hub.add(node(), deployment(replicas=3))
    hub.manager.settle()
    pods = hub.pods()
    assert len(pods) == 3
    assert {p.spec.node_name for p in pods} == {"pi"}
    assert hub.reasons() >= {"ScalingReplicaSet", "SuccessfulCreate", "Scheduled"}


def test_settling_twice_writes_nothing(hub: Hub) -> None:
    hub.add(node(), deployment(replicas=3))
    hub.rollout()
    revision = hub.store.revision
    hub.clock.advance(3600)
    hub.manager.settle()
    assert hub.store.revision == revision
    again = Manager(hub.store, hub.clock, names())
    again.settle()
    assert hub.store.revision == revision


def test_twenty_replicas_cost_few_commits(hub: Hub) -> None:
    hub.add(node(), deployment(replicas=20))
    before = hub.store._history.since(0, None)[-1].revision
    rounds = 0
    while hub.manager.round():
        rounds += 1
    assert len([p for p in hub.pods() if p.spec.node_name]) == 20
    assert rounds <= 5
    assert hub.store.revision > before
