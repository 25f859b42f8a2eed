"""How few nodes are used, compared with a lower bound on what is possible; see docs/benchmarks.md for all sets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.schedule import filling
from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.hub.schedule.place import Binding, place
from cloudlink.kube.core import Node, Pod
from tests.fakes.hub_brain import MIB, node
from tests.packing import sets
from tests.packing.mixed import replicas_of
from tests.packing.sets import Set


def used(a_set: Set) -> int:
    verdicts = place(a_set.pods(), fleet_with(a_set.nodes(), []))
    assert all(isinstance(v, Binding) for v in verdicts)
    return len({v.node for v in verdicts if isinstance(v, Binding)})


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["Falkenauer u250", "Falkenauer t249", "Scholl 1", "Scholl 2"])
def test_published_sets_take_hardly_more_nodes_than_they_must(name: str, seed: int) -> None:
    a_set = sets.MAKERS[name](seed)
    assert used(a_set) <= a_set.bound() * 1.02 + 1


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("pods", [(2, 4), (5, 10), (10, 30)])
def test_nodes_that_could_be_filled_to_the_last_byte_and_thousandth_nearly_are(
    pods: tuple[int, int], seed: int
) -> None:
    a_set = sets.exact(((1984, 4000),) * 50, *pods, seed)
    assert a_set.bound() == 50
    assert used(a_set) <= 50 * 1.02 + 1


def test_a_cluster_of_alibaba_is_packed_into_hardly_more_nodes_than_it_must() -> None:
    a_set = sets.alibaba(1, equal=True)
    assert used(a_set) <= a_set.bound() * 1.02


@pytest.mark.parametrize(
    ("sizes", "room", "bound"),
    [([60, 60, 60], 100, 3), ([50, 50, 50, 50], 100, 2), ([70, 40, 40, 30], 100, 2), ([70, 70, 40, 40], 100, 3)],
)
def test_the_bound_counts_what_can_not_share_a_node(sizes: list[int], room: int, bound: int) -> None:
    assert sets.l2(sizes, room) == bound


kinds = st.lists(
    st.tuples(st.sampled_from([50, 100, 210, 340]), st.sampled_from([100, 250, 900]), st.integers(1, 6)),
    min_size=2,
    max_size=5,
)
boards = st.lists(st.tuples(st.integers(100, 900), st.integers(500, 2000), st.integers(1, 6)), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(kinds=kinds, boards=boards)
def test_pods_chosen_together_never_ask_for_more_than_a_node_has(
    kinds: list[tuple[int, int, int]], boards: list[tuple[int, int, int]]
) -> None:
    nodes: list[Node] = [node(f"n{i}", m * MIB, c, p) for i, (m, c, p) in enumerate(boards)]
    pods: list[Pod] = []
    for number, (memory, cpu, count) in enumerate(kinds):
        requests = {"memory": f"{memory}Mi", "cpu": f"{cpu}m"}
        spec = {"containers": [{"name": "m", "image": "i", "resources": {"requests": requests}}]}
        pods += replicas_of(f"k{number}", spec, count)
    verdicts = place(pods, fleet_with(nodes, []))
    assert sorted(v.pod.metadata.name for v in verdicts) == sorted(p.metadata.name for p in pods)
    there = [
        v.pod.model_copy(update={"spec": v.pod.spec.model_copy(update={"node_name": v.node})})
        for v in verdicts
        if isinstance(v, Binding)
    ]
    after = fleet_with(nodes, there)
    assert all((after.free[r] >= 0).all() for r in ("memory", "cpu", "pods"))
    left = [v.pod for v in verdicts if not isinstance(v, Binding)]
    assert not any(isinstance(v, Binding) for v in place(left, after)), "whoever is left fits nowhere"


def test_too_many_pods_at_once_are_placed_one_by_one() -> None:
    spec = {"containers": [{"name": "m", "image": "i", "resources": {"requests": {"memory": "1Mi"}}}]}
    other = {"containers": [{"name": "m", "image": "i", "resources": {"requests": {"memory": "2Mi"}}}]}
    pods = [*replicas_of("a", spec, filling.MOST_PODS), *replicas_of("b", other, 1)]
    verdicts = place(pods, fleet_with([node(pods=len(pods), memory=30_000 * MIB)], []))
    assert all(isinstance(v, Binding) for v in verdicts)
