"""Where pods go, why they can't, and that no node is ever promised more than it has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.objects import find_condition
from cloudlink.hub.schedule.binding import note, with_verdict
from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.hub.schedule.place import Binding, Unplaced, place
from cloudlink.hub.schedule.sizes import Size, size_of
from cloudlink.hub.schedule.words import in_bytes
from cloudlink.kube.core import ContainerImage, Node, Pod
from tests.fakes.hub_brain import MIB, NOW, node, pod, with_meta


def where(pods: list[Pod], nodes: list[Node], there: list[Pod] | None = None) -> dict[str, str]:
    return {v.pod.metadata.name: v.node for v in place(pods, fleet_with(nodes, there or [])) if isinstance(v, Binding)}


def with_images(there: Node, *names: str) -> Node:
    images = tuple(ContainerImage(names=(name,)) for name in names)
    return there.model_copy(update={"status": there.status.model_copy(update={"images": images})})


def why(one: Pod, nodes: list[Node], there: list[Pod] | None = None) -> str:
    [verdict] = place([one], fleet_with(nodes, there or []))
    assert isinstance(verdict, Unplaced)
    return verdict.why


def test_one_node_is_a_fleet_of_one() -> None:
    assert where([pod("a"), pod("b")], [node()]) == {"a": "pi", "b": "pi"}


def test_a_node_that_has_the_image_comes_before_a_tighter_one_but_after_a_wish() -> None:
    small = node("small", 500 * MIB, labels={"disk": "ssd"})
    large = with_images(node("large", 4000 * MIB), "docker.io/library/demo:1")
    assert where([pod("a", memory="300Mi")], [large, small]) == {"a": "large"}
    ssd = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    wish = [{"weight": 1, "preference": ssd}]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wish}}
    assert where([pod("a", memory="300Mi", affinity=affinity)], [large, small]) == {"a": "small"}


def test_the_tightest_fit_wins_so_that_large_holes_stay() -> None:
    nodes = [node("large", 4000 * MIB), node("small", 500 * MIB)]
    assert where([pod("a", memory="300Mi")], nodes) == {"a": "small"}
    assert where([pod("a", memory="600Mi")], nodes) == {"a": "large"}


def test_the_largest_pod_of_one_moment_chooses_first() -> None:
    pods = [pod("little", memory="200Mi"), pod("big", memory="800Mi")]
    assert where(pods, [node("pi", 900 * MIB)]) == {"big": "pi"}


def test_who_came_first_is_served_first() -> None:
    early = with_meta(pod("early", memory="500Mi"), creation_timestamp="2025-06-15T15:06:40Z")
    late = with_meta(pod("late", memory="600Mi"), creation_timestamp="2025-06-15T15:06:41Z")
    assert where([late, early], [node("pi", 900 * MIB)]) == {"early": "pi"}


@pytest.mark.parametrize(
    ("wanted", "nodes", "sentence"),
    [
        ({"memory": "4Gi"}, [node()], "0/1 nodes: 1 lacks 4 GiB memory (largest free 900 MiB)"),
        (
            {"nodeSelector": {"disk": "ssd"}},
            [node("a"), node("b", labels={"disk": "sd"})],
            "0/2 nodes: 2 do not match nodeSelector disk=ssd",
        ),
        (
            {"memory": "2Gi"},
            [node("a", ready=False), node("b"), node("c", unschedulable=True)],
            "0/3 nodes: 1 is not ready, 1 lacks 2 GiB memory (largest free 900 MiB), 1 is cordoned",
        ),
        ({"cpu": "8"}, [node("a", cpu=4000), node("b", cpu=2500)], "0/2 nodes: 2 lack 8 cpu (largest free 4)"),
        (
            {},
            [node(taints=[{"key": "camera", "value": "yes", "effect": "NoSchedule"}])],
            "0/1 nodes: 1 has taint camera=yes:NoSchedule that the pod does not tolerate",
        ),
        ({}, [node(pods=0)], "0/1 nodes: 1 has no room for another pod (limit 0)"),
        ({}, [], "0/0 nodes: no node has joined this fleet yet"),
    ],
)
def test_the_reason_is_a_sentence_to_act_on(wanted: dict[str, Any], nodes: list[Node], sentence: str) -> None:
    assert why(pod("a", **wanted), nodes) == sentence


def test_a_node_that_has_not_told_its_size_takes_nothing() -> None:
    silent = node().model_copy(update={"status": node().status.model_copy(update={"allocatable": {}, "capacity": {}})})
    assert why(pod("a"), [silent]) == "0/1 nodes: 1 is not ready"


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "camera", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "camera", "operator": "Equal", "value": "yes"}, True),
        ({"key": "camera", "operator": "Equal", "value": "no"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "camera", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_tolerations_follow_kubernetes(toleration: dict[str, str], tolerated: bool) -> None:
    tainted = node(taints=[{"key": "camera", "value": "yes", "effect": "NoSchedule"}])
    assert bool(where([pod("a", tolerations=[toleration])], [tainted])) is tolerated


def test_a_taint_that_says_rather_not_is_the_last_choice_but_a_choice() -> None:
    rather_not = node("a", taints=[{"key": "slow", "effect": "PreferNoSchedule"}])
    assert where([pod("p")], [rather_not, node("b", 8000 * MIB)]) == {"p": "b"}
    assert where([pod("p")], [rather_not]) == {"p": "a"}


def test_pods_on_their_way_out_keep_their_room_and_finished_ones_do_not() -> None:
    leaving = with_meta(pod("leaving", node="pi", memory="600Mi"), deletion_timestamp="2025-06-15T15:06:40Z")
    done = leaving.model_copy(update={"status": leaving.status.model_copy(update={"phase": "Succeeded"})})
    assert why(pod("a", memory="600Mi"), [node()], [leaving]).endswith("(largest free 300 MiB)")
    assert where([pod("a", memory="600Mi")], [node()], [done]) == {"a": "pi"}


def test_a_limit_without_a_request_is_what_is_asked_for() -> None:
    limited = pod("a").spec.containers[0].model_copy(update={})
    spec = pod("a").spec.model_copy(
        update={
            "containers": (limited.model_copy(update={"resources": type(limited.resources)(limits={"memory": "1Gi"})}),)
        }
    )
    assert size_of(spec) == Size(memory=1 << 30, cpu=0, pods=1)


@pytest.mark.parametrize(
    ("number", "text"),
    [(4 << 30, "4 GiB"), (900 << 20, "900 MiB"), (966367641, "922 MiB"), (1610612736, "1.5 GiB"), (10, "10 bytes")],
)
def test_bytes_are_written_for_people(number: int, text: str) -> None:
    assert in_bytes(number) == text


def test_a_binding_is_told_once_and_a_refusal_only_when_it_changes() -> None:
    one = pod("a", memory="4Gi")
    [verdict] = place([one], fleet_with([node()], []))
    refused = with_verdict(verdict, NOW)
    condition = find_condition(refused.status.conditions, "PodScheduled")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "Unschedulable")
    assert note(verdict) is not None
    [again] = place([refused], fleet_with([node()], []))
    assert note(again) is None
    assert with_verdict(again, NOW + 100) == refused
    [bound] = place([refused], fleet_with([node("big", 8000 * MIB)], []))
    placed = with_verdict(bound, NOW + 100)
    condition = find_condition(placed.status.conditions, "PodScheduled")
    assert placed.spec.node_name == "big"
    assert condition is not None
    assert (condition.status, condition.last_transition_time) == ("True", "2025-06-15T15:08:20Z")


sizes = st.tuples(st.sampled_from([0, 50, 100, 300, 700]), st.sampled_from([0, 100, 500, 3000]))


@given(
    st.lists(st.tuples(st.integers(100, 1500), st.integers(500, 4000), st.integers(0, 5)), min_size=1, max_size=4),
    st.lists(sizes, max_size=12),
    st.lists(sizes, max_size=6),
)
def test_no_node_is_promised_more_than_it_has(
    boards: list[tuple[int, int, int]], waiting: list[tuple[int, int]], running: list[tuple[int, int]]
) -> None:
    nodes = [node(f"n{i}", memory * MIB, cpu, pods) for i, (memory, cpu, pods) in enumerate(boards)]
    there: list[Pod] = []
    for i, (memory, cpu) in enumerate(running):
        one = pod(f"r{i}", memory=f"{memory}Mi", cpu=f"{cpu}m")
        there += [pod(f"r{i}", at, f"{memory}Mi", f"{cpu}m") for at in where([one], nodes, there).values()]
    pods = [pod(f"w{i}", memory=f"{memory}Mi", cpu=f"{cpu}m") for i, (memory, cpu) in enumerate(waiting)]
    verdicts = place(pods, fleet_with(nodes, there))
    assert sorted(v.pod.metadata.name for v in verdicts) == sorted(p.metadata.name for p in pods)
    bound = [with_verdict(v, NOW) for v in verdicts if isinstance(v, Binding)]
    after = fleet_with(nodes, [*there, *bound])
    left = [Size(*(int(after.free[r][row]) for r in ("memory", "cpu", "pods"))) for row in range(len(after))]
    assert all(size.memory >= 0 and size.cpu >= 0 and size.pods >= 0 for size in left)
    for verdict in verdicts:
        if isinstance(verdict, Unplaced):
            assert not any(size_of(verdict.pod.spec).fits(size) for size in left)
