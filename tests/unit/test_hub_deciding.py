"""The manager runs the controllers of workloads against a store: what wakes them, and whose pods are whose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update, UpdateStatus
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import controller_of, is_deleted
from cloudlink.hub.store import Store
from cloudlink.kube.core import Pod
from cloudlink.kube.parse import parse
from tests.fakes.hub_brain import Clock, names, node, pod, pod_spec, with_meta
from tests.fakes.stateful import CLAIM


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

    def add_node(self, name: str, **spec: Any) -> None:
        made = node(name, **spec)
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


def test_a_daemon_pod_that_does_not_fit_waits_with_a_sentence_and_sends_lesser_ones_away(brain: Brain) -> None:
    brain.add_node("a")
    brain.store.commit([Create(pod("big", memory="800Mi"))])
    brain.manager.settle()
    template = {"metadata": {"labels": {"app": "agent"}}, "spec": pod_spec(memory="500Mi")}
    brain.make("DaemonSet", "agent", template=template)
    [waiting] = [p for p in brain.pods() if not p.spec.node_name]
    [condition] = waiting.status.conditions
    assert (condition.reason, condition.message) == (
        "Unschedulable",
        "0/1 nodes: 1 lacks 500 MiB memory (largest free 100 MiB)",
    )
    template["spec"] = pod_spec(memory="500Mi", priorityClassName="system-node-critical")
    brain.make("DaemonSet", "vital", template=template | {"metadata": {"labels": {"app": "vital"}}})
    assert {p.metadata.name for p in brain.pods() if is_deleted(p)} == {"big"}
    brain.store.commit([Delete("Pod", "default", "big")])
    brain.manager.settle()
    [bound] = [p for p in brain.pods() if p.spec.node_name]
    assert bound.metadata.labels["app"] == "vital"


def test_a_daemon_pod_goes_to_a_cordoned_node_and_others_do_not(brain: Brain) -> None:
    brain.add_node("a", unschedulable=True)
    brain.make("DaemonSet", "agent")
    brain.make("ReplicaSet", "web")
    assert {p.metadata.labels["app"]: p.spec.node_name for p in brain.pods()} == {"agent": "a", "web": ""}


def test_a_stateful_set_makes_claims_then_pods_which_stay_with_their_data(brain: Brain) -> None:
    for name in "ab":
        brain.add_node(name)
    brain.make("StatefulSet", "db", replicas=2, podManagementPolicy="Parallel", volumeClaimTemplates=[CLAIM])
    homes = {p.metadata.name: p.spec.node_name for p in brain.pods()}
    assert sorted(homes) == ["db-0", "db-1"]
    assert len(brain.store.list("PersistentVolumeClaim")) == 2
    for name in homes:
        brain.store.commit([Delete("Pod", "default", name)])
        brain.manager.settle()
    assert {p.metadata.name: p.spec.node_name for p in brain.pods()} == homes


def test_a_pod_waits_for_its_old_claim_to_go_and_comes_as_soon_as_it_has(brain: Brain) -> None:
    brain.add_node("a")
    brain.make("StatefulSet", "db", volumeClaimTemplates=[CLAIM])
    brain.store.commit([MarkDeleted("PersistentVolumeClaim", "default", "data-db-0", 0)])
    brain.manager.settle()
    [before] = brain.store.list("PersistentVolumeClaim")
    brain.store.commit([Delete("Pod", "default", "db-0")])
    brain.manager.settle()
    [after] = brain.store.list("PersistentVolumeClaim")
    assert after.metadata.uid != before.metadata.uid
    assert [p.metadata.name for p in brain.pods()] == ["db-0"]


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_a_set_made_anew_over_its_orphans_takes_in_pods_and_history(brain: Brain, kind: str) -> None:
    brain.add_node("a")
    brain.make(kind, "db")
    [before] = brain.pods()
    brain.store.commit([MarkDeleted(kind, "default", "db", 0, finalizers=("orphan",))])
    brain.manager.settle()
    assert brain.store.list(kind) == []
    assert controller_of(brain.pods()[0]) is None
    brain.make(kind, "db")
    [after], [revision] = brain.pods(), brain.store.list("ControllerRevision")
    [made] = brain.store.list(kind)
    assert after.metadata.uid == before.metadata.uid
    for taken in (after, revision):
        owner = controller_of(taken)
        assert owner is not None
        assert owner.uid == made.metadata.uid


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
