"""policy/v1 PodDisruptionBudget: how many pods may be away on purpose at the same time."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cloudlink.kube.meta import Condition, IntOrString, KubeObject, LabelSelector, Many, Model, Report, StringMap


class PodDisruptionBudgetSpec(Model):
    """:ivar min_available: a count, or a percentage of the pods; `maxUnavailable` likewise. One of the two.
    :ivar selector: `{}` selects every pod of the namespace, no selector at all selects none.
    """

    min_available: IntOrString | None = None
    max_unavailable: IntOrString | None = None
    selector: LabelSelector | None = None
    unhealthy_pod_eviction_policy: Literal["IfHealthyBudget", "AlwaysAllow"] | None = None


class PodDisruptionBudgetStatus(Report):
    always: ClassVar = frozenset({"current_healthy", "desired_healthy", "disruptions_allowed", "expected_pods"})

    observed_generation: int = 0
    disrupted_pods: StringMap = Field(default={})
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    conditions: Many[Condition] = ()


class PodDisruptionBudget(KubeObject):
    api_version: Literal["policy/v1"] = "policy/v1"
    kind: Literal["PodDisruptionBudget"] = "PodDisruptionBudget"
    spec: PodDisruptionBudgetSpec = PodDisruptionBudgetSpec()
    status: PodDisruptionBudgetStatus = PodDisruptionBudgetStatus()
