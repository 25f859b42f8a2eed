"""/openapi/v2, Swagger 2.0, out of the same schemas and operations as /openapi/v3. Pure.

kubectl before 1.27 validates by it, and `kubectl explain --output=plaintext-openapiv2` reads it. Swagger knows less
than OpenAPI 3: what it has no word for is left out, so that such a client lets pass what the server will look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cloudlink.hub.api.discovery import VERSION
from cloudlink.hub.api.openapi import Document, Schema, packed, paths_of, schemas_of
from cloudlink.hub.api.openapi_proto import document_bytes
from cloudlink.kube.catalogue import Catalogue

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"  # asked for with an "@", which is no MIME
ACCEPTED = "application/com.github.proto-openapi.spec.v2"

_KEPT = (
    *("type", "format", "description", "title", "default", "enum", "required", "pattern", "minimum", "maximum"),
    *("exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "uniqueItems"),
)


def _schema(schema: Mapping[str, Any]) -> Schema:
    """One of OpenAPI 3.0 in Swagger's words."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace("#/components/schemas/", "#/definitions/")}
    alone = schema.get("allOf")
    if isinstance(alone, list) and len(alone) == 1 and "$ref" in alone[0]:
        inner = _schema(alone[0])
        return inner | {k: schema[k] for k in ("description", "default") if k in schema}
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        kept = {k: schema[k] for k in ("description", "default") if k in schema}
        return {"type": "string", "format": "int-or-string", **kept}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("nullable")
    found: Schema = {k: v for k, v in schema.items() if k in _KEPT or k.startswith("x-kubernetes-")}
    if free:  # an old client would refuse what may be there, or may be null
        return {k: v for k, v in found.items() if k not in ("type", "required", "enum", "format")}
    if isinstance(schema.get("properties"), Mapping):
        found["properties"] = {name: _schema(inner) for name, inner in schema["properties"].items()}
    if isinstance(schema.get("items"), Mapping):
        found["items"] = _schema(schema["items"])
    if isinstance(schema.get("additionalProperties"), Mapping):
        found["additionalProperties"] = _schema(schema["additionalProperties"])
    return found


def _parameter(parameter: Mapping[str, Any]) -> Schema:
    kept = {k: parameter[k] for k in ("name", "in", "description", "required") if k in parameter}
    return kept | {"type": parameter["schema"]["type"], "uniqueItems": True}


def _operation(operation: Mapping[str, Any]) -> Schema:
    found: Schema = {k: v for k, v in operation.items() if k in ("tags", "operationId") or k.startswith("x-")}
    found["parameters"] = [_parameter(p) for p in operation["parameters"]]
    if body := operation.get("requestBody"):
        media = list(body["content"])
        inner = _schema(body["content"][media[0]]["schema"])
        found["parameters"].append({"in": "body", "name": "body", "schema": inner, "required": "required" in body})
        found["consumes"] = media
    found["produces"] = ["application/json"]
    found["responses"] = {code: _response(told) for code, told in operation["responses"].items()}
    return found


def _response(told: Mapping[str, Any]) -> Schema:
    content = told.get("content", {}).get("application/json")
    return {"description": told["description"], **({"schema": _schema(content["schema"])} if content else {})}


def swagger(catalogue: Catalogue) -> Schema:
    """The whole document as a value."""
    paths: Schema = {}
    for path, item in paths_of(catalogue.resources).items():
        paths[path] = {k: _operation(v) for k, v in item.items() if k != "parameters"}
        paths[path]["parameters"] = [_parameter(p) for p in item["parameters"]]
    return {
        "swagger": "2.0",
        "info": {"title": "edged", "version": VERSION["gitVersion"]},
        "paths": paths,
        "definitions": {name: _schema(schema) for name, schema in schemas_of(catalogue.resources).items()},
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    }


@lru_cache(maxsize=2)
def as_json(catalogue: Catalogue) -> Document:
    return packed(swagger(catalogue))


@lru_cache(maxsize=2)
def as_protobuf(catalogue: Catalogue) -> Document:
    return packed(document_bytes(swagger(catalogue)))
