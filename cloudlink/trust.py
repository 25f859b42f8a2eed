"""Who may tell a node what to do, and who may read a secret: signatures (Ed25519) and sealed boxes (X25519).

The broker is not trusted. A desired document is believed only if the hub signed it for this fleet, this node
and this generation; a secret opens only with the key of the node it was sealed for, under the name it was
sealed for. Keys are files of 32 raw bytes, mode 0600. Only libsodium's bindings are loaded here: the resident
node imports this module, and `nacl.signing`'s wrappers would add nothing that is used.

The signed message is, with lengths as 4-byte big-endian integers in front of every variable part (so that no two
documents share an encoding):

    "edged desired state\\0" | version u32 | fleet | node | generation u64 | issued_at f64 | SHA-512(content)
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import nacl.bindings
from nacl.exceptions import CryptoError

from cloudlink import wire
from cloudlink.wire import Refused
from edged.errors import PermanentError
from edged.model import Desired

KEY_BYTES = 32

# The name in every server certificate of a hub and its broker, and the one that nodes insist on, whatever address they
# dialled: a hub that moves, or is reached through a forwarded port, stays the hub. (.internal is reserved by ICANN.)
HUB_TLS_NAME = "hub.edged.internal"

ENVELOPE = 1  # version of the envelope and of what the signature covers; the content has its own (wire.SCHEMA)
_DOMAIN = b"edged desired state\0"  # a signature made for anything else can't be passed off as this
_SLACK = 1024  # bytes of an envelope beside its content
_GENERATIONS = 1 << 63  # as large as msgpack, SQLite and PostgreSQL all agree on


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is published, retained, on the node's desired topic: msgpack of this, content compressed by wire."""

    v: int
    fleet: str
    node: str
    generation: int
    issued_at: float
    content: bytes
    signature: bytes = b""


class _Version(msgspec.Struct, frozen=True):
    """Read first, so that a document of the future is refused as such and not as garbage."""

    v: int


class Opened(NamedTuple):
    """A document that may be believed.

    :ivar issued_at: the hub's wall clock in seconds, signed: a lower bound of the true time.
    :ivar digest: of the content alone; signing the same content again doesn't change it.
    """

    desired: Desired
    issued_at: float
    digest: bytes


def digest(document: bytes) -> bytes:
    """16 bytes that name a desired document by its canonical, uncompressed content."""
    return hashlib.blake2b(document, digest_size=16).digest()


def _signed_message(envelope: Envelope) -> bytes:
    fleet, node = envelope.fleet.encode(), envelope.node.encode()
    return b"".join(
        (
            _DOMAIN,
            struct.pack(">II", envelope.v, len(fleet)),
            fleet,
            struct.pack(">I", len(node)),
            node,
            struct.pack(">Qd", envelope.generation, envelope.issued_at),
            hashlib.sha512(envelope.content).digest(),
        )
    )


def sign_desired(desired: Desired, signing_key: bytes, issued_at: float, document: bytes | None = None) -> bytes:
    """The document as a signed envelope, ready to publish.

    :param signing_key: the hub's 32-byte Ed25519 seed.
    :param issued_at: the hub's wall clock in seconds.
    :param document: wire.canonical(desired), where it is at hand.
    :raises PermanentError: it is too large for the wire, or its generation is no positive 63-bit number.
    """
    if not 0 < desired.generation < _GENERATIONS:
        raise PermanentError(f"generation {desired.generation} of {desired.node} is not between 1 and 2^63-1")
    envelope = Envelope(
        v=ENVELOPE,
        fleet=desired.fleet,
        node=desired.node,
        generation=desired.generation,
        issued_at=float(issued_at),
        content=wire.encode_desired(desired, document),
    )
    secret = nacl.bindings.crypto_sign_seed_keypair(_checked(signing_key, "signing key"))[1]
    signed = nacl.bindings.crypto_sign(_signed_message(envelope), secret)
    return msgspec.msgpack.encode(
        msgspec.structs.replace(envelope, signature=signed[: nacl.bindings.crypto_sign_BYTES])
    )


