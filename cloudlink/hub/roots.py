"""What people wrote that an object is a part of: a pod's Deployment, not its ReplicaSet."""

from __future__ import annotations

from cloudlink.hub.objects import controller_of
from cloudlink.hub.store import Store
from cloudlink.kube.meta import KubeObject

MOST_OWNERS = 8  # one above the other; more is somebody's joke


def root_of(obj: KubeObject, store: Store) -> KubeObject:
    """The last object up the line of controllers that is there."""
    for _ in range(MOST_OWNERS):
        reference = controller_of(obj)
        resource = store.catalogue.by_reference(reference.api_version, reference.kind) if reference else None
        if reference is None or resource is None:
            return obj
        above = store.get(resource.key, obj.metadata.namespace, reference.name)
        if above is None or above.metadata.uid != reference.uid:
            return obj
        obj = above
    return obj
