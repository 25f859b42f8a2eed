"""JSON schemas of our models, as OpenAPI 3.0 has them: types, formats, defaults, and the x-kubernetes extensions. Pure.

Descriptions are the docstrings: of a model its sentences, of a field what `:ivar name:` says.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, Union

from pydantic.fields import FieldInfo

from cloudlink.hub.api.openapi_words import KINDS
from cloudlink.kube.meta import KubeObject, Model, ObjectMeta, Quantity
from cloudlink.kube.registry import Resource
from cloudlink.kube.strategies import is_atomic, merge_extensions

Schema = dict[str, Any]

META = "io.k8s.apimachinery.pkg.apis.meta.v1"
REF = "#/components/schemas/"
_PACKAGES: Mapping[str, str] = {
    "apps": "io.k8s.api.apps.v1",
    "batch": "io.k8s.api.batch.v1",
    "definitions": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "meta": META,
    "networking": "io.k8s.api.networking.v1",
    "policy": "io.k8s.api.policy.v1",
    "rbac": "io.k8s.api.rbac.v1",
    "reviews": "io.k8s.api.authorization.v1",
    "scheduling": "io.k8s.api.scheduling.v1",
}
_ELSEWHERE: Mapping[str, str] = dict.fromkeys(
    ("TokenReview", "TokenRequest", "SelfSubjectReview"), "io.k8s.api.authentication.v1"
) | {"EndpointSlice": "io.k8s.api.discovery.v1", "Lease": "io.k8s.api.coordination.v1"}
# Fields that are int64 in Kubernetes' types; all other whole numbers are int32.
_LONG = frozenset(
    {"generation", "observedGeneration", "deletionGracePeriodSeconds", "terminationGracePeriodSeconds"}
    | {"activeDeadlineSeconds", "runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "tolerationSeconds"}
    | {"seconds", "startingDeadlineSeconds", "gracePeriodSeconds", "sizeBytes", "revision", "expirationSeconds"}
)
_COMMON: Mapping[str, str] = {
    "apiVersion": "Group and version of the schema that this object is written in, such as v1 or apps/v1.",
    "kind": "What this object is, in CamelCase; a kind of the API's group and version.",
    "metadata": "Standard object's metadata: its name, labels, annotations and what the server keeps of it.",
    "spec": "What is wanted.",
    "status": "What is observed; written by the system.",
}
_SCALARS: Mapping[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int32"},
    float: {"type": "number", "format": "double"},
    str: {"type": "string"},
}
_ANYTHING: Schema = {"type": "object"}  # kubectl explain stumbles over a schema that says nothing
_TIME = re.compile(r"(Time|Timestamp)$")
_IVAR = re.compile(r"^\s*:ivar (\w+): (.*?)(?=^\s*:\w+ |\Z)", re.MULTILINE | re.DOTALL)


class Models:
    """The models that a document speaks of, and what they are called in it."""

    def __init__(self) -> None:
        self.found: dict[str, type[Model]] = {}

    def refer(self, model: type[Model]) -> Schema:
        name = name_of(model)
        self.found.setdefault(name, model)
        return {"$ref": REF + name}

    def schemas(self) -> dict[str, Schema]:
        """All of them and all that they refer to. Ends: each model is described once."""
        done: dict[str, Schema] = {}
        while todo := [name for name in self.found if name not in done]:
            for name in todo:
                done[name], met = _described(self.found[name])
                for model in met:
                    self.refer(model)
        return done


@cache
def name_of(model: type[Model]) -> str:
    module = model.__module__.rpartition(".")[2]
    name = model.__name__.removesuffix("V1beta1")
    if name in _ELSEWHERE:
        return f"{_ELSEWHERE[name]}{'beta1' if name != model.__name__ else ''}.{name}"
    return f"{_PACKAGES.get(module, 'io.k8s.api.core.v1')}.{name}"


def described_kind(resource: Resource, schema: Schema) -> Schema:
    """With the extension by which clients find the schema of a kind."""
    return {**schema, "x-kubernetes-group-version-kind": [gvk(resource)]}


def gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


# ---------------------------------------------------------------- models


@cache  # one entry for each model class
def _described(model: type[Model]) -> tuple[Schema, tuple[type[Model], ...]]:
    """A model's schema, and the models that it refers to."""
    met = Models()
    notes = _notes(model)
    properties: dict[str, Schema] = {}
    for name, field in model.model_fields.items():
        alias = field.alias or name
        schema = _field(alias, field, met)
        text = notes.get(name) or (_COMMON.get(alias, "") if issubclass(model, KubeObject) else "")
        if "$ref" in schema:
            text = text or sentence(met.found[schema["$ref"].removeprefix(REF)])
            schema = {"allOf": [schema], "default": {}}
        if text:
            schema["description"] = text
        schema |= merge_extensions(model, alias, schema.get("type") == "array")
        properties[alias] = schema
    document: Schema = {"type": "object", "properties": properties}
    if text := sentence(model):
        document["description"] = text
    if is_atomic(model):
        document["x-kubernetes-map-type"] = "atomic"
    if required := [f.alias or n for n, f in model.model_fields.items() if f.is_required()]:
        document["required"] = required
    return document, tuple(met.found.values())


