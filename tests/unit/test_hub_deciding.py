"""The manager runs the controllers of workloads against a store: what wakes them, and whose pods are whose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.changes import Create, Delete, Update, UpdateStatus
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import controller_of
from cloudlink.hub.store import Store
from cloudlink.kube.core import Pod
from cloudlink.kube.parse import parse
from tests.fakes.hub_brain import Clock, names, node, pod_spec, with_meta


class Brain:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Store.open(f"sqlite:///{folder}/hub.db", self.clock)
        self.manager = Manager(self.store, self.clock, names())

    def make(self, kind: str, name: str, **spec: Any) -> None:
        version = "v1" if kind == "ReplicationController" else "apps/v1"
        template = {"metadata": {"labels": {"app": name}}, "spec": pod_spec()}
        selector: Any = {"app": name} if kind == "ReplicationController" else {"matchLabels": {"app": name}}
        document = {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": selector, "template": template, **spec},
        }
        self.store.commit([Create(parse(document))])
        self.manager.settle()

    def pods(self) -> list[Pod]:
        return [p for p in self.store.list("Pod") if isinstance(p, Pod)]

    def add_node(self, name: str) -> None:
        made = node(name)
        self.store.commit([Create(made), UpdateStatus(made)])
        self.manager.settle()


@pytest.fixture
def brain(tmp_path: Path) -> Iterator[Brain]:
    it = Brain(tmp_path)
    yield it
    it.store.close()


def test_a_daemon_set_follows_nodes_that_come_and_go(brain: Brain) -> None:
    brain.add_node("a")
    brain.make("DaemonSet", "agent")
    brain.add_node("b")
    assert sorted(p.spec.node_name for p in brain.pods()) == ["a", "b"]
    assert len(brain.store.list("ControllerRevision")) == 1
    for p in brain.pods():
        brain.store.commit(
            [UpdateStatus(p.model_copy(update={"status": p.status.model_copy(update={"start_time": "x"})}))]
        )
    brain.store.commit([Delete("Node", None, "a")])
    brain.manager.settle()
    assert [p.spec.node_name for p in brain.pods()] == ["b"]


def test_a_replication_controller_makes_as_many_pods_as_it_says(brain: Brain) -> None:
    brain.add_node("a")
    brain.make("ReplicationController", "web", replicas=3)
    assert len(brain.pods()) == 3
    said = {getattr(e, "source").component for e in brain.store.list("Event")}  # noqa: B009
    assert "replication-controller" in said


def test_a_pod_whose_labels_no_longer_match_is_let_go_and_replaced(brain: Brain) -> None:
    brain.make("ReplicaSet", "web", replicas=1)
    [p] = brain.pods()
    brain.store.commit([Update(with_meta(p, labels={"app": "aside"}))])
    brain.manager.settle()
    free = [p for p in brain.pods() if controller_of(p) is None]
    assert [p.metadata.labels for p in free] == [{"app": "aside"}]
    assert len(brain.pods()) == 2


def test_an_orphan_that_matches_is_taken_in_instead_of_making_another(brain: Brain) -> None:
    orphan = parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "lone", "namespace": "default", "labels": {"app": "web"}},
            "spec": pod_spec(),
        }
    )
    brain.store.commit([Create(orphan)])
    brain.make("ReplicaSet", "web", replicas=1)
    [p] = brain.pods()
    owner = controller_of(p)
    assert (p.metadata.name, owner.name if owner else "") == ("lone", "web")
