"""core/v1 LimitRange and ResourceQuota: how much a namespace may ask for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cloudlink.kube.meta import KubeObject, Many, Model, Report, ResourceList, put


class LimitRangeItem(Model):
    """:ivar type: Container, Pod or PersistentVolumeClaim: what each value is about.
    :ivar default: limits of containers that say none; `defaultRequest` their requests.
    """

    type: str
    max: ResourceList = Field(default={})
    min: ResourceList = Field(default={})
    default: ResourceList = Field(default={})
    default_request: ResourceList = Field(default={})
    max_limit_request_ratio: ResourceList = Field(default={})

    @model_validator(mode="after")
    def _defaults_of_containers(self) -> LimitRangeItem:
        """SetDefaults_LimitRangeItem: who names only a maximum or a minimum means it as the default, too."""
        if self.type == "Container":
            default = self.max | self.default
            put(self, default=default, default_request=self.min | default | self.default_request)
        return self


class LimitRangeSpec(Model):
    limits: Many[LimitRangeItem] = ()


class LimitRange(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["LimitRange"] = "LimitRange"
    spec: LimitRangeSpec = LimitRangeSpec()


class ScopedResourceSelectorRequirement(Model):
    scope_name: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Many[str] = ()


class ScopeSelector(Model):
    match_expressions: Many[ScopedResourceSelectorRequirement] = ()


class ResourceQuotaSpec(Model):
    """:ivar hard: such as `requests.memory: 2Gi`, `pods: "10"`, `count/jobs.batch: "5"`."""

    hard: ResourceList = Field(default={})
    scopes: Many[str] = ()
    scope_selector: ScopeSelector | None = None


class ResourceQuotaStatus(Report):
    hard: ResourceList = Field(default={})
    used: ResourceList = Field(default={})


class ResourceQuota(KubeObject):
    api_version: Literal["v1"] = "v1"
    kind: Literal["ResourceQuota"] = "ResourceQuota"
    spec: ResourceQuotaSpec = ResourceQuotaSpec()
    status: ResourceQuotaStatus = ResourceQuotaStatus()
