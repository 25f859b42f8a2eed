"""DaemonSets: one pod on each node that lets them, replaced a few at a time."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.changes import Create, Delete, MarkDeleted, ObjectChange, Update, UpdateStatus
from cloudlink.hub.controllers.daemonset import reconcile, target, tied_to
from cloudlink.hub.controllers.history import REVISION_LABEL
from cloudlink.hub.controllers.retries import FIRST_DELAY, TRIES
from cloudlink.hub.objects import is_active, is_ready
from cloudlink.hub.revisions import draft
from cloudlink.hub.shelves import Objects, key_of
from cloudlink.kube.apps import ControllerRevision, DaemonSet
from cloudlink.kube.core import Namespace, Node, Pod, Taint
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.parse import parse
from tests.fakes.hub_brain import NOW, names, node, pod_spec, reported, with_meta


def daemon_set(strategy: dict[str, Any] | None = None, **pods: Any) -> DaemonSet:
    spec = {
        "selector": {"matchLabels": {"app": "agent"}},
        "template": {"metadata": {"labels": {"app": "agent"}}, "spec": pod_spec(**pods)},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": strategy}
        if strategy
        else {"type": "RollingUpdate"},
    }
    meta = {"name": "agent", "namespace": "default"}
    made = parse({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta, "spec": spec})
    assert isinstance(made, DaemonSet)
    return made


class Fleet:
    """One DaemonSet, its pods and some nodes; every change goes by the store's own rules."""

    def __init__(self, wanted: DaemonSet, *nodes: Node) -> None:
        self.now, self.objects, self.revision = NOW, Objects(), 0
        self.nodes = {n.metadata.name: n for n in nodes}
        self._uids, self._names = itertools.count(1), names()
        self.commit(Create(Namespace(metadata=ObjectMeta(name="default"))), Create(wanted))

    def commit(self, *changes: ObjectChange) -> None:
        work, _ = draft(self.objects, changes, self.revision, self.now, lambda: f"uid-{next(self._uids)}")
        for write in work.writes:
            if write.type == "DELETED":
                self.objects.remove(key_of(write.object))
            else:
                self.objects.put(write.object)
        self.revision = work.revision

    def all(self, kind: type[Any]) -> list[Any]:
        return self.objects.list(kind.__name__)

    @property
    def daemons(self) -> DaemonSet:
        [found] = self.all(DaemonSet)
        return found  # type: ignore[no-any-return]

    @property
    def pods(self) -> list[Pod]:
        return [p for p in self.all(Pod) if is_active(p)]

    def step(self) -> bool:
        before, revisions = self.revision, self.all(ControllerRevision)
        taken = [r.metadata.name for r in revisions]
        decision = reconcile(
            self.daemons, [*self.nodes.values()], self.all(Pod), revisions, taken, self.now, self._names
        )
        self.commit(*decision.changes)
        self.check_invariants()
        return self.revision != before

    def check_invariants(self) -> None:
        for name in self.nodes:
            here = [p for p in self.all(Pod) if target(p) == name]
            active = [p for p in here if is_active(p)]
            revisions = {p.metadata.labels[REVISION_LABEL] for p in active}
            rolling = self.daemons.spec.update_strategy.rolling_update
            surges = rolling is not None and rolling.max_surge not in (0, "0%")
            assert len(active) <= (2 if surges else 1)
            assert len(active) == len(revisions), "two pods of one revision on one node"
            if not surges:
                assert len([p for p in here if not is_active(p) and p.metadata.deletion_timestamp]) + len(active) <= 1

    def run(self) -> None:
        """Pods are bound, start and become ready, those that were asked to end go, until nothing changes."""
        for _ in range(300):
            before = self.revision
            self.step()
            self.bind()
            for p in self.all(Pod):
                if p.metadata.deletion_timestamp:
                    self.commit(Delete("Pod", "default", p.metadata.name))
                elif is_active(p) and not is_ready(p):
                    self.commit(UpdateStatus(reported(p, self.now)))
                    break  # one at a time: others are still starting
            if self.revision == before:
                return
        raise AssertionError("it doesn't come to an end")

    def bind(self) -> None:
        for p in self.pods:
            if not p.spec.node_name:
                bound = p.spec.model_copy(update={"node_name": target(p)})
                self.commit(Update(p.model_copy(update={"spec": bound})))

    def use_image(self, image: str) -> None:
        template = self.daemons.spec.template
        [main] = template.spec.containers
        pods = template.spec.model_copy(update={"containers": (main.model_copy(update={"image": image}),)})
        spec = self.daemons.spec.model_copy(update={"template": template.model_copy(update={"spec": pods})})
        self.commit(Update(self.daemons.model_copy(update={"spec": spec})))

    def images(self) -> set[str]:
        return {p.spec.containers[0].image for p in self.pods}


