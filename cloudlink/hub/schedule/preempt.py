"""Whom a pod may send away: room on one node by ending pods of lower priority. Pure.

After kube-scheduler's DefaultPreemption: of the nodes where it would fit without them, the one with the fewest broken
PodDisruptionBudgets, then the least important victim, the least sum of priorities, the fewest victims, and the victims
that started last. Pods that are on their way out anyway cost nothing: where waiting for them is enough, nobody else
has to go.

It ends: a victim's priority is lower than that of who takes its room, which is kept until that pod is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cloudlink.hub.schedule.company import Neighbours, shunned
from cloudlink.hub.schedule.fleet import Fleet, Mask, Tenant
from cloudlink.hub.schedule.gates import taken_port
from cloudlink.hub.schedule.wants import Wants, selector_of
from cloudlink.kube.core import Pod
from cloudlink.kube.policy import PodDisruptionBudget

MOST_CANDIDATES = 100  # nodes looked at closely for one pod, as kube-scheduler's minCandidateNodesAbsolute
MOST_SOCIABLE = 16  # likewise, where every look counts pods all over the fleet
MOST_PODS = 200  # that look for victims in one round; the others do in the next one


@dataclass(frozen=True, slots=True)
class Way:
    """How a pod gets its room: on this row, once these are gone; nobody where waiting is enough."""

    row: int
    victims: tuple[Tenant, ...] = ()


class Budgets:
    """How many pods each PodDisruptionBudget lets go now; what is decided on is counted off."""

    def __init__(self, budgets: Iterable[PodDisruptionBudget] = ()) -> None:
        self._terms = [
            (b.metadata.namespace, selector_of(b.spec.selector), frozenset(b.status.disrupted_pods)) for b in budgets
        ]
        self._left = [b.status.disruptions_allowed for b in budgets]

    def of(self, tenant: Tenant) -> list[int]:
        """Which of them count this pod; one that is on its way out is counted already."""
        (namespace, name), labels = tenant.key, dict(tenant.wants.labels)
        return [
            i
            for i, (space, selector, away) in enumerate(self._terms)
            if space == namespace and selector is not None and name not in away and labels and selector.matches(labels)
        ]

    def violating(self, tenants: Sequence[Tenant]) -> set[tuple[str, str]]:
        """Keys of those that can't go within the budgets if all of them go, the most important first."""
        left, found = list(self._left), set()
        for tenant in tenants:
            for i in self.of(tenant):
                left[i] -= 1
                if left[i] < 0:
                    found.add(tenant.key)
        return found

    def spend(self, tenants: Iterable[Tenant]) -> None:
        for tenant in tenants:
            for i in self.of(tenant):
                self._left[i] -= 1


