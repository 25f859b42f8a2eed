"""PATCH: JSON patch, merge patch, strategic merge patch and server-side apply."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from cloudlink.hub.api import tracking
from cloudlink.hub.api.answers import Answer, ApiError, bad_request, not_found
from cloudlink.hub.api.calls import Call, Context, document_of, json_of
from cloudlink.hub.api.fields import FieldsError, Path, told
from cloudlink.hub.api.managed import (
    LAST_APPLIED,
    FieldConflictsError,
    Owner,
    Owners,
    Writer,
    after_apply,
    before_apply,
    entries_of,
    last_applied,
    merge_applied,
    owned_part,
    owners_of,
)
from cloudlink.hub.api.merge import (
    APPLY,
    JSON_PATCH,
    MERGE,
    PATCH_TYPES,
    STRATEGIC,
    MalformedPatchError,
    PatchError,
    TooLargePatchError,
    json_patch,
    merge_patch,
)
from cloudlink.hub.api.reads import existing, shown, there
from cloudlink.hub.api.shapes import shape_of
from cloudlink.hub.api.strategic import strategic_merge
from cloudlink.hub.api.writes import created, parsed, settled, store, updated
from cloudlink.hub.errors import Conflict
from cloudlink.hub.revisions import with_meta
from cloudlink.kube.errors import MAX_CAUSES, Cause, Invalid
from cloudlink.kube.meta import KubeObject, ManagedFieldsEntry
from cloudlink.kube.parse import dump

TRIES = 5  # of a patch that somebody else's write overtakes, as in Kubernetes
MAX_ANNOTATIONS = 256 << 10  # bytes, as in Kubernetes


def patch(context: Context, call: Call) -> Answer:
    kind = patch_type(call)
    tracking.check_options(call, applies=kind == APPLY)
    if kind == APPLY:
        return _apply(context, call)
    for tries_left in reversed(range(TRIES)):
        old = existing(context, call)
        document = patched(dump(old), call, kind)
        new = parsed(call, document)
        try:
            return shown(context, call, updated(context, call, new, old, tracking.given_in(document)))
        except Conflict:
            if not tries_left or new.metadata.resource_version != old.metadata.resource_version:
                raise
    raise AssertionError("the last try returns or raises")


def patch_type(call: Call) -> str:
    """The patch's media type; 415 for one that isn't known, or not for this kind."""
    kind = call.content_type.partition(";")[0].strip()
    possible = [t for t in PATCH_TYPES if t != STRATEGIC or not call.target.resource.definition]
    if kind not in possible:
        message = (
            f"the body of the request was in an unknown format - accepted media types include: {', '.join(possible)}"
        )
        raise ApiError(415, "UnsupportedMediaType", message)
    return kind


def patched(document: dict[str, Any], call: Call, kind: str) -> dict[str, Any]:
    """The document with the call's body applied, which is any patch but an apply."""
    content = json_of(call.body)
    try:
        if kind == JSON_PATCH:
            result = json_patch(document, content)
        elif kind == MERGE:
            result = merge_patch(document, content)
        else:
            result = strategic_merge(document, content, call.target.resource.model)
    except MalformedPatchError as e:
        raise bad_request(f"the patch can't be read: {e}") from None
    except TooLargePatchError as e:
        raise ApiError(413, "RequestEntityTooLarge", str(e)) from None
    except PatchError as e:
        cause = Cause("", "FieldValueInvalid", f"the patch can't be applied: {e}")
        raise Invalid([cause], call.target.resource.kind, call.target.name) from None
    if not isinstance(result, dict):
        raise bad_request("the patch leaves no object behind")
    return result


# ---------------------------------------------------------------- server-side apply


def _apply(context: Context, call: Call) -> Answer:
    target = call.target
    applied = _applied(call)
    for tries_left in reversed(range(TRIES)):
        old = there(context, call)
        if old is None and target.subresource:
            raise not_found(target.resource, target.name)
        try:
            if old is None:
                return shown(context, call, _made(context, call, applied), 201)
            return shown(context, call, _merged(context, call, applied, old))
        except Conflict:
            if not tries_left or _metadata(applied).get("resourceVersion"):
                raise
        except FieldConflictsError as e:
            raise _conflict(e) from None
        except FieldsError as e:
            cause = Cause(told(e.path).lstrip("."), "FieldValueInvalid", f"Invalid value: {e}")
            raise Invalid([cause], target.resource.kind, target.name) from None
    raise AssertionError("the last try returns or raises")


def _applied(call: Call) -> dict[str, Any]:
    """The configuration of an apply-patch, for the kind and version that the path names."""
    document = document_of(call.body, "yaml")
    resource = call.target.resource
    version, kind = document.get("apiVersion"), document.get("kind")
    if (version, kind) != (resource.api_version, resource.kind):
        gvk = f"{version if '/' in str(version) else f'/{version}'}, Kind={kind}"
        raise bad_request(f"invalid object type: {gvk}; this path takes a {resource.kind} of {resource.api_version}")
    if _metadata(document).get("managedFields") is not None:
        raise bad_request("metadata.managedFields must be nil")
    return _with_data(document) if resource.key == "Secret" else document