def open_envelope(raw: bytes, verify_key: bytes, fleet: str, node: str) -> Opened:
    """Believe a document, or raise Refused with the reason; nothing else is ever raised for bad bytes.

    Whether its generation is new enough is the inbox's to say.
    """
    envelope = _read_envelope(raw)
    if envelope.fleet != fleet:
        raise Refused(f"desired state is for fleet {envelope.fleet[:80]!r}, this node is in {fleet!r}")
    if envelope.node != node:
        raise Refused(f"desired state is for node {envelope.node[:80]!r}, this one is {node!r}")
    if not envelope.signature:
        raise Refused("desired state is unsigned")
    _verify(envelope, _checked(verify_key, "verify key"))
    document = wire.unframe(envelope.content, "desired state")
    desired = wire.decode_desired(document)
    if desired.generation != envelope.generation:
        raise Refused(f"desired state says generation {desired.generation}, its envelope {envelope.generation}")
    if (desired.fleet, desired.node) != (fleet, node):
        raise Refused(f"desired state inside is for {desired.fleet[:80]}/{desired.node[:80]}, not {fleet}/{node}")
    return Opened(desired, envelope.issued_at, digest(document))


def open_desired(raw: bytes, verify_key: bytes, fleet: str, node: str) -> Desired:
    """Like open_envelope, for those who only want the document."""
    return open_envelope(raw, verify_key, fleet, node).desired


def _read_envelope(raw: bytes) -> Envelope:
    if len(raw) > wire.MAX_PACKET + _SLACK:
        raise Refused(f"desired state has {len(raw)} bytes, {wire.MAX_PACKET + _SLACK} are allowed")
    try:
        version = msgspec.msgpack.decode(raw, type=_Version).v
        if version != ENVELOPE:
            raise Refused(
                f"desired state has envelope version {version}, this node speaks {ENVELOPE}; upgrade the older"
            )
        envelope = msgspec.msgpack.decode(raw, type=Envelope)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as e:
        raise Refused(f"desired state is not a signed envelope: {e}") from e
    if not 0 < envelope.generation < _GENERATIONS:
        raise Refused(f"desired state has generation {envelope.generation}, which is none")
    if envelope.signature and msgspec.msgpack.encode(envelope) != raw:
        # One document, one encoding: what isn't covered by the signature can't be varied either.
        raise Refused("desired state is not encoded as the hub encodes it")
    return envelope


def _verify(envelope: Envelope, verify_key: bytes) -> None:
    if len(envelope.signature) != nacl.bindings.crypto_sign_BYTES:
        raise Refused(f"desired state has a signature of {len(envelope.signature)} bytes, Ed25519 has 64")
    try:
        nacl.bindings.crypto_sign_open(envelope.signature + _signed_message(envelope), verify_key)
    except CryptoError as e:
        raise Refused("desired state is badly signed: not by this node's hub, or changed on its way") from e


# ---------------------------------------------------------------- secrets


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plain inside of a sealed secret. Never compressed: the length would tell about the content."""

    node: str
    name: str
    data: dict[str, bytes]


def seal(public_key: bytes, node: str, name: str, data: Mapping[str, bytes]) -> bytes:
    """Encrypt one secret to one node: an anonymous sealed box (libsodium crypto_box_seal: X25519, XSalsa20-Poly1305).

    Each call gives other bytes for the same data; who compares documents keeps the sealed form.

    :param name: "namespace/name" of the secret; bound inside, as is the node, so a box can't be moved to another.
    """
    inside = msgspec.msgpack.encode(_Sealed(node, name, dict(data)), order="deterministic")
    try:
        return nacl.bindings.crypto_box_seal(inside, _checked(public_key, "public key"))
    except CryptoError as e:
        raise PermanentError(f"the public key of node {node} is no usable X25519 key; let it join again") from e


def unseal(private_key: bytes, node: str, name: str, sealed: bytes) -> dict[str, bytes]:
    """Open what `seal` made for this node under this name; Refused otherwise."""
    private_key = _checked(private_key, "private key")
    public_key = nacl.bindings.crypto_scalarmult_base(private_key)
    try:
        inside = nacl.bindings.crypto_box_seal_open(sealed, public_key, private_key)
    except (CryptoError, ValueError, TypeError) as e:
        raise Refused(f"secret {name} was not sealed for the key of node {node}, or was changed on its way") from e
    try:
        box = msgspec.msgpack.decode(inside, type=_Sealed)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        # Without the cause: msgspec's message could quote what is inside.
        raise Refused(f"secret {name} for node {node} holds no map of keys to bytes") from None
    if (box.node, box.name) != (node, name):
        raise Refused(f"secret {name} for node {node} was sealed as {box.name[:300]!r} for node {box.node[:80]!r}")
    return box.data


# ---------------------------------------------------------------- join tokens


class JoinToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a new node is told: where the hub is, by what it knows it, and what it is let in with.

    :ivar url: https://host:port of the hub.
    :ivar fingerprint: SHA-256 of the DER form of the hub's CA certificate.
    :ivar secret: 32 random bytes; works once and for a short time. The hub keeps only its hash.
    """

    url: str
    fingerprint: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"JoinToken(url={self.url!r}, secret hidden)"


