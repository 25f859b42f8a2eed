"""/openapi/v3: one document for each group and version, which kubectl's validation, apply and explain read. Pure.

Documents are made when they are first asked for, once for each set of kinds, and kept compressed: in clear all of
them take some megabytes, which nobody reads twice.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from cloudlink.hub.api.answers import encode
from cloudlink.hub.api.discovery import VERSION
from cloudlink.hub.api.openapi_common import DISCOVERY, common, list_of, token_request
from cloudlink.hub.api.openapi_paths import Operations, ref, responses
from cloudlink.hub.api.openapi_schemas import (
    META,
    Models,
    custom_name,
    custom_schema,
    described_kind,
    name_of,
)
from cloudlink.kube.catalogue import Catalogue
from cloudlink.kube.registry import Resource

Schema = dict[str, Any]
Kinds = tuple[Resource, ...]


class Document(NamedTuple):
    """:ivar digest: of the content, for addresses and ETags.
    :ivar packed: the JSON, deflated.
    """

    digest: str
    packed: bytes

    def body(self) -> bytes:
        return zlib.decompress(self.packed)


def packed(content: Any) -> Document:
    body = content if isinstance(content, bytes) else encode(content)
    return Document(hashlib.sha256(body).hexdigest().upper(), zlib.compress(body, 6))


# ---------------------------------------------------------------- kinds


def schemas_of(resources: Kinds) -> dict[str, Schema]:
    """Everything that the operations on these kinds refer to."""
    models = Models()
    found = common(models)
    for resource in resources:
        name, kind = schema_name(resource), resource.kind
        if resource.shape is None:
            models.refer(resource.model)
        else:
            found[name] = described_kind(resource, custom_schema(resource, models))
        if "list" in resource.verbs:
            extension = [{"group": resource.group, "version": resource.version, "kind": f"{kind}List"}]
            found[f"{name}List"] = {**list_of(name, kind), "x-kubernetes-group-version-kind": extension}
        if "token" in resource.subresources:
            token_request(models)
    found |= {name: schema for name, schema in models.schemas().items() if name not in found}
    for resource in resources:
        if resource.shape is None:
            found[name_of(resource.model)] = described_kind(resource, found[name_of(resource.model)])
    return dict(sorted(found.items()))


def schema_name(resource: Resource) -> str:
    return name_of(resource.model) if resource.shape is None else custom_name(resource)


def paths_of(resources: Kinds) -> Schema:
    found: Schema = {}
    for resource in resources:
        found |= Operations(resource, schema_name(resource)).paths()
    return found


def _whole(paths: Schema, schemas: Mapping[str, Schema]) -> Schema:
    return {
        "openapi": "3.0.0",
        "info": {"title": "edged", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey",
                    "name": "authorization",
                    "in": "header",
                    "description": "Bearer Token authentication",
                }
            },
        },
        "security": [{"BearerToken": []}],
    }


@lru_cache(maxsize=512)
def _of_kinds(resources: Kinds) -> Document:
    first = resources[0]
    root = f"/apis/{first.api_version}/" if first.group else f"/api/{first.version}/"
    listed = {root: {"get": _plain("getAPIResources", f"{META}.APIResourceList")}}
    schemas = schemas_of(resources) | {f"{META}.APIResourceList": DISCOVERY[f"{META}.APIResourceList"]}
    return packed(_whole(listed | paths_of(resources), schemas))


# ---------------------------------------------------------------- everything else


def _plain(id_: str, name: str) -> Schema:
    told = responses({200: ref(name)}, (401, 403, 404, 406, 503))
    return {"operationId": id_, "responses": told, "parameters": []}


def _health(path: str) -> Schema:
    told = responses({200: None}, (401,))
    told["503"] = {"description": "it isn't well", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"operationId": f"get{path[1:].capitalize()}", "responses": told, "parameters": []}


@lru_cache(maxsize=128)
def _of_path(path: str) -> Document:
    """ "api", "apis", "apis/{group}" and "version"."""
    known: Mapping[str, tuple[str, str]] = {
        "api": ("/api/", f"{META}.APIVersions"),
        "apis": ("/apis/", f"{META}.APIGroupList"),
        "version": ("/version", "io.k8s.apimachinery.pkg.version.Info"),
    }
    url, name = known.get(path, (f"/{path}/", f"{META}.APIGroup"))
    paths: Schema = {url: {"get": _plain(f"get{name.rpartition('.')[2]}", name)}}
    if path == "version":
        paths |= {p: {"get": _health(p)} for p in ("/healthz", "/livez", "/readyz")}
    return packed(_whole(paths, {**common(models := Models()), **models.schemas(), name: DISCOVERY[name]}))


def addresses(catalogue: Catalogue) -> dict[str, Kinds]:
    """ "api/v1", "apis/apps/v1"... and the kinds that each document is about; () for those about none."""
    found: dict[str, Kinds] = {"api": (), "apis": (), "version": ()}
    for resource in catalogue.resources:
        if resource.group:
            found.setdefault(f"apis/{resource.group}", ())
        path = f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"
        found[path] = (*found.get(path, ()), resource)
    return dict(sorted(found.items()))


def document(catalogue: Catalogue, path: str) -> Document | None:
    """The document at /openapi/v3/{path}; None where there is none."""
    kinds = addresses(catalogue).get(path)
    if kinds is None:
        return None
    return _of_kinds(kinds) if kinds else _of_path(path)


@lru_cache(maxsize=2)
def index(catalogue: Catalogue) -> Document:
    """/openapi/v3: where the documents are. The hash in an address lets clients keep what they have."""
    paths: Schema = {}
    for path, kinds in addresses(catalogue).items():
        made = _of_kinds(kinds) if kinds else _of_path(path)
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={made.digest}"}
    return packed({"paths": paths})
