"""Pods x nodes -> bindings, or a sentence that says why there is none. Pure.

Invariants: a pod is bound at most once and never moved; the requests on a node never exceed what it can allocate.

Equal pods that come one after the other are placed together: the tightest node stays the tightest until it is full, so
filling it at once is what placing them one by one would do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from cloudlink.hub.schedule import filling, gates
from cloudlink.hub.schedule.company import Neighbours, shunned
from cloudlink.hub.schedule.fleet import Fleet, Mask, Tenant
from cloudlink.hub.schedule.preempt import Preemption
from cloudlink.hub.schedule.seats import Policy, Seats
from cloudlink.hub.schedule.sizes import Size
from cloudlink.hub.schedule.storage import NO_PLACES, Place, Places, claims_of, hindrance, taken, to_be_made
from cloudlink.hub.schedule.wants import Spaces, Wants, plain_size, plain_wants, wants_of
from cloudlink.hub.schedule.words import sentence
from cloudlink.kube.core import Pod

MOST_KEPT = 256  # masks of nodes by constraint, 5 KB each with 5,000 nodes


@dataclass(frozen=True, slots=True)
class Binding:
    """This pod runs on that node, for ever."""

    pod: Pod
    node: str

    def describe(self) -> str:
        return f"bind {self.pod.title} to {self.node}"


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No node takes this pod now; `why` is for its owner to act on.

    :ivar nominated: the node where room is being made for it, and kept until it is there; "" for none.
    :ivar victims: pods that have to go for it, and weren't asked yet.
    """

    pod: Pod
    why: str
    nominated: str = ""
    victims: tuple[Tenant, ...] = ()

    def describe(self) -> str:
        return f"leave {self.pod.title} pending: {self.why}"


Verdict = Binding | Unplaced


def place(
    pending: Iterable[Pod],
    fleet: Fleet,
    places: Places = NO_PLACES,
    spaces: Spaces | None = None,
    policy: Policy = "tight",
    preemption: Preemption | None = None,
) -> tuple[Verdict, ...]:
    """One verdict for each pod, by priority, then those that room is kept for, then oldest first. Of those that came in
    the same second, some are chosen together to fill nodes; the others are placed largest first, because that is the
    hardest.

    Every binding takes its room before the next pod is looked at, and decides where the pod's claims will be.

    :param fleet: as it is; nothing of it is changed.
    :param spaces: the namespaces' labels, for affinity that selects by them.
    :param policy: tight leaves large holes for large pods; spread gives each pod the emptiest node.
    :param preemption: who may send pods of lower priority away; None = nobody may, and no room is kept.
    """
    table = _Table(fleet.copy(), dict(places), spaces or {}, policy, preemption)
    turn = _turn_in(fleet)
    ordered = sorted(pending, key=turn)
    together = policy == "tight" and len(ordered) <= filling.MOST_PODS
    verdicts: list[Verdict] = []
    for _, moment in groupby(ordered, key=_moment):
        groups = [(key, list(pods)) for key, pods in groupby(moment, key=table.key)]
        rows = table.filled(groups) if together and len(groups) > 1 else {}
        for n, (key, pods) in enumerate(groups):
            verdicts += table.seat(pods, key, rows.get(n, []))
    return tuple(verdicts)


Turn = tuple[int, bool, str, float, str, str]


def _turn_in(fleet: Fleet) -> Callable[[Pod], Turn]:
    """Who comes first; how large a pod is depends on what the fleet has of what it asks for."""
    memory, cpu = (1.0 / max(int(fleet.whole[r].sum()), 1) for r in ("memory", "cpu"))

    def turn(pod: Pod) -> Turn:
        size, meta = plain_size(pod), pod.metadata
        return (*_moment(pod), -(size.memory * memory + size.cpu * cpu), meta.namespace, meta.name)

    return turn


def _moment(pod: Pod) -> tuple[int, bool, str]:
    waits = not pod.status.nominated_node_name
    return -(pod.spec.priority or 0), waits, pod.metadata.creation_timestamp or "~"


def _looks_like(one: Pod, other: Pod) -> bool:
    mine, its = one.metadata, other.metadata
    return (mine.namespace, mine.labels, mine.annotations) == (its.namespace, its.labels, its.annotations)


Group = tuple[Wants | tuple[str, str], list[Pod]]  # what they have in common, and they


