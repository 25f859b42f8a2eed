"""DELETE of one object and of a collection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from cloudlink.hub.api.answers import Answer, ApiError, answer, bad_request, conflict, forbidden, invalid_options
from cloudlink.hub.api.calls import Call, Context, document_of
from cloudlink.hub.api.listing import Listing, get_list
from cloudlink.hub.api.reads import existing, shown
from cloudlink.hub.changes import ObjectChange
from cloudlink.hub.deletion import Policy, deletion
from cloudlink.hub.store import FIRST_NAMESPACES
from cloudlink.kube.errors import Cause
from cloudlink.kube.meta import KubeObject

POLICIES = ("Background", "Foreground", "Orphan")
_MAX_GRACE = 1 << 31
_AT_ONCE = 200  # objects of a collection in one commit; between commits, others have their turn


@dataclass(frozen=True, slots=True)
class Options:
    """metav1.DeleteOptions.

    :ivar grace: seconds; None = what the object asks for.
    :ivar policy: None = as its finalizers and its kind have it.
    """

    grace: int | None = None
    policy: Policy | None = None
    uid: str | None = None
    revision: str | None = None
    dry_run: bool = False
    accepted: bool = False  # orphanDependents=false was said: what isn't gone yet is answered with 202


def options_of(call: Call, document: dict[str, Any] | None = None) -> Options:
    """From the body, and from the query where the body says nothing."""
    if document is None:
        document = document_of(call.body, call.content_type) if call.body.strip() else {}
    if document.get("kind", "DeleteOptions") != "DeleteOptions":
        raise bad_request(f"the body of a DELETE is DeleteOptions, not {str(document['kind'])[:64]}")
    if document.get("ignoreStoreReadErrorWithClusterBreakingPotential"):
        cause = Cause(
            "ignoreStoreReadErrorWithClusterBreakingPotential",
            "FieldValueInvalid",
            "Invalid value: true: there are no objects here that can't be read; leave it out",
        )
        raise invalid_options("DeleteOptions", [cause])
    preconditions = document.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise bad_request("preconditions must be a mapping with uid, resourceVersion or both")
    policy, orphan = _policy(call, document)
    return Options(
        _grace(call, document),
        policy,
        _text(preconditions, "uid"),
        _text(preconditions, "resourceVersion"),
        _dry_run(call, document),
        orphan is False,
    )


def _grace(call: Call, document: dict[str, Any]) -> int | None:
    """Below nothing there is a second, as in Kubernetes."""
    grace = document.get("gracePeriodSeconds")
    if grace is None:
        text = call.query.get("gracePeriodSeconds", "")
        grace = -1 if text.startswith("-") and text[1:].isdigit() else call.number("gracePeriodSeconds")
    if grace is None:
        return None
    if isinstance(grace, bool) or not isinstance(grace, int) or grace >= _MAX_GRACE:
        raise bad_request("gracePeriodSeconds must be a number of seconds")
    return grace if grace >= 0 else 1


def _policy(call: Call, document: dict[str, Any]) -> tuple[Policy | None, bool | None]:
    """The policy, and what the older orphanDependents said, if anything."""
    policy = document.get("propagationPolicy") or call.query.get("propagationPolicy") or None
    orphan = document.get("orphanDependents")
    if orphan is None and call.query.get("orphanDependents"):
        orphan = call.flag("orphanDependents")
    if orphan is not None and not isinstance(orphan, bool):
        raise bad_request("orphanDependents must be true or false")
    causes: list[Cause] = []
    if policy is not None and policy not in POLICIES:
        listed = ", ".join(POLICIES)
        why = f'Unsupported value: "{str(policy)[:64]}": DeletionPropagation need to be one of {listed} or nil'
        causes.append(Cause("propagationPolicy", "FieldValueNotSupported", why))
    if policy is not None and orphan is not None:
        why = f'Invalid value: "{str(policy)[:64]}": orphanDependents and deletionPropagation cannot be both set'
        causes.append(Cause("propagationPolicy", "FieldValueInvalid", why))
    if causes:
        raise invalid_options("DeleteOptions", causes)
    if orphan is not None:
        return ("Orphan" if orphan else "Background"), orphan
    return cast("Policy | None", policy), None


def _text(preconditions: dict[str, Any], name: str) -> str | None:
    value = preconditions.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"preconditions.{name} must be a string")
    return value


def _dry_run(call: Call, document: dict[str, Any]) -> bool:
    said = document.get("dryRun") or []
    if said not in ([], ["All"]):
        why = f'Unsupported value: {str(said)[:64]}: supported values: "All"'
        raise invalid_options("DeleteOptions", [Cause("dryRun", "FieldValueNotSupported", why)])
    return call.dry_run or bool(said)


def delete_one(context: Context, call: Call) -> Answer:
    """Answers with the object where it lives on for a while, else with a Status that names what is gone."""
    return deleted(context, call, existing(context, call), options_of(call))


def deleted(context: Context, call: Call, obj: KubeObject, options: Options) -> Answer:
    change = _change(call, obj, options)
    check_preconditions(call, obj, options)
    left: KubeObject | None = obj
    if change is not None:
        left = context.commit([change, *_content(context, obj)], options.dry_run)[0]
        if not options.dry_run:
            left = context.store.get(obj.key, obj.metadata.namespace, obj.metadata.name)
        elif not left.metadata.deletion_timestamp:
            left = None  # it would be gone
    if left is not None and left.metadata.uid == obj.metadata.uid:
        return shown(context, call, left, 202 if options.accepted else 200)
    resource = call.target.resource
    details = {"name": obj.metadata.name, "kind": resource.plural, "uid": obj.metadata.uid}
    if resource.group:
        details["group"] = resource.group
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    return answer(status)


def _content(context: Context, namespace: KubeObject) -> list[ObjectChange]:
    """What is in a namespace goes with the same commit, unless it is much: then the namespace controller sees to it.
    Events tell of the end, and go with the namespace itself."""
    if namespace.kind != "Namespace":
        return []
    content = [o for o in context.store.within(namespace.metadata.name) if o.kind != "Event"]
    if len(content) > _AT_ONCE:
        return []
    return [c for o in content if (c := deletion(o, "Background")) is not None]


async def delete_collection(context: Context, call: Call) -> Listing:
    """All that the selectors (and limit, continue) choose; answers with the list as it was.

    Not all or nothing: what goes meanwhile by itself has gone, and after a refusal the rest stays.
    """
    options = options_of(call)
    resource = call.target.resource
    if resource.kind == "Namespace" or (resource.namespaced and not call.target.namespace):
        message = "the server does not allow this method on the requested resource"
        raise ApiError(405, "MethodNotAllowed", message, resource)
    page = get_list(context, call)
    for start in range(0, len(page.objects), _AT_ONCE):
        part = page.objects[start : start + _AT_ONCE]
        there = [o for obj in part if (o := context.store.get(obj.key, obj.metadata.namespace, obj.metadata.name))]
        changes = [c for obj in there if (c := _change(call, obj, options)) is not None]
        context.commit(changes, options.dry_run)
        await asyncio.sleep(0)
    return page


def _change(call: Call, obj: KubeObject, options: Options) -> ObjectChange | None:
    if obj.kind == "Namespace" and obj.metadata.name in FIRST_NAMESPACES:
        raise forbidden(call.target.resource, obj.metadata.name, "this namespace may not be deleted")
    return deletion(obj, options.policy, options.grace, options.uid, options.revision)


def check_preconditions(call: Call, obj: KubeObject, options: Options) -> None:
    """Preconditions of what needs no change any more are checked all the same."""
    meta = obj.metadata
    for wanted, there, name in (
        (options.uid, meta.uid, "UID"),
        (options.revision, meta.resource_version, "ResourceVersion"),
    ):
        if wanted and wanted != there:
            why = f"Precondition failed: {name} in precondition: {wanted}, {name} in object meta: {there}"
            raise conflict(call.target.resource, meta.name, why)
