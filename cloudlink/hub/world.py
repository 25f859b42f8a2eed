"""Who belongs to whom: the store's objects by owner and by node, kept up to date from its watch events.

Not a second memory: only keys are kept here, objects are always read from the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from cloudlink.hub.controllers.garbage import Owner
from cloudlink.hub.objects import controller_of
from cloudlink.hub.shelves import Key, key_of
from cloudlink.hub.store import Store, WatchEvent
from cloudlink.kube.core import PersistentVolumeClaim, Pod
from cloudlink.kube.meta import KubeObject, OwnerReference
from cloudlink.kube.registry import RESOURCES

T = TypeVar("T", bound=KubeObject)

FOLLOWED = frozenset(r.kind for r in RESOURCES) - {"Event"}  # built in; a reader of documents needs no others
UNFOLLOWED = frozenset({"Event"})  # nobody decides anything because of one; kinds defined at run time are followed


class World:
    """Indexes over one Store. Invariant: after every event was noticed, they agree with the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owned: dict[str, set[Key]] = {}
        self._on_node: dict[str, set[Key]] = {}  # "" holds pods that have no node yet
        self._claims_on: dict[str, set[Key]] = {}  # likewise
        self._loose: dict[str, set[Key]] = {}  # by namespace: pods without a controller
        self.reload()

    def reload(self) -> None:
        """Start over from the store, where events were missed."""
        self._owned.clear()
        self._on_node.clear()
        self._claims_on.clear()
        self._loose.clear()
        for kind in self._store.kinds() - UNFOLLOWED:
            for obj in self._store.list(kind):
                self._add(obj)

    def notice(self, event: WatchEvent) -> None:
        if event.kind in UNFOLLOWED:
            return
        if event.before is not None:
            self._drop(event.before)
        if event.type != "DELETED":
            self._add(event.object)

    # ------------------------------------------------------------ reading

    def get(self, kind: type[T], namespace: str, name: str) -> T | None:
        obj = self._store.get(kind.__name__, namespace or None, name)
        return obj if isinstance(obj, kind) else None

    def all(self, kind: type[T], namespace: str | None = None) -> list[T]:
        return [o for o in self._store.list(kind.__name__, namespace) if isinstance(o, kind)]

    def owned(self, uid: str, kind: type[T]) -> list[T]:
        """What names this uid as its owner, ordered by name."""
        return self._read(self._owned.get(uid, ()), kind)

    def on_node(self, name: str) -> list[Pod]:
        """Pods bound to a node, or with "" those that are bound to none."""
        return self._read(self._on_node.get(name, ()), Pod)

    def loose(self, namespace: str) -> list[Pod]:
        """Pods of a namespace that have no controller, ordered by name."""
        return self._read(self._loose.get(namespace, ()), Pod)

    def claims_on(self, name: str) -> list[PersistentVolumeClaim]:
        """Claims whose data is on a node, or with "" those that are nowhere yet."""
        return self._read(self._claims_on.get(name, ()), PersistentVolumeClaim)

    def owner(self, obj: KubeObject, reference: OwnerReference) -> Owner:
        """What an owner reference leads to: exactly that object, in the dependent's namespace or outside of any.

        Of kinds that aren't served here we can't say that they are gone. A namespaced owner can't own what lives
        outside of namespaces; "unknown", too.
        """
        resource = self._store.catalogue.by_reference(reference.api_version, reference.kind)
        if resource is None or (resource.namespaced and not obj.metadata.namespace):
            return "unknown"
        there = self._store.get(resource.key, obj.metadata.namespace if resource.namespaced else None, reference.name)
        return there if there is not None and there.metadata.uid == reference.uid else "gone"

    def _read(self, keys: Iterable[Key], kind: type[T]) -> list[T]:
        found = (self._store.get(k, namespace or None, name) for k, namespace, name in sorted(keys))
        return [o for o in found if isinstance(o, kind)]

    # ------------------------------------------------------------ keeping up

    def _add(self, obj: KubeObject) -> None:
        key = key_of(obj)
        for owner in obj.metadata.owner_references:
            self._owned.setdefault(owner.uid, set()).add(key)
        if isinstance(obj, Pod):
            self._on_node.setdefault(obj.spec.node_name, set()).add(key)
            if controller_of(obj) is None:
                self._loose.setdefault(obj.metadata.namespace, set()).add(key)
        elif isinstance(obj, PersistentVolumeClaim):
            self._claims_on.setdefault(obj.node, set()).add(key)

    def _drop(self, obj: KubeObject) -> None:
        key = key_of(obj)
        for owner in obj.metadata.owner_references:
            _discard(self._owned, owner.uid, key)
        if isinstance(obj, Pod):
            _discard(self._on_node, obj.spec.node_name, key)
            _discard(self._loose, obj.metadata.namespace, key)
        elif isinstance(obj, PersistentVolumeClaim):
            _discard(self._claims_on, obj.node, key)


def _discard(index: dict[str, set[Key]], at: str, key: Key) -> None:
    keys = index.get(at, set())
    keys.discard(key)
    if not keys:
        index.pop(at, None)