class _Table:
    """The fleet while pods are being placed on it."""

    def __init__(
        self,
        fleet: Fleet,
        places: dict[str, Place],
        spaces: Spaces,
        policy: Policy,
        preemption: Preemption | None,
    ) -> None:
        self.fleet, self.places, self.spaces, self.policy = fleet, places, spaces, policy
        self.preemption = preemption
        self._last: tuple[Pod, Wants] | None = None
        self._mays: dict[Hashable, Mask] = {}
        self._wishes: dict[Hashable, gates.Wishes | None] = {}

    def key(self, pod: Pod) -> Wants | tuple[str, str]:
        """Equal for pods that can be placed together; one with claims decides for the others, so it goes alone, and so
        does one whose room is kept somewhere."""
        meta = pod.metadata
        if pod.status.nominated_node_name:
            return meta.namespace, meta.name
        if self._last is not None:
            last, key = self._last
            if last.spec is pod.spec and _looks_like(last, pod):
                return key
        if claims_of(pod):
            return meta.namespace, meta.name
        wants = plain_wants(pod, self.spaces)
        self._last = pod, wants
        return wants

    def filled(self, groups: Sequence[Group]) -> dict[int, list[int]]:
        """Number of a group -> rows for as many of its pods as fill nodes well together. They have their room then."""
        kinds: dict[int, filling.Kind] = {}
        for n, (key, pods) in enumerate(groups):
            if isinstance(key, Wants) and filling.suits(key):
                able = self._may(key)
                if (away := shunned(key, self.fleet)) is not None:
                    able = able & ~away
                if (able & gates.through(gates.passing(key, self.fleet), self.fleet)).any():
                    kinds[n] = filling.Kind(key, len(pods), able)
        if len(kinds) < 2:
            return {}
        found = filling.fill(list(kinds.values()), self.fleet)
        if found.left:  # one by one it may be less, where some may go to few nodes only
            alone = self._left_alone(list(kinds.values()))
            if alone <= found.left:
                return {}
        for kind, rows in zip(kinds.values(), found.rows, strict=True):
            for row, count in Counter(rows).items():
                self.fleet.take(kind.wants, row, count)
        return dict(zip(kinds, found.rows, strict=True))

    def seat(self, pods: Sequence[Pod], key: Wants | tuple[str, str], rows: list[int]) -> Iterator[Verdict]:
        """:param pods: with the same key.
        :param rows: that the first of them have already.
        """
        first = pods[0]
        claims: tuple[str, ...] = ()
        if isinstance(key, Wants):
            wants = key
        else:
            claims = claims_of(first)
            if why := hindrance(first, self.places):
                yield Unplaced(first, why)
                return
            size = plain_size(first) + Size(storage=to_be_made(first, self.places))
            wants = wants_of(first, size, claims, self.spaces)
        may = self._may(wants)
        if len(rows) < len(pods):
            rows = [*rows, *self._rows(first, wants, may, len(pods) - len(rows))]
        for pod, row in zip(pods, rows, strict=False):
            node = self.fleet.map.nodes[row].metadata.name
            if claims:
                taken(self.places, pod, node)
            yield Binding(pod, node)
        if len(rows) < len(pods):
            yield from self._waiting(pods[len(rows) :], wants, may)

    def _left_alone(self, kinds: Sequence[filling.Kind]) -> float:
        """What would be left over, placed one by one; see `filling.Filled`."""
        trial, left = self.fleet.copy(), 0.0
        mean = {r: max(float(trial.whole[r].mean()), 1.0) for r in ("memory", "cpu")}
        for kind in kinds:
            rows = Seats(kind.wants, trial, self._may(kind.wants), None, self.policy).rows(kind.count)
            left += (kind.count - len(rows)) * sum(kind.wants.amount(r) / n for r, n in mean.items())
        return left

    def _may(self, wants: Wants) -> Mask:
        """Nodes whose lasting gates let them through; pods with the same constraints differ in size more often than in
        where they may go."""
        if wants.claims:
            return gates.through(gates.lasting(wants, self.fleet, self.places), self.fleet)
        key = wants.selector, wants.terms, wants.tolerations, wants.best_effort
        found = self._mays.get(key)
        if found is None:
            if len(self._mays) >= MOST_KEPT:
                self._mays.clear()
            found = self._mays[key] = gates.through(gates.lasting(wants, self.fleet, self.places), self.fleet)
        return found

    def _wished(self, wants: Wants) -> gates.Wishes | None:
        key = wants.wishes, wants.tolerations, wants.images
        if key not in self._wishes:
            if len(self._wishes) >= MOST_KEPT:
                self._wishes.clear()
            self._wishes[key] = gates.wishes(wants, self.fleet.map)
        return self._wishes[key]

    def _rows(self, first: Pod, wants: Wants, may: Mask, count: int) -> list[int]:
        """A row for each pod, as many as there are; the node where room was kept is tried before all others."""
        if not may.any():
            return []
        seats = Seats(wants, self.fleet, may, self._wished(wants), self.policy)
        kept = self.fleet.map.rows.get(first.status.nominated_node_name)
        if kept is not None and may[kept]:
            only = self.fleet.map.none()
            only[kept] = True
            if rows := seats.rows(1, only):
                return rows  # it goes alone
        return seats.rows(count)

    # ------------------------------------------------------------ no room

    def _waiting(self, pods: Sequence[Pod], wants: Wants, may: Mask) -> Iterator[Unplaced]:
        """Pods that fit nowhere; room is kept for each that can have some by others' going."""
        why = self._why(wants, may)
        for n, pod in enumerate(pods):
            way = self.preemption.way(pod, wants, may, self.fleet) if self.preemption is not None else None
            if way is None:
                if pod.spec.preemption_policy == "Never":
                    yield Unplaced(pod, why)
                    continue
                yield from (Unplaced(p, why) for p in pods[n:])  # those of the same or less priority can't, either
                return
            node = self.fleet.map.nodes[way.row].metadata.name
            self.fleet.take(wants, way.row)  # before its pods are gone: less than nothing is left for others
            yield Unplaced(pod, f"{why}; room is being made on {node}", node, way.victims)

    def _why(self, wants: Wants, may: Mask) -> str:
        found = [*gates.lasting(wants, self.fleet, self.places), *gates.passing(wants, self.fleet)]
        return sentence(wants, self.fleet, [*found, *Neighbours(wants, self.fleet, may).gates()])
