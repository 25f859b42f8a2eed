"""Affinity, anti-affinity, spreading and node affinity: beside whom a pod is, and beside whom it isn't."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.hub.schedule.place import Binding, Unplaced, place
from cloudlink.hub.schedule.seats import Policy
from cloudlink.kube.core import Node, Pod
from tests.fakes.hub_brain import MIB, node, pod, with_meta

ZONE = "topology.kubernetes.io/zone"
HOST = "kubernetes.io/hostname"


def board(name: str, zone: str = "", memory: int = 900 * MIB, **labels: str) -> Node:
    return node(name, memory, labels={HOST: name} | ({ZONE: zone} if zone else {}) | labels)


def app(name: str, at: str = "", label: str = "web", **spec: Any) -> Pod:
    return with_meta(pod(name, at, **spec), labels={"app": label})


def term(label: str, by: str = HOST) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": {"app": label}}, "topologyKey": by}


def required(kind: str, *terms: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}


def homes(
    pending: list[Pod], nodes: list[Node], there: list[Pod] | None = None, policy: Policy = "tight"
) -> dict[str, str]:
    verdicts = place(pending, fleet_with(nodes, there or []), policy=policy)
    return {v.pod.metadata.name: v.node for v in verdicts if isinstance(v, Binding)}


def why(one: Pod, nodes: list[Node], there: list[Pod] | None = None) -> str:
    [verdict] = place([one], fleet_with(nodes, there or []))
    assert isinstance(verdict, Unplaced)
    return verdict.why


def test_a_pod_goes_where_the_pods_are_that_it_wants_near() -> None:
    near = app("near", label="cache", affinity=required("podAffinity", term("web", ZONE)))
    nodes = [board("a", "one"), board("b", "two"), board("c", "two", 2000 * MIB)]
    assert homes([near], nodes, [app("w", "c")]) == {"near": "b"}
    assert why(near, [board("a")], []) == (f"0/1 nodes: 1 has none of the pods near that this one needs (by {ZONE})")


def test_the_first_of_a_group_that_wants_to_be_together_goes_anywhere_and_the_others_follow() -> None:
    group = [app(f"p{i}", affinity=required("podAffinity", term("web", ZONE))) for i in range(4)]
    found = homes(group, [board("a", "one"), board("b", "two"), board("c", "two")])
    assert len(found) == 4
    assert len({"one" if n == "a" else "two" for n in found.values()}) == 1


def test_pods_that_avoid_each_other_are_on_nodes_of_their_own() -> None:
    apart = [app(f"p{i}", affinity=required("podAntiAffinity", term("web"))) for i in range(4)]
    found = homes(apart, [board(n) for n in "abc"])
    assert sorted(found.values()) == ["a", "b", "c"]
    left = next(p for p in apart if p.metadata.name not in found)
    assert why(left, [board("a")], [app("w", "a")]) == f"0/1 nodes: 1 has pods that this one avoids (by {HOST})"


def test_who_avoids_others_keeps_them_away_also_when_they_come_later() -> None:
    shy = app("shy", "a", label="db", affinity=required("podAntiAffinity", term("web")))
    assert homes([app("w")], [board("a"), board("b", memory=8000 * MIB)], [shy]) == {"w": "b"}
    assert why(app("w"), [board("a")], [shy]) == "0/1 nodes: 1 has pods that keep this one away"


def test_wishes_decide_among_nodes_but_refuse_none() -> None:
    wish = {"weight": 50, "podAffinityTerm": term("web")}
    wishing = app(
        "p", label="x", affinity={"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    )
    assert homes([wishing], [board("a"), board("b", memory=8000 * MIB)], [app("w", "a")]) == {"p": "b"}
    assert homes([wishing], [board("a")], [app("w", "a")]) == {"p": "a"}


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ({"key": "disk", "operator": "In", "values": ["ssd"]}, "b"),
        ({"key": "disk", "operator": "NotIn", "values": ["ssd"]}, "a"),
        ({"key": "disk", "operator": "Exists"}, "b"),
        ({"key": "disk", "operator": "DoesNotExist"}, "a"),
        ({"key": "cores", "operator": "Gt", "values": ["3"]}, "b"),
        ({"key": "cores", "operator": "Lt", "values": ["3"]}, "a"),
    ],
    ids=lambda v: v if isinstance(v, str) else v["operator"],
)
def test_node_affinity_has_all_of_its_operators(expression: dict[str, Any], fits: str) -> None:
    nodes = [board("a", cores="2"), board("b", disk="ssd", cores="4")]
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    picky = app("p", affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
    assert homes([picky], nodes) == {"p": fits}


def test_one_of_several_terms_is_enough_and_a_name_is_a_field() -> None:
    terms = [
        {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["none"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]},
    ]
    picky = app(
        "p",
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
    )
    assert homes([picky], [board("a"), board("b")]) == {"p": "b"}
    assert (
        why(picky, [board("a")])
        == "0/1 nodes: 1 does not match the pod's node affinity (disk In [none] or metadata.name In [b])"
    )


def spread(most: int = 1, by: str = ZONE, **more: Any) -> dict[str, Any]:
    constraint = {"maxSkew": most, "topologyKey": by, "whenUnsatisfiable": "DoNotSchedule"}
    return {"topologySpreadConstraints": [constraint | {"labelSelector": {"matchLabels": {"app": "web"}}} | more]}


def test_a_pod_that_was_asked_to_end_does_not_count_where_pods_are_spread() -> None:
    nodes = [board("a", "one"), board("b", "two", 2000 * MIB)]
    ends = with_meta(app("ends", "a", memory="500Mi"), deletion_timestamp="2026-01-01T00:00:00Z")
    there = [ends, app("stays", "b", memory="10Mi")]
    assert homes([app("next", memory="10Mi", **spread())], nodes, there) == {"next": "a"}


def test_pods_are_spread_over_places_as_evenly_as_asked() -> None:
    nodes = [board("a", "one"), board("b", "two"), board("c", "three")]
    found = homes([app(f"p{i}", memory="10Mi", **spread()) for i in range(9)], nodes)
    assert Counter(found.values()) == {"a": 3, "b": 3, "c": 3}


def test_a_full_place_holds_up_who_must_be_spread() -> None:
    nodes = [board("a", "one", 25 * MIB), board("b", "two")]
    pods = [app(f"p{i}", memory="10Mi", **spread()) for i in range(9)]
    found = homes(pods, nodes)
    assert Counter(found.values()) == {"a": 2, "b": 3}
    left = next(p for p in pods if p.metadata.name not in found)
    there = [app(f"t{i}", at, memory="10Mi") for i, at in enumerate(["a", "a", "b", "b", "b"])]
    assert why(left, nodes, there) == (
        f"0/2 nodes: 1 lacks 10 MiB memory (largest free 5 MiB), 1 would make its pods too uneven (by {ZONE})"
    )


def test_soft_spreading_prefers_the_emptiest_place_and_refuses_none() -> None:
    nodes = [board("a", "one", 2000 * MIB), board("b", "two")]
    pods = [app(f"p{i}", memory="10Mi", **spread(whenUnsatisfiable="ScheduleAnyway")) for i in range(4)]
    assert Counter(homes(pods, nodes).values()) == {"a": 2, "b": 2}
    assert homes(pods, [board("a")]) != {}


def test_the_spread_policy_gives_each_pod_the_emptiest_node() -> None:
    nodes = [board(n) for n in "abc"]
    pods = [app(f"p{i}", memory="10Mi") for i in range(6)]
    assert set(Counter(homes(pods, nodes, policy="spread").values()).values()) == {2}
    assert set(Counter(homes(pods, nodes).values()).values()) == {6}


sizes = st.tuples(st.sampled_from([0, 50, 100, 300]), st.sampled_from([0, 100, 500]))


@given(
    st.lists(st.tuples(st.integers(100, 900), st.integers(500, 2000)), min_size=1, max_size=4), sizes, st.integers(1, 9)
)
def test_equal_pods_placed_together_are_where_they_would_be_one_by_one(
    boards: list[tuple[int, int]], size: tuple[int, int], count: int
) -> None:
    nodes = [node(f"n{i}", memory * MIB, cpu) for i, (memory, cpu) in enumerate(boards)]
    pods = [pod(f"p{i}", memory=f"{size[0]}Mi", cpu=f"{size[1]}m") for i in range(count)]
    together = homes(pods, nodes)
    there: list[Pod] = []
    for one in pods:
        for at in homes([one], nodes, there).values():
            there.append(pod(one.metadata.name, at, f"{size[0]}Mi", f"{size[1]}m"))
    assert Counter(together.values()) == Counter(p.spec.node_name for p in there)
