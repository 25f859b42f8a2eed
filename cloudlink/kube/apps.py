"""apps/v1: Deployment and ReplicaSet."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cloudlink.kube.meta import Condition, IntOrString, KubeObject, LabelSelector, Many, Model, Report, put
from cloudlink.kube.pod import PodTemplateSpec


class RollingUpdate(Model):
    """How many pods may be too many or too few during a rollout: a count, or a percentage of `replicas`."""

    max_surge: IntOrString = "25%"
    max_unavailable: IntOrString = "25%"


class DeploymentStrategy(Model):
    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: RollingUpdate | None = None

    @model_validator(mode="after")
    def _rolling_update_has_numbers(self) -> DeploymentStrategy:
        if self.type == "RollingUpdate" and self.rolling_update is None:
            put(self, rolling_update=RollingUpdate())
        return self


class DeploymentSpec(Model):
    selector: LabelSelector
    template: PodTemplateSpec
    replicas: int = 1
    strategy: DeploymentStrategy = DeploymentStrategy()
    min_ready_seconds: int = 0
    revision_history_limit: int = 10
    progress_deadline_seconds: int = 600
    paused: bool = False


class DeploymentCondition(Condition):
    last_update_time: str = ""


class DeploymentStatus(Report):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    collision_count: int | None = None
    conditions: Many[DeploymentCondition] = ()


class Deployment(KubeObject):
    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["Deployment"] = "Deployment"
    spec: DeploymentSpec
    status: DeploymentStatus = DeploymentStatus()


class ReplicaSetSpec(Model):
    selector: LabelSelector
    template: PodTemplateSpec
    replicas: int = 1
    min_ready_seconds: int = 0


class ReplicaSetStatus(Report):
    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    observed_generation: int = 0
    conditions: Many[Condition] = ()


class ReplicaSet(KubeObject):
    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["ReplicaSet"] = "ReplicaSet"
    spec: ReplicaSetSpec
    status: ReplicaSetStatus = ReplicaSetStatus()
