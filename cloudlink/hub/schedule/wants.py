"""What a pod wants of its node, as one hashable value: pods that want the same are placed together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudlink.hub.schedule.sizes import Size, size_of
from cloudlink.kube.affinity import (
    NodeSelectorTerm,
    PodAffinityTerm,
    PreferredSchedulingTerm,
    TopologySpreadConstraint,
)
from cloudlink.kube.core import Pod, PodSpec, Toleration
from cloudlink.kube.meta import LabelSelector, LabelSelectorRequirement
from cloudlink.kube.status import qos_class
from edged.errors import PermanentError
from edged.images.reference import normalise

HostPort = tuple[str, int, str]  # protocol, port, address ("" = all)
Labels = tuple[tuple[str, str], ...]
Amounts = tuple[tuple[str, int], ...]  # (resource, how much), only what is wanted; see `amounts`
Crowd = tuple[str, Labels]  # namespace and labels of pods: what they are to others
DEVICE = "device/"  # before the names of devices among the resources
Spaces = Mapping[str, Mapping[str, str]]  # the labels of each namespace


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector that can be a key of a mapping; None in its place selects nothing."""

    labels: Labels
    expressions: tuple[LabelSelectorRequirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(k) == v for k, v in self.labels) and all(e.matches(labels) for e in self.expressions)


@dataclass(frozen=True, slots=True)
class Company:
    """Pods beside which (or far from which) a pod is to be.

    :ivar topology: nodes with the same value of this label are one place.
    :ivar spaces: namespaces of the pods meant; None = all.
    :ivar weight: 0 = required, otherwise how much it is wished, 1 to 100.
    :ivar away: anti-affinity.
    """

    topology: str
    selector: Selector | None
    spaces: frozenset[str] | None
    away: bool
    weight: int = 0

    def means(self, namespace: str, labels: Mapping[str, str]) -> bool:
        if self.selector is None or (self.spaces is not None and namespace not in self.spaces):
            return False
        return self.selector.matches(labels)


@dataclass(frozen=True, slots=True)
class Spread:
    """How evenly pods are to be spread over places (core/v1 TopologySpreadConstraint).

    :ivar hard: DoNotSchedule.
    :ivar every_node: nodes that the pod's selector and affinity keep out count as places all the same.
    """

    topology: str
    most: int
    selector: Selector | None
    hard: bool
    least_places: int = 1
    every_node: bool = False


@dataclass(frozen=True, slots=True)
class Wants:
    """:ivar terms: required node affinity, one of which must hold; None = any node.
    :ivar labels: the pod's own, by which others may want or shun it.
    :ivar claims: "namespace/name" of what it stores its data in.
    :ivar images: that its containers run, by canonical name.
    """

    namespace: str
    labels: Labels
    amounts: Amounts
    selector: Labels
    terms: tuple[NodeSelectorTerm, ...] | None
    wishes: tuple[PreferredSchedulingTerm, ...]
    tolerations: tuple[Toleration, ...]
    ports: tuple[HostPort, ...]
    company: tuple[Company, ...]
    spread: tuple[Spread, ...]
    claims: tuple[str, ...]
    best_effort: bool
    images: tuple[str, ...] = ()

    @property
    def who(self) -> Crowd:
        return self.namespace, self.labels

    @property
    def shuns(self) -> tuple[Company, ...]:
        """Required anti-affinity, which also keeps those away that come later."""
        return tuple(t for t in self.company if t.away and not t.weight) if self.company else ()

    @property
    def is_sociable(self) -> bool:
        """Where one of them is decides where the next one may be."""
        return bool(self.company or self.spread)

    def amount(self, resource: str) -> int:
        return next((n for r, n in self.amounts if r == resource), 0)


def wants_of(pod: Pod, size: Size, claims: tuple[str, ...], spaces: Spaces) -> Wants:
    """:param size: of the pod, with what its claims will take (see `storage.to_be_made`)."""
    spec, affinity = pod.spec, pod.spec.affinity
    node = affinity.node_affinity if affinity else None
    required = node.required_during_scheduling_ignored_during_execution if node else None
    return Wants(
        namespace=pod.metadata.namespace,
        labels=tuple(sorted(pod.metadata.labels.items())),
        amounts=amounts(size),
        selector=tuple(sorted(spec.node_selector.items())),
        terms=required.node_selector_terms if required else None,
        wishes=node.preferred_during_scheduling_ignored_during_execution if node else (),
        tolerations=spec.tolerations,
        ports=host_ports(spec),
        company=_company(pod, spaces),
        spread=tuple(_spread(c, pod.metadata.labels) for c in spec.topology_spread_constraints),
        claims=claims,
        best_effort=qos_class(spec) == "BestEffort",
        images=tuple(sorted({canonical(c.image) for c in (*spec.init_containers, *spec.containers)})),
    )


def canonical(image: str) -> str:
    """An image's name as nodes report it; as written where it is no name at all."""
    try:
        return normalise(image)
    except PermanentError:
        return image


