"""The vectorised core decides what placing one pod after the other, node by node, would decide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.hub.schedule.place import Binding, place
from cloudlink.hub.schedule.seats import Policy
from cloudlink.kube.core import ContainerImage, Node, Pod
from tests.fakes.hub_brain import MIB, node, with_meta
from tests.packing import naive
from tests.packing.mixed import HOST, ZONE, replicas_of

APPS = ["a", "b", "c"]
IMAGES = ["localhost/i:1", "localhost/j:1"]


@st.composite
def boards(draw: st.DrawFn) -> list[Node]:
    count = draw(st.integers(1, 6))
    return [draw(a_board(f"n{i}")) for i in range(count)]


@st.composite
def a_board(draw: st.DrawFn, name: str) -> Node:
    labels = {}
    if draw(st.integers(0, 5)):
        labels[HOST] = name
    if zone := draw(st.sampled_from(["", "x", "y", "z"])):
        labels[ZONE] = zone
    if draw(st.booleans()):
        labels["disk"] = draw(st.sampled_from(["ssd", "sd"]))
    spec: dict[str, Any] = {"unschedulable": draw(st.integers(0, 9)) == 0}
    effect = draw(st.sampled_from(["", "", "", "NoSchedule", "PreferNoSchedule"]))
    if effect:
        spec["taints"] = [{"key": "cam", "effect": effect}]
    memory, cpu = draw(st.sampled_from([300, 500, 900])), draw(st.sampled_from([1000, 2000]))
    made = node(name, memory * MIB, cpu, draw(st.sampled_from([3, 5, 110])), labels=labels, **spec)
    images = tuple(ContainerImage(names=(i,)) for i in draw(st.lists(st.sampled_from(IMAGES), max_size=2, unique=True)))
    return made.model_copy(update={"status": made.status.model_copy(update={"images": images})})


@st.composite
def a_term(draw: st.DrawFn) -> dict[str, Any]:
    selector = {"matchLabels": {"app": draw(st.sampled_from(APPS))}}
    return {"labelSelector": selector, "topologyKey": draw(st.sampled_from([HOST, ZONE]))}


@st.composite
def a_kind(draw: st.DrawFn) -> dict[str, Any]:
    requests = {}
    if memory := draw(st.sampled_from([0, 40, 100, 250])):
        requests["memory"] = f"{memory}Mi"
    if cpu := draw(st.sampled_from([0, 100, 400])):
        requests["cpu"] = f"{cpu}m"
    spec: dict[str, Any] = {
        "containers": [{"name": "m", "image": draw(st.sampled_from(IMAGES)), "resources": {"requests": requests}}]
    }
    if draw(st.integers(0, 4)) == 0:
        spec["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": draw(st.sampled_from([80, 81]))}]
    if draw(st.integers(0, 3)) == 0:
        spec["nodeSelector"] = {"disk": "ssd"}
    if draw(st.integers(0, 2)) == 0:
        spec["tolerations"] = [{"key": "cam", "operator": "Exists"}]
    if draw(st.integers(0, 2)) == 0:
        spec["priority"] = draw(st.sampled_from([5, 10]))
    if affinity := draw(an_affinity()):
        spec["affinity"] = affinity
    keys = draw(st.sampled_from([(), (), (ZONE,), (HOST,), (HOST, ZONE)]))
    spec["topologySpreadConstraints"] = [
        {
            **draw(a_term()),
            "topologyKey": key,
            "maxSkew": draw(st.integers(1, 2)),
            "whenUnsatisfiable": draw(st.sampled_from(["DoNotSchedule", "ScheduleAnyway"])),
        }
        for key in keys
    ]
    return spec


@st.composite
def an_affinity(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("podAffinity", "podAntiAffinity"):
        if draw(st.integers(0, 3)) == 0:
            found[kind] = {"requiredDuringSchedulingIgnoredDuringExecution": [draw(a_term())]}
        elif draw(st.integers(0, 3)) == 0:
            wish = {"weight": draw(st.sampled_from([1, 50])), "podAffinityTerm": draw(a_term())}
            found[kind] = {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}
    operator = draw(st.sampled_from(["", "", "In", "NotIn", "Exists", "DoesNotExist"]))
    if operator:
        values = {"values": ["ssd", "x"]} if operator in ("In", "NotIn") else {}
        term = {"matchExpressions": [{"key": draw(st.sampled_from(["disk", ZONE])), "operator": operator, **values}]}
        required = {"nodeSelectorTerms": [term]}
        wished = [{"weight": 7, "preference": term}]
        if draw(st.booleans()):
            found["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": required}
        else:
            found["nodeAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": wished}
    return found


@st.composite
def workloads(draw: st.DrawFn) -> list[Pod]:
    """Each kind comes in a second of its own: of one second, pods are chosen together (see `filling`)."""
    return [
        with_meta(pod, creation_timestamp=f"2025-06-15T15:06:4{second}Z")
        for second, app in enumerate(APPS[: draw(st.integers(1, 3))])
        for pod in replicas_of(app, draw(a_kind()), draw(st.integers(1, 7)))
    ]


@pytest.mark.parametrize("policy", ["tight", "spread"])
def test_pods_go_where_one_by_one_they_would_go(policy: Policy) -> None:
    @settings(max_examples=60, deadline=None)
    @given(nodes=boards(), pods=workloads(), later=workloads())
    def they_do(nodes: list[Node], pods: list[Pod], later: list[Pod]) -> None:
        slow = [naive.Board(n) for n in nodes]
        there: list[Pod] = []
        for wave, batch in enumerate((pods, later)):
            named = [with_meta(p, name=f"{p.metadata.name}-{wave}") for p in batch]
            bound = [v for v in place(named, fleet_with(nodes, there), policy=policy) if isinstance(v, Binding)]
            assert {v.pod.metadata.name: v.node for v in bound} == naive.place(named, slow, policy)
            there += [
                v.pod.model_copy(update={"spec": v.pod.spec.model_copy(update={"node_name": v.node})}) for v in bound
            ]

    they_do()
