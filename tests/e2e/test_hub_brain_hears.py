"""What the exchange makes of messages, one after the other, without a broker: order, lateness, repetition, lies."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiomqtt
import msgspec
import pytest

from cloudlink import link, trust, wire
from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update
from cloudlink.hub.exchange import Exchange, Link, NewestPerTopic
from cloudlink.hub.objects import find_condition, is_ready
from cloudlink.hub.store import Store
from cloudlink.kube.core import ConfigMap, Event, Node, Pod
from cloudlink.kube.meta import KubeObject, ObjectMeta
from edged.model import Capacity, ContainerStatus, Desired, NodeStatus, Phase, PodStatus
from edged.model import Event as NodeEvent
from tests.fakes.hub_brain import MIB, Clock, pod

T = TypeVar("T", bound=KubeObject)
FLEET = "lab"
KEY = bytes(range(32))


class Ear:
    """An exchange that never connects, and what its store holds."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Store.open(f"sqlite:///{folder}/hub.db", self.clock)
        self.keys = {"pi": trust.public_key_of(trust.generate_key())}
        self.open()

    def open(self) -> None:
        tls = lambda: link.hub_context("")  # noqa: E731
        self.exchange = Exchange(self.store, FLEET, Link("", 0, tls), KEY, self.keys.get, self.clock)

    def hears(self, *messages: aiomqtt.Message) -> None:
        self.exchange.hear(messages)

    def all(self, kind: type[T]) -> list[T]:
        return [o for o in self.store.list(kind.__name__) if isinstance(o, kind)]

    def generation(self) -> int:
        """Of the document that the node was told last."""
        return self.exchange._documents.generation("pi")

    def document(self) -> Desired:
        """What the node was told last."""
        return self.exchange._documents._told["pi"]

    def ready(self) -> str:
        [node] = self.all(Node)
        condition = find_condition(node.status.conditions, "Ready")
        return condition.status if condition else ""

    def counts(self) -> dict[str, int]:
        return {e.reason: e.count for e in self.all(Event)}

    def bound(self, name: str = "lone", **more: Any) -> PodStatus:
        """A pod that is bound to the node and told to it; how the node would speak of it."""
        if not self.all(Node):
            self.store.commit([Create(Node(metadata=ObjectMeta(name="pi")))])
        self.store.commit([Create(pod(name, node="pi", **more))])
        self.exchange.rekeyed("pi")
        [made] = [p for p in self.all(Pod) if p.metadata.name == name]
        running = (ContainerStatus("main", "demo:1", "running", ready=True, started=True),)
        return PodStatus(made.metadata.uid, "default", name, Phase.RUNNING, True, containers=running)


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    ear = Ear(tmp_path)
    yield ear
    ear.store.close()


def message(leaf: str, body: bytes, retain: bool = False, node: str = "pi") -> aiomqtt.Message:
    return aiomqtt.Message(f"{wire.ROOT}/{FLEET}/{node}/{leaf}", body, 1, retain, 1, None)


def presence(online: bool, epoch: str = "life.1", retain: bool = False) -> aiomqtt.Message:
    return message(wire.PRESENCE, wire.encode_presence(wire.Presence(online, epoch, 0.0)), retain)


def status(generation: int = 1, epoch: str = "e1", retain: bool = False, **more: Any) -> aiomqtt.Message:
    told = NodeStatus("pi", generation, epoch, Capacity(1 << 30, 900 * MIB, 4000), **more)
    return message(wire.STATUS, wire.encode_status(told), retain)


def said(seq: int, reason: str, text: str = "x") -> NodeEvent:
    return NodeEvent(seq, 0.0, "Normal", reason, text)


def test_a_node_that_speaks_is_there(ear: Ear) -> None:
    ear.hears(status())
    assert ear.ready() == "True"
    assert ear.counts() == {"NodeReady": 1}


def test_what_the_broker_remembers_of_a_node_does_not_make_it_present(ear: Ear) -> None:
    ear.hears(status(retain=True), presence(False, retain=True))
    assert ear.ready() == "Unknown"
    ear.hears(presence(True, "life.2"))
    assert ear.ready() == "True"


def test_the_will_of_a_connection_that_was_followed_by_another_is_stale(ear: Ear) -> None:
    ear.hears(status(), presence(True, "life.1"), presence(True, "life.2"))
    ear.hears(presence(False, "life.1"))
    assert ear.ready() == "True"
    ear.hears(presence(False, "life.2"))
    assert ear.ready() == "Unknown"


