"""Server-side apply, managedFields and patches as a client meets them: codes, Status objects, who owns what."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.patches import patch as patched_by
from cloudlink.hub.api.paths import target_of
from cloudlink.hub.api.server import create_app
from cloudlink.hub.api.writes import create
from cloudlink.hub.changes import Change
from cloudlink.hub.errors import AlreadyExists, Conflict
from cloudlink.hub.store import Create, Store, Update
from cloudlink.kube.meta import KubeObject
from tests.fakes.hub_client import TOKEN, Client
from tests.fakes.hub_objects import config, deployment, node, pod, template

MAPS = "/api/v1/namespaces/default/configmaps"
SECRETS = "/api/v1/namespaces/default/secrets"
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/hub.db")
    yield opened
    opened.close()


class User:
    """One client program with its own name."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def apply(self, path: str, document: Any, manager: str = "me", query: str = "") -> tuple[int, Any]:
        return self.client.request("PATCH", f"{path}?fieldManager={manager}{query}", document, APPLY)

    def sent(self, path: str, document: Any, kind: str = MERGE) -> tuple[int, Any]:
        return self.client.request("PATCH", path, document, kind)

    def get(self, path: str) -> Any:
        return self.client.request("GET", path)[1]


@pytest.fixture
def user(store: Store) -> User:
    return User(Client(create_app(store, {TOKEN: "tester"}.get, now=lambda: 1_767_225_600.0)))


def a_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def a_deployment(name: str = "web", **spec: Any) -> dict[str, Any]:
    spec = {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template({"a": "b"})} | spec
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def owners(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    entries = document["metadata"].get("managedFields", [])
    return [(e["manager"], e["operation"], e.get("subresource", "")) for e in entries]


def entry(document: dict[str, Any], manager: str) -> dict[str, Any]:
    found: dict[str, Any] = next(e for e in document["metadata"]["managedFields"] if e["manager"] == manager)
    return found


# ---------------------------------------------------------------- who writes


def test_a_write_is_recorded_with_manager_version_time_and_fields(user: User) -> None:
    user.client.request("POST", f"{MAPS}?fieldManager=kubectl-create", a_map("m", a="1"))
    document = user.get(f"{MAPS}/m")
    assert document["metadata"]["managedFields"] == [
        {
            "manager": "kubectl-create",
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {".": {}, "f:a": {}}},
        }
    ]


@pytest.mark.parametrize(
    ("agent", "manager"),
    [
        ("kubectl/v1.33.1 (linux/amd64) kubernetes/1a2b", "kubectl"),
        ("Mozilla 5.0 (X11)/x", "Mozilla 5.0 (X11)"),
        ("a\tb/1", "ab"),
        ("x" * 200, "x" * 128),
        ("/", "unknown"),
    ],
)
def test_who_gives_no_field_manager_is_known_by_his_user_agent(user: User, agent: str, manager: str) -> None:
    headers = {"content-type": "application/json", "user-agent": agent}
    response = user.client.raw("POST", MAPS, json.dumps(a_map("m", a="1")).encode(), headers=headers)
    assert [e["manager"] for e in response.json()["metadata"]["managedFields"]] == [manager]


@pytest.mark.parametrize(
    ("method", "query", "told"),
    [
        (
            "POST",
            f"fieldManager={'x' * 129}",
            'CreateOptions.meta.k8s.io "" is invalid: fieldManager: Too long',
        ),
        (
            "PUT",
            "fieldManager=a%07",
            'UpdateOptions.meta.k8s.io "" is invalid: fieldManager: Invalid value: ',
        ),
        (
            "PATCH",
            "force=true",
            'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be ',
        ),
    ],
)
def test_a_field_manager_that_cannot_be_one_is_refused(user: User, method: str, query: str, told: str) -> None:
    user.apply(f"{MAPS}/m", a_map("m"))
    path = f"{MAPS}?{query}" if method == "POST" else f"{MAPS}/m?{query}"
    kind = MERGE if method == "PATCH" else "application/json"
    code, status = user.client.request(method, path, a_map("m"), kind)
    assert (code, status["reason"]) == (422, "Invalid")
    assert status["message"].startswith(told)