class Preemption:
    """One round's worth of it."""

    def __init__(self, budgets: Sequence[PodDisruptionBudget] = ()) -> None:
        self._budgets = Budgets(budgets)
        self._looked = 0
        self._by_node: dict[str, list[Tenant]] | None = None
        self._least = 0

    def way(self, pod: Pod, wants: Wants, may: Mask, fleet: Fleet) -> Way | None:
        """None where no victims would help, or the pod may have none.

        :param may: nodes whose lasting gates let it through.
        :param fleet: to plan in; victims are on their way out in it afterwards, and still have their room.
        """
        tenants = self._tenants(fleet)
        row = fleet.map.rows.get(pod.status.nominated_node_name, -1)
        if row >= 0 and may[row] and self._fits_without(wants, row, may, fleet, self._leaving(fleet, row)):
            return Way(row)
        priority = pod.spec.priority or 0
        if pod.spec.preemption_policy == "Never" or priority <= self._least or self._looked >= MOST_PODS:
            return None
        self._looked += 1
        ways = [
            (self._price(way), way)
            for row in self._candidates(wants, priority, may, fleet, tenants)
            if (way := self._at(wants, priority, row, may, fleet)) is not None
        ]
        if not ways:
            return None
        best = min(ways, key=lambda pair: pair[0])[1]
        self._budgets.spend(best.victims)
        for victim in best.victims:
            gone = replace(victim, leaving=True)
            fleet.tenants[victim.key] = gone
            there = tenants[victim.node]
            there[there.index(victim)] = gone
        return best

    # ------------------------------------------------------------ where to look

    def _tenants(self, fleet: Fleet) -> dict[str, list[Tenant]]:
        if self._by_node is None:
            self._by_node = {}
            for tenant in fleet.tenants.values():
                self._by_node.setdefault(tenant.node, []).append(tenant)
            self._least = min((t.priority for t in fleet.tenants.values() if not t.leaving), default=1 << 40)
        return self._by_node

    def _leaving(self, fleet: Fleet, row: int) -> list[Tenant]:
        return [t for t in self._tenants(fleet).get(fleet.map.nodes[row].metadata.name, ()) if t.leaving]

    def _candidates(
        self, wants: Wants, priority: int, may: Mask, fleet: Fleet, tenants: dict[str, list[Tenant]]
    ) -> list[int]:
        """Nodes where it could fit as far as numbers go, those with the least important pods first."""
        rows = np.flatnonzero(may)
        found: list[tuple[int, int, int]] = []
        for row in rows.tolist():
            lower = [
                t for t in tenants.get(fleet.map.nodes[row].metadata.name, ()) if t.leaving or t.priority < priority
            ]
            if not any(not t.leaving for t in lower):
                continue
            if all(
                fleet.resource(resource)[row] + sum(t.wants.amount(resource) for t in lower) >= amount
                for resource, amount in wants.amounts
            ):
                found.append((min(t.priority for t in lower if not t.leaving), len(lower), row))
        most = MOST_SOCIABLE if wants.is_sociable or fleet.shunned else MOST_CANDIDATES
        return [row for _, _, row in sorted(found)[:most]]

    # ------------------------------------------------------------ one node

    def _at(self, wants: Wants, priority: int, row: int, may: Mask, fleet: Fleet) -> Way | None:
        """The victims on this node: all that are less important, less those that can stay."""
        here = self._tenants(fleet).get(fleet.map.nodes[row].metadata.name, ())
        leaving = [t for t in here if t.leaving]
        lower = sorted((t for t in here if not t.leaving and t.priority < priority), key=_importance)
        for tenant in (*leaving, *lower):
            fleet.evict(tenant)
        try:
            if not self._fits(wants, row, may, fleet):
                return None
            broken = self._budgets.violating(lower)
            victims: list[Tenant] = []
            for tenant in sorted(lower, key=lambda t: t.key not in broken):  # those in budgets get the first chance
                fleet.house(tenant)
                if not self._fits(wants, row, may, fleet):
                    fleet.evict(tenant)
                    victims.append(tenant)
            return Way(row, tuple(sorted(victims, key=_importance)))
        finally:
            for tenant in (*leaving, *lower):
                if tenant.key not in fleet.tenants:
                    fleet.house(tenant)

    def _fits_without(self, wants: Wants, row: int, may: Mask, fleet: Fleet, gone: Sequence[Tenant]) -> bool:
        for tenant in gone:
            fleet.evict(tenant)
        try:
            return self._fits(wants, row, may, fleet)
        finally:
            for tenant in gone:
                fleet.house(tenant)

    def _fits(self, wants: Wants, row: int, may: Mask, fleet: Fleet) -> bool:
        if any(fleet.resource(resource)[row] < amount for resource, amount in wants.amounts):
            return False
        if wants.ports and _port_taken(wants, row, fleet):
            return False
        if wants.is_sociable:
            return all(gate.through[row] for gate in Neighbours(wants, fleet, may).gates())
        away = shunned(wants, fleet)
        return away is None or not away[row]

    def _price(self, way: Way) -> tuple[int, int, int, int, tuple[int, ...], int]:
        """The less, the better. Of the same moment of start, the later one is cheaper."""
        if not way.victims:
            return (0, -(1 << 40), 0, 0, (), way.row)
        highest = way.victims[0].priority
        earliest = min(v.since for v in way.victims if v.priority == highest)
        return (
            len(self._budgets.violating(way.victims)),
            highest,
            sum(v.priority + (1 << 31) for v in way.victims),  # so that negative ones count as victims, too
            len(way.victims),
            _backwards(earliest),
            way.row,
        )


def _port_taken(wants: Wants, row: int, fleet: Fleet) -> bool:
    there = (other for port in wants.ports for other in fleet.ports.tagged(port[:2]) if row in fleet.ports[other])
    return bool(taken_port(wants.ports, there))


def _importance(tenant: Tenant) -> tuple[int, str, tuple[str, str]]:
    """The most important first: priority, then who has run for longer."""
    return -tenant.priority, tenant.since, tenant.key


def _backwards(text: str) -> tuple[int, ...]:
    """Sorts the other way round, for texts of equal length."""
    return tuple(-ord(c) for c in text)
