"""What the hub leaves out because it knows already: and that it comes to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from cloudlink import wire
from cloudlink.hub.changes import Create, Update, UpdateStatus
from cloudlink.hub.compiled import Compiled
from cloudlink.hub.controllers import events
from cloudlink.hub.decision import Decision, Note
from cloudlink.hub.rounds import MANY, is_news_of_a_pod, pause_after
from cloudlink.hub.sharing import Pool
from cloudlink.hub.watch import EventType, WatchEvent
from cloudlink.hub.workqueue import Task, WorkQueue
from cloudlink.kube.compile_pod import compile_pod
from cloudlink.kube.core import Event, Pod
from cloudlink.kube.meta import KubeObject, ObjectMeta
from cloudlink.kube.parse import Invalid, dump, load_yaml, parse
from edged.model import Desired
from tests.bench.hub import _deployment, _pod, _replica_set
from tests.fakes.hub_brain import pod, with_meta

CASES = sorted((Path(__file__).parent.parent / "cases/kube").glob("*.yaml"))
encode = msgspec.json.Encoder().encode


def pods_of_cases() -> list[Pod]:
    found = []
    for file in CASES:
        try:
            found += [o for o in map(parse, load_yaml(file.read_text(), file.name)) if isinstance(o, Pod)]
        except Invalid:
            continue
    return [with_meta(p, uid=f"u{n}", namespace="default") for n, p in enumerate(found)]


def replicas(count: int) -> list[Pod]:
    deployment = with_meta(_deployment("default", "web", count), uid="a")
    rs = with_meta(_replica_set(deployment, count), uid="b")
    found = [_pod(rs, n, f"node-{n}") for n in range(count)]
    return [with_meta(p, uid=f"pod-{n}") for n, p in enumerate(found)]


# ---------------------------------------------------------------- pods compiled once


def test_every_pod_is_compiled_to_what_it_would_be_alone() -> None:
    compiled = Compiled()
    for _ in range(2):
        for p in (*pods_of_cases(), *replicas(5)):
            assert compiled.pod(p, {}) == compile_pod(p, {})


def test_replicas_share_their_containers_and_an_unchanged_pod_is_the_same_value() -> None:
    compiled, pods = Compiled(), replicas(3)
    first, second, _ = [compiled.pod(p, {}) for p in pods]
    assert first.containers is second.containers
    told = pods[0].model_copy(update={"status": pods[0].status.model_copy(update={"phase": "Failed"})})
    assert compiled.pod(told, {}) is first


@pytest.mark.parametrize("what", ["labels", "annotations", "image", "hostname", "template"])
def test_a_replica_that_differs_is_compiled_by_itself(what: str) -> None:
    compiled, (like, other) = Compiled(), replicas(2)
    compiled.pod(like, {})
    container = other.spec.containers[0]
    changed: dict[str, dict[str, Any]] = {
        "image": {"containers": (container.model_copy(update={"image": "other:1"}),)},
        "hostname": {"hostname": "named"},
        "template": {"termination_grace_period_seconds": 3},
    }
    if what in changed:
        other = other.model_copy(update={"spec": other.spec.model_copy(update=changed[what])})
    else:
        other = with_meta(other, **{what: {"edged.dev/devices.main": "i2c", "app": "other"}})
    assert compiled.pod(other, {}) == compile_pod(other, {})


def test_what_is_gone_is_forgotten() -> None:
    compiled = Compiled()
    for p in replicas(3):
        compiled.pod(p, {})
        compiled.forget(p.metadata.uid)
    compiled.forget("b")
    assert not compiled._pods
    assert not compiled._likes


def test_a_document_is_written_the_same_with_and_without_a_memory() -> None:
    compiled, written = Compiled(), wire.Written()
    pods = tuple(compiled.pod(p, {}) for p in (*pods_of_cases(), *replicas(10)))
    desired = Desired("lab", "pi-1", 7, pods=pods)
    for _ in range(2):
        assert wire.canonical(desired, written) == wire.canonical(desired)
    assert wire.decode_desired(wire.canonical(desired, written)) == desired


def test_the_memory_of_what_was_written_is_bounded() -> None:
    written = wire.Written()
    for n in range(3 * wire.Written.MOST):
        written.of((compile_pod(pod(f"p{n}")).containers[0],))
    assert len(written._known) <= wire.Written.MOST


# ---------------------------------------------------------------- parts that stay


def test_an_object_that_was_changed_shares_what_stayed_and_stays_equal() -> None:
    pool = Pool()
    for before in replicas(2):
        pool.adopt(before, encode(dump(before)))
        status = before.status.model_copy(update={"phase": "Failed", "message": "it was"})
        after = with_meta(before.model_copy(update={"status": status}), resource_version="9", labels={"app": "web"})
        raw = encode(dump(after))
        expected = parse(dump(after))
        pool.adopt(after, raw, before)
        assert after == expected
        assert encode(dump(after)) == raw
        assert after.spec is before.spec
        assert after.status.conditions is before.status.conditions
        assert before.status.phase == "Running"


def test_equal_news_of_two_pods_becomes_one_part() -> None:
    pool, (a, b) = Pool(), replicas(2)
    changed = []
    for before in (a, b):
        pool.adopt(before, encode(dump(before)))
        conditions = tuple(c.model_copy(update={"status": "False"}) for c in a.status.conditions)
        status = before.status.model_copy(update={"conditions": conditions})
        after = before.model_copy(update={"status": status})
        pool.adopt(after, encode(dump(after)), before)
        changed.append(after)
    assert changed[0].status.conditions is changed[1].status.conditions


# ---------------------------------------------------------------- who looks, and how often


def changed_pod(before: Pod, kind: EventType = "MODIFIED", **meta: Any) -> WatchEvent:
    after = with_meta(before, resource_version="2", **meta)
    return WatchEvent(kind, "Pod", after, 2, before, b"")


def test_news_of_a_pod_is_what_its_node_tells_and_nothing_else() -> None:
    before = with_meta(pod(node="pi"), resource_version="1")
    status = before.status.model_copy(update={"phase": "Running"})
    told = before.model_copy(update={"status": status})
    assert is_news_of_a_pod(WatchEvent("MODIFIED", "Pod", with_meta(told, resource_version="2"), 2, before, b""))
    assert not is_news_of_a_pod(changed_pod(before, labels={"a": "b"}))
    assert not is_news_of_a_pod(changed_pod(before, deletion_timestamp="2026-01-01T00:00:00Z"))
    assert not is_news_of_a_pod(changed_pod(before, kind="DELETED"))
    ended = before.model_copy(update={"status": status.model_copy(update={"phase": "Failed"})})
    assert not is_news_of_a_pod(WatchEvent("MODIFIED", "Pod", ended, 2, before, b""))
    moved = before.model_copy(update={"spec": before.spec.model_copy(update={"node_name": "other"})})
    assert not is_news_of_a_pod(WatchEvent("MODIFIED", "Pod", moved, 2, before, b""))


def test_who_controls_many_pods_rests_after_counting_them_but_not_after_a_deed() -> None:
    few, many = (_deployment("default", "web", n) for n in (MANY - 1, 10 * MANY))
    counted = Decision((UpdateStatus(many),))
    assert pause_after(few, counted) == 0.0
    assert 0.0 < pause_after(many, counted) < 1.0
    assert pause_after(many, Decision()) > 0.0
    assert pause_after(many, Decision((Update(many),))) == 0.0
    assert pause_after(pod(), Decision()) == 0.0
    assert pause_after(None, Decision()) == 0.0


def test_a_task_that_rests_is_looked_at_when_its_rest_is_over_and_once() -> None:
    queue, task, other = WorkQueue(), Task("a", "a", "", "x"), Task("a", "a", "", "y")
    queue.rest(task, 10.0)
    for t in (task, other, task):
        queue.add(t)
    assert queue.take(9.0) == [other]
    assert queue.next_at() == 10.0
    assert queue.take(10.0) == [task]
    queue.add(task)
    assert queue.take(10.0) == [task]


# ---------------------------------------------------------------- events in a flood


def notes(kind: Literal["Normal", "Warning"], count: int) -> list[Note]:
    about: KubeObject = with_meta(pod(), uid="u")
    return [Note(about, kind, "Started", f"{kind} {n}", "edged") for n in range(count)]


def test_in_a_flood_the_newest_normal_events_are_told_and_every_warning() -> None:
    said = [*notes("Warning", 5), *notes("Normal", 3 * events.NORMAL_AT_ONCE), *notes("Warning", 3)]
    made = [c.object for c in events.record(said, lambda *_: None, 1.78e9) if isinstance(c, Create)]
    told = [e for e in made if isinstance(e, Event)]
    normal = [e.message for e in told if e.type == "Normal"]
    assert len(normal) == events.NORMAL_AT_ONCE
    assert normal[-1] == f"Normal {3 * events.NORMAL_AT_ONCE - 1}"
    assert sum(e.type == "Warning" for e in told) == 5


# ---------------------------------------------------------------- copies


def test_a_copy_is_a_model_like_any_other_and_leaves_the_first_as_it_was() -> None:
    meta = ObjectMeta(name="a", labels={"x": "y"})
    copy = meta.model_copy(update={"name": "b"})
    assert (meta.name, copy.name, copy.labels) == ("a", "b", {"x": "y"})
    assert copy.model_fields_set == {"name", "labels"}
    assert copy == ObjectMeta(name="b", labels={"x": "y"})
    assert copy != meta
    assert meta.model_copy() == meta
    assert meta.model_copy(deep=True).labels is not meta.labels
    assert meta != object()
    with pytest.raises(Exception, match="frozen"):
        copy.name = "c"  # type: ignore[misc]
