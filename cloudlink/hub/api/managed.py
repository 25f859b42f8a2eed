"""Who owns which fields: metadata.managedFields read, moved on by each write, and written again. Pure.

The rules are those of apimachinery's managedfields package: an update takes what it changes, an apply takes what it
says, and what is gone is nobody's. Documents here have been through `owned_part`: what belongs to the server (or to
another subresource) is not in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cloudlink.hub.api.apply import overlaid, pruned
from cloudlink.hub.api.differences import Difference, difference
from cloudlink.hub.api.fields import NONE, Fields, FieldsError, Path, fields_of, from_document, reconciled, to_document
from cloudlink.hub.api.shapes import Shape
from cloudlink.kube.meta import FieldsV1, ManagedFieldsEntry

Document = Mapping[str, Any]

MAX_UPDATERS = 10  # entries of updates; older ones are put together
MAX_APPLIERS = 100  # entries of applies, which are never put together
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_ANCIENT = "ancient-changes"
_BEFORE = "before-first-apply"
_KUBECTL = "kubectl"  # whose server-side apply takes over what its client-side apply has made
_NEVER_OWNED = frozenset({"apiVersion", "kind"})
_NEVER_OWNED_METADATA = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"}
)


@dataclass(frozen=True, slots=True)
class Owner:
    """What tells the entries of managedFields apart.

    :ivar version: the apiVersion for updates, "" for applies: who applies in another version is the same.
    """

    manager: str
    operation: Literal["Apply", "Update"]
    subresource: str = ""
    version: str = ""

    def __str__(self) -> str:
        told = json.dumps(self.manager)
        told += f' with subresource "{self.subresource}"' if self.subresource else ""
        return f"{told} using {self.version}" if self.operation == "Update" else told


@dataclass(frozen=True, slots=True)
class Held:
    """:ivar time: metav1.Time of the last change that the owner made."""

    fields: Fields
    api_version: str
    time: str = ""


Owners = Mapping[Owner, Held]


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes now.

    :ivar now: metav1.Time.
    """

    manager: str
    api_version: str
    now: str
    subresource: str = ""

    def owner(self, operation: Literal["Apply", "Update"]) -> Owner:
        version = "" if operation == "Apply" else self.api_version
        return Owner(self.manager or "unknown", operation, self.subresource, version)


class FieldConflictsError(Exception):
    """Others own what an apply wants to change.

    :ivar conflicts: each field with its owner, in a stable order.
    """

    def __init__(self, conflicts: Sequence[tuple[Owner, Path]]) -> None:
        super().__init__(f"{len(conflicts)} fields are owned by others")
        self.conflicts = conflicts


# ---------------------------------------------------------------- entries


def owners_of(entries: Sequence[ManagedFieldsEntry]) -> Owners:
    """FieldsError where an entry makes no sense."""
    owners: dict[Owner, Held] = {}
    for entry in entries:
        if entry.fields_type != "FieldsV1" or not entry.api_version:
            raise FieldsError("an entry of managedFields needs an apiVersion and the fieldsType FieldsV1")
        match entry.operation:
            case "Apply" | "Update":
                version = entry.api_version if entry.operation == "Update" else ""
                owner = Owner(entry.manager, entry.operation, entry.subresource, version)
            case _:
                raise FieldsError("the operation of an entry of managedFields is Apply or Update")
        fields = from_document(entry.fields_v1.document()) if entry.fields_v1 is not None else NONE
        owners[owner] = Held(fields, entry.api_version, entry.time)
    return owners


def entries_of(owners: Owners) -> tuple[ManagedFieldsEntry, ...]:
    """As they are stored: applies first, then by time."""
    made = [
        ManagedFieldsEntry(
            manager=owner.manager,
            operation=owner.operation,
            api_version=held.api_version,
            time=held.time,
            fields_type="FieldsV1",
            fields_v1=FieldsV1(to_document(held.fields)),
            subresource=owner.subresource,
        )
        for owner, held in owners.items()
    ]
    return tuple(sorted(made, key=lambda e: (e.operation, e.time, e.manager, e.api_version, e.subresource)))


