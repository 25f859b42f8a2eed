"""How many pods each ReplicaSet of a Deployment should have next: pure arithmetic over counts.

After Kubernetes' pkg/controller/deployment (rolling.go, sync.go). Counts come from the pods themselves, not from
ReplicaSets' statuses, which may lag: a set that was told to shrink but hasn't yet counts with what will be left.

Invariants, for every answer of `roll` and whatever becomes ready or unready in between:
- the pods asked for never exceed `replicas + max_surge` (unless they already did);
- pods are only taken from old sets while at least `replicas - max_unavailable` available ones remain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloudlink.kube.meta import IntOrString


@dataclass(frozen=True, slots=True)
class Count:
    """One ReplicaSet in numbers.

    :ivar wanted: its spec.replicas.
    :ivar present: its pods that are neither finished nor on their way out.
    :ivar available: those of them that are ready for long enough.
    """

    name: str
    wanted: int
    present: int
    available: int

    @property
    def total(self) -> int:
        """Pods that are there or will be: a set that shrinks still has its pods."""
        return max(self.wanted, self.present)

    @property
    def keeps(self) -> int:
        """Available pods that stay once the set has what it wants (unavailable ones go first)."""
        return min(self.available, self.wanted)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a rollout may stray from `replicas`, in pods."""

    surge: int
    unavailable: int


def percent_of(value: IntOrString, total: int, *, up: bool) -> int:
    """A count as it is, "25%" of `total` rounded up or down. Anything else counts as 0 (validation refused it)."""
    if isinstance(value, int):
        return max(value, 0)
    digits = value.removesuffix("%")
    if digits == value or not digits.isascii() or not digits.isdigit():
        return 0
    exact = total * int(digits) / 100
    return math.ceil(exact) if up else math.floor(exact)


def bounds(replicas: int, max_surge: IntOrString, max_unavailable: IntOrString) -> Bounds:
    """Resolve percentages: surge up, unavailable down; both 0 would stand still, so then one may be missing."""
    surge = percent_of(max_surge, replicas, up=True)
    unavailable = min(percent_of(max_unavailable, replicas, up=False), replicas)
    return Bounds(surge, unavailable if surge or unavailable else 1)


def roll(replicas: int, limits: Bounds, new: Count, old: Sequence[Count]) -> dict[str, int]:
    """One step of a rolling update: ReplicaSet name -> spec.replicas. `old` is sorted oldest first."""
    grown = _grow(replicas, limits, new, old)
    answer = {new.name: grown}
    if grown == new.wanted:  # Kubernetes, too, takes only one direction at a time: grow, look again, then shrink
        answer.update(_shrink(replicas, limits, new, old))
    return answer


def _grow(replicas: int, limits: Bounds, new: Count, old: Sequence[Count]) -> int:
    if new.wanted >= replicas:
        return replicas
    room = replicas + limits.surge - new.total - sum(c.total for c in old)
    return min(new.wanted + max(room, 0), replicas)


def _shrink(replicas: int, limits: Bounds, new: Count, old: Sequence[Count]) -> dict[str, int]:
    """Take away what doesn't work first, then the oldest that does, as far as availability allows."""
    minimum = replicas - limits.unavailable
    spare = sum(c.wanted for c in old) + new.keeps - minimum
    if spare <= 0:
        return {}
    left = {c.name: c for c in old}
    for c in old:
        broken = min(c.wanted - c.keeps, spare)
        left[c.name] = replace(c, wanted=c.wanted - broken)
        spare -= broken
    removable = new.keeps + sum(c.keeps for c in old) - minimum
    for c in left.values():
        taken = max(min(c.wanted, removable), 0)
        left[c.name] = replace(c, wanted=c.wanted - taken)
        removable -= taken
    return {c.name: c.wanted for c in left.values()}


def scale(replicas: int, limits: Bounds, active: Sequence[Count], newest: str) -> dict[str, int]:
    """`spec.replicas` changed in the middle of a rollout: spread the difference in proportion to the sets' sizes.

    :param active: the sets with pods, oldest first; `newest` is the name of the set with the current template.
    """
    if len(active) == 1:
        return {active[0].name: replicas}
    allowed = replicas + limits.surge if replicas > 0 else 0
    total = sum(c.wanted for c in active)
    difference = allowed - total
    # Growing favours the newest of the largest sets, shrinking the oldest (controller.ReplicaSetsBySizeNewer/Older).
    order = sorted(enumerate(active), key=lambda item: (-item[1].wanted, -item[0] if difference > 0 else item[0]))
    answer: dict[str, int] = {}
    spread = 0
    for _, c in order:
        share = _round_half_up(c.wanted * difference, total) if total else 0
        share = min(share, difference - spread) if difference > 0 else max(share, difference - spread)
        answer[c.name] = max(c.wanted + share, 0)
        spread += answer[c.name] - c.wanted
    if spread != difference:
        first = order[0][1].name if order[0][1].wanted else newest
        answer[first] = max(answer.get(first, 0) + difference - spread, 0)
    return answer


def _round_half_up(numerator: int, denominator: int) -> int:
    """Integer division, halves away from zero, without floats."""
    sign = 1 if numerator >= 0 else -1
    return sign * ((2 * abs(numerator) + denominator) // (2 * denominator))
