"""POST and PUT of objects and their status, and what every write goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudlink.hub import admission
from cloudlink.hub.api import tracking
from cloudlink.hub.api.addresses import with_cluster_ip
from cloudlink.hub.api.answers import Answer, ApiError, bad_request, conflict, forbidden, not_found
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.custom import as_changed, as_new, status_document
from cloudlink.hub.api.immutable import check_update
from cloudlink.hub.api.reads import existing, shown
from cloudlink.hub.api.strictness import checked
from cloudlink.hub.changes import Change, Create, Update, UpdateStatus
from cloudlink.hub.errors import AlreadyExists, Conflict, Forbidden
from cloudlink.hub.revisions import with_meta
from cloudlink.kube.batch import Job, check_generated
from cloudlink.kube.claims import BINDING, PROTECTION
from cloudlink.kube.core import Namespace, PersistentVolumeClaim, Pod, Service
from cloudlink.kube.custom import CustomObject
from cloudlink.kube.meta import KubeObject, ManagedFieldsEntry

Own = Callable[[KubeObject], tuple[ManagedFieldsEntry, ...]]  # whose the fields are of an object about to be stored

NAMES_TRIED = 8  # for generateName, as in Kubernetes

# ---------------------------------------------------------------- making


def create(context: Context, call: Call) -> Answer:
    tracking.check_options(call)
    document = call.document()
    given = tracking.given_in(document)

    def own(new: KubeObject) -> tuple[ManagedFieldsEntry, ...]:
        return tracking.after(context, call, new, None, given)

    return shown(context, call, created(context, call, parsed(call, document), own), 201)


def created(context: Context, call: Call, obj: KubeObject, own: Own) -> KubeObject:
    """A new object, stored. A name that is made up anew for each try hits another one's now and then."""
    if obj.metadata.resource_version:
        raise bad_request("resourceVersion should not be set on objects to be created")
    for tries_left in reversed(range(NAMES_TRIED)):
        try:
            return _stored(context, call, _named(obj, context.suffix), own)
        except AlreadyExists:
            if obj.metadata.name or not tries_left:
                raise
        except Conflict as e:
            if e.kind != "ResourceQuota" or not tries_left:  # another hub made something in this namespace just now
                raise
    raise AssertionError("the last try returns or raises")


def _named(obj: KubeObject, suffix: Callable[[], str]) -> KubeObject:
    return obj if obj.metadata.name else with_meta(obj, name=obj.metadata.generate_name[:58] + suffix())


def _stored(context: Context, call: Call, obj: KubeObject, own: Own) -> KubeObject:
    _check_place(context, call, obj)
    if isinstance(obj, CustomObject):
        obj = as_new(obj, call.target.resource)
    if hasattr(obj, "status"):
        obj = obj.model_copy(update={"status": type(obj).model_fields["status"].get_default()})
    if isinstance(obj, PersistentVolumeClaim):
        obj = _unbound(obj)
    managed = own(obj)  # what the server adds from here on is nobody's
    if isinstance(obj, Service):
        obj = with_cluster_ip(obj, _services(context), context.network)
    room = _room(context)
    try:
        obj = room.let_in(obj)
        if isinstance(obj, Job):
            check_generated(obj)
    except Forbidden as e:
        raise forbidden(call.target.resource, obj.metadata.name, str(e)) from None
    context.admit(obj, None)
    changes: list[Change] = [Create(with_meta(obj, managed_fields=managed)), *room.ledger.changes()]
    return context.commit(changes, call.dry_run)[0]


def _room(context: Context) -> admission.Room:
    return admission.Room(context.store, context.now(), context.patience)


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
    shape = call.target.resource.shape
    if shape is not None and shape.closing:
        message = "create not allowed while custom resource definition is terminating"
        raise ApiError(405, "MethodNotAllowed", message, call.target.resource, obj.metadata.name)
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


def parsed(call: Call, document: dict[str, Any]) -> KubeObject:
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
    return checked(call, document)


# ---------------------------------------------------------------- changing


def replace(context: Context, call: Call) -> Answer:
    """PUT: the whole object, or only its status below /status."""
    tracking.check_options(call)
    old = existing(context, call)
    document = call.document()
    if isinstance(old, CustomObject) and call.target.subresource == "status":
        document = status_document(document, old)
    return shown(context, call, updated(context, call, parsed(call, document), old, tracking.given_in(document)))


def updated(context: Context, call: Call, new: KubeObject, old: KubeObject, given: Any) -> KubeObject:
    """The object as somebody wants it, stored; what he changed is his from now on.

    :param given: metadata.managedFields of the document as it came.
    """
    new = settled(context, call, new, old)
    return store(context, call, new, tracking.after(context, call, new, old, given))


def settled(context: Context, call: Call, new: KubeObject, old: KubeObject) -> KubeObject:
    """The object as it will be: with what the server keeps, and refused where it may not become that."""
    if isinstance(new, CustomObject) and isinstance(old, CustomObject):
        new = as_changed(new, old, call.target.resource, call.target.subresource)
    if call.target.subresource:
        return new
    if new.metadata.uid and new.metadata.uid != old.metadata.uid:
        why = f"Precondition failed: UID in precondition: {new.metadata.uid}, UID in object meta: {old.metadata.uid}"
        raise conflict(call.target.resource, call.target.name, why)
    if isinstance(new, Service) and isinstance(old, Service):
        new = _keep_address(context, new, old)
    if isinstance(new, PersistentVolumeClaim) and isinstance(old, PersistentVolumeClaim):
        new = _keep_volume(new, old)
    if isinstance(new, Namespace) and isinstance(old, Namespace):
        new = new.model_copy(update={"spec": old.spec})
    if isinstance(new, Pod) and isinstance(old, Pod) and new.spec.priority is None:
        new = new.model_copy(update={"spec": new.spec.model_copy(update={"priority": old.spec.priority})})
    check_update(new, old)
    try:
        _room(context).let_become(new, old)
    except Forbidden as e:
        raise forbidden(call.target.resource, new.metadata.name, str(e)) from None
    context.admit(new, old)
    return new


def store(context: Context, call: Call, new: KubeObject, managed: tuple[ManagedFieldsEntry, ...]) -> KubeObject:
    expect = new.metadata.resource_version or None
    if call.target.subresource == "status":
        return context.commit([UpdateStatus(new, expect, managed)], call.dry_run)[0]
    return context.commit([Update(with_meta(new, managed_fields=managed), expect)], call.dry_run)[0]


def _keep_address(context: Context, new: Service, old: Service) -> Service:
    """Who writes a Service back without its address means to keep it."""
    if new.spec.cluster_ip or new.spec.type == "ExternalName":
        return new
    if not old.spec.cluster_ip:
        return with_cluster_ip(new, _services(context), context.network)
    kept = {name: getattr(old.spec, name) for name in ("cluster_ip", "cluster_ips", "ip_families")}
    return new.model_copy(update={"spec": new.spec.model_copy(update=kept)})
