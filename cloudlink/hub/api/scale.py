"""The /scale subresource: autoscaling/v1 Scale over whatever has replicas."""

from __future__ import annotations

from typing import Any

from cloudlink.hub.api import tracking
from cloudlink.hub.api.answers import Answer, answer, bad_request
from cloudlink.hub.api.calls import Call, Context, document_of
from cloudlink.hub.api.cells import selector_text
from cloudlink.hub.api.custom import at, scaled
from cloudlink.hub.api.merge import APPLY
from cloudlink.hub.api.patches import applied_fields, patch_type, patched
from cloudlink.hub.api.reads import existing
from cloudlink.hub.api.writes import store
from cloudlink.hub.revisions import with_meta
from cloudlink.kube.apps import Deployment, ReplicaSet, StatefulSet
from cloudlink.kube.custom import CustomObject
from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.meta import LabelSelector, ManagedFieldsEntry
from cloudlink.kube.replication import ReplicationController

BuiltIn = Deployment | ReplicaSet | StatefulSet | ReplicationController
Scalable = BuiltIn | CustomObject


def get_scale(context: Context, call: Call) -> Answer:
    return answer(_scale(_scalable(context, call), call))


def put_scale(context: Context, call: Call) -> Answer:
    tracking.check_options(call)
    return _scaled(context, call, document_of(call.body, call.content_type), applies=False)


def patch_scale(context: Context, call: Call) -> Answer:
    """Scale has no lists, so strategic merge and merge patch are the same here."""
    kind = patch_type(call)
    tracking.check_options(call, applies=kind == APPLY)
    if kind == APPLY:
        return _scaled(context, call, document_of(call.body, "yaml"), applies=True)
    return _scaled(context, call, patched(_scale(_scalable(context, call), call), call, kind), applies=False)


def _scalable(context: Context, call: Call) -> Scalable:
    obj = existing(context, call)
    assert isinstance(obj, Scalable)  # the registry lists scale for these only
    return obj


def _scale(obj: Scalable, call: Call) -> dict[str, Any]:
    meta = obj.metadata
    wanted, there, selector = _custom_numbers(obj, call) if isinstance(obj, CustomObject) else _numbers(obj)
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
        "spec": {"replicas": wanted},
        "status": {"replicas": there, "selector": selector},
    }


def _numbers(obj: BuiltIn) -> tuple[int, int, str]:
    """Wanted and present replicas, and the selector as text."""
    by = obj.spec.selector
    selector = by if isinstance(by, LabelSelector) else LabelSelector(match_labels=by)
    return obj.spec.replicas, obj.status.replicas, selector_text(selector)


def _custom_numbers(obj: CustomObject, call: Call) -> tuple[int, int, str]:
    """Likewise, from where the definition says that they are."""
    shape = call.target.resource.shape
    assert shape is not None
    assert shape.scale is not None
    content = dict(obj.content)
    numbers = [n if isinstance(n := at(content, p), int) else 0 for p in (shape.scale.spec, shape.scale.status)]
    selector = at(content, shape.scale.selector)
    return numbers[0], numbers[1], selector if isinstance(selector, str) else ""


def _scaled(context: Context, call: Call, document: dict[str, Any], applies: bool) -> Answer:
    obj = _scalable(context, call)
    if document.get("kind", "Scale") != "Scale":
        raise bad_request("the body must be a Scale of autoscaling/v1")
    spec, metadata = document.get("spec") or {}, document.get("metadata") or {}
    replicas = spec.get("replicas", 0) if isinstance(spec, dict) else None
    if isinstance(replicas, bool) or not isinstance(replicas, int) or not 0 <= replicas < 1 << 31:
        cause = Cause("spec.replicas", "FieldValueInvalid", "must be a whole number, 0 or more")
        raise Invalid([cause], "Scale", obj.metadata.name)
    expect = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    new: Scalable
    if isinstance(obj, CustomObject):
        new = scaled(obj, call.target.resource, replicas)
    else:
        new = obj.model_copy(update={"spec": obj.spec.model_copy(update={"replicas": replicas})})
    context.admit(new, obj)
    new = with_meta(new, resource_version=expect or "")
    done = store(context, call, new, _owners(context, call, new, obj, applies))
    assert isinstance(done, Scalable)
    return answer(_scale(done, call))


def _owners(
    context: Context, call: Call, new: Scalable, old: Scalable, applies: bool
) -> tuple[ManagedFieldsEntry, ...]:
    if not applies:
        return tracking.after(context, call, new, old, None)
    return applied_fields(context, call, tracking.owned(call, new), new, old)
