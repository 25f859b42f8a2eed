"""Other pods as a reason: affinity, anti-affinity and spreading, counted by place. Pure.

After kube-scheduler's InterPodAffinity and PodTopologySpread. A place is all nodes with the same value of a label; how
many pods of a kind each place has is counted once, and kept up to date while pods are placed.

What doesn't change while equal pods are placed is one mask; the rest can be asked of rows as well as of larger units
that have the same places (see `seats`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloudlink.hub.schedule.fleet import Fleet, Mask, Numbers, Rows, Topology
from cloudlink.hub.schedule.gates import Gate, Wishes
from cloudlink.hub.schedule.wants import Company, Crowd, Selector, Spread, Wants

Places = Callable[[Topology], Rows]  # the places of what is asked about; see `Topology.of`
Floats = NDArray[np.float64]


@dataclass(slots=True)
class Count:
    """Pods of one kind by place.

    :ivar by_place: one longer than there are places: the last one is what nodes without a place (-1) have, nothing.
    :ivar own: the pods that are being placed are of that kind, too.
    """

    topology: Topology
    by_place: Numbers
    own: bool

    @classmethod
    def of(
        cls, key: str, who: Iterable[Crowd], own: bool, fleet: Fleet, among: Mask | None = None, stay: bool = False
    ) -> Count:
        """:param among: only what is on these rows.
        :param stay: only what wasn't asked to end.
        """
        topology = fleet.map.topology(key)
        counts = np.zeros(topology.count + 1, np.int64)
        for crowd in who:
            there = _staying(crowd, fleet) if stay else fleet.crowds[crowd]
            rows = np.fromiter(there.keys(), np.intp, len(there))
            numbers = np.fromiter(there.values(), np.int64, len(there))
            if among is not None:
                rows, numbers = rows[among[rows]], numbers[among[rows]]
            np.add.at(counts, topology.of[rows], numbers)
        counts[-1] = 0
        return cls(topology, counts, own)

    def add(self, row: int) -> None:
        place = self.topology.of[row]
        if self.own and place >= 0:
            self.by_place[place] += 1


def _staying(crowd: Crowd, fleet: Fleet) -> Mapping[int, int]:
    there, leaving = fleet.crowds[crowd], fleet.leaving[crowd]
    return {row: n - leaving.get(row, 0) for row, n in there.items()} if leaving else there


@dataclass(slots=True)
class Term:
    """Affinity or anti-affinity, and how it stands."""

    company: Company
    count: Count

    @property
    def closes(self) -> bool:
        """It allows one such pod to a node, and says no more than that while they are placed."""
        return self.company.away and not self.company.weight and self.count.own and self.count.topology.singles

    def through(self, of: Rows) -> Mask:
        here = self.count.by_place[of]
        found: Mask = here == 0 if self.company.away else here > 0
        if not self.company.away and self.count.own and not self.count.by_place.any():
            found = of >= 0  # the first of a group that wants to be together
        return found

    def wish(self, of: Rows) -> Floats:
        here = self.count.by_place[of].astype(np.float64)
        here *= -self.company.weight if self.company.away else self.company.weight
        return here


@dataclass(slots=True)
class Evenness:
    """A constraint on how pods are spread, and how it stands.

    :ivar places: those that are compared.
    """

    spread: Spread
    count: Count
    among: Mask
    places: Rows | slice

    @classmethod
    def of(cls, spread: Spread, wants: Wants, fleet: Fleet, may: Mask) -> Evenness:
        among = fleet.map.all() if spread.every_node else may
        spaces = frozenset((wants.namespace,))  # constraints speak of pods of the pod's own namespace
        who, own = _meant(spread.selector, spaces, fleet), _means(spread.selector, spaces, wants.who)
        count = Count.of(spread.topology, who, own, fleet, among, stay=True)
        there = _places(count.topology.of[among])
        return cls(spread, count, among, slice(0, -1) if len(there) == count.topology.count else there)

    def through(self, of: Rows) -> Mask:
        """Places where one more pod keeps the difference to the emptiest place within bounds."""
        compared = self.count.by_place[self.places]
        if not len(compared):
            return np.zeros(len(of), np.bool_)
        least = int(compared.min()) if len(compared) >= self.spread.least_places else 0
        return (of >= 0) & (self.count.by_place[of] <= self.spread.most + least - int(self.count.own))

    def crowd(self, of: Rows) -> Numbers:
        """How many there are; where a node has no place, more than anywhere."""
        here = self.count.by_place[of]
        here[of < 0] = self.count.by_place.max() + 1
        return here


class Neighbours:
    """How the terms of one kind of pods stand, while they are being placed one after the other."""

    def __init__(self, wants: Wants, fleet: Fleet, may: Mask) -> None:
        """:param may: nodes that the pod's own selector and affinity let it go to."""
        self._required: list[Term] = []
        self._wished: list[Term] = []
        for term in wants.company:
            who, own = _meant(term.selector, term.spaces, fleet), _means(term.selector, term.spaces, wants.who)
            made = Term(term, Count.of(term.topology, who, own, fleet))
            (self._wished if term.weight else self._required).append(made)
        self._spread = [Evenness.of(c, wants, fleet, may) for c in wants.spread]
        self._kept_away = shunned(wants, fleet)

    def gates(self) -> Iterator[Gate]:
        if self._kept_away is not None:
            yield Gate("shunned", "", ~self._kept_away)
        for term in self._required:
            kind = "anti-affinity" if term.company.away else "company"
            yield Gate(kind, term.company.topology, term.through(term.count.topology.of))
        for even in self._spread:
            if even.spread.hard:
                yield Gate("spread", even.spread.topology, even.through(even.count.topology.of))

    def placed(self, row: int) -> None:
        for made in (*self._required, *self._wished):
            made.count.add(row)
        for even in self._spread:
            if even.among[row]:
                even.count.add(row)

    # ------------------------------------------------------------ what stays, what moves

    def still(self) -> list[Mask]:
        """The gates that stay as they are; those that close node by node are as they are before the first pod."""
        masks = [] if self._kept_away is None else [~self._kept_away]
        masks += [t.through(t.count.topology.of) for t in self._required if t.closes or not t.count.own]
        evens = (e for e in self._spread if e.spread.hard and not e.count.own)
        return masks + [e.through(e.count.topology.of) for e in evens]

    def once(self) -> Mask | None:
        """Rows that take one of these pods at most; None where all take as many as fit."""
        found: Mask | None = None
        for term in self._required:
            if term.closes:
                here = term.count.topology.of >= 0
                found = here if found is None else found | here
        return found

    def moving(self) -> list[Topology]:
        """Labels by which it matters where the last of these pods went, each once."""
        counts = [t.count for t in (*self._required, *self._wished) if not t.closes]
        counts += [e.count for e in self._spread]
        return list({id(c.topology): c.topology for c in counts if c.own}.values())

    def still_wished(self) -> Wishes | None:
        terms = [t.wish(t.count.topology.of) for t in self._wished if not t.count.own]
        return np.sum(terms, axis=0) if terms else None

    def still_crowded(self) -> Numbers | None:
        crowds = [e.crowd(e.count.topology.of) for e in self._spread if not e.count.own]
        return np.sum(crowds, axis=0) if crowds else None

    def at(self, places: Places) -> Standing:
        """What moves, as it is at these places whenever it is asked."""
        terms = [t for t in (*self._required, *self._wished) if t.count.own and not t.closes]
        evens = [(e, places(e.count.topology)) for e in self._spread if e.count.own]
        return Standing([(t, places(t.count.topology)) for t in terms], evens)


