"""Nodes that come and go, as the exchange hears of them and the manager decides: with a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest

from cloudlink import wire
from cloudlink.hub.admission import Room
from cloudlink.hub.changes import Create, Delete, Update
from cloudlink.hub.controllers.node_life import Knobs
from cloudlink.hub.listening import Listening
from cloudlink.hub.lives import Lives
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import find_condition, is_active, is_ready
from cloudlink.hub.patience import Patience
from cloudlink.kube.apps import DaemonSet, ReplicaSet
from cloudlink.kube.core import Event, Node, PersistentVolumeClaim, Pod, Service, Taint
from cloudlink.kube.endpoints import EndpointSlice
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import parse
from cloudlink.kube.taints import OUT_OF_SERVICE
from edged import model
from tests.e2e.test_hub_brain_exchange import house, make_node
from tests.e2e.test_hub_brain_hears import Ear, message
from tests.fakes.hub_brain import deployment, names, pod
from tests.unit.test_schedule_claims import claim, user
from tests.wire_lab import running, until

PATIENCE = Patience(300, 300)


class Fleet(Ear):
    """A hub without a broker, and boards whose words the test puts into its ear."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.listening = Listening(150.0, self.clock.now - 1000)
        lives = Lives(Knobs(node_eviction_rate=100.0), self.listening)
        self.manager = Manager(self.store, self.clock, names(), lives, PATIENCE)

    def settle(self) -> float:
        """Controllers and exchange, until both are through; when something is due next."""
        at = self.manager.settle()
        for node in self.exchange._documents.nodes:
            self.exchange.rekeyed(node)
        return min(at, self.manager.settle())

    def add(self, *objects: KubeObject) -> None:
        """As through the API."""
        room = Room(self.store, self.clock.now, PATIENCE)
        self.store.commit([Create(room.let_in(o)) for o in objects])
        self.settle()

    def runs(self, node: str, *left_out: str) -> None:
        """The board says that it runs what its document says, but for some."""
        self.settle()
        told = self.exchange._documents._told.get(node)
        pods = tuple(running_pod(p) for p in (told.pods if told else ()) if p.uid not in left_out)
        self.says(node, pods=pods, generation=told.generation if told else 0)

    def says(self, node: str, generation: int = 1, **more: Any) -> None:
        capacity = model.Capacity(1 << 30, 900 << 20, 4000)
        said = model.NodeStatus(node, generation, f"life of {node}", capacity, **more)
        self.hears(message(wire.STATUS, wire.encode_status(said), node=node))
        self.settle()

    def is_lost(self, node: str, epoch: str = "1") -> None:
        self.hears(will(node, epoch))
        self.settle()

    def is_back(self, node: str, epoch: str = "1") -> None:
        self.hears(came(node, epoch))
        self.settle()

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def node(self, name: str) -> Node:
        found = self.store.get("Node", None, name)
        assert isinstance(found, Node)
        return found

    def readiness(self, name: str) -> tuple[str, str]:
        ready = find_condition(self.node(name).status.conditions, "Ready")
        return (ready.status, ready.reason) if ready is not None else ("", "")

    def active(self) -> dict[str, str]:
        return {p.metadata.name: p.spec.node_name for p in self.all(Pod) if is_active(p)}

    def leaving(self) -> set[str]:
        return {p.metadata.name for p in self.all(Pod) if p.metadata.deletion_timestamp}

    def taint(self, name: str, *taints: Taint) -> None:
        there = self.node(name)
        self.store.commit([Update(there.model_copy(update={"spec": there.spec.model_copy(update={"taints": taints})}))])
        self.settle()


def running_pod(told: model.Pod) -> model.PodStatus:
    at_work = [model.ContainerStatus(c.name, c.image, "running", ready=True, started=True) for c in told.containers]
    phase = model.Phase.RUNNING
    return model.PodStatus(told.uid, told.namespace, told.name, phase, True, "10.88.0.2", containers=tuple(at_work))


def will(node: str, epoch: str = "1") -> aiomqtt.Message:
    return message(wire.PRESENCE, wire.encode_presence(wire.Presence(False, epoch, 0.0)), node=node)


