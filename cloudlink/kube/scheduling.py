"""scheduling.k8s.io/v1 PriorityClass, and coordination.k8s.io/v1 Lease."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cloudlink.kube.affinity import PreemptionPolicy
from cloudlink.kube.meta import KubeObject, Model, ObjectMeta, put

SYSTEM_PREFIX = "system-"  # of names that people can't take
HIGHEST_USER_PRIORITY = 1_000_000_000


class PriorityClass(KubeObject):
    """:ivar value: pods of a higher one are placed first and evicted last.
    :ivar global_default: pods that name no class get this one.
    """

    api_version: Literal["scheduling.k8s.io/v1"] = "scheduling.k8s.io/v1"
    kind: Literal["PriorityClass"] = "PriorityClass"
    value: int
    global_default: bool = False
    description: str = ""
    preemption_policy: PreemptionPolicy | None = None

    @model_validator(mode="after")
    def _preempts_by_default(self) -> PriorityClass:
        if self.preemption_policy is None:
            put(self, preemption_policy="PreemptLowerPriority")
        return self


def _system(name: str, value: int, what: str) -> PriorityClass:
    description = f"Used for system critical pods that must {what}."
    return PriorityClass(metadata=ObjectMeta(name=name), value=value, description=description)


# Every cluster has these two.
SYSTEM_CLASSES: tuple[PriorityClass, ...] = (
    _system(
        "system-cluster-critical",
        2 * HIGHEST_USER_PRIORITY,
        "run in the cluster, but can be moved to another node if necessary",
    ),
    _system("system-node-critical", 2 * HIGHEST_USER_PRIORITY + 1000, "not be moved from their current node"),
)


class LeaseSpec(Model):
    """Times are RFC 3339 with microseconds (metav1.MicroTime)."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str = ""
    renew_time: str = ""
    lease_transitions: int | None = None
    strategy: str | None = None
    preferred_holder: str | None = None


class Lease(KubeObject):
    api_version: Literal["coordination.k8s.io/v1"] = "coordination.k8s.io/v1"
    kind: Literal["Lease"] = "Lease"
    spec: LeaseSpec = LeaseSpec()
