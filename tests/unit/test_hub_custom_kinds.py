"""Kinds that are defined while the hub runs: a definition's life, and what its objects may and may not be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.api.server import create_app
from cloudlink.hub.manager import Manager
from cloudlink.hub.store import Store
from cloudlink.kube.manifest import load_yaml
from tests.fakes.hub_client import TOKEN, Client, OpenWatch

CASES = Path(__file__).parents[1] / "cases" / "kube"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAME = "greenhouses.farm.example.com"
V1 = "/apis/farm.example.com/v1/namespaces/default/greenhouses"
BETA = "/apis/farm.example.com/v1beta1/namespaces/default/greenhouses"
MERGE = "application/merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/hub.db")
    yield opened
    opened.close()


@pytest.fixture
def client(store: Store) -> Client:
    return Client(create_app(store, {TOKEN: "tester"}.get))


def definition(**spec: Any) -> dict[str, Any]:
    [document] = load_yaml((CASES / "accepted_definitions.yaml").read_text(), "definitions")
    return document | {"spec": document["spec"] | spec}


def small(plural: str, kind: str, group: str = "farm.example.com", **names: Any) -> dict[str, Any]:
    """A definition of few words."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, **names},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def house(name: str = "a", **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "farm.example.com/v1", "kind": "Greenhouse", "metadata": {"name": name}}
    return head | {"spec": {"crop": "basil", **spec}}


def conditions(document: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    found = document["status"]["conditions"]
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in found}


@pytest.fixture
def farm(client: Client) -> Client:
    code, made = client.request("POST", DEFINITIONS, definition())
    assert code == 201, made
    return client


# ---------------------------------------------------------------- definitions


def test_a_definition_is_established_in_the_answer_that_makes_it(client: Client) -> None:
    code, made = client.request("POST", DEFINITIONS, definition())
    assert code == 201
    assert conditions(made) == {
        "NamesAccepted": ("True", "NoConflicts", "no conflicts found"),
        "Established": ("True", "InitialNamesAccepted", "the initial names have been accepted"),
    }
    assert made["status"]["acceptedNames"]["listKind"] == "GreenhouseList"
    assert made["status"]["storedVersions"] == ["v1"]
    assert client.request("GET", V1)[1]["kind"] == "GreenhouseList"


def test_names_that_another_definition_has_are_kept_from_the_newcomer_until_they_are_free(
    client: Client, store: Store
) -> None:
    client.request("POST", DEFINITIONS, small("greenhouses", "Greenhouse", shortNames=["gh"]))
    code, made = client.request("POST", DEFINITIONS, small("glasshouses", "Glasshouse", shortNames=["gh"]))
    assert code == 201
    assert conditions(made)["NamesAccepted"] == ("False", "ShortNamesConflict", '"gh" is already in use')
    assert conditions(made)["Established"][0] == "False"
    path = "/apis/farm.example.com/v1/namespaces/default/glasshouses"
    assert client.request("GET", path)[0] == 404
    client.request("DELETE", f"{DEFINITIONS}/{NAME}")
    Manager(store).settle()
    assert client.request("GET", path)[0] == 200


