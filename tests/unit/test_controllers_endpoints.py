"""Where a Service leads: Endpoints and EndpointSlices follow its pods."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.changes import Create, Delete, Update, UpdateStatus
from cloudlink.hub.controllers.endpoints import concerned, reconcile
from cloudlink.hub.manager import Manager
from cloudlink.hub.store import Store
from cloudlink.kube.core import Pod, Service
from cloudlink.kube.endpoints import Endpoints, EndpointSlice
from cloudlink.kube.parse import parse

LABELS = {"app": "web"}


def service(**spec: Any) -> Service:
    head = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "labels": {"t": "a"}},
    }
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    made = parse(head | {"spec": {"selector": LABELS, "ports": ports, "clusterIP": "10.96.0.7", **spec}})
    assert isinstance(made, Service)
    return made


def pod(name: str, ip: str, ready: bool = True, port: int = 8080, **meta: Any) -> Pod:
    ports = [{"name": "http", "containerPort": port}]
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": LABELS, "uid": f"u-{name}", **meta},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": ports}]},
        "status": {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }
    made = parse(document)
    assert isinstance(made, Pod)
    return made


def decided(of: Service, pods: list[Pod], there: Endpoints | None = None, slices: list[EndpointSlice] = []) -> Any:  # noqa: B006
    numbers = count()
    return reconcile(of, pods, there, slices, lambda: f"s{next(numbers)}").changes


def made(of: Service, pods: list[Pod]) -> tuple[Endpoints, list[EndpointSlice]]:
    objects = [c.object for c in decided(of, pods)]
    [there] = [o for o in objects if isinstance(o, Endpoints)]
    return there, [o for o in objects if isinstance(o, EndpointSlice)]


def test_ready_pods_are_addresses_and_the_others_are_told_apart() -> None:
    there, [slice_] = made(service(), [pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False)])
    [subset] = there.subsets
    assert [a.ip for a in subset.addresses] == ["10.0.0.1"]
    assert [a.ip for a in subset.not_ready_addresses] == ["10.0.0.2"]
    assert [(p.name, p.port) for p in subset.ports] == [("http", 8080)]
    assert [(e.addresses[0], e.conditions.ready) for e in slice_.endpoints] == [("10.0.0.1", True), ("10.0.0.2", False)]


def test_names_labels_and_owner_are_kubernetes_own() -> None:
    there, [slice_] = made(service(), [])
    assert (there.metadata.name, there.metadata.labels) == ("web", {"t": "a"})
    assert (slice_.metadata.generate_name, slice_.metadata.name) == ("web-", "web-s0")
    assert slice_.metadata.labels == {
        "t": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert [(r.kind, r.name, r.controller) for r in slice_.metadata.owner_references] == [("Service", "web", True)]
    assert slice_.endpoints == ()


def test_a_headless_service_says_so_on_what_is_made_for_it() -> None:
    there, _ = made(service(clusterIP="None"), [])
    assert there.metadata.labels["service.kubernetes.io/headless"] == ""


def test_looking_twice_changes_nothing() -> None:
    pods = [pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False)]
    there, slices = made(service(), pods)
    assert decided(service(), pods, there, slices) == ()


def test_pods_whose_named_port_differs_are_in_sets_of_their_own() -> None:
    there, slices = made(service(), [pod("a", "10.0.0.1"), pod("b", "10.0.0.2", port=9090)])
    assert [[p.port for p in s.ports] for s in there.subsets] == [[8080], [9090]]
    assert [[p.port for p in s.ports] for s in slices] == [[8080], [9090]]


def test_a_pod_on_its_way_out_is_terminating_in_the_slice_and_gone_from_the_endpoints() -> None:
    there, [slice_] = made(service(), [pod("a", "10.0.0.1", deletionTimestamp="2026-01-01T00:00:00Z")])
    assert there.subsets == ()
    conditions = slice_.endpoints[0].conditions
    assert (conditions.ready, conditions.serving, conditions.terminating) == (False, True, True)


def test_a_slice_holds_a_hundred_at_most_and_one_too_many_goes() -> None:
    pods = [pod(f"p{i:03}", f"10.0.{i // 200}.{i % 200 + 1}") for i in range(250)]
    there, slices = made(service(), pods)
    assert [len(s.endpoints) for s in slices] == [100, 100, 50]
    changes = decided(service(), pods[:100], there, slices)
    assert [c.name for c in changes if isinstance(c, Delete)] == ["web-s1", "web-s2"]


def test_a_service_without_a_selector_keeps_what_people_wrote() -> None:
    assert decided(service(selector={}), [pod("a", "10.0.0.1")]) == ()


def test_only_what_changes_where_a_service_leads_makes_it_look_again() -> None:
    one, services = pod("a", "10.0.0.1"), [service(), service(selector={"app": "other"})]
    assert [s.spec.selector for s in concerned(None, one, services)] == [LABELS]
    busier = one.model_copy(update={"status": one.status.model_copy(update={"message": "busy"})})
    assert list(concerned(one, busier, services)) == []
    assert len(list(concerned(one, pod("a", "10.0.0.1", ready=False), services))) == 1
    assert len(list(concerned(one, one, services))) == 1  # gone


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/hub.db")
    yield opened
    opened.close()


def test_a_stored_service_is_followed_from_its_first_pod_to_its_end(store: Store) -> None:
    manager = Manager(store)
    store.commit([Create(service())])
    one = pod("a", "10.0.0.1", ready=False)
    store.commit([Create(one)])
    store.commit([UpdateStatus(one.model_copy(update={"metadata": one.metadata.model_copy(update={"uid": ""})}))])
    manager.settle()
    there = store.get("Endpoints", "default", "web")
    assert isinstance(there, Endpoints)
    assert [a.ip for a in there.subsets[0].not_ready_addresses] == ["10.0.0.1"]
    [slice_] = store.list("EndpointSlice", "default")
    store.commit([Update(slice_.model_copy(update={"endpoints": ()})), Delete("Endpoints", "default", "web")])
    manager.settle()
    [mended] = store.list("EndpointSlice", "default")
    assert isinstance(mended, EndpointSlice)
    assert mended.endpoints
    assert store.get("Endpoints", "default", "web") is not None
    store.commit([Delete("Service", "default", "web")])
    manager.settle()
    assert store.list("Endpoints", "default") == store.list("EndpointSlice", "default") == []
