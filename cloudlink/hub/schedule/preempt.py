"""Whom a pod may send away: room on one node by ending pods of lower priority. Pure.

After kube-scheduler's DefaultPreemption: of the nodes where it would fit without them, the one with the fewest broken
PodDisruptionBudgets, then the least important victim, the least sum of priorities, the fewest victims, and the victims
that started last. Pods that are on their way out anyway cost nothing: where waiting for them is enough, nobody else
has to go.

It ends: a victim's priority is lower than that of who takes its room, which is kept until that pod is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudlink.hub.schedule.budgets import Budgets
from cloudlink.hub.schedule.company import Neighbours, shunned
from cloudlink.hub.schedule.fleet import Fleet, Mask, Tenant
from cloudlink.hub.schedule.gates import taken_port
from cloudlink.hub.schedule.residents import Residents
from cloudlink.hub.schedule.wants import Wants
from cloudlink.kube.core import Pod
from cloudlink.kube.policy import PodDisruptionBudget

MOST_CANDIDATES = 100  # nodes looked at closely for one pod, as kube-scheduler's minCandidateNodesAbsolute
MOST_SOCIABLE = 16  # likewise, where every look counts pods all over the fleet
MOST_PODS = 1000  # that look for victims in one round; the others do in the next one


@dataclass(frozen=True, slots=True)
class Way:
    """How a pod gets its room: on this row, once these are gone; nobody where waiting is enough."""

    row: int
    victims: tuple[Tenant, ...] = ()


Price = tuple[int, int, int, int, tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out about a node while it had room for so many more pods; see `Preemption._price`."""

    pods: int
    way: tuple[Price, Way] | None


class Preemption:
    """One round's worth of it.

    :ivar unfinished: there were more pods to look for than a round takes.
    :ivar passed: pods of this round and the ones before that no way was found for; the next round passes them over.
    """

    def __init__(self, budgets: Sequence[PodDisruptionBudget] = (), skip: int = 0) -> None:
        """:param skip: `passed` of an unfinished round before this one."""
        self._budgets = Budgets(budgets)
        self._skip = skip
        self._looked = 0
        self._residents: Residents | None = None
        self._known: tuple[Wants, int, dict[int, Known]] | None = None
        self.unfinished = False
        self.passed = skip

    def way(self, pod: Pod, wants: Wants, may: Mask, fleet: Fleet) -> Way | None:
        """None where no victims would help, or the pod may have none.

        :param may: nodes whose lasting gates let it through.
        :param fleet: to plan in, the same one in all of a round; victims are on their way out in it afterwards, and
            still have their room.
        """
        if self._residents is None:
            self._residents = Residents(fleet)
        residents = self._residents
        row = fleet.map.rows.get(pod.status.nominated_node_name, -1)
        if row >= 0 and may[row]:
            leaving = [t for t in residents.at(row) if t.leaving]
            if self._fits_without(wants, row, may, fleet, leaving):
                return Way(row)
        priority = pod.spec.priority or 0
        if pod.spec.preemption_policy == "Never" or priority <= residents.least:
            return None
        if self._skip:
            self._skip -= 1
            return None
        if self._looked >= MOST_PODS:
            self.unfinished = True
            return None
        self._looked += 1
        best = self._best(wants, priority, may, fleet, residents)
        if best is None:
            self.passed += 1
            return None
        residents.leave(best.victims, best.row)
        if self._budgets.spend(best.victims):
            self._known = None  # what the others would break may have changed
        return best

    def _best(self, wants: Wants, priority: int, may: Mask, fleet: Fleet, residents: Residents) -> Way | None:
        """The cheapest way; what equal pods before found out about nodes that haven't changed is still known."""
        if self._known is None or self._known[:2] != (wants, priority):
            self._known = wants, priority, {}
        known = self._known[2]
        away = shunned(wants, fleet)
        plain = not (wants.is_sociable or wants.ports) and away is None
        ways: list[tuple[Price, Way]] = []
        for row in residents.candidates(wants, priority, may, MOST_CANDIDATES if plain else MOST_SOCIABLE).tolist():
            pods = int(fleet.free["pods"][row])  # changes with every pod that comes or goes
            found = known.get(row)
            if found is None or found.pods != pods or not plain:
                here = residents.at(row)
                way = self._by_numbers(wants, priority, row, fleet, here) if plain else None
                if not plain:
                    way = self._at(wants, priority, row, may, fleet, here)
                found = known[row] = Known(pods, None if way is None else (self._price(way), way))
            if found.way is not None:
                ways.append(found.way)
        if not ways:
            return None
        best = min(ways, key=lambda pair: pair[0])[1]
        known.pop(best.row)
        return best

    # ------------------------------------------------------------ one node

    def _by_numbers(self, wants: Wants, priority: int, row: int, fleet: Fleet, here: Sequence[Tenant]) -> Way | None:
        """The victims on this node, where nothing but room is asked for: all that are less important, less those that
        can stay."""
        lower = sorted((t for t in here if not t.leaving and t.priority < priority), key=_importance)
        over = {r: int(fleet.resource(r)[row]) - amount for r, amount in wants.amounts}  # with all of them gone
        for tenant in here:
            if tenant.leaving or tenant.priority < priority:
                for resource, amount in tenant.wants.amounts:
                    if resource in over:
                        over[resource] += amount
        if any(amount < 0 for amount in over.values()):
            return None
        broken = self._budgets.violating(lower)
        victims: list[Tenant] = []
        for tenant in sorted(lower, key=lambda t: t.key not in broken):  # those in budgets get the first chance
            asked = [(r, amount) for r, amount in tenant.wants.amounts if r in over]
            if all(over[r] >= amount for r, amount in asked):
                for r, amount in asked:
                    over[r] -= amount
            else:
                victims.append(tenant)
        return Way(row, tuple(sorted(victims, key=_importance)))

    def _at(self, wants: Wants, priority: int, row: int, may: Mask, fleet: Fleet, here: Sequence[Tenant]) -> Way | None:
        """The same where neighbours and ports matter, too."""
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

    def _price(self, way: Way) -> Price:
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
