"""Several that make something at once under one quota share what is left; nobody gets the last of it twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.hub.admission import Room
from cloudlink.hub.changes import Change, Create, Delete, UpdateStatus
from cloudlink.hub.errors import Conflict
from cloudlink.hub.manager import Manager
from cloudlink.hub.patience import DEFAULT_PATIENCE
from cloudlink.hub.store import Store
from cloudlink.kube.apps import Deployment
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import parse
from cloudlink.kube.pod import Pod
from cloudlink.kube.quotas import ResourceQuota
from tests.fakes.hub_brain import Clock, deployment, names, node, pod, with_meta


class Hub:
    """A store with a large node and a quota in it, and its manager."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.clock = clock
        self.store = Store.open(f"sqlite:///{folder}/hub.db", clock)
        large = node(memory=64 << 30, cpu=64000)
        self.store.commit([Create(large)])
        self.store.commit([UpdateStatus(large)])
        self.manager = Manager(self.store, clock, names())

    def limit(self, **hard: str) -> None:
        document = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "default"}}
        named = {name.replace("_", "."): amount for name, amount in hard.items()}
        self.store.commit([Create(parse(document | {"spec": {"hard": named}}))])
        self.manager.settle()

    def used(self) -> dict[str, str]:
        found = self.store.get("ResourceQuota", "default", "q")
        assert isinstance(found, ResourceQuota)
        return dict(found.status.used)

    def pods(self) -> list[Pod]:
        return [p for p in self.store.list("Pod", "default") if isinstance(p, Pod)]

    def making(self, obj: KubeObject) -> list[Change]:
        """What one commit would be, as of now."""
        room = Room(self.store, self.clock.now, DEFAULT_PATIENCE)
        return [Create(room.let_in(obj)), *room.ledger.changes()]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    it = Hub(tmp_path, Clock())
    yield it
    it.store.close()


def web(name: str, replicas: int, memory: str) -> Deployment:
    containers = [{"name": "main", "image": "demo:1", "resources": {"limits": {"memory": memory}}}]
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}
    return deployment(name, replicas, template=template)


def test_several_controllers_of_one_round_share_what_is_left(hub: Hub) -> None:
    hub.limit(limits_memory="40Mi")
    hub.store.commit([Create(web("a", 3, "10Mi")), Create(web("b", 3, "10Mi"))])
    hub.manager.settle()
    assert len(hub.pods()) == 4
    assert hub.used() == {"limits.memory": "40Mi"}


def test_somebody_elses_pod_that_goes_leaves_its_room_to_who_waits(hub: Hub) -> None:
    hub.limit(pods="1")
    hub.store.commit(hub.making(pod("lone")))
    hub.store.commit([Create(web("web", 1, "10Mi"))])
    hub.manager.settle()
    assert [p.metadata.name for p in hub.pods()] == ["lone"]
    hub.store.commit([Delete("Pod", "default", "lone")])
    hub.manager.settle()
    assert [p.metadata.labels.get("app") for p in hub.pods()] == ["web"]


def test_of_two_that_have_read_the_same_quota_only_one_is_stored(hub: Hub) -> None:
    hub.limit(pods="1")
    first, second = hub.making(pod("a")), hub.making(with_meta(pod(), name="b"))
    hub.store.commit(first)
    with pytest.raises(Conflict):
        hub.store.commit(second)
    assert [p.metadata.name for p in hub.pods()] == ["a"]
    assert hub.used() == {"pods": "1"}
