"""core/v1 Affinity and TopologySpreadConstraint: where a pod wants to be, and beside whom."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cloudlink.kube.meta import LabelSelector, Many, Model, put

PreemptionPolicy = Literal["PreemptLowerPriority", "Never"]


class NodeSelectorRequirement(Model):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: Many[str] = ()


class NodeSelectorTerm(Model):
    """All of it must hold."""

    match_expressions: Many[NodeSelectorRequirement] = ()
    match_fields: Many[NodeSelectorRequirement] = ()


class NodeSelector(Model):
    """One of the terms must hold."""

    node_selector_terms: Many[NodeSelectorTerm]


class PreferredSchedulingTerm(Model):
    weight: int
    preference: NodeSelectorTerm


class NodeAffinity(Model):
    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: Many[PreferredSchedulingTerm] = ()


class PodAffinityTerm(Model):
    """:ivar topology_key: nodes with the same value of this label count as one place."""

    label_selector: LabelSelector | None = None
    topology_key: str = ""
    namespaces: Many[str] = ()
    namespace_selector: LabelSelector | None = None
    match_label_keys: Many[str] = ()
    mismatch_label_keys: Many[str] = ()


class WeightedPodAffinityTerm(Model):
    weight: int
    pod_affinity_term: PodAffinityTerm


class PodAffinity(Model):
    required_during_scheduling_ignored_during_execution: Many[PodAffinityTerm] = ()
    preferred_during_scheduling_ignored_during_execution: Many[WeightedPodAffinityTerm] = ()


class PodAntiAffinity(Model):
    required_during_scheduling_ignored_during_execution: Many[PodAffinityTerm] = ()
    preferred_during_scheduling_ignored_during_execution: Many[WeightedPodAffinityTerm] = ()


class Affinity(Model):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAntiAffinity | None = None


class TopologySpreadConstraint(Model):
    """:ivar max_skew: by how many the places may differ."""

    max_skew: int
    topology_key: str
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    node_taints_policy: Literal["Honor", "Ignore"] | None = None
    match_label_keys: Many[str] = Field(default=())


class PodReadinessGate(Model):
    """A condition of the pod's status that must be true, too, for the pod to be ready."""

    condition_type: str


class ContainerResizePolicy(Model):
    resource_name: Literal["cpu", "memory"]
    restart_policy: Literal["", "NotRequired", "RestartContainer"] = ""

    @model_validator(mode="after")
    def _no_restart(self) -> ContainerResizePolicy:
        if not self.restart_policy:
            put(self, restart_policy="NotRequired")
        return self
