"""GET of a collection: whole or in pages, all pages as of one revision; written out in parts.

    snapshot (which objects, as of when) -> Listing (how they look) -> sent some at a time

A list in pages shows the state of its first page, whatever is written meanwhile: the store's history undoes what came
after it. Where the history doesn't reach that far any more, the client is told so with 410 and a token with which it
may go on all the same, as kube-apiserver does after a compaction.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudlink.hub.api.answers import Answer, ApiError, bad_request, encode, invalid_options
from cloudlink.hub.api.calls import Call, Context
from cloudlink.hub.api.custom import columns_for, viewed
from cloudlink.hub.api.reads import check_revision, include_of, partial, predicate, too_large
from cloudlink.hub.api.selectors import Predicate
from cloudlink.hub.api.table import head, row
from cloudlink.hub.errors import Gone
from cloudlink.kube.errors import Cause
from cloudlink.kube.meta import KubeObject

Place = tuple[str, str]  # namespace and name of the last object shown

MATCHES = ("Exact", "NotOlderThan")
LOOKED_AT = 500  # objects taken from the store at a time while a selector chooses among them
PART = 128 << 10  # bytes written at a time; as kube-apiserver, what is smaller isn't compressed


@dataclass(frozen=True, slots=True)
class Listing(Answer):
    """An Answer whose body is made while it is sent. `body` is what stands before the items.

    :ivar objects: what is listed, in order; frozen, so that they are the same however long it takes to send them.
    """

    objects: Sequence[KubeObject] = ()
    item: Callable[[KubeObject], bytes] = field(default=lambda obj: b"")

    def parts(self) -> Iterator[bytes]:
        """The body in pieces of about PART bytes."""
        piece, size, between = [self.body], len(self.body), b""
        for obj in self.objects:
            raw = self.item(obj)
            piece += (between, raw)
            size += len(raw)
            between = b","
            if size >= PART:
                yield b"".join(piece)
                piece, size = [], 0
        piece.append(b"]}")
        yield b"".join(piece)


def get_list(context: Context, call: Call) -> Listing:
    snapshot = snapshot_of(context, call)
    metadata: dict[str, Any] = {"resourceVersion": str(snapshot.revision)}
    if snapshot.more:
        last = snapshot.objects[-1].metadata
        metadata["continue"] = Token(snapshot.revision, last.namespace, last.name).text()
        if snapshot.left is not None:
            metadata["remainingItemCount"] = snapshot.left
    store = context.store
    if call.form == "table":
        columns, cells = columns_for(call.target.resource)
        include, now = include_of(call), context.now()
        opening = encode(head(columns, metadata))[:-1] + b',"rows":['
        return Listing(200, opening, (), snapshot.objects, lambda o: encode(row(cells(o, now), o, include)))
    if call.form == "metadata":
        opening = _opening("PartialObjectMetadata", "meta.k8s.io/v1", metadata)
        return Listing(200, opening, (), snapshot.objects, lambda o: encode(partial(o)))
    resource = call.target.resource
    opening = _opening(resource.kind, resource.api_version, metadata)
    return Listing(200, opening, (), snapshot.objects, lambda o: store.raw(viewed(o, resource)))


def _opening(kind: str, version: str, metadata: dict[str, Any]) -> bytes:
    return encode({"kind": f"{kind}List", "apiVersion": version, "metadata": metadata})[:-1] + b',"items":['


# ---------------------------------------------------------------- which objects, as of when


@dataclass(frozen=True, slots=True)
class Token:
    """Where a list that comes in pages goes on: behind this namespace and name, as of that revision.

    :ivar revision: 0 = as of now (what is given out with a 410: the rest doesn't belong to what was shown before).
    """

    revision: int
    namespace: str
    name: str

    def text(self) -> str:
        return base64.urlsafe_b64encode(encode([str(self.revision), self.namespace, self.name])).decode()

    @classmethod
    def of(cls, text: str) -> Token:
        try:
            revision, namespace, name = json.loads(base64.urlsafe_b64decode(text.encode()))
            return cls(int(revision), str(namespace), str(name))
        except (ValueError, TypeError, binascii.Error, RecursionError) as e:
            raise bad_request("continue key is not valid: it is not one of ours; list again from the start") from e


@dataclass(frozen=True, slots=True)
class Snapshot:
    """:ivar more: whether there are further ones; `left` how many, None where only a selector could tell."""

    revision: int
    objects: Sequence[KubeObject]
    more: bool = False
    left: int | None = None


def snapshot_of(context: Context, call: Call) -> Snapshot:
    """What the request's resourceVersion, resourceVersionMatch, limit, continue and selectors ask for."""
    limit = call.number("limit") or 0
    after, exact = _from_where(context, call, limit)
    selects = predicate(call)
    revision = exact if exact is not None else context.store.revision
    changed = _changed(context, call, revision, after) if revision != context.store.revision else {}
    if selects is not None:
        return _chosen(context, call, revision, after, limit, selects, changed)
    key, namespace = call.target.resource.key, call.target.namespace or None
    if not limit:
        limit = context.store.count(key) + len(changed) + 1
    found, left = context.store.page(key, namespace, after, limit + len(changed))
    total = len(found) + left
    if changed:
        found = _merged(found, changed)
        total += sum(o is not None for o in changed.values()) - _present(context, key, changed)
    rest = max(total - limit, 0)
    return Snapshot(revision, found[:limit], rest > 0, rest or None)


def _place(obj: KubeObject) -> Place:
    return obj.metadata.namespace, obj.metadata.name


def _present(context: Context, key: str, changed: Iterable[Place]) -> int:
    return sum(context.store.get(key, namespace, name) is not None for namespace, name in changed)


def _merged(found: Iterable[KubeObject], changed: dict[Place, KubeObject | None]) -> list[KubeObject]:
    """What is there now, with what has changed as it was; enough of it at the front (see snapshot_of)."""
    kept = [o for o in found if _place(o) not in changed]
    return sorted([*kept, *(o for o in changed.values() if o is not None)], key=_place)


def _chosen(
    context: Context,
    call: Call,
    revision: int,
    after: Place | None,
    limit: int,
    selects: Predicate,
    changed: dict[Place, KubeObject | None],
) -> Snapshot:
    """Those that a selector chooses; one more than asked for tells whether there are more."""
    key, namespace = call.target.resource.key, call.target.namespace or None
    old = [o for o in changed.values() if o is not None and selects(o)]
    chosen: list[KubeObject] = []
    at = after
    while True:
        part, left = context.store.page(key, namespace, at, LOOKED_AT)
        chosen += (o for o in part if _place(o) not in changed and selects(o))
        if not left or (limit and len(chosen) > limit):
            break
        at = _place(part[-1])
    if old:
        chosen = sorted([*chosen, *old], key=_place)
    more = bool(limit) and len(chosen) > limit
    return Snapshot(revision, chosen[:limit] if limit else chosen, more)


def _changed(context: Context, call: Call, revision: int, after: Place | None) -> dict[Place, KubeObject | None]:
    """Objects behind `after` that have changed since, as they were at that revision (None: not there yet)."""
    namespace = call.target.namespace
    try:
        past = context.store.past(call.target.resource.key, revision)
    except Gone:
        raise _expired(call, after) from None
    return {
        place: obj
        for place, obj in past.items()
        if (after is None or place > after) and (not namespace or place[0] == namespace)
    }


def _expired(call: Call, after: Place | None) -> ApiError:
    if after is None or not call.query.get("continue"):
        return ApiError(410, "Expired", "The resourceVersion for the provided list is too old.")
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list"
        " without the continue parameter, or use the continue token in this response to retrieve the remainder of the"
        " results. Continuing with the provided token results in an inconsistent list - objects that were created,"
        " modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    return ApiError(410, "Expired", message, proceed=Token(0, *after).text())


def _from_where(context: Context, call: Call, limit: int) -> tuple[Place | None, int | None]:
    """Behind which object, and as of exactly which revision (None: the newest). 4xx where that makes no sense."""
    wanted, match = call.number("resourceVersion"), call.query.get("resourceVersionMatch", "")
    text = call.query.get("continue", "")
    check_options(call, match, text)
    if text:
        if wanted:
            raise bad_request("specifying resource version is not allowed when using continue")
        token = Token.of(text)
        if token.revision > context.store.revision or token.revision < 0:
            raise bad_request("continue key is not valid: its revision was never given out")
        return (token.namespace, token.name), token.revision or None
    check_revision(context, call)
    if wanted and (match == "Exact" or (limit and not match)):  # with a limit, a bare revision is meant exactly
        if wanted > context.store.revision:
            raise too_large(wanted, context.store.revision)
        return None, wanted
    return None, None


def check_options(call: Call, match: str, text: str) -> None:
    """apimachinery's ValidateListOptions, for lists."""
    causes: list[Cause] = []

    def refuse(why: str) -> None:
        causes.append(Cause("resourceVersionMatch", "FieldValueForbidden", f"Forbidden: {why}"))

    if call.query.get("sendInitialEvents"):
        causes.append(
            Cause("sendInitialEvents", "FieldValueForbidden", "Forbidden: sendInitialEvents is forbidden for list")
        )
    if match:
        if not call.query.get("resourceVersion"):
            refuse("resourceVersionMatch is forbidden unless resourceVersion is provided")
        if text:
            refuse("resourceVersionMatch is forbidden when continue is provided")
        if match not in MATCHES:
            causes.append(_not_supported(match, MATCHES))
        if match == "Exact" and call.query.get("resourceVersion") == "0":
            refuse('resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    if causes:
        raise invalid_options("ListOptions", causes)


def _not_supported(match: str, supported: Sequence[str]) -> Cause:
    listed = ", ".join(f'"{m}"' for m in supported)
    why = f'Unsupported value: "{match[:64]}": supported values: {listed}'
    return Cause("resourceVersionMatch", "FieldValueNotSupported", why)


def check_watch_options(call: Call) -> None:
    """The same for watches."""
    match, initial = call.query.get("resourceVersionMatch", ""), call.query.get("sendInitialEvents", "")
    causes: list[Cause] = []
    if initial and match != MATCHES[1]:
        why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        causes.append(Cause("resourceVersionMatch", "FieldValueForbidden", why))
    if match and not initial:
        why = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        causes.append(Cause("resourceVersionMatch", "FieldValueForbidden", why))
    if match and match != MATCHES[1]:
        causes.append(_not_supported(match, MATCHES[1:]))
    if causes:
        raise invalid_options("ListOptions", causes)