def test_an_apply_without_a_field_manager_is_refused_in_kubernetes_words(user: User) -> None:
    code, status = user.client.request("PATCH", f"{MAPS}/m", a_map("m"), APPLY)
    told = 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
    assert (code, status["message"]) == (422, told)
    assert status["details"]["causes"][0]["field"] == "fieldManager"


def test_replaced_and_patched_fields_change_hands(user: User) -> None:
    user.client.request("POST", f"{MAPS}?fieldManager=one", a_map("m", a="1", b="1"))
    user.sent(f"{MAPS}/m?fieldManager=two", {"data": {"b": "2"}})
    user.client.request("PUT", f"{MAPS}/m?fieldManager=three", a_map("m", a="3", b="2", c="3"))
    document = user.get(f"{MAPS}/m")
    assert {m: entry(document, m)["fieldsV1"]["f:data"] for m in ("one", "two", "three")} == {
        "one": {},
        "two": {"f:b": {}},
        "three": {"f:a": {}, "f:c": {}},
    }


def test_a_write_that_changes_nothing_stores_nothing(user: User, store: Store) -> None:
    user.client.request("POST", f"{MAPS}?fieldManager=one", a_map("m", a="1"))
    revision = store.revision
    user.client.request("PUT", f"{MAPS}/m?fieldManager=two", a_map("m", a="1"))
    user.sent(f"{MAPS}/m?fieldManager=three", {"data": {"a": "1"}})
    assert store.revision == revision
    user.apply(f"{MAPS}/m", a_map("m", a="1"))
    applied = store.revision
    user.apply(f"{MAPS}/m", a_map("m", a="1"))
    assert store.revision == applied > revision


def test_what_a_controller_made_has_no_managed_fields_until_it_is_applied_to(user: User, store: Store) -> None:
    store.commit([Create(pod("p"))])
    user.sent(f"{PODS}/p?fieldManager=kubectl-label", {"metadata": {"labels": {"a": "b"}}})
    assert owners(user.get(f"{PODS}/p")) == []
    mine = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "c"}}}
    code, status = user.apply(f"{PODS}/p", mine)
    assert (code, status["details"]["causes"][0]["message"]) == (409, 'conflict with "before-first-apply" using v1')
    assert user.apply(f"{PODS}/p", mine, query="&force=true")[0] == 200
    assert owners(user.get(f"{PODS}/p")) == [("me", "Apply", ""), ("before-first-apply", "Update", "")]


def test_controllers_leave_managed_fields_as_they_are(user: User, store: Store) -> None:
    user.apply(f"{DEPLOYMENTS}/web", a_deployment())
    there = store.get("Deployment", "default", "web")
    assert there is not None
    meta = there.metadata.model_copy(update={"annotations": {"revision": "1"}})
    store.commit([Update(there.model_copy(update={"metadata": meta}))])
    assert owners(user.get(f"{DEPLOYMENTS}/web")) == [("me", "Apply", "")]


