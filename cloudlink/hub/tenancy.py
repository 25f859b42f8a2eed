"""The fleet as the scheduler sees it, kept up to date from the store's events: a round costs what has changed."""

from __future__ import annotations

from cloudlink.hub.objects import is_deleted, is_finished
from cloudlink.hub.schedule.fleet import Fleet, fleet_of, tenant_of
from cloudlink.hub.schedule.storage import NO_PLACES, Places, claims_of, places
from cloudlink.hub.watch import WatchEvent
from cloudlink.hub.world import World
from cloudlink.kube.core import Namespace, Node, PersistentVolumeClaim, Pod


class Tenancy:
    """Not a second memory: what is here is worked out of the store's objects, and can be thrown away at any time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fleet: Fleet | None = None
        self.spaces: dict[str, dict[str, str]] = {}

    def notice(self, event: WatchEvent) -> None:
        obj = event.object
        match obj:
            case Pod():
                self._pod(event.before if isinstance(event.before, Pod) else None, obj, event.type == "DELETED")
            case Node():
                if event.type != "MODIFIED" or self._fleet is None or not self._fleet.renew(obj):
                    self._fleet = None
            case Namespace():
                self._fleet = None  # whom affinity means may depend on its labels

    def reload(self) -> None:
        self._fleet = None

    def places(self) -> Places:
        """Where claims are, or will be."""
        claims = self._world.all(PersistentVolumeClaim)
        return places(claims, [p for p in self._world.all(Pod) if claims_of(p)]) if claims else NO_PLACES

    def fleet(self, places: Places) -> Fleet:
        """As it is now, with what claims take of the nodes' storage. Not to be kept, nor to be changed."""
        if self._fleet is None:
            self.spaces = {n.metadata.name: n.metadata.labels for n in self._world.all(Namespace)}
            tenants = (tenant_of(p, self.spaces) for p in self._world.all(Pod))
            self._fleet = fleet_of(self._world.all(Node), [t for t in tenants if t is not None])
        return self._fleet.with_places(places)

    def _pod(self, before: Pod | None, after: Pod, gone: bool) -> None:
        """Most changes of pods are news of their status, which take no room and leave none."""
        if self._fleet is None or (before is not None and not gone and _same_room(before, after)):
            return
        old = self._fleet.tenants.get((after.metadata.namespace, after.metadata.name))
        if old is not None:
            self._fleet.evict(old)
        tenant = None if gone else tenant_of(after, self.spaces)
        if tenant is not None:
            self._fleet.house(tenant)


def _same_room(before: Pod, after: Pod) -> bool:
    return (
        before.spec == after.spec
        and is_deleted(before) == is_deleted(after)
        and before.metadata.labels == after.metadata.labels
        and is_finished(before) == is_finished(after)
    )
