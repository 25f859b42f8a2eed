"""What the API says of itself: OpenAPI documents in all their forms, and discovery that can be asked again cheaply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.api import openapi, openapi_v2
from cloudlink.hub.api.discovery import discover
from cloudlink.hub.api.openapi_proto import document_bytes
from cloudlink.hub.api.openapi_schemas import name_of
from cloudlink.hub.api.server import create_app
from cloudlink.hub.store import Store
from cloudlink.kube.catalogue import BUILT_IN
from tests.fakes.hub_client import TOKEN, Client
from tests.unit.test_hub_custom_kinds import DEFINITIONS, definition

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    store = Store.open(f"sqlite:///{tmp_path}/hub.db")
    yield Client(create_app(store, {TOKEN: "tester"}.get))
    store.close()


def documents() -> dict[str, Any]:
    found = {path: openapi.document(BUILT_IN, path) for path in openapi.addresses(BUILT_IN)}
    return {path: json.loads(made.body()) for path, made in found.items() if made is not None}


def test_documents_refer_to_nothing_that_is_not_there() -> None:
    for path, document in documents().items():
        schemas = document["components"]["schemas"]
        for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]:
            assert part.split('"', 1)[0] in schemas, path


def test_every_operation_has_a_name_of_its_own_in_its_document() -> None:
    for path, document in documents().items():
        ids = [o["operationId"] for p in document["paths"].values() for o in p.values() if isinstance(o, dict)]
        assert len(set(ids)) == len(ids), path
        assert ids, path


def test_every_patch_says_that_the_server_validates_and_dries_runs() -> None:
    patches = [p["patch"] for d in documents().values() for p in d["paths"].values() if "patch" in p]
    assert len(patches) > 20
    assert all({"dryRun", "fieldValidation"} <= {q["name"] for q in p["parameters"]} for p in patches)


def test_every_kind_explains_itself_and_is_found_by_its_group_version_and_kind() -> None:
    found = documents()
    for resource in BUILT_IN.resources:
        path = f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"
        schema = found[path]["components"]["schemas"][name_of(resource.model)]
        assert schema["description"], resource.kind
        gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        assert schema["x-kubernetes-group-version-kind"] == [gvk]


def test_fields_have_types_formats_defaults_and_ways_to_merge() -> None:
    core = documents()["api/v1"]["components"]["schemas"]
    pod = core["io.k8s.api.core.v1.PodSpec"]["properties"]
    assert pod["containers"]["x-kubernetes-patch-merge-key"] == "name"
    assert pod["containers"]["x-kubernetes-list-map-keys"] == ["name"]
    assert pod["terminationGracePeriodSeconds"] == {"type": "integer", "format": "int64", "default": 30}
    assert pod["restartPolicy"] == {
        "type": "string",
        "enum": ["Always", "OnFailure", "Never"],
        "default": "Always",
    }
    meta = core["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]
    assert meta["creationTimestamp"]["format"] == "date-time"
    port = core["io.k8s.api.core.v1.ServicePort"]["properties"]["targetPort"]
    assert port["format"] == "int-or-string"
    limits = core["io.k8s.api.core.v1.ResourceRequirements"]["properties"]["limits"]
    assert limits["additionalProperties"]["format"] == "quantity"


def test_a_document_is_kept_for_good_under_the_address_that_names_its_content(client: Client) -> None:
    address = client.request("GET", "/openapi/v3")[1]["paths"]["apis/apps/v1"]["serverRelativeURL"]
    kept = client.raw("GET", address)
    assert kept.headers["cache-control"] == "public, immutable"
    assert "cache-control" not in client.raw("GET", "/openapi/v3/apis/apps/v1").headers
    again = client.raw("GET", address, headers={"if-none-match": kept.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.request("GET", "/openapi/v3/apis/none/v1")[0] == 404


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/openapi/v3", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"),
        ("/openapi/v3/api/v1", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"),
        ("/openapi/v2", "text/html"),
    ],
)
def test_a_form_that_cannot_be_had_is_refused_with_those_that_can(client: Client, path: str, accept: str) -> None:
    code, status = client.request("GET", path, accept=accept)
    assert (code, status["reason"]) == (406, "NotAcceptable")
    assert "application/json" in status["message"]


def test_discovery_is_not_sent_again_to_who_has_it_until_a_kind_is_defined(client: Client) -> None:
    first = client.raw("GET", "/apis", headers={"accept": AGGREGATED})
    tag = {"accept": AGGREGATED, "if-none-match": first.headers["etag"]}
    assert client.raw("GET", "/apis", headers=tag).status_code == 304
    client.request("POST", DEFINITIONS, definition())
    second = client.raw("GET", "/apis", headers=tag)
    assert second.status_code == 200
    [group] = [g for g in second.json()["items"] if g["metadata"]["name"] == "farm.example.com"]
    assert [v["version"] for v in group["versions"]] == ["v1", "v1beta1"]
    [kind] = group["versions"][0]["resources"]
    assert (kind["singularResource"], kind["shortNames"], kind["categories"]) == ("greenhouse", ["gh"], ["all", "farm"])
    assert [s["subresource"] for s in kind["subresources"]] == ["status", "scale"]


def test_both_forms_of_discovery_name_verbs_short_names_and_the_version_that_is_stored() -> None:
    for version in ("v2", "v2beta1"):
        found = discover("/api", f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
        assert found is not None
        assert json.loads(found.body)["apiVersion"] == f"apidiscovery.k8s.io/{version}"
    plain = discover("/api/v1", "")
    assert plain is not None
    pods = next(r for r in json.loads(plain.body)["resources"] if r["name"] == "pods")
    assert pods["shortNames"] == ["po"]
    assert len(pods["storageVersionHash"]) == 12
    reviews = discover("/apis/authorization.k8s.io/v1", "")
    assert reviews is not None
    assert all(r["verbs"] == ["create"] for r in json.loads(reviews.body)["resources"])


def test_a_kind_of_other_people_is_described_by_its_definition(client: Client) -> None:
    client.request("POST", DEFINITIONS, definition())
    code, document = client.request("GET", "/openapi/v3/apis/farm.example.com/v1")
    assert code == 200
    schema = document["components"]["schemas"]["com.example.farm.v1.Greenhouse"]
    assert schema["description"] == "A greenhouse, and what grows in it."
    assert schema["properties"]["spec"]["properties"]["sensors"]["x-kubernetes-list-map-keys"] == ["name"]
    one = "/apis/farm.example.com/v1/namespaces/{namespace}/greenhouses/{name}"
    assert {one, f"{one}/status", f"{one}/scale"} <= document["paths"].keys()
    swagger = client.request("GET", "/openapi/v2")[1]
    spec = swagger["definitions"]["com.example.farm.v1.Greenhouse"]["properties"]["spec"]["properties"]
    assert spec["port"] == {"type": "string", "format": "int-or-string"}
    assert "type" not in spec["opened"], "an old client would refuse the null that may be there"
    assert client.raw("GET", "/openapi/v2", headers={"accept": PROTOBUF}).content.startswith(b"\x0a\x032.0")


def test_swagger_has_the_same_kinds_in_its_own_words() -> None:
    swagger = openapi_v2.swagger(BUILT_IN)
    text = json.dumps(swagger)
    assert "#/components/" not in text
    assert '"oneOf"' not in text
    for part in text.split('"$ref": "#/definitions/')[1:]:
        assert part.split('"', 1)[0] in swagger["definitions"]
    pod = swagger["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"]
    assert {"fieldValidation", "dryRun", "body"} <= {p["name"] for p in pod["parameters"]}


def test_the_protobuf_form_has_every_definition_with_its_fields() -> None:
    made = document_bytes(openapi_v2.swagger(BUILT_IN))
    fields = list(wire(made))
    assert fields[0] == (1, b"2.0")
    [definitions] = [raw for number, raw in fields if number == 9]
    names = {dict(wire(entry))[1] for _, entry in wire(definitions)}
    assert b"io.k8s.api.core.v1.PodSpec" in names
    assert len(names) == len(openapi_v2.swagger(BUILT_IN)["definitions"])


def test_the_schema_of_a_body_is_where_kubectl_looks_for_it() -> None:
    body = {"in": "body", "name": "body", "schema": {"$ref": "#/definitions/x"}}
    document = {"paths": {"/p": {"post": {"operationId": "o", "parameters": [body]}, "parameters": []}}}
    made = document_bytes({"info": {"title": "t", "version": "v"}, "definitions": {}, **document})
    at = [8, 2, 2, 4, 8, 1, 1, 5, 1]  # Paths > NamedPathItem > PathItem > POST > parameter > Body > schema > _ref
    for number in at:
        made = next(raw for n, raw in wire(made) if n == number)
    assert made == b"#/definitions/x"


def wire(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message; this document's outer levels have no others."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    at = 0
    while at < len(raw):
        tag = varint()
        assert tag & 7 == 2
        size = varint()
        yield tag >> 3, raw[at : at + size]
        at += size


def test_documents_of_all_kinds_together_take_little_memory() -> None:
    found = [openapi.document(BUILT_IN, path) for path in openapi.addresses(BUILT_IN)]
    kept = sum(len(d.packed) for d in found if d is not None)
    kept += len(openapi_v2.as_json(BUILT_IN).packed) + len(openapi_v2.as_protobuf(BUILT_IN).packed)
    assert kept < 1 << 20
