"""/openapi/v3 out of the kube models: what kubectl's validation, apply and explain read. Pure.

One document for each group and version, as in Kubernetes; with the merge keys of `strategic`, so that a client
computes the same patches as this server applies.
"""

from __future__ import annotations

import hashlib
import inspect
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union

from cloudlink.hub.api.answers import encode
from cloudlink.hub.api.discovery import VERSION
from cloudlink.hub.api.merge import PATCH_TYPES
from cloudlink.kube.meta import KubeObject, Model
from cloudlink.kube.registry import RESOURCES, Resource
from cloudlink.kube.strategies import is_atomic, merge_extensions

Schema = dict[str, Any]

_PACKAGES = {"apps": "io.k8s.api.apps.v1", "meta": "io.k8s.apimachinery.pkg.apis.meta.v1"}


def _name(model: type[Model]) -> str:
    module = model.__module__.rpartition(".")[2]
    return f"{_PACKAGES.get(module, 'io.k8s.api.core.v1')}.{model.__name__}"


def _reference(model: type[Model]) -> Schema:
    return {"$ref": f"#/components/schemas/{_name(model)}"}


def _schema_of(annotation: Any, models: dict[str, type[Model]]) -> Schema:
    """JSON schema of one annotation; models met on the way are added to `models` and referred to."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _schema_of(args[0], models)
    if origin in (Union, types.UnionType):
        real = [a for a in args if a is not type(None)]
        if set(real) == {int, str}:
            return {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
        return _schema_of(real[0], models)
    if origin is tuple:
        return {"type": "array", "items": _schema_of(args[0], models) if args and args[0] != () else {}}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(args[1], models)}
    if origin is Literal:
        if all(isinstance(a, bool) for a in args):
            return {"type": "boolean"}
        return {"type": "string", "enum": [a for a in args if a != ""]} if any(args) else {"type": "string"}
    if isinstance(annotation, type) and issubclass(annotation, Model):
        if _name(annotation) not in models:
            models[_name(annotation)] = annotation
        return _reference(annotation)
    return {bool: {"type": "boolean"}, int: {"type": "integer"}, str: {"type": "string"}}.get(annotation, {}).copy()


def _sentence(model: type[Model]) -> str:
    return inspect.cleandoc(model.__doc__ or "").split("\n\n:", 1)[0].replace("\n", " ")


def _model_schema(model: type[Model], models: dict[str, type[Model]]) -> Schema:
    properties: dict[str, Schema] = {}
    for name, field in model.model_fields.items():
        alias = field.alias or name
        schema = _schema_of(field.annotation, models)
        if "$ref" in schema:
            referred = models[schema["$ref"].rpartition("/")[2]]
            schema = {"allOf": [schema], "default": {}} | ({"description": d} if (d := _sentence(referred)) else {})
        schema |= merge_extensions(model, alias, schema.get("type") == "array")
        properties[alias] = schema
    document: Schema = {"type": "object", "description": _sentence(model), "properties": properties}
    if is_atomic(model):
        document["x-kubernetes-map-type"] = "atomic"
    required = [f.alias or n for n, f in model.model_fields.items() if f.is_required()]
    if required:
        document["required"] = required
    return document


def _schemas(resources: list[Resource]) -> dict[str, Schema]:
    """The models of these resources and all that they refer to. Ends: each model is described once."""
    models: dict[str, type[Model]] = {_name(r.model): r.model for r in resources}
    kinds: dict[type[KubeObject], Resource] = {r.model: r for r in resources}
    done: dict[str, Schema] = {}
    while todo := [name for name in models if name not in done]:
        for name in todo:
            done[name] = _model_schema(models[name], models)
    for model, resource in kinds.items():
        done[_name(model)]["x-kubernetes-group-version-kind"] = [_gvk(resource)]
    return dict(sorted(done.items()))


def _gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


# ---------------------------------------------------------------- paths


def _parameter(name: str, place: str = "query") -> Schema:
    parameter: Schema = {"name": name, "in": place, "schema": {"type": "string", "uniqueItems": True}}
    return parameter | {"required": True} if place == "path" else parameter


_WRITE_PARAMETERS = [_parameter(n) for n in ("dryRun", "fieldManager", "fieldValidation")]


def _operation(resource: Resource, action: str, body: tuple[str, ...] = ()) -> Schema:
    content = {"application/json": {"schema": _reference(resource.model)}}
    operation: Schema = {
        "tags": [f"{resource.group or 'core'}_{resource.version}"],
        "operationId": f"{action}{resource.kind}",
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(resource),
    }
    if action in ("post", "put", "patch", "delete"):
        operation["parameters"] = _WRITE_PARAMETERS
    if body:
        operation["requestBody"] = {"content": {media: {"schema": {"type": "object"}} for media in body}}
    return operation


def _paths(resource: Resource) -> Schema:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    place = [_parameter("namespace", "path")] if resource.namespaced else []
    collection = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
    collection = f"{collection}/{resource.plural}"
    json = ("application/json",)
    return {
        collection: {
            "get": _operation(resource, "list"),
            "post": _operation(resource, "post", json),
            "delete": _operation(resource, "deletecollection"),
            "parameters": place,
        },
        f"{collection}/{{name}}": {
            "get": _operation(resource, "get"),
            "put": _operation(resource, "put", json),
            "patch": _operation(resource, "patch", PATCH_TYPES),
            "delete": _operation(resource, "delete"),
            "parameters": [_parameter("name", "path"), *place],
        },
    }


# ---------------------------------------------------------------- documents


@cache
def documents() -> Mapping[str, bytes]:
    """ "api/v1" and "apis/apps/v1" -> that group's OpenAPI 3.0 document, as JSON. Made when first asked for."""
    made: dict[str, bytes] = {}
    for api_version in dict.fromkeys(r.api_version for r in RESOURCES):
        resources = [r for r in RESOURCES if r.api_version == api_version]
        paths: Schema = {}
        for resource in resources:
            paths |= _paths(resource)
        document = {
            "openapi": "3.0.0",
            "info": {"title": "edged", "version": VERSION["gitVersion"]},
            "paths": paths,
            "components": {"schemas": _schemas(resources)},
        }
        made[f"apis/{api_version}" if "/" in api_version else f"api/{api_version}"] = encode(document)
    return made


@cache
def index() -> bytes:
    """/openapi/v3: where the documents are. The hash in an address lets clients keep what they have."""
    paths = {
        path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={hashlib.sha256(body).hexdigest()[:32].upper()}"}
        for path, body in documents().items()
    }
    return encode({"paths": paths})