def test_each_node_that_the_template_selects_gets_one_pod_that_is_tied_to_it() -> None:
    fleet = Fleet(
        daemon_set(nodeSelector={"zone": "a"}),
        node("a", labels={"zone": "a"}),
        node("b", labels={"zone": "a"}, ready=False),
        node("c"),
    )
    fleet.run()
    assert sorted(p.spec.node_name for p in fleet.pods) == ["a", "b"]
    status = fleet.daemons.status
    assert (status.desired_number_scheduled, status.number_ready, status.updated_number_scheduled) == (2, 2, 2)


def test_a_cordoned_node_gets_its_pod_and_a_tainted_one_does_not() -> None:
    cordoned = node("a", unschedulable=True)
    tainted = node("b", taints=[{"key": "dedicated", "value": "cam", "effect": "NoSchedule"}])
    fleet = Fleet(daemon_set(), cordoned, tainted)
    fleet.run()
    assert [p.spec.node_name for p in fleet.pods] == ["a"]


def test_a_taint_that_only_keeps_new_pods_away_leaves_the_one_that_is_there() -> None:
    fleet = Fleet(daemon_set(), node("a"))
    fleet.run()
    for effect, left in (("NoSchedule", 1), ("NoExecute", 0)):
        taint = Taint(key="x", effect=effect)  # type: ignore[arg-type]
        spec = fleet.nodes["a"].spec.model_copy(update={"taints": (taint,)})
        fleet.nodes["a"] = fleet.nodes["a"].model_copy(update={"spec": spec})
        fleet.run()
        assert len(fleet.pods) == left
    assert fleet.daemons.status.desired_number_scheduled == 0


def test_a_required_node_affinity_by_name_is_minded() -> None:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    fleet = Fleet(daemon_set(affinity={"nodeAffinity": required}), node("a"), node("b"))
    fleet.run()
    assert [p.spec.node_name for p in fleet.pods] == ["b"]


def test_a_new_template_replaces_one_node_after_the_other_and_is_remembered() -> None:
    fleet = Fleet(daemon_set(), *(node(n) for n in "abc"))
    fleet.run()
    fleet.use_image("demo:2")
    fleet.step()
    leaving = [p for p in fleet.all(Pod) if p.metadata.deletion_timestamp]
    assert len(leaving) == 1
    fleet.run()
    assert fleet.images() == {"demo:2"}
    assert [r.revision for r in sorted(fleet.all(ControllerRevision), key=lambda r: r.revision)] == [1, 2]


def test_going_back_uses_the_old_revision_again_with_a_new_number() -> None:
    fleet = Fleet(daemon_set(), node("a"))
    fleet.run()
    [first] = fleet.all(ControllerRevision)
    fleet.use_image("demo:2")
    fleet.run()
    fleet.use_image("demo:1")
    fleet.run()
    numbers = {r.metadata.name: r.revision for r in fleet.all(ControllerRevision)}
    assert numbers[first.metadata.name] == 3
    assert len(numbers) == 2


def test_with_a_surge_the_old_pod_stays_until_the_new_one_is_ready() -> None:
    fleet = Fleet(daemon_set({"maxSurge": 1, "maxUnavailable": 0}), node("a"), node("b"))
    fleet.run()
    fleet.use_image("demo:2")
    fleet.step()
    assert len(fleet.pods) == 3
    assert sum(is_ready(p) for p in fleet.pods) == 2
    fleet.run()
    assert (fleet.images(), len(fleet.pods)) == ({"demo:2"}, 2)


