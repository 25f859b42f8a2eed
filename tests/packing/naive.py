"""What `place` decides, one pod and one node at a time, in plain Python: slow, and obvious enough to be believed.

Without claims, devices, preemption and sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cloudlink.hub.schedule.seats import Policy
from cloudlink.hub.schedule.sizes import DEFAULT_PODS, UNLIMITED
from cloudlink.kube.affinity import NodeSelectorTerm, PodAffinityTerm
from cloudlink.kube.core import Node, Pod
from cloudlink.kube.placement import tolerates
from cloudlink.kube.quantity import to_int, to_milli


@dataclass
class Board:
    """A node and the pods on it."""

    node: Node
    pods: list[Pod] = field(default_factory=list)

    @property
    def labels(self) -> Mapping[str, str]:
        return self.node.metadata.labels

    def whole(self, resource: str) -> int:
        said = self.node.status.allocatable
        match resource:
            case "cpu":
                return to_milli(said["cpu"])
            case "pods":
                return to_int(said.get("pods", str(DEFAULT_PODS)))
            case "ephemeral-storage":
                return to_int(said[resource]) if resource in said else UNLIMITED
        return to_int(said[resource])

    def free(self, resource: str) -> int:
        return self.whole(resource) - sum(asked(p, resource) for p in self.pods)

    def share_left(self, resource: str, pod: Pod) -> float:
        return round((self.free(resource) - asked(pod, resource)) * (1.0 / max(self.whole(resource), 1)) * 1e9)


def asked(pod: Pod, resource: str) -> int:
    if resource == "pods":
        return 1
    number = to_milli if resource == "cpu" else to_int
    return sum(number(c.resources.requests.get(resource, "0")) for c in pod.spec.containers)


def place(pods: Iterable[Pod], boards: Sequence[Board], policy: Policy = "tight") -> dict[str, str]:
    """Names of pods -> names of nodes; those that aren't there fit nowhere."""
    found = {}
    ordered = sorted(boards, key=lambda b: b.node.metadata.name)
    for pod in sorted(pods, key=_turn):
        able = [b for b in ordered if all(gate(pod, b, ordered) for gate in GATES)]
        if able:
            best = min(able, key=lambda b: _price(pod, b, ordered, policy))
            best.pods.append(pod)
            found[pod.metadata.name] = best.node.metadata.name
    return found


def _turn(pod: Pod) -> tuple[object, ...]:
    meta = pod.metadata
    sizes = -asked(pod, "memory"), -asked(pod, "cpu")
    return -(pod.spec.priority or 0), meta.creation_timestamp or "~", *sizes, meta.namespace, meta.name


# ---------------------------------------------------------------- may it


def _ready(pod: Pod, board: Board, boards: Sequence[Board]) -> bool:
    ready = any(c.type == "Ready" and c.status == "True" for c in board.node.status.conditions)
    return ready and not board.node.spec.unschedulable


def _room(pod: Pod, board: Board, boards: Sequence[Board]) -> bool:
    return all(
        board.free(r) >= asked(pod, r) or not asked(pod, r) for r in ("memory", "cpu", "pods", "ephemeral-storage")
    )


def _labels(pod: Pod, board: Board, boards: Sequence[Board]) -> bool:
    if any(board.labels.get(k) != v for k, v in pod.spec.node_selector.items()):
        return False
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    return required is None or any(_holds(t, board) for t in required.node_selector_terms)


def _holds(term: NodeSelectorTerm, board: Board) -> bool:
    def one(key: str, operator: str, values: Sequence[str]) -> bool:
        value = board.labels.get(key)
        match operator:
            case "In":
                return value in values
            case "NotIn":
                return value not in values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        raise AssertionError(operator)

    return bool(term.match_expressions) and all(one(e.key, e.operator, e.values) for e in term.match_expressions)


def _tolerated(pod: Pod, board: Board, boards: Sequence[Board]) -> bool:
    hard = (t for t in board.node.spec.taints if t.effect != "PreferNoSchedule")
    return all(tolerates(pod.spec.tolerations, t) for t in hard)


def _ports_free(pod: Pod, board: Board, boards: Sequence[Board]) -> bool:
    def ports(of: Pod) -> set[tuple[str, int]]:
        return {(p.protocol, p.host_port) for c in of.spec.containers for p in c.ports if p.host_port}

    return not any(ports(pod) & ports(other) for other in board.pods)


def _near(key: str, board: Board, boards: Sequence[Board]) -> list[Board]:
    """Nodes in the same place."""
    value = board.labels.get(key)
    return [] if value is None else [b for b in boards if b.labels.get(key) == value]


