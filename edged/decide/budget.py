"""Who may run on this board: admission in bytes of memory and storage, answered with a sentence.

Invariant: the requests of admitted pods never exceed what is allocatable, of memory as of storage. Pods that are
already there come first (nobody is pushed out by a newcomer), then the document's own order decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from edged.model import Capacity, Desired, Pod, Value

UNBOUNDED = 1 << 62


class Budget(Value, frozen=True):
    """:ivar memory: bytes that pods may request together.
    :ivar storage: likewise, of the node's disk; persistent volumes are set aside from it.
    """

    memory: int
    pods: int = 110
    storage: int = UNBOUNDED


def of(capacity: Capacity) -> Budget:
    """What a board has for pods. One that can't tell the size of its disk refuses nobody for it."""
    return Budget(capacity.memory_allocatable, capacity.pods, capacity.storage_allocatable or UNBOUNDED)


class Admission(Value, frozen=True):
    """:ivar requested: bytes of memory that admitted pods, and those that are leaving, have set aside.
    :ivar refused: pod uid -> sentence.
    :ivar reasons: pod uid -> one word for it, the kubelet's ("OutOfmemory").
    """

    requested: int
    refused: Mapping[str, str]
    reasons: Mapping[str, str] = {}


def format_bytes(count: int) -> str:
    """ "64 MiB", "1.5 GiB": binary units as Kubernetes manifests use them."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.0f} GiB" if value == int(value) else f"{value:.1f} GiB"


def storage_request(pod: Pod) -> int:
    """Bytes of the disk that a pod asks for, by the rule of Pod.memory_request."""
    sidecars, most = 0, 0
    for one in pod.init:
        asked = one.limits.storage_request
        sidecars += asked if one.sidecar else 0
        most = max(most, sidecars if one.sidecar else sidecars + asked)
    return max(most, sidecars + sum(c.limits.storage_request for c in pod.containers))


def set_aside(desired: Desired) -> int:
    """Bytes of the disk that persistent volumes may fill."""
    return sum(claim.size for claim in desired.claims)


def admit(
    pods: Sequence[Pod], present: Collection[str], budget: Budget, leaving: int = 0, claimed: int = 0
) -> Admission:
    """Go through the pods, those `present` (by uid) first, and admit while there is room.

    :param leaving: bytes of memory of pods that are being taken away, in use until they are gone.
    :param claimed: bytes of storage that persistent volumes have (`set_aside`).
    """
    requested, stored, count = leaving, claimed, 0
    refused: dict[str, tuple[str, str]] = {}
    for pod in sorted(pods, key=lambda p: p.uid not in present):
        needs, storage = pod.memory_request, storage_request(pod)
        free, room = budget.memory - requested, budget.storage - stored
        if needs > free:
            refused[pod.uid] = "OutOfmemory", _sentence(needs, "memory", free)
        elif storage > room:
            refused[pod.uid] = "OutOfephemeral-storage", _sentence(storage, "storage", room)
        elif count >= budget.pods:
            refused[pod.uid] = "OutOfpods", f"the node runs {count} pods, its limit"
        if pod.uid in present or pod.uid not in refused:  # what is there uses its share, refused or not
            requested, stored, count = requested + needs, stored + storage, count + 1
    return Admission(
        requested, {uid: said for uid, (_, said) in refused.items()}, {uid: why for uid, (why, _) in refused.items()}
    )


def _sentence(needs: int, what: str, free: int) -> str:
    return f"needs {format_bytes(needs)} of {what}, {format_bytes(max(free, 0))} free"
