"""How a hub and a node come to two keys that nobody else has, by one message each way. Pure: randomness is an argument.

    hub -> node   v | hub | E_h | signature      signed: domain | v | fleet | node | conversation | hub | E_h
    node -> hub   v | E_n | first sealed frame

    keys = BLAKE2b-512(X25519(e_h, E_n) | X25519(e_h, S_n) | BLAKE2b(opening as it was signed | E_n)), half each way

E are X25519 keys made for this conversation alone, S_n is the node's own (the one that secrets are sealed to). The
signature is the hub's (Ed25519), so nobody else can open; only who holds s_n can answer, and proves it by the sealed
frame in its answer. The request travels under these keys only: an opening that is sent again gives its sender keys that
he can't compute. Both E are forgotten when it ends, so what was recorded stays closed even to who takes s_n later.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple, TypeVar

import msgspec
import nacl.bindings
from nacl.exceptions import CryptoError

from cloudlink.wire import Refused

_T = TypeVar("_T")

KEY_BYTES = 32
VERSION = 1
MAX_OPENING = 512  # bytes; an opening has about 130
_DOMAIN = b"edged conversation\0"  # a signature made for anything else can't be passed off as this
_PERSON = b"edged talk keys"  # BLAKE2b's personalization: at most 16 bytes


class Opening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """:ivar hub: which of the hub's processes waits for the answer; a part of the topic of the answer.
    :ivar key: E_h.
    """

    v: int
    hub: str
    key: bytes
    signature: bytes = b""


class Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """:ivar key: E_n. `first`: the node's first frame, sealed."""

    v: int
    key: bytes
    first: bytes


class Keys(NamedTuple):
    """32 bytes each, one for each direction."""

    to_node: bytes
    to_hub: bytes


class Party(NamedTuple):
    """Whose conversation it is: bound by the signature, so that no opening can be moved to another."""

    fleet: str
    node: str
    conversation: str


def _message(party: Party, hub: str, key: bytes) -> bytes:
    """What is signed: lengths in front of every variable part, so that no two openings share an encoding."""
    parts = [*(part.encode() for part in (*party, hub)), key]
    return _DOMAIN + bytes((VERSION,)) + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def make_opening(party: Party, hub: str, ephemeral: bytes, signing_key: bytes) -> bytes:
    """:param ephemeral: 32 random bytes, for this conversation alone. :param signing_key: the hub's Ed25519 seed."""
    key = nacl.bindings.crypto_scalarmult_base(ephemeral)
    secret = nacl.bindings.crypto_sign_seed_keypair(signing_key)[1]
    signed = nacl.bindings.crypto_sign(_message(party, hub, key), secret)
    return msgspec.msgpack.encode(Opening(VERSION, hub, key, signed[: nacl.bindings.crypto_sign_BYTES]))


def read_opening(raw: bytes, party: Party, verify_key: bytes) -> Opening:
    """Believe an opening, or raise Refused with the reason; nothing else is ever raised for bad bytes."""
    if len(raw) > MAX_OPENING:
        raise Refused(f"an opening has {len(raw)} bytes, {MAX_OPENING} are allowed")
    opening = _decode(raw, Opening, "an opening")
    if opening.v != VERSION:
        raise Refused(f"an opening has version {opening.v}, this node speaks {VERSION}; upgrade the older side")
    if len(opening.key) != KEY_BYTES or len(opening.signature) != nacl.bindings.crypto_sign_BYTES:
        raise Refused("an opening has a key or signature of the wrong size")
    try:
        nacl.bindings.crypto_sign_open(opening.signature + _message(party, opening.hub, opening.key), verify_key)
    except CryptoError as e:
        raise Refused("an opening is badly signed: not by this node's hub, or for another conversation") from e
    return opening


def node_keys(party: Party, opening: Opening, ephemeral: bytes, private_key: bytes) -> Keys:
    """The node's half. :param ephemeral: 32 random bytes. :param private_key: s_n. :raises Refused: E_h is no key."""
    own = nacl.bindings.crypto_scalarmult_base(ephemeral)
    shared = _agree(ephemeral, opening.key), _agree(private_key, opening.key)
    return _derive(shared, party, opening.hub, opening.key, own)


def hub_keys(party: Party, hub: str, ephemeral: bytes, answer: Answer, public_key: bytes) -> Keys:
    """The hub's half. :param ephemeral: the one of the opening. :param public_key: S_n, from when the node joined."""
    own = nacl.bindings.crypto_scalarmult_base(ephemeral)
    shared = _agree(ephemeral, answer.key), _agree(ephemeral, public_key)
    return _derive(shared, party, hub, own, answer.key)


def make_answer(ephemeral: bytes, first: bytes) -> bytes:
    return msgspec.msgpack.encode(Answer(VERSION, nacl.bindings.crypto_scalarmult_base(ephemeral), first))


def read_answer(raw: bytes) -> Answer:
    """Only its shape: that it is the node's is proved by its frame, which opens with the keys. :raises Refused:"""
    answer = _decode(raw, Answer, "an answer")
    if answer.v != VERSION:
        raise Refused(f"an answer has version {answer.v}, this hub speaks {VERSION}; upgrade the older side")
    if len(answer.key) != KEY_BYTES:
        raise Refused("an answer has a key of the wrong size")
    return answer


def _decode(raw: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as e:
        raise Refused(f"{what} does not follow the schema: {e}") from e


def _agree(secret: bytes, public: bytes) -> bytes:
    """X25519 (RFC 7748); the points that would give everybody the same result are no keys."""
    try:
        return nacl.bindings.crypto_scalarmult(secret, public)
    except (CryptoError, ValueError, TypeError) as e:
        raise Refused("the other side gave a key that is none") from e


def _derive(shared: tuple[bytes, bytes], party: Party, hub: str, hub_key: bytes, node_key: bytes) -> Keys:
    transcript = hashlib.blake2b(_message(party, hub, hub_key) + node_key).digest()
    both = hashlib.blake2b(b"".join(shared) + transcript, digest_size=2 * KEY_BYTES, person=_PERSON).digest()
    return Keys(both[:KEY_BYTES], both[KEY_BYTES:])