def came(node: str, epoch: str = "1") -> aiomqtt.Message:
    return message(wire.PRESENCE, wire.encode_presence(wire.Presence(True, epoch, 0.0)), node=node)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    for name in ("a", "b"):
        fleet.is_back(name)
        fleet.says(name)
    yield fleet
    fleet.store.close()


def on(fleet: Fleet, node: str) -> set[str]:
    return {name for name, there in fleet.active().items() if there == node}


def pinned(name: str, node: str, **spec: Any) -> Pod:
    return pod(name, nodeSelector={"kubernetes.io/hostname": node}, **spec)


# ---------------------------------------------------------------- the way of a lost node


def test_pods_of_a_lost_node_move_after_their_toleration_and_the_old_ones_go_with_its_first_word(fleet: Fleet) -> None:
    fleet.add(deployment(replicas=1))
    home = next(iter(set(fleet.active().values())))
    away = "b" if home == "a" else "a"
    fleet.runs(home)
    before = fleet.exchange._documents.generation(home)
    old = set(fleet.active())
    fleet.is_lost(home)
    assert fleet.readiness(home) == ("Unknown", "NodeUnreachable")
    assert [is_ready(p) for p in fleet.all(Pod)] == [False]
    assert {t.effect for t in fleet.node(home).spec.taints} == {"NoSchedule", "NoExecute"}
    fleet.later(299)
    assert set(fleet.active()) == old
    fleet.later(1)
    assert fleet.leaving() == old
    assert set(fleet.active().values()) == {away}
    # The document without them is recorded, to be retained by the broker: the node meets it, hub or no hub.
    told = fleet.exchange._documents._told[home]
    assert (told.pods, told.generation) == ((), before + 1)
    fleet.runs(away)
    survivors = fleet.active()
    fleet.is_back(home, "2")
    fleet.says(home, before)
    assert fleet.leaving() == old, "by the old document: they may be about to be started again"
    fleet.says(home, before + 1)
    assert fleet.leaving() == set()
    assert fleet.active() == survivors
    assert fleet.node(home).spec.taints == ()


def test_a_node_that_is_back_in_the_very_second_in_which_patience_ends_keeps_its_pods(fleet: Fleet) -> None:
    fleet.add(pinned("web", "a"))
    fleet.runs("a")
    fleet.is_lost("a")
    fleet.clock.advance(300)
    fleet.hears(came("a", "2"))  # before the manager has its turn, whose eviction is due
    fleet.settle()
    assert fleet.active() == {"web": "a"}
    assert fleet.node("a").spec.taints == ()