def test_saying_the_same_again_writes_nothing(ear: Ear) -> None:
    told = ear.bound()
    ear.hears(presence(True), status(pods=(told,), events=(said(1, "Started"),)))
    revision = ear.store.revision
    ear.clock.advance(3600)
    ear.hears(presence(True), status(pods=(told,), events=(said(1, "Started"),)))
    assert ear.store.revision == revision


def test_events_are_counted_once_each_also_after_a_restart_of_the_hub(ear: Ear) -> None:
    ear.hears(status(events=(said(1, "Started"),)))
    ear.hears(status(events=(said(1, "Started"), said(2, "Started"))))
    ear.open()
    ear.hears(status(events=(said(1, "Started"), said(2, "Started"), said(3, "Killing"))))
    assert ear.counts() == {"NodeReady": 1, "Started": 2, "Killing": 1}
    ear.hears(status(epoch="e2", events=(said(1, "Started"),)))
    assert ear.counts()["Started"] == 3


def test_an_earlier_life_of_the_daemon_is_late_post(ear: Ear) -> None:
    told = ear.bound()
    unready = msgspec.structs.replace(told, ready=False)
    ear.hears(status(epoch="e1", pods=(unready,)))
    ear.hears(status(epoch="e2", pods=(told,)))
    ear.hears(status(epoch="e1", pods=(unready,)))
    assert [is_ready(p) for p in ear.all(Pod)] == [True]


def test_an_older_generation_of_the_same_life_is_ignored_and_of_a_new_one_is_not(ear: Ear) -> None:
    told = ear.bound()
    ear.hears(status(generation=3, pods=(told,)))
    ear.hears(status(generation=2, pods=(msgspec.structs.replace(told, ready=False),)))
    assert [is_ready(p) for p in ear.all(Pod)] == [True]
    ear.hears(status(generation=0, epoch="flashed anew"))
    assert ear.ready() == "True"


def test_a_pod_that_runs_on_is_not_gone_whatever_generation_its_node_reports(ear: Ear) -> None:
    told = ear.bound()
    generation = ear.generation()
    ear.hears(status(generation=generation, pods=(told,)))
    ear.store.commit([MarkDeleted("Pod", "default", "lone", 30)])
    ear.hears(status(generation=generation, pods=(told,)))
    ear.hears(status(generation=generation))  # the document still names it: the node must be restarting it
    assert len(ear.all(Pod)) == 1
    ear.hears(status(generation=generation + 1, pods=(told,)))
    assert len(ear.all(Pod)) == 1
    ear.hears(status(generation=generation + 1))
    assert ear.all(Pod) == []


def test_a_farewell_counts_after_later_documents_and_after_a_restart_too(ear: Ear) -> None:
    told = ear.bound()
    ear.hears(status(generation=ear.generation(), pods=(told,)))
    ear.store.commit([MarkDeleted("Pod", "default", "lone", 30)])
    other = ear.bound("other")
    generation = ear.generation()
    ear.open()
    ear.hears(status(generation=generation - 1, pods=(other,)))
    assert len(ear.all(Pod)) == 2
    ear.hears(status(generation=generation, pods=(other,)))
    assert [p.metadata.name for p in ear.all(Pod)] == ["other"]


def noise(name: str, size: int = 700_000) -> ConfigMap:
    """A config map that no compression makes smaller."""
    data = {"k": base64.b64encode(os.urandom(size)).decode()}
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data)


def reading(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "configMap": {"name": name}} for name in names]


def test_a_pod_that_makes_the_document_too_large_is_left_out_and_its_neighbours_go_on(ear: Ear) -> None:
    ear.hears(status())
    told = ear.bound()
    ear.hears(status(generation=1, pods=(told,)))
    before = ear.generation()
    ear.store.commit([Create(noise(f"c{n}")) for n in range(4)])
    ear.bound("greedy", volumes=reading("c0", "c1", "c2", "c3"))
    ear.bound("modest", volumes=reading("c0"))
    assert ear.generation() == before + 1
    assert [p.name for p in ear.document().pods] == ["lone", "modest"]
    assert list(ear.document().configs) == ["default/c0"]
    assert ear.counts()["DocumentTooLarge"] == 1
    greedy = next(p for p in ear.all(Pod) if p.metadata.name == "greedy")
    assert greedy.status.reason == "DocumentTooLarge"
    assert "make smaller: config map default/c" in greedy.status.message
    assert (greedy.status.phase, greedy.metadata.deletion_timestamp) == ("Pending", "")
    ear.store.commit([Delete("ConfigMap", "default", f"c{n}") for n in (1, 2, 3)])
    ear.exchange.rekeyed("pi")
    assert [p.name for p in ear.document().pods] == ["greedy", "lone", "modest"]
    assert ear.counts()["DocumentTooLarge"] == 1


