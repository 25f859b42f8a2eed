"""ClusterRoles that gather the rules of others, and the ServiceAccount that every namespace has."""

from __future__ import annotations

from collections.abc import Iterable

from cloudlink.hub.changes import Create, Update
from cloudlink.hub.decision import Decision
from cloudlink.hub.objects import is_deleted
from cloudlink.kube.accounts import ServiceAccount
from cloudlink.kube.core import Namespace
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.rbac import ClusterRole, PolicyRule

DEFAULT_ACCOUNT = "default"


def aggregated(role: ClusterRole, every: Iterable[ClusterRole]) -> ClusterRole:
    """The role with the rules that its aggregationRule gathers, each once, by the names of the roles they come from;
    itself where it gathers none or has them already."""
    if role.aggregation_rule is None:
        return role
    by_name = sorted(every, key=lambda r: r.metadata.name)
    rules: dict[PolicyRule, None] = {}
    for selector in role.aggregation_rule.cluster_role_selectors:
        for other in by_name:
            if other.metadata.name != role.metadata.name and selector.matches(other.metadata.labels):
                rules |= dict.fromkeys(other.rules)
    gathered = tuple(rules)
    return role if gathered == role.rules else role.model_copy(update={"rules": gathered})


def gathering(role: ClusterRole, every: Iterable[ClusterRole]) -> Decision:
    """What to write so that the role has what it gathers; those that gather from it look again then."""
    made = aggregated(role, every)
    if made is role or is_deleted(role):
        return Decision()
    return Decision((Update(made, role.metadata.resource_version),))


def default_account(namespace: Namespace, exists: bool) -> Decision:
    """Pods that name no account of their own act as this one; who deletes it gets a new one."""
    if exists or is_deleted(namespace):
        return Decision()
    meta = ObjectMeta(name=DEFAULT_ACCOUNT, namespace=namespace.metadata.name)
    return Decision((Create(ServiceAccount(metadata=meta)),))
