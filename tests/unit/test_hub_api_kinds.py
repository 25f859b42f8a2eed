"""What the API makes of the new kinds: generated parts, what may not change, what depends on other objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.api.server import create_app
from cloudlink.hub.store import Store
from cloudlink.kube.registry import RESOURCES
from tests.fakes.hub_client import TOKEN, Client
from tests.unit.kube_documents import ACCEPTED

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
MERGE = "application/merge-patch+json"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    store = Store.open(f"sqlite:///{tmp_path}/hub.db")
    yield Client(create_app(store, {TOKEN: "tester"}.get))
    store.close()


def job(**spec: Any) -> dict[str, Any]:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    head = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}}
    return head | {"spec": {"template": template, **spec}}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "i"}]
    return {"kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


def priority_class(name: str, value: int, **rest: Any) -> dict[str, Any]:
    return {"kind": "PriorityClass", "metadata": {"name": name}, "value": value, **rest}


def test_a_new_job_selects_the_pods_that_carry_its_uid(client: Client) -> None:
    code, made = client.request("POST", JOBS, job())
    uid = made["metadata"]["uid"]
    assert code == 201
    assert made["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert made["spec"]["template"]["metadata"]["labels"] == {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": "j",
        "controller-uid": uid,
        "job-name": "j",
    }


def test_a_job_that_brings_a_selector_along_is_refused_unless_it_says_so(client: Client) -> None:
    selector = {"matchLabels": {"a": "b"}}
    code, told = client.request("POST", JOBS, job(selector=selector))
    assert (code, "not auto-generated" in told["message"]) == (422, True)
    own = job(selector=selector, manualSelector=True)
    own["spec"]["template"]["metadata"] = {"labels": {"a": "b"}}
    assert client.request("POST", JOBS, own)[1]["spec"]["selector"] == selector


def test_what_a_job_runs_may_not_change_but_how_much_of_it_may(client: Client) -> None:
    client.request("POST", JOBS, job(parallelism=1))
    assert client.request("PATCH", f"{JOBS}/j", {"spec": {"parallelism": 3, "suspend": True}}, MERGE)[0] == 200
    code, told = client.request("PATCH", f"{JOBS}/j", {"spec": {"completions": 9}}, MERGE)
    assert (code, told["details"]["causes"][0]["field"]) == (422, "spec.completions")


def test_of_a_stateful_set_only_some_fields_may_change(client: Client) -> None:
    sets = "/apis/apps/v1/namespaces/default/statefulsets"
    template = {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"serviceName": "peers", "selector": {"matchLabels": {"app": "db"}}, "template": template}
    made = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec}
    assert client.request("POST", sets, made)[0] == 201
    fine = {"replicas": 5, "ordinals": {"start": 2}, "minReadySeconds": 3}
    fine |= {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}, "revisionHistoryLimit": 1}
    fine["updateStrategy"] = {"type": "OnDelete", "rollingUpdate": None}
    assert client.request("PATCH", f"{sets}/db", {"spec": fine}, MERGE)[0] == 200
    for wrong in ({"serviceName": "others"}, {"podManagementPolicy": "Parallel"}):
        code, told = client.request("PATCH", f"{sets}/db", {"spec": wrong}, MERGE)
        assert code == 422
        assert told["message"] == (
            'StatefulSet.apps "db" is invalid: spec: Forbidden: updates to statefulset spec for fields other than'
            " 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit',"
            " 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
        )


def test_a_pod_has_one_controller_whoever_adds_the_second_one(client: Client) -> None:
    owners = [
        {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": True}
        for kind, name in (("ReplicaSet", "a"), ("StatefulSet", "b"))
    ]
    made = pod("p")
    made["metadata"]["ownerReferences"] = owners[:1]
    assert client.request("POST", PODS, made)[0] == 201
    code, told = client.request("PATCH", f"{PODS}/p", {"metadata": {"ownerReferences": owners}}, MERGE)
    [cause] = told["details"]["causes"]
    assert (code, cause["field"]) == (422, "metadata.ownerReferences")
    assert 'Found "true" in references for ReplicaSet/a and StatefulSet/b' in cause["message"]


def test_a_pod_gets_the_priority_of_its_class_or_of_the_class_that_is_everybodys(client: Client) -> None:
    assert client.request("POST", PODS, pod("plain"))[1]["spec"]["priority"] == 0
    client.request("POST", CLASSES, priority_class("usual", 7, globalDefault=True))
    client.request("POST", CLASSES, priority_class("high", 100))
    spec = client.request("POST", PODS, pod("usual"))[1]["spec"]
    assert (spec["priority"], spec["priorityClassName"]) == (7, "usual")
    assert client.request("POST", PODS, pod("high", priorityClassName="high"))[1]["spec"]["priority"] == 100
    system = client.request("POST", PODS, pod("system", priorityClassName="system-node-critical"))
    assert system[1]["spec"]["priority"] == 2_000_001_000


def test_a_pod_of_a_class_that_is_not_there_or_with_a_number_of_its_own_is_forbidden(client: Client) -> None:
    code, told = client.request("POST", PODS, pod("p", priorityClassName="none"))
    assert (code, told["message"]) == (403, 'pods "p" is forbidden: no PriorityClass with name none was found')
    code, told = client.request("POST", PODS, pod("p", priority=5))
    assert (code, "priority admission controller computed 0" in told["message"]) == (403, True)


def test_only_one_class_is_everybodys_and_no_value_changes(client: Client) -> None:
    client.request("POST", CLASSES, priority_class("a", 1, globalDefault=True))
    code, told = client.request("POST", CLASSES, priority_class("b", 2, globalDefault=True))
    assert (code, "PriorityClass a is already marked as default" in told["message"]) == (403, True)
    code, told = client.request("PATCH", f"{CLASSES}/a", {"value": 5}, MERGE)
    assert (code, told["details"]["causes"][0]["field"]) == (422, "value")


def test_every_cluster_has_the_two_system_classes(client: Client) -> None:
    names = [c["metadata"]["name"] for c in client.request("GET", CLASSES)[1]["items"]]
    assert names == ["system-cluster-critical", "system-node-critical"]


def test_each_kind_can_be_made_read_as_a_table_and_written_back(client: Client) -> None:
    documents = {d["kind"]: d for d in ACCEPTED}
    for resource in (r for r in RESOURCES if r.stored):
        base = f"/apis/{resource.api_version}" if resource.group else "/api/v1"
        place = f"{base}/namespaces/default/{resource.plural}" if resource.namespaced else f"{base}/{resource.plural}"
        document = documents[resource.kind]
        meta = {k: v for k, v in document["metadata"].items() if k in ("name", "labels", "annotations")}
        if resource.kind == "Namespace":
            meta["name"] = "another"
        code, made = client.request("POST", place, document | {"metadata": meta})
        assert code == 201, (resource.kind, made)
        one = f"{place}/{made['metadata']['name']}"
        code, back = client.request("PUT", one, made)
        assert code == 200, (resource.kind, back)
        assert back["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"], resource.kind
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
        assert client.request("GET", place, accept=accept)[1]["kind"] == "Table", resource.kind


@pytest.mark.parametrize(
    ("path", "selector"),
    [
        (PODS, "spec.hostNetwork=false,status.podIPs!=1.2.3.4,spec.nodeName="),
        (JOBS, "status.successful=0"),
        ("/apis/apps/v1/replicasets", "status.replicas=0"),
        ("/api/v1/services", "spec.type=ClusterIP,spec.clusterIP=None"),
        ("/apis/networking.k8s.io/v1/ingresses", "metadata.name=web,metadata.namespace=default"),
    ],
)
def test_kinds_are_selected_by_the_fields_that_kubernetes_offers(client: Client, path: str, selector: str) -> None:
    assert client.request("GET", f"{path}?fieldSelector={selector}")[0] == 200