def test_a_running_pod_keeps_its_config_when_the_new_one_is_too_large(ear: Ear) -> None:
    ear.hears(status())
    small = noise("c", 1000)
    ear.store.commit([Create(small)])
    told = ear.bound("reader", volumes=reading("c"))
    ear.hears(status(generation=1, pods=(told,)))
    before = ear.document()
    data = {f"k{n}": noise("x").data["k"] for n in range(3)}
    ear.store.commit([Update(small.model_copy(update={"data": data}))])
    ear.bound("later")
    after = ear.document()
    assert after.configs == before.configs
    assert [p.name for p in after.pods] == ["later", "reader"]
    assert ear.counts()["DocumentTooLarge"] == 1
    [reader] = [p for p in ear.all(Pod) if p.metadata.name == "reader"]
    assert (reader.status.reason, reader.status.phase) == ("", "Running")


def test_a_left_out_pod_goes_at_once_when_it_is_deleted(ear: Ear) -> None:
    ear.hears(status())
    told = ear.bound()
    ear.store.commit([Create(noise(f"c{n}")) for n in range(4)])
    ear.bound("greedy", volumes=reading("c0", "c1", "c2", "c3"))
    ear.store.commit([MarkDeleted("Pod", "default", "greedy", 0)])
    ear.hears(status(generation=ear.generation(), pods=(told,)))
    assert [p.metadata.name for p in ear.all(Pod)] == ["lone"]


def test_a_node_hears_of_another_grace_than_the_pods_own(ear: Ear) -> None:
    ear.hears(status())
    told = ear.bound()
    ear.store.commit([MarkDeleted("Pod", "default", "lone", 20)])
    ear.exchange.rekeyed("pi")
    assert (ear.document().pods, ear.document().leaving) == ((), {told.uid: 20.0})
    ear.store.commit([MarkDeleted("Pod", "default", "lone", 3)])
    ear.exchange.rekeyed("pi")
    assert ear.document().leaving == {told.uid: 3.0}
    ear.hears(status(generation=ear.generation()))
    assert ear.all(Pod) == []
    ear.exchange.rekeyed("pi")
    assert ear.document().leaving == {}


def test_a_service_or_label_change_reaches_the_document_and_a_status_does_not(ear: Ear) -> None:
    told = ear.bound()
    generation = ear.generation()
    ear.hears(status(generation=generation, pods=(told,)))
    assert ear.generation() == generation
    [lone] = ear.all(Pod)
    grown = lone.spec.model_copy(update={"termination_grace_period_seconds": 5})
    ear.store.commit([Update(lone.model_copy(update={"spec": grown}))])
    ear.exchange.rekeyed("pi")
    assert ear.generation() == generation + 1


def test_garbage_is_counted_and_logged_once_a_minute(ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    for body in (
        b"x",
        b"\x01garbage",
        os.urandom(100),
        wire.encode_status(NodeStatus("other", 1, "e", Capacity(1, 1, 1))),
    ):
        ear.hears(message(wire.STATUS, body))
    ear.hears(message("no-leaf", b"x"), message(wire.STATUS, b"x", node="Not A Name"))
    assert ear.exchange.garbage == 6
    assert ear.all(Node) == []
    assert len([r for r in caplog.records if "ignored a message" in r.message]) == 3


def test_an_absurd_generation_does_not_carry_the_hub_away(ear: Ear) -> None:
    ear.bound()
    assert ear.generation() == 1
    ear.hears(status(generation=(1 << 63) - 1))
    ear.exchange.rekeyed("pi")
    assert ear.generation() == 1


def test_the_queue_keeps_the_newest_of_each_topic_in_the_order_of_arrival() -> None:
    async def scenario() -> None:
        queue = NewestPerTopic()
        for m in (presence(True), status(1), presence(False), status(2), presence(True, "life.2"), status(3)):
            queue.put_nowait(m)
        assert queue.qsize() == 2
        first, second = await queue.get(), await queue.get()
        assert wire.decode_presence(bytes(first.payload)).epoch == "life.2"
        assert wire.decode_status(bytes(second.payload)).generation == 3

    asyncio.run(scenario())
