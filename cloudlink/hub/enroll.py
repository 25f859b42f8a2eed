"""How a machine becomes a node: a one-time token and a certificate request in, a certificate out.

    admin   POST /enroll/v1/tokens   one pasteable join token; RBAC decides who may: create jointokens.edged.dev
    anyone  GET  /enroll/v1/ca       the CA certificate; believed only for its fingerprint, which is in the token
    node    POST /enroll/v1/join     the token's secret, a CSR, an X25519 public key, board facts -> a certificate

A token is stored only as its hash, lives for a short while, and works for one key: the first that comes with it.
That key may ask again while the token lives, since on a bad network the answer may be lost after the token was spent.
A name that another key holds is given away only by a token made for that very name: flashing a board anew is an
admin's deliberate act, not something that any token in a drawer can do.
"""

from __future__ import annotations

import base64
import binascii
import collections
import hashlib
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, NamedTuple, Protocol, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloudlink import certs, trust, wire
from cloudlink.hub.auth.users import USER
from edged.errors import EdgedError, PermanentError, RetryError

_log = logging.getLogger(__name__)

NODES = "nodes"  # bucket: node name -> NodeRecord
TOKENS = "join-tokens"  # bucket: SHA-256 of the secret, hex -> _Pending
MAX_BODY = 64 << 10  # bytes; a join takes 2 kB
MAX_PENDING = 1000  # tokens alive at once
FAILURES = 10  # wrong attempts from one address within WINDOW before it has to wait
ALL_FAILURES = 300  # the same over all addresses
WINDOW = 60.0  # seconds

Body = TypeVar("Body", bound=BaseModel)


class Records(Protocol):
    """What is needed of the hub's store."""

    def put_record(self, bucket: str, key: str, value: bytes) -> None: ...

    def get_record(self, bucket: str, key: str) -> bytes | None: ...

    def records(self, bucket: str) -> Mapping[str, bytes]: ...

    def delete_record(self, bucket: str, key: str) -> None: ...


class NodeRecord(msgspec.Struct, frozen=True):
    """What the hub knows of a node's identity.

    :ivar public_key: X25519, for sealing secrets.
    :ivar key_id: SHA-256 of the public key in its certificate: who the node is.
    :ivar serial: of its newest certificate, hex.
    :ivar fingerprint: SHA-256 of that certificate.
    :ivar joined_at: hub's wall clock, seconds.
    """

    public_key: bytes
    key_id: bytes
    serial: str
    fingerprint: bytes
    facts: dict[str, str]
    joined_at: float


class _Pending(msgspec.Struct, frozen=True):
    """A token that was handed out.

    :ivar node: the only name it is good for; "" = any that is free.
    :ivar used_by, used_for: key_id that spent it and the name it got; empty = nobody yet.
    """

    node: str
    expires_at: float
    used_by: bytes = b""
    used_for: str = ""


def node_record(store: Records, node: str) -> NodeRecord | None:
    """What is known of a node that has joined; None if it never did."""
    raw = store.get_record(NODES, node)
    return None if raw is None else msgspec.msgpack.decode(raw, type=NodeRecord)


# ---------------------------------------------------------------- what people and nodes send

