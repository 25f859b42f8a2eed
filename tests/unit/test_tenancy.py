"""Whatever happens to pods and nodes: the fleet that is kept up to date is the one that the objects make."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.changes import Change, Create, Delete, MarkDeleted, Update, UpdateStatus
from cloudlink.hub.schedule.fleet import Fleet, fleet_with
from cloudlink.hub.store import Store
from cloudlink.hub.tenancy import Tenancy
from cloudlink.hub.world import World
from cloudlink.kube.core import Node, NodeCondition, Pod
from cloudlink.kube.meta import KubeObject
from tests.fakes.hub_brain import MIB, Clock, node, pod, with_meta

NODES, PODS = ["pi-1", "pi-2"], ["a", "b", "c"]
TERM = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "zone"}
AWAY = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [TERM]}}


@st.composite
def a_node(draw: st.DrawFn, name: str) -> Node:
    spec: dict[str, Any] = {"unschedulable": draw(st.booleans())}
    if draw(st.booleans()):
        spec["taints"] = [{"key": draw(st.sampled_from(["cam", "gpu"])), "effect": "NoSchedule"}]
    labels = draw(st.sampled_from([{}, {"zone": "north"}, {"zone": "south"}]))
    made = node(name, draw(st.integers(1, 9)) * 100 * MIB, ready=draw(st.booleans()), labels=labels, **spec)
    size = dict(made.status.allocatable)
    if draw(st.booleans()):
        size["edged.dev/cam"] = "1"
    conditions = made.status.conditions
    if draw(st.booleans()):
        conditions = (*conditions, NodeCondition(type="DiskPressure", status="True"))
    return made.model_copy(
        update={"status": made.status.model_copy(update={"allocatable": size, "conditions": conditions})}
    )


@st.composite
def a_pod(draw: st.DrawFn, name: str) -> Pod:
    more: dict[str, Any] = {"affinity": AWAY} if draw(st.booleans()) else {}
    made = pod(
        name, draw(st.sampled_from(["", "pi-1", "pi-2", "elsewhere"])), draw(st.sampled_from(["", "10Mi"])), **more
    )
    if draw(st.booleans()):
        [main] = made.spec.containers
        ports = pod("p", containers=[{"name": "m", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}])
        main = main.model_copy(update={"ports": ports.spec.containers[0].ports})
        made = made.model_copy(update={"spec": made.spec.model_copy(update={"containers": (main,)})})
    labelled: Pod = with_meta(made, labels=draw(st.sampled_from([{}, {"app": "x"}])))
    return labelled


@st.composite
def a_step(draw: st.DrawFn, store: Store) -> list[Change]:
    """One thing that may happen now."""
    name = draw(st.sampled_from([*NODES, *PODS]))
    is_node = name in NODES
    kind, space = ("Node", None) if is_node else ("Pod", "default")
    there = store.get(kind, space, name)
    new: KubeObject = draw(a_node(name)) if is_node else draw(a_pod(name))
    if there is None:
        return [Create(new), UpdateStatus(new)] if is_node else [Create(new)]
    match draw(st.sampled_from(["delete", "change", "status", "mark"])):
        case "delete":
            return [Delete(kind, space, name)]
        case "mark" if not is_node:
            return [MarkDeleted(kind, space, name, 30)]
        case "status" if isinstance(there, Pod):
            phase = draw(st.sampled_from(["Running", "Succeeded"]))
            return [UpdateStatus(there.model_copy(update={"status": there.status.model_copy(update={"phase": phase})}))]
        case "change":
            return [Update(new)]
        case _:
            return [UpdateStatus(new)] if is_node else []


def told(fleet: Fleet) -> dict[str, Any]:
    """All of it, comparable; what is zero is as good as not there."""
    return {
        "nodes": [n.metadata.name for n in fleet.map.nodes],
        "whole": {r: a.tolist() for r, a in fleet.whole.items() if a.any()},
        "free": {r: a.tolist() for r, a in fleet.free.items() if a.any()},
        "ready": fleet.ready.tolist(),
        "open": fleet.open.tolist(),
        "pressure": {c: m.tolist() for c, m in fleet.pressure.items() if np.any(m)},
        "ports": fleet.ports.plain(),
        "crowds": fleet.crowds.plain(),
        "leaving": fleet.leaving.plain(),
        "shunned": fleet.shunned.plain(),
        "tenants": fleet.tenants,
        "zones": [n.metadata.labels.get("zone") for n in fleet.map.nodes],
        "places": fleet.map.topology("zone").of.tolist(),
        "taints": {t.key: m.tolist() for t, m in fleet.map.taints().items()},
    }


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_fleet_kept_from_events_is_the_fleet_of_all_objects(data: st.DataObject) -> None:
    store = Store.open("sqlite://", Clock())
    try:
        watch, world = store.subscribe(), World(store)
        tenancy = Tenancy(world)
        for _ in range(data.draw(st.integers(1, 12))):
            if changes := data.draw(a_step(store)):
                store.commit(changes)
            for event in watch.drain():
                world.notice(event)
                tenancy.notice(event)
            places = tenancy.places()
            expected = fleet_with(world.all(Node), world.all(Pod), places, tenancy.spaces)
            assert told(tenancy.fleet(places)) == told(expected)
        watch.close()
    finally:
        store.close()
