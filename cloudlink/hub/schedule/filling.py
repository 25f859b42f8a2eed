"""Pods that came in one moment, seen together: which of them fill a node best. Pure.

One pod after the other onto its tightest node leaves crumbs: with memory and CPU to fill, a twentieth of the nodes that
are used. Here it is one node after the other. It is given the pod that comes closest to what is left of it in all
resources (Panigrahy and others, Heuristics for Vector Bin Packing, 2011: norm-based greedy), and as soon as only a few
fit, the best pair at once. What has filled one node is repeated on nodes that are alike.

Only for pods that don't mind where they are or beside whom; the effort is bounded, and what is left over is placed one
by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloudlink.hub.schedule.fleet import Fleet, Mask, Numbers, Rows
from cloudlink.hub.schedule.wants import Wants

MOST_PODS = 10_000  # in one call of `place`; more are placed one by one, which is ten times as fast
PAIRS_OF = 256  # kinds of which the best pair is looked for
FEW = 3.0  # about as many more pods fit: time to look at pairs
MOST_EFFORT = 50_000_000  # kinds and pairs that are looked at; about a second

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kind:
    """Equal pods. `may`: where they may go, as far as anything but room is concerned."""

    wants: Wants
    count: int
    may: Mask


@dataclass(frozen=True, slots=True)
class Filled:
    """:ivar rows: of each kind, a row for each pod that got one.
    :ivar left: shares of a mean node that the others ask for.
    """

    rows: list[list[int]]
    left: float


def suits(wants: Wants) -> bool:
    """Whether such pods can be seen together with others: neighbours, ports and claims want more care."""
    asks = wants.amount("memory") or wants.amount("cpu")
    return bool(asks) and not (wants.is_sociable or wants.ports or wants.claims or wants.wishes)


def fill(kinds: Sequence[Kind], fleet: Fleet) -> Filled:
    """Nodes in use are filled first, the fullest of them first. Then fresh ones: the smallest first, so that large
    holes stay, but if that leaves pods over, the largest first. Nothing of the fleet is changed."""
    filler = _Filler(kinds, fleet)
    small = filler.fill(largest_first=False)
    if not small.left:
        return small
    return min(small, filler.fill(largest_first=True), key=lambda f: f.left)


class _Filler:
    def __init__(self, kinds: Sequence[Kind], fleet: Fleet) -> None:
        names = list(dict.fromkeys(("memory", "cpu", *(r for k in kinds for r, _ in k.wants.amounts))))
        self._asked = np.array([[k.wants.amount(r) for r in names] for k in kinds], np.int64)
        self._free = np.stack([fleet.resource(r) for r in names], axis=1)
        self._counts = np.array([k.count for k in kinds], np.int64)
        self._may = np.array([k.may for k in kinds])
        rows = np.flatnonzero(self._may.any(axis=0))
        whole = np.stack([fleet.whole["memory"], fleet.whole["cpu"]], axis=1)
        mean = np.maximum(whole[rows].mean(axis=0), 1.0) if len(rows) else np.ones(2)
        self._shares: Floats = self._asked[:, :2] / mean
        self._left: Floats = self._free[:, :2] / mean
        fits = np.zeros(len(fleet), np.bool_)
        for asked, may in zip(self._asked, self._may, strict=True):
            fits |= may & (self._free >= asked).all(axis=1)
        self._rows = np.flatnonzero(fits)
        self._fresh = (self._free[:, :2] == whole).all(axis=1)
        self._effort = 0

    def fill(self, largest_first: bool) -> Filled:
        counts = self._counts.copy()
        found: list[list[int]] = [[] for _ in counts]
        self._effort = 0
        rows = self._ordered(largest_first)
        at = 0
        while at < len(rows) and counts.any() and self._effort < MOST_EFFORT:
            pattern = self._pattern(rows[at], counts)
            alike = 1
            if pattern:
                kinds = np.array(list(pattern))
                each = np.array(list(pattern.values()))
                alike = self._alike(rows[at:], kinds, int((counts[kinds] // each).min()))
                counts[kinds] -= each * alike
                for kind, number in pattern.items():
                    found[kind] += np.repeat(rows[at : at + alike], number).tolist()
            at += alike
        return Filled(found, float((self._shares.sum(axis=1) * counts).sum()))

    def _ordered(self, largest_first: bool) -> Rows:
        fresh, left = self._fresh[self._rows], self._left[self._rows].sum(axis=1)
        return self._rows[np.lexsort((np.where(fresh & largest_first, -left, left), fresh))]

    def _alike(self, rows: Rows, kinds: Rows, most: int) -> int:
        """How many of the rows that come next have the same room, and may have these kinds."""
        rows = rows[:most]
        same = (self._free[rows] == self._free[rows[0]]).all(axis=1) & self._may[kinds][:, rows].all(axis=0)
        return len(rows) if same.all() else int(np.argmin(same))

    def _pattern(self, row: int, counts: Numbers) -> Counter[int]:
        """Kind -> how many of it the node gets."""
        found: Counter[int] = Counter()
        free, left, counts = self._free[row].copy(), self._left[row].copy(), counts.copy()
        able = np.flatnonzero(self._may[:, row] & (counts > 0))
        weights = counts @ self._shares
        weights /= max(weights.sum(), 1e-12)  # what all of them ask for matters most
        while True:
            able = able[(counts[able] > 0) & (self._asked[able] <= free).all(axis=1)]
            if not len(able):
                return found
            self._effort += len(able)
            for kind in self._next(able, free, left, counts, weights):
                free -= self._asked[kind]
                left -= self._shares[kind]
                counts[kind] -= 1
                found[kind] += 1

    def _next(self, able: Rows, free: Numbers, left: Floats, counts: Numbers, weights: Floats) -> list[int]:
        """The kind, or the two, after which the least is left."""
        shares = self._shares[able]
        off = (left - shares) ** 2 @ weights
        mean = counts[able] @ shares / counts[able].sum()
        if float(np.min(left / np.maximum(mean, 1e-12))) <= FEW:
            near = able if len(able) <= PAIRS_OF else able[np.argpartition(off, PAIRS_OF)[:PAIRS_OF]]
            if pair := self._pair(near, free, left, counts, weights, float(off.min())):
                return pair
        return [int(able[np.argmin(off)])]

    def _pair(
        self, able: Rows, free: Numbers, left: Floats, counts: Numbers, weights: Floats, better_than: float
    ) -> list[int]:
        self._effort += len(able) ** 2
        shares, asked = self._shares[able], self._asked[able]
        off = np.zeros((len(able), len(able)))
        for resource in (0, 1):
            one = left[resource] - shares[:, resource]
            off += weights[resource] * (one[:, None] - shares[:, resource]) ** 2
        for scarce in np.flatnonzero(2 * asked.max(axis=0) > free).tolist():
            need = asked[:, scarce]
            off[need[:, None] + need > free[scarce]] = np.inf
        single = np.flatnonzero(counts[able] < 2)
        off[single, single] = np.inf
        first, second = divmod(int(np.argmin(off)), len(able))
        return [int(able[first]), int(able[second])] if off[first, second] < better_than else []
