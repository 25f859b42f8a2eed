"""How many pods PodDisruptionBudgets let go, while it is being decided who goes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cloudlink.hub.schedule.fleet import Tenant
from cloudlink.hub.schedule.wants import selector_of
from cloudlink.kube.policy import PodDisruptionBudget


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

    def spend(self, tenants: Iterable[Tenant]) -> bool:
        """Whether any of them counts."""
        spent = [i for tenant in tenants for i in self.of(tenant)]
        for i in spent:
            self._left[i] -= 1
        return bool(spent)
