"""POST, PUT and PATCH of objects, their status and their scale."""

from __future__ import annotations

import secrets
from typing import Any

from cloudlink.hub.api.addresses import with_cluster_ip
from cloudlink.hub.api.answers import Answer, ApiError, bad_request, conflict, forbidden, not_found
from cloudlink.hub.api.calls import Call, Context, document_of, json_of
from cloudlink.hub.api.immutable import check_update
from cloudlink.hub.api.merge import PatchError, json_patch, merge_patch
from cloudlink.hub.api.reads import existing, shown
from cloudlink.hub.api.strategic import strategic_merge
from cloudlink.hub.changes import Create, Update, UpdateStatus
from cloudlink.hub.revisions import with_meta
from cloudlink.kube.claims import BINDING, PROTECTION
from cloudlink.kube.core import Namespace, PersistentVolumeClaim, Service
from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump, parse

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
PATCH_TYPES = (JSON_PATCH, MERGE, STRATEGIC, APPLY)

# As apimachinery's names.SimpleNameGenerator: no vowels, so that no word can come out.
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


# ---------------------------------------------------------------- making


def create(context: Context, call: Call) -> Answer:
    return shown(context, call, _created(context, call, document_of(call.body, call.content_type)), 201)


def _created(context: Context, call: Call, document: dict[str, Any]) -> KubeObject:
    obj = _parsed(call, document)
    if obj.metadata.resource_version:
        raise bad_request("resourceVersion should not be set on objects to be created")
    if not obj.metadata.name:
        made_up = "".join(secrets.choice(_LETTERS) for _ in range(5))
        obj = with_meta(obj, name=obj.metadata.generate_name[:58] + made_up)
    _check_place(context, call, obj)
    if hasattr(obj, "status"):
        obj = obj.model_copy(update={"status": type(obj).model_fields["status"].get_default()})
    if isinstance(obj, Service):
        obj = with_cluster_ip(obj, _services(context), context.network)
    if isinstance(obj, PersistentVolumeClaim):
        obj = _unbound(obj)
    context.admit(obj, None)
    return context.commit([Create(obj)], call.dry_run)[0]


def _unbound(claim: PersistentVolumeClaim) -> PersistentVolumeClaim:
    """A new claim, whatever another cluster's (or an earlier life's) export says of its binding. Its finalizer keeps
    the data from being deleted under a pod (Kubernetes' StorageObjectInUseProtection)."""
    meta = claim.metadata
    kept = {k: v for k, v in meta.annotations.items() if k not in BINDING}
    finalizers = tuple(dict.fromkeys((*meta.finalizers, PROTECTION)))
    claim = with_meta(claim, annotations=kept, finalizers=finalizers)
    return claim.model_copy(update={"spec": claim.spec.model_copy(update={"volume_name": ""})})


def _keep_volume(new: PersistentVolumeClaim, old: PersistentVolumeClaim) -> PersistentVolumeClaim:
    """Who writes a claim back without where its data is doesn't mean to lose it."""
    kept = {k: v for k, v in old.metadata.annotations.items() if k in BINDING}
    new = with_meta(new, annotations=kept | new.metadata.annotations)
    volume = new.spec.volume_name or old.spec.volume_name
    return new.model_copy(update={"spec": new.spec.model_copy(update={"volume_name": volume})})


def _services(context: Context) -> list[Service]:
    return [s for s in context.store.list("Service") if isinstance(s, Service)]


def _check_place(context: Context, call: Call, obj: KubeObject) -> None:
    """An Event's namespace may be missing as far as the store is concerned, but not for whoever posts one here."""
    namespace = obj.metadata.namespace
    home = context.store.get("Namespace", None, namespace) if namespace else None
    if namespace and home is None:
        raise from_missing_namespace(namespace)
    if home is not None and home.metadata.deletion_timestamp:
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        raise forbidden(call.target.resource, obj.metadata.name, why)


def from_missing_namespace(namespace: str) -> ApiError:
    from cloudlink.kube.registry import by_kind

    resource = by_kind("v1", "Namespace")
    assert resource is not None
    return not_found(resource, namespace)


