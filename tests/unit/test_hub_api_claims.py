"""PersistentVolumeClaims over the API: what may change, what a deletion waits for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.api.server import create_app
from cloudlink.hub.manager import Manager
from cloudlink.hub.store import Create, Delete, Store, UpdateStatus
from cloudlink.kube.claims import PROTECTION, SELECTED_NODE
from tests.fakes.hub_brain import node
from tests.fakes.hub_client import TOKEN, Client
from tests.unit.test_schedule_claims import user

CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
MERGE = "application/merge-patch+json"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/hub.db")
    opened.commit([Create(node("pi-1"))])
    opened.commit([UpdateStatus(node("pi-1"))])
    yield opened
    opened.close()


@pytest.fixture
def client(store: Store) -> Client:
    return Client(create_app(store, {TOKEN: "tester"}.get))


def a_claim(**spec: Any) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec}


def bind(store: Store) -> None:
    store.commit([Create(user("a"))])
    Manager(store).settle()


def test_a_claim_is_made_protected_and_unbound_whatever_an_export_says(client: Client) -> None:
    export = a_claim(volumeName="pvc-of-another-cluster")
    export["metadata"]["annotations"] = {SELECTED_NODE: "far-away", "note": "kept"}
    code, made = client.request("POST", CLAIMS, export)
    assert code == 201
    assert made["metadata"]["finalizers"] == [PROTECTION]
    assert made["metadata"]["annotations"] == {"note": "kept"}
    assert (made["spec"]["storageClassName"], made["spec"].get("volumeName")) == ("edged-local", None)


def test_a_claim_grows_and_never_shrinks_or_moves(client: Client, store: Store) -> None:
    client.request("POST", CLAIMS, a_claim())
    bind(store)
    code, bound = client.request("GET", f"{CLAIMS}/data")
    assert (code, bound["status"]["phase"], bound["metadata"]["annotations"][SELECTED_NODE]) == (200, "Bound", "pi-1")

    def merged(change: dict[str, Any]) -> tuple[int, Any]:
        return client.request("PATCH", f"{CLAIMS}/data", change, MERGE)

    code, grown = merged({"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    assert (code, grown["spec"]["resources"]["requests"]["storage"]) == (200, "2Gi")
    code, status = merged(
        {"spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOncePod"]}}
    )
    assert code == 422
    assert [c["field"] for c in status["details"]["causes"]] == ["spec", "spec.resources.requests.storage"]
    code, status = merged({"metadata": {"annotations": {SELECTED_NODE: "pi-2"}}})
    assert (code, "the data is on pi-1" in status["message"]) == (422, True)


def test_writing_a_claim_back_as_it_was_made_does_not_lose_its_place(client: Client, store: Store) -> None:
    client.request("POST", CLAIMS, a_claim())
    bind(store)
    code, written = client.request("PUT", f"{CLAIMS}/data", a_claim())
    assert code == 200
    assert written["metadata"]["annotations"][SELECTED_NODE] == "pi-1"
    assert written["spec"]["volumeName"].startswith("pvc-")


def test_a_claim_in_use_goes_when_its_last_pod_has_gone(client: Client, store: Store) -> None:
    client.request("POST", CLAIMS, a_claim())
    bind(store)
    code, left = client.request("DELETE", f"{CLAIMS}/data")
    assert (code, bool(left["metadata"]["deletionTimestamp"])) == (200, True)
    Manager(store).settle()
    assert client.request("GET", f"{CLAIMS}/data")[0] == 200
    store.commit([Delete("Pod", "default", "a")])
    Manager(store).settle()
    assert client.request("GET", f"{CLAIMS}/data")[0] == 404


def test_an_unused_claim_goes_at_once(client: Client, store: Store) -> None:
    client.request("POST", CLAIMS, a_claim())
    client.request("DELETE", f"{CLAIMS}/data")
    Manager(store).settle()
    assert client.request("GET", f"{CLAIMS}/data")[0] == 404


def test_a_dying_namespace_takes_its_claims_along_when_their_pods_have_gone(client: Client, store: Store) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "room"}}
    assert client.request("POST", "/api/v1/namespaces", space)[0] == 201
    claims = "/api/v1/namespaces/room/persistentvolumeclaims"
    assert client.request("POST", claims, a_claim())[0] == 201
    Manager(store).settle()
    client.request("DELETE", "/api/v1/namespaces/room")
    Manager(store).settle()
    assert client.request("GET", "/api/v1/namespaces/room")[0] == 404