def test_writes_to_status_and_scale_are_told_apart(user: User) -> None:
    user.apply(f"{DEPLOYMENTS}/web", a_deployment())
    user.sent(f"{DEPLOYMENTS}/web/status?fieldManager=ctl", {"status": {"replicas": 1}, "spec": {"replicas": 9}})
    user.sent(f"{DEPLOYMENTS}/web/scale?fieldManager=hpa", {"spec": {"replicas": 5}})
    document = user.get(f"{DEPLOYMENTS}/web")
    assert owners(document) == [("me", "Apply", ""), ("ctl", "Update", "status"), ("hpa", "Update", "scale")]
    assert entry(document, "ctl")["fieldsV1"] == {"f:status": {"f:replicas": {}}}
    assert entry(document, "hpa")["fieldsV1"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in entry(document, "me")["fieldsV1"]["f:spec"]
    assert (document["spec"]["replicas"], document["status"]) == (5, {"replicas": 1})
    _, status = user.apply(f"{DEPLOYMENTS}/web", a_deployment())
    assert status["message"].endswith('conflict with "hpa" with subresource "scale" using apps/v1: .spec.replicas')


@pytest.mark.parametrize("empty", [[], [{}]])
def test_an_update_that_empties_managed_fields_resets_them(user: User, empty: Any) -> None:
    user.apply(f"{MAPS}/m", a_map("m", a="1"))
    code, patched = user.sent(f"{MAPS}/m", {"metadata": {"managedFields": empty}})
    assert (code, owners(patched)) == (200, [])
    user.apply(f"{MAPS}/m", a_map("m", b="1"))
    _, kept = user.sent(f"{MAPS}/m", {"metadata": {"managedFields": None}})
    assert owners(kept) == [("me", "Apply", ""), ("before-first-apply", "Update", "")]


@pytest.mark.parametrize(
    "bad", [3, [1], [{"fieldsV1": 3}], [{"time": "yesterday"}], [{"manager": 1}], [{"fieldsV1": {"f:a": 1}}]]
)
def test_managed_fields_of_a_wrong_form_are_refused_with_their_path(user: User, bad: Any) -> None:
    user.apply(f"{MAPS}/m", a_map("m", a="1"))
    code, status = user.sent(f"{MAPS}/m", {"metadata": {"managedFields": bad}})
    assert code == 422
    assert "metadata.managedFields" in status["message"]


def test_managed_fields_that_make_no_sense_change_nothing(user: User) -> None:
    user.apply(f"{MAPS}/m", a_map("m", a="1"))
    before = user.get(f"{MAPS}/m")
    user.sent(f"{MAPS}/m", {"metadata": {"managedFields": [{"manager": "x", "operation": "Guess"}]}})
    assert user.get(f"{MAPS}/m") == before


# ---------------------------------------------------------------- applying


def test_apply_makes_an_object_and_then_takes_out_what_is_left_out(user: User) -> None:
    assert user.apply(f"{MAPS}/m", a_map("m", a="1", b="2"))[0] == 201
    code, document = user.apply(f"{MAPS}/m", a_map("m", b="3"))
    assert (code, document["data"]) == (200, {"b": "3"})
    assert entry(document, "me")["fieldsV1"] == {"f:data": {"f:b": {}}}


def test_a_conflict_has_one_cause_for_each_field_and_force_takes_them(user: User) -> None:
    user.apply(f"{DEPLOYMENTS}/web", a_deployment())
    image = {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "other:1"}
    user.sent(f"{DEPLOYMENTS}/web?fieldManager=kubectl-edit", [image], JSON_PATCH)
    user.sent(f"{DEPLOYMENTS}/web?fieldManager=kubectl-edit", {"spec": {"replicas": 7}})
    code, status = user.apply(f"{DEPLOYMENTS}/web", a_deployment(), manager="me")
    name = a_deployment()["spec"]["template"]["spec"]["containers"][0]["name"]
    path = f'.spec.template.spec.containers[name="{name}"].image'
    assert (code, status["reason"], status["status"]) == (409, "Conflict", "Failure")
    assert status["message"] == (
        f'Apply failed with 2 conflicts: conflicts with "kubectl-edit" using apps/v1:\n- .spec.replicas\n- {path}'
    )
    assert status["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl-edit" using apps/v1', "field": field}
        for field in (".spec.replicas", path)
    ]
    code, document = user.apply(f"{DEPLOYMENTS}/web", a_deployment(), query="&force=true")
    assert (code, document["spec"]["replicas"], owners(document)) == (200, 2, [("me", "Apply", "")])


def test_two_managers_share_what_they_agree_on(user: User) -> None:
    user.apply(f"{DEPLOYMENTS}/web", a_deployment(), manager="one")
    assert user.apply(f"{DEPLOYMENTS}/web", a_deployment(), manager="two")[0] == 200
    lean = a_deployment()
    del lean["spec"]["replicas"]
    _, document = user.apply(f"{DEPLOYMENTS}/web", lean, manager="one")
    assert document["spec"]["replicas"] == 2
    _, document = user.apply(f"{DEPLOYMENTS}/web", lean, manager="two")
    assert document["spec"]["replicas"] == 1  # the default: nobody wants anything else any more


def test_list_items_are_merged_by_all_their_keys(user: User) -> None:
    def ports(*items: dict[str, Any]) -> dict[str, Any]:
        spec = {"selector": {"a": "b"}, "ports": list(items)}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec}

    tcp = {"name": "dns-tcp", "port": 53}  # TCP is the default
    udp = {"name": "dns", "port": 53, "protocol": "UDP"}
    user.apply(f"{SERVICES}/s", ports(tcp), manager="one")
    code, document = user.apply(f"{SERVICES}/s", ports(udp), manager="two")
    assert (code, [(p["port"], p["protocol"]) for p in document["spec"]["ports"]]) == (200, [(53, "TCP"), (53, "UDP")])
    _, document = user.apply(f"{SERVICES}/s", ports(udp), manager="one")
    assert [p["name"] for p in document["spec"]["ports"]] == ["dns"]
    assert document["spec"]["clusterIP"]


