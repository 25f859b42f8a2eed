"""Nobody gives away more than they have: what writing a role or a binding takes beyond being allowed to write it.

As kubernetes/pkg/registry/rbac/*/policybased: rights one has oneself, or the verbs `escalate` and `bind`. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudlink.hub.auth.rbac import Index
from cloudlink.hub.auth.requests import Request
from cloudlink.hub.auth.rules import described, missing, too_many
from cloudlink.hub.auth.users import MASTERS, User
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.rbac import GROUP, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef

_EVERYTHING = (
    PolicyRule(verbs=("*",), api_groups=("*",), resources=("*",)),
    PolicyRule(verbs=("*",), non_resource_urls=("*",)),
)
_MOST_TOLD = 20  # missing rights in one answer


def objection(index: Index, user: User, new: KubeObject, old: KubeObject | None) -> str:
    """Why this user may not write this object; "" if they may."""
    if MASTERS in user.groups:
        return ""
    match new:
        case Role() | ClusterRole():
            return _of_role(index, user, new, old)
        case RoleBinding() | ClusterRoleBinding():
            return _of_binding(index, user, new, old)
        case _:
            return ""


def _of_role(index: Index, user: User, new: Role | ClusterRole, old: KubeObject | None) -> str:
    aggregates = new.aggregation_rule if isinstance(new, ClusterRole) else None
    if isinstance(old, Role | ClusterRole):
        before = old.aggregation_rule if isinstance(old, ClusterRole) else None
        if (old.rules, before, *_told(old)) == (new.rules, aggregates, *_told(new)):
            return ""
    plural = "clusterroles" if isinstance(new, ClusterRole) else "roles"
    if _may(index, user, "escalate", plural, new.metadata.namespace, new.metadata.name):
        return ""
    owned = index.rules_for(user, new.metadata.namespace)
    if aggregates is not None and missing(owned, _EVERYTHING):
        return "must have cluster-admin privileges to use the aggregationRule"
    return _beyond(user, owned, new.rules)


def _of_binding(index: Index, user: User, new: RoleBinding | ClusterRoleBinding, old: KubeObject | None) -> str:
    if isinstance(old, RoleBinding | ClusterRoleBinding) and (old.role_ref, old.subjects) == (
        new.role_ref,
        new.subjects,
    ):
        return ""
    ref, namespace = new.role_ref, new.metadata.namespace
    plural = "clusterroles" if ref.kind == "ClusterRole" else "roles"
    if _may(index, user, "bind", plural, namespace, ref.name):
        return ""
    rules = index.rules_of(ref, namespace)
    if rules is None:
        return _no_such_role(ref)
    return _beyond(user, index.rules_for(user, namespace), rules)


def _told(obj: KubeObject) -> tuple[object, object]:
    """Of the metadata, what others go by: a label may make a role part of an aggregated one. What is left over, owners
    and finalizers, is the garbage collector's business."""
    return obj.metadata.labels, obj.metadata.annotations


def _may(index: Index, user: User, verb: str, plural: str, namespace: str, name: str) -> bool:
    request = Request(verb, group=GROUP, version="v1", resource=plural, namespace=namespace, name=name)
    return index.check(user, request).allowed


def _no_such_role(ref: RoleRef) -> str:
    plural = "clusterroles" if ref.kind == "ClusterRole" else "roles"
    return f'{plural}.{GROUP} "{ref.name}" not found: who may not `bind` can only bind a role that is there'


def _beyond(user: User, owned: Sequence[PolicyRule], wanted: Sequence[PolicyRule]) -> str:
    if too_many(wanted):
        return "the rules are too many to be compared with what you may do yourself; split the role"
    lacking = described(missing(owned, wanted))
    if not lacking:
        return ""
    groups = " ".join(f'"{g}"' for g in user.groups)
    told = "\n".join(lacking[:_MOST_TOLD])
    more = f"\nand {len(lacking) - _MOST_TOLD} more" if len(lacking) > _MOST_TOLD else ""
    who = f'user "{user.name}" (groups=[{groups}])'
    return f"{who} is attempting to grant RBAC permissions not currently held:\n{told}{more}"
