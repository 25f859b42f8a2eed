"""core/v1 ReplicationController: what ReplicaSets were before they had set-based selectors."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from cloudlink.kube.meta import Condition, KubeObject, Many, Model, Report, StringMap, put
from cloudlink.kube.pod import PodTemplateSpec


class ReplicationControllerSpec(Model):
    """:ivar selector: the template's labels where nothing is said."""

    template: PodTemplateSpec
    selector: StringMap = Field(default={})
    replicas: int = 1
    min_ready_seconds: int = 0


class ReplicationControllerStatus(Report):
    always: ClassVar = frozenset({"replicas"})

    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    observed_generation: int = 0
    conditions: Many[Condition] = ()


class ReplicationController(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["ReplicationController"] = "ReplicationController"
    spec: ReplicationControllerSpec
    status: ReplicationControllerStatus = ReplicationControllerStatus()

    @model_validator(mode="after")
    def _labels_of_the_template(self) -> ReplicationController:
        """SetDefaults_ReplicationController."""
        labels = self.spec.template.metadata.labels
        if labels and not self.spec.selector:
            put(self.spec, selector=dict(labels))
        if labels and not self.metadata.labels:
            put(self, metadata=self.metadata.model_copy(update={"labels": dict(labels)}))
        return self
