"""rbac.authorization.k8s.io/v1: Role, ClusterRole and their bindings."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from cloudlink.kube.meta import KubeObject, LabelSelector, Many, Model, put

GROUP = "rbac.authorization.k8s.io"


class PolicyRule(Model):
    """What may be done (`verbs`) to which resources, or to which paths; never both in one rule.

    :ivar resources: plurals, `plural/subresource`, `*/subresource` or `*`.
    :ivar resource_names: the only objects meant; empty = all.
    :ivar non_resource_urls: paths, `*` at the end stands for the rest.
    """

    always: ClassVar = frozenset({"verbs"})

    verbs: Many[str] = ()
    api_groups: Many[str] = ()
    resources: Many[str] = ()
    resource_names: Many[str] = ()
    non_resource_urls: Many[str] = ()


class AggregationRule(Model):
    """The role's rules are those of all ClusterRoles that any of these selectors chooses."""

    cluster_role_selectors: Many[LabelSelector] = ()


class Role(KubeObject):
    api_version: Literal["rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io/v1"
    kind: Literal["Role"] = "Role"
    rules: Many[PolicyRule] = ()


class ClusterRole(KubeObject):
    api_version: Literal["rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io/v1"
    kind: Literal["ClusterRole"] = "ClusterRole"
    rules: Many[PolicyRule] = ()
    aggregation_rule: AggregationRule | None = None


class RoleRef(Model):
    """The role that a binding gives. It can't be changed: make the binding anew."""

    api_group: str = GROUP
    kind: str = ""
    name: str = ""


class Subject(Model):
    """Who gets it. A ServiceAccount without a namespace is one of the binding's own."""

    kind: str = ""
    api_group: str = ""
    name: str = ""
    namespace: str = ""

    @model_validator(mode="after")
    def _users_and_groups_have_a_group(self) -> Subject:
        if self.kind in ("User", "Group") and not self.api_group:
            put(self, api_group=GROUP)
        return self


class RoleBinding(KubeObject):
    api_version: Literal["rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io/v1"
    kind: Literal["RoleBinding"] = "RoleBinding"
    subjects: Many[Subject] = ()
    role_ref: RoleRef


class ClusterRoleBinding(KubeObject):
    api_version: Literal["rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io/v1"
    kind: Literal["ClusterRoleBinding"] = "ClusterRoleBinding"
    subjects: Many[Subject] = ()
    role_ref: RoleRef
