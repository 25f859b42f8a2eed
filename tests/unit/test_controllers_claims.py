"""A claim is bound by its first pod, protected by all of them, and let go by the last."""

from __future__ import annotations

from typing import Any

from cloudlink.hub.changes import Create, MarkDeleted, ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers.claims import reconcile
from cloudlink.hub.controllers.garbage import collect, dying_namespace
from cloudlink.hub.manager import Manager
from cloudlink.hub.store import Store
from cloudlink.kube.claims import PROTECTION, SELECTED_NODE
from cloudlink.kube.core import Namespace, PersistentVolumeClaim, Pod
from cloudlink.kube.meta import ObjectMeta, OwnerReference
from tests.fakes.hub_brain import Clock, node, pod, with_meta
from tests.unit.test_schedule_claims import claim, user


def after(claim: PersistentVolumeClaim, changes: tuple[ObjectChange, ...]) -> PersistentVolumeClaim:
    for change in changes:
        match change:
            case Update(PersistentVolumeClaim() as wanted):
                claim = wanted.model_copy(update={"status": claim.status})
            case UpdateStatus(PersistentVolumeClaim() as told):
                claim = claim.model_copy(update={"status": told.status})
            case _:
                raise AssertionError(change)
    return claim


def test_a_claim_without_a_pod_waits_and_says_what_for() -> None:
    decision = reconcile(claim(), [user("a")])
    waiting = after(claim(), decision.changes)
    assert (waiting.status.phase, waiting.metadata.finalizers) == ("Pending", (PROTECTION,))
    assert [n.reason for n in decision.notes] == ["WaitForFirstConsumer"]
    assert reconcile(waiting, []).changes == ()
    assert reconcile(waiting, []).notes == ()


def test_the_first_pod_on_a_node_binds_it_there_for_ever() -> None:
    pods = [
        with_meta(user("late", where="pi-2"), creation_timestamp="2025-01-02T00:00:00Z"),
        with_meta(user("early", where="pi-1"), creation_timestamp="2025-01-01T00:00:00Z"),
    ]
    decision = reconcile(claim(), pods)
    bound = after(claim(), decision.changes)
    assert bound.metadata.annotations[SELECTED_NODE] == "pi-1"
    assert (bound.spec.volume_name, bound.status.phase) == ("pvc-uid-data", "Bound")
    assert bound.status.capacity == {"storage": "10Mi"}
    assert [n.reason for n in decision.notes] == ["ProvisioningSucceeded"]
    assert reconcile(bound, pods[:1]).changes == ()
    assert reconcile(bound, []).changes == ()


def test_a_claim_that_has_grown_tells_its_new_size() -> None:
    bound = after(claim(), reconcile(claim(), [user("a", where="pi-1")]).changes)
    bound = bound.model_copy(update={"spec": claim(size="20Mi").spec})
    assert after(bound, reconcile(bound, []).changes).status.capacity == {"storage": "20Mi"}


def test_a_claim_that_is_being_deleted_waits_for_the_last_pod_that_is_on_a_node() -> None:
    leaving = with_meta(claim(where="pi-1"), finalizers=(PROTECTION,), deletion_timestamp="2025-01-01T00:00:00Z")
    assert reconcile(leaving, [user("a", where="pi-1")]).changes == ()
    (change,) = reconcile(leaving, [user("never-placed")]).changes
    assert isinstance(change, Update)
    assert change.object.metadata.finalizers == ()


def test_neither_a_dying_namespace_nor_a_lost_owner_takes_a_claim_from_its_pods() -> None:
    owned = with_meta(
        claim(),
        finalizers=(PROTECTION,),
        owner_references=(OwnerReference(api_version="v1", kind="Pod", name="gone", uid="gone"),),
    )
    marked = MarkDeleted("PersistentVolumeClaim", "default", "data", 0, uid="uid-data")
    assert collect(owned, lambda *_: "gone", ()).changes == (marked,)
    dying = Namespace(metadata=ObjectMeta(name="default", deletion_timestamp="2025-01-01T00:00:00Z"))
    assert dying_namespace(dying, [owned], 0.0).changes == (marked,)


# ---------------------------------------------------------------- with the scheduler


def stored(store: Store, kind: str, name: str) -> Any:
    return store.get(kind, "default" if kind != "Node" else None, name)


def a_brain(store: Store) -> Manager:
    return Manager(store, Clock(), iter(f"{i:05d}" for i in range(1000)).__next__)


def test_a_claim_and_its_pods_find_each_other_over_restarts_of_the_hub() -> None:
    store = Store.open("sqlite://", now=Clock())
    try:
        store.commit([Create(node("pi-1")), Create(node("pi-2"))])
        for name in ("pi-1", "pi-2"):  # a created node has no status yet
            store.commit([UpdateStatus(node(name))])
        brain = a_brain(store)
        store.commit([Create(user("a"))])
        brain.settle()
        condition = stored(store, "Pod", "a").status.conditions[0]
        assert condition.message == 'persistentvolumeclaim "data" not found'
        store.commit([Create(claim())])
        brain.settle()
        first = stored(store, "Pod", "a").spec.node_name
        assert stored(store, "PersistentVolumeClaim", "data").node == first
        brain = a_brain(store)  # another life of the hub
        other = "pi-2" if first == "pi-1" else "pi-1"
        store.commit([Create(pod("heavy", other)), Create(user("b"))])
        brain.settle()
        assert stored(store, "Pod", "b").spec.node_name == first
        assert isinstance(stored(store, "Pod", "b"), Pod)
    finally:
        store.close()
