"""Schemas of what has no model here: answers and options that every kind shares (apimachinery's metav1). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudlink.hub.api.openapi_schemas import META, REF, Models, Schema
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.reviews import TokenRequest

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer", "format": "int32"}
_LONG: Schema = {"type": "integer", "format": "int64"}
_FLAG: Schema = {"type": "boolean"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_ANY: Schema = {"type": "object"}


def _ref(name: str) -> Schema:
    return {"$ref": REF + name}


def _many(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}


def _object(description: str, required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    found: Schema = {"type": "object", "description": description, "properties": properties}
    return found | {"required": list(required)} if required else found


def _headed(description: str, required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return _object(description, required, apiVersion=_TEXT, kind=_TEXT, **properties)


def list_of(name: str, kind: str) -> Schema:
    return _headed(
        f"{kind}List is a list of {kind} objects.",
        ("items",),
        items=_many(name),
        metadata={**_ref(f"{META}.ListMeta")},
    )


COMMON: Mapping[str, Schema] = {
    f"{META}.ListMeta": _object(
        "What a list says of itself.",
        (),
        **{"continue": _TEXT},
        remainingItemCount=_LONG,
        resourceVersion=_TEXT,
        selfLink=_TEXT,
    ),
    f"{META}.StatusCause": _object("One thing that is wrong.", field=_TEXT, message=_TEXT, reason=_TEXT),
    f"{META}.StatusDetails": _object(
        "What an answer is about.",
        causes=_many(f"{META}.StatusCause"),
        group=_TEXT,
        kind=_TEXT,
        name=_TEXT,
        retryAfterSeconds=_NUMBER,
        uid=_TEXT,
    ),
    f"{META}.Status": _headed(
        "Status is an answer that is no object: what failed and why, or what was done.",
        code=_NUMBER,
        details=_ref(f"{META}.StatusDetails"),
        message=_TEXT,
        metadata=_ref(f"{META}.ListMeta"),
        reason=_TEXT,
        status=_TEXT,
    ),
    f"{META}.Preconditions": _object("What must hold for a change to be made.", resourceVersion=_TEXT, uid=_TEXT),
    f"{META}.DeleteOptions": _headed(
        "DeleteOptions say how an object is to end.",
        dryRun=_TEXTS,
        gracePeriodSeconds=_LONG,
        orphanDependents=_FLAG,
        preconditions=_ref(f"{META}.Preconditions"),
        propagationPolicy=_TEXT,
    ),
    f"{META}.Patch": {"type": "object", "description": "A patch, of the kind that its media type says."},
    f"{META}.WatchEvent": _object(
        "One change of one object: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.",
        ("type", "object"),
        type=_TEXT,
        object=_ANY,
    ),
}


def _of_others() -> dict[str, Schema]:
    """Kinds that only subresources speak of."""
    meta = {"allOf": [_ref(f"{META}.ObjectMeta")], "default": {}}
    return {
        "io.k8s.api.autoscaling.v1.Scale": _headed(
            "Scale is how many replicas an object has, and is to have.",
            metadata=meta,
            spec=_object("What is wanted.", replicas=_NUMBER),
            status=_object("What is there.", ("replicas",), replicas=_NUMBER, selector=_TEXT),
        ),
        "io.k8s.api.policy.v1.Eviction": _headed(
            "Eviction asks for a pod to end, which disruption budgets may refuse for now.",
            metadata=meta,
            deleteOptions=_ref(f"{META}.DeleteOptions"),
        ),
        "io.k8s.api.core.v1.Binding": _headed(
            "Binding puts a pod on a node.",
            ("target",),
            metadata=meta,
            target=_object("The node.", apiVersion=_TEXT, kind=_TEXT, name=_TEXT),
        ),
    }


_GVKS: Mapping[str, tuple[str, str, str]] = {
    f"{META}.Status": ("", "v1", "Status"),
    f"{META}.DeleteOptions": ("", "v1", "DeleteOptions"),
    "io.k8s.api.autoscaling.v1.Scale": ("autoscaling", "v1", "Scale"),
    "io.k8s.api.policy.v1.Eviction": ("policy", "v1", "Eviction"),
    "io.k8s.api.core.v1.Binding": ("", "v1", "Binding"),
}


def common(models: Models) -> dict[str, Schema]:
    """All of these schemas; what they refer to is added to the models."""
    models.refer(ObjectMeta)
    found: dict[str, Schema] = {}
    for name, schema in {**COMMON, **_of_others()}.items():
        if name in _GVKS:
            group, version, kind = _GVKS[name]
            extension = [{"group": group, "version": version, "kind": kind}]
            schema = {**schema, "x-kubernetes-group-version-kind": extension}
        found[name] = schema
    return found


def token_request(models: Models) -> Any:
    """ServiceAccounts' subresource has a model of its own."""
    return models.refer(TokenRequest)


# ---------------------------------------------------------------- discovery, version

_RESOURCES: Schema = _headed(
    "The kinds of one group and version.",
    ("groupVersion", "resources"),
    groupVersion=_TEXT,
    resources={"type": "array", "items": _ANY},
)
_GROUP: Schema = _headed("One API group.", ("name", "versions"), name=_TEXT, versions={"type": "array", "items": _ANY})
_GROUPS: Schema = _headed("The API groups.", ("groups",), groups={"type": "array", "items": _ANY})
_VERSIONS: Schema = _headed("The versions of the core group.", ("versions",), versions=_TEXTS)
_VERSION: Schema = _object(
    "Which API this is.", ("major", "minor", "gitVersion"), major=_TEXT, minor=_TEXT, gitVersion=_TEXT
)

DISCOVERY: Mapping[str, Schema] = {
    f"{META}.APIResourceList": _RESOURCES,
    f"{META}.APIGroup": _GROUP,
    f"{META}.APIGroupList": _GROUPS,
    f"{META}.APIVersions": _VERSIONS,
    "io.k8s.apimachinery.pkg.version.Info": _VERSION,
}
