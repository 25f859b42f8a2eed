"""Which taints nodes get for how they are, how many at a time, and when none."""

from __future__ import annotations

from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.controllers.node_life import Census, Knobs, Verdict
from cloudlink.hub.controllers.node_life import reconcile as decide
from cloudlink.hub.objects import rfc3339
from cloudlink.kube.core import Node, NodeCondition, Taint
from cloudlink.kube.taints import NOT_READY, UNREACHABLE
from tests.fakes.hub_brain import NOW, node, with_meta

Ready = Literal["True", "False", "Unknown", ""]
AT_ONCE = Knobs(node_eviction_rate=1000.0)


def board(name: str, ready: Ready = "True", since: float = NOW, pressure: str = "", **spec: Any) -> Node:
    made = node(name, **spec)
    conditions = [NodeCondition(type="Ready", status=ready, last_transition_time=rfc3339(since))] if ready else []
    if pressure:
        conditions.append(NodeCondition(type=pressure, status="True"))
    status = made.status.model_copy(update={"conditions": tuple(conditions)})
    return with_meta(made.model_copy(update={"status": status}), uid=name)  # type: ignore[no-any-return]


def reconcile(nodes: list[Node], now: float, knobs: Knobs) -> Verdict:
    """Everybody has changed."""
    return decide(nodes, counted(nodes), now, knobs)


def counted(nodes: list[Node]) -> Census:
    census = Census()
    for one in nodes:
        census.note(one)
    return census


def after(nodes: list[Node], verdict: Verdict) -> list[Node]:
    changed = {c.object.metadata.name: c.object for c in verdict.changes}
    return [changed.get(n.metadata.name, n) for n in nodes]  # type: ignore[misc]


def taints(node: Node) -> set[tuple[str, str]]:
    return {(t.key.removeprefix("node.kubernetes.io/"), t.effect) for t in node.spec.taints}


def executing(nodes: list[Node]) -> set[str]:
    return {n.metadata.name for n in nodes if any(t.effect == "NoExecute" for t in n.spec.taints)}


def fleet(ready: int, lost: int, **more: Any) -> list[Node]:
    return [board(f"up-{i}") for i in range(ready)] + [board(f"lost-{i}", "Unknown", **more) for i in range(lost)]


def test_a_lost_node_gets_both_taints_with_their_time_and_loses_them_when_it_is_back() -> None:
    nodes = [board("a"), board("b", "Unknown")]
    lost = after(nodes, reconcile(nodes, NOW, Knobs()))
    assert taints(lost[0]) == set()
    assert taints(lost[1]) == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    assert {t.time_added for t in lost[1].spec.taints} == {rfc3339(NOW)}
    assert reconcile(lost, NOW + 60, Knobs()).changes == ()
    back = [lost[0], lost[1].model_copy(update={"status": board("b").status})]
    assert taints(after(back, reconcile(back, NOW + 60, Knobs()))[1]) == set()


def test_a_node_that_says_it_is_not_ready_gets_other_taints_and_keeps_its_time_when_it_is_lost() -> None:
    nodes = [board("a"), board("b", "False")]
    unready = after(nodes, reconcile(nodes, NOW, Knobs()))
    assert taints(unready[1]) == {("not-ready", "NoSchedule"), ("not-ready", "NoExecute")}
    silent = [unready[0], unready[1].model_copy(update={"status": board("b", "Unknown").status})]
    lost = after(silent, reconcile(silent, NOW + 100, Knobs()))
    assert taints(lost[1]) == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    [since] = [t.time_added for t in lost[1].spec.taints if t.effect == "NoExecute"]
    assert since == rfc3339(NOW)


def test_a_node_that_never_spoke_is_not_lost() -> None:
    assert reconcile([board("new", ""), board("a")], NOW, Knobs()) == Verdict()


def test_a_cordon_and_a_pressure_become_taints_that_let_pods_stay() -> None:
    nodes = [board("a", pressure="DiskPressure", unschedulable=True), board("b", pressure="MemoryPressure")]
    done = after(nodes, reconcile(nodes, NOW, Knobs()))
    assert taints(done[0]) == {("disk-pressure", "NoSchedule"), ("unschedulable", "NoSchedule")}
    assert taints(done[1]) == {("memory-pressure", "NoSchedule")}
    calm = [d.model_copy(update={"status": board("x").status}) for d in done]
    assert [taints(n) for n in after(calm, reconcile(calm, NOW, Knobs()))] == [{("unschedulable", "NoSchedule")}, set()]


def test_what_people_add_stays_and_gets_the_time_that_tolerations_count_from() -> None:
    given = [{"key": "dedicated", "value": "cam", "effect": "NoExecute"}, {"key": "slow", "effect": "NoSchedule"}]
    [done] = after([board("a", taints=given)], reconcile([board("a", taints=given)], NOW, Knobs()))
    assert [(t.key, t.time_added) for t in done.spec.taints] == [("dedicated", rfc3339(NOW)), ("slow", "")]


