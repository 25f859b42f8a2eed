"""Which claims a node is told of, over everything that may happen to the hub. A claim dropped is data deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update
from cloudlink.hub.manager import Manager
from cloudlink.kube.core import Node, PersistentVolumeClaim
from cloudlink.kube.meta import ObjectMeta
from edged.model import Claim
from tests.e2e.test_hub_brain_hears import Ear, status
from tests.unit.test_schedule_claims import claim, user


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    ear = Ear(tmp_path)
    yield ear
    ear.store.close()


def settle(ear: Ear) -> None:
    """Controllers, then the exchange, until both are through."""
    Manager(ear.store, ear.clock).settle()
    ear.exchange.rekeyed("pi")


def told(ear: Ear) -> list[str]:
    return [c.title for c in ear.document().claims]


@pytest.fixture
def bound(ear: Ear) -> Ear:
    """A claim that lives on the node, with the pod that uses it."""
    ear.hears(status())
    ear.store.commit([Create(claim()), Create(user("a", where="pi"))])
    settle(ear)
    return ear


def test_a_claim_comes_with_its_pod_and_has_its_size(bound: Ear) -> None:
    [stored] = bound.all(PersistentVolumeClaim)
    assert bound.document().claims == (Claim("default", "data", stored.metadata.uid, 10 << 20),)
    generation = bound.generation()
    settle(bound)
    assert bound.generation() == generation


def test_a_claim_stays_when_its_pod_goes(bound: Ear) -> None:
    bound.store.commit([Delete("Pod", "default", "a")])
    settle(bound)
    assert bound.document().pods == ()
    assert told(bound) == ["default/data"]


def test_a_claim_stays_over_a_restart_of_the_hub(bound: Ear) -> None:
    bound.store.commit([Delete("Pod", "default", "a")])
    bound.open()
    settle(bound)
    assert told(bound) == ["default/data"]


def test_a_claim_stays_while_its_node_is_removed_and_joins_again(bound: Ear) -> None:
    bound.store.commit([Delete("Pod", "default", "a"), Delete("Node", None, "pi")])
    settle(bound)
    assert told(bound) == ["default/data"]
    bound.open()
    bound.store.commit([Create(Node(metadata=ObjectMeta(name="pi")))])
    settle(bound)
    assert told(bound) == ["default/data"]


def test_a_claim_grows_in_the_document(bound: Ear) -> None:
    [stored] = bound.all(PersistentVolumeClaim)
    bound.store.commit([Update(stored.model_copy(update={"spec": claim(size="20Mi").spec}))])
    settle(bound)
    assert bound.document().claims[0].size == 20 << 20


def test_a_deleted_claim_leaves_the_document_after_its_last_pod(bound: Ear) -> None:
    bound.store.commit([MarkDeleted("PersistentVolumeClaim", "default", "data", 0)])
    settle(bound)
    assert told(bound) == ["default/data"]
    bound.store.commit([Delete("Pod", "default", "a")])
    settle(bound)
    assert told(bound) == []


def test_a_claim_made_anew_under_the_same_name_is_another_one(bound: Ear) -> None:
    before = bound.document().claims[0].uid
    bound.store.commit([Delete("Pod", "default", "a"), Delete("PersistentVolumeClaim", "default", "data")])
    settle(bound)
    bound.store.commit([Create(claim()), Create(user("a", where="pi"))])
    settle(bound)
    (after,) = bound.document().claims
    assert after.uid != before
