"""Where equal pods go, one after the other: wishes before evenness, evenness before tightness. Pure.

Each row is what placing one pod after the other would choose; that they are equal makes it cheap. While nothing but
room changes, the nodes have one order: with the tight policy the best node stays the best until it is full. Where
neighbours matter, nodes with the same places form a cell, whose best node is the only one to be looked at.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cloudlink.hub.schedule import gates
from cloudlink.hub.schedule.company import Neighbours, shunned
from cloudlink.hub.schedule.fleet import Fleet, Mask, Numbers, Rows
from cloudlink.hub.schedule.wants import Wants

Policy = Literal["tight", "spread"]
Key = NDArray[np.float64] | Numbers

_FINE = 1e9  # parts of a node; what differs by less is equally tight


class Order:
    """How good the nodes are for a kind of pods: by what comes first (the less, the better), then by tightness, memory
    before CPU, which can be shared; then the node with the most room for further pods, then by name."""

    def __init__(
        self, wants: Wants, fleet: Fleet, policy: Policy, unwished: gates.Wishes | None, crowded: Numbers | None
    ) -> None:
        """:param unwished: of each row, the less, the better; likewise `crowded`; None: the same everywhere."""
        self._fleet = fleet
        self.unwished, self.crowded = unwished, crowded
        self._first: list[Key] = [key for key in (unwished, crowded) if key is not None]
        self._scale = fleet.scale()
        self._fine = _FINE if policy == "tight" else -_FINE
        self._shared = [(r, wants.amount(r)) for r in ("memory", "cpu")]
        # Whether a node that was the best stays it: the tightest gets tighter. Who asks for nothing shares nodes out.
        self.stays = policy == "tight" and any(amount for _, amount in self._shared)

    def by(self) -> Iterator[Callable[[Rows], Key]]:
        """What is compared, the most important first; reckoned only when it is asked for."""
        for key in self._first:
            yield key.__getitem__
        yield from self.tight()

    def tight(self) -> Iterator[Callable[[Rows], Key]]:
        for resource, amount in self._shared:
            yield functools.partial(self._share, resource, amount)
        yield self._fewest_pods

    def keys(self, rows: Rows) -> list[Key]:
        return [key(rows) for key in self.by()]

    def _share(self, resource: str, amount: int, rows: Rows) -> Key:
        found: Key = np.rint((self._fleet.free[resource][rows] - amount) * self._scale[resource][rows] * self._fine)
        return found

    def tightness(self, row: int) -> tuple[float, ...]:
        """Of one row; the same numbers as those of many, and the row as the last one."""
        free, scale = self._fleet.free, self._scale
        shares = (round((int(free[r][row]) - amount) * float(scale[r][row]) * self._fine) for r, amount in self._shared)
        return *shares, -int(free["pods"][row]), row

    def _fewest_pods(self, rows: Rows) -> Key:
        return -self._fleet.free["pods"][rows]

    def best(self, rows: Rows) -> int:
        for key in self.by():
            if len(rows) == 1:
                break
            values = key(rows)
            rows = rows[values == values.min()]
        return int(rows[0])

    def best_of(self, able: Mask) -> int:
        """The same, of a mask that has any: all nodes at once, and closely only those that are about as tight."""
        for key in self._first:
            values = np.where(able, key, np.inf)
            able = values == values.min()
        (resource, amount), _ = self._shared
        share = (self._fleet.free[resource] - amount) * self._scale[resource]
        share *= self._fine
        share[~able] = np.inf
        return self.best(np.flatnonzero(share <= share.min() + 1.0))

    def first(self, rows: Rows, most: int) -> Rows:
        """The best of them in order, the best one first; as many as asked for, or a few more."""
        if len(rows) > most:
            rows = self._shortened(rows, most)
        return rows[np.lexsort([rows, *reversed(self.keys(rows))])]

    def _shortened(self, rows: Rows, most: int) -> Rows:
        """Without those that can't be among the best `most`, as far as can be told quickly."""
        kept: list[Rows] = []
        for key in self._first:
            values = key[rows]
            bound = np.partition(values, most - 1)[most - 1]
            sure = rows[values < bound]
            kept.append(sure)
            rows, most = rows[values == bound], most - len(sure)
            if len(rows) <= most:
                return np.concatenate([*kept, rows])
        share = self._share(*self._shared[0], rows)
        bound = np.partition(share, most - 1)[most - 1]
        return np.concatenate([*kept, rows[share <= bound]])


