"""Who is on which row, and what their going would leave free: the tenants of a fleet as arrays. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cloudlink.hub.schedule.fleet import Fleet, Mask, Numbers, Rows, Tenant
from cloudlink.hub.schedule.wants import Wants

_NOBODY = 1 << 40  # more important than anybody is


@dataclass(slots=True)
class Lower:
    """What pods below a priority, and those that are leaving anyway, have on each row.

    :ivar freed: by resource.
    :ivar staying: how many of them aren't leaving.
    :ivar least: priority of the least important one of those.
    :ivar count: all of them.
    """

    freed: dict[str, Numbers]
    staying: Numbers
    least: Numbers
    count: Numbers


class Residents:
    """Of one fleet, as it is when this is made; afterwards it is told who leaves."""

    def __init__(self, fleet: Fleet) -> None:
        self.least = min((t.priority for t in fleet.tenants.values() if not t.leaving), default=_NOBODY)
        self._fleet = fleet
        self._by_row: dict[int, list[Tenant]] | None = None
        self._lower: tuple[int, Lower] | None = None

    def at(self, row: int) -> list[Tenant]:
        return self._rows().get(row, [])

    def leave(self, tenants: tuple[Tenant, ...], row: int) -> None:
        """They are asked to end, in the fleet, too; until then they have their room."""
        there = self._rows()[row]
        for tenant in tenants:
            gone = replace(tenant, leaving=True)
            self._fleet.tenants[tenant.key] = gone
            there[there.index(tenant)] = gone
        if self._lower is not None:
            priority, lower = self._lower
            left = [t.priority for t in there if not t.leaving and t.priority < priority]
            lower.staying[row], lower.least[row] = len(left), min(left, default=_NOBODY)

    def candidates(self, wants: Wants, priority: int, may: Mask, most: int) -> Rows:
        """Rows where it could fit as far as numbers go, those with the least important pods first, then those with
        few."""
        lower = self._below(priority)
        able = may & (lower.staying > 0)
        for resource, amount in wants.amounts:
            freed = lower.freed.get(resource)
            able &= self._fleet.resource(resource) + (0 if freed is None else freed) >= amount
        rows = np.flatnonzero(able)
        return rows[np.lexsort((rows, lower.count[rows], lower.least[rows]))][:most]

    def _rows(self) -> dict[int, list[Tenant]]:
        if self._by_row is None:
            self._by_row = {}
            rows = self._fleet.map.rows
            for tenant in self._fleet.tenants.values():
                self._by_row.setdefault(rows[tenant.node], []).append(tenant)
        return self._by_row

    def _below(self, priority: int) -> Lower:
        """Pods come by priority, so one of these is enough."""
        if self._lower is None or self._lower[0] != priority:
            self._lower = priority, self._added_up(priority)
        return self._lower[1]

    def _added_up(self, priority: int) -> Lower:
        size = len(self._fleet)
        staying, count, least = np.zeros(size, np.int64), np.zeros(size, np.int64), np.full(size, _NOBODY)
        freed: dict[str, Numbers] = {}
        for row, tenants in self._rows().items():
            here: dict[str, int] = {}
            for t in tenants:
                if not t.leaving:
                    if t.priority >= priority:
                        continue
                    staying[row] += 1
                    least[row] = min(least[row], t.priority)
                count[row] += 1
                for resource, amount in t.wants.amounts:
                    here[resource] = here.get(resource, 0) + amount
            for resource, amount in here.items():
                if resource not in freed:
                    freed[resource] = np.zeros(size, np.int64)
                freed[resource][row] = amount
        return Lower(freed, staying, least, count)