_TOKEN_PREFIX = "edgejoin1."
_TOKEN_CHECK = 4  # bytes of a checksum, so that a token pasted in part is told from a wrong one


def format_token(token: JoinToken) -> str:
    """One ASCII word that survives terminals, shells and YAML."""
    packed = msgspec.msgpack.encode(token)
    packed += hashlib.blake2b(packed, digest_size=_TOKEN_CHECK).digest()
    return _TOKEN_PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def parse_token(text: str) -> JoinToken:
    """The opposite; PermanentError says what is wrong, and never what is in it."""
    text = "".join(text.split())  # a terminal may have wrapped it
    if not text.startswith(_TOKEN_PREFIX):
        raise PermanentError(f"this is no join token: one starts with {_TOKEN_PREFIX!r}; make one with `edgectl token`")
    try:
        body = text.removeprefix(_TOKEN_PREFIX).encode("ascii")
        packed = base64.b64decode(body + b"=" * (-len(body) % 4), altchars=b"-_", validate=True)
        packed, check = packed[:-_TOKEN_CHECK], packed[-_TOKEN_CHECK:]
        if check != hashlib.blake2b(packed, digest_size=_TOKEN_CHECK).digest():
            raise ValueError("checksum")
        token = msgspec.msgpack.decode(packed, type=JoinToken)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise PermanentError("the join token is damaged: paste the whole of it, or make a new one") from None
    if len(token.fingerprint) != 32 or not token.url.startswith("https://"):
        raise PermanentError(
            "the join token names no https address or no fingerprint; make a new one with `edgectl token`"
        )
    return token


# ---------------------------------------------------------------- keys


def _checked(key: bytes, what: str) -> bytes:
    if len(key) != KEY_BYTES:
        raise PermanentError(f"{what} has {len(key)} bytes instead of {KEY_BYTES}")
    return key


def generate_key() -> bytes:
    """32 random bytes: an Ed25519 seed or an X25519 private key, whichever it is used as."""
    return os.urandom(KEY_BYTES)


def verify_key_of(signing_key: bytes) -> bytes:
    """The Ed25519 public half of a seed."""
    return nacl.bindings.crypto_sign_seed_keypair(_checked(signing_key, "signing key"))[0]


def public_key_of(private_key: bytes) -> bytes:
    """The X25519 public half of a private key."""
    return nacl.bindings.crypto_scalarmult_base(_checked(private_key, "private key"))


def load_key(path: Path) -> bytes:
    """PermanentError if the file is missing, unreadable or not 32 bytes."""
    try:
        return _checked(path.read_bytes(), f"key {path}")
    except OSError as e:
        raise PermanentError(f"can't read key {path}: {e.strerror}") from e


def load_or_create_key(path: Path) -> bytes:
    """The key in that file, which is made on first use. A file that is there is never replaced."""
    if not path.exists():
        write_file(path, generate_key())
    return load_key(path)


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write durably and atomically: after a power cut there is the old file or the whole new one."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:  # noqa: PTH123 (a descriptor: the mode must be right from the first moment)
        file.write(content)
        file.flush()
        os.fsync(fd)
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
