"""The decision about a request, over the roles and bindings that are in the store right now."""

from __future__ import annotations

import logging
from typing import TypeVar

from cloudlink.hub.auth import policy
from cloudlink.hub.auth.rbac import KINDS, Index, Verdict
from cloudlink.hub.auth.requests import Request
from cloudlink.hub.auth.users import User
from cloudlink.hub.errors import Gone, StoreError
from cloudlink.hub.store import Store
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.rbac import ClusterRole, ClusterRoleBinding
from edged.errors import RetryError

log = logging.getLogger(__name__)

T = TypeVar("T", bound=KubeObject)


class Authority:
    """Follows the store: a role that was written a moment ago counts for the next request."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._begin()

    def _begin(self) -> None:
        self._reader = self._store.subscribe(KINDS)
        self._index = Index()
        for kind in sorted(KINDS):
            for obj in self._store.list(kind):
                self._index.put(obj)

    @property
    def index(self) -> Index:
        try:
            news = self._reader.drain()
        except Gone:  # nobody has asked for a long while
            self._begin()
            return self._index
        for event in news:
            if event.type == "DELETED":
                self._index.drop(event.object)
            else:
                self._index.put(event.object)
        return self._index

    def check(self, user: User, request: Request) -> Verdict:
        return self.index.check(user, request)


def bootstrap(store: Store) -> None:
    """Make the roles and bindings that every hub has, where they are missing; see policy.mend.

    A hub whose disk is full starts all the same, with what it has.
    """
    changes = policy.mend(_all(store, ClusterRole), _all(store, ClusterRoleBinding))
    try:
        if changes:
            store.commit(changes)
    except (StoreError, RetryError) as e:  # another hub on the same database may be doing it just now
        log.warning("the bootstrap policy can't be written: %s", e)


def _all(store: Store, kind: type[T]) -> list[T]:
    return [o for o in store.list(kind.__name__) if isinstance(o, kind)]
