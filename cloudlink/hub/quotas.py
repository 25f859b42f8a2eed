"""ResourceQuotas: how much the objects of a namespace may use together. Pure.

After Kubernetes' pkg/quota/v1 and plugin/pkg/admission/resourcequota, whose words its users know. There a creation
writes the quota's status first; here both are one commit, so that used and there never differ, and two hubs that make
objects at once can't both have the last of it (the second one's commit conflicts, and is worked out again).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction

from cloudlink.hub.changes import UpdateStatus
from cloudlink.hub.errors import Forbidden
from cloudlink.hub.limits import shown
from cloudlink.hub.objects import is_finished, seconds
from cloudlink.kube.catalogue import Catalogue
from cloudlink.kube.claims import STORAGE_CLASS, PersistentVolumeClaim
from cloudlink.kube.container import DEVICE_PREFIX, Container
from cloudlink.kube.core import Service
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.pod import Pod, effective
from cloudlink.kube.quantity import exact
from cloudlink.kube.quotas import ResourceQuota, ResourceQuotaStatus

Amounts = dict[str, Fraction]
# Gives the objects of a kind in a namespace, as Store.list.
Listed = Callable[[str, str], Iterable[KubeObject]]

_NANO = 10**9
_MUST_SAY = ("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
_OF_CLASSES = ".storageclass.storage.k8s.io/"
_BY_OLD_NAME = frozenset({"configmaps", "secrets", "replicationcontrollers", "resourcequotas"})

# ---------------------------------------------------------------- what an object uses


def usage(obj: KubeObject, plural: str, group: str, now: float) -> Amounts:
    """What one object counts for, by the names that quotas have for it.

    :param plural, group: of its kind: ("jobs", "batch").
    :param now: seconds since 1970; a pod that should have ended by then counts no longer, whatever its node says.
    """
    used = {f"count/{plural}.{group}" if group else f"count/{plural}": Fraction(1)}
    if not group and plural in _BY_OLD_NAME:
        used[plural] = Fraction(1)
    match obj:
        case Pod() if not is_finished(obj) and not _is_overdue(obj, now):
            used |= _of_pod(obj)
        case Service(spec=spec):
            used["services"] = Fraction(1)
            ports = len(spec.ports) if spec.type in ("NodePort", "LoadBalancer") else 0
            used |= {"services.nodeports": Fraction(ports)} if ports else {}
            used |= {"services.loadbalancers": Fraction(1)} if spec.type == "LoadBalancer" else {}
        case PersistentVolumeClaim(spec=spec):
            size = exact(spec.resources.requests.get("storage", "0"))
            of_class = (spec.storage_class_name or STORAGE_CLASS) + _OF_CLASSES
            used |= {"persistentvolumeclaims": Fraction(1), "requests.storage": size}
            used |= {f"{of_class}persistentvolumeclaims": Fraction(1), f"{of_class}requests.storage": size}
    return used


def _is_overdue(pod: Pod, now: float) -> bool:
    return bool(pod.metadata.deletion_timestamp) and seconds(pod.metadata.deletion_timestamp) < now


def _of_pod(pod: Pod) -> Amounts:
    spec = pod.spec
    containers = (*spec.init_containers, *spec.containers)
    used = {"pods": Fraction(1)}

    def together(part: Callable[[Container], Mapping[str, str]], name: str) -> Fraction:
        return Fraction(effective(spec, lambda c: int(exact(part(c).get(name, "0")) * _NANO)), _NANO)

    for name in {n for c in containers for n in c.resources.requests}:
        amount = together(lambda c: c.resources.requests, name)
        used[f"requests.{name}"] = amount
        if not name.startswith(DEVICE_PREFIX):
            used[name] = amount
    for name in {n for c in containers for n in c.resources.limits if not n.startswith(DEVICE_PREFIX)}:
        used[f"limits.{name}"] = together(lambda c: c.resources.limits, name)
    return used


# ---------------------------------------------------------------- which quotas are concerned


def concerns(quota: ResourceQuota, obj: KubeObject) -> bool:
    """Whether an object is within a quota's scopes; only pods are in any."""
    selector = quota.spec.scope_selector
    terms: list[tuple[str, str, tuple[str, ...]]] = [(scope, "Exists", ()) for scope in quota.spec.scopes]
    terms += [(t.scope_name, t.operator, t.values) for t in selector.match_expressions] if selector else []
    if not terms:
        return True
    return isinstance(obj, Pod) and all(_in_scope(obj, *term) for term in terms)


def _in_scope(pod: Pod, scope: str, operator: str, values: tuple[str, ...]) -> bool:
    spec = pod.spec
    match scope:
        case "Terminating":
            return spec.active_deadline_seconds is not None
        case "NotTerminating":
            return spec.active_deadline_seconds is None
        case "BestEffort":
            return _is_best_effort(pod)
        case "NotBestEffort":
            return not _is_best_effort(pod)
        case "PriorityClass":
            name = spec.priority_class_name
            answers = {
                "In": name in values,
                "NotIn": name not in values,
                "Exists": bool(name),
                "DoesNotExist": not name,
            }
            return answers[operator]
        case "CrossNamespacePodAffinity":
            return _looks_elsewhere(pod)
    return False


def _is_best_effort(pod: Pod) -> bool:
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    return not any(exact(q) for c in containers for n, q in c.resources.requests.items() if n in ("cpu", "memory"))