class Standing:
    """What pods that are being placed find at given places: those before them matter."""

    def __init__(self, terms: Sequence[tuple[Term, Rows]], evens: Sequence[tuple[Evenness, Rows]]) -> None:
        self._gates = [(t.through, of) for t, of in terms if not t.company.weight]
        self._gates += [(e.through, of) for e, of in evens if e.spread.hard]
        self._wishes = [(t.wish, of) for t, of in terms if t.company.weight]
        self._crowds = [(e.crowd, of) for e, of in evens]

    def through(self, able: Mask) -> Mask:
        """Of those that are able, the ones where all gates are open."""
        for gate, of in self._gates:
            able = able & gate(of)
        return able

    def before(self, unwished: Floats | None, crowded: Numbers | None) -> Iterator[NDArray[np.float64] | Numbers]:
        """What comes before tightness, the more important first; the less, the better.

        :param unwished: what stays of it; likewise `crowded`.
        """
        for wish, of in self._wishes:
            unwished = -wish(of) if unwished is None else unwished - wish(of)
        if unwished is not None:
            yield unwished
        for crowd, of in self._crowds:
            crowded = crowd(of) if crowded is None else crowded + crowd(of)
        if crowded is not None:
            yield crowded


def _places(of: Rows) -> Rows:
    """Each once, in order."""
    return np.flatnonzero(np.bincount(of + 1)[1:])


def _means(selector: Selector | None, spaces: frozenset[str] | None, who: Crowd) -> bool:
    namespace, labels = who
    return selector is not None and (spaces is None or namespace in spaces) and selector.matches(_mapping(labels))


def _mapping(labels: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(labels)


def _meant(selector: Selector | None, spaces: frozenset[str] | None, fleet: Fleet) -> list[Crowd]:
    """Kinds of pods that are somewhere and that a selector means."""
    if selector is None:
        return []
    tagged = sorted((fleet.crowds.tagged(pair) for pair in selector.labels), key=len)
    among: Iterable[Crowd] = tagged[0] if tagged else fleet.crowds
    return [crowd for crowd in among if _means(selector, spaces, crowd)]


def shunned(wants: Wants, fleet: Fleet) -> Mask | None:
    """Nodes where pods are whose anti-affinity means this one; None where there are none."""
    found: Mask | None = None
    labels = dict(wants.labels)
    for tag in (None, *wants.labels):
        for term in fleet.shunned.tagged(tag):
            if not term.means(wants.namespace, labels):
                continue
            topology = fleet.map.topology(term.topology)
            rows = list(fleet.shunned[term])
            closed = np.zeros(topology.count + 1, np.bool_)  # the last one is what nodes without a place have
            closed[topology.of[rows]] = True
            closed[-1] = False
            if closed.any():
                here = closed[topology.of]
                found = here if found is None else found | here
    return found