def test_deleting_a_definition_deletes_its_objects_and_then_the_kind_is_gone(farm: Client, store: Store) -> None:
    farm.request("POST", V1, house())
    held = house("b") | {"metadata": {"name": "b", "finalizers": ["farm.example.com/wait"]}}
    farm.request("POST", V1, held)
    code, left = farm.request("DELETE", f"{DEFINITIONS}/{NAME}")
    assert code == 200
    assert left["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
    assert conditions(left)["Terminating"][0] == "True"
    manager = Manager(store)
    manager.settle()
    assert [o["metadata"]["name"] for o in farm.request("GET", V1)[1]["items"]] == ["b"]
    code, status = farm.request("POST", V1, house("c"))
    assert (code, status["message"]) == (
        405,
        "create not allowed while custom resource definition is terminating",
    )
    farm.request("PATCH", f"{V1}/b", {"metadata": {"finalizers": None}}, MERGE)
    manager.settle()
    assert farm.request("GET", f"{DEFINITIONS}/{NAME}")[0] == 404
    assert farm.request("GET", V1)[0] == 404
    assert store.catalogue.custom == ()


def test_after_a_restart_the_kind_and_its_objects_are_there(tmp_path: Path) -> None:
    for turn in range(2):
        store = Store.open(f"sqlite:///{tmp_path}/hub.db")
        client = Client(create_app(store, {TOKEN: "tester"}.get))
        if not turn:
            client.request("POST", DEFINITIONS, definition())
            client.request("POST", V1, house())
        assert client.request("GET", f"{V1}/a")[1]["spec"]["crop"] == "basil"
        store.close()


@pytest.mark.parametrize(
    ("schema", "field", "message"),
    [
        ({"type": "string"}, "type", "must be object at the root"),
        ({"type": "object", "properties": {"a": {}}}, "properties[a].type", "must not be empty for specified object"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "array", "uniqueItems": True, "items": {"type": "string"}}},
            },
            "properties[a].uniqueItems",
            "uniqueItems cannot be set to true",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": False}}},
            "properties[a].additionalProperties",
            "cannot be set to false",
        ),
        (
            {
                "type": "object",
                "anyOf": [{"properties": {"a": {"type": "string"}}}],
                "properties": {"a": {"type": "string"}},
            },
            "anyOf[0].properties[a].type",
            "must be empty to be structural",
        ),
        ({"type": "object", "anyOf": [{"properties": {"b": {}}}]}, "properties[b]", "because it is defined in"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
            "properties[a].pattern",
            "must be a valid regular expression",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}},
            "properties[a].default",
            "must be of type integer",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/b", "type": "object"}}},
            "properties[a].$ref",
            "structural",
        ),
        ({"type": "object", "propertees": {}}, "propertees", "unknown field"),
        ({"type": "object", "required": "a"}, "required", "a list of strings"),
    ],
)
def test_a_schema_that_is_not_structural_is_refused_with_its_place(
    client: Client, schema: dict[str, Any], field: str, message: str
) -> None:
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    code, status = client.request("POST", DEFINITIONS, definition(versions=[version]))
    assert code == 422, status
    [*causes] = [(c["field"], c["message"]) for c in status["details"]["causes"]]
    assert any(f == f"spec.versions[0].schema.openAPIV3Schema.{field}" and message in m for f, m in causes), causes


def test_a_definition_that_wants_a_webhook_or_a_group_of_ours_is_refused_with_the_reason(client: Client) -> None:
    webhook = {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}}
    code, status = client.request("POST", DEFINITIONS, definition(conversion=webhook))
    assert code == 422
    assert "webhooks are not called here" in status["message"]
    code, status = client.request("POST", DEFINITIONS, small("pods", "Pod", "apps"))
    assert code == 422


def test_rules_in_cel_are_taken_with_a_warning_that_nobody_evaluates_them(client: Client) -> None:
    made = small("greenhouses", "Greenhouse")
    root = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    root["x-kubernetes-validations"] = [{"rule": "self.a > 0"}]
    answer = client.raw("POST", DEFINITIONS, json.dumps(made).encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 201
    assert "rules in CEL (x-kubernetes-validations) are kept, but not evaluated here" in answer.headers["warning"]


# ---------------------------------------------------------------- objects


def test_defaults_are_filled_in_and_unknown_fields_left_out(farm: Client) -> None:
    code, made = farm.request("POST", V1, house(colour="green", sensors=[{"name": "x"}], free={"any": [1]}))
    assert code == 201
    assert made["spec"] == {
        "crop": "basil",
        "site": "north",
        "pumps": 1,
        "sensors": [{"name": "x", "pin": 4}],
        "free": {"any": [1]},
    }
    assert made["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ({"crop": "cactus"}, 'spec.crop: Unsupported value: "cactus": supported values: "tomato", "basil", "lettuce"'),
        ({"pumps": "two"}, 'spec.pumps: Invalid value: "string": spec.pumps in body must be of type integer: "string"'),
        ({"pumps": 11}, "spec.pumps: Invalid value: 11: spec.pumps in body should be less than or equal to 10"),
        ({"site": "9"}, "spec.site: Invalid value: \"9\": spec.site in body should match '^[a-z]+$'"),
        (
            {"opened": "soon"},
            'spec.opened: Invalid value: "soon": spec.opened in body must be of type date-time: "soon"',
        ),
        ({"port": True}, 'must be of type integer,string: "boolean"'),
        ({"sensors": [{}]}, "spec.sensors[0].name: Required value"),
        ({"sensors": [{"name": "a"}, {"name": "a"}]}, 'spec.sensors[1]: Duplicate value: {"name": "a"}'),
        ({"sensors": [{"name": str(i)} for i in range(4)]}, "spec.sensors: Too many: 4: must have at most 3 items"),
        ({"tags": ["a", "a"]}, 'spec.tags[1]: Duplicate value: "a"'),
        ({"limits": {"a": "b"}}, "spec.limits[a]"),
        ({"limits": {"a": 1}}, "must validate one and only one schema (oneOf). Found 2 valid alternatives"),
        ({"template": {"kind": "X"}}, "spec.template.apiVersion: Required value: must not be empty"),
        ({"crop": None}, 'spec.crop in body must be of type string: "null"'),
    ],
)
def test_what_the_schema_forbids_is_refused_in_kubernetes_words(farm: Client, spec: dict[str, Any], cause: str) -> None:
    code, status = farm.request("POST", V1, house(**spec))
    assert code == 422
    assert status["message"].startswith('Greenhouse.farm.example.com "a" is invalid: ')
    assert cause in status["message"], status["message"]


