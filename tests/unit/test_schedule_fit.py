"""What fit says is what then happens: in examples, and for whatever fleet and manifest there may be."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.changes import Create, UpdateStatus
from cloudlink.hub.schedule import fullness
from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.kube.core import Pod
from cloudlink.kube.parse import dump
from tests.fakes.fits import Document, Place, a_place, workload
from tests.fakes.hub_brain import MIB, node, pod
from tests.unit.test_rbac_rules import binding, role, rule

KINDS = ["Pod", "StatefulSet", "Deployment", "ReplicaSet", "ReplicationController", "DaemonSet", "Job", "CronJob"]


def of(status: Document, name: str) -> Document:
    [found] = [w for w in status["workloads"] if w["name"] == name]
    return dict(found)


def snapshot(place: Place) -> list[Any]:
    return [dump(o) for kind in sorted(place.store.kinds()) for o in place.store.list(kind)]


# ---------------------------------------------------------------- new objects


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_with_pods_is_foreseen_and_nothing_is_changed(kind: str) -> None:
    with a_place(node("pi-1", 300 * MIB)) as place:
        before = snapshot(place)
        status = place.fit(workload(kind, "it", "200Mi"))
        assert status["fits"], status
        assert of(status, "it")["nodes"] == {"pi-1": 1}
        assert snapshot(place) == before


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("DaemonSet", "CronJob")])
def test_what_does_not_fit_gets_the_sentence_that_the_scheduler_then_says(kind: str) -> None:
    with a_place(node("pi-1", 300 * MIB), node("pi-2", 250 * MIB)) as place:
        place.apply(workload("Deployment", "there", "200Mi", 2))
        told = of(place.fit(workload(kind, "it", "201Mi")), "it")
        place.apply(workload(kind, "it", "201Mi"))
        [waiting] = place.pods("it")
        [condition] = [c for c in waiting.status.conditions if c.type == "PodScheduled"]
        assert told["why"] == condition.message == "0/2 nodes: 2 lack 201 MiB memory (largest free 100 MiB)"
        assert told["waiting"] == 1
        assert not told.get("placed")


def test_a_daemon_set_has_one_pod_on_each_node_that_it_means_and_says_which_has_no_room() -> None:
    nodes = (node("a", labels={"cam": "yes"}), node("b", labels={"cam": "yes"}), node("c"))
    with a_place(*nodes) as place:
        place.apply(workload("Pod", "large", "700Mi", nodeSelector={"kubernetes.io/x": "y"}))
        place.apply(workload("ReplicaSet", "large-one", "700Mi", nodeSelector={"cam": "yes"}))
        status = place.fit(workload("DaemonSet", "agent", "300Mi", nodeSelector={"cam": "yes"}))
        told = of(status, "agent")
        assert not status["fits"]
        assert (told["pods"], told["placed"]) == (2, 1)
        assert "lack" in told["why"]
        assert "300 MiB" in told["why"]


def test_several_documents_are_taken_one_after_the_other_and_share_the_room() -> None:
    with a_place(node("pi-1", 300 * MIB)) as place:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "green"}}
        first, second = workload("Deployment", "one", "200Mi"), workload("Deployment", "two", "200Mi")
        for document in (first, second):
            document["metadata"]["namespace"] = "green"
        status = place.fit([namespace, first, second])
        assert [w["placed"] for w in status["workloads"] if "placed" in w] == [1]
        assert of(status, "one")["placed"] == 1
        assert of(status, "two")["waiting"] == 1
        assert place.store.get("Namespace", None, "green") is None


def test_a_list_and_documents_without_a_namespace_are_taken_in_the_namespace_that_is_asked_in() -> None:
    with a_place(node("pi-1", 300 * MIB)) as place:
        place.store.commit([Create(_namespace("green"))])
        items = [workload("Pod", "one", "10Mi"), workload("Job", "two", "10Mi")]
        for item in items:
            del item["metadata"]["namespace"]
        status = place.fit({"apiVersion": "v1", "kind": "List", "items": items}, "green")
        assert {w["namespace"] for w in status["workloads"]} == {"green"}
        assert status["fits"]


def _namespace(name: str) -> Any:
    from cloudlink.kube.parse import parse

    return parse({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def test_a_manifest_without_pods_fits_and_an_object_of_generated_name_is_made() -> None:
    with a_place(node("pi-1")) as place:
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}}
        assert place.fit(config)["fits"]
        nameless = workload("Job", "x", "10Mi")
        nameless["metadata"] = {"generateName": "job-"}
        [told] = place.fit(nameless)["workloads"]
        assert told["name"].startswith("job-")
        assert told["placed"] == 1


# ---------------------------------------------------------------- updates


def test_an_update_counts_what_it_replaces_and_what_stays() -> None:
    with a_place(node("pi-1", 600 * MIB)) as place:
        place.apply(workload("Deployment", "web", "250Mi", 2))
        told = of(place.fit(workload("Deployment", "web", "290Mi", 2)), "web")
        # 25 % of two pods is no pod that may be missing, and one that may be more: there is no room for it.
        assert told["stuck"] == 2
        assert told["why"] == "0/1 nodes: 1 lacks 290 MiB memory (largest free 100 MiB)"
        one_by_one = workload("Deployment", "web", "290Mi", 2)
        one_by_one["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
        status = place.fit(one_by_one)
        assert status["fits"], status
        assert of(status, "web")["ended"] == {"pi-1": 2}
        assert of(status, "web")["nodes"] == {"pi-1": 2}
        [row] = status["nodes"]
        assert (row["memoryUsed"], row["memoryNew"]) == (500 * MIB, 80 * MIB)


def test_scaling_moves_only_what_is_more_or_less() -> None:
    with a_place(node("pi-1", 600 * MIB)) as place:
        place.apply(workload("Deployment", "web", "100Mi", 3))
        more = of(place.fit(workload("Deployment", "web", "100Mi", 5)), "web")
        assert (more["stay"], more["nodes"]) == (3, {"pi-1": 2})
        less = of(place.fit(workload("Deployment", "web", "100Mi", 1)), "web")
        assert (less["stay"], less["ended"]) == (1, {"pi-1": 2})
        same = of(place.fit(workload("Deployment", "web", "100Mi", 3)), "web")
        assert same["stay"] == same["placed"] == 3
        assert "nodes" not in same


def test_a_rollout_of_hundreds_of_pods_is_played_to_its_end() -> None:
    with a_place(*(node(f"pi-{n}", 400 * MIB) for n in range(10))) as place:
        place.apply(workload("Deployment", "web", "10Mi", 300))
        assert len([p for p in place.pods("web") if p.spec.node_name]) == 300
        told = of(place.fit(workload("Deployment", "web", "12Mi", 300)), "web")
        assert told["placed"] == 300
        assert sum(told["nodes"].values()) == sum(told["ended"].values()) == 300


def test_a_rollout_in_waves_is_foreseen_to_its_end_with_its_holds_and_confirmations() -> None:
    with a_place(node("pi-1", 600 * MIB)) as place:
        place.apply(workload("Deployment", "web", "100Mi", 4))
        wanted = workload("Deployment", "web", "110Mi", 4)
        wanted["spec"]["minReadySeconds"] = 20
        for hold in ("10m", "manual"):
            wanted["metadata"]["annotations"] = {"edged.dev/waves": "1, 50%, 100%", "edged.dev/wave-hold": hold}
            told = of(place.fit(wanted), "web")
            assert (told["placed"], told["nodes"]) == (4, {"pi-1": 4}), (hold, told)


def test_fields_that_kubectl_applied_before_and_are_no_longer_said_are_gone() -> None:
    with a_place(node("pi-1", 600 * MIB), node("pi-2", 600 * MIB, labels={"cam": "yes"})) as place:
        before = workload("Deployment", "web", "100Mi", 1, nodeSelector={"cam": "yes"})
        applied = copy.deepcopy(before)
        applied["metadata"]["annotations"] = {
            "kubectl.kubernetes.io/last-applied-configuration": json.dumps(before),
        }
        path = "/apis/apps/v1/namespaces/default/deployments?fieldManager=kubectl-client-side-apply"
        assert place.client.request("POST", path, applied)[0] == 201
        place.live()
        wanted = workload("Deployment", "web", "100Mi", 1)
        told = of(place.fit(wanted), "web")
        assert told["ended"] == {"pi-2": 1}
        assert told["placed"] == 1


# ---------------------------------------------------------------- preemption


def test_who_has_to_go_is_named_with_what_becomes_of_it() -> None:
    with a_place(node("pi-1", 300 * MIB), node("pi-2", 300 * MIB)) as place:
        place.priority("high", 1000)
        place.apply(workload("Deployment", "low", "200Mi", 2))
        status = place.fit(workload("Deployment", "vip", "250Mi", 1, priorityClassName="high"))
        assert status["fits"]
        [victim] = status["preempted"]
        assert victim["by"] == "deployment/vip"
        assert victim["node"] in of(status, "vip")["nodes"]
        low = of(status, "low")
        assert low["waiting"] == 1
        assert "lack" in low["why"]
        there = {p.metadata.name for p in place.pods("low")}
        assert victim["name"] in there
        place.apply(workload("Deployment", "vip", "250Mi", 1, priorityClassName="high"))
        assert there - {p.metadata.name for p in place.pods("low")} == {victim["name"]}


def test_a_class_that_is_not_there_is_told_as_its_controller_would_tell_it() -> None:
    with a_place(node("pi-1")) as place:
        told = of(place.fit(workload("Deployment", "web", "10Mi", priorityClassName="nope")), "web")
        assert "no PriorityClass with name nope was found" in told["why"]
        code, answer = place.ask(workload("Pod", "web", "10Mi", priorityClassName="nope"))
        assert (code, answer["reason"]) == (403, "Forbidden")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("a: [b", 400, "the manifest, line"),
        ("kind: Deploymnt\napiVersion: apps/v1", 422, 'did you mean "Deployment"?'),
        ("just text", 400, "the manifest"),
        ("kind: Fit\napiVersion: edged.dev/v1", 400, "can't be applied"),
        (json.dumps(workload("Deployment", "x") | {"specc": 1}), 422, "specc: unknown field"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_place_of_what_is_wrong(text: str, code: int, words: str) -> None:
    with a_place(node("pi-1")) as place:
        answered, status = place.ask(text)
        assert answered == code, status
        assert words in json.dumps(status).replace('\\"', '"')


def test_what_is_too_large_for_every_node_is_answered_and_not_refused() -> None:
    with a_place(node("pi-1", 300 * MIB)) as place:
        status = place.fit(workload("Deployment", "huge", "4Gi"))
        assert not status["fits"]
        assert "the largest node has 300 MiB allocatable" in of(status, "huge")["why"]
        assert not place.apply(workload("Deployment", "huge", "4Gi"))


def test_a_question_that_makes_too_many_pods_is_refused_with_a_sentence() -> None:
    with a_place(node("pi-1")) as place:
        code, status = place.ask(workload("Deployment", "web", "1Mi", 100_000))
        assert code == 400
        assert "ask for" in status["message"]


# ---------------------------------------------------------------- who may ask, and what they see


@pytest.fixture
def shared() -> Any:
    """ann may do everything in the namespace green, and nothing else."""
    with a_place(node("pi-1", 300 * MIB)) as place:
        place.priority("high", 1000)
        place.apply(workload("Deployment", "low", "200Mi"))
        place.store.commit(
            [
                Create(_namespace("green")),
                Create(binding("edits", "ClusterRole/edit", "User/ann", namespace="green")),
                Create(role("asker", rule("create", "fits", "edged.dev"), namespace="default")),
                Create(binding("asks", "Role/asker", "User/ann", namespace="default")),
            ]
        )
        yield place


ANN = {"impersonate-user": "ann"}


def test_whoever_may_edit_a_namespace_may_ask_but_sees_no_nodes_and_no_pods_of_others(shared: Place) -> None:
    vip = workload("Deployment", "vip", "250Mi", priorityClassName="high")
    del vip["metadata"]["namespace"]
    code, answer = shared.ask(vip, "green", **ANN)
    assert code == 201, answer
    status = answer["status"]
    assert status["fits"]
    assert status["hidden"] == 1
    assert "low" not in json.dumps(status)
    assert "nodes" not in status
    assert of(status, "vip")["nodes"] == {"pi-1": 1}


def test_an_object_that_one_may_not_apply_can_not_be_asked_about(shared: Place) -> None:
    code, answer = shared.ask(workload("Deployment", "low", "1Mi"), "default", **ANN)
    assert code == 403
    assert 'User "ann" cannot patch resource "deployments"' in answer["message"]
    code, answer = shared.ask(None, "green", **ANN)
    assert code == 403
    assert 'User "ann" cannot list resource "nodes"' in answer["message"]


def test_who_may_not_create_fits_in_a_namespace_is_refused_at_the_door(shared: Place) -> None:
    code, answer = shared.ask(None, "kube-system", **ANN)
    assert code == 403
    assert 'fits.edged.dev is forbidden: User "ann" cannot create resource "fits"' in answer["message"]


# ---------------------------------------------------------------- how full the nodes are


def test_fewer_nodes_than_the_bound_says_can_not_hold_it() -> None:
    nodes = [node(f"pi-{n}", 100 * MIB) for n in range(4)]
    cases = {4: ["60Mi"] * 4, 2: ["40Mi"] * 4, 1: ["10Mi"], 0: []}
    for least, sizes in cases.items():
        pods = [pod(f"p{n}", f"pi-{n % 4}", memory) for n, memory in enumerate(sizes)]
        assert fullness.needed(fleet_with(nodes, pods)) == least, sizes


def test_pods_that_have_ended_take_no_room_and_pods_that_leave_still_do() -> None:
    with a_place(node("pi-1", 300 * MIB)) as place:
        place.apply(workload("Pod", "done", "100Mi"))
        place.apply(workload("Pod", "busy", "50Mi"))
        [done] = place.pods("done")
        ended = done.model_copy(update={"status": done.status.model_copy(update={"phase": "Succeeded"})})
        place.store.commit([UpdateStatus(ended)])
        [row] = place.fit(None)["nodes"]
        assert (row["memoryUsed"], row["podsUsed"]) == (50 * MIB, 1)


# ---------------------------------------------------------------- whatever there is


@st.composite
def a_manifest(draw: st.DrawFn, name: str, kinds: list[str], update: bool = False) -> Document:
    pods: dict[str, Any] = {}
    if draw(st.booleans()):
        pods["priorityClassName"] = draw(st.sampled_from(["high", "low"]))
    if draw(st.integers(0, 3)) == 0:
        pods["nodeSelector"] = {"zone": draw(st.sampled_from(["north", "south"]))}
    if draw(st.integers(0, 3)) == 0:
        term = {"labelSelector": {"matchLabels": {"app": name}}, "topologyKey": "kubernetes.io/hostname"}
        pods["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    kind = draw(st.sampled_from(kinds))
    memory = f"{draw(st.integers(1, 12)) * 25}Mi"
    made = workload(kind, name, memory, draw(st.integers(0, 4)) if kind != "Job" else draw(st.integers(1, 3)), **pods)
    if kind == "Deployment":
        by_one = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
        strategies: list[Any] = [{"type": "RollingUpdate"}, by_one, *([] if update else [{"type": "Recreate"}])]
        made["spec"]["strategy"] = draw(st.sampled_from(strategies))
    return made


@st.composite
def a_scene(draw: st.DrawFn) -> tuple[list[Any], list[Document], list[Document]]:
    """Nodes, what runs there, and what is asked about: new objects, and other versions of those that run."""
    nodes = [
        node(
            f"pi-{n}",
            draw(st.integers(1, 10)) * 50 * MIB,
            labels={"kubernetes.io/hostname": f"pi-{n}", "zone": draw(st.sampled_from(["north", "south"]))},
        )
        for n in range(draw(st.integers(1, 4)))
    ]
    kinds = ["Deployment", "DaemonSet", "ReplicaSet"]
    there = [draw(a_manifest(f"old-{n}", kinds)) for n in range(draw(st.integers(0, 3)))]
    asked: list[Document] = []
    for n in range(draw(st.integers(1, 3))):
        if there and draw(st.booleans()):
            old = draw(st.sampled_from(there))
            asked.append(draw(a_manifest(old["metadata"]["name"], [old["kind"]], update=True)))
        else:
            asked.append(draw(a_manifest(f"new-{n}", ["Pod", "Job", "ReplicationController", *kinds])))
    return nodes, there, asked


@settings(max_examples=30, deadline=None)
@given(a_scene())
def test_what_fit_says_is_what_the_manager_then_does(scene: tuple[list[Any], list[Document], list[Document]]) -> None:
    nodes, there, asked = scene
    with a_place(*nodes) as place:
        place.priority("high", 1000)
        place.priority("low", -5)
        for document in there:
            place.apply(document)
        before = {p.metadata.uid: p for p in place.pods()}
        status = place.fit(asked)
        refused = [d["metadata"]["name"] for d in asked if not place.apply(d)]
        assert [w["name"] for w in status["workloads"] if "allocatable" in w.get("why", "")] == refused
        after = {p.metadata.uid: p for p in place.pods()}
        for told in status["workloads"]:
            title = f"{told['kind']}/{told['name']}"
            if "allocatable" in told.get("why", ""):
                continue
            mine = [p for p in after.values() if place.root(p) == title]
            fresh = [p for p in mine if p.metadata.uid not in before and p.status.phase == "Running"]
            new = Counter(p.spec.node_name for p in fresh)
            waiting = [p for p in mine if not p.spec.node_name]
            assert told.get("nodes", {}) == new, title
            assert told.get("waiting", 0) == len(waiting), title
            if waiting:
                assert told["why"] in {_why(p) for p in waiting}, title
        gone = Counter(p.spec.node_name for uid, p in before.items() if uid not in after and p.spec.node_name)
        ended = sum((Counter(w.get("ended", {})) for w in status["workloads"]), Counter())
        assert ended == gone
        lasting = {p.metadata.name for uid, p in before.items() if uid not in after}
        assert {v["name"] for v in status.get("preempted", ())} <= lasting


def _why(pod: Pod) -> str:
    return next((c.message for c in pod.status.conditions if c.type == "PodScheduled"), "")