def _with_data(secret: dict[str, Any]) -> dict[str, Any]:
    """A Secret's stringData is a way to write data: whoever says it owns the data."""
    plain, data = secret.get("stringData"), secret.get("data") or {}
    if not isinstance(plain, dict) or not isinstance(data, dict) or not all(isinstance(v, str) for v in plain.values()):
        return secret
    encoded = {k: base64.b64encode(v.encode("utf-8", "surrogatepass")).decode("ascii") for k, v in plain.items()}
    return {k: v for k, v in secret.items() if k != "stringData"} | {"data": data | encoded}


def _metadata(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("metadata")
    return found if isinstance(found, dict) else {}


def _made(context: Context, call: Call, applied: dict[str, Any]) -> KubeObject:
    if uid := _metadata(applied).get("uid"):
        message = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        raise ApiError(409, "Conflict", message, call.target.resource, call.target.name)
    part, writer = _part(call, applied), tracking.writer_of(context, call)
    shape = shape_of(call.target.resource)

    def own(new: KubeObject) -> tuple[ManagedFieldsEntry, ...]:
        return entries_of(after_apply(None, tracking.owned(call, new), part, {}, writer, shape, force=True))

    merge_applied({}, part, {}, writer, shape)  # what has no key, or one twice, is refused here
    return created(context, call, parsed(call, applied), own)


def _part(call: Call, document: Mapping[str, Any]) -> dict[str, Any]:
    return owned_part(document, call.target.subresource, "status" in call.target.resource.subresources)


def _merged(context: Context, call: Call, applied: dict[str, Any], old: KubeObject) -> KubeObject:
    shape, writer = shape_of(call.target.resource), tracking.writer_of(context, call)
    live, part = tracking.owned(call, old), _part(call, applied)
    owners = before_apply(live, _stored_owners(old), writer, shape)
    merged = merge_applied(live, part, owners, writer, shape)
    new = settled(context, call, parsed(call, _whole(call, dump(old), merged, applied)), old)
    outcome = tracking.owned(call, new)
    owners = after_apply(live, outcome, part, owners, writer, shape, call.flag("force"))
    return store(context, call, _kept_up(new, outcome, applied, writer), entries_of(owners))


def applied_fields(
    context: Context, call: Call, part: dict[str, Any], new: KubeObject, old: KubeObject
) -> tuple[ManagedFieldsEntry, ...]:
    """managedFields after an apply that can only say `part`; 409 where others own what it changes."""
    shape, writer = shape_of(call.target.resource), tracking.writer_of(context, call)
    live = tracking.owned(call, old)
    owners = before_apply(live, _stored_owners(old), writer, shape)
    try:
        left = after_apply(live, tracking.owned(call, new), part, owners, writer, shape, call.flag("force"))
    except FieldConflictsError as e:
        raise _conflict(e) from None
    return entries_of(left)


def _stored_owners(old: KubeObject) -> Owners:
    try:
        return owners_of(old.metadata.managed_fields)
    except FieldsError:
        return {}


def _whole(call: Call, old: dict[str, Any], merged: dict[str, Any], applied: Mapping[str, Any]) -> dict[str, Any]:
    """The document to be stored: the merged part, with what nobody owns as it is. A resourceVersion or uid that is
    applied is a precondition."""
    said = {k: v for k, v in _metadata(applied).items() if k in ("name", "namespace", "uid", "resourceVersion")}
    if call.target.subresource == "status":
        whole = {name: value for name, value in old.items() if name != "status"} | merged
        return whole | {"metadata": old["metadata"] | said}
    mine = owned_part(old, "", "status" in call.target.resource.subresources)
    fixed = {k: v for k, v in old["metadata"].items() if k not in mine.get("metadata", {})}
    metadata = (merged.get("metadata") or {}) | fixed | said
    return {k: v for k, v in old.items() if k not in mine} | merged | {"metadata": metadata}


def _kept_up(new: KubeObject, outcome: Mapping[str, Any], applied: Mapping[str, Any], writer: Writer) -> KubeObject:
    """With the annotation of kubectl's client-side apply telling the same; without it where there is no room."""
    text = last_applied(outcome, applied, writer)
    if text is None:
        return new
    annotations = dict(new.metadata.annotations) | {LAST_APPLIED: text}
    if sum(len(k.encode()) + len(v.encode("utf-8", "replace")) for k, v in annotations.items()) > MAX_ANNOTATIONS:
        del annotations[LAST_APPLIED]
    return with_meta(new, annotations=annotations)


def _conflict(error: FieldConflictsError) -> ApiError:
    """409 with one cause for each field (errors.NewApplyConflict); kubectl prints the message, and advice after it."""
    found = error.conflicts
    shown = found[:MAX_CAUSES]
    causes = [Cause(told(path), "FieldManagerConflict", f"conflict with {owner}") for owner, path in shown]
    if len(found) == 1:
        owner, path = found[0]
        message = f"Apply failed with 1 conflict: conflict with {owner}: {told(path)}"
    else:
        message = f"Apply failed with {len(found)} conflicts: {_listed(shown, len(found) - len(shown))}"
    return ApiError(409, "Conflict", message, causes=causes)


def _listed(found: Sequence[tuple[Owner, Path]], more: int) -> str:
    lines: list[str] = []
    for owner in dict.fromkeys(owner for owner, _ in found):
        lines.append(f"conflicts with {owner}:")
        lines += [f"- {told(path)}" for o, path in found if o == owner]
    lines += [f"and {more} more"] if more else []
    return "\n".join(lines)
