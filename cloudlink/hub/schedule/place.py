"""Pods x nodes -> bindings, or a sentence that says why there is none. Pure.

Invariants: a pod is bound at most once and never moved; the requests on a node never exceed what it can allocate.

Equal pods that come one after the other are placed together: the tightest node stays the tightest until it is full, so
filling it at once is what placing them one by one would do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from cloudlink.hub.schedule import gates
from cloudlink.hub.schedule.company import Neighbours, shunned
from cloudlink.hub.schedule.fleet import Fleet, Mask, Tenant
from cloudlink.hub.schedule.preempt import Preemption
from cloudlink.hub.schedule.sizes import Size
from cloudlink.hub.schedule.storage import NO_PLACES, Place, Places, claims_of, hindrance, taken, to_be_made
from cloudlink.hub.schedule.wants import Spaces, Wants, plain_size, wants_of
from cloudlink.hub.schedule.words import sentence
from cloudlink.kube.core import Pod

Policy = Literal["tight", "spread"]


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
    """One verdict for each pod, by priority, then those that room is kept for, then oldest first; of the same second,
    the largest first, because it is the hardest.

    Every binding takes its room before the next pod is looked at, and decides where the pod's claims will be.

    :param fleet: as it is; nothing of it is changed.
    :param spaces: the namespaces' labels, for affinity that selects by them.
    :param policy: tight leaves large holes for large pods; spread gives each pod the emptiest node.
    :param preemption: who may send pods of lower priority away; None = nobody may, and no room is kept.
    """
    table = _Table(fleet.copy(), dict(places), spaces or {}, policy, preemption)
    ordered = sorted(((_turn(p), p) for p in pending), key=lambda pair: pair[0])
    return tuple(v for _, group in groupby((p for _, p in ordered), key=table.key) for v in table.seat(list(group)))


def _turn(pod: Pod) -> tuple[int, bool, str, int, int, str, str]:
    size, meta = plain_size(pod), pod.metadata
    created = meta.creation_timestamp or "~"
    waits = not pod.status.nominated_node_name
    return -(pod.spec.priority or 0), waits, created, -size.memory, -size.cpu, meta.namespace, meta.name


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
        self._last: tuple[Pod, Wants | tuple[str, str]] | None = None

    def key(self, pod: Pod) -> Wants | tuple[str, str]:
        """Equal for pods that can be placed together; one with claims decides for the others, so it goes alone, and so
        does one whose room is kept somewhere."""
        meta = pod.metadata
        if pod.status.nominated_node_name:
            return meta.namespace, meta.name
        if self._last is not None:
            last, key = self._last
            if last.spec is pod.spec and (last.metadata.namespace, last.metadata.labels) == (
                meta.namespace,
                meta.labels,
            ):
                return key
        if claims_of(pod):
            return meta.namespace, meta.name
        wants = wants_of(pod, plain_size(pod), (), self.spaces)
        self._last = pod, wants
        return wants

    def seat(self, pods: Sequence[Pod]) -> Iterator[Verdict]:
        first = pods[0]
        if why := hindrance(first, self.places):
            yield Unplaced(first, why)
            return
        claims = claims_of(first)
        size = plain_size(first) + Size(storage=to_be_made(first, self.places))
        wants = wants_of(first, size, claims, self.spaces)
        lasting = list(gates.lasting(wants, self.fleet, self.places))
        may = np.logical_and.reduce([g.through for g in lasting]) if len(self.fleet) else self.fleet.map.none()
        for pod, row in zip(pods, self._rows(first, wants, may, len(pods)), strict=False):
            node = self.fleet.map.nodes[row].metadata.name
            taken(self.places, pod, node)
            yield Binding(pod, node)
            pods = pods[1:]
        if pods:
            why = sentence(wants, self.fleet, [*lasting, *self._last_gates(wants, may)])
            yield from self._waiting(pods, wants, may, why)

    def _waiting(self, pods: Sequence[Pod], wants: Wants, may: Mask, why: str) -> Iterator[Unplaced]:
        """Pods that fit nowhere; room is kept for each that can have some by others' going."""
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

    def _rows(self, first: Pod, wants: Wants, may: Mask, count: int) -> Iterator[int]:
        """A row for each pod, as many as there are; the node where room was kept is tried before all others."""
        kept = self.fleet.map.rows.get(first.status.nominated_node_name)
        if kept is not None and may[kept]:
            only = self.fleet.map.none()
            only[kept] = True
            for row in self._alone(wants, may, only):
                yield row
                return  # it goes alone
        yield from self._alone(wants, may) if wants.is_sociable else self._together(wants, may, count)

    def _last_gates(self, wants: Wants, may: Mask) -> Iterator[gates.Gate]:
        yield from gates.passing(wants, self.fleet)
        yield from Neighbours(wants, self.fleet, may).gates()

    # ------------------------------------------------------------ pods that other pods matter to

    def _alone(self, wants: Wants, may: Mask, only: Mask | None = None) -> Iterator[int]:
        """A row for one pod after the other, as long as there is one. `only`: these of the rows that it may have."""
        near = Neighbours(wants, self.fleet, may)
        wished = self._wishes(wants)
        while True:
            able = may.copy() if only is None else may & only
            for gate in (*gates.passing(wants, self.fleet), *near.gates()):
                able &= gate.through
            if not able.any():
                return
            also = near.wishes()
            total = also if wished is None else wished if also is None else wished + also
            row = self._best(wants, able, total, near.crowding())
            self.fleet.take(wants, row)
            near.placed(row)
            yield row

    # ------------------------------------------------------------ pods that don't mind their neighbours

    def _together(self, wants: Wants, may: Mask, count: int) -> Iterator[int]:
        able = may.copy()
        if (away := shunned(wants, self.fleet)) is not None:
            able &= ~away
        wished = self._wishes(wants)
        for gate in gates.passing(wants, self.fleet):
            able &= gate.through
        while count and able.any():
            row = self._best(wants, able, wished, None)
            room = self._room(wants, row)
            share = min(count, room if self._fills(wants) else 1)
            self.fleet.take(wants, row, share)
            if room == share:
                able[row] = False
            count -= share
            for _ in range(share):
                yield row

    def _fills(self, wants: Wants) -> bool:
        """Whether a node that was the best stays it: the tightest gets tighter. Pods that ask for nothing share nodes
        out."""
        return self.policy == "tight" and bool(wants.amount("memory") or wants.amount("cpu"))

    def _room(self, wants: Wants, row: int) -> int:
        """How many such pods still fit on a row; at least one, or it would not have been chosen."""
        if wants.ports:
            return 1
        return min(int(self.fleet.free[r][row]) // amount for r, amount in wants.amounts)

    # ------------------------------------------------------------ which of them

    def _wishes(self, wants: Wants) -> np.ndarray | None:
        """What the pod wishes of nodes: weights that hold, less a lot for each taint that says "rather not"."""
        rather_not = gates.unwanted(wants, self.fleet.map)
        if not wants.wishes and not rather_not.any():
            return None
        total = -1e6 * rather_not.astype(np.float64)
        for wish in wants.wishes:
            total += wish.weight * gates.term_mask(wish.preference, self.fleet.map)
        return total

    def _best(self, wants: Wants, able: Mask, wished: np.ndarray | None, crowding: np.ndarray | None) -> int:
        """Wishes before evenness, evenness before tightness; memory before CPU, which can be shared; then the node
        with the most room for further pods."""
        rows = np.flatnonzero(able)
        if wished is not None and len(rows) > 1:
            rows = rows[wished[rows] == wished[rows].max()]
        if crowding is not None and len(rows) > 1:
            rows = rows[crowding[rows] == crowding[rows].min()]
        sign = 1.0 if self.policy == "tight" else -1.0
        for resource in ("memory", "cpu"):
            if len(rows) > 1:
                after = self.fleet.free[resource][rows] - wants.amount(resource)
                share = sign * np.round(after / np.maximum(self.fleet.whole[resource][rows], 1), 9)
                rows = rows[share == share.min()]
        if len(rows) > 1:
            rows = rows[np.argmax(self.fleet.free["pods"][rows], keepdims=True)]
        return int(rows[0])
