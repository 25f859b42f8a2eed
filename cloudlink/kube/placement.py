"""Whether one node is one that a pod may run on: selectors, node affinity, tolerations. Pure.

After component-helpers/scheduling/corev1. The scheduler asks the same of whole fleets at once (hub/schedule); here it
is asked of a node at a time, by those that have a pod for each node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cloudlink.kube.affinity import NodeSelectorRequirement, NodeSelectorTerm
from cloudlink.kube.core import Node, PodSpec, Taint, Toleration
from cloudlink.kube.meta import matches

NAME_FIELD = "metadata.name"  # the one field that matchFields knows
CORDONED = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")  # what `unschedulable` comes to


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    return any(_tolerates(t, taint) for t in tolerations)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    """v1.Toleration.ToleratesTaint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def untolerated(taints: Iterable[Taint], tolerations: Sequence[Toleration], *effects: str) -> list[Taint]:
    """Taints with one of these effects that no toleration covers."""
    return [t for t in taints if t.effect in effects and not tolerates(tolerations, t)]


def wants(spec: PodSpec, node: Node) -> bool:
    """Whether `nodeSelector` and the required node affinity hold (GetRequiredNodeAffinity.Match)."""
    if not matches(spec.node_selector, node.metadata.labels):
        return False
    affinity = spec.affinity.node_affinity if spec.affinity is not None else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity is not None else None
    return required is None or any(_holds(term, node) for term in required.node_selector_terms)


def _holds(term: NodeSelectorTerm, node: Node) -> bool:
    """A term that asks for nothing matches nothing."""
    if not term.match_expressions and not term.match_fields:
        return False
    named = {NAME_FIELD: node.metadata.name}
    return all(_met(r, node.metadata.labels) for r in term.match_expressions) and all(
        _met(r, named) for r in term.match_fields
    )


def _met(requirement: NodeSelectorRequirement, labels: dict[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            there, bound = _whole(value or ""), _whole(requirement.values[0] if requirement.values else "")
            if there is None or bound is None:
                return False
            return there > bound if requirement.operator == "Gt" else there < bound


def _whole(text: str) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None
