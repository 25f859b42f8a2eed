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


def roll(replicas: int, limits: Bounds, new: Count, old: Sequence[Count], cap: int | None = None) -> dict[str, int]:
    """One step of a rolling update: ReplicaSet name -> spec.replicas. `old` is sorted: who goes first stands first.

    :param cap: how many pods the new set may have for now; the others stay with the old ones. None = all.
    """
    most = replicas if cap is None else min(cap, replicas)
    grown = _grow(replicas, limits, new, old, most)
    answer = {new.name: grown}
    if grown == new.wanted:  # Kubernetes, too, takes only one direction at a time: grow, look again, then shrink
        answer.update(_shrink(replicas, limits, new, old, max(most, min(new.wanted, replicas))))
    return answer


def _grow(replicas: int, limits: Bounds, new: Count, old: Sequence[Count], most: int) -> int:
    if new.wanted >= most:
        return min(new.wanted, replicas)
    room = replicas + limits.surge - new.total - sum(c.total for c in old)
    return min(new.wanted + max(room, 0), most)


def _shrink(replicas: int, limits: Bounds, new: Count, old: Sequence[Count], most: int) -> dict[str, int]:
    """Take away what doesn't work first, then the oldest that does, as far as availability and the wave allow."""
    minimum = replicas - limits.unavailable
    replaced = sum(c.wanted for c in old) - (replicas - most)
    spare = min(sum(c.wanted for c in old) + new.keeps - minimum, replaced)
    if spare <= 0:
        return {}
    left = {c.name: c for c in old}
    for c in old:
        broken = min(c.wanted - c.keeps, spare)
        left[c.name] = replace(c, wanted=c.wanted - broken)
        spare -= broken
        replaced -= broken
    removable = min(new.keeps + sum(c.keeps for c in old) - minimum, replaced)
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


def fill(replicas: int, sizes: dict[str, int], new: str, cap: int, stay: str) -> dict[str, int]:
    """What a wave doesn't allow the new set to have, or what nobody has, goes to the set that stays.

    :param sizes: of all sets with the new one; `stay` is the name of the old set to grow.
    """
    surplus = max(sizes[new] - cap, 0)
    sizes = sizes | {new: sizes[new] - surplus, stay: sizes.get(stay, 0) + surplus}
    short = replicas - sum(sizes.values()) if sizes[new] == cap else 0
    return sizes | {stay: sizes[stay] + max(short, 0)}


def _round_half_up(numerator: int, denominator: int) -> int:
    """Integer division, halves away from zero, without floats."""
    sign = 1 if numerator >= 0 else -1
    return sign * ((2 * abs(numerator) + denominator) // (2 * denominator))
