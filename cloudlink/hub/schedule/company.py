"""Other pods as a reason: affinity, anti-affinity and spreading, counted by place. Pure.

After kube-scheduler's InterPodAffinity and PodTopologySpread. A place is all nodes with the same value of a label; how
many pods of a kind each place has is counted once, and kept up to date while pods are placed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cloudlink.hub.schedule.fleet import Fleet, Mask, Numbers, Topology
from cloudlink.hub.schedule.gates import Gate
from cloudlink.hub.schedule.wants import Company, Spread, Wants

Means = Callable[[str, Mapping[str, str]], bool]  # namespace and labels of a pod


@dataclass(slots=True)
class Count:
    """Pods of one kind by place. `own`: the pods that are being placed are of that kind, too."""

    topology: Topology
    by_place: Numbers
    own: bool

    @classmethod
    def of(cls, key: str, means: Means, wants: Wants, fleet: Fleet, among: Mask | None = None) -> Count:
        topology = fleet.map.topology(key)
        counts = np.zeros(topology.count, np.int64)
        for (namespace, labels), crowd in fleet.crowds.items():
            if not means(namespace, dict(labels)):
                continue
            for row, count in crowd.items():
                if topology.of[row] >= 0 and (among is None or among[row]):
                    counts[topology.of[row]] += count
        return cls(topology, counts, means(wants.namespace, dict(wants.labels)))

    def at(self) -> Numbers:
        """The count at each row's place; 0 where a node has no place."""
        if not len(self.by_place):
            return np.zeros(len(self.topology.of), np.int64)
        return np.where(self.topology.of >= 0, self.by_place[self.topology.of], 0)

    def add(self, row: int) -> None:
        place = self.topology.of[row]
        if self.own and place >= 0:
            self.by_place[place] += 1


class Neighbours:
    """How the terms of one kind of pods stand, while they are being placed one after the other."""

    def __init__(self, wants: Wants, fleet: Fleet, may: Mask) -> None:
        """:param may: nodes that the pod's own selector and affinity let it go to."""
        self._required: list[tuple[Company, Count]] = []
        self._wished: list[tuple[Company, Count]] = []
        for term in wants.company:
            count = Count.of(term.topology, term.means, wants, fleet)
            (self._wished if term.weight else self._required).append((term, count))
        self._spread: list[tuple[Spread, Count, Mask]] = []
        for c in wants.spread:
            among = fleet.map.all() if c.every_node else may
            self._spread.append((c, Count.of(c.topology, _alike(c, wants), wants, fleet, among), among))
        self._kept_away = shunned(wants, fleet)
        self._symmetric = [(t, c) for t, c in self._required if t.away and t.means(wants.namespace, dict(wants.labels))]

    def gates(self) -> Iterator[Gate]:
        if self._kept_away is not None:
            yield Gate("shunned", "", ~self._kept_away)
        for term, count in self._required:
            placed = count.topology.of >= 0
            if term.away:
                yield Gate("anti-affinity", term.topology, ~(placed & (count.at() > 0)))
            elif not count.by_place.any() and count.own:
                yield Gate("company", term.topology, placed)  # the first of a group that wants to be together
            else:
                yield Gate("company", term.topology, placed & (count.at() > 0))
        for c, count, among in self._spread:
            if c.hard:
                yield Gate("spread", c.topology, _even(c, count, among))

    def wishes(self) -> np.ndarray | None:
        """The larger, the better; None where nothing is wished."""
        if not self._wished:
            return None
        total = np.zeros(len(self._wished[0][1].topology.of), np.float64)
        for term, count in self._wished:
            total += (-term.weight if term.away else term.weight) * count.at()
        return total

    def crowding(self) -> Numbers | None:
        """How many pods of the kinds to be spread each node's places have; the fewer, the better."""
        if not self._spread:
            return None
        total = np.zeros(len(self._spread[0][1].topology.of), np.int64)
        for _, count, _ in self._spread:
            total += np.where(count.topology.of >= 0, count.at(), count.by_place.max(initial=0) + 1)
        return total

    def placed(self, row: int) -> None:
        for _, count in (*self._required, *self._wished):
            count.add(row)
        for _, count, among in self._spread:
            if among[row]:
                count.add(row)


def _alike(c: Spread, wants: Wants) -> Means:
    """Constraints speak of pods of the pod's own namespace."""
    return lambda namespace, labels: (
        c.selector is not None and namespace == wants.namespace and c.selector.matches(labels)
    )


def _even(c: Spread, count: Count, among: Mask) -> Mask:
    """Places where one more pod keeps the difference to the emptiest place within bounds."""
    of = count.topology.of
    placed = of >= 0
    places = np.unique(of[placed & among])
    if not len(places):
        return np.zeros(len(of), np.bool_)
    least = int(count.by_place[places].min()) if len(places) >= c.least_places else 0
    return placed & (count.at() + int(count.own) - least <= c.most)


def shunned(wants: Wants, fleet: Fleet) -> Mask | None:
    """Nodes where pods are whose anti-affinity means this one; None where there are none."""
    found: Mask | None = None
    for term, crowd in fleet.shunned.items():
        if not term.means(wants.namespace, dict(wants.labels)):
            continue
        topology = fleet.map.topology(term.topology)
        places = {int(topology.of[row]) for row, count in crowd.items() if count and topology.of[row] >= 0}
        if places:
            here = np.isin(topology.of, list(places))
            found = here if found is None else found | here
    return found