def test_quantities_that_are_the_same_do_not_conflict(user: User) -> None:
    def with_memory(text: str) -> dict[str, Any]:
        document = a_deployment()
        document["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": text}}
        return document

    user.apply(f"{DEPLOYMENTS}/web", with_memory("1Gi"), manager="one")
    assert user.apply(f"{DEPLOYMENTS}/web", with_memory("1024Mi"), manager="two")[0] == 200


def test_string_data_of_a_secret_is_its_data(user: User) -> None:
    def secret(**plain: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": plain}

    user.apply(f"{SECRETS}/s", secret(a="1", b="2"))
    _, document = user.apply(f"{SECRETS}/s", secret(b="3"))
    assert document["data"] == {"b": base64.b64encode(b"3").decode()}
    assert entry(document, "me")["fieldsV1"] == {"f:data": {"f:b": {}}}


def test_apply_to_status_owns_status_alone(user: User, store: Store) -> None:
    store.commit([Create(node("pi"))])
    condition = {"type": "Camera", "status": "True"}
    mine = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "pi"}, "status": {"conditions": [condition]}}
    code, document = user.apply("/api/v1/nodes/pi/status", mine, manager="probe", query="&force=true")
    assert (code, document["status"]["conditions"][-1]["type"]) == (200, "Camera")
    assert ("probe", "Apply", "status") in owners(document)
    assert entry(document, "probe")["fieldsV1"] == {
        "f:status": {"f:conditions": {'k:{"type":"Camera"}': {".": {}, "f:status": {}, "f:type": {}}}}
    }
    assert user.apply(f"{DEPLOYMENTS}/none/status", a_deployment("none"))[0] == 404


def test_apply_to_scale_owns_replicas(user: User) -> None:
    user.apply(f"{DEPLOYMENTS}/web", a_deployment())
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 4}}
    code, status = user.apply(f"{DEPLOYMENTS}/web/scale", scale, manager="hpa")
    assert (code, status["details"]["causes"][0]["field"]) == (409, ".spec.replicas")
    assert user.apply(f"{DEPLOYMENTS}/web/scale", scale, manager="hpa", query="&force=true")[0] == 200
    assert ("hpa", "Apply", "scale") in owners(user.get(f"{DEPLOYMENTS}/web"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "Secret"}, "invalid object type: /v1, Kind=Secret"),
        ({"apiVersion": "v2"}, "invalid object type: /v2, Kind=ConfigMap"),
        ({"metadata": {"name": "m", "managedFields": []}}, "metadata.managedFields must be nil"),
        ({"metadata": {"name": "other"}}, "the name of the object (other) does not match"),
    ],
)
def test_an_apply_for_something_else_is_refused(user: User, change: dict[str, Any], told: str) -> None:
    code, status = user.apply(f"{MAPS}/m", a_map("m") | change)
    assert (code, status["reason"]) == (400, "BadRequest")
    assert told in status["message"]