def _looks_elsewhere(pod: Pod) -> bool:
    affinity = pod.spec.affinity
    parts = (affinity.pod_affinity, affinity.pod_anti_affinity) if affinity else ()
    terms = [t for part in parts if part for t in part.required_during_scheduling_ignored_during_execution]
    terms += [
        t.pod_affinity_term for part in parts if part for t in part.preferred_during_scheduling_ignored_during_execution
    ]
    return any(t.namespaces or t.namespace_selector is not None for t in terms)


def kinds(quota: ResourceQuota, catalogue: Catalogue) -> set[str]:
    """Keys of the kinds that a quota counts."""
    plurals = {f"{r.plural}.{r.group}" if r.group else r.plural: r.key for r in catalogue.resources}
    return {key for name in quota.spec.hard if (key := _kind(name, plurals))}


def _kind(name: str, plurals: Mapping[str, str]) -> str:
    if name.startswith("count/"):
        return plurals.get(name.removeprefix("count/"), "")
    if name in _BY_OLD_NAME:
        return plurals[name]
    if name.startswith("services"):
        return "Service"
    if name in ("persistentvolumeclaims", "requests.storage") or _OF_CLASSES in name:
        return "PersistentVolumeClaim"
    return "Pod"


# ---------------------------------------------------------------- counting and charging


def count(quota: ResourceQuota, listed: Listed, catalogue: Catalogue, now: float) -> Amounts:
    """What the objects that are there use of what a quota bounds."""
    used = dict.fromkeys(quota.spec.hard, Fraction(0))
    for key in sorted(kinds(quota, catalogue)):
        resource = catalogue.by_key(key)
        if resource is None:
            continue
        for obj in listed(key, quota.metadata.namespace):
            if concerns(quota, obj):
                _add(used, usage(obj, resource.plural, resource.group, now))
    return used


def with_used(quota: ResourceQuota, used: Amounts) -> ResourceQuota:
    """The quota, saying so."""
    shown_used = {name: shown(name, amount) for name, amount in sorted(used.items())}
    return quota.model_copy(update={"status": ResourceQuotaStatus(hard=quota.spec.hard, used=shown_used)})


class Ledger:
    """The quotas while objects are made, one after the other, for one commit."""

    def __init__(
        self, quotas: Callable[[str], Iterable[ResourceQuota]], listed: Listed, catalogue: Catalogue, now: float
    ) -> None:
        self._quotas, self._listed, self._catalogue, self._now = quotas, listed, catalogue, now
        self._open: dict[str, list[tuple[ResourceQuota, Amounts]]] = {}
        self._charged: dict[tuple[str, str], ResourceQuota] = {}

    def charge(self, obj: KubeObject, before: KubeObject | None = None) -> None:
        """Count a new object, or what an object needs more than before.

        :raises Forbidden: a quota has no room for it, or needs it to say what it uses; nothing was counted then.
        """
        concerned = [(q, used) for q, used in self._of(obj.metadata.namespace) if concerns(q, obj)]
        resource = self._catalogue.by_key(obj.key)
        if not concerned or resource is None:
            return
        needed = usage(obj, resource.plural, resource.group, self._now)
        for name, amount in usage(before, resource.plural, resource.group, self._now).items() if before else ():
            needed[name] = needed.get(name, Fraction(0)) - amount
        for quota, used in concerned:
            if isinstance(obj, Pod) and before is None:
                _check_said(quota, obj)
            _check_room(quota, used, needed)
        for quota, used in concerned:
            if any(needed.get(name) for name in used):
                _add(used, needed)
                self._charged[(quota.metadata.namespace, quota.metadata.name)] = with_used(quota, used)

    def changes(self) -> list[UpdateStatus]:
        """What goes into the commit beside the objects. A Conflict means that another hub was faster."""
        return [UpdateStatus(q, expect=q.metadata.resource_version) for q in self._charged.values()]

    def _of(self, namespace: str) -> list[tuple[ResourceQuota, Amounts]]:
        if namespace not in self._open:
            there = self._quotas(namespace) if namespace else ()
            self._open[namespace] = [(q, count(q, self._listed, self._catalogue, self._now)) for q in there]
        return self._open[namespace]


def _add(used: Amounts, more: Mapping[str, Fraction]) -> None:
    for name in used:
        used[name] += more.get(name, 0)


def _check_room(quota: ResourceQuota, used: Amounts, needed: Amounts) -> None:
    hard = {name: exact(text) for name, text in quota.spec.hard.items()}
    full = sorted(n for n, limit in hard.items() if needed.get(n, 0) > 0 and used[n] + needed[n] > limit)
    if full:
        texts = [",".join(f"{n}={shown(n, amounts[n])}" for n in full) for amounts in (needed, used, hard)]
        requested, there, limited = texts
        raise Forbidden(
            f"exceeded quota: {quota.metadata.name}, requested: {requested}, used: {there}, limited: {limited}"
        )


def _check_said(quota: ResourceQuota, pod: Pod) -> None:
    """What is bounded must be said by every container; else nobody could count it."""
    missing = dict(_unsaid(quota, pod))
    if missing:
        texts = (f"{name} for: {','.join(sorted(who))}" for name, who in sorted(missing.items()))
        raise Forbidden(f"failed quota: {quota.metadata.name}: must specify {'; '.join(texts)}")


def _unsaid(quota: ResourceQuota, pod: Pod) -> Iterator[tuple[str, list[str]]]:
    for name in quota.spec.hard:
        if name not in _MUST_SAY:
            continue
        part, _, resource = name.rpartition(".")
        who = [
            c.name
            for c in (*pod.spec.init_containers, *pod.spec.containers)
            if resource not in (c.resources.limits if part == "limits" else c.resources.requests)
        ]
        if who:
            yield name, who
