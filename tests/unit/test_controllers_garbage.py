"""What nobody wants goes, what somebody wants stays; and Events are counted, not repeated."""

from __future__ import annotations

from cloudlink.hub.changes import Create, Delete, MarkDeleted, Update
from cloudlink.hub.controllers import events, garbage
from cloudlink.hub.decision import Note
from cloudlink.hub.objects import owned_by
from cloudlink.kube.core import ConfigMap, Event, Namespace
from cloudlink.kube.meta import ObjectMeta
from tests.fakes.hub_brain import NOW, node, pod, replica_set, reported, with_meta


def everything_exists(kind: str, namespace: str, name: str, uid: str) -> bool:
    return True


def nothing_exists(kind: str, namespace: str, name: str, uid: str) -> bool:
    return False


def test_an_object_whose_owner_is_there_stays() -> None:
    mine = with_meta(pod("a"), owner_references=(owned_by(replica_set()),))
    assert garbage.orphan(mine, everything_exists).changes == ()


def test_an_object_without_an_owner_is_nobodys_garbage() -> None:
    assert garbage.orphan(pod("a"), nothing_exists).changes == ()


def test_a_pod_whose_owner_is_gone_is_ended_gracefully_where_it_runs() -> None:
    waiting = with_meta(pod("a"), owner_references=(owned_by(replica_set()),))
    running = with_meta(pod("b", node="pi"), owner_references=(owned_by(replica_set()),))
    assert isinstance(garbage.orphan(waiting, nothing_exists).changes[0], Delete)
    assert garbage.orphan(running, nothing_exists).changes == (MarkDeleted("Pod", "default", "b", 30),)


def test_an_owner_made_anew_under_the_same_name_is_another_one() -> None:
    mine = with_meta(pod("a"), owner_references=(owned_by(replica_set(uid="old")),))
    decision = garbage.orphan(mine, lambda kind, namespace, name, uid: uid == "new")
    assert len(decision.changes) == 1


def test_what_is_already_on_its_way_out_is_left_alone() -> None:
    leaving = with_meta(
        pod("a", node="pi"), owner_references=(owned_by(replica_set()),), deletion_timestamp="2025-06-15T15:06:40Z"
    )
    assert garbage.orphan(leaving, nothing_exists).changes == ()


def test_pods_of_a_removed_node_are_removed_and_pods_for_a_node_to_come_stay() -> None:
    ran = reported(pod("ran", node="gone"), NOW)
    hoping = pod("hoping", node="to-come")
    assert len(garbage.lost_pod(ran, node_exists=False).changes) == 1
    assert garbage.lost_pod(ran, node_exists=True).changes == ()
    assert garbage.lost_pod(hoping, node_exists=False).changes == ()
    leaving = with_meta(hoping, deletion_timestamp="2025-06-15T15:06:40Z")
    assert len(garbage.lost_pod(leaving, node_exists=False).changes) == 1


def test_a_dying_namespace_loses_its_content_but_not_yet_its_events() -> None:
    dying = Namespace(metadata=ObjectMeta(name="old", deletion_timestamp="2025-06-15T15:06:40Z"))
    told = Event(metadata=ObjectMeta(name="e", namespace="old"), involved_object={"kind": "Pod"})  # type: ignore[arg-type]
    config = ConfigMap(metadata=ObjectMeta(name="c", namespace="old"))
    decision = garbage.dying_namespace(dying, [config, told, pod("p", node="pi")])
    assert [type(c) for c in decision.changes] == [Delete, MarkDeleted]
    alive = Namespace(metadata=ObjectMeta(name="old"))
    assert garbage.dying_namespace(alive, [config]).changes == ()


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
