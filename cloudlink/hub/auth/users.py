"""Who somebody is, once that is known (apiserver's user.Info); names that mean something by themselves. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

USER = "edged.user"  # key in an ASGI request's scope: whom it counts as, once the gate has let it in

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
ANONYMOUS = "system:anonymous"
NODES = "system:nodes"
NODE_PREFIX = "system:node:"
ACCOUNTS = "system:serviceaccounts"
ACCOUNT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class User:
    """:ivar extra: what else the authenticator knows, such as which credential it was."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def info(self) -> dict[str, object]:
        """authentication.k8s.io/v1 UserInfo."""
        document: dict[str, object] = {"username": self.name}
        if self.uid:
            document["uid"] = self.uid
        if self.groups:
            document["groups"] = list(self.groups)
        if self.extra:
            document["extra"] = {key: list(values) for key, values in self.extra.items()}
        return document


NOBODY = User(ANONYMOUS, (UNAUTHENTICATED,))


def authenticated(
    name: str, groups: Sequence[str] = (), uid: str = "", extra: Mapping[str, tuple[str, ...]] | None = None
) -> User:
    """Whoever has proved who they are is in AUTHENTICATED as well."""
    every = tuple(dict.fromkeys((*groups, AUTHENTICATED)))
    return User(name, every, uid, extra or {})


def account_name(namespace: str, name: str) -> str:
    """A ServiceAccount as a user."""
    return f"{ACCOUNT_PREFIX}{namespace}:{name}"


def account_of(user_name: str) -> tuple[str, str] | None:
    """(namespace, name) of a ServiceAccount's user name; None for everybody else."""
    namespace, colon, name = user_name.removeprefix(ACCOUNT_PREFIX).partition(":")
    if not user_name.startswith(ACCOUNT_PREFIX) or not colon or not namespace or not name or ":" in name:
        return None
    return namespace, name


def account_groups(namespace: str) -> tuple[str, str]:
    return ACCOUNTS, f"{ACCOUNTS}:{namespace}"


def node(name: str) -> User:
    return authenticated(NODE_PREFIX + name, (NODES,))
