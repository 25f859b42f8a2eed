"""Roles and bindings as an index, so that a question costs microseconds however many bindings there are. Pure.

What a user may do is the sum of the rules of every role that is bound to them or to one of their groups: in the whole
cluster, and in the namespace of the request. There is no rule that forbids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cloudlink.hub.auth.requests import Request
from cloudlink.hub.auth.rules import Rule
from cloudlink.hub.auth.users import MASTERS, User, account_name
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.rbac import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject

KINDS = frozenset({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})

Binding = RoleBinding | ClusterRoleBinding
_Key = tuple[str, str]  # namespace ("" = the whole cluster), name
_Who = tuple[bool, str]  # whether it is a group, name


@dataclass(frozen=True, slots=True)
class Verdict:
    """:ivar reason: why it is allowed; or, where it isn't, what stood in the way of knowing better. Often ""."""

    allowed: bool
    reason: str = ""


class Index:
    """Roles by name, bindings by subject. Say `put` and `drop` as the objects come and go."""

    def __init__(self) -> None:
        self._roles: dict[_Key, tuple[tuple[PolicyRule, ...], tuple[Rule, ...]]] = {}
        self._there: dict[_Key, Binding] = {}
        self._bound: dict[str, dict[_Who, dict[str, Binding]]] = {}  # namespace -> who -> binding's name -> binding

    # ------------------------------------------------------------ keeping up

    def put(self, obj: KubeObject) -> None:
        self.drop(obj)
        match obj:
            case Role() | ClusterRole():
                self._roles[_key(obj)] = obj.rules, tuple(map(Rule.of, obj.rules))
            case RoleBinding() | ClusterRoleBinding():
                self._there[_key(obj)] = obj
                of_namespace = self._bound.setdefault(obj.metadata.namespace, {})
                for who in _subjects(obj):
                    of_namespace.setdefault(who, {})[obj.metadata.name] = obj
            case _:
                pass

    def drop(self, obj: KubeObject) -> None:
        """Harmless where it isn't there."""
        match obj:
            case Role() | ClusterRole():
                self._roles.pop(_key(obj), None)
            case RoleBinding() | ClusterRoleBinding():
                there = self._there.pop(_key(obj), None)
                if there is not None:
                    self._unbind(there)
            case _:
                pass

    def _unbind(self, binding: Binding) -> None:
        namespace = binding.metadata.namespace
        of_namespace = self._bound.get(namespace, {})  # a binding may name nobody
        for who in _subjects(binding):
            bindings = of_namespace.get(who, {})
            bindings.pop(binding.metadata.name, None)
            if not bindings:
                of_namespace.pop(who, None)
        if not of_namespace:
            self._bound.pop(namespace, None)

    # ------------------------------------------------------------ asking

    def check(self, user: User, request: Request) -> Verdict:
        if MASTERS in user.groups:
            return Verdict(True)
        lost = ""
        for binding, who in self._bindings(user, request.namespace):
            role = self._role(binding.role_ref, binding.metadata.namespace)
            if role is None:
                lost = lost or _lost(binding)
                continue
            for rule in role[1]:
                if rule.allows(request):
                    return Verdict(True, f"RBAC: allowed by {_told(binding, who)}")
        return Verdict(False, lost)

    def rules_for(self, user: User, namespace: str) -> list[PolicyRule]:
        """All that a user may do in a namespace, and with "" in all of them. Nothing is said of MASTERS here."""
        found: list[PolicyRule] = []
        for binding, _ in self._bindings(user, namespace):
            role = self._role(binding.role_ref, binding.metadata.namespace)
            found += role[0] if role is not None else ()
        return found

    def rules_of(self, ref: RoleRef, namespace: str) -> tuple[PolicyRule, ...] | None:
        """The rules of the role that a binding in this namespace speaks of; None where there is none."""
        role = self._role(ref, namespace)
        return role[0] if role is not None else None

    def _role(self, ref: RoleRef, namespace: str) -> tuple[tuple[PolicyRule, ...], tuple[Rule, ...]] | None:
        return self._roles.get(("" if ref.kind == "ClusterRole" else namespace, ref.name))

    def _bindings(self, user: User, namespace: str) -> Iterator[tuple[Binding, _Who]]:
        """Each binding that gives this user something, and as what. One may come twice, for two groups."""
        for place in ("", namespace) if namespace else ("",):
            of_namespace = self._bound.get(place)
            if of_namespace is None:
                continue
            for who in ((False, user.name), *((True, g) for g in user.groups)):
                for binding in of_namespace.get(who, {}).values():
                    yield binding, who


def _key(obj: KubeObject) -> _Key:
    return obj.metadata.namespace, obj.metadata.name


def _subjects(binding: Binding) -> Iterator[_Who]:
    for subject in binding.subjects:
        if who := _who(subject, binding.metadata.namespace):
            yield who


def _who(subject: Subject, namespace: str) -> _Who | None:
    if subject.kind == "ServiceAccount":
        home = subject.namespace or namespace
        return (False, account_name(home, subject.name)) if home else None
    return (subject.kind == "Group", subject.name)


def _lost(binding: Binding) -> str:
    ref = binding.role_ref
    plural = "clusterrole" if ref.kind == "ClusterRole" else "role"
    return f'RBAC: {plural}.rbac.authorization.k8s.io "{ref.name}" not found'


def _told(binding: Binding, who: _Who) -> str:
    """Kubernetes' words, so that tools that read audit logs understand them."""
    meta, ref = binding.metadata, binding.role_ref
    title = f"{meta.name}/{meta.namespace}" if meta.namespace else meta.name
    subject = next(s for s in binding.subjects if _who(s, meta.namespace) == who)
    name = subject.name
    if subject.kind == "ServiceAccount":
        name = f"{subject.name}/{subject.namespace or meta.namespace}"
    return f'{binding.kind} "{title}" of {ref.kind} "{ref.name}" to {subject.kind} "{name}"'