def test_a_pod_that_failed_is_replaced_later_and_later() -> None:
    fleet = Fleet(daemon_set(), node("a"))
    fleet.step()
    delays = []
    for _ in range(3):
        [p] = fleet.pods
        fleet.commit(UpdateStatus(reported(p, fleet.now, ready=False, phase="Failed")))
        began = fleet.now
        while not fleet.pods:
            fleet.step()
            fleet.now += 1.0
        delays.append(fleet.now - began - 1.0)
    assert delays == [FIRST_DELAY, FIRST_DELAY * 2, FIRST_DELAY * 4]
    assert fleet.pods[0].metadata.annotations[TRIES] == "3"


def test_a_daemon_pod_is_tied_to_its_node_and_keeps_what_its_template_prefers() -> None:
    wish = {"weight": 1, "preference": {"matchExpressions": [{"key": "fast", "operator": "Exists"}]}}
    term = {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
    affinity = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
        "preferredDuringSchedulingIgnoredDuringExecution": [wish],
    }
    fleet = Fleet(daemon_set(affinity={"nodeAffinity": affinity}), node("a", labels={"zone": "x"}), node("b"))
    fleet.step()
    [p] = fleet.pods
    assert (p.spec.node_name, target(p)) == ("", "a")
    assert p.spec.affinity == tied_to(fleet.daemons.spec.template.spec.affinity, "a")
    nodes = p.spec.affinity.node_affinity
    assert nodes is not None
    assert len(nodes.preferred_during_scheduling_ignored_during_execution) == 1


def test_a_pod_that_waits_for_a_node_that_was_removed_goes() -> None:
    fleet = Fleet(daemon_set(), node("a"), node("b"))
    fleet.step()
    del fleet.nodes["a"]
    fleet.step()
    assert [target(p) for p in fleet.all(Pod)] == ["b"]


def test_a_pod_that_leaves_a_lost_node_is_not_doubled() -> None:
    fleet = Fleet(daemon_set(), node("a", ready=False))
    fleet.step()
    fleet.bind()
    [p] = fleet.pods
    fleet.commit(MarkDeleted("Pod", "default", p.metadata.name, 30))
    fleet.step()
    assert fleet.pods == []
    assert fleet.daemons.status.current_number_scheduled == 1


@given(st.data())
def test_from_any_state_it_comes_to_one_pod_on_each_fitting_node(data: st.DataObject) -> None:
    surge = data.draw(st.sampled_from([None, {"maxUnavailable": 2}, {"maxSurge": 1, "maxUnavailable": 0}]))
    nodes = [node(f"n{i}", labels={"zone": data.draw(st.sampled_from("ab"))}) for i in range(4)]
    fleet = Fleet(daemon_set(surge, nodeSelector={"zone": "a"}), *nodes)
    for i in range(data.draw(st.integers(0, 12))):
        match data.draw(st.integers(0, 4)):
            case 0:
                fleet.step()
            case 1:
                fleet.use_image(f"demo:{i}")
            case 2 if fleet.pods:
                p = data.draw(st.sampled_from(fleet.pods))
                phase = data.draw(st.sampled_from(["Failed", "Running", "Succeeded"]))
                fleet.commit(UpdateStatus(reported(p, fleet.now, phase == "Running", phase)))
            case 3 if fleet.pods:
                p = data.draw(st.sampled_from(fleet.pods))
                fleet.commit(MarkDeleted("Pod", "default", p.metadata.name, 30))
            case _:
                name = data.draw(st.sampled_from(sorted(fleet.nodes)))
                zone = data.draw(st.sampled_from("ab"))
                fleet.nodes[name] = with_meta(fleet.nodes[name], labels={"zone": zone})
        fleet.now += 1.0
    fleet.now += 10_000.0
    fleet.run()
    fitting = sorted(n for n, it in fleet.nodes.items() if it.metadata.labels["zone"] == "a")
    assert sorted(p.spec.node_name for p in fleet.pods) == fitting
    newest = fleet.daemons.spec.template.spec.containers
    assert all(p.spec.containers == newest for p in fleet.pods)
    assert fleet.daemons.status.number_available == len(fitting)
