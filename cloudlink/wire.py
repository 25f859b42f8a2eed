"""What travels between hub and node: topics, and bytes <-> edged.model. Pure.

A topic is `edge/v1/{fleet}/{node}/{leaf}`. Every body is one byte of schema version and then one zstd frame
(RFC 8878) of msgpack; but not those of conversations (cloudlink.streams), which have topics of their own,
`.../req/{conversation}` and `.../res/{hub}/{conversation}`.
Equal values give equal bytes, so that "has it changed?" is a comparison of bytes.
Whatever arrives may be garbage or hostile: decoding raises `Refused` with a sentence, and nothing else.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
import zstandard

from edged.errors import PermanentError
from edged.model import Container, Desired, NodeStatus, Value

T = TypeVar("T")

# Grows when an older reader would misunderstand; fields that it may skip don't need it. A document says the lowest one
# that its reader must know, so that an older node is told all that it can understand.
SCHEMA = 2
FIRST, TIMED = 1, 2  # with pods that have a time (Pod.start_at): who doesn't know that would start them at once
ROOT = "edge/v1"

DESIRED = "desired"
STATUS = "status"
PRESENCE = "presence"
LEAVES = frozenset({DESIRED, STATUS, PRESENCE})

MAX_PACKET = 2 << 20  # bytes of one body as it travels; the broker is given the same limit
MAX_DOCUMENT = 8 << 20  # bytes after decompression: a node has 30 MB for all it does
_LEVEL = 3  # zstd's own default: higher ones need megabytes of window on the board and save a few percent

# RFC 1123 label, as Kubernetes names fleets' and nodes' objects. Keeps `/`, `+` and `#` out of topics.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Refused(PermanentError):  # noqa: N818 (a verdict, read as one: "except Refused")
    """Bytes that must not be believed. `reason` is the whole sentence; the sender has to change something."""

    @property
    def reason(self) -> str:
        return str(self)


# ---------------------------------------------------------------- topics


class Topic(NamedTuple):
    fleet: str
    node: str
    leaf: str


def valid_name(name: str) -> bool:
    """True for an RFC 1123 label: 1 to 63 of a-z, 0-9 and "-", with a letter or digit at both ends."""
    return _NAME.fullmatch(name) is not None


def topic(fleet: str, node: str, leaf: str) -> str:
    """The topic of one leaf of one node. PermanentError if a name could not be part of a topic."""
    for kind, name in (("fleet", fleet), ("node", node)):
        if not valid_name(name):
            raise PermanentError(f"{kind} name {name[:80]!r} is not a DNS-1123 label (a-z, 0-9, -, 63 at most)")
    if leaf not in LEAVES:
        raise PermanentError(f"{leaf!r} is no topic of a node; there are {', '.join(sorted(LEAVES))}")
    return f"{ROOT}/{fleet}/{node}/{leaf}"


def desired_topic(fleet: str, node: str) -> str:
    return topic(fleet, node, DESIRED)


def status_topic(fleet: str, node: str) -> str:
    return topic(fleet, node, STATUS)


def presence_topic(fleet: str, node: str) -> str:
    return topic(fleet, node, PRESENCE)


def every_node(fleet: str, leaf: str) -> str:
    """The subscription that hears one leaf of all nodes of a fleet."""
    return topic(fleet, "0", leaf).replace("/0/", "/+/")


def parse_topic(name: str) -> Topic:
    """The opposite of `topic`; Refused for anything that `topic` would not have made."""
    parts = name.split("/")
    if len(parts) != 5 or "/".join(parts[:2]) != ROOT:
        raise Refused(f"topic {name[:120]!r} is not {ROOT}/<fleet>/<node>/<leaf>")
    found = Topic(*parts[2:])
    if not valid_name(found.fleet) or not valid_name(found.node):
        raise Refused(f"topic {name[:120]!r} has a fleet or node that is not a DNS-1123 label")
    if found.leaf not in LEAVES:
        raise Refused(f"topic {name[:120]!r} ends in none of {', '.join(sorted(LEAVES))}")
    return found


# ---------------------------------------------------------------- topics of conversations

REQUEST, RESPONSE = "req", "res"
_TAG = re.compile(r"[0-9a-f]{8,32}")  # of a conversation, and of one of the hub's processes: random, in hexadecimal


class Stream(NamedTuple):
    """The topic of one conversation. `hub`: which process of the hub it is meant for; "" = it is meant for the node."""

    fleet: str
    node: str
    hub: str
    conversation: str


def request_topic(fleet: str, node: str, conversation: str) -> str:
    """From hub to node. The names are those that `parse_request` accepts."""
    return f"{ROOT}/{fleet}/{node}/{REQUEST}/{conversation}"


def response_topic(fleet: str, node: str, hub: str, conversation: str) -> str:
    """From node to hub. :raises Refused: `hub` is no tag, and so could be anything."""
    if not _TAG.fullmatch(hub):
        raise Refused(f"{hub[:80]!r} is no name of a hub's process")
    return f"{ROOT}/{fleet}/{node}/{RESPONSE}/{hub}/{conversation}"


def requests_to(fleet: str, node: str) -> str:
    """The subscription that hears all conversations of a node."""
    return f"{ROOT}/{fleet}/{node}/{REQUEST}/+"


def responses_to(fleet: str, hub: str) -> str:
    """The subscription that hears what all nodes say to one process of the hub."""
    return f"{ROOT}/{fleet}/+/{RESPONSE}/{hub}/+"


def parse_request(name: str) -> Stream:
    """The opposite of `request_topic`; Refused for anything else."""
    parts = name.split("/")
    if len(parts) != 6 or parts[4] != REQUEST:
        raise Refused(f"topic {name[:120]!r} is none of a request")
    return _stream(name, parts[2], parts[3], "", parts[5])


def parse_response(name: str) -> Stream:
    """The opposite of `response_topic`; Refused for anything else."""
    parts = name.split("/")
    if len(parts) != 7 or parts[4] != RESPONSE or not _TAG.fullmatch(parts[5]):
        raise Refused(f"topic {name[:120]!r} is none of a response")
    return _stream(name, parts[2], parts[3], parts[5], parts[6])


def _stream(name: str, fleet: str, node: str, hub: str, conversation: str) -> Stream:
    if not name.startswith(f"{ROOT}/") or not valid_name(fleet) or not valid_name(node):
        raise Refused(f"topic {name[:120]!r} has a fleet or node that is not a DNS-1123 label")
    if not _TAG.fullmatch(conversation):
        raise Refused(f"topic {name[:120]!r} names no conversation")
    return Stream(fleet, node, hub, conversation)


# ---------------------------------------------------------------- values to canonical bytes


class _Layout(NamedTuple):
    """How a kind of struct is written. `fields`: (field, name on the wire, maker of its default or None), in the order
    of definition; `tag`: field and value that tell it from the others of a union."""

    fields: tuple[tuple[str, str, Callable[[], Any] | None], ...]
    tag: tuple[str, Any] | None


@functools.lru_cache(maxsize=256)  # as many as there are struct types
def _layout(kind: type[msgspec.Struct]) -> _Layout:
    fields, defaults = kind.__struct_fields__, kind.__struct_defaults__
    required = len(fields) - len(defaults)
    makers: list[Callable[[], Any] | None] = [None] * required
    for default in defaults:
        # msgspec wraps mutable defaults ({}) in a factory of its own.
        makers.append(getattr(default, "factory", None) or functools.partial(_same, default))
    settings = kind.__struct_config__
    tag = (settings.tag_field, settings.tag) if settings.tag_field is not None else None
    return _Layout(tuple(zip(fields, kind.__struct_encode_fields__, makers, strict=True)), tag)


def _same(value: T) -> T:
    return value


class Written:
    """Remembers how tuples of containers were written, by identity: the pods of a Deployment share theirs on all nodes
    (hub.compiled). It holds what it knows, so that an id stays whose it is."""

    MOST = 512

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[Container, ...], msgspec.Raw]] = {}

    def of(self, containers: tuple[Container, ...]) -> msgspec.Raw:
        known = self._known.get(id(containers))
        if known is None:
            if len(self._known) >= self.MOST:
                self._known.clear()
            raw = msgspec.msgpack.encode([_plain(c, None) for c in containers], order="deterministic")
            known = self._known[id(containers)] = containers, msgspec.Raw(raw)
        return known[1]


_LEAVES = (str, int, bool, bytes, type(None))


def _plain(value: Any, written: Written | None) -> Any:
    """The one form that all equal values share: defaults left out, whole floats as integers.

    msgspec alone leaves a field out only when it *is* the default object, so that 10.0 read from a manifest and
    10.0 from the class would differ on the wire.
    """
    kind = type(value)
    if kind in _LEAVES:
        return value
    if isinstance(value, msgspec.Struct):
        layout = _layout(type(value))
        packed: dict[str, Any] = {} if layout.tag is None else {layout.tag[0]: layout.tag[1]}
        for field, name, default in layout.fields:
            held = getattr(value, field)
            if default is None or held != default():
                packed[name] = _plain(held, written)
        return packed
    if kind is tuple or kind is list:
        if written is not None and value and type(value[0]) is Container:
            return written.of(value)
        return [_plain(v, written) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v, written) for k, v in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**53:
        return int(value)
    return value


def canonical(value: msgspec.Struct, written: Written | None = None) -> bytes:
    """Msgpack with sorted maps and no defaults: equal values, equal bytes; for digests and comparisons.

    :param written: for who writes many documents with the same containers in them.
    """
    return msgspec.msgpack.encode(_plain(value, written), order="deterministic")


def frame(document: bytes, what: str, schema: int = FIRST) -> bytes:
    """Canonical msgpack as a body for the wire. PermanentError if it is too large to be taken.

    :param schema: which its reader must know.
    """
    if len(document) > MAX_DOCUMENT:
        raise PermanentError(f"{what} has {len(document)} bytes, {MAX_DOCUMENT} are allowed; make it smaller")
    body = bytes((schema,)) + zstandard.ZstdCompressor(level=_LEVEL).compress(document)
    if len(body) > MAX_PACKET:
        raise PermanentError(f"{what} has {len(body)} bytes compressed, {MAX_PACKET} are allowed; make it smaller")
    return body


def unframe(body: bytes, what: str) -> bytes:
    """The opposite of `frame`. A bomb is refused by what it declares, before any memory is given to it."""
    if len(body) > MAX_PACKET:
        raise Refused(f"{what} has {len(body)} bytes, {MAX_PACKET} are allowed")
    if not body:
        raise Refused(f"{what} is empty")
    if not FIRST <= body[0] <= SCHEMA:
        raise Refused(f"{what} has schema version {body[0]}, this side speaks {SCHEMA}; upgrade the older side")
    packed = memoryview(body)[1:]
    try:
        declared = zstandard.frame_content_size(packed)
        if declared < 0:
            raise Refused(f"{what} does not declare its size")
        if declared > MAX_DOCUMENT:
            raise Refused(f"{what} would have {declared} bytes decompressed, {MAX_DOCUMENT} are allowed")
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_DOCUMENT)
        return bytes(reader.decompress(packed, max_output_size=MAX_DOCUMENT, allow_extra_data=False))
    except (zstandard.ZstdError, MemoryError) as e:
        raise Refused(f"{what} is not one whole zstd frame: {e}") from e


def _load(document: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.msgpack.decode(document, type=kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as e:
        raise Refused(f"{what} does not follow the schema: {e}") from e


# ---------------------------------------------------------------- the three documents


class Presence(Value, frozen=True):
    """Whether a node is connected; retained. Offline ones are sent by the broker (last will) or at a clean end.

    :ivar epoch: the node's link in one life of its process; a will of another epoch than the one that was last
        online is stale.
    :ivar since: the node's wall clock, in seconds, when that life or connection began. A board without a clock
        says 1970: for people, never for decisions; the hub counts from when it heard.
    """

    online: bool
    epoch: str
    since: float


def encode_presence(presence: Presence) -> bytes:
    return frame(canonical(presence), "presence")


def decode_presence(body: bytes) -> Presence:
    return _load(unframe(body, "presence"), Presence, "presence")


def encode_status(status: NodeStatus) -> bytes:
    return frame(canonical(status), f"status of {status.node}")


def decode_status(body: bytes, node: str | None = None) -> NodeStatus:
    """Refused if it isn't one, or speaks of another node than `node` (the one that its topic names)."""
    status = _load(unframe(body, "status"), NodeStatus, "status")
    if node is not None and status.node != node:
        raise Refused(f"status speaks of node {status.node[:80]!r} on the topic of {node!r}")
    return status


def encode_desired(desired: Desired, document: bytes | None = None) -> bytes:
    """The content that trust.sign_desired signs; never sent bare. `document`: its canonical form, if it is at hand."""
    document = canonical(desired) if document is None else document
    return frame(document, f"desired state of {desired.node}", schema_of(desired))


def schema_of(desired: Desired) -> int:
    return TIMED if any(p.start_at is not None for p in desired.pods) else FIRST


def decode_desired(document: bytes) -> Desired:
    """From the bytes that `unframe` gave."""
    return _load(document, Desired, "desired state")
