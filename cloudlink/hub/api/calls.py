"""One request taken out of HTTP, and what every handler may use to answer it."""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cloudlink.hub.api.addresses import DEFAULT_NETWORK
from cloudlink.hub.api.answers import ApiError, bad_request, invalid_options
from cloudlink.hub.api.intake import Intake
from cloudlink.hub.api.lines import Lines
from cloudlink.hub.api.paths import Target
from cloudlink.hub.api.protobuf import MEDIA_TYPE, ProtobufError, from_protobuf
from cloudlink.hub.auth.users import NOBODY, User
from cloudlink.hub.changes import Change
from cloudlink.hub.doors.ways import Nowhere, Ways
from cloudlink.hub.patience import DEFAULT_PATIENCE, Patience
from cloudlink.hub.revisions import with_meta
from cloudlink.hub.schedule.seats import Policy
from cloudlink.hub.shelves import key_of
from cloudlink.hub.store import Store
from cloudlink.kube.errors import Cause
from cloudlink.kube.fits import FitStatus
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import load_yaml

Admit = Callable[[KubeObject, KubeObject | None], None]
Form = Literal["object", "table", "metadata"]

VALIDATIONS = ("Ignore", "Strict", "Warn")
MAX_WARNINGS = 100  # remembered of one request; fewer are told
_BODIES = ("application/json", "application/yaml", MEDIA_TYPE, "text/yaml", "yaml", "")  # the last is JSON


# As apimachinery's names.SimpleNameGenerator: no vowels, so that no word can come out.
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def made_up() -> str:
    """Five letters that make a name of a generateName."""
    return "".join(secrets.choice(_LETTERS) for _ in range(5))


@dataclass(frozen=True, slots=True)
class Question:
    """Would it fit? See api/fits.py.

    :ivar namespace: of documents that name none.
    """

    documents: Sequence[Mapping[str, Any]]
    namespace: str
    user: User


@dataclass(slots=True)
class Context:
    """:ivar admit: called with (new, old or None) before anything is stored; raises Invalid to refuse.
    :ivar on_change: called after each commit that came through the API.
    :ivar ways: to the nodes.
    :ivar suffix: makes a name of a generateName; another one each time.
    :ivar patience: how long pods that don't say otherwise stay bound to a lost node.
    :ivar policy: how pods are packed.
    :ivar foresee: answers what would become of a manifest; None = nobody can.
    """

    store: Store
    now: Callable[[], float]
    admit: Admit
    on_change: Callable[[], None]
    network: ipaddress.IPv4Network = DEFAULT_NETWORK
    watches: int = 0
    suffix: Callable[[], str] = made_up
    lines: Lines = field(default_factory=Lines)
    intake: Intake = field(default_factory=Intake)
    ways: Ways = field(default_factory=lambda: Ways(Nowhere()))
    patience: Patience = DEFAULT_PATIENCE
    policy: Policy = "tight"
    foresee: Foresee | None = None

    def commit(self, changes: Sequence[Change], dry_run: bool) -> list[KubeObject]:
        if dry_run:  # nothing was stored, so there is no new resourceVersion to tell
            return [with_meta(o, resource_version=self._revision_of(o)) for o in self.store.preview(changes)]
        done = self.store.commit(changes)
        self.on_change()
        return done

    def _revision_of(self, obj: KubeObject) -> str:
        there = self.store.get(*key_of(obj))
        return there.metadata.resource_version if there is not None else ""


Foresee = Callable[[Context, Question], Awaitable[FitStatus]]


