"""Columns of roles, bindings and ServiceAccounts (kubernetes/pkg/printers/internalversion/printers.go). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudlink.hub.api.table import AGE, NAME, Column, since
from cloudlink.kube.accounts import ServiceAccount
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.rbac import ClusterRole, ClusterRoleBinding, Role, RoleBinding


def _role(obj: Role | ClusterRole, now: float) -> Sequence[object]:
    return obj.metadata.name, obj.metadata.creation_timestamp


_ROLE = (NAME, Column("Created At"))


def _binding(obj: RoleBinding | ClusterRoleBinding, now: float) -> Sequence[object]:
    def named(kind: str) -> str:
        return ", ".join(s.name for s in obj.subjects if s.kind == kind)

    accounts = [f"{s.namespace or obj.metadata.namespace}/{s.name}" for s in obj.subjects if s.kind == "ServiceAccount"]
    return (
        obj.metadata.name,
        f"{obj.role_ref.kind}/{obj.role_ref.name}",
        since(obj.metadata.creation_timestamp, now),
        named("User"),
        named("Group"),
        ", ".join(accounts),
    )


_BINDING = (
    NAME,
    Column("Role"),
    AGE,
    *(Column(name, wide=True) for name in ("Users", "Groups", "ServiceAccounts")),
)


def _account(obj: ServiceAccount, now: float) -> Sequence[object]:
    return obj.metadata.name, len(obj.secrets), since(obj.metadata.creation_timestamp, now)


COLUMNS: Mapping[type[KubeObject], tuple[tuple[Column, ...], Any]] = {
    Role: (_ROLE, _role),
    ClusterRole: (_ROLE, _role),
    RoleBinding: (_BINDING, _binding),
    ClusterRoleBinding: (_BINDING, _binding),
    ServiceAccount: ((NAME, Column("Secrets", "integer"), AGE), _account),
}
