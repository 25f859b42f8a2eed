"""Who writes, and what that does to metadata.managedFields: from a call to the pure rules of `managed`."""

from __future__ import annotations

from typing import Any

from cloudlink.hub.api.answers import ApiError
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.fields import FieldsError
from cloudlink.hub.api.managed import Owners, Writer, after_update, entries_of, owned_part, starting_point
from cloudlink.hub.api.shapes import Shape, shape_of
from cloudlink.hub.revisions import timestamp
from cloudlink.kube.errors import Cause
from cloudlink.kube.meta import KubeObject, ManagedFieldsEntry
from cloudlink.kube.parse import dump

MAX_MANAGER = 128  # bytes, as in Kubernetes

_OPTIONS = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions"}


def check_options(call: Call, applies: bool = False) -> None:
    """422 for a fieldManager that can't be one; as ValidateCreateOptions, -UpdateOptions and -PatchOptions."""
    manager = call.query.get("fieldManager", "")
    causes: list[Cause] = []
    if applies and not manager:
        causes.append(Cause("fieldManager", "FieldValueRequired", "Required value: is required for apply patch"))
    if call.method == "PATCH" and not applies and "force" in call.query:
        causes.append(Cause("force", "FieldValueForbidden", "Forbidden: may not be specified for non-apply patch"))
    if len(manager.encode("utf-8", "replace")) > MAX_MANAGER:
        message = f"Too long: may not be more than {MAX_MANAGER} bytes"
        causes.append(Cause("fieldManager", "FieldValueTooLong", message))
    for place, letter in enumerate(manager):
        if not letter.isprintable():
            message = f"Invalid value: invalid character U+{ord(letter):04X} (at position {place})"
            causes.append(Cause("fieldManager", "FieldValueInvalid", message))
            break
    if causes:
        kind = _OPTIONS.get(call.method, "Options")
        told = ", ".join(map(str, causes))
        message = f'{kind}.meta.k8s.io "" is invalid: {told if len(causes) == 1 else f"[{told}]"}'
        raise ApiError(422, "Invalid", message, causes=causes)


def writer_of(context: Context, call: Call) -> Writer:
    """The manager is the call's fieldManager, or what the client calls itself before the first "/"."""
    manager = call.query.get("fieldManager", "") or _from_agent(call.agent)
    target = call.target
    return Writer(manager, target.resource.api_version, timestamp(context.now()), target.subresource)


def _from_agent(agent: str) -> str:
    name = "".join(letter for letter in agent.partition("/")[0] if letter.isprintable())
    return name.encode("utf-8", "ignore")[:MAX_MANAGER].decode("utf-8", "ignore")


def owned(call: Call, obj: KubeObject | None) -> dict[str, Any]:
    """What of an object may be owned by who calls."""
    if obj is None:
        return {}
    resource = call.target.resource
    has_status = "status" in resource.subresources
    if resource.shape is None or resource.shape.scale is None:
        return owned_part(dump(obj), call.target.subresource, has_status)
    path = resource.shape.scale.spec.strip(".").split(".")
    return owned_part(dump(obj), call.target.subresource, has_status, path)


def after(
    context: Context, call: Call, new: KubeObject, old: KubeObject | None, given: Any
) -> tuple[ManagedFieldsEntry, ...]:
    """managedFields of an object that is created (old: None), replaced or patched.

    :param given: metadata.managedFields as the document had it; see `managed.starting_point`.
    """
    live = old.metadata.managed_fields if old is not None else ()
    if call.target.subresource:
        owners = starting_point(None, (), live)
    else:
        owners = starting_point(given, new.metadata.managed_fields, live)
    before = owned(call, old) if old is not None else None
    return _after(owners, before, owned(call, new), writer_of(context, call), shape_of(call.target.resource), live)


def _after(
    owners: Owners,
    before: dict[str, Any] | None,
    now: dict[str, Any],
    writer: Writer,
    shape: Shape,
    live: tuple[ManagedFieldsEntry, ...],
) -> tuple[ManagedFieldsEntry, ...]:
    try:
        return entries_of(after_update(before, now, owners, writer, shape))
    except FieldsError:  # an item without a key, which the object's own rules let pass: nobody loses anything by it
        return live


def given_in(document: Any) -> Any:
    """metadata.managedFields of a document as it came."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    return metadata.get("managedFields") if isinstance(metadata, dict) else None