def sentence(model: type[Model]) -> str:
    """What a model's docstring says of the whole."""
    told = re.split(r"^\s*:", inspect.cleandoc(model.__doc__ or ""), maxsplit=1, flags=re.MULTILINE)[0]
    return " ".join(told.split()) or KINDS.get(model.__name__.removesuffix("V1beta1"), "")


def _notes(model: type[Model]) -> dict[str, str]:
    """Field -> what the docstrings of the model and its bases say of it."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, Model):
            for match in _IVAR.finditer(inspect.cleandoc(base.__doc__ or "")):
                text = " ".join(match[2].split())
                found[match[1]] = text[:1].upper() + text[1:]
    return found


def _field(alias: str, field: FieldInfo, met: Models) -> Schema:
    schema = _is_quantity(field.metadata) or _schema(field.annotation, alias, met)
    default = field.default
    if not field.is_required() and isinstance(default, str | int | bool) and default and "$ref" not in schema:
        schema["default"] = default
    if schema.get("type") == "string" and "enum" not in schema and _TIME.search(alias):
        schema["format"] = "date-time"
    return schema


def _is_quantity(metadata: Iterable[Any]) -> Schema | None:
    marks = typing.get_args(Quantity)[1:]
    if not any(m in marks for m in metadata):
        return None
    return {"type": "string", "format": "quantity", "description": "A number with an optional suffix: 64Mi, 0.5, 100m."}


def _schema(annotation: Any, alias: str, met: Models) -> Schema:
    """JSON schema of one annotation; models met on the way are referred to."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _is_quantity(args[1:]) or _schema(args[0], alias, met)
    if origin in (Union, types.UnionType):
        real = [a for a in args if a is not type(None)]
        if set(real) == {int, str}:
            return {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
        return _schema(real[0], alias, met)
    if origin is tuple:
        return {"type": "array", "items": _item(_schema(args[0], alias, met)) if args and args[0] != () else _ANYTHING}
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        inner = {} if args[1] is Any else _item(_schema(args[1], alias, met))
        return {"type": "object", "additionalProperties": inner} if inner else {"type": "object"}
    if origin is Literal:
        return _choice(args)
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return met.refer(annotation)
    schema = dict(_SCALARS.get(annotation, _ANYTHING))
    if annotation is int and alias in _LONG:
        schema["format"] = "int64"
    return schema


def _item(schema: Schema) -> Schema:
    return {"allOf": [schema], "default": {}} if "$ref" in schema else schema


def _choice(options: tuple[Any, ...]) -> Schema:
    if all(isinstance(o, bool) for o in options):
        return {"type": "boolean"}
    if all(isinstance(o, int) for o in options):
        return {"type": "integer", "format": "int32"}
    named = [o for o in options if o != ""]
    # One choice alone is a name that Kubernetes lets be anything: a client may well send it empty.
    return {"type": "string", "enum": named} if len(named) > 1 else {"type": "string"}


# ---------------------------------------------------------------- other people's kinds


def custom_name(resource: Resource) -> str:
    """com.example.farm.v1.Greenhouse for Greenhouse of farm.example.com/v1."""
    return ".".join((*reversed(resource.group.split(".")), resource.version, resource.kind))


def custom_schema(resource: Resource, models: Models) -> Schema:
    """A definition's schema, with what every object has."""
    assert resource.shape is not None
    schema = dict(resource.shape.schema)
    head: Schema = {
        "apiVersion": {"type": "string", "description": _COMMON["apiVersion"]},
        "kind": {"type": "string", "description": _COMMON["kind"]},
        "metadata": {
            "allOf": [models.refer(ObjectMeta)],
            "default": {},
            "description": _COMMON["metadata"],
        },
    }
    own = {k: _explicable(v) for k, v in (schema.get("properties") or {}).items() if k not in head}
    return {**schema, "properties": {**head, **own}}


def _explicable(schema: Any) -> Any:
    """Without junctors, as upstream publishes it: `kubectl explain` stumbles over what has no type of its own."""
    if not isinstance(schema, Mapping):
        return schema
    found = {k: v for k, v in schema.items() if k not in ("allOf", "anyOf", "oneOf", "not")}
    if schema.get("x-kubernetes-int-or-string"):
        return {**found, "oneOf": [{"type": "integer"}, {"type": "string"}]}
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), Mapping):
            found[word] = _explicable(schema[word])
    if isinstance(schema.get("properties"), Mapping):
        found["properties"] = {name: _explicable(inner) for name, inner in schema["properties"].items()}
    if not schema.get("type"):
        found["type"] = "object"
    return found