def starting_point(given: Any, parsed: Sequence[ManagedFieldsEntry], live: Sequence[ManagedFieldsEntry]) -> Owners:
    """Whose the fields are before an update: by what it says itself, if that makes sense, else by what is stored.

    :param given: managedFields of the document as it came: [] or [{}] forgets all owners.
    """
    if given in ([], [{}]):
        return {}
    for entries in (parsed, live):
        try:
            if owners := owners_of(entries):
                return owners
        except FieldsError:
            continue  # who can't be understood owns nothing
    return {}


def owned_part(
    document: Document, subresource: str, has_status: bool, replicas: Sequence[str] = ("spec", "replicas")
) -> dict[str, Any]:
    """What can be owned by somebody who writes to this subresource ("" for the object itself).

    :param has_status: whether the kind's status is a subresource; it isn't the object's own part then.
    :param replicas: where the number is that the scale subresource writes.
    """
    if subresource == "status":
        return {"status": document["status"]} if "status" in document else {}
    if subresource == "scale":
        return _at_path(document, replicas)
    passed_over = _NEVER_OWNED | ({"status"} if has_status else set())
    part = {name: value for name, value in document.items() if name not in passed_over}
    metadata = part.get("metadata")
    if isinstance(metadata, Mapping):
        part["metadata"] = {name: value for name, value in metadata.items() if name not in _NEVER_OWNED_METADATA}
        if not part["metadata"]:
            del part["metadata"]
    return part


def _at_path(document: Any, path: Sequence[str]) -> dict[str, Any]:
    """The document with nothing but what is at the path; {} where nothing is."""
    name, *rest = path
    if not isinstance(document, Mapping) or name not in document:
        return {}
    inner = _at_path(document[name], rest) if rest else document[name]
    return {name: inner} if inner != {} else {}


# ---------------------------------------------------------------- updates


def after_update(old: Document | None, new: Document, owners: Owners, writer: Writer, shape: Shape) -> Owners:
    """The owners once a create (old: None), replace or patch is done.

    An object that nobody owns yet, and that is already there, stays so until somebody applies.
    """
    if not owners and old is not None:
        return owners
    found = difference(old or {}, new, shape)
    left = dict(_without_changed(_reconciled(owners, shape), found, None))
    if found.changed:
        me = writer.owner("Update")
        before = left[me].fields if me in left else NONE
        left[me] = Held(before | found.changed, writer.api_version, writer.now)
    return _capped(left)


def _reconciled(owners: Owners, shape: Shape) -> Owners:
    return {owner: replace(held, fields=reconciled(held.fields, shape)) for owner, held in owners.items()}


def _without_changed(owners: Owners, found: Difference, me: Owner | None) -> Owners:
    """What others hold once these fields have changed hands or are gone; `me` keeps what it has."""
    gone = found.changed | found.removed
    left = {o: h if o == me else replace(h, fields=h.fields - gone) for o, h in owners.items()}
    return {owner: held for owner, held in left.items() if held.fields}


def _capped(owners: dict[Owner, Held]) -> Owners:
    """At most MAX_UPDATERS entries of updates: the oldest of a version become one."""
    updaters = sorted((o for o in owners if o.operation == "Update"), key=lambda o: (owners[o].time, str(o)))
    surplus = len(updaters) - MAX_UPDATERS
    firsts: dict[str, Owner] = {}
    for owner in updaters:
        if surplus <= 0:
            break
        first = firsts.setdefault(owner.version, owner)
        if first == owner:
            continue
        bucket = Owner(_ANCIENT, "Update", "", owner.version)
        if first != bucket and first in owners:
            owners[bucket] = owners.pop(first)
        held = owners.pop(owner)
        owners[bucket] = replace(held, fields=held.fields | owners[bucket].fields)
        firsts[owner.version] = bucket
        surplus -= 1
    return owners