_Fact = Annotated[str, Field(max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TokenRequest(_Strict):
    """:ivar ttl: seconds; between a minute and a week."""

    node: str = Field(default="", max_length=63)
    ttl: int = Field(default=3600, ge=60, le=7 * 24 * 3600)


class JoinRequest(_Strict):
    """Keys in base64; `secret` is the token's. `name` "" leaves the name to the token."""

    secret: str = Field(max_length=100)
    name: str = Field(default="", max_length=63)
    csr: str = Field(max_length=certs.MAX_CSR)
    public_key: str = Field(max_length=100)
    facts: dict[Annotated[str, Field(max_length=63)], _Fact] = Field(default={}, max_length=32)


class _DeniedError(Exception):
    """An HTTP status and a sentence for whoever asked."""

    def __init__(self, status: int, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after


class Attempts:
    """Counts failures by address in a sliding minute; bounded whatever anybody sends."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: collections.deque[tuple[float, str]] = collections.deque(maxlen=ALL_FAILURES)

    def check(self, address: str) -> None:
        while self._failures and self._failures[0][0] <= self._now() - WINDOW:
            self._failures.popleft()
        own = [t for t, a in self._failures if a == address]
        if len(own) >= FAILURES or len(self._failures) >= ALL_FAILURES:
            oldest = own[0] if len(own) >= FAILURES else self._failures[0][0]
            wait = oldest + WINDOW - self._now()
            raise _DeniedError(429, f"too many wrong attempts; try again in {wait:.0f} s", wait)

    def failed(self, address: str) -> None:
        self._failures.append((self._now(), address))


class Broker(NamedTuple):
    """Where nodes find the broker; host "" = at the address where they found the hub."""

    host: str
    port: int


class Enrollment:
    """The deciding part: tokens and joins against the store. One call at a time, none of them awaits.

    :param url: https://host:port under which nodes reach this hub; goes into tokens.
    :param on_join: told (node, facts) after a node's record is stored; may be told again of the same node.
    :param now: wall clock, seconds.
    """

    def __init__(
        self,
        store: Records,
        authority: certs.Authority,
        fleet: str,
        verify_key: bytes,
        url: str,
        broker: Broker,
        on_join: Callable[[str, Mapping[str, str]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.authority = authority
        self._store = store
        self._fleet = fleet
        self._verify_key = verify_key
        self._url = url
        self._broker = broker
        self._on_join = on_join
        self._now = now

    def create_token(self, node: str = "", ttl: float = 3600.0) -> str:
        """A join token as one word; it is not kept here, so it can't be shown again.

        :param node: the only name it will be good for; "" = any name that is free.
        :raises PermanentError: the name is none, or too many tokens are alive.
        """
        if node and not wire.valid_name(node):
            raise PermanentError(f"node name {node[:80]!r} is not a DNS-1123 label (a-z, 0-9, -, 63 at most)")
        self._forget_expired()
        if len(self._store.records(TOKENS)) >= MAX_PENDING:
            raise PermanentError(f"{MAX_PENDING} join tokens are waiting to be used; let some expire first")
        token = trust.JoinToken(self._url, self.authority.fingerprint, os.urandom(32))
        pending = _Pending(node, self._now() + ttl)
        self._store.put_record(TOKENS, _hash(token.secret), msgspec.msgpack.encode(pending))
        return trust.format_token(token)

    def join(self, request: JoinRequest) -> dict[str, object]:
        """Spend a token, issue a certificate; the answer as JSON. Nothing is changed unless all of it is right.

        :raises _DeniedError: with a status and a sentence.
        """
        key, pending = self._find_token(request.secret)
        try:
            csr = request.csr.encode("ascii")
            key_id = certs.key_id_of_csr(csr)
            public_key = _public_key(request.public_key)
        except (PermanentError, UnicodeEncodeError) as e:
            raise _DeniedError(400, f"csr or public_key: {e}") from e
        if pending.used_by not in (b"", key_id):
            raise _DeniedError(401, "this join token has been used already; make a new one with `edgehub token create`")
        node = self._name(request.name, pending, key_id)
        certificate = self.authority.sign_client(csr, node)
        spent = msgspec.structs.replace(pending, used_by=key_id, used_for=node)
        self._store.put_record(TOKENS, key, msgspec.msgpack.encode(spent))
        record = NodeRecord(
            public_key=public_key,
            key_id=key_id,
            serial=certs.serial_of(certificate),
            fingerprint=certs.fingerprint(certificate),
            facts=dict(request.facts),
            joined_at=self._now(),
        )
        self._store.put_record(NODES, node, msgspec.msgpack.encode(record))
        self._on_join(node, record.facts)
        _log.info("node %s joined with certificate %s", node, record.serial)
        return {
            "node": node,
            "fleet": self._fleet,
            "certificate": certificate.decode(),
            "ca": self.authority.pem.decode(),
            "verify_key": base64.b64encode(self._verify_key).decode(),
            "broker_host": self._broker.host,
            "broker_port": self._broker.port,
        }

    def _find_token(self, secret: str) -> tuple[str, _Pending]:
        self._forget_expired()
        try:
            wanted = _hash(base64.b64decode(secret, validate=True))
        except (binascii.Error, ValueError) as e:
            raise _DeniedError(400, "secret is not base64") from e
        found = None
        for key, raw in self._store.records(TOKENS).items():  # all of them: the time taken tells nothing
            if hmac.compare_digest(key, wanted):
                found = key, msgspec.msgpack.decode(raw, type=_Pending)
        if found is None:
            raise _DeniedError(401, "unknown or expired join token; make a new one with `edgehub token create`")
        return found

    def _name(self, asked: str, pending: _Pending, key_id: bytes) -> str:
        """The node's name, if it may have it."""
        node = pending.node or pending.used_for or asked
        if asked not in ("", node):
            raise _DeniedError(403, f"this join token is for node {node!r}, not for {asked!r}")
        if not node:
            raise _DeniedError(400, "name: this join token is for any node, so say which name this one shall have")
        if not wire.valid_name(node):
            raise _DeniedError(400, f"name: {node!r} is not a DNS-1123 label (a-z, 0-9, -, 63 at most)")
        held = node_record(self._store, node)
        if held is not None and held.key_id != key_id and not pending.node:
            hint = f"`edgehub token create --node {node}` makes a token that may replace it"
            raise _DeniedError(409, f"there is a node {node!r} with another key; {hint}, or choose another name")
        return node

    def _forget_expired(self) -> None:
        for key, raw in self._store.records(TOKENS).items():
            if msgspec.msgpack.decode(raw, type=_Pending).expires_at <= self._now():
                self._store.delete_record(TOKENS, key)


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _public_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise PermanentError(f"not base64: {e}") from e
    trust.seal(key, "", "", {})  # refuses whatever no secret could be sealed for
    return key


# ---------------------------------------------------------------- HTTP


def make_router(enrollment: Enrollment, attempts: Attempts | None = None) -> APIRouter:
    """The three routes. Errors are JSON: {"detail": sentence}. Who may ask for tokens is the gate's to say (api.gate):
    a request that it has let through has a user."""
    router = APIRouter(prefix="/enroll/v1", tags=["enroll"])
    attempts = attempts or Attempts()

    @router.get("/ca")
    async def ca() -> Response:
        return Response(enrollment.authority.pem, media_type="application/x-pem-file")

    @router.post("/tokens")
    async def tokens(request: Request) -> Response:
        async def answer() -> dict[str, object]:
            if USER not in request.scope:
                raise _DeniedError(401, "creating join tokens takes a user, and nobody has looked who this is")
            body = _parse(TokenRequest, await _read(request))
            return {"token": enrollment.create_token(body.node, body.ttl), "ttl": body.ttl, "node": body.node}

        return await _guarded(request, attempts, answer)

    @router.post("/join")
    async def join(request: Request) -> Response:
        async def answer() -> dict[str, object]:
            return enrollment.join(_parse(JoinRequest, await _read(request)))

        return await _guarded(request, attempts, answer)

    return router


async def _guarded(
    request: Request, attempts: Attempts, answer: Callable[[], Awaitable[dict[str, object]]]
) -> JSONResponse:
    """The answer, or the error as JSON; failures of who asks are counted against its address."""
    address = request.client.host if request.client is not None else "unknown"
    try:
        attempts.check(address)
        return JSONResponse(await answer())
    except _DeniedError as e:
        if e.status != 429:
            attempts.failed(address)
            _log.warning("%s from %s denied: %s", request.url.path, address, e)
        wait = {} if e.retry_after is None else {"Retry-After": f"{e.retry_after:.0f}"}
        return JSONResponse({"detail": str(e)}, e.status, wait)
    except RetryError as e:
        return JSONResponse({"detail": str(e)}, 503, {"Retry-After": f"{e.after:.0f}"})
    except EdgedError as e:
        return JSONResponse({"detail": str(e)}, 400)


async def _read(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _DeniedError(413, f"the body has more than {MAX_BODY} bytes")
    return body


def _parse(kind: type[Body], body: bytes) -> Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as e:
        # Only places and rules, never the input: it may hold the secret.
        findings = (f"{'.'.join(map(str, f['loc'])) or 'body'}: {f['msg']}" for f in e.errors(include_input=False)[:10])
        raise _DeniedError(400, "; ".join(findings)) from None
