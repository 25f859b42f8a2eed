"""apps/v1: Deployment, ReplicaSet, DaemonSet, StatefulSet, ControllerRevision."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from cloudlink.kube.claims import PersistentVolumeClaim
from cloudlink.kube.meta import Condition, IntOrString, KubeObject, LabelSelector, Many, Model, Report, put
from cloudlink.kube.pod import PodTemplateSpec
from cloudlink.kube.raw import JsonObject


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
    always: ClassVar = frozenset()

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
    always: ClassVar = frozenset({"replicas"})

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


# ---------------------------------------------------------------- DaemonSet


class RollingUpdateDaemonSet(Model):
    """How many nodes may be without their pod, or have two, while it is replaced: a count, or a percentage of them."""

    max_unavailable: IntOrString = 1
    max_surge: IntOrString = 0


class DaemonSetUpdateStrategy(Model):
    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    rolling_update: RollingUpdateDaemonSet | None = None

    @model_validator(mode="after")
    def _rolling_update_has_numbers(self) -> DaemonSetUpdateStrategy:
        if self.type == "RollingUpdate" and self.rolling_update is None:
            put(self, rolling_update=RollingUpdateDaemonSet())
        return self


class DaemonSetSpec(Model):
    selector: LabelSelector
    template: PodTemplateSpec
    update_strategy: DaemonSetUpdateStrategy = DaemonSetUpdateStrategy()
    min_ready_seconds: int = 0
    revision_history_limit: int = 10


class DaemonSetStatus(Report):
    always: ClassVar = frozenset(
        {"current_number_scheduled", "desired_number_scheduled", "number_misscheduled", "number_ready"}
    )

    current_number_scheduled: int = 0
    number_misscheduled: int = 0
    desired_number_scheduled: int = 0
    number_ready: int = 0
    observed_generation: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    number_unavailable: int = 0
    collision_count: int | None = None
    conditions: Many[Condition] = ()


class DaemonSet(KubeObject):
    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["DaemonSet"] = "DaemonSet"
    spec: DaemonSetSpec
    status: DaemonSetStatus = DaemonSetStatus()


# ---------------------------------------------------------------- StatefulSet


class RollingUpdateStatefulSet(Model):
    """:ivar partition: pods with a lower ordinal keep the revision that they have.
    :ivar max_unavailable: a count, or a percentage of `replicas`.
    """

    partition: int = 0
    max_unavailable: IntOrString | None = None


class StatefulSetUpdateStrategy(Model):
    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    rolling_update: RollingUpdateStatefulSet | None = None

    @model_validator(mode="after")
    def _rolling_update_has_numbers(self) -> StatefulSetUpdateStrategy:
        if self.type == "RollingUpdate" and self.rolling_update is None:
            put(self, rolling_update=RollingUpdateStatefulSet())
        return self


class StatefulSetPersistentVolumeClaimRetentionPolicy(Model):
    """What becomes of the claims made from `volumeClaimTemplates`."""

    when_deleted: Literal["Retain", "Delete"] = "Retain"
    when_scaled: Literal["Retain", "Delete"] = "Retain"


class StatefulSetOrdinals(Model):
    """The number of the first pod."""

    start: int = 0


class StatefulSetSpec(Model):
    """:ivar service_name: the headless Service that gives the pods their names."""

    selector: LabelSelector
    template: PodTemplateSpec
    service_name: str = ""
    replicas: int = 1
    volume_claim_templates: Many[PersistentVolumeClaim] = ()
    pod_management_policy: Literal["OrderedReady", "Parallel"] = "OrderedReady"
    update_strategy: StatefulSetUpdateStrategy = StatefulSetUpdateStrategy()
    min_ready_seconds: int = 0
    revision_history_limit: int = 10
    persistent_volume_claim_retention_policy: StatefulSetPersistentVolumeClaimRetentionPolicy = (
        StatefulSetPersistentVolumeClaimRetentionPolicy()
    )
    ordinals: StatefulSetOrdinals | None = None


class StatefulSetStatus(Report):
    always: ClassVar = frozenset({"replicas"})

    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    current_replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    collision_count: int | None = None
    conditions: Many[Condition] = ()


class StatefulSet(KubeObject):
    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["StatefulSet"] = "StatefulSet"
    spec: StatefulSetSpec
    status: StatefulSetStatus = StatefulSetStatus()


# ---------------------------------------------------------------- ControllerRevision


class ControllerRevision(KubeObject):
    """One state that a DaemonSet or StatefulSet has been in. `data` is the controller's own; it never changes."""

    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["ControllerRevision"] = "ControllerRevision"
    revision: int
    data: JsonObject = Field(default={})
