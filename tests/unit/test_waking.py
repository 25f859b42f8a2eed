"""The scheduler looks again when something came that can help, and sleeps through the rest."""

from __future__ import annotations

from typing import Any

import pytest

from cloudlink.hub.changes import Create, UpdateStatus
from cloudlink.hub.manager import Manager
from cloudlink.hub.schedule import preempt
from cloudlink.hub.store import Store
from cloudlink.hub.waking import Waking
from cloudlink.hub.watch import WatchEvent
from cloudlink.kube.core import Node, NodeCondition, Pod, Taint
from cloudlink.kube.meta import KubeObject
from tests.fakes.hub_brain import MIB, Clock, names, node, pod, reported, with_meta


def changed(before: KubeObject | None, after: KubeObject, kind: str = "MODIFIED") -> WatchEvent:
    return WatchEvent(kind, after.key, after, 1, before, b"")  # type: ignore[arg-type]


def status(of: Node, **more: Any) -> Node:
    return of.model_copy(update={"status": of.status.model_copy(update=more)})


BOARD = node("pi")


@pytest.mark.parametrize(
    ("after", "wakes"),
    [
        (with_meta(BOARD, annotations={"seen": "just now"}), False),
        (
            status(BOARD, conditions=(BOARD.status.conditions[0].model_copy(update={"last_heartbeat_time": "x"}),)),
            False,
        ),
        (status(BOARD, conditions=(NodeCondition(type="Ready", status="Unknown"),)), True),
        (status(BOARD, conditions=(*BOARD.status.conditions, NodeCondition(type="DiskPressure", status="True"))), True),
        (status(BOARD, allocatable={**BOARD.status.allocatable, "memory": "1Gi"}), True),
        (with_meta(BOARD, labels={"disk": "ssd"}), True),
        (BOARD.model_copy(update={"spec": BOARD.spec.model_copy(update={"unschedulable": True})}), True),
        (
            BOARD.model_copy(
                update={"spec": BOARD.spec.model_copy(update={"taints": (Taint(key="a", effect="NoSchedule"),)})}
            ),
            True,
        ),
    ],
)
def test_a_node_matters_when_it_can_take_other_pods_than_before(after: Node, wakes: bool) -> None:
    assert Waking([]).by(changed(BOARD, after)) is wakes
    assert Waking([]).by(changed(None, after, "ADDED"))


def test_what_a_waiting_pod_is_told_wakes_nobody_but_a_new_or_changed_one_does() -> None:
    waits = pod("a")
    told = waits.model_copy(update={"status": waits.status.model_copy(update={"nominated_node_name": "pi"})})
    assert Waking([]).by(changed(None, waits, "ADDED"))
    assert not Waking([]).by(changed(waits, told))
    assert Waking([]).by(changed(waits, with_meta(waits, labels={"app": "x"})))


def test_room_that_is_left_wakes_and_room_that_is_taken_does_not() -> None:
    there = pod("a", "pi")
    running = reported(there, 0.0)
    assert not Waking([]).by(changed(there, running))
    assert not Waking([]).by(changed(pod("a"), there))
    assert Waking([]).by(changed(running, reported(there, 0.0, phase="Succeeded")))
    assert Waking([]).by(changed(running, running, "DELETED"))


def test_a_pod_that_waits_for_company_looks_again_when_one_has_got_its_node() -> None:
    term = {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone"}
    near = pod("near", affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
    assert Waking([near]).by(changed(pod("db"), pod("db", "pi")))
    waking = Waking([near])
    waking.by(changed(near, near, "DELETED"))
    assert not waking.by(changed(pod("db"), pod("db", "pi")))


def a_hub(*objects: KubeObject) -> tuple[Store, Manager]:
    clock = Clock()
    store = Store.open("sqlite://", clock)
    for obj in objects:
        store.commit([Create(obj), UpdateStatus(obj)] if isinstance(obj, Node) else [Create(obj)])
    manager = Manager(store, clock, names())
    manager.settle()
    return store, manager


def where(store: Store, name: str) -> str:
    found = store.get("Pod", "default", name)
    assert isinstance(found, Pod)
    return found.spec.node_name or found.status.nominated_node_name


def test_a_pod_that_came_before_its_company_gets_its_node_in_the_end() -> None:
    term = {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone"}
    near = pod("near", affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
    store, manager = a_hub(node("pi", labels={"zone": "north"}), near)
    assert where(store, "near") == ""
    store.commit([Create(with_meta(pod("db"), labels={"app": "db"}))])
    manager.settle()
    assert where(store, "near") == "pi"
    store.close()


def test_more_pods_than_a_round_finds_victims_for_all_get_theirs() -> None:
    """Those that nothing helps don't stand in the way of those behind them."""
    most = preempt.MOST_PODS

    def ranked(name: str, priority: int, at: str = "", **more: Any) -> Pod:
        made = pod(name, at, "300Mi", **more)
        return made.model_copy(update={"spec": made.spec.model_copy(update={"priority": priority})})

    def asking(megabytes: int) -> list[dict[str, Any]]:
        return [{"name": "m", "image": "i", "resources": {"requests": {"memory": f"{megabytes}Mi"}}}]

    hopeless = [ranked(f"large-{n:04d}", 500, containers=asking(2000 + n)) for n in range(most + 5)]
    store, manager = a_hub(node("pi", 900 * MIB), ranked("low", 0, "pi"))
    store.commit([Create(p) for p in hopeless])
    store.commit([Create(ranked("filler", 0, "pi", containers=asking(500))), Create(ranked("vip", 400))])
    manager.settle()
    assert where(store, "vip") == "pi"
    store.close()