def _means(term: PodAffinityTerm, whose: Pod, other: Pod) -> bool:
    """Terms that select by their own namespace."""
    by = term.label_selector
    return by is not None and by.matches(other.metadata.labels) and whose.metadata.namespace == other.metadata.namespace


def _apart(pod: Pod, board: Board, boards: Sequence[Board]) -> bool:
    for term in _terms(pod, away=True):
        if any(_means(term, pod, p) for b in _near(term.topology_key, board, boards) for p in b.pods):
            return False
    for other_board in boards:
        for other in other_board.pods:
            for term in _terms(other, away=True):
                if other_board in _near(term.topology_key, board, boards) and _means(term, other, pod):
                    return False
    return True


def _together(pod: Pod, board: Board, boards: Sequence[Board]) -> bool:
    for term in _terms(pod, away=False):
        near = _near(term.topology_key, board, boards)
        if any(_means(term, pod, p) for b in near for p in b.pods):
            continue
        anywhere = any(_means(term, pod, p) for b in boards for p in b.pods if term.topology_key in b.labels)
        if not near or anywhere or not _means(term, pod, pod):
            return False
    return True


def _terms(pod: Pod, away: bool) -> Sequence[PodAffinityTerm]:
    affinity = pod.spec.affinity
    kind = None if affinity is None else affinity.pod_anti_affinity if away else affinity.pod_affinity
    return () if kind is None else kind.required_during_scheduling_ignored_during_execution


def _even(pod: Pod, board: Board, boards: Sequence[Board]) -> bool:
    for c in pod.spec.topology_spread_constraints:
        if c.when_unsatisfiable != "DoNotSchedule":
            continue
        counts = _counts(pod, c.topology_key, c.label_selector, boards)
        value = board.labels.get(c.topology_key)
        if value is None or not counts:
            return False
        own = c.label_selector is not None and c.label_selector.matches(pod.metadata.labels)
        if counts.get(value, 0) + own - min(counts.values()) > c.max_skew:
            return False
    return True


def _counts(pod: Pod, key: str, by: object, boards: Sequence[Board]) -> dict[str, int]:
    """Pods by place, of the places where a node is that the pod may go to by its lasting gates."""
    counts: dict[str, int] = {}
    for b in boards:
        value = b.labels.get(key)
        if value is not None and all(gate(pod, b, boards) for gate in (_ready, _labels, _tolerated)):
            counts.setdefault(value, 0)
            counts[value] += sum(by.matches(p.metadata.labels) for p in b.pods)  # type: ignore[attr-defined]
    return counts


GATES: tuple[Callable[[Pod, Board, Sequence[Board]], bool], ...] = (
    _ready,
    _room,
    _labels,
    _tolerated,
    _ports_free,
    _apart,
    _together,
    _even,
)

# ---------------------------------------------------------------- how good is it


def _price(pod: Pod, board: Board, boards: Sequence[Board], policy: Policy) -> tuple[float, ...]:
    sign = 1 if policy == "tight" else -1
    shares = (sign * board.share_left(r, pod) for r in ("memory", "cpu"))
    return -_wished(pod, board, boards), _crowded(pod, board, boards), *shares, -board.free("pods")


def _wished(pod: Pod, board: Board, boards: Sequence[Board]) -> float:
    soft = (t for t in board.node.spec.taints if t.effect == "PreferNoSchedule")
    total = -1e6 * sum(not tolerates(pod.spec.tolerations, t) for t in soft)
    images = {c.image for c in pod.spec.containers}
    there = {name for image in board.node.status.images for name in image.names}
    total += sum(image in there for image in sorted(images)) / (len(images) + 1)
    affinity = pod.spec.affinity
    if affinity is None:
        return total
    if affinity.node_affinity:
        wishes = affinity.node_affinity.preferred_during_scheduling_ignored_during_execution
        total += sum(w.weight for w in wishes if _holds(w.preference, board))
    for kind, sign in ((affinity.pod_affinity, 1), (affinity.pod_anti_affinity, -1)):
        for wish in kind.preferred_during_scheduling_ignored_during_execution if kind else ():
            term = wish.pod_affinity_term
            near = [p for b in _near(term.topology_key, board, boards) for p in b.pods]
            total += sign * wish.weight * sum(_means(term, pod, p) for p in near)
    return total


def _crowded(pod: Pod, board: Board, boards: Sequence[Board]) -> int:
    total = 0
    for c in pod.spec.topology_spread_constraints:
        counts = _counts(pod, c.topology_key, c.label_selector, boards)
        value = board.labels.get(c.topology_key)
        total += counts.get(value, 0) if value is not None else max(counts.values(), default=0) + 1
    return total