def test_a_null_is_kept_where_it_may_be_and_gives_way_to_a_default(farm: Client) -> None:
    code, made = farm.request("POST", V1, house(opened=None, site=None))
    assert code == 201
    assert made["spec"]["opened"] is None
    assert made["spec"]["site"] == "north"


def test_the_status_is_written_through_its_subresource_alone(farm: Client) -> None:
    _, made = farm.request("POST", V1, house() | {"status": {"pumps": 5}})
    assert "status" not in made
    code, told = farm.request("PATCH", f"{V1}/a/status", {"status": {"pumps": 2}, "spec": {"crop": "tomato"}}, MERGE)
    assert code == 200
    assert (told["status"], told["spec"]["crop"]) == ({"pumps": 2}, "basil")
    assert told["metadata"]["generation"] == 1
    code, told = farm.request("PUT", f"{V1}/a", house(crop="tomato") | {"status": {"pumps": 9}})
    assert code == 200, told
    assert (told["status"], told["spec"]["crop"], told["metadata"]["generation"]) == ({"pumps": 2}, "tomato", 2)
    body = {
        "apiVersion": "farm.example.com/v1",
        "kind": "Greenhouse",
        "metadata": {"name": "a"},
        "status": {"pumps": 7},
    }
    code, told = farm.request("PUT", f"{V1}/a/status", body)
    assert (code, told["status"], told["spec"]["crop"]) == (200, {"pumps": 7}, "tomato")
    code, status = farm.request("PATCH", f"{V1}/a/status", {"status": {"pumps": "x"}}, MERGE)
    assert (code, status["details"]["causes"][0]["field"]) == (422, "status.pumps")


def test_an_object_can_be_had_in_every_served_version(farm: Client) -> None:
    beta = house("b") | {"apiVersion": "farm.example.com/v1beta1"}
    code, made = farm.request("POST", BETA, beta)
    assert (code, made["apiVersion"]) == (201, "farm.example.com/v1beta1")
    assert "site" not in made["spec"]
    code, there = farm.request("GET", f"{V1}/b")
    assert (code, there["apiVersion"]) == (200, "farm.example.com/v1")
    items = farm.request("GET", BETA)[1]["items"]
    assert [o["apiVersion"] for o in items] == ["farm.example.com/v1beta1"]


def test_the_columns_of_a_table_are_those_of_the_definition(farm: Client) -> None:
    farm.request("POST", V1, house(pumps=3))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    farm.request("PATCH", f"{V1}/a/status", ready, MERGE)
    table = farm.request("GET", V1, accept=TABLE)[1]
    assert [(c["name"], c["type"], c["priority"]) for c in table["columnDefinitions"]] == [
        ("Name", "string", 0),
        ("Crop", "string", 0),
        ("Pumps", "integer", 0),
        ("Ready", "string", 0),
        ("Site", "string", 1),
        ("Age", "date", 0),
    ]
    assert table["rows"][0]["cells"][:5] == ["a", "basil", 3, "True", "north"]


def test_fields_that_are_selectable_select_and_others_are_refused(farm: Client) -> None:
    farm.request("POST", V1, house("a"))
    farm.request("POST", V1, house("b", crop="tomato"))
    items = farm.request("GET", f"{V1}?fieldSelector=spec.crop%3Dtomato")[1]["items"]
    assert [o["metadata"]["name"] for o in items] == ["b"]
    assert farm.request("GET", f"{V1}?fieldSelector=spec.site%3Dnorth")[0] == 400


