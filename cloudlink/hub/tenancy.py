"""The fleet as the scheduler sees it, kept up to date from the store's events: a round costs what has changed."""

from __future__ import annotations

from cloudlink.hub.objects import is_deleted, is_finished
from cloudlink.hub.schedule.fleet import Fleet, Tenant, fleet_of, tenant_of
from cloudlink.hub.schedule.storage import NO_PLACES, Places, claims_of, places
from cloudlink.hub.watch import WatchEvent
from cloudlink.hub.world import World
from cloudlink.kube.core import Namespace, Node, PersistentVolumeClaim, Pod

Key = tuple[str, str]


class Tenancy:
    """Not a second memory: what is here is worked out of the store's objects, and can be thrown away at any time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fleet: Fleet | None = None
        # Pods that take room, also on nodes that aren't there; what they want is worked out once, whatever nodes come
        # and go. None: not yet.
        self._tenants: dict[Key, Tenant] | None = None
        self._claiming: set[Key] | None = None  # pods that use claims
        self.spaces: dict[str, dict[str, str]] = {}

    def notice(self, event: WatchEvent) -> None:
        obj = event.object
        match obj:
            case Pod():
                self._claims(obj, event.type == "DELETED")
                self._pod(event.before if isinstance(event.before, Pod) else None, obj, event.type == "DELETED")
            case Node():
                if event.type != "MODIFIED" or self._fleet is None or not self._fleet.renew(obj):
                    self._fleet = None
            case Namespace():
                if event.type == "DELETED" or self.spaces.get(obj.metadata.name) != obj.metadata.labels:
                    self.reload()  # whom affinity means may depend on its labels

    def reload(self) -> None:
        self._fleet = None
        self._tenants = None
        self._claiming = None

    def places(self) -> Places:
        """Where claims are, or will be."""
        claims = self._world.all(PersistentVolumeClaim)
        if not claims:
            return NO_PLACES
        if self._claiming is None:
            self._claiming = {_key(p) for p in self._world.all(Pod) if claims_of(p)}
        found = (self._world.get(Pod, *key) for key in sorted(self._claiming))
        return places(claims, [p for p in found if p is not None])

    def fleet(self, places: Places) -> Fleet:
        """As it is now, with what claims take of the nodes' storage. Not to be kept, nor to be changed."""
        if self._tenants is None:
            self.spaces = {n.metadata.name: n.metadata.labels for n in self._world.all(Namespace)}
            found = (tenant_of(p, self.spaces) for p in self._world.all(Pod))
            self._tenants = {t.key: t for t in found if t is not None}
        if self._fleet is None:
            self._fleet = fleet_of(self._world.all(Node), self._tenants.values())
        return self._fleet.with_places(places)

    def _pod(self, before: Pod | None, after: Pod, gone: bool) -> None:
        """Most changes of pods are news of their status, which take no room and leave none."""
        if self._tenants is None or (before is not None and not gone and _same_room(before, after)):
            return
        old = self._tenants.pop(_key(after), None)
        if old is not None and self._fleet is not None and old.key in self._fleet.tenants:
            self._fleet.evict(old)
        tenant = None if gone else tenant_of(after, self.spaces)
        if tenant is not None:
            self._tenants[tenant.key] = tenant
            if self._fleet is not None:
                self._fleet.house(tenant)

    def _claims(self, pod: Pod, gone: bool) -> None:
        if self._claiming is None or (not pod.spec.volumes and not gone):
            return
        if gone or not claims_of(pod):
            self._claiming.discard(_key(pod))
        else:
            self._claiming.add(_key(pod))


def _same_room(before: Pod, after: Pod) -> bool:
    return (
        (before.spec is after.spec or before.spec == after.spec)
        and is_deleted(before) == is_deleted(after)
        and before.metadata.labels == after.metadata.labels
        and is_finished(before) == is_finished(after)
    )


def _key(pod: Pod) -> Key:
    return pod.metadata.namespace, pod.metadata.name