# ---------------------------------------------------------------- applies


def before_apply(live: Document | None, owners: Owners, writer: Writer, shape: Shape) -> Owners:
    """The owners that an apply meets: of an object that nobody was asked about so far, all that is in it belongs to
    one who came before."""
    if owners or live is None:
        return _reconciled(owners, shape)
    return after_update(None, live, {}, replace(writer, manager=_BEFORE), shape)


def merge_applied(live: Document, applied: Document, owners: Owners, writer: Writer, shape: Shape) -> dict[str, Any]:
    """The live document with what is applied, and without what this manager applied before and nobody else owns."""
    me = writer.owner("Apply")
    config = fields_of(applied, shape, unique=True)
    merged = overlaid(live, applied, shape)
    last = owners[me].fields if me in owners else NONE
    owned = config.union(*(held.fields for owner, held in owners.items() if owner != me))
    return pruned(merged, last, owned, shape) or {}


def after_apply(
    live: Document | None,
    new: Document,
    applied: Document,
    owners: Owners,
    writer: Writer,
    shape: Shape,
    force: bool,
) -> Owners:
    """The owners once an apply is done.

    :param new: the whole outcome, defaults filled in.
    :raises FieldConflictsError: others own what would change, and force doesn't take it from them.
    """
    me = writer.owner("Apply")
    found = difference(live or {}, new, shape)
    conflicts = _conflicts(owners, found, me)
    if conflicts and not force:
        allowed = _made_by_client_side_apply(live or {}, writer, shape)
        conflicts = [(owner, path) for owner, path in conflicts if path not in allowed]
        if conflicts:
            raise FieldConflictsError(conflicts)
    left = dict(_without_changed(owners, found, me))
    mine, before = fields_of(applied, shape), left.pop(me, None)
    if sum(owner.operation == "Apply" for owner in left) >= MAX_APPLIERS:
        why = f"may not be applied by more than {MAX_APPLIERS} managers; use fewer fieldManagers"
        raise FieldsError(why, ("f:metadata", "f:managedFields"))
    if mine:
        same = before is not None and before.fields == mine and not (found.changed | found.removed)
        left[me] = Held(mine, writer.api_version, before.time if before is not None and same else writer.now)
    return left


def _conflicts(owners: Owners, found: Difference, me: Owner) -> list[tuple[Owner, Path]]:
    others = sorted((owner for owner in owners if owner != me), key=str)
    return [(owner, path) for owner in others for path in sorted(owners[owner].fields & found.changed)]


# ---------------------------------------------------------------- kubectl's client-side apply


def _made_by_client_side_apply(live: Document, writer: Writer, shape: Shape) -> Fields:
    """What `kubectl apply` without --server-side has made and nobody has changed since: with it, kubectl takes over
    from itself (lastAppliedManager)."""
    if writer.manager != _KUBECTL:
        return NONE
    try:
        last = json.loads(_annotations(live).get(LAST_APPLIED, ""))
        if not isinstance(last, dict) or last.get("apiVersion") != writer.api_version:
            return NONE
        last = owned_part(last, writer.subresource, has_status=True)
        found = difference(last, live, shape)
        return fields_of(last, shape) - found.changed - found.removed
    except (ValueError, RecursionError):
        return NONE


def _annotations(document: Document) -> Mapping[str, Any]:
    metadata = document.get("metadata")
    found = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def last_applied(live: Document, applied: Document, writer: Writer) -> str | None:
    """What the annotation of client-side apply must say after kubectl's server-side apply, so that a return to the
    former sees what has happened (lastAppliedUpdater); None where there is none to keep up."""
    if writer.manager != _KUBECTL or not _annotations(live).get(LAST_APPLIED):
        return None
    metadata = dict(applied.get("metadata") or {})
    if annotations := {k: v for k, v in _annotations(applied).items() if k != LAST_APPLIED}:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    return json.dumps({**applied, "metadata": metadata}, sort_keys=True, separators=(",", ":")) + "\n"
