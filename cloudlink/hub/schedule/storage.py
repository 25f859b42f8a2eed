"""Where claims' data is, and what that means for the pods that use it. Pure.

Storage is local: a claim lives on one node, that of its first pod (Kubernetes' WaitForFirstConsumer), and later
pods follow it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cloudlink.kube.core import PersistentVolumeClaim, Pod
from cloudlink.kube.quantity import to_int


@dataclass(frozen=True, slots=True)
class Place:
    """One claim as the scheduler sees it.

    :ivar node: where its data is, or will be; "" while that is open.
    :ivar size: bytes.
    :ivar exclusive: ReadWriteOncePod; `user` is then the pod that has it, "" for none.
    """

    name: str
    node: str
    size: int
    exclusive: bool = False
    user: str = ""
    leaving: bool = False


Places = Mapping[str, Place]  # by "namespace/name"
NO_PLACES: Places = MappingProxyType({})


def claims_of(pod: Pod) -> tuple[str, ...]:
    """ "namespace/name" of each claim that a pod uses, once each."""
    named = (v.persistent_volume_claim for v in pod.spec.volumes)
    return tuple(dict.fromkeys(f"{pod.metadata.namespace}/{c.claim_name}" for c in named if c is not None))


def places(claims: Iterable[PersistentVolumeClaim], pods: Iterable[Pod]) -> dict[str, Place]:
    """Every claim. One that isn't written down as bound yet, but has a pod on a node, is on that node."""
    found = {
        c.title: Place(
            c.metadata.name,
            c.node,
            to_int(c.storage),
            exclusive="ReadWriteOncePod" in c.spec.access_modes,
            leaving=bool(c.metadata.deletion_timestamp),
        )
        for c in claims
    }
    if not found:
        return found
    for pod in sorted(pods, key=lambda p: (p.metadata.creation_timestamp, p.metadata.uid)):
        if pod.spec.node_name:
            taken(found, pod, pod.spec.node_name)
    return found


def taken(places: dict[str, Place], pod: Pod, node: str) -> None:
    """This pod runs on that node: where it was open, its claims live there from now on."""
    for title in claims_of(pod):
        place = places.get(title)
        if place is None:
            continue
        active = pod.status.phase not in ("Succeeded", "Failed")
        user = pod.metadata.name if active and place.exclusive else place.user
        places[title] = Place(place.name, place.node or node, place.size, place.exclusive, user, place.leaving)


def hindrance(pod: Pod, places: Places) -> str:
    """Why no node at all can take this pod; "" if its claims are no reason."""
    for title in claims_of(pod):
        name = title.partition("/")[2]
        place = places.get(title)
        if place is None:
            return f'persistentvolumeclaim "{name}" not found'
        if place.leaving:
            return f'persistentvolumeclaim "{name}" is being deleted'
        if place.user and place.user != pod.metadata.name:
            return f'persistentvolumeclaim "{name}" is ReadWriteOncePod, and pod {place.user} has it'
    return ""


def elsewhere(pod: Pod, node: str, places: Places) -> str:
    """The claim that keeps a pod from this node, and where it is; "" if none does."""
    for title in claims_of(pod):
        place = places[title]
        if place.node and place.node != node:
            return f"{place.name} (it is on {place.node})"
    return ""


def to_be_made(pod: Pod, places: Places) -> int:
    """Bytes of storage that this pod's claims will take on the node that it goes to."""
    return sum(places[title].size for title in claims_of(pod) if not places[title].node)
