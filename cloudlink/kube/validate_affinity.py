"""Rules for affinity and spreading. See `validate`."""

from __future__ import annotations

from cloudlink.kube import names
from cloudlink.kube.affinity import (
    Affinity,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    PodAffinityTerm,
    TopologySpreadConstraint,
    WeightedPodAffinityTerm,
)
from cloudlink.kube.findings import Findings
from cloudlink.kube.validate_meta import selector

MAX_WEIGHT = 100
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def affinity(it: Affinity, path: str, found: Findings) -> None:
    if it.node_affinity is not None:
        here, node = f"{path}.nodeAffinity", it.node_affinity
        required = node.required_during_scheduling_ignored_during_execution
        if required is not None:
            terms = f"{here}.{_REQUIRED}.nodeSelectorTerms"
            if not required.node_selector_terms:
                found.required(terms, "must have at least one node selector term")
            for i, term in enumerate(required.node_selector_terms):
                _node_term(term, f"{terms}[{i}]", found)
        for i, preferred in enumerate(node.preferred_during_scheduling_ignored_during_execution):
            _weight(preferred.weight, f"{here}.{_PREFERRED}[{i}].weight", found)
            _node_term(preferred.preference, f"{here}.{_PREFERRED}[{i}].preference", found)
    for field, group in (("podAffinity", it.pod_affinity), ("podAntiAffinity", it.pod_anti_affinity)):
        if group is not None:
            here = f"{path}.{field}"
            _pod_terms(group.required_during_scheduling_ignored_during_execution, f"{here}.{_REQUIRED}", found)
            _weighted(group.preferred_during_scheduling_ignored_during_execution, f"{here}.{_PREFERRED}", found)


def _weight(weight: int, path: str, found: Findings) -> None:
    if not 1 <= weight <= MAX_WEIGHT:
        found.invalid(path, weight, f"must be in the range 1-{MAX_WEIGHT}")


def _node_term(term: NodeSelectorTerm, path: str, found: Findings) -> None:
    for i, requirement in enumerate(term.match_expressions):
        _requirement(requirement, f"{path}.matchExpressions[{i}]", found)
    for i, requirement in enumerate(term.match_fields):
        here = f"{path}.matchFields[{i}]"
        if requirement.operator not in ("In", "NotIn"):
            found.invalid(f"{here}.operator", requirement.operator, "not a valid selector operator")
        elif len(requirement.values) != 1:
            why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            found.required(f"{here}.values", why)
        if requirement.key != "metadata.name":
            found.invalid(f"{here}.key", requirement.key, "not a valid field selector key")


def _requirement(it: NodeSelectorRequirement, path: str, found: Findings) -> None:
    found.text(f"{path}.key", it.key, names.label_key)
    match it.operator:
        case "In" | "NotIn" if not it.values:
            found.required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist" if it.values:
            found.forbidden(f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        case "Gt" | "Lt" if len(it.values) != 1:
            found.required(f"{path}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        case _:
            pass
    for i, value in enumerate(it.values):
        if why := names.label_value(value):
            found.invalid(f"{path}.values[{i}]", value, why)


def _weighted(terms: tuple[WeightedPodAffinityTerm, ...], path: str, found: Findings) -> None:
    for i, term in enumerate(terms):
        _weight(term.weight, f"{path}[{i}].weight", found)
        _pod_term(term.pod_affinity_term, f"{path}[{i}].podAffinityTerm", found)


def _pod_terms(terms: tuple[PodAffinityTerm, ...], path: str, found: Findings) -> None:
    for i, term in enumerate(terms):
        _pod_term(term, f"{path}[{i}]", found)


def _pod_term(term: PodAffinityTerm, path: str, found: Findings) -> None:
    selector(term.label_selector, f"{path}.labelSelector", found)
    selector(term.namespace_selector, f"{path}.namespaceSelector", found)
    for i, name in enumerate(term.namespaces):
        found.text(f"{path}.namespaces[{i}]", name, names.dns_label)
    if not term.topology_key:
        found.required(f"{path}.topologyKey", "can not be empty")
    else:
        found.text(f"{path}.topologyKey", term.topology_key, names.label_key)


def spreading(constraints: tuple[TopologySpreadConstraint, ...], path: str, found: Findings) -> None:
    seen: set[object] = set()
    for i, it in enumerate(constraints):
        here = f"{path}[{i}]"
        if it.max_skew <= 0:
            found.invalid(f"{here}.maxSkew", it.max_skew, "must be greater than zero")
        if not it.topology_key:
            found.required(f"{here}.topologyKey", "can not be empty")
        else:
            found.text(f"{here}.topologyKey", it.topology_key, names.label_key)
        if it.min_domains is not None:
            if it.min_domains <= 0:
                found.invalid(f"{here}.minDomains", it.min_domains, "must be greater than zero")
            if it.when_unsatisfiable != "DoNotSchedule":
                why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not whenUnsatisfiable=ScheduleAnyway"
                found.invalid(f"{here}.minDomains", it.min_domains, why)
        pair = f"{{{it.topology_key}, {it.when_unsatisfiable}}}"
        found.unique(f"{here}.{{topologyKey, whenUnsatisfiable}}", pair, seen)
        selector(it.label_selector, f"{here}.labelSelector", found)