def test_an_apply_can_expect_a_revision_and_an_identity(user: User) -> None:
    def with_meta(**meta: str) -> dict[str, Any]:
        return a_map("m", a="1") | {"metadata": {"name": "m", **meta}}

    code, status = user.apply(f"{MAPS}/m", with_meta(uid="u"))
    assert (code, "uid mismatch" in status["message"]) == (409, True)
    _, document = user.apply(f"{MAPS}/m", a_map("m", a="1"))
    revision = document["metadata"]["resourceVersion"]
    user.sent(f"{MAPS}/m", {"data": {"b": "2"}})
    assert user.apply(f"{MAPS}/m", with_meta(resourceVersion=revision))[0] == 409
    assert user.apply(f"{MAPS}/m", with_meta(uid="someone-else"))[0] == 409
    assert user.apply(f"{MAPS}/m", with_meta(uid=document["metadata"]["uid"]))[0] == 200


def test_an_apply_that_leads_to_a_bad_object_says_where_and_changes_nothing(user: User, store: Store) -> None:
    user.apply(f"{DEPLOYMENTS}/web", a_deployment())
    revision = store.revision
    for spec, path in (
        ({"replicas": -1}, "spec.replicas"),
        ({"replicass": 1}, "spec.replicass"),
        ({"paused": "yes"}, "spec.paused"),
    ):
        code, status = user.apply(f"{DEPLOYMENTS}/web", a_deployment(**spec))
        assert (code, path in status["message"]) == (422, True)
    twice = a_deployment()
    twice["spec"]["template"]["spec"]["containers"] *= 2
    code, status = user.apply(f"{DEPLOYMENTS}/web", twice)
    assert (code, "duplicate entries for key" in status["message"]) == (422, True)
    assert status["details"]["causes"][0]["field"] == "spec.template.spec.containers"
    assert store.revision == revision


def test_a_conflict_over_very_many_fields_lists_the_first_of_them(user: User) -> None:
    user.apply(f"{MAPS}/m", a_map("m", **{f"k{n:04}": "1" for n in range(500)}), manager="one")
    code, status = user.apply(f"{MAPS}/m", a_map("m", **{f"k{n:04}": "2" for n in range(500)}), manager="two")
    assert (code, len(status["details"]["causes"])) == (409, 100)
    assert status["message"].startswith("Apply failed with 500 conflicts: ")
    assert status["message"].endswith("\nand 400 more")


def test_managers_that_apply_are_bounded(user: User) -> None:
    for number in range(100):
        assert user.apply(f"{MAPS}/m", a_map("m", a="1"), manager=f"m{number}")[0] < 300
    code, status = user.apply(f"{MAPS}/m", a_map("m", a="1"), manager="one-too-many")
    assert (code, status["details"]["causes"][0]["field"]) == (422, "metadata.managedFields")
    assert user.apply(f"{MAPS}/m", a_map("m", a="1"), manager="m7")[0] == 200


def test_who_may_patch_but_not_create_cannot_create_by_applying(user: User) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "patcher"}}
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]}]
    user.client.request("POST", f"{rbac}/roles", head | {"kind": "Role", "rules": rules})
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "pat"}
    binding = head | {"kind": "RoleBinding", "roleRef": ref, "subjects": [subject]}
    assert user.client.request("POST", f"{rbac}/rolebindings", binding)[0] == 201

    def as_pat() -> tuple[int, Any]:
        headers = {"content-type": APPLY, "impersonate-user": "pat"}
        content = json.dumps(a_map("m", a="1")).encode()
        response = user.client.raw("PATCH", f"{MAPS}/m?fieldManager=pat", content, headers=headers)
        return response.status_code, response.json()

    code, status = as_pat()
    told = 'configmaps "m" is forbidden: User "pat" cannot create resource "configmaps" in API group ""'
    assert (code, status["message"].startswith(told)) == (403, True), status
    user.apply(f"{MAPS}/m", a_map("m", b="2"))
    assert as_pat()[0] == 200


