"""What nobody wants goes, what somebody wants stays; and Events are counted, not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update, UpdateStatus
from cloudlink.hub.controllers import events, garbage
from cloudlink.hub.decision import Decision, Note
from cloudlink.kube.core import ConfigMap, Event, Namespace
from cloudlink.kube.meta import KubeObject, ObjectMeta, OwnerReference
from tests.fakes.hub_brain import NOW, node, pod, replica_set, reported, with_meta

GONE = "2025-06-15T15:06:40Z"


def owned(obj: Any, *uids: str, block: bool = True) -> Any:
    refs = tuple(
        OwnerReference(api_version="v1", kind="ConfigMap", name=u, uid=u, block_owner_deletion=block) for u in uids
    )
    return with_meta(obj, owner_references=refs)


def config(name: str, **meta: Any) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default", uid=name, **meta))


def asked(obj: KubeObject, *owners: KubeObject, dependents: Sequence[KubeObject] = ()) -> Decision:
    """What the collector says, when exactly these owners are there (and kinds other than ConfigMap are unknown)."""
    there = {o.metadata.uid: o for o in owners}

    def owner_of(_: KubeObject, ref: OwnerReference) -> garbage.Owner:
        return there.get(ref.uid, "gone") if ref.kind == "ConfigMap" else "unknown"

    return garbage.collect(obj, owner_of, dependents)


def test_an_object_whose_owner_is_there_stays() -> None:
    assert asked(owned(pod("a"), "o"), config("o")).changes == ()


def test_an_object_without_an_owner_is_nobodys_garbage() -> None:
    assert asked(pod("a")).changes == ()


def test_a_pod_whose_owner_is_gone_is_ended_gracefully_where_it_runs() -> None:
    assert isinstance(asked(owned(pod("a"), "o")).changes[0], Delete)
    assert asked(owned(pod("b", node="pi"), "o")).changes == (MarkDeleted("Pod", "default", "b", 30),)


def test_an_owner_of_a_kind_that_is_not_served_is_never_taken_for_gone() -> None:
    mine = with_meta(pod("a"), owner_references=(OwnerReference(api_version="x/v1", kind="X", name="o", uid="o"),))
    assert asked(mine).changes == ()


def test_what_is_already_on_its_way_out_is_left_alone() -> None:
    leaving = with_meta(owned(pod("a", node="pi"), "o"), deletion_timestamp=GONE)
    assert asked(leaving).changes == ()


def test_of_several_owners_those_that_are_gone_are_forgotten_and_one_is_enough_to_stay() -> None:
    [change] = asked(owned(config("c"), "here", "gone"), config("here")).changes
    assert isinstance(change, Update)
    assert [r.uid for r in change.object.metadata.owner_references] == ["here"]


def test_the_finalizers_of_garbage_are_waited_for() -> None:
    [change] = asked(owned(config("c", finalizers=("example.org/x",)), "gone")).changes
    assert isinstance(change, MarkDeleted)


def foreground(obj: KubeObject) -> KubeObject:
    return with_meta(obj, deletion_timestamp=GONE, finalizers=("foregroundDeletion",))  # type: ignore[no-any-return]


def test_an_owner_in_the_foreground_waits_for_the_dependents_that_block_it() -> None:
    owner = foreground(config("o"))
    assert asked(owner, dependents=[owned(pod("a"), "o")]).changes == ()
    for dependents in ([], [owned(pod("a"), "o", block=False)]):
        [change] = asked(owner, dependents=dependents).changes
        assert isinstance(change, Update)
        assert change.object.metadata.finalizers == ()


def test_dependents_of_an_owner_in_the_foreground_go_and_take_their_own_dependents_first() -> None:
    owner = foreground(config("o"))
    assert isinstance(asked(owned(config("c"), "o"), owner).changes[0], Delete)
    [change] = asked(owned(config("c"), "o"), owner, dependents=[owned(pod("a"), "c")]).changes
    assert isinstance(change, MarkDeleted)
    assert change.finalizers == ("foregroundDeletion",)


def test_a_second_owner_keeps_a_dependent_of_an_owner_in_the_foreground() -> None:
    [change] = asked(owned(config("c"), "o", "other"), foreground(config("o")), config("other")).changes
    assert isinstance(change, Update)
    assert [r.uid for r in change.object.metadata.owner_references] == ["other"]


def test_a_circle_of_owners_in_the_foreground_blocks_nobody() -> None:
    one, other = foreground(owned(config("one"), "other")), owned(config("other"), "one")
    [change] = asked(other, one, dependents=[one]).changes
    assert isinstance(change, Update)
    assert not change.object.metadata.owner_references[0].block_owner_deletion
    [change] = asked(change.object, one, dependents=[one]).changes
    assert isinstance(change, MarkDeleted)


def test_orphans_lose_their_owner_before_it_goes() -> None:
    owner = with_meta(config("o"), deletion_timestamp=GONE, finalizers=("orphan", "example.org/x"))
    child, itself = asked(owner, dependents=[owned(pod("a"), "o", "other")]).changes
    assert isinstance(child, Update)
    assert isinstance(itself, Update)
    assert [r.uid for r in child.object.metadata.owner_references] == ["other"]
    assert itself.object.metadata.finalizers == ("example.org/x",)


def test_pods_of_a_removed_node_are_removed_and_pods_for_a_node_to_come_stay() -> None:
    ran = reported(pod("ran", node="gone"), NOW)
    hoping = pod("hoping", node="to-come")
    assert len(garbage.lost_pod(ran, None).changes) == 1
    assert garbage.lost_pod(ran, node("pi")).changes == ()
    assert garbage.lost_pod(hoping, None).changes == ()
    leaving = with_meta(hoping, deletion_timestamp="2025-06-15T15:06:40Z")
    assert len(garbage.lost_pod(leaving, None).changes) == 1


def test_a_dying_namespace_loses_its_content_but_not_yet_its_events() -> None:
    dying = Namespace(metadata=ObjectMeta(name="old", deletion_timestamp=GONE))
    told = Event(metadata=ObjectMeta(name="e", namespace="old"), involved_object={"kind": "Pod"})  # type: ignore[arg-type]
    content = ConfigMap(metadata=ObjectMeta(name="c", namespace="old"))
    decision = garbage.dying_namespace(dying, [content, told, pod("p", node="pi")], NOW)
    assert [type(c) for c in decision.changes] == [Delete, MarkDeleted]
    alive = Namespace(metadata=ObjectMeta(name="old"))
    assert garbage.dying_namespace(alive, [content], NOW).changes == ()


def test_a_dying_namespace_says_what_it_waits_for() -> None:
    dying = Namespace(metadata=ObjectMeta(name="old", deletion_timestamp=GONE))
    held = config("c", finalizers=("example.org/x",), deletion_timestamp=GONE)
    [change] = garbage.dying_namespace(dying, [held], NOW).changes
    assert isinstance(change, UpdateStatus)
    assert isinstance(change.object, Namespace)
    told = {c.type: (c.status, c.message) for c in change.object.status.conditions}
    assert told["NamespaceContentRemaining"] == (
        "True",
        "Some resources are remaining: ConfigMap has 1 resource instances",
    )
    assert told["NamespaceFinalizersRemaining"][1].endswith("example.org/x in 1 resource instances")


def test_a_large_namespace_is_emptied_in_parts() -> None:
    dying = Namespace(metadata=ObjectMeta(name="old", deletion_timestamp=GONE))
    decision = garbage.dying_namespace(dying, [config(f"c{i}") for i in range(garbage.AT_ONCE + 1)], NOW)
    assert (len(decision.changes), decision.wake_at) == (garbage.AT_ONCE, NOW)


# ---------------------------------------------------------------- events


def note(message: str = "Scaled up", **more: str) -> Note:
    about = with_meta(replica_set(), uid="u-1", resource_version="7")
    return Note(about, "Normal", "Scaling", message, "tester", **more)


def test_a_note_becomes_an_event_about_its_object() -> None:
    [change] = events.record([note(field_path="spec.x", host="pi")], lambda namespace, name: None, NOW)
    assert isinstance(change, Create)
    event = change.object
    assert isinstance(event, Event)
    assert event.metadata.namespace == "default"
    assert event.metadata.name.startswith("web-1.")
    assert (event.involved_object.kind, event.involved_object.uid) == ("ReplicaSet", "u-1")
    assert (event.involved_object.field_path, event.source.host) == ("spec.x", "pi")
    assert (event.type, event.reason, event.message, event.count) == ("Normal", "Scaling", "Scaled up", 1)
    assert event.first_timestamp == event.last_timestamp == "2025-06-15T15:06:40Z"


def test_the_same_note_is_counted() -> None:
    [first] = events.record([note(), note()], lambda namespace, name: None, NOW)
    assert isinstance(first, Create)
    assert isinstance(first.object, Event)
    known = first.object
    assert known.count == 2
    again = events.record(
        [note(), note("other")], lambda _, name: known if name == known.metadata.name else None, NOW + 60
    )
    assert [type(c) for c in again] == [Update, Create]
    assert isinstance(again[0], Update)
    assert isinstance(again[0].object, Event)
    assert again[0].object.count == 3
    assert again[0].object.first_timestamp == "2025-06-15T15:06:40Z"
    assert again[0].object.last_timestamp == "2025-06-15T15:07:40Z"


def test_events_about_things_outside_of_namespaces_live_in_default() -> None:
    about = Note(node("pi"), "Warning", "NodeNotReady", "gone", "exchange")
    [change] = events.record([about], lambda namespace, name: None, NOW)
    assert isinstance(change, Create)
    assert change.object.metadata.namespace == "default"