def _parsed(call: Call, document: dict[str, Any]) -> KubeObject:
    """The object of a body, in the namespace (and with the name) that the path says; 400 where they disagree."""
    target = call.target
    resource = target.resource
    document = {"apiVersion": resource.api_version, "kind": resource.kind} | document
    said = (document["apiVersion"], document["kind"])
    if said != (resource.api_version, resource.kind) and isinstance(said[0], str) and isinstance(said[1], str):
        raise bad_request(
            f"the body is a {said[1]} of {said[0]}, but this path takes a {resource.kind} of {resource.api_version}"
        )
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        namespace, name = metadata.get("namespace"), metadata.get("name")
        if resource.namespaced and not namespace:
            document["metadata"] = metadata = metadata | {"namespace": target.namespace}
        elif resource.namespaced and namespace != target.namespace:
            raise bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request:"
                f" {namespace} is not {target.namespace}"
            )
        if target.name and not name:
            document["metadata"] = metadata | {"name": target.name}
        elif target.name and name != target.name:
            raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
    elif metadata is None and resource.namespaced:
        document["metadata"] = {"namespace": target.namespace} | ({"name": target.name} if target.name else {})
    return parse(document)


# ---------------------------------------------------------------- changing


def replace(context: Context, call: Call) -> Answer:
    """PUT: the whole object, or only its status below /status."""
    old = existing(context, call)
    new = _parsed(call, document_of(call.body, call.content_type))
    return shown(context, call, _updated(context, call, new, old))


def patch(context: Context, call: Call) -> Answer:
    kind = call.content_type.partition(";")[0].strip()
    if kind == APPLY:
        return _apply(context, call)
    if kind not in PATCH_TYPES:
        message = f"the body of the request was in an unknown format; accepted media types: {', '.join(PATCH_TYPES)}"
        raise ApiError(415, "UnsupportedMediaType", message)
    old = existing(context, call)
    patched = _patched(dump(old), call, kind)
    return shown(context, call, _updated(context, call, _parsed(call, patched), old))


def _patched(document: dict[str, Any], call: Call, kind: str) -> dict[str, Any]:
    content = document_of(call.body, "yaml") if kind == APPLY else json_of(call.body)
    try:
        if kind == JSON_PATCH:
            result = json_patch(document, content)
        elif kind == MERGE:
            result = merge_patch(document, content)
        else:
            result = strategic_merge(document, content, call.target.resource.model)
    except PatchError as e:
        target = call.target
        cause = Cause("", "FieldValueInvalid", f"the patch can't be applied: {e}")
        raise Invalid([cause], target.resource.kind, target.name) from None
    if not isinstance(result, dict):
        raise bad_request("the patch leaves no object behind")
    return result


def _apply(context: Context, call: Call) -> Answer:
    """Server-side apply, without the owners of fields: make the object, or merge into it what is given.

    What an earlier apply gave and this one leaves out stays; kubectl's client-side apply knows the difference.
    """
    target = call.target
    old = context.store.get(target.resource.kind, target.namespace, target.name)
    if old is None:
        return shown(context, call, _created(context, call, document_of(call.body, "yaml")), 201)
    patched = _patched(dump(old), call, APPLY)
    return shown(context, call, _updated(context, call, _parsed(call, patched), old))


def _updated(context: Context, call: Call, new: KubeObject, old: KubeObject) -> KubeObject:
    expect = new.metadata.resource_version or None
    if call.target.subresource == "status":
        return context.commit([UpdateStatus(new, expect)], call.dry_run)[0]
    if new.metadata.uid and new.metadata.uid != old.metadata.uid:
        why = f"the UID in the precondition is {new.metadata.uid}, the UID in the object is {old.metadata.uid}"
        raise conflict(call.target.resource, call.target.name, why)
    if isinstance(new, Service) and isinstance(old, Service):
        new = _keep_address(context, new, old)
    if isinstance(new, PersistentVolumeClaim) and isinstance(old, PersistentVolumeClaim):
        new = _keep_volume(new, old)
    if isinstance(new, Namespace) and isinstance(old, Namespace):
        new = new.model_copy(update={"spec": old.spec})
    check_update(new, old)
    context.admit(new, old)
    return context.commit([Update(new, expect)], call.dry_run)[0]


def _keep_address(context: Context, new: Service, old: Service) -> Service:
    """Who writes a Service back without its address means to keep it."""
    if new.spec.cluster_ip:
        return new
    if not old.spec.cluster_ip:
        return with_cluster_ip(new, _services(context), context.network)
    kept = {name: getattr(old.spec, name) for name in ("cluster_ip", "cluster_ips", "ip_families")}
    return new.model_copy(update={"spec": new.spec.model_copy(update=kept)})
