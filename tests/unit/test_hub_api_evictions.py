"""Evictions with and without budgets, bindings, and what finalizes a namespace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.api.server import create_app
from cloudlink.hub.manager import Manager
from cloudlink.hub.store import Create, Delete, Store, Update, UpdateStatus
from cloudlink.kube.core import Pod
from cloudlink.kube.policy import PodDisruptionBudget
from tests.fakes import hub_brain
from tests.fakes.hub_client import TOKEN, Client
from tests.fakes.hub_objects import config, node, pod

PODS = "/api/v1/namespaces/default/pods"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/hub.db")
    opened.commit([Create(node("n1"))])
    yield opened
    opened.close()


@pytest.fixture
def client(store: Store) -> Client:
    return Client(create_app(store, {TOKEN: "tester"}.get))


def running(store: Store, name: str, ready: bool = True) -> None:
    [made] = store.commit([Create(pod(name, labels={"app": "web"}))])
    assert isinstance(made, Pod)
    store.commit([Update(made.model_copy(update={"spec": made.spec.model_copy(update={"node_name": "n1"})}))])
    there = store.get("Pod", "default", name)
    assert isinstance(there, Pod)
    store.commit([UpdateStatus(hub_brain.reported(there, 0.0, ready))])


def evict(client: Client, name: str, query: str = "", **options: Any) -> tuple[int, Any]:
    eviction = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": name}}
    return client.request("POST", f"{PODS}/{name}/eviction{query}", eviction | options)


def a_budget(client: Client, **spec: Any) -> None:
    selector = {"matchLabels": {"app": "web"}}
    document = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}}
    assert client.request("POST", BUDGETS, document | {"spec": {"selector": selector, **spec}})[0] == 201


def budget(store: Store) -> PodDisruptionBudget:
    found = store.get("PodDisruptionBudget", "default", "web")
    assert isinstance(found, PodDisruptionBudget)
    return found


def test_an_eviction_is_a_deletion_with_the_pods_grace_and_a_reason(client: Client, store: Store) -> None:
    running(store, "a")
    code, status = evict(client, "a")
    assert (code, status["status"]) == (201, "Success")
    _, shown = client.request("GET", f"{PODS}/a")
    assert shown["metadata"]["deletionGracePeriodSeconds"] == 30
    reasons = {c["type"]: c.get("reason") for c in shown["status"]["conditions"]}
    assert reasons["DisruptionTarget"] == "EvictionByEvictionAPI"


def test_an_eviction_may_be_tried_dry_and_takes_delete_options(client: Client, store: Store) -> None:
    running(store, "a")
    assert evict(client, "a", "?dryRun=All")[0] == 201
    assert evict(client, "a", deleteOptions={"dryRun": ["All"]})[0] == 201
    assert evict(client, "a", deleteOptions={"preconditions": {"uid": "other"}})[0] == 409
    there = store.get("Pod", "default", "a")
    assert there is not None
    assert not there.metadata.deletion_timestamp
    assert evict(client, "a", deleteOptions={"gracePeriodSeconds": 0})[0] == 201
    assert store.get("Pod", "default", "a") is None
    assert evict(client, "a")[0] == 404


def test_an_eviction_of_another_name_or_kind_is_refused(client: Client, store: Store) -> None:
    running(store, "a")
    assert client.request("POST", f"{PODS}/a/eviction", {"metadata": {"name": "b"}})[0] == 400
    assert client.request("POST", f"{PODS}/a/eviction", {"kind": "Pod"})[0] == 400
    assert client.request("GET", f"{PODS}/a/eviction")[0] == 405


def test_a_budget_lets_go_of_as_many_pods_as_it_can_spare(client: Client, store: Store) -> None:
    for name in ("a", "b", "c"):
        running(store, name)
    a_budget(client, minAvailable=2)
    code, status = evict(client, "a")
    assert (code, status["details"]["retryAfterSeconds"]) == (429, 10)  # nobody has counted yet
    manager = Manager(store)
    manager.settle()
    assert (budget(store).status.disruptions_allowed, budget(store).status.expected_pods) == (1, 3)
    assert evict(client, "a")[0] == 201
    assert budget(store).status.disruptions_allowed == 0
    code, status = evict(client, "b")
    assert (code, status["reason"]) == (429, "TooManyRequests")
    assert status["message"].startswith(
        "Cannot evict pod as it would violate the pod's disruption budget. The disruption"
    )
    [cause] = status["details"]["causes"]
    assert (cause["reason"], cause["message"]) == (
        "DisruptionBudget",
        "The disruption budget web needs 2 healthy pods and has 3 currently",
    )
    manager.settle()
    store.commit([Delete("Pod", "default", "a")])
    manager.settle()
    assert budget(store).status.current_healthy == 2
    assert evict(client, "b")[0] == 429


def test_a_budget_has_nothing_against_pods_that_serve_nobody(client: Client, store: Store) -> None:
    running(store, "sick", ready=False)
    running(store, "well")
    store.commit([Create(pod("waiting", labels={"app": "web"}))])
    a_budget(client, minAvailable=1)
    Manager(store).settle()
    assert evict(client, "sick")[0] == 201  # as many are well as must be
    assert evict(client, "waiting")[0] == 201
    assert evict(client, "well")[0] == 429


def test_two_budgets_for_one_pod_are_a_mistake_that_is_told(client: Client, store: Store) -> None:
    running(store, "a")
    a_budget(client, minAvailable=1)
    second = {"metadata": {"name": "all"}, "spec": {"maxUnavailable": 1, "selector": {}}}
    assert client.request("POST", BUDGETS, second)[0] == 201
    code, status = evict(client, "a")
    assert (code, "more than one PodDisruptionBudget" in status["message"]) == (500, True)


def bind(client: Client, name: str, where: str, **more: Any) -> tuple[int, Any]:
    document = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": where, **more}}
    return client.request("POST", f"{PODS}/{name}/binding", document)


def test_a_binding_gives_a_pod_its_node_once(client: Client, store: Store) -> None:
    store.commit([Create(pod("a"))])
    assert bind(client, "a", "")[0] == 422
    assert bind(client, "a", "n1", kind="Planet")[0] == 422
    code, status = bind(client, "a", "n1", kind="Node")
    assert (code, status["status"]) == (201, "Success")
    _, shown = client.request("GET", f"{PODS}/a")
    assert shown["spec"]["nodeName"] == "n1"
    assert {c["type"]: c["status"] for c in shown["status"]["conditions"]}["PodScheduled"] == "True"
    code, status = bind(client, "a", "n2")
    assert (code, status["reason"]) == (409, "Conflict")
    assert 'already assigned to node "n1"' in status["message"]


def test_a_namespace_waits_for_its_finalizers_of_both_sorts(client: Client, store: Store) -> None:
    path = "/api/v1/namespaces/room"
    metadata = {"name": "room", "finalizers": ["example.org/a"]}
    document = {"metadata": metadata, "spec": {"finalizers": ["example.org/b"]}}
    _, made = client.request("POST", "/api/v1/namespaces", document)
    assert made["spec"]["finalizers"] == ["example.org/b", "kubernetes"]
    store.commit([Create(config("m", {}, namespace="room"))])
    _, dying = client.request("DELETE", path)
    assert dying["status"]["phase"] == "Terminating"
    assert store.list("ConfigMap", "room") == []
    client.request("PATCH", path, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
    assert client.request("GET", path)[0] == 200
    code, finalized = client.request("PUT", f"{path}/finalize", {"metadata": {"name": "room"}, "spec": {}})
    assert (code, finalized["metadata"]["name"]) == (200, "room")
    assert client.request("GET", path)[0] == 404


def test_an_autoscaler_is_refused_with_a_reason(client: Client) -> None:
    code, status = client.request("POST", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", {})
    assert (code, status["reason"]) == (501, "NotImplemented")
    assert "kubectl scale" in status["message"]