def test_a_dry_run_of_an_apply_shows_all_and_does_nothing(user: User, store: Store) -> None:
    code, document = user.apply(f"{MAPS}/m", a_map("m", a="1"), query="&dryRun=All")
    assert (code, owners(document), store.get("ConfigMap", "default", "m")) == (201, [("me", "Apply", "")], None)
    assert "resourceVersion" not in document["metadata"]
    user.apply(f"{MAPS}/m", a_map("m", a="1"))
    before = user.get(f"{MAPS}/m")
    code, document = user.apply(f"{MAPS}/m", a_map("m", a="2"), query="&dryRun=All")
    assert (code, document["data"]) == (200, {"a": "2"})
    assert document["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert user.get(f"{MAPS}/m") == before


# ---------------------------------------------------------------- other writes


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/cbor"])
def test_a_body_of_an_unknown_type_is_refused_with_those_that_are_known(user: User, kind: str) -> None:
    for method, path in (("POST", MAPS), ("PUT", f"{MAPS}/m")):
        user.apply(f"{MAPS}/m", a_map("m"))
        code, status = user.client.request(method, path, a_map("n"), kind)
        assert (code, status["reason"]) == (415, "UnsupportedMediaType")
        assert "application/json, application/yaml, application/vnd.kubernetes.protobuf" in status["message"]


def test_metadata_that_belongs_to_the_server_cannot_be_changed_by_a_client(user: User) -> None:
    _, before = user.apply(f"{MAPS}/m", a_map("m", a="1") | {"metadata": {"name": "m", "finalizers": ["x.io/a"]}})
    for field, value in (("creationTimestamp", "2020-01-01T00:00:00Z"), ("deletionTimestamp", "2020-01-01T00:00:00Z")):
        code, status = user.sent(f"{MAPS}/m", {"metadata": {field: value}})
        assert (code, status["details"]["causes"][0]["field"]) == (422, f"metadata.{field}")
        assert "field is immutable" in status["message"]
    code, status = user.sent(f"{MAPS}/m", {"metadata": {"uid": "u"}})
    assert (code, "Precondition failed: UID in precondition: u" in status["message"]) == (409, True)
    _, after = user.sent(f"{MAPS}/m", {"metadata": {"generation": 9, "selfLink": "/x", "creationTimestamp": None}})
    assert after == before
    user.client.request("DELETE", f"{MAPS}/m")
    code, status = user.sent(f"{MAPS}/m", {"metadata": {"finalizers": ["x.io/a", "x.io/late"]}})
    told = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted"
    assert (code, told in status["message"]) == (422, True)


@pytest.mark.parametrize("kind", ["application/json", "application/apply-patch+cbor", "text/plain", ""])
def test_a_patch_of_an_unknown_type_is_refused_with_those_that_are_known(user: User, kind: str) -> None:
    user.apply(f"{MAPS}/m", a_map("m"))
    code, status = user.sent(f"{MAPS}/m", {}, kind)
    assert (code, status["reason"]) == (415, "UnsupportedMediaType")
    assert APPLY in status["message"]


def test_a_json_patch_is_refused_by_what_is_wrong_with_it(user: User) -> None:
    user.apply(f"{MAPS}/m", a_map("m", a="1"))
    test = {"op": "test", "path": "/data/a", "value": "2"}
    assert user.sent(f"{MAPS}/m", test, JSON_PATCH)[0] == 400
    code, status = user.sent(f"{MAPS}/m", [test], JSON_PATCH)
    assert (code, "test failed" in status["message"]) == (422, True)
    code, status = user.sent(f"{MAPS}/m", [test] * 10_001, JSON_PATCH)
    assert (code, status["reason"]) == (413, "RequestEntityTooLarge")
    odd = [{"op": "add", "path": "/data/a~1b~0c", "value": "x"}]
    assert user.sent(f"{MAPS}/m", odd, JSON_PATCH)[0] == 422  # escapes are undone: a/b~c is no key of a ConfigMap


def test_a_patch_goes_through_whatever_has_happened_since_unless_it_names_a_revision(user: User) -> None:
    user.apply(f"{MAPS}/m", a_map("m", a="1"))
    for number in range(3):
        assert user.sent(f"{MAPS}/m", {"data": {f"k{number}": "x"}})[0] == 200
    stale = {"metadata": {"resourceVersion": "1"}, "data": {"a": "2"}}
    code, status = user.sent(f"{MAPS}/m", stale)
    assert (code, status["reason"]) == (409, "Conflict")
    assert "the object has been modified; please apply your changes to the latest version" in status["message"]


class Overtaken(Context):
    """Another hub on the same database writes first, a number of times."""

    left = 0

    def commit(self, changes: Sequence[Change], dry_run: bool) -> list[KubeObject]:
        if self.left:
            self.left -= 1
            raise Conflict("ConfigMap", "default", "m", "the object has been modified")
        return super().commit(changes, dry_run)


@pytest.mark.parametrize("kind", [MERGE, APPLY])
def test_a_patch_that_another_hub_overtakes_is_done_again_and_given_up_after_five_times(
    store: Store, kind: str
) -> None:
    target = target_of(f"{MAPS}/m")
    assert target is not None
    store.commit([Create(config("m", {"a": "1"}))])
    context = Overtaken(store, time.time, lambda new, old: None, lambda: None)
    body = json.dumps(a_map("m", b="2")).encode()
    call = Call("PATCH", target, {"fieldManager": "me"}, body, kind)
    context.left = 4
    assert json.loads(patched_by(context, call).body)["data"] == {"a": "1", "b": "2"}
    context.left = 5
    with pytest.raises(Conflict):
        patched_by(context, call)
    expecting = a_map("m", b="3") | {"metadata": {"name": "m", "resourceVersion": "1"}}
    context.left = 1
    with pytest.raises(Conflict):
        patched_by(context, replace(call, body=json.dumps(expecting).encode()))


def test_a_list_with_many_items_is_merged_in_no_time(user: User, store: Store) -> None:
    store.commit([Create(deployment("d", 1))])
    env = [{"name": f"V{i}", "value": "x"} for i in range(20_000)]
    name = user.get(f"{DEPLOYMENTS}/d")["spec"]["template"]["spec"]["containers"][0]["name"]
    container = {"name": name, "env": env, "$setElementOrder/env": [{"name": e["name"]} for e in env]}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    assert user.sent(f"{DEPLOYMENTS}/d", patch, STRATEGIC)[0] == 200
    assert user.sent(f"{DEPLOYMENTS}/d", patch, STRATEGIC)[0] == 200


def test_a_made_up_name_that_is_taken_is_made_up_again(store: Store) -> None:
    target = target_of(MAPS)
    assert target is not None
    body = json.dumps({"metadata": {"generateName": "g-"}}).encode()
    call = Call("POST", target, {}, body, "application/json")
    letters = iter(["aaaaa", "aaaaa", "aaaaa", "bbbbb"])
    context = Context(store, time.time, lambda new, old: None, lambda: None, suffix=lambda: next(letters))
    names = [json.loads(create(context, call).body)["metadata"]["name"] for _ in range(2)]
    assert names == ["g-aaaaa", "g-bbbbb"]
    stubborn = Context(store, time.time, lambda new, old: None, lambda: None, suffix=lambda: "aaaaa")
    with pytest.raises(AlreadyExists):
        create(stubborn, call)
