"""Who may run on this board's memory: admission in bytes, answered with a sentence.

Invariant: the requests of admitted pods never exceed the allocatable memory. Pods that are already there come
first (nobody is pushed out by a newcomer), then the document's own order decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from edged.model import Pod, Value


class Budget(Value, frozen=True):
    """:ivar memory: bytes that pods may request together."""

    memory: int
    pods: int = 110


class Admission(Value, frozen=True):
    """:ivar refused: pod uid -> sentence."""

    requested: int
    refused: Mapping[str, str]


def format_bytes(count: int) -> str:
    """ "64 MiB", "1.5 GiB": binary units as Kubernetes manifests use them."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.0f} GiB" if value == int(value) else f"{value:.1f} GiB"


def admit(pods: Sequence[Pod], present: Collection[str], budget: Budget, leaving: int = 0) -> Admission:
    """Go through the pods, those `present` (by uid) first, and admit while there is room."""
    requested, count = leaving, 0  # bytes of pods that are being taken away stay in use until they are gone
    refused: dict[str, str] = {}
    for pod in sorted(pods, key=lambda p: p.uid not in present):
        needs = pod.memory_request
        free = budget.memory - requested
        if needs > free:
            refused[pod.uid] = f"needs {format_bytes(needs)} of memory, {format_bytes(max(free, 0))} free"
        elif count >= budget.pods:
            refused[pod.uid] = f"the node runs {count} pods, its limit"
        if pod.uid in present or pod.uid not in refused:  # what is there uses its memory, refused or not
            requested += needs
            count += 1
    return Admission(requested, refused)
