"""People's bearer tokens: made once, stored as a hash, with an end.

Nothing has to be kept from the hub: who reads its database can't use what is there. A token has 256 random bits, so
one round of SHA-256 is as good as many.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from cloudlink.hub.auth.authenticate import Unauthorized
from cloudlink.hub.auth.users import User, authenticated
from edged.errors import PermanentError

TOKENS = "user-tokens"  # bucket: id -> Held
PREFIX = "edged-"
MAX_TOKENS = 10_000
DEFAULT_TTL = 90 * 24 * 3600.0  # seconds
CREDENTIAL = "authentication.kubernetes.io/credential-id"

_RESERVED_GROUPS = ("system:authenticated", "system:unauthenticated", "system:nodes", "system:serviceaccounts")


class Records(Protocol):
    """What is needed of the hub's store."""

    def put_record(self, bucket: str, key: str, value: bytes) -> None: ...

    def get_record(self, bucket: str, key: str) -> bytes | None: ...

    def records(self, bucket: str) -> Mapping[str, bytes]: ...

    def delete_record(self, bucket: str, key: str) -> None: ...


class Held(msgspec.Struct, frozen=True):
    """A token that was given out.

    :ivar digest: SHA-256 of the whole token.
    :ivar made_at, expires_at: hub's wall clock, seconds; `expires_at` 0 = it doesn't.
    """

    user: str
    groups: tuple[str, ...]
    digest: bytes
    made_at: float
    expires_at: float


class Made(msgspec.Struct, frozen=True):
    """A new token, which nobody will see again."""

    id: str
    token: str
    expires_at: float


def check_name(user: str, groups: tuple[str, ...]) -> None:
    """:raises PermanentError: it is a name that the hub itself gives away."""
    if not user or len(user) > 253 or not user.isprintable() or user != user.strip():
        raise PermanentError("a user's name has 1 to 253 printable characters, and no space at its ends")
    if user.startswith("system:"):
        raise PermanentError(f"user {user!r}: names that begin with system: are the hub's own to give")
    for group in groups:
        if not group or len(group) > 253 or not group.isprintable():
            raise PermanentError("a group's name has 1 to 253 printable characters")
        if group.startswith(_RESERVED_GROUPS):
            raise PermanentError(f"group {group!r}: it is the hub that says who is in it")


class UserTokens:
    """:param now: wall clock, seconds."""

    def __init__(self, store: Records, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def create(self, user: str, groups: tuple[str, ...] = (), ttl: float = DEFAULT_TTL) -> Made:
        """:param ttl: seconds; 0 = for ever.
        :raises PermanentError: a name that can't be, or too many tokens.
        """
        check_name(user, groups)
        self._forget_expired()
        if len(self._store.records(TOKENS)) >= MAX_TOKENS:
            raise PermanentError(f"there are {MAX_TOKENS} user tokens; revoke some first (`edgehub user revoke`)")
        name = secrets.token_hex(5)
        token = f"{PREFIX}{name}-{secrets.token_urlsafe(32)}"
        now = self._now()
        held = Held(user, groups, hashlib.sha256(token.encode()).digest(), now, now + ttl if ttl else 0.0)
        self._store.put_record(TOKENS, name, msgspec.msgpack.encode(held))
        return Made(name, token, held.expires_at)

    def all(self) -> dict[str, Held]:
        """By id; those that have ended are left out."""
        held = {key: _decode(raw) for key, raw in sorted(self._store.records(TOKENS).items())}
        return {key: h for key, h in held.items() if not self._is_over(h)}

    def revoke(self, name: str) -> bool:
        """By id; False where there is none."""
        there = self._store.get_record(TOKENS, name) is not None
        self._store.delete_record(TOKENS, name)
        return there

    def revoke_user(self, user: str) -> list[str]:
        """All of one user's; their ids."""
        gone = [key for key, held in self.all().items() if held.user == user]
        for key in gone:
            self.revoke(key)
        return gone

    def user_of(self, token: str) -> User | None:
        """See authenticate.TokenReader."""
        if not token.startswith(PREFIX):
            return None
        name = token.removeprefix(PREFIX).partition("-")[0]
        raw = self._store.get_record(TOKENS, name)
        held = _decode(raw) if raw is not None else None
        if held is None or not secrets.compare_digest(held.digest, hashlib.sha256(token.encode()).digest()):
            raise Unauthorized("this token is unknown or was revoked; `edgehub user create` makes a new one")
        if self._is_over(held):
            raise Unauthorized("this token has expired; `edgehub user create` makes a new one")
        return authenticated(held.user, held.groups, extra={CREDENTIAL: (f"TOKEN={name}",)})

    def _is_over(self, held: Held) -> bool:
        return bool(held.expires_at) and held.expires_at <= self._now()

    def _forget_expired(self) -> None:
        for key, raw in self._store.records(TOKENS).items():
            if self._is_over(_decode(raw)):
                self._store.delete_record(TOKENS, key)


def _decode(raw: bytes) -> Held:
    return msgspec.msgpack.decode(raw, type=Held)
