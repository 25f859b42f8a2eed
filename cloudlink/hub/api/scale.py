"""The /scale subresource: autoscaling/v1 Scale over Deployments and ReplicaSets."""

from __future__ import annotations

from typing import Any

from cloudlink.hub.api.answers import Answer, ApiError, answer, bad_request
from cloudlink.hub.api.calls import Call, Context, document_of, json_of
from cloudlink.hub.api.columns import selector_text
from cloudlink.hub.api.merge import PatchError, json_patch, merge_patch
from cloudlink.hub.api.reads import existing
from cloudlink.hub.api.writes import JSON_PATCH, MERGE, STRATEGIC
from cloudlink.hub.changes import Update
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.errors import Cause, Invalid


def get_scale(context: Context, call: Call) -> Answer:
    return answer(_scale(_scalable(context, call)))


def put_scale(context: Context, call: Call) -> Answer:
    return _scaled(context, call, document_of(call.body, call.content_type))


def patch_scale(context: Context, call: Call) -> Answer:
    """Scale has no lists, so strategic merge and merge patch are the same here."""
    kind = call.content_type.partition(";")[0].strip()
    before = _scale(_scalable(context, call))
    try:
        if kind in (MERGE, STRATEGIC):
            document = merge_patch(before, json_of(call.body))
        elif kind == JSON_PATCH:
            document = json_patch(before, json_of(call.body))
        else:
            message = f"a scale is patched with {MERGE}, {STRATEGIC} or {JSON_PATCH}"
            raise ApiError(415, "UnsupportedMediaType", message)
    except PatchError as e:
        raise bad_request(f"the patch can't be applied: {e}") from None
    if not isinstance(document, dict):
        raise bad_request("the patch leaves no Scale behind")
    return _scaled(context, call, document)


def _scalable(context: Context, call: Call) -> Deployment | ReplicaSet:
    obj = existing(context, call)
    assert isinstance(obj, Deployment | ReplicaSet)  # the registry lists scale for these only
    return obj


def _scale(obj: Deployment | ReplicaSet) -> dict[str, Any]:
    meta = obj.metadata
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "creationTimestamp": meta.creation_timestamp,
        },
        "spec": {"replicas": obj.spec.replicas},
        "status": {"replicas": obj.status.replicas, "selector": selector_text(obj.spec.selector)},
    }


def _scaled(context: Context, call: Call, document: dict[str, Any]) -> Answer:
    obj = _scalable(context, call)
    if document.get("kind", "Scale") != "Scale":
        raise bad_request("the body must be a Scale of autoscaling/v1")
    spec, metadata = document.get("spec") or {}, document.get("metadata") or {}
    replicas = spec.get("replicas", 0) if isinstance(spec, dict) else None
    if isinstance(replicas, bool) or not isinstance(replicas, int) or not 0 <= replicas < 1 << 31:
        cause = Cause("spec.replicas", "FieldValueInvalid", "must be a whole number, 0 or more")
        raise Invalid([cause], "Scale", obj.metadata.name)
    expect = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    new = obj.model_copy(update={"spec": obj.spec.model_copy(update={"replicas": replicas})})
    context.admit(new, obj)
    [done] = context.commit([Update(new, expect or None)], call.dry_run)
    assert isinstance(done, Deployment | ReplicaSet)
    return answer(_scale(done))
