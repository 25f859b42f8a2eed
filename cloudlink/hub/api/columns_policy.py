"""Columns of what bounds others: quotas, limits, budgets, priorities; and of Leases. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudlink.hub.api.table import AGE, NAME, Column, since
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.policy import PodDisruptionBudget
from cloudlink.kube.quotas import LimitRange, ResourceQuota
from cloudlink.kube.scheduling import Lease, PriorityClass

_NOT_SET = "N/A"


def _budget(obj: PodDisruptionBudget, now: float) -> Sequence[object]:
    spec = obj.spec
    return (
        obj.metadata.name,
        _NOT_SET if spec.min_available is None else str(spec.min_available),
        _NOT_SET if spec.max_unavailable is None else str(spec.max_unavailable),
        obj.status.disruptions_allowed,
        since(obj.metadata.creation_timestamp, now),
    )


def _quota(obj: ResourceQuota, now: float) -> Sequence[object]:
    requests: list[str] = []
    limits: list[str] = []
    for name, hard in sorted(obj.status.hard.items()):
        column = limits if name.startswith("limits.") else requests
        column.append(f"{name}: {obj.status.used.get(name, '0')}/{hard}")
    return obj.metadata.name, ", ".join(requests), ", ".join(limits), since(obj.metadata.creation_timestamp, now)


def _limit_range(obj: LimitRange, now: float) -> Sequence[object]:
    return obj.metadata.name, obj.metadata.creation_timestamp


def _priority_class(obj: PriorityClass, now: float) -> Sequence[object]:
    return (
        obj.metadata.name,
        obj.value,
        obj.global_default,
        since(obj.metadata.creation_timestamp, now),
        obj.preemption_policy or "",
    )


def _lease(obj: Lease, now: float) -> Sequence[object]:
    return obj.metadata.name, obj.spec.holder_identity or "", since(obj.metadata.creation_timestamp, now)


COLUMNS: Mapping[type[KubeObject], tuple[tuple[Column, ...], Any]] = {
    PodDisruptionBudget: (
        (
            NAME,
            Column("Min Available"),
            Column("Max Unavailable"),
            Column("Allowed Disruptions", "integer"),
            AGE,
        ),
        _budget,
    ),
    ResourceQuota: ((NAME, Column("Request"), Column("Limit"), AGE), _quota),
    LimitRange: ((NAME, Column("Created At")), _limit_range),
    PriorityClass: (
        (NAME, Column("Value", "integer"), Column("Global-Default", "boolean"), AGE, Column("PreemptionPolicy")),
        _priority_class,
    ),
    Lease: ((NAME, Column("Holder"), AGE), _lease),
}
