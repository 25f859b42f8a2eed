"""The API's answers, in memory: codes, Status objects, paging, dry runs, hostile bodies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlink.hub.api.server import create_app
from cloudlink.hub.manager import Manager
from cloudlink.hub.store import Create, Delete, Store, Update, UpdateStatus
from cloudlink.kube.core import Pod
from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.meta import KubeObject
from tests.fakes.hub_client import TOKEN, Client
from tests.fakes.hub_objects import config, deployment, node, pod, template

PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SERVICES = "/api/v1/namespaces/default/services"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/hub.db")
    yield opened
    opened.close()


@pytest.fixture
def client(store: Store) -> Client:
    return Client(create_app(store, {TOKEN: "tester"}.get))


def a_pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template({})["spec"] | spec}


def a_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def a_deployment(name: str = "web") -> dict[str, Any]:
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template({"a": "b"})}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def a_service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], **spec},
    }


# ---------------------------------------------------------------- who may ask, and for what


@pytest.mark.parametrize("path", [PODS, "/apis", "/openapi/v3", "/api/v1/nothing"])
@pytest.mark.parametrize("token", ["", "a-bad-token"])
def test_without_a_good_token_there_is_nothing_but_a_status(client: Client, path: str, token: str) -> None:
    response = client.raw("GET", path, token=token)
    assert response.status_code == 401
    assert response.json()["kind"] == "Status"
    assert response.json()["reason"] == "Unauthorized"


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health_needs_no_token(client: Client, path: str) -> None:
    assert client.raw("GET", path, token="").status_code == 200


@pytest.mark.parametrize("path", ["/version", "/api", "/apis/apps/v1", "/openapi/v3", "/", "/healthzx", "//healthz"])
def test_everything_else_needs_a_token(client: Client, path: str) -> None:
    assert client.raw("GET", path, token="").status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "code", "reason"),
    [
        ("GET", "/api/v1/nothing", 404, "NotFound"),
        ("GET", "/apis/batch/v2/namespaces/default/jobs", 404, "NotFound"),
        ("GET", f"{PODS}/none", 404, "NotFound"),
        ("GET", "/api/v1/pods/none", 404, "NotFound"),
        ("GET", f"{PODS}/p/nothing", 404, "NotFound"),
        ("GET", f"{PODS}/p/log", 404, "NotFound"),
        ("PUT", f"{PODS}/p/exec", 405, "MethodNotAllowed"),
        ("PUT", PODS, 405, "MethodNotAllowed"),
        ("POST", "/api/v1/pods", 405, "MethodNotAllowed"),
        ("DELETE", "/api/v1/pods", 405, "MethodNotAllowed"),
        ("DELETE", "/api/v1/namespaces", 405, "MethodNotAllowed"),
        ("GET", f"{PODS}?labelSelector=a+in+(", 400, "BadRequest"),
        ("GET", f"{PODS}?fieldSelector=spec.colour%3Dred", 400, "BadRequest"),
        ("GET", f"{PODS}?limit=many", 400, "BadRequest"),
        ("GET", f"{PODS}?limit=1&continue=garbage", 400, "BadRequest"),
        ("GET", f"{PODS}?resourceVersion=999999", 504, "Timeout"),
        ("GET", f"{PODS}?watch=true&resourceVersionMatch=Exact", 422, "Invalid"),
        ("GET", f"{PODS}?resourceVersionMatch=Exact&resourceVersion=0", 422, "Invalid"),
        ("GET", f"{PODS}?resourceVersionMatch=NotOlderThan", 422, "Invalid"),
        ("GET", f"{PODS}?sendInitialEvents=true", 422, "Invalid"),
        ("DELETE", f"{MAPS}/none", 404, "NotFound"),
        ("DELETE", "/api/v1/namespaces/default", 403, "Forbidden"),
    ],
)
def test_what_is_not_there_or_not_possible_is_a_status(
    client: Client, method: str, path: str, code: int, reason: str
) -> None:
    got, status = client.request(method, path)
    assert (got, status["kind"], status["reason"], status["code"]) == (code, "Status", reason, code)
    assert status["message"]


def test_a_method_without_a_meaning_here_is_refused_and_protobuf_answers_are_not_acceptable(client: Client) -> None:
    assert client.request("GET", PODS, accept="application/vnd.kubernetes.protobuf")[0] == 406
    code, listed = client.request("GET", PODS, accept="application/vnd.kubernetes.protobuf, application/json")
    assert (code, listed["kind"]) == (200, "PodList")


# ---------------------------------------------------------------- making


def test_a_bad_object_is_refused_with_every_cause_and_its_path(client: Client) -> None:
    document = a_deployment()
    document["spec"]["replica"] = 2
    document["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    code, status = client.request("POST", DEPLOYMENTS, document)
    assert (code, status["reason"]) == (422, "Invalid")
    fields = {c["field"] for c in status["details"]["causes"]}
    assert {"spec.replica", "spec.template.spec.containers[0].imagee"} <= fields
    assert status["details"] | {"causes": []} == {"name": "web", "group": "apps", "kind": "Deployment", "causes": []}
    assert "spec.replica" in status["message"]


@pytest.mark.parametrize(
    ("content", "content_type", "why"),
    [
        (b"", "application/json", "has no body"),
        (b"{", "application/json", "not JSON"),
        (b"[]", "application/json", "must be a JSON object"),
        (b'{"kind":"Pod","kind":"Pod"}', "application/json", 'duplicate field "kind"'),
        (b'{"a":NaN}', "application/json", "NaN"),
        (b"\xff\xfe", "application/json", "not UTF-8"),
        (b"[" * 100_000, "application/json", "nested too deeply"),
        (b"a: b: c", "application/yaml", "line 1"),
        (b"a: 1\n---\nb: 2\n", "application/yaml", "one YAML document"),
        (b"k8s\x00\xff\xff", "application/vnd.kubernetes.protobuf", "ends too early"),
        (b"nothing", "application/vnd.kubernetes.protobuf", "begin with"),
    ],
)
def test_a_body_that_cannot_be_read_says_where(client: Client, content: bytes, content_type: str, why: str) -> None:
    response = client.raw("POST", PODS, content, headers={"content-type": content_type})
    assert response.status_code in (400, 422)
    assert why in response.json()["message"]


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(client: Client) -> None:
    response = client.raw("POST", PODS, b" " * (4 << 20))
    assert (response.status_code, response.json()["reason"]) == (413, "RequestEntityTooLarge")


def test_yaml_is_as_good_as_json(client: Client) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: '1'}\n"
    response = client.raw("POST", MAPS, body, headers={"content-type": "application/yaml"})
    assert (response.status_code, response.json()["data"]) == (201, {"a": "1"})


def test_what_exists_is_a_conflict_and_what_has_no_namespace_is_not_found(client: Client) -> None:
    assert client.request("POST", MAPS, a_map("m"))[0] == 201
    code, status = client.request("POST", MAPS, a_map("m"))
    assert (code, status["reason"]) == (409, "AlreadyExists")
    code, status = client.request("POST", "/api/v1/namespaces/nowhere/configmaps", a_map("m"))
    assert (code, status["message"]) == (404, 'namespaces "nowhere" not found')
    event = {"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}, "involvedObject": {}}
    assert client.request("POST", "/api/v1/namespaces/nowhere/events", event)[0] == 404


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"metadata": {"name": "p", "namespace": "other"}}, "does not match the namespace"),
        ({"kind": "Service"}, "this path takes a Pod of v1"),
        ({"apiVersion": "apps/v1"}, "this path takes a Pod of v1"),
        ({"metadata": {"name": "p", "resourceVersion": "1"}}, "resourceVersion should not be set"),
    ],
)
def test_a_body_for_another_place_is_refused(client: Client, change: dict[str, Any], why: str) -> None:
    code, status = client.request("POST", PODS, a_pod() | change)
    assert code == 400
    assert why in status["message"]


def test_generate_name_makes_a_name_of_it(client: Client) -> None:
    document = a_pod() | {"metadata": {"generateName": "run-"}}
    names = {client.request("POST", PODS, document)[1]["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(len(n) == 9 and n.startswith("run-") for n in names)


def test_a_status_in_a_new_object_is_ignored(client: Client) -> None:
    code, made = client.request("POST", PODS, a_pod() | {"status": {"phase": "Running"}})
    assert (code, made["status"]["phase"]) == (201, "Pending")


def test_a_dry_run_answers_as_if_and_does_nothing(client: Client, store: Store) -> None:
    before = store.revision
    code, made = client.request("POST", f"{PODS}?dryRun=All", a_pod())
    assert (code, bool(made["metadata"]["uid"])) == (201, True)
    assert client.request("POST", f"{PODS}?dryRun=Some", a_pod())[0] == 400
    store.commit([Create(config("m", {"a": "1"}))])
    assert client.request("PATCH", f"{MAPS}/m?dryRun=All", {"data": {"a": "2"}}, MERGE)[1]["data"] == {"a": "2"}
    assert client.request("DELETE", f"{MAPS}/m?dryRun=All")[0] == 200
    assert store.revision == before + 1


def test_admission_may_refuse_with_causes_and_sees_old_and_new(store: Store) -> None:
    seen: list[tuple[str, bool]] = []

    def admit(new: KubeObject, old: KubeObject | None) -> None:
        seen.append((new.metadata.name, old is not None))
        if new.metadata.name == "big":
            path = "spec.containers[0].resources.requests[memory]"
            raise Invalid(
                [Cause(path, "FieldValueInvalid", "needs 4 GiB, the largest node has 0.9 free")], new.kind, "big"
            )

    client = Client(create_app(store, {TOKEN: "t"}.get, admit=admit))
    code, status = client.request("POST", PODS, a_pod("big"))
    assert code == 422
    assert "needs 4 GiB" in status["message"]
    client.request("POST", MAPS, a_map("m"))
    client.request("PATCH", f"{MAPS}/m", {"data": {"a": "1"}}, MERGE)
    assert seen == [("big", False), ("m", False), ("m", True)]


def test_on_change_is_called_after_what_was_stored_only(store: Store) -> None:
    calls: list[int] = []
    client = Client(create_app(store, {TOKEN: "t"}.get, on_change=lambda: calls.append(store.revision)))
    client.request("POST", MAPS, a_map("m"))
    client.request("POST", MAPS, a_map("m"))
    client.request("POST", f"{MAPS}?dryRun=All", a_map("n"))
    assert calls == [store.revision]


# ---------------------------------------------------------------- changing


def test_a_put_with_a_stale_revision_is_a_conflict(client: Client) -> None:
    _, made = client.request("POST", MAPS, a_map("m", a="1"))
    assert client.request("PUT", f"{MAPS}/m", made | {"data": {"a": "2"}})[0] == 200
    code, status = client.request("PUT", f"{MAPS}/m", made | {"data": {"a": "3"}})
    assert (code, status["reason"]) == (409, "Conflict")
    assert "has been modified" in status["message"]
    code, _ = client.request("PATCH", f"{MAPS}/m", {"metadata": {"resourceVersion": "1"}, "data": {}}, MERGE)
    assert code == 409
    assert client.request("PUT", f"{MAPS}/m", a_map("m", a="4"))[1]["data"] == {"a": "4"}


def test_a_put_under_another_name_or_of_what_is_not_there_is_refused(client: Client) -> None:
    client.request("POST", MAPS, a_map("m"))
    assert client.request("PUT", f"{MAPS}/m", a_map("other"))[0] == 400
    assert client.request("PUT", f"{MAPS}/none", a_map("none"))[0] == 404


def test_a_patch_that_leads_to_a_bad_object_changes_nothing(client: Client, store: Store) -> None:
    store.commit([Create(deployment("web", 1))])
    before = store.revision
    code, status = client.request("PATCH", f"{DEPLOYMENTS}/web", {"spec": {"replicas": -1}}, MERGE)
    assert code == 422
    assert status["details"]["causes"][0]["field"] == "spec.replicas"
    assert client.request("PATCH", f"{DEPLOYMENTS}/web", {"spec": {"x": 1}}, "text/plain")[0] == 415
    assert client.request("PATCH", f"{DEPLOYMENTS}/web", [1], "application/json-patch+json")[0] == 422
    assert store.revision == before


def test_fields_that_may_not_change_are_named(client: Client) -> None:
    client.request("POST", DEPLOYMENTS, a_deployment())
    other = {"spec": {"selector": {"matchLabels": {"x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}}
    code, status = client.request("PATCH", f"{DEPLOYMENTS}/web", other, MERGE)
    assert (code, status["details"]["causes"][0]["field"]) == (422, "spec.selector")
    client.request("POST", PODS, a_pod())
    assert client.request("PATCH", f"{PODS}/p", {"spec": {"hostname": "new"}}, MERGE)[0] == 422
    image = {"spec": {"containers": [{"name": "main", "image": "demo:2"}]}}
    assert client.request("PATCH", f"{PODS}/p", image, STRATEGIC)[0] == 200
    client.request("POST", MAPS, a_map("m") | {"immutable": True})
    assert client.request("PATCH", f"{MAPS}/m", {"data": {"a": "1"}}, MERGE)[0] == 422


def test_status_changes_only_below_status(client: Client, store: Store) -> None:
    client.request("POST", PODS, a_pod())
    running = {"status": {"phase": "Running"}, "metadata": {"labels": {"a": "b"}}}
    _, through_main = client.request("PATCH", f"{PODS}/p", running, MERGE)
    assert through_main["status"]["phase"] == "Pending"
    _, through_status = client.request("PATCH", f"{PODS}/p/status", running, MERGE)
    assert through_status["status"]["phase"] == "Running"
    assert client.request("GET", f"{PODS}/p/status")[1] == through_status
    assert client.request("PATCH", f"{MAPS}/m/status", {}, MERGE)[0] == 404


def test_server_side_apply_makes_or_merges(client: Client) -> None:
    apply = "application/apply-patch+yaml"
    code, made = client.request("PATCH", f"{MAPS}/m?fieldManager=me", a_map("m", a="1"), apply)
    assert (code, made["data"]) == (201, {"a": "1"})
    code, merged = client.request("PATCH", f"{MAPS}/m?fieldManager=you", a_map("m", b="2"), apply)
    assert (code, merged["data"]) == (200, {"a": "1", "b": "2"})


# ---------------------------------------------------------------- Services' addresses


def test_each_service_gets_an_address_of_its_own_and_keeps_it(store: Store) -> None:
    client = Client(create_app(store, {TOKEN: "t"}.get, service_network="10.7.0.0/29"))
    given = [client.request("POST", SERVICES, a_service(f"s{i}"))[1]["spec"]["clusterIP"] for i in range(6)]
    assert given == [f"10.7.0.{i}" for i in range(1, 7)]
    code, status = client.request("POST", SERVICES, a_service("one-too-many"))
    assert code == 422
    assert "no address left in 10.7.0.0/29" in status["message"]
    headless = client.request("POST", SERVICES, a_service("headless", clusterIP="None"))[1]
    assert headless["spec"]["clusterIP"] == "None"
    client.request("DELETE", f"{SERVICES}/s2")
    assert client.request("POST", SERVICES, a_service("taken", clusterIP="10.7.0.1"))[0] == 422
    assert client.request("POST", SERVICES, a_service("outside", clusterIP="10.8.0.1"))[0] == 422
    assert client.request("POST", SERVICES, a_service("wanted", clusterIP="10.7.0.3"))[0] == 201
    replaced = client.request("PUT", f"{SERVICES}/s0", a_service("s0", selector={"a": "b"}))[1]
    assert (replaced["spec"]["clusterIP"], replaced["spec"]["selector"]) == ("10.7.0.1", {"a": "b"})
    moved = client.request(
        "PATCH", f"{SERVICES}/s0", {"spec": {"clusterIP": "10.7.0.6", "clusterIPs": ["10.7.0.6"]}}, MERGE
    )
    assert (moved[0], moved[1]["details"]["causes"][0]["field"]) == (422, "spec.clusterIP")


# ---------------------------------------------------------------- reading


def test_a_list_in_parts_shows_everything_once(client: Client, store: Store) -> None:
    store.commit([Create(config(f"m{i}", {})) for i in range(5)])
    store.commit([Create(config("other", {}, namespace="kube-system"))])
    names: list[str] = []
    path = "/api/v1/configmaps?limit=2"
    revisions = set()
    while True:
        _, page = client.request("GET", path)
        names += [i["metadata"]["name"] for i in page["items"]]
        revisions.add(page["metadata"]["resourceVersion"])
        if "continue" not in page["metadata"]:
            break
        assert page["metadata"]["remainingItemCount"] == 6 - len(names)
        path = f"/api/v1/configmaps?limit=2&continue={page['metadata']['continue']}"
    assert names == ["m0", "m1", "m2", "m3", "m4", "other"]
    assert revisions == {str(store.revision)}


def test_selectors_choose_by_labels_and_fields(client: Client, store: Store) -> None:
    here = pod("here", labels={"app": "a"})
    store.commit([Create(here), Create(pod("there", labels={"app": "b"})), Create(pod("nowhere"))])
    assert isinstance(here, Pod)
    store.commit([Update(here.model_copy(update={"spec": here.spec.model_copy(update={"node_name": "n1"})}))])

    def names(query: str) -> list[str]:
        return [i["metadata"]["name"] for i in client.request("GET", f"/api/v1/pods?{query}")[1]["items"]]

    assert names("labelSelector=app+in+(a,b)") == ["here", "there"]
    assert names("labelSelector=!app") == ["nowhere"]
    assert names("labelSelector=app%21%3Da") == ["nowhere", "there"]
    assert names("fieldSelector=spec.nodeName%3Dn1") == ["here"]
    assert names("fieldSelector=status.phase%21%3DPending") == []
    assert names("fieldSelector=metadata.name%3Dthere,metadata.namespace%3Ddefault") == ["there"]


def test_the_same_objects_come_as_tables_and_as_metadata(client: Client, store: Store) -> None:
    store.commit([Create(config("m", {"a": "1"}))])
    table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    _, listed = client.request("GET", MAPS, accept=table)
    assert [c["name"] for c in listed["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert listed["rows"][0]["cells"][:2] == ["m", 1]
    assert listed["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    _, one = client.request("GET", f"{MAPS}/m?includeObject=Object", accept=table)
    assert one["rows"][0]["object"]["data"] == {"a": "1"}
    metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    _, listed = client.request("GET", MAPS, accept=metadata)
    assert (listed["kind"], "data" in listed["items"][0]) == ("PartialObjectMetadataList", False)


# ---------------------------------------------------------------- scale


def test_scale_reads_and_changes_replicas_and_nothing_else(client: Client, store: Store) -> None:
    store.commit([Create(deployment("web", 1))])
    _, scale = client.request("GET", f"{DEPLOYMENTS}/web/scale")
    assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == ("Scale", {"replicas": 1}, "app=web")
    _, scaled = client.request("PATCH", f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 4}}, MERGE)
    assert scaled["spec"] == {"replicas": 4}
    assert client.request("PUT", f"{DEPLOYMENTS}/web/scale", scale)[0] == 409
    assert client.request("PATCH", f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": "4"}}, MERGE)[0] == 422
    made = client.request("GET", f"{DEPLOYMENTS}/web")[1]
    assert (made["spec"]["replicas"], made["metadata"]["generation"]) == (4, 2)


# ---------------------------------------------------------------- deleting


def bound(store: Store, name: str, namespace: str = "default") -> None:
    [made] = store.commit([Create(pod(name, namespace=namespace))])
    assert isinstance(made, Pod)
    store.commit([Update(made.model_copy(update={"spec": made.spec.model_copy(update={"node_name": "n1"})}))])


def test_a_pod_on_a_node_is_marked_and_one_nowhere_is_gone(client: Client, store: Store) -> None:
    bound(store, "on")
    store.commit([Create(pod("off"))])
    code, marked = client.request("DELETE", f"{PODS}/on")
    assert (code, marked["metadata"]["deletionGracePeriodSeconds"]) == (200, 30)
    code, status = client.request("DELETE", f"{PODS}/off")
    assert (code, status["status"], store.get("Pod", "default", "off")) == (200, "Success", None)
    client.request("DELETE", f"{PODS}/on", {"kind": "DeleteOptions", "gracePeriodSeconds": 0})
    assert store.get("Pod", "default", "on") is None


def test_preconditions_guard_a_deletion(client: Client, store: Store) -> None:
    store.commit([Create(config("m", {}))])
    assert client.request("DELETE", f"{MAPS}/m", {"preconditions": {"uid": "other"}})[0] == 409
    assert client.request("DELETE", f"{MAPS}/m", {"preconditions": {"resourceVersion": "1"}})[0] == 409
    bound(store, "on")
    assert client.request("DELETE", f"{PODS}/on", {"preconditions": {"uid": "other"}})[0] == 409
    assert client.request("DELETE", f"{MAPS}/m", {"kind": "Pod"})[0] == 400
    assert client.request("DELETE", f"{MAPS}/m", {"gracePeriodSeconds": "soon"})[0] == 400
    assert client.request("DELETE", f"{MAPS}/m", {"propagationPolicy": "Sideways"})[0] == 422
    both = {"propagationPolicy": "Orphan", "orphanDependents": True}
    assert client.request("DELETE", f"{MAPS}/m", both)[0] == 422
    assert client.request("DELETE", f"{MAPS}/m")[0] == 200


def test_a_namespace_takes_what_is_in_it_and_waits_for_its_running_pods(client: Client, store: Store) -> None:
    client.request("POST", "/api/v1/namespaces", {"metadata": {"name": "room"}})
    bound(store, "on", namespace="room")
    store.commit([Create(node("n1")), Create(pod("off", namespace="room")), Create(config("m", {}, namespace="room"))])
    code, marked = client.request("DELETE", "/api/v1/namespaces/room")
    assert (code, marked["status"]["phase"]) == (200, "Terminating")
    manager = Manager(store)
    manager.settle()
    assert [o.metadata.name for o in store.list("Pod", "room")] == ["on"]
    assert store.list("ConfigMap", "room") == []
    code, status = client.request("POST", "/api/v1/namespaces/room/configmaps", a_map("late"))
    assert (code, status["reason"]) == (403, "Forbidden")
    store.commit([Delete("Pod", "room", "on")])
    assert client.request("GET", "/api/v1/namespaces/room")[0] == 404


def test_orphans_lose_their_owner_before_it_goes(client: Client, store: Store) -> None:
    [owner] = store.commit([Create(deployment("web", 1))])
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": owner.metadata.uid}
    store.commit([Create(pod("child", ownerReferences=[reference])), Create(pod("stranger"))])
    _, marked = client.request("DELETE", f"{DEPLOYMENTS}/web", {"propagationPolicy": "Orphan"})
    assert marked["metadata"]["finalizers"] == ["orphan"]
    Manager(store).settle()
    assert store.get("Deployment", "default", "web") is None
    child = store.get("Pod", "default", "child")
    assert child is not None
    assert child.metadata.owner_references == ()


def test_an_object_with_finalizers_waits_for_them(client: Client, store: Store) -> None:
    client.request("POST", MAPS, a_map("m") | {"metadata": {"name": "m", "finalizers": ["example.org/x"]}})
    _, marked = client.request("DELETE", f"{MAPS}/m")
    assert marked["metadata"]["deletionTimestamp"]
    client.request("PATCH", f"{MAPS}/m", {"metadata": {"finalizers": None}}, MERGE)
    assert store.get("ConfigMap", "default", "m") is None


def test_a_collection_is_deleted_as_far_as_it_is_selected(client: Client, store: Store) -> None:
    store.commit([Create(pod(f"p{i}", labels={"n": str(i % 2)})) for i in range(4)])
    code, listed = client.request("DELETE", f"{PODS}?labelSelector=n%3D1")
    assert (code, len(listed["items"])) == (200, 2)
    assert [o.metadata.name for o in store.list("Pod")] == ["p0", "p2"]


# ---------------------------------------------------------------- worked out when asked


def test_a_node_has_a_lease_that_tells_when_it_was_heard_of(client: Client, store: Store) -> None:
    store.commit([Create(node("n1"))])
    told = {
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}
    }
    client.request("PATCH", "/api/v1/nodes/n1/status", told, MERGE)
    lease = client.request("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1")[1]
    assert lease["spec"]["renewTime"] == "2026-01-01T00:00:00.000000Z"


# ---------------------------------------------------------------- nothing crashes it

GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "name", "namespace", "spec", "status", "kind", "labels", "$patch", "replicas"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    GARBAGE,
    st.sampled_from(["POST", "PUT", "PATCH", "DELETE"]),
    st.sampled_from([PODS, f"{PODS}/p", f"{PODS}/p/status", f"{DEPLOYMENTS}/web", f"{DEPLOYMENTS}/web/scale", MAPS]),
    st.sampled_from(
        ["application/json", MERGE, "application/strategic-merge-patch+json", "application/json-patch+json"]
    ),
)
def test_garbage_is_always_answered_with_a_client_error_or_accepted(
    client: Client, store: Store, document: object, method: str, path: str, content_type: str
) -> None:
    for obj in (pod("p"), deployment("web", 1)):
        if store.get(obj.kind, "default", obj.metadata.name) is None:
            store.commit([Create(obj)])
    store.commit([UpdateStatus(pod("p"))])
    code, answer = client.request(method, path, document, content_type)
    assert code < 500
    assert isinstance(answer, dict)
