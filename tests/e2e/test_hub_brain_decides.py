"""The manager over a real store: manifests in, pods bound to nodes out, with a clock that stands still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update, UpdateStatus
from cloudlink.hub.controllers import deployment as deployments
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import find_condition, is_active
from cloudlink.hub.store import Store, WatchEvent
from cloudlink.hub.watch import READER_EVENTS
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import Event, Namespace, Node, Pod
from cloudlink.kube.meta import KubeObject, ObjectMeta
from tests.fakes.hub_brain import MIB, Clock, deployment, names, node, pod, reported, with_meta
from tests.wire_lab import until

T = TypeVar("T", bound=KubeObject)


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

    def all(self, kind: type[T]) -> list[T]:
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


def names_from(start: int) -> Callable[[], str]:
    give = names()
    return lambda: str(start + int(give()))


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
    hub.clock.advance(60)
    hub.manager.settle()  # that its revision is a good one is written down, once
    revision = hub.store.revision
    hub.clock.advance(3600)
    hub.manager.settle()
    assert hub.store.revision == revision
    again = Manager(hub.store, hub.clock, names())
    again.settle()
    assert hub.store.revision == revision


def test_twenty_replicas_cost_few_commits(hub: Hub) -> None:
    hub.add(node(), deployment(replicas=20))
    rounds = 0
    while hub.manager.round():
        rounds += 1
    assert len([p for p in hub.pods() if p.spec.node_name]) == 20
    assert rounds <= 5


def test_a_rollout_goes_through_and_leaves_only_new_pods(hub: Hub) -> None:
    hub.add(node(), deployment(replicas=4))
    hub.rollout()
    [web] = hub.all(Deployment)
    changed = deployment(replicas=4, image="demo:2")
    hub.store.commit([Update(web.model_copy(update={"spec": changed.spec}))])
    hub.rollout()
    assert {p.spec.containers[0].image for p in hub.pods()} == {"demo:2"}
    assert len(hub.all(ReplicaSet)) == 2


def test_a_deleted_deployment_takes_its_sets_and_pods_along(hub: Hub) -> None:
    hub.add(node(), deployment(replicas=2), pod("lone"))
    hub.rollout()
    hub.store.commit([Delete("Deployment", "default", "web")])
    hub.manager.settle()
    assert hub.all(ReplicaSet) == []
    assert [p.metadata.name for p in hub.pods()] == ["lone"]
    hub.rollout()
    assert [p.metadata.name for p in hub.all(Pod)] == ["lone"]


def test_a_namespace_ends_when_its_pods_have(hub: Hub) -> None:
    there = with_meta(deployment(), namespace="shop")
    hub.add(node(), Namespace(metadata=ObjectMeta(name="shop")), there)
    hub.rollout()
    hub.store.commit([MarkDeleted("Namespace", None, "shop", 0)])
    hub.manager.settle()
    assert hub.store.get("Namespace", None, "shop") is not None
    assert hub.all(Deployment) == []
    hub.rollout()
    assert hub.store.get("Namespace", None, "shop") is None
    assert hub.all(Pod) == []


def test_pods_that_fit_nowhere_wait_with_a_reason_and_go_when_a_node_comes(hub: Hub) -> None:
    hub.add(node("small"), pod("big", memory="2Gi"))
    hub.manager.settle()
    [waiting] = hub.pods()
    condition = find_condition(waiting.status.conditions, "PodScheduled")
    assert condition is not None
    assert condition.message == "0/1 nodes: 1 lacks 2 GiB memory (largest free 900 MiB)"
    assert "FailedScheduling" in hub.reasons()
    revision = hub.store.revision
    hub.manager.settle()
    assert hub.store.revision == revision
    hub.add(node("large", 4000 * MIB))
    hub.manager.settle()
    [placed] = hub.pods()
    assert placed.spec.node_name == "large"


def test_a_pod_that_ends_makes_room_for_one_that_waits(hub: Hub) -> None:
    hub.add(node(), pod("first", memory="600Mi"))
    hub.rollout()
    hub.add(pod("second", memory="600Mi"))
    hub.manager.settle()
    assert {p.metadata.name: p.spec.node_name for p in hub.pods()} == {"first": "pi", "second": ""}
    hub.store.commit([Delete("Pod", "default", "first")])
    hub.manager.settle()
    assert {p.metadata.name: p.spec.node_name for p in hub.pods()} == {"second": "pi"}


def test_a_cordoned_node_keeps_its_pods_and_gets_no_new_ones(hub: Hub) -> None:
    hub.add(node(), deployment(replicas=1))
    hub.rollout()
    [pi] = hub.all(Node)
    hub.store.commit([Update(pi.model_copy(update={"spec": pi.spec.model_copy(update={"unschedulable": True})}))])
    hub.add(pod("late"))
    hub.manager.settle()
    assert {p.spec.node_name for p in hub.pods()} == {"pi", ""}


def test_pods_of_a_removed_node_are_made_anew_elsewhere(hub: Hub) -> None:
    hub.add(node("a"), deployment(replicas=2))
    hub.rollout()
    hub.add(node("b"))
    hub.store.commit([Delete("Node", None, "a")])
    hub.rollout()
    assert [p.spec.node_name for p in hub.pods()] == ["b", "b"]


def test_the_same_thing_said_again_is_one_event(hub: Hub) -> None:
    hub.add(node(), deployment(replicas=1))
    hub.rollout()
    for replicas in (2, 1, 2, 1, 2, 1):
        [web] = hub.all(Deployment)
        spec = web.spec.model_copy(update={"replicas": replicas})
        hub.store.commit([Update(web.model_copy(update={"spec": spec}))])
        hub.rollout()
    scalings = [e for e in hub.all(Event) if e.reason == "ScalingReplicaSet"]
    assert sorted(e.count for e in scalings) == [1, 3, 3]


def test_a_hub_that_stops_after_any_commit_goes_on_where_it_was(tmp_path: Path) -> None:
    """Cut a rollout after each of its commits: a new manager finishes it, and no pod is made twice."""
    for cut in range(8):
        folder = tmp_path / str(cut)
        folder.mkdir()
        hub = Hub(folder)
        hub.add(node(), deployment(replicas=3))
        for _ in range(cut):
            hub.manager.round()
        hub.store.close()
        hub.store = Store.open(hub.url, hub.clock)
        hub.manager = Manager(hub.store, hub.clock, names_from(1000))
        hub.rollout()
        assert len(hub.all(Pod)) == 3
        assert len(hub.all(ReplicaSet)) == 1
        hub.store.close()


def test_an_object_that_can_not_be_decided_stops_nobody_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = with_meta(deployment("broken"), annotations={"break": "me"})
    hub.add(node(), broken, deployment("web", replicas=2))
    real = deployments.reconcile

    def fragile(wanted: Deployment, *rest: Any) -> Any:
        if "break" in wanted.metadata.annotations:
            raise ValueError("no way")
        return real(wanted, *rest)

    monkeypatch.setattr(deployments, "reconcile", fragile)
    wake_at = hub.manager.settle()
    assert len(hub.pods()) == 2
    assert "ReconcileError" in hub.reasons()
    assert hub.clock.now < wake_at < hub.clock.now + 1
    for _ in range(20):
        hub.clock.advance(120)
        hub.manager.settle()
    [told] = [e for e in hub.all(Event) if e.reason == "ReconcileError"]
    assert told.count == 21
    [stored] = [d for d in hub.all(Deployment) if d.metadata.name == "broken"]
    hub.store.commit([Update(with_meta(stored, annotations={}))])
    hub.manager.settle()
    assert len(hub.pods()) == 3


def test_one_change_that_is_refused_does_not_hold_up_the_others(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(node(), deployment("a"), deployment("b"))
    real = deployments.reconcile

    def forgetful(wanted: Deployment, *rest: Any) -> Any:
        decision = real(wanted, *rest)
        if wanted.metadata.name != "a":
            return decision
        return replace(decision, changes=(*decision.changes, Delete("Pod", "default", "never-was")))

    monkeypatch.setattr(deployments, "reconcile", forgetful)
    hub.manager.settle()
    assert len(hub.pods()) == 1
    monkeypatch.setattr(deployments, "reconcile", real)
    hub.clock.advance(60)
    hub.manager.settle()
    assert len(hub.pods()) == 2


def test_a_manager_that_fell_behind_looks_at_everything_again(hub: Hub) -> None:
    hub.add(node())
    hub.manager.settle()
    [pi] = hub.all(Node)
    hub.add(deployment(replicas=1))
    event = WatchEvent("MODIFIED", "Node", pi, hub.store.revision, pi, b"")
    for reader in tuple(hub.store._memory.readers):
        for _ in range(READER_EVENTS + 1):  # as many commits would take a minute
            reader.offer(event)
    hub.manager.settle()
    assert len(hub.pods()) == 1


def test_the_loop_wakes_for_changes_and_for_the_clock(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Store.open(f"sqlite:///{tmp_path}/hub.db")
        manager = asyncio.create_task(Manager(store, suffix=names()).run(), name="manager")
        try:
            ready = node()
            store.commit([Create(ready), UpdateStatus(ready), Create(deployment(minReadySeconds=1))])
            await until(lambda: store.list("Pod"))
            [made] = [p for p in store.list("Pod") if isinstance(p, Pod)]
            store.commit([UpdateStatus(reported(made, time.time()))])
            await until(lambda: store.get("Deployment", "default", "web").status.available_replicas == 1)  # type: ignore[union-attr]
        finally:
            store.close()
            async with asyncio.timeout(10):
                await manager

    asyncio.run(scenario())
