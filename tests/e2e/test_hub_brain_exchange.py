"""Store, manager and exchange against a real mosquitto, with nodes that speak the real wire and pretend to run pods."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

from cloudlink import link, trust, wire
from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update
from cloudlink.hub.exchange import Exchange, Link
from cloudlink.hub.listening import Listening
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import find_condition, is_active, is_ready
from cloudlink.hub.store import Store
from cloudlink.kube.core import ConfigMap, Event, Node, Pod, Secret
from cloudlink.kube.meta import KubeObject, ObjectMeta
from edged.model import Desired
from tests.fakes.hub_brain import deployment, names, pod
from tests.fakes.hub_node import PretendNode
from tests.wire_lab import FLEET, SIGNING_KEY, Lab, open_lab, running, status, until

T = TypeVar("T", bound=KubeObject)


class Hub:
    """Everything of a hub but its HTTP side, over a database that outlives it."""

    def __init__(self, lab: Lab, silence: float = 150.0) -> None:
        self.lab, self.silence = lab, silence
        self.node_keys: dict[str, bytes] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Hub]:
        self.store = Store.open(f"sqlite:///{self.lab.folder}/hub.db")
        files = self.lab.client_files("_hub")
        tls = lambda: link.hub_context(self.lab.authority.pem.decode(), files)  # noqa: E731
        self.exchange = Exchange(
            self.store,
            FLEET,
            Link("127.0.0.1", self.lab.hub_port, tls),
            SIGNING_KEY,
            self.node_keys.get,
            listening=Listening(self.silence),
        )
        try:
            async with (
                running(Manager(self.store, suffix=names_once()).run(), "manager"),
                running(self.exchange.run(), "exchange"),
            ):
                await until(self.exchange.connected.is_set, "the exchange is connected")
                yield self
        finally:
            self.store.close()

    def add(self, *objects: KubeObject) -> None:
        self.store.commit([Create(o) for o in objects])

    def all(self, kind: type[T]) -> list[T]:
        return [o for o in self.store.list(kind.__name__) if isinstance(o, kind)]

    def node_ready(self, name: str = "pi-1") -> str:
        found = self.store.get("Node", None, name)
        if not isinstance(found, Node):
            return "absent"
        condition = find_condition(found.status.conditions, "Ready")
        return condition.status if condition else "untold"

    def ready_pods(self) -> list[Pod]:
        return [p for p in self.all(Pod) if is_active(p) and is_ready(p)]


def names_once() -> Any:
    """Names that no other manager of this test run gives."""
    give = names()
    prefix = os.urandom(3).hex()
    return lambda: prefix + give()


@contextlib.asynccontextmanager
async def house(folder: Path, silence: float = 150.0) -> AsyncIterator[tuple[Lab, Hub]]:
    async with open_lab(folder) as lab:
        yield lab, Hub(lab, silence)


def make_node(lab: Lab, hub: Hub, name: str = "pi-1", **more: Any) -> PretendNode:
    private = trust.generate_key()
    hub.node_keys[name] = trust.public_key_of(private)
    return PretendNode(name, lab.uplink(name, private_key=private), **more)


def test_a_deployment_is_told_to_the_node_and_becomes_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                await until(lambda: hub.node_ready() == "True", "the node is ready")
                hub.add(deployment(replicas=3))
                await until(lambda: len(hub.ready_pods()) == 3, "the pods are ready")
                assert node.desired is not None
                assert {p.uid for p in node.desired.pods} == {p.metadata.uid for p in hub.all(Pod)}
                [one] = [n for n in hub.all(Node) if n.metadata.name == "pi-1"]
                assert one.metadata.labels["kubernetes.io/arch"] == "arm64"
                await until(lambda: hub.store.get("Deployment", "default", "web").status.available_replicas == 3)  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_a_deleted_pod_goes_for_good_only_when_the_node_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                await until(lambda: hub.node_ready() == "True")
                hub.add(pod("lone"))
                await until(lambda: len(hub.ready_pods()) == 1)
                [stored] = hub.all(Pod)
                node.frozen[stored.metadata.uid] = node._running(stored.metadata.uid, "default", "lone", ["main"])
                before = node.generation
                hub.store.commit([MarkDeleted("Pod", "default", "lone", 30)])
                await until(lambda: node.generation > before, "the node is told")
                assert node.desired is not None
                assert node.desired.pods == ()
                node.say("Normal", "Killing", "Stopping container main", stored.metadata.uid, "main")
                await until(lambda: any(e.reason == "Killing" for e in hub.all(Event)), "the event arrives")
                assert len(hub.all(Pod)) == 1
                node.frozen.clear()
                node.report()
                await until(lambda: hub.all(Pod) == [], "the pod is gone")

    asyncio.run(scenario())


def test_a_pod_that_was_deleted_before_its_node_heard_of_it_goes_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                await until(lambda: hub.node_ready() == "True")
                hub.add(pod("brief", node="pi-1"))
                hub.store.commit([MarkDeleted("Pod", "default", "brief", 30)])
                await until(lambda: hub.all(Pod) == [])

    asyncio.run(scenario())


def test_a_node_that_is_gone_is_unknown_and_comes_back_with_its_pods(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                await until(lambda: hub.node_ready() == "True")
                hub.add(deployment(replicas=2))
                await until(lambda: len(hub.ready_pods()) == 2)
                before = {p.metadata.uid for p in hub.all(Pod)}
            await until(lambda: hub.node_ready() == "Unknown", "the last will is heard")
            await until(lambda: hub.ready_pods() == [])
            assert {p.status.phase for p in hub.all(Pod)} == {"Running"}
            assert {p.metadata.uid for p in hub.all(Pod) if is_active(p)} == before
            async with running(node.run(), "node again"):
                await until(lambda: hub.node_ready() == "True")
                await until(lambda: {p.metadata.uid for p in hub.ready_pods()} == before)

    asyncio.run(scenario())


def test_statuses_and_generations_survive_a_restart_of_the_hub(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub):
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                async with hub.running():
                    await until(lambda: hub.node_ready() == "True")
                    hub.add(Secret(metadata=ObjectMeta(name="key", namespace="default"), data={"k": "djE="}))
                    hub.add(pod("lone", volumes=[{"name": "s", "secret": {"secretName": "key"}}]))
                    node.say("Normal", "Started", "Started container main")
                    await until(lambda: len(hub.ready_pods()) == 1)
                    await until(lambda: any(e.reason == "Started" for e in hub.all(Event)))
                generation, revision = node.generation, hub.store.revision
                async with hub.running():
                    assert len(hub.ready_pods()) == 1
                    await until(lambda: hub.exchange.published >= 1, "the document is published again")
                    node.say("Normal", "Pulled", "later than the restart")
                    await until(lambda: any(e.reason == "Pulled" for e in hub.all(Event)))
                    assert node.generation == generation
                    assert node.inbox.refusals == 0
                    assert [e.count for e in hub.all(Event) if e.reason == "Started"] == [1]
                    assert hub.store.revision == revision + 1

    asyncio.run(scenario())


def test_a_secret_is_sealed_once_and_again_only_when_it_changes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                await until(lambda: hub.node_ready() == "True")
                hub.add(Secret(metadata=ObjectMeta(name="key", namespace="default"), data={"k": "djE="}))
                hub.add(ConfigMap(metadata=ObjectMeta(name="other", namespace="default"), data={"k": "1"}))
                hub.add(pod("lone", volumes=[{"name": "s", "secret": {"secretName": "key"}}]))
                await until(lambda: len(hub.ready_pods()) == 1)
                assert node.desired is not None
                first = node.desired
                assert node.uplink.unseal("default/key", first.secrets["default/key"]) == {"k": b"v1"}
                hub.add(pod("second"))
                await until(lambda: len(hub.ready_pods()) == 2)
                assert node.desired.secrets == first.secrets
                secret = hub.store.get("Secret", "default", "key")
                assert secret is not None
                hub.store.commit([Update(secret.model_copy(update={"data": {"k": "djI="}}))])
                await until(lambda: node.desired is not None and node.desired.secrets != first.secrets)
                assert node.uplink.unseal("default/key", node.desired.secrets["default/key"]) == {"k": b"v2"}

    asyncio.run(scenario())


def test_what_a_broker_lost_is_published_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                await until(lambda: hub.node_ready() == "True")
                hub.add(pod("lone"))
                await until(lambda: len(hub.ready_pods()) == 1)
            generation = node.generation
            published = hub.exchange.published
            assert lab.broker.pid is not None
            os.kill(lab.broker.pid, signal.SIGKILL)
            (lab.folder / "broker" / "mosquitto.db").unlink(missing_ok=True)
            await until(lambda: hub.exchange.published > published, "documents are published again")
            again = make_node(lab, hub)
            async with running(again.run(), "node again"):
                await until(lambda: again.generation == generation)

    asyncio.run(scenario())


def test_nodes_that_never_come_back_are_given_up_after_a_while(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, silence=0.5) as (lab, hub):
            node = make_node(lab, hub)
            async with running(node.run(), "node"), hub.running():
                await until(lambda: hub.node_ready() == "True")
            async with lab.client() as cleaner:  # as if the broker had lost everything, and the node its power
                for leaf in (wire.presence_topic, wire.status_topic):
                    await cleaner.publish(leaf(FLEET, "pi-1"), b"", qos=1, retain=True)
            async with hub.running():
                assert hub.node_ready() == "True"
                await until(lambda: hub.node_ready() == "Unknown")

    asyncio.run(scenario())


def test_garbage_on_any_topic_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            async with running(node.run(), "node"), lab.client() as mischief:
                await until(lambda: hub.node_ready() == "True")
                revision = hub.store.revision
                bad = [
                    b"",
                    b"x",
                    os.urandom(3000),
                    wire.encode_status(status("pi-2")),
                    b"\x01\x28\xb5\x2f\xfd" + b"\0" * 50,
                ]
                for body in bad:
                    for leaf in (wire.status_topic, wire.presence_topic):
                        await mischief.publish(leaf(FLEET, "pi-1"), body, qos=1)
                await mischief.publish(f"edge/v1/{FLEET}/Not-A-Name/status", b"x", qos=1)
                await until(lambda: hub.exchange.garbage >= 3)
                hub.add(pod("lone"))
                await until(lambda: len(hub.ready_pods()) == 1, "the exchange still works")
                assert hub.store.revision > revision
                assert hub.node_ready() == "True"

    asyncio.run(scenario())


def test_a_node_can_not_speak_for_pods_of_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            good, liar = make_node(lab, hub, "pi-1"), make_node(lab, hub, "pi-2", memory=1 << 20)
            async with running(good.run(), "good"), running(liar.run(), "liar"):
                await until(lambda: hub.node_ready("pi-1") == hub.node_ready("pi-2") == "True")
                hub.add(pod("lone", node="pi-1"))
                await until(lambda: len(hub.ready_pods()) == 1)
                [stored] = hub.all(Pod)
                uid = stored.metadata.uid
                liar.ready = False
                liar.frozen[uid] = liar._running(uid, "default", "lone", ["main"])
                liar.say("Warning", "OOMKilled", "not mine", uid)
                liar.say("Warning", "Marker", "about the node itself")
                await until(lambda: any(e.reason == "Marker" for e in hub.all(Event)))
                assert len(hub.ready_pods()) == 1
                assert not any(e.reason == "OOMKilled" for e in hub.all(Event))

    asyncio.run(scenario())


def test_a_hub_restored_from_an_older_copy_goes_on_beyond_what_nodes_have(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            node.generation = 41
            node.inbox.generation, node.inbox.digest = 41, b"?"
            node.desired = Desired(FLEET, "pi-1", 41)
            async with running(node.run(), "node"):
                await until(lambda: node.generation > 41, "the node takes documents again")
                hub.add(pod("lone"))
                await until(lambda: len(hub.ready_pods()) == 1)

    asyncio.run(scenario())


def test_a_removed_node_is_told_to_run_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as (lab, hub), hub.running():
            node = make_node(lab, hub)
            async with running(node.run(), "node"):
                await until(lambda: hub.node_ready() == "True")
                hub.add(pod("lone"))
                await until(lambda: len(hub.ready_pods()) == 1)
                hub.store.commit([Delete("Node", None, "pi-1")])
                await until(lambda: node.desired is not None and node.desired.pods == ())
                await until(lambda: hub.all(Pod) == [])

    asyncio.run(scenario())