class Seats:
    """Rows for equal pods; each takes its room in the fleet before the next one is looked for."""

    def __init__(self, wants: Wants, fleet: Fleet, may: Mask, wished: gates.Wishes | None, policy: Policy) -> None:
        """:param may: nodes whose lasting gates let them through.
        :param wished: of each row, the larger, the better.
        """
        self._wants, self._fleet, self._may = wants, fleet, may
        self._near = Neighbours(wants, fleet, may) if wants.is_sociable else None
        self._once = self._near.once() if self._near is not None else None
        if wants.ports:
            self._once = fleet.map.all()
        also = self._near.still_wished() if self._near is not None else None
        crowded = self._near.still_crowded() if self._near is not None else None
        wished = also if wished is None else wished if also is None else wished + also
        self._unwished = None if wished is None else -wished
        self._crowded = crowded
        self._policy: Policy = policy

    def rows(self, count: int, only: Mask | None = None) -> list[int]:
        """As many as there are, `count` at most. `only`: these of the rows that they may have."""
        able = self._may.copy() if only is None else self._may & only
        for gate in gates.passing(self._wants, self._fleet):
            able &= gate.through
        if self._near is None:
            if (away := shunned(self._wants, self._fleet)) is not None:
                able &= ~away
        else:
            for mask in self._near.still():
                able &= mask
        if not able.any():
            return []
        order = Order(self._wants, self._fleet, self._policy, self._unwished, self._crowded)
        moves = self._near is not None and self._near.moving()
        if count == 1 and not moves:
            row = order.best_of(able)
            self._fleet.take(self._wants, row)
            return [row]
        rows = np.flatnonzero(able)
        if self._near is not None and moves:
            return self._one_by_one(order, rows, count, self._near)
        ordered = order.first(rows, count)
        if order.stays or (self._once is not None and self._once[ordered].all()):
            return self._filled(ordered, count)
        return self._in_turn(ordered, count, order)

    # ------------------------------------------------------------ nothing but room changes

    def _filled(self, rows: Rows, count: int) -> list[int]:
        """One row after the other, each as full as it gets."""
        until = np.cumsum(self._room(rows))
        used = int(np.searchsorted(until, count)) + 1
        rows, until = rows[:used], np.minimum(until[:used], count)
        shares = np.diff(until, prepend=0)
        self._fleet.take_rows(self._wants, rows, shares)
        return np.repeat(rows, shares).tolist()

    def _room(self, rows: Rows) -> Numbers:
        """How many such pods still fit on each; at least one, or it would not have been chosen."""
        room = np.min([self._fleet.free[r][rows] // amount for r, amount in self._wants.amounts], axis=0)
        return room if self._once is None else np.where(self._once[rows], 1, room)

    def _in_turn(self, rows: Rows, count: int, order: Order) -> list[int]:
        """Whoever has got one is less good for the next: no other nodes than the best `count` come into question."""
        rows = rows[:count]
        room = dict(zip(rows.tolist(), self._room(rows).tolist(), strict=True))
        heap = list(zip(*(k.tolist() for k in order.keys(rows)), rows.tolist(), strict=True))
        heapq.heapify(heap)
        found: list[int] = []
        while heap and len(found) < count:
            row = heap[0][-1]
            self._fleet.take(self._wants, row)
            found.append(row)
            room[row] -= 1
            if room[row]:
                here = np.array([row])
                heapq.heapreplace(heap, (*(float(k[0]) for k in order.keys(here)), row))
            else:
                heapq.heappop(heap)
        return found

    # ------------------------------------------------------------ neighbours change, too

    def _one_by_one(self, order: Order, rows: Rows, count: int, near: Neighbours) -> list[int]:
        cells = Cells(rows, order, near)
        found: list[int] = []
        free, amounts = self._fleet.free, self._wants.amounts
        while len(found) < count and (row := cells.best()) >= 0:
            self._fleet.take(self._wants, row)
            near.placed(row)
            found.append(row)
            full = any(free[r][row] < amount for r, amount in amounts)
            cells.used(row, full or (self._once is not None and bool(self._once[row])))
        return found


class Cells:
    """Rows that have the same places, and the best one of each cell, its head."""

    def __init__(self, rows: Rows, order: Order, near: Neighbours) -> None:
        self._order = order
        topologies = near.moving()
        cell = np.zeros(len(rows), np.intp)
        for topology in topologies:
            cell = np.unique(cell * (topology.count + 1) + topology.of[rows] + 1, return_inverse=True)[1]
        by_cell = np.argsort(cell, kind="stable")
        rows, cell = rows[by_cell], cell[by_cell]
        starts = _starts(cell)
        self._rows, self._bounds = rows, np.append(starts, len(rows))
        self._full: set[int] = set()
        places = {id(t): t.of[rows[starts]] for t in topologies}
        self._standing = near.at(lambda topology: places[id(topology)])
        for key in order.by() if len(starts) < len(rows) else ():
            values = key(rows)
            keep = values == np.minimum.reduceat(values, starts)[cell]
            rows, cell = rows[keep], cell[keep]
            starts = _starts(cell)
        self._heads = rows[starts]
        self._open = np.ones(len(starts), np.bool_)
        self._best = 0
        self._unwished = None if order.unwished is None else order.unwished[self._heads]
        self._crowded = None if order.crowded is None else order.crowded[self._heads]
        self._keys = [*(k(self._heads) for k in order.tight()), self._heads]

    def best(self) -> int:
        """The best row of all, -1 if there is none."""
        cells = np.flatnonzero(self._standing.through(self._open))
        if not len(cells):
            return -1
        for key in self._standing.before(self._unwished, self._crowded):
            values = key[cells]
            cells = cells[values == values.min()]
        for key in self._keys:
            if len(cells) == 1:
                break
            values = key[cells]
            cells = cells[values == values.min()]
        self._best = int(cells[0])
        return int(self._heads[self._best])

    def used(self, row: int, full: bool) -> None:
        """The best one has got a pod. `full`: and takes no further one."""
        cell = self._best
        if full:
            self._full.add(row)
        if full or not self._order.stays:
            here = self._rows[self._bounds[cell] : self._bounds[cell + 1]]
            left = [r for r in here.tolist() if r not in self._full]
            if not left:
                self._open[cell] = False
                return
            row = self._order.best(np.array(left, np.intp))
            self._heads[cell] = row
            if self._unwished is not None and self._order.unwished is not None:
                self._unwished[cell] = self._order.unwished[row]
            if self._crowded is not None and self._order.crowded is not None:
                self._crowded[cell] = self._order.crowded[row]
        for key, value in zip(self._keys, self._order.tightness(row), strict=True):
            key[cell] = value


def _starts(cell: Rows) -> Rows:
    """Where each cell begins, in rows that are sorted by cell."""
    return np.flatnonzero(np.diff(cell, prepend=-1))
