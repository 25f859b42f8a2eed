"""DELETE of one object and of a collection, with what goes along with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cloudlink.hub.api.answers import Answer, answer, bad_request, forbidden
from cloudlink.hub.api.calls import Call, Context, document_of
from cloudlink.hub.api.reads import existing, get_list, selected, shown
from cloudlink.hub.changes import Delete, MarkDeleted, ObjectChange, Update
from cloudlink.hub.revisions import with_meta
from cloudlink.hub.store import FIRST_NAMESPACES, Store
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.registry import RESOURCES

POLICIES = ("Background", "Foreground", "Orphan")
_OWNED = ("Pod", "ReplicaSet")  # what our controllers own; the only kinds that can be orphaned
_MAX_GRACE = 1 << 31


@dataclass(frozen=True, slots=True)
class Options:
    """metav1.DeleteOptions. Foreground deletion is treated as Background: what is owned follows."""

    grace: int | None = None
    orphan: bool = False
    uid: str | None = None
    revision: str | None = None
    dry_run: bool = False


def options_of(call: Call) -> Options:
    """From the body, and from the query where the body says nothing."""
    document: dict[str, Any] = document_of(call.body, call.content_type) if call.body.strip() else {}
    if document.get("kind", "DeleteOptions") != "DeleteOptions":
        raise bad_request(f"the body of a DELETE is DeleteOptions, not {str(document['kind'])[:64]}")
    grace = document.get("gracePeriodSeconds")
    grace = call.number("gracePeriodSeconds") if grace is None else grace
    if grace is not None and (isinstance(grace, bool) or not isinstance(grace, int) or not 0 <= grace < _MAX_GRACE):
        raise bad_request("gracePeriodSeconds must be a number of seconds, 0 or more")
    policy = document.get("propagationPolicy") or call.query.get("propagationPolicy") or "Background"
    if policy not in POLICIES:
        raise bad_request(f"propagationPolicy must be one of {', '.join(POLICIES)}")
    orphan = policy == "Orphan" or document.get("orphanDependents") is True or call.flag("orphanDependents")
    preconditions = document.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise bad_request("preconditions must be a mapping with uid, resourceVersion or both")
    return Options(
        grace,
        orphan,
        preconditions.get("uid"),
        preconditions.get("resourceVersion"),
        call.dry_run or document.get("dryRun") == ["All"],
    )


def delete_one(context: Context, call: Call) -> Answer:
    """Answers with the object where it lives on for a while, else with a Status that names what is gone."""
    options = options_of(call)
    obj = existing(context, call)
    context.commit(_deletion(context.store, obj, options), options.dry_run)
    left = context.store.get(obj.kind, obj.metadata.namespace, obj.metadata.name)
    if left is not None and left.metadata.deletion_timestamp and left.metadata.uid == obj.metadata.uid:
        return shown(context, call, left)
    resource = call.target.resource
    details = {"name": obj.metadata.name, "kind": resource.plural, "uid": obj.metadata.uid}
    if resource.group:
        details["group"] = resource.group
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    return answer(status)


def delete_collection(context: Context, call: Call) -> Answer:
    """All that the selectors choose, in one commit; answers with the list as it was."""
    options = options_of(call)
    if not call.target.namespace and call.target.resource.namespaced:
        raise bad_request("a collection is deleted in one namespace at a time")
    before = get_list(context, call)
    changes = [c for obj in selected(context, call) for c in _deletion(context.store, obj, options)]
    context.commit(changes, options.dry_run)
    return before


def _deletion(store: Store, obj: KubeObject, options: Options) -> list[ObjectChange]:
    meta = obj.metadata
    if obj.kind == "Namespace":
        return _namespace_deletion(store, obj, options)
    changes = _orphans(store, obj) if options.orphan else []
    if meta.finalizers:
        return [*changes, _mark(obj, 0, options)]
    if isinstance(obj, Pod) and obj.spec.node_name:
        grace = obj.spec.termination_grace_period_seconds if options.grace is None else options.grace
        if grace > 0:
            return [*changes, _mark(obj, grace, options)]
    return [*changes, Delete(obj.kind, meta.namespace, meta.name, options.uid or meta.uid, options.revision)]


def _mark(obj: KubeObject, grace: int, options: Options) -> MarkDeleted:
    meta = obj.metadata
    return MarkDeleted(obj.kind, meta.namespace, meta.name, grace, options.uid or meta.uid, options.revision)


def _namespace_deletion(store: Store, namespace: KubeObject, options: Options) -> list[ObjectChange]:
    """Mark it, and delete all that is in it; the store lets it go when the last of that has gone."""
    name = namespace.metadata.name
    if name in FIRST_NAMESPACES:
        resource = next(r for r in RESOURCES if r.kind == "Namespace")
        raise forbidden(resource, name, "this namespace may not be deleted")
    changes: list[ObjectChange] = [_mark(namespace, 0, options)]
    for resource in RESOURCES:
        if resource.namespaced and resource.kind != "Event":  # events tell of the end, and go with the namespace
            for obj in store.list(resource.kind, name):
                changes += _deletion(store, obj, Options())
    return changes


def _orphans(store: Store, owner: KubeObject) -> list[ObjectChange]:
    """Take the owner's name off what it owns, in the same commit, so that nobody collects it."""
    uid = owner.metadata.uid
    changes: list[ObjectChange] = []
    for kind in _OWNED:
        for obj in store.list(kind, owner.metadata.namespace or None):
            kept = tuple(r for r in obj.metadata.owner_references if r.uid != uid)
            if len(kept) != len(obj.metadata.owner_references):
                changes.append(Update(with_meta(obj, owner_references=kept)))
    return changes