def test_evictions_begin_one_node_after_the_other_the_longest_lost_first() -> None:
    nodes = [*fleet(7, 0), board("b", "Unknown", NOW - 5), board("c", "Unknown", NOW - 9), board("d", "Unknown", NOW)]
    first = reconcile(nodes, NOW, Knobs())
    nodes = after(nodes, first)
    assert executing(nodes) == {"c"}
    assert all(("unreachable", "NoSchedule") in taints(n) for n in nodes[-3:])
    assert first.wake_at == NOW + 10
    assert reconcile(nodes, NOW + 9, Knobs()).changes == ()
    nodes = after(nodes, second := reconcile(nodes, NOW + 10, Knobs()))
    assert executing(nodes) == {"b", "c"}
    nodes = after(nodes, last := reconcile(nodes, second.wake_at, Knobs()))
    assert executing(nodes) == {"b", "c", "d"}
    assert last.wake_at == float("inf")


def test_nobody_is_evicted_while_most_of_the_fleet_is_lost_and_those_who_waited_wait_anew() -> None:
    nodes = fleet(4, 2)
    nodes = after(nodes, reconcile(nodes, NOW, AT_ONCE))
    assert executing(nodes) == {"lost-0", "lost-1"}
    most = [*nodes[:1], *(board(f"up-{i}", "Unknown") for i in range(1, 4)), *nodes[4:]]
    held = reconcile(most, NOW + 5, AT_ONCE)
    assert held.held.startswith("5 of 6 nodes are lost")
    most = after(most, held)
    assert executing(most) == set()
    assert all(("unreachable", "NoSchedule") in taints(n) for n in most[1:])
    returned = [board(n.metadata.name) if n.metadata.name.startswith("up") else n for n in most]
    done = after(returned, reconcile(returned, NOW + 100, AT_ONCE))
    assert executing(done) == {"lost-0", "lost-1"}
    assert {t.time_added for t in done[-1].spec.taints if t.effect == "NoExecute"} == {rfc3339(NOW + 100)}


def test_two_lost_nodes_are_no_disruption_whatever_their_share_but_all_are() -> None:
    assert reconcile(fleet(1, 2), NOW, AT_ONCE).held == ""
    assert reconcile(fleet(0, 2), NOW, AT_ONCE).held.startswith("2 of 2 nodes are lost")
    assert "the only node" in reconcile(fleet(0, 1), NOW, AT_ONCE).held
    assert reconcile(fleet(9, 11), NOW, AT_ONCE).held.startswith("11 of 20")
    assert reconcile(fleet(10, 10), NOW, AT_ONCE).held == ""
    assert reconcile(fleet(1, 9), NOW, Knobs(1000.0, 1.0)).held == ""


@given(
    st.lists(
        st.tuples(st.sampled_from(["True", "False", "Unknown", ""]), st.booleans(), st.integers(0, 100)), max_size=12
    ),
    st.floats(0.0, 5.0),
)
def test_looking_twice_changes_nothing_and_taints_agree_with_readiness(
    told: list[tuple[Ready, bool, int]], rate: float
) -> None:
    knobs = Knobs(node_eviction_rate=rate)
    mine = Taint(key="mine", effect="NoExecute", time_added=rfc3339(NOW))
    nodes = [board(f"n{i}", ready, NOW - age, unschedulable=cordoned) for i, (ready, cordoned, age) in enumerate(told)]
    nodes = [n.model_copy(update={"spec": n.spec.model_copy(update={"taints": (mine,)})}) for n in nodes]
    done = after(nodes, verdict := reconcile(nodes, NOW, knobs))
    assert reconcile(done, NOW, knobs).changes == ()
    began = 0
    for n, (ready, cordoned, _) in zip(done, told, strict=True):
        keys = {t.key for t in n.spec.taints}
        assert (UNREACHABLE in keys) == (ready == "Unknown")
        assert (NOT_READY in keys) == (ready == "False")
        assert ("node.kubernetes.io/unschedulable" in keys) == cordoned
        assert mine in n.spec.taints
        began += sum(t.effect == "NoExecute" for t in n.spec.taints) - 1
    assert began <= max(1, int(rate))
    assert not (verdict.held and began)


def test_only_who_has_changed_or_whose_turn_it_is_is_looked_at() -> None:
    nodes = fleet(4, 3)
    census = counted(nodes)
    nobody = decide([], census, NOW, Knobs())
    assert [c.object.metadata.name for c in nobody.changes] == ["lost-0"]
    one = decide(nodes[-1:], census, NOW, Knobs())
    assert [c.object.metadata.name for c in one.changes] == ["lost-0", "lost-2"]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["True", "False", "Unknown", "", "gone"]), st.integers(0, 30)),
        max_size=30,
    )
)
def test_counting_node_by_node_comes_to_what_counting_all_of_them_does(moves: list[tuple[int, str, int]]) -> None:
    there: dict[str, Node] = {}
    census, now = Census(), NOW
    for number, ready, pause in moves:
        name, now = f"n{number}", now + pause
        before = there.pop(name, None)
        changed = board(name, "True" if ready == "gone" else ready, now)  # type: ignore[arg-type]
        if before is not None:
            changed = changed.model_copy(update={"spec": before.spec})
        census.note(changed, gone=ready == "gone")
        if ready != "gone":
            there[name] = changed
        assert census == counted(list(there.values()))
        verdict = decide([] if ready == "gone" else [changed], census, now, Knobs())
        everybody = decide(there.values(), census, now, Knobs())
        assert verdict == everybody, "nobody else had to change"
        for change in verdict.changes:
            made = change.object
            assert isinstance(made, Node)
            there[made.metadata.name] = made
            census.note(made)
