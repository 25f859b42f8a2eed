"""All that the API asks about who may do what, put together."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from cloudlink import certs
from cloudlink.hub.auth.accounts import Accounts
from cloudlink.hub.auth.audit import Audit, NoAudit
from cloudlink.hub.auth.authenticate import Administrator, Authenticator
from cloudlink.hub.auth.authority import Authority
from cloudlink.hub.auth.certificates import Certificates
from cloudlink.hub.auth.tokens import UserTokens
from cloudlink.hub.store import Store


class Keys(msgspec.Struct, frozen=True):
    """What the hub's folder has to give.

    :ivar accounts: signs ServiceAccounts' tokens (EC P-256, PEM); empty = a new one, good as long as this process.
    :ivar fleet: certificate of the nodes' authority, PEM; empty = no client certificates.
    :ivar users: the people's authority; None = no client certificates.
    """

    accounts: bytes = b""
    fleet: bytes = b""
    users: certs.Authority | None = None


NO_KEYS = Keys()


class Access:
    def __init__(
        self,
        store: Store,
        administrator: Administrator,
        keys: Keys,
        audit: Audit | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.accounts = Accounts(store, keys.accounts or certs.make_key(), now)
        self.tokens = UserTokens(store, now)
        self.users = keys.users
        known = Certificates(keys.fleet, keys.users.pem, now) if keys.users is not None and keys.fleet else None
        self.authenticator = Authenticator(administrator, (self.tokens, self.accounts), known)
        self.authority = Authority(store)
        self.audit = audit or NoAudit()
        self.now = now