@dataclass(frozen=True, slots=True)
class Call:
    """A request for a resource. `query` has the last value of each parameter."""

    method: str
    target: Target
    query: Mapping[str, str]
    body: bytes = b""
    content_type: str = ""
    accept: str = ""
    user: User = NOBODY
    agent: str = ""  # User-Agent
    warnings: list[str] = field(default_factory=list, compare=False)  # what the client is told besides the answer

    def warn(self, text: str) -> None:
        """Tell the client something besides the answer; "" is nothing to tell."""
        if text and len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)

    def flag(self, name: str) -> bool:
        return self.query.get(name, "") in ("true", "True", "1", "t")

    def number(self, name: str) -> int | None:
        text = self.query.get(name, "")
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise bad_request(f"the query parameter {name} must be a whole number, not {text[:64]!r}")
        return int(text)

    @property
    def dry_run(self) -> bool:
        """`?dryRun=All`; anything else that isn't empty is refused, lest it happens for real."""
        value = self.query.get("dryRun", "")
        if value not in ("", "All"):
            raise bad_request(f'the query parameter dryRun must be "All", not {value[:64]!r}')
        return value == "All"

    @property
    def lenient(self) -> bool:
        """Whether unknown and repeated fields are dropped (?fieldValidation=Warn or Ignore) and not refused."""
        mode = self.query.get("fieldValidation", "")
        if mode not in ("", *VALIDATIONS):
            listed = ", ".join(f'"{v}"' for v in VALIDATIONS)
            why = f'Unsupported value: "{mode[:64]}": supported values: {listed}'
            kind = {"POST": "CreateOptions", "PUT": "UpdateOptions"}.get(self.method, "PatchOptions")
            raise invalid_options(kind, [Cause("fieldValidation", "FieldValueNotSupported", why)])
        return mode in ("Warn", "Ignore")

    def dropped(self, what: str) -> None:
        """Tell of a field that is dropped, unless that was not to be told."""
        if self.query.get("fieldValidation") == "Warn":
            self.warn(what)

    def document(self, content_type: str = "") -> dict[str, Any]:
        """The body as one mapping; what is written twice counts the last time where the request is lenient."""
        told = (lambda name: self.dropped(f'duplicate field "{name}"')) if self.lenient else None
        return document_of(self.body, content_type or self.content_type, told)

    @property
    def form(self) -> Form:
        """What the client wants to see first, among what we can make of it."""
        return negotiate(self.accept)


def negotiate(accept: str) -> Form:
    """The first acceptable media type; 406 where none is. A Table must be asked for as meta.k8s.io/v1."""
    for offer in accept.split(",") if accept.strip() else ["application/json"]:
        media, *parameters = (p.strip() for p in offer.split(";"))
        options = dict(p.split("=", 1) for p in parameters if "=" in p)
        if media not in ("application/json", "application/*", "*/*", "application/yaml"):
            continue
        wanted, version = options.get("as", ""), options.get("v", "v1")
        if wanted == "Table" and version == "v1":
            return "table"
        if wanted in ("PartialObjectMetadata", "PartialObjectMetadataList") and version == "v1":
            return "metadata"
        if not wanted:
            return "object"
    raise ApiError(
        406, "NotAcceptable", "only application/json can be had here, also as Table or PartialObjectMetadata"
    )


def document_of(body: bytes, content_type: str, twice: Callable[[str], None] | None = None) -> dict[str, Any]:
    """One mapping out of a JSON, YAML or protobuf body; 400 says where it goes wrong, 415 which types there are.

    :param twice: told of JSON fields that are written more than once; None = they are refused.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media not in _BODIES:
        known = ", ".join((*_BODIES[:2], MEDIA_TYPE))
        message = f"the body of the request was in an unknown format - accepted media types include: {known}"
        raise ApiError(415, "UnsupportedMediaType", message)
    if MEDIA_TYPE in content_type:
        try:
            return from_protobuf(body)
        except ProtobufError as e:
            raise bad_request(f"the request's body is protobuf that can't be read: {e}") from None
    if "yaml" in media:
        documents = load_yaml(_text(body), "the request's body")
        if len(documents) != 1:
            raise bad_request(f"the request's body must be one YAML document, it has {len(documents)}")
        return documents[0]
    document = json_of(body, twice)
    if not isinstance(document, dict):
        raise bad_request("the request's body must be a JSON object")
    return document


def json_of(body: bytes, twice: Callable[[str], None] | None = None) -> Any:
    """JSON, strictly: no duplicate keys (the standard library's decoder can tell them), no NaN. See document_of."""
    if not body.strip():
        raise bad_request("the request has no body")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) != len(pairs):
            seen: set[str] = set()
            name = next(k for k, _ in pairs if k in seen or seen.add(k))[:128]  # type: ignore[func-returns-value]
            if twice is None:
                raise ValueError(f'duplicate field "{name}"')
            twice(name)
        return document

    try:
        return json.loads(_text(body), object_pairs_hook=unique, parse_constant=_no_constant)
    except ValueError as e:
        raise bad_request(f"the request's body is not JSON: {e}") from None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as e:
        raise bad_request(f"the request's body is not UTF-8: {e}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
