"""The roles and bindings that every hub begins with (plugin/pkg/auth/authorizer/rbac/bootstrappolicy). Pure.

`admin`, `edit` and `view` are put together from the roles that are labelled for them, so that whoever brings a kind of
their own can say who of these may do what with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cloudlink.hub.auth.requests import HUB_GROUP
from cloudlink.hub.auth.rules import missing
from cloudlink.hub.auth.users import AUTHENTICATED, MASTERS
from cloudlink.hub.changes import Create, ObjectChange, Update
from cloudlink.hub.controllers.access import aggregated
from cloudlink.kube.meta import LabelSelector, ObjectMeta
from cloudlink.kube.rbac import (
    GROUP,
    AggregationRule,
    ClusterRole,
    ClusterRoleBinding,
    PolicyRule,
    RoleRef,
    Subject,
)

AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"  # "false": this role is not to be mended at start
_DEFAULTS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_TO = "rbac.authorization.k8s.io/aggregate-to-"

READ = ("get", "list", "watch")
WRITE = ("create", "delete", "deletecollection", "patch", "update")


def _rule(verbs: Sequence[str], group: str, *resources: str) -> PolicyRule:
    return PolicyRule(verbs=tuple(verbs), api_groups=(group,), resources=resources)


def _urls(*urls: str) -> PolicyRule:
    return PolicyRule(verbs=("get",), non_resource_urls=urls)


def _role(name: str, *rules: PolicyRule, part_of: str = "", gathers: str = "") -> ClusterRole:
    labels = _DEFAULTS | ({f"{_TO}{part_of}": "true"} if part_of else {})
    meta = ObjectMeta(name=name, labels=labels, annotations={AUTOUPDATE: "true"})
    gathered = AggregationRule(cluster_role_selectors=(LabelSelector(match_labels={f"{_TO}{gathers}": "true"}),))
    return ClusterRole(metadata=meta, rules=rules, aggregation_rule=gathered if gathers else None)


def _binding(role: str, *groups: str) -> ClusterRoleBinding:
    meta = ObjectMeta(name=role, labels=_DEFAULTS, annotations={AUTOUPDATE: "true"})
    subjects = tuple(Subject(kind="Group", name=g) for g in groups)
    return ClusterRoleBinding(metadata=meta, subjects=subjects, role_ref=RoleRef(kind="ClusterRole", name=role))


# What is worked with, by API group; the same for who may read it and for who may write it.
_WORK: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "",
        (
            *("configmaps", "endpoints", "persistentvolumeclaims", "pods", "replicationcontrollers"),
            *("replicationcontrollers/scale", "serviceaccounts", "services"),
        ),
    ),
    (
        "apps",
        (
            *("daemonsets", "deployments", "deployments/scale", "replicasets", "replicasets/scale"),
            *("statefulsets", "statefulsets/scale"),
        ),
    ),
    ("autoscaling", ("horizontalpodautoscalers",)),
    ("batch", ("cronjobs", "jobs")),
    ("networking.k8s.io", ("ingresses", "networkpolicies")),
    ("policy", ("poddisruptionbudgets",)),
)
_STATUS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "",
        (
            *("bindings", "events", "limitranges", "namespaces", "namespaces/status", "persistentvolumeclaims/status"),
            *("pods/log", "pods/status", "replicationcontrollers/status", "resourcequotas", "resourcequotas/status"),
            "services/status",
        ),
    ),
    (
        "apps",
        (
            *("controllerrevisions", "daemonsets/status", "deployments/status", "replicasets/status"),
            "statefulsets/status",
        ),
    ),
    ("batch", ("cronjobs/status", "jobs/status")),
    ("discovery.k8s.io", ("endpointslices",)),
    ("metrics.k8s.io", ("pods", "nodes")),
    ("networking.k8s.io", ("ingresses/status",)),
    ("policy", ("poddisruptionbudgets/status",)),
)


def roles() -> tuple[ClusterRole, ...]:
    """`admin`, `edit` and `view` come without rules here; `aggregated` gives them theirs."""
    every = PolicyRule(verbs=("*",), api_groups=("*",), resources=("*",))
    return (
        _role("cluster-admin", every, PolicyRule(verbs=("*",), non_resource_urls=("*",))),
        _role("system:discovery", _urls("/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *_PUBLIC)),
        _role("system:public-info-viewer", _urls(*_PUBLIC)),
        _role(
            "system:basic-user",
            _rule(("create",), "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
            _rule(("create",), "authentication.k8s.io", "selfsubjectreviews"),
        ),
        _role("admin", gathers="admin"),
        _role("edit", part_of="admin", gathers="edit"),
        _role("view", part_of="edit", gathers="view"),
        _role(
            "system:aggregate-to-admin",
            _rule(("create",), "authorization.k8s.io", "localsubjectaccessreviews"),
            _rule((*READ, *WRITE), GROUP, "roles", "rolebindings"),
            part_of="admin",
        ),
        _role("system:aggregate-to-edit", *_edit(), part_of="edit"),
        _role("system:aggregate-to-view", *(_rule(READ, g, *r) for g, r in (*_WORK, *_STATUS)), part_of="view"),
        _role(
            "system:auth-delegator",
            _rule(("create",), "authentication.k8s.io", "tokenreviews"),
            _rule(("create",), "authorization.k8s.io", "subjectaccessreviews"),
        ),
        _role("edged:node-joiner", _rule(("create",), HUB_GROUP, "jointokens"), _rule(READ, "", "nodes")),
    )


_PUBLIC = ("/healthz", "/livez", "/readyz", "/version", "/version/")


def _edit() -> tuple[PolicyRule, ...]:
    return (
        _rule(READ, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
        _rule(("impersonate",), "", "serviceaccounts"),
        *(_rule(WRITE, group, *resources) for group, resources in _WORK),
        _rule(WRITE, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
        _rule(("create",), "", "pods/eviction", "serviceaccounts/token"),
        _rule(("create",), HUB_GROUP, "fits"),
        _rule(READ, "coordination.k8s.io", "leases"),
        _rule(WRITE, "coordination.k8s.io", "leases"),
    )


def bindings() -> tuple[ClusterRoleBinding, ...]:
    return (
        _binding("cluster-admin", MASTERS),
        _binding("system:discovery", AUTHENTICATED),
        _binding("system:public-info-viewer", AUTHENTICATED),
        _binding("system:basic-user", AUTHENTICATED),
    )


# ---------------------------------------------------------------- at the hub's start


def mend(there: Iterable[ClusterRole], bound: Iterable[ClusterRoleBinding]) -> list[ObjectChange]:
    """What has to be written so that all of the above is there.

    To what is there and may be mended, only what it lacks is added: rules and subjects that people gave stay.
    """
    held = {r.metadata.name: r for r in there}
    changes: list[ObjectChange] = []
    for role in roles():
        old = held.get(role.metadata.name)
        if old is None:
            held[role.metadata.name] = role
        elif _may_be_mended(old.metadata):
            held[role.metadata.name] = _with_rules(old, role)
    fresh = {r.metadata.name for r in roles()} - {r.metadata.name for r in there}
    for _ in range(3):  # admin gathers edit, which gathers view
        held = {name: aggregated(role, held.values()) for name, role in held.items()}
    changes += [Create(held[r.metadata.name]) for r in roles() if r.metadata.name in fresh]
    changes += [Update(new) for old in there if (new := held[old.metadata.name]) != old]
    of_bindings = {b.metadata.name: b for b in bound}
    for binding in bindings():
        old_binding = of_bindings.get(binding.metadata.name)
        if old_binding is None:
            changes.append(Create(binding))
        elif _may_be_mended(old_binding.metadata):
            lacking = tuple(s for s in binding.subjects if s not in old_binding.subjects)
            if lacking:
                subjects = (*old_binding.subjects, *lacking)
                changes.append(Update(old_binding.model_copy(update={"subjects": subjects})))
    return changes


def _may_be_mended(meta: ObjectMeta) -> bool:
    return meta.annotations.get(AUTOUPDATE) == "true"


def _with_rules(old: ClusterRole, wanted: ClusterRole) -> ClusterRole:
    lacking = tuple(rule for rule in wanted.rules if missing(old.rules, [rule]))
    labels = old.metadata.labels | wanted.metadata.labels
    meta = old.metadata.model_copy(update={"labels": labels})
    gathered = old.aggregation_rule or wanted.aggregation_rule
    return old.model_copy(update={"metadata": meta, "rules": (*old.rules, *lacking), "aggregation_rule": gathered})
