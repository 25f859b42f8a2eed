"""Who has to go for a more important pod, who must not, and that it comes to an end."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.changes import Create, Delete, UpdateStatus
from cloudlink.hub.manager import Manager
from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.hub.schedule.place import Binding, Unplaced, Verdict, place
from cloudlink.hub.schedule.preempt import Preemption
from cloudlink.hub.store import Store
from cloudlink.kube.core import Event, Node, Pod
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.parse import parse
from cloudlink.kube.policy import PodDisruptionBudget, PodDisruptionBudgetStatus
from cloudlink.kube.scheduling import PriorityClass
from tests.fakes.hub_brain import MIB, Clock, names, node, pod, with_meta


def ranked(name: str, priority: int, where: str = "", memory: str = "300Mi", **more: Any) -> Pod:
    labels = more.pop("labels", {"app": name})
    since = more.pop("since", "2025-06-15T15:00:00Z")
    made = pod(name, where, memory, **more)
    made = made.model_copy(update={"spec": made.spec.model_copy(update={"priority": priority})})
    found: Pod = with_meta(made, labels=labels, uid=f"uid-{name}", creation_timestamp=since)
    return found


def budget(app: str, allowed: int) -> PodDisruptionBudget:
    spec = {"selector": {"matchLabels": {"app": app}}, "minAvailable": 1}
    meta = {"name": app, "namespace": "default"}
    made = parse({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec})
    assert isinstance(made, PodDisruptionBudget)
    return made.model_copy(update={"status": PodDisruptionBudgetStatus(disruptions_allowed=allowed)})


def decided(
    pending: list[Pod], nodes: list[Node], there: list[Pod], budgets: list[PodDisruptionBudget] | None = None
) -> dict[str, Verdict]:
    verdicts = place(pending, fleet_with(nodes, there), preemption=Preemption(budgets or []))
    return {v.pod.metadata.name: v for v in verdicts}


def gone(verdict: Verdict) -> tuple[str, set[str]]:
    assert isinstance(verdict, Unplaced), verdict
    return verdict.nominated, {v.key[1] for v in verdict.victims}


def test_only_as_many_go_as_the_pod_needs_and_the_least_important_ones() -> None:
    there = [ranked("a", 5, "pi"), ranked("b", 1, "pi"), ranked("c", 3, "pi")]
    assert gone(decided([ranked("vip", 9)], [node()], there)["vip"]) == ("pi", {"b"})
    assert gone(decided([ranked("vip", 9, memory="600Mi")], [node()], there)["vip"]) == ("pi", {"b", "c"})


def test_nobody_goes_for_a_pod_of_the_same_or_lower_priority() -> None:
    there = [ranked("a", 5, "pi", "900Mi")]
    assert gone(decided([ranked("b", 5)], [node()], there)["b"]) == ("", set())
    assert gone(decided([ranked("b", 4)], [node()], there)["b"]) == ("", set())


def test_a_pod_that_never_preempts_waits_whatever_its_priority() -> None:
    vip = ranked("vip", 9, preemptionPolicy="Never")
    assert gone(decided([vip], [node()], [ranked("a", 1, "pi", "900Mi")])["vip"]) == ("", set())


def test_nobody_goes_for_a_pod_that_would_not_fit_anyway() -> None:
    there = [ranked("a", 1, "pi", "900Mi")]
    for vip in (ranked("vip", 9, memory="2Gi"), ranked("vip", 9, nodeSelector={"disk": "ssd"})):
        assert gone(decided([vip], [node()], there)["vip"]) == ("", set())
    assert gone(decided([ranked("vip", 9)], [node(ready=False)], there)["vip"]) == ("", set())


def test_the_node_whose_budgets_are_kept_is_chosen_before_the_one_with_less_important_pods() -> None:
    there = [ranked("kept", 1, "pi-1", "900Mi"), ranked("free", 5, "pi-2", "900Mi")]
    nodes = [node("pi-1"), node("pi-2")]
    assert gone(decided([ranked("vip", 9)], nodes, there)["vip"]) == ("pi-1", {"kept"})
    assert gone(decided([ranked("vip", 9)], nodes, there, [budget("kept", 0)])["vip"]) == ("pi-2", {"free"})


def test_a_budget_is_broken_only_where_nothing_else_helps() -> None:
    there = [ranked("kept", 1, "pi", "450Mi"), ranked("free", 5, "pi", "450Mi")]
    small, large = ranked("vip", 9), ranked("vip", 9, memory="900Mi")
    assert gone(decided([small], [node()], there, [budget("kept", 0)])["vip"]) == ("pi", {"free"})
    assert gone(decided([large], [node()], there, [budget("kept", 0)])["vip"]) == ("pi", {"kept", "free"})


def test_a_budget_of_one_is_spent_once_in_a_round() -> None:
    label = {"app": "web"}
    there = [ranked("w1", 1, "pi-1", "900Mi", labels=label), ranked("w2", 1, "pi-2", "900Mi", labels=label)]
    there.append(ranked("other", 2, "pi-3", "900Mi"))
    nodes = [node("pi-1"), node("pi-2"), node("pi-3")]
    verdicts = decided([ranked("v1", 9), ranked("v2", 9, memory="700Mi")], nodes, there, [budget("web", 1)])
    victims = {name for v in verdicts.values() for name in gone(v)[1]}
    assert "other" in victims
    assert len(victims & {"w1", "w2"}) == 1


def test_of_equal_nodes_the_pods_that_started_last_go() -> None:
    there = [
        ranked("old", 1, "pi-1", "900Mi", since="2025-06-15T14:00:00Z"),
        ranked("new", 1, "pi-2", "900Mi", since="2025-06-15T15:00:00Z"),
    ]
    assert gone(decided([ranked("vip", 9)], [node("pi-1"), node("pi-2")], there)["vip"]) == ("pi-2", {"new"})


def test_where_a_pod_is_leaving_anyway_its_room_is_waited_for_and_nobody_else_goes() -> None:
    leaving = with_meta(ranked("leaving", 1, "pi-1", "900Mi"), deletion_timestamp="2025-06-15T15:00:00Z")
    nodes, there = [node("pi-1"), node("pi-2")], [leaving, ranked("stays", 0, "pi-2", "900Mi")]
    vip = ranked("vip", 9)
    vip = vip.model_copy(update={"status": vip.status.model_copy(update={"nominated_node_name": "pi-1"})})
    assert gone(decided([vip], nodes, there)["vip"]) == ("pi-1", set())


def test_the_room_of_a_nominated_pod_is_kept_from_less_important_ones() -> None:
    vip = ranked("vip", 9, memory="600Mi")
    vip = vip.model_copy(update={"status": vip.status.model_copy(update={"nominated_node_name": "pi"})})
    leaving = with_meta(ranked("leaving", 1, "pi", "400Mi"), deletion_timestamp="2025-06-15T15:00:00Z")
    verdicts = decided([vip, ranked("small", 2, memory="200Mi")], [node()], [leaving])
    assert gone(verdicts["vip"]) == ("pi", set())
    assert gone(verdicts["small"]) == ("", set())
    assert isinstance(decided([vip, ranked("small", 2, memory="200Mi")], [node()], [])["vip"], Binding)


@given(
    there=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 2)), max_size=8),
    pending=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=5),
)
def test_whoever_goes_is_less_important_and_what_is_promised_fits_once_they_are_gone(
    there: list[tuple[int, int, int]], pending: list[tuple[int, int]]
) -> None:
    nodes = [node(f"pi-{n}") for n in range(3)]
    housed: list[Pod] = []
    for i, (priority, size, where) in enumerate(there):
        one = ranked(f"t{i}", priority, f"pi-{where}", f"{size * 100}Mi")
        if fleet_with(nodes, [*housed, one]).free["memory"].min() >= 0:
            housed.append(one)
    waiting = [ranked(f"p{i}", priority, "", f"{size * 100}Mi") for i, (priority, size) in enumerate(pending)]
    verdicts = decided(waiting, nodes, housed)
    victims = [v for verdict in verdicts.values() if isinstance(verdict, Unplaced) for v in verdict.victims]
    assert len({v.key for v in victims}) == len(victims)
    for verdict in verdicts.values():
        if isinstance(verdict, Unplaced):
            assert all(v.priority < (verdict.pod.spec.priority or 0) for v in verdict.victims)
            assert all(v.node == verdict.nominated for v in verdict.victims)
    after = [p for p in housed if p.metadata.name not in {v.key[1] for v in victims}]
    for name, verdict in verdicts.items():
        where_to = verdict.node if isinstance(verdict, Binding) else verdict.nominated
        if where_to:
            after.append(next(_on(p, where_to) for p in waiting if p.metadata.name == name))
    assert fleet_with(nodes, after).free["memory"].min() >= 0


def _on(one: Pod, where: str) -> Pod:
    return one.model_copy(update={"spec": one.spec.model_copy(update={"node_name": where})})


def test_a_manager_ends_the_victim_keeps_the_room_and_places_the_pod_when_it_is_gone() -> None:
    clock = Clock()
    store = Store.open("sqlite://", clock)
    pi = node("pi", 900 * MIB)
    vip = PriorityClass(metadata=ObjectMeta(name="vip"), value=1000)
    store.commit([Create(pi), UpdateStatus(pi), Create(vip)])
    store.commit([Create(ranked("batch", 0, "pi", "700Mi"))])
    manager = Manager(store, clock, names())
    manager.settle()
    store.commit([Create(ranked("vip", 1000, memory="600Mi"))])
    manager.settle()

    def the(name: str) -> Pod:
        found = store.get("Pod", "default", name)
        assert isinstance(found, Pod)
        return found

    batch, waiting = the("batch"), the("vip")
    assert batch.metadata.deletion_grace_period_seconds == 30
    assert [c.reason for c in batch.status.conditions if c.type == "DisruptionTarget"] == ["PreemptionByScheduler"]
    assert (waiting.spec.node_name, waiting.status.nominated_node_name) == ("", "pi")
    store.commit([Create(ranked("sneaky", 0, memory="100Mi"))])
    manager.settle()
    assert the("sneaky").spec.node_name == "", "its room is kept for vip"
    store.commit([Delete("Pod", "default", "batch")])
    manager.settle()
    assert (the("vip").spec.node_name, the("vip").status.nominated_node_name) == ("pi", "")
    assert the("sneaky").spec.node_name == "pi"
    said = {(e.reason, e.involved_object.name) for e in store.list("Event") if isinstance(e, Event)}
    assert {("Preempted", "batch"), ("Scheduled", "vip")} <= said
    store.close()