def test_services_leave_out_pods_of_a_lost_node_at_once(fleet: Fleet) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}}
    made = parse(service | {"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})
    assert isinstance(made, Service)
    fleet.add(deployment(replicas=2), made)
    for node in ("a", "b"):
        fleet.runs(node)

    def ready() -> list[bool]:
        return [e.conditions.ready for s in fleet.all(EndpointSlice) for e in s.endpoints if e.conditions]

    assert ready() == [True, True]
    for node in set(fleet.active().values()):
        fleet.is_lost(node)
    assert ready() == [False, False]


def test_daemon_pods_and_finished_ones_stay_and_nobody_is_doubled(fleet: Fleet) -> None:
    template = {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "main", "image": "demo:1"}]}}
    document = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "default"}}
    made = parse(document | {"spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template}})
    assert isinstance(made, DaemonSet)
    fleet.add(made)
    for node in ("a", "b"):
        fleet.runs(node)
    before = fleet.active()
    fleet.is_lost("a")
    fleet.later(10_000)
    assert fleet.active() == before
    [lost] = [p for p in fleet.all(Pod) if p.spec.node_name == "a"]
    assert lost.status.phase == "Running"
    fleet.store.commit([Delete("Pod", "default", lost.metadata.name)])  # by force
    fleet.settle()
    assert len(on(fleet, "b")) == 1
    assert not on(fleet, "a"), "nobody new where nobody can be told"


def test_what_a_node_said_last_counts_also_when_it_is_heard_after_its_will(fleet: Fleet) -> None:
    fleet.add(pinned("once", "a", restartPolicy="Never"))
    fleet.runs("a")
    [told] = fleet.exchange._documents._told["a"].pods
    done = msgspec.structs.replace(running_pod(told), phase=model.Phase.SUCCEEDED, ready=False)
    fleet.is_lost("a")
    generation = fleet.exchange._documents.generation("a")
    capacity = model.Capacity(1 << 30, 900 << 20, 4000)
    said = model.NodeStatus("a", generation, "life of a", capacity, pods=(done,))
    fleet.hears(message(wire.STATUS, wire.encode_status(said), retain=True, node="a"))
    assert [p.status.phase for p in fleet.all(Pod)] == ["Succeeded"]
    assert fleet.readiness("a")[0] == "Unknown"


# ---------------------------------------------------------------- who stays, and why


def test_a_pod_bound_to_its_data_stays_with_a_lost_node_and_people_are_told(fleet: Fleet) -> None:
    fleet.add(claim(), user("keeper", where="a"))
    fleet.runs("a")
    [data] = fleet.all(PersistentVolumeClaim)
    assert data.node == "a"
    fleet.is_lost("a")
    fleet.later(10_000)
    assert fleet.active() == {"keeper": "a"}
    [said] = [e for e in fleet.all(Event) if e.reason == "EvictionHeld"]
    assert "the data of claim data is on node a and nowhere else" in said.message


def test_taints_by_people_evict_too_and_out_of_service_ends_what_waits_for_the_node(fleet: Fleet) -> None:
    fleet.add(pinned("web", "a"))
    fleet.runs("a")
    fleet.taint("a", Taint(key="maintenance", effect="NoExecute"))
    assert fleet.leaving() == {"web"}
    fleet.is_lost("a")
    assert fleet.leaving() == {"web"}
    there = fleet.node("a").spec.taints
    fleet.taint("a", *there, Taint(key=OUT_OF_SERVICE, value="nodeshutdown", effect="NoExecute"))
    assert fleet.all(Pod) == []
    assert fleet.exchange._documents._told["a"].pods == ()


def test_pods_get_the_usual_tolerations_which_change_no_revision(fleet: Fleet) -> None:
    fleet.add(deployment(replicas=2))
    [rs] = fleet.all(ReplicaSet)
    assert rs.spec.template.spec.tolerations == ()
    assert [[t.toleration_seconds for t in p.spec.tolerations] for p in fleet.all(Pod)] == [[300, 300]] * 2
    revision = fleet.store.revision
    Manager(fleet.store, fleet.clock, names()).settle()
    assert fleet.store.revision == revision


# ---------------------------------------------------------------- who is cut off


def test_while_most_nodes_are_lost_nobody_is_evicted_and_it_is_said_once(fleet: Fleet) -> None:
    for name in ("c", "d"):
        fleet.is_back(name)
        fleet.says(name)
    fleet.add(pinned("web", "a"))
    fleet.runs("a")
    for name in ("a", "b", "c"):
        fleet.is_lost(name)
    fleet.later(10_000)
    assert fleet.active() == {"web": "a"}
    held = [e for e in fleet.all(Event) if e.reason == "EvictionHeld"]
    assert {(e.involved_object.name, e.count) for e in held} == {("a", 1), ("b", 1), ("c", 1)}
    fleet.is_back("b", "2")
    fleet.later(299)
    assert fleet.active() == {"web": "a"}, "patience begins anew"
    fleet.later(1)
    assert fleet.leaving() == {"web"}


def test_a_hub_that_comes_back_gives_nodes_time_to_speak_before_it_moves_anything(fleet: Fleet) -> None:
    fleet.add(pinned("web", "a"))
    fleet.runs("a")
    fleet.is_lost("a")
    fleet.clock.advance(10_000)  # nobody is there
    listening = Listening(150.0)
    manager = Manager(fleet.store, fleet.clock, names(), Lives(Knobs(), listening))
    manager.settle()
    assert fleet.active() == {"web": "a"}
    listening.since = fleet.clock.now + 5
    fleet.clock.advance(154)
    assert manager.settle() == listening.since + 150
    assert fleet.active() == {"web": "a"}
    fleet.clock.advance(1)
    manager.settle()
    assert fleet.leaving() == {"web"}


def test_a_board_that_flaps_all_day_costs_few_writes(fleet: Fleet) -> None:
    fleet.add(pinned("web", "a"))
    fleet.runs("a")
    for n in range(20):
        fleet.hears(will("a", str(n + 1)))
        fleet.clock.advance(20)
        fleet.exchange._commit(fleet.exchange._reports.lost())
        fleet.hears(came("a", str(n + 2)))
        fleet.runs("a")
        fleet.clock.advance(40)
    revision = fleet.store.revision
    for n in range(20, 500):
        fleet.hears(will("a", str(n + 1)))
        fleet.clock.advance(20)
        fleet.exchange._commit(fleet.exchange._reports.lost())
        fleet.hears(came("a", str(n + 2)))
        fleet.clock.advance(40)
    assert fleet.store.revision == revision
    assert fleet.active() == {"web": "a"}


# ---------------------------------------------------------------- generations


def test_a_node_that_says_it_is_not_ready_is_tainted_so(fleet: Fleet) -> None:
    broken = model.NodeCondition(model.NOT_READY, "ContainerRuntimeNotReady", "crun is missing")
    fleet.says("a", conditions=(broken,))
    assert fleet.readiness("a") == ("False", "ContainerRuntimeNotReady")
    assert {t.key for t in fleet.node("a").spec.taints} == {"node.kubernetes.io/not-ready"}
    said = [e.message for e in fleet.all(Event) if e.reason == "NodeNotReady"]
    assert said == ["Node a status is now: NodeNotReady: crun is missing"]
    fleet.says("a")
    assert fleet.readiness("a") == ("True", "NodeReady")
    assert fleet.node("a").spec.taints == ()


def test_a_hub_that_has_counted_up_to_what_its_node_knows_goes_beyond_it(fleet: Fleet) -> None:
    fleet.add(pinned("web", "a"))
    generation = fleet.exchange._documents.generation("a")
    refused = model.Refusal(1, "other content", 0.0, generation)
    fleet.says("a", generation, refused=refused)
    assert fleet.exchange._documents.generation("a") == generation + 1
    fleet.says("a", generation, refused=refused)  # late post
    assert fleet.exchange._documents.generation("a") == generation + 1


def test_a_node_whose_disk_is_older_takes_what_the_hub_says(fleet: Fleet) -> None:
    fleet.add(pinned("web", "a"))
    fleet.runs("a")
    generation = fleet.exchange._documents.generation("a")
    capacity = model.Capacity(1 << 30, 900 << 20, 4000)
    old = model.NodeStatus("a", 0, "restored", capacity)
    fleet.hears(message(wire.STATUS, wire.encode_status(old), node="a"))
    fleet.settle()
    assert fleet.exchange._documents.generation("a") == generation
    assert fleet.active() == {"web": "a"}


# ---------------------------------------------------------------- hearsay


def test_a_connection_that_only_the_broker_remembers_is_no_word_of_the_node(fleet: Fleet) -> None:
    reports = fleet.exchange._reports
    reports.listening_anew()
    fleet.hears(message(wire.PRESENCE, wire.encode_presence(wire.Presence(True, "1", 0.0)), retain=True, node="a"))
    fleet.hears(came("b"))
    assert reports.silent(150.0) == ["a"]
    fleet.exchange._commit(["a"])
    assert fleet.readiness("a") == ("Unknown", "NodeStatusUnknown")
    assert fleet.readiness("b")[0] == "True"


def test_an_idle_node_answers_a_hub_that_came_back_to_a_broker_that_stayed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, silence=1.0) as (lab, hub):
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                async with hub.running():
                    await until(lambda: hub.node_ready() == "True")
                    await until(lambda: node.generation > 0, "the node has a document")
                async with hub.running():
                    await asyncio.sleep(2.0)  # twice the silence
                    assert hub.node_ready() == "True"
                    [found] = hub.all(Node)
                    assert found.spec.taints == ()

    asyncio.run(scenario())