def test_scale_reads_and_writes_where_the_definition_says(farm: Client) -> None:
    farm.request("POST", V1, house())
    farm.request("PATCH", f"{V1}/a/status", {"status": {"pumps": 1, "selector": "a=b"}}, MERGE)
    scale = farm.request("GET", f"{V1}/a/scale")[1]
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 1, "selector": "a=b"})
    code, scale = farm.request("PATCH", f"{V1}/a/scale", {"spec": {"replicas": 4}}, MERGE)
    assert (code, scale["spec"]) == (200, {"replicas": 4})
    assert farm.request("GET", f"{V1}/a")[1]["spec"]["pumps"] == 4
    assert farm.request("PATCH", f"{V1}/a/scale", {"spec": {"replicas": 40}}, MERGE)[0] == 422


def test_who_scales_or_reports_owns_just_that_where_the_definition_has_it(farm: Client) -> None:
    farm.request("PATCH", f"{V1}/a?fieldManager=one", house(pumps=2), "application/apply-patch+yaml")
    farm.request("PATCH", f"{V1}/a/scale?fieldManager=hpa", {"spec": {"replicas": 3}}, MERGE)
    farm.request("PATCH", f"{V1}/a/status?fieldManager=ctl", {"status": {"pumps": 3}}, MERGE)
    found = {e["manager"]: e for e in farm.request("GET", f"{V1}/a")[1]["metadata"]["managedFields"]}
    assert {m: (e.get("subresource", ""), e["fieldsV1"]) for m, e in found.items()} == {
        "one": ("", {"f:spec": {"f:crop": {}}}),
        "hpa": ("scale", {"f:spec": {"f:pumps": {}}}),
        "ctl": ("status", {"f:status": {".": {}, "f:pumps": {}}}),
    }


def test_server_side_apply_merges_lists_by_the_keys_of_the_schema(farm: Client) -> None:
    apply = "application/apply-patch+yaml"
    one = house(sensors=[{"name": "x", "pin": 1}])
    two = {**house(), "spec": {"sensors": [{"name": "y", "pin": 2}]}}
    assert farm.request("PATCH", f"{V1}/a?fieldManager=one", one, apply)[0] == 201
    code, merged = farm.request("PATCH", f"{V1}/a?fieldManager=two", two, apply)
    assert code == 200, merged
    assert [s["name"] for s in merged["spec"]["sensors"]] == ["x", "y"]
    code, status = farm.request("PATCH", f"{V1}/a?fieldManager=two", house(crop="tomato"), apply)
    assert (code, status["details"]["causes"][0]["field"]) == (409, ".spec.crop")


def test_a_strategic_merge_patch_is_not_for_kinds_without_our_tags(farm: Client) -> None:
    farm.request("POST", V1, house())
    assert farm.request("PATCH", f"{V1}/a", {}, "application/strategic-merge-patch+json")[0] == 415


def test_a_watch_tells_of_objects_in_the_version_that_it_asked_for(store: Store) -> None:
    app = create_app(store, {TOKEN: "tester"}.get)
    client = Client(app)
    client.request("POST", DEFINITIONS, definition())

    async def run() -> list[Any]:
        watch = OpenWatch(app, BETA, "watch=true&resourceVersion=1")
        task = asyncio.create_task(watch.run())
        await asyncio.to_thread(client.request, "POST", V1, house())
        line = await watch.line()
        watch.disconnect()
        await task
        assert line is not None
        return [line["type"], line["object"]["apiVersion"], line["object"]["metadata"]["name"]]

    assert asyncio.run(run()) == ["ADDED", "farm.example.com/v1beta1", "a"]


def test_objects_go_with_their_namespace_and_with_their_owners(farm: Client, store: Store) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    farm.request("POST", "/api/v1/namespaces", space)
    there = V1.replace("/default/", "/n/")
    farm.request("POST", there, house())
    _, owner = farm.request("POST", V1, house("owner"))
    mine = {
        "apiVersion": "farm.example.com/v1",
        "kind": "Greenhouse",
        "name": "owner",
        "uid": owner["metadata"]["uid"],
    }
    farm.request("POST", V1, house("owned") | {"metadata": {"name": "owned", "ownerReferences": [mine]}})
    farm.request("DELETE", "/api/v1/namespaces/n")
    manager = Manager(store)
    manager.settle()
    assert farm.request("GET", "/api/v1/namespaces/n")[0] == 404
    assert farm.request("GET", f"{V1}/owned")[0] == 200
    farm.request("DELETE", f"{V1}/owner")
    manager.settle()
    assert farm.request("GET", f"{V1}/owned")[0] == 404


def test_documents_that_no_reader_could_take_are_refused(farm: Client) -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    for free in (deep, {"a": 1 << 70}, {"a": "\ud800"}):
        code, status = farm.request("POST", V1, house(free=free))
        assert code in (400, 422), status
    assert farm.request("GET", V1)[1]["items"] == []