def amounts(size: Size) -> Amounts:
    plain = (("memory", size.memory), ("cpu", size.cpu), ("pods", size.pods), ("storage", size.storage))
    devices = ((f"{DEVICE}{name}", count) for name, count in sorted(size.devices.items()))
    return tuple((r, n) for r, n in (*plain, *devices) if n)


def host_ports(spec: PodSpec) -> tuple[HostPort, ...]:
    """Those that a pod takes on its machine while it runs."""
    running = (*(c for c in spec.init_containers if c.is_sidecar), *spec.containers)
    return tuple((p.protocol, p.host_port, p.host_ip) for c in running for p in c.ports if p.host_port)


def selector_of(selector: LabelSelector | None, same: Mapping[str, str] | None = None) -> Selector | None:
    """:param same: label values that must be the pod's own (matchLabelKeys)."""
    if selector is None:
        return None
    labels = selector.match_labels | dict(same or {})
    return Selector(tuple(sorted(labels.items())), selector.match_expressions)


def _company(pod: Pod, spaces: Spaces) -> tuple[Company, ...]:
    affinity = pod.spec.affinity
    if affinity is None:
        return ()
    found: list[Company] = []
    for kind, away in ((affinity.pod_affinity, False), (affinity.pod_anti_affinity, True)):
        if kind is not None:
            terms = kind.required_during_scheduling_ignored_during_execution
            found += [_term(t, pod, spaces, away, 0) for t in terms]
            wished = kind.preferred_during_scheduling_ignored_during_execution
            found += [_term(w.pod_affinity_term, pod, spaces, away, w.weight) for w in wished]
    return tuple(found)


def _term(term: PodAffinityTerm, pod: Pod, spaces: Spaces, away: bool, weight: int) -> Company:
    own = pod.metadata.labels
    same = {k: own[k] for k in term.match_label_keys if k in own}
    selector = selector_of(term.label_selector, same)
    unlike = [
        LabelSelectorRequirement(key=k, operator="NotIn", values=(own[k],))
        for k in term.mismatch_label_keys
        if k in own
    ]
    if selector is not None and unlike:
        selector = Selector(selector.labels, (*selector.expressions, *unlike))
    return Company(term.topology_key, selector, _spaces(term, pod, spaces), away, weight)


def _spaces(term: PodAffinityTerm, pod: Pod, spaces: Spaces) -> frozenset[str] | None:
    chosen = term.namespace_selector
    if chosen is None:
        return frozenset(term.namespaces or (pod.metadata.namespace,))
    if not chosen.match_labels and not chosen.match_expressions:
        return None
    return frozenset(term.namespaces) | {name for name, labels in spaces.items() if chosen.matches(labels)}


def _spread(c: TopologySpreadConstraint, own: Mapping[str, str]) -> Spread:
    same = {k: own[k] for k in c.match_label_keys if k in own}
    return Spread(
        c.topology_key,
        c.max_skew,
        selector_of(c.label_selector, same),
        c.when_unsatisfiable == "DoNotSchedule",
        c.min_domains or 1,
        c.node_affinity_policy == "Ignore",
    )


# Pods of one template share what they consist of, also when they have nodes and their specifications differ in that:
# what it comes to is reckoned once. By the identity of the containers, and what else it depends on.
_SIZES: dict[int, tuple[PodSpec, Mapping[str, str], Size]] = {}
_WANTS: dict[tuple[str, int], tuple[Pod, Size, Wants]] = {}
_MOST_KEPT = 4096


def plain_size(pod: Pod) -> Size:
    """The pod's own size."""
    spec, annotations = pod.spec, pod.metadata.annotations
    key = id(spec.containers)
    known = _SIZES.get(key)
    if known is not None:
        kept, for_annotations, size = known
        same = kept.containers is spec.containers and kept.init_containers == spec.init_containers
        if same and for_annotations == annotations:
            return size
    size = size_of(spec, annotations)
    if len(_SIZES) >= _MOST_KEPT:
        _SIZES.clear()
    _SIZES[key] = (spec, annotations, size)
    return size


def plain_wants(pod: Pod, spaces: Spaces) -> Wants:
    """What a pod wants, its claims aside."""
    size = plain_size(pod)
    affinity = pod.spec.affinity
    if affinity is not None and (affinity.pod_affinity is not None or affinity.pod_anti_affinity is not None):
        return wants_of(pod, size, (), spaces)  # whom it means depends on the namespaces' labels
    key = pod.metadata.namespace, id(pod.spec.containers)
    known = _WANTS.get(key)
    if known is not None and known[1] is size and _same_parts(known[0], pod):
        return known[2]
    wants = wants_of(pod, size, (), spaces)
    if len(_WANTS) >= _MOST_KEPT:
        _WANTS.clear()
    _WANTS[key] = pod, size, wants
    return wants


def _same_parts(one: Pod, other: Pod) -> bool:
    mine, its = one.spec, other.spec
    return (
        mine.containers is its.containers
        and (mine.affinity is its.affinity or mine.affinity == its.affinity)
        and one.metadata.labels == other.metadata.labels
        and mine.node_selector == its.node_selector
        and mine.tolerations == its.tolerations
        and mine.topology_spread_constraints == its.topology_spread_constraints
        and mine.init_containers == its.init_containers
    )
