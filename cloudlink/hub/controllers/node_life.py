"""Node conditions -> taints: where a node is lost, short of something or cordoned, its taints say so. Pure.

After Kubernetes' pkg/controller/nodelifecycle. NoSchedule taints follow the conditions at once. NoExecute ones, which
end pods, come at a bounded rate, and not at all while so much of the fleet is lost that it is more likely the hub (its
broker, its network) that is cut off: boards fail one by one.

Nothing is remembered between two decisions: what was done when is read from the taints' own `timeAdded`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from cloudlink.hub.changes import Update
from cloudlink.hub.decision import NEVER
from cloudlink.hub.objects import find_condition, is_deleted, rfc3339, seconds
from cloudlink.kube.core import Node, Taint
from cloudlink.kube.taints import NOT_READY, OF_LIFE, PRESSURES, UNREACHABLE, UNSCHEDULABLE

COMPONENT = "node-controller"
_OURS = frozenset({*OF_LIFE, *PRESSURES.values(), UNSCHEDULABLE})
_Effect = Literal["NoSchedule", "NoExecute"]
FEW = 2  # lost nodes that are never called a disruption, whatever their share (as in Kubernetes)


@dataclass(frozen=True, slots=True)
class Knobs:
    """What kube-controller-manager's flags of these names say there.

    :ivar node_eviction_rate: nodes a second whose pods begin to run out of their tolerations.
    :ivar unhealthy_zone_threshold: share of the fleet, 0 to 1, from which on it is a disruption.
    """

    node_eviction_rate: float = 0.1
    unhealthy_zone_threshold: float = 0.55


@dataclass(slots=True)
class Census:
    """Who is lost, of how many: kept up to date node by node, because a fleet is large.

    :ivar spoke: names of nodes that ever said whether they are ready. :ivar lost: those that aren't.
    """

    spoke: set[str] = field(default_factory=set)
    lost: dict[str, Node] = field(default_factory=dict)

    def note(self, node: Node, *, gone: bool = False) -> None:
        """A node is as it is now, or `gone`."""
        name = node.metadata.name
        self.spoke.discard(name)
        self.lost.pop(name, None)
        if gone or is_deleted(node) or find_condition(node.status.conditions, "Ready") is None:
            return
        self.spoke.add(name)
        if life_taint(node):
            self.lost[name] = node


@dataclass(frozen=True, slots=True)
class Verdict:
    """:ivar held: why nobody is evicted now, a sentence; "" while evictions go on."""

    changes: tuple[Update, ...] = ()
    wake_at: float = NEVER
    held: str = ""


def reconcile(nodes: Iterable[Node], census: Census, now: float, knobs: Knobs) -> Verdict:
    """The taints that are to change. `now` in seconds since 1970.

    :param nodes: those that have changed since they were looked at last; of the others only lost ones may need taints.
    """
    lost = census.lost.values()
    held = _disruption(len(lost), len(census.spoke), knobs)
    marked = {n.metadata.name for n in lost if _executing(n)}
    looked_at = {n.metadata.name: n for n in nodes if not is_deleted(n)}
    chosen: set[str] = set()
    wake_at = NEVER
    if held:
        looked_at |= {name: census.lost[name] for name in marked}
    else:
        free, next_at = _tokens(lost, now, knobs)
        waiting = [n for n in lost if n.metadata.name not in marked]
        begins = sorted(waiting, key=_lost_since)[:free] if free else []
        looked_at |= {n.metadata.name: n for n in begins}
        chosen = marked | {n.metadata.name for n in begins}
        wake_at = next_at if len(waiting) > len(begins) else NEVER
    changes = tuple(
        Update(tainted, expect=n.metadata.resource_version or None)
        for name, n in sorted(looked_at.items())
        if (tainted := _with_taints(n, name in chosen, now)) is not n
    )
    return Verdict(changes, wake_at, held)


def life_taint(node: Node) -> str:
    """The key of the taint that a node that isn't Ready has; "" for one that is, or that never spoke."""
    ready = find_condition(node.status.conditions, "Ready")
    if ready is None or ready.status == "True":
        return ""
    return UNREACHABLE if ready.status == "Unknown" else NOT_READY


def seen(node: Node) -> tuple[object, ...]:
    """What of a node matters here: while this stays the same, the fleet need not be looked at again."""
    held = tuple(c.type for c in node.status.conditions if c.type in PRESSURES and c.status == "True")
    spoke = find_condition(node.status.conditions, "Ready") is not None
    return life_taint(node), spoke, held, node.spec.unschedulable, node.spec.taints, is_deleted(node)


def _disruption(lost: int, total: int, knobs: Knobs) -> str:
    many = lost > FEW and lost >= knobs.unhealthy_zone_threshold * total
    if not lost or (lost < total and not many):
        return ""
    if total == 1:
        return "the only node of this fleet is lost: its pods have nowhere else to go"
    return (
        f"{lost} of {total} nodes are lost: more likely it is the hub or its broker that is cut off than that they"
        f" all failed. Nobody is evicted until fewer are"
    )


def _executing(node: Node) -> Taint | None:
    return next((t for t in node.spec.taints if t.key in OF_LIFE and t.effect == "NoExecute"), None)


def _lost_since(node: Node) -> tuple[float, str]:
    ready = find_condition(node.status.conditions, "Ready")
    return (seconds(ready.last_transition_time) if ready is not None else 0.0), node.metadata.name


def _tokens(lost: Collection[Node], now: float, knobs: Knobs) -> tuple[int, float]:
    """How many nodes may begin now, and when the next one may: as many as the rate gives, counted by their taints."""
    rate = knobs.node_eviction_rate
    if rate <= 0:
        return 0, NEVER
    burst, window = max(int(rate), 1), max(1.0 / rate, 1.0)
    recent = sorted(at for n in lost if (t := _executing(n)) and (at := seconds(t.time_added)) + window > now)
    free = max(burst - len(recent), 0)
    return free, (recent[0] if recent else now) + window


# ---------------------------------------------------------------- one node


def _with_taints(node: Node, execute: bool, now: float) -> Node:
    """The node with the taints that it should have; itself where it has them."""
    wanted: dict[tuple[str, str], _Effect] = {(key, effect): effect for key, effect in _wanted(node, execute)}
    before = _executing(node)
    kept: list[Taint] = []
    for taint in node.spec.taints:
        ours = taint.key in _OURS and taint.effect != "PreferNoSchedule"
        if not ours or (taint.key, taint.effect) in wanted:
            wanted.pop((taint.key, taint.effect), None)
            kept.append(_dated(taint, now))
    for (key, _), effect in wanted.items():
        # A node that was not ready and now is unreachable has been lost since it was not ready.
        since = before.time_added if before is not None and effect == "NoExecute" else ""
        kept.append(Taint(key=key, effect=effect, time_added=since or rfc3339(now)))
    if tuple(kept) == node.spec.taints:
        return node
    return node.model_copy(update={"spec": node.spec.model_copy(update={"taints": tuple(kept)})})


def _dated(taint: Taint, now: float) -> Taint:
    """What people add has no time; pods' tolerations count from one."""
    if taint.effect != "NoExecute" or seconds(taint.time_added):
        return taint
    return taint.model_copy(update={"time_added": rfc3339(now)})


def _wanted(node: Node, execute: bool) -> Iterator[tuple[str, _Effect]]:
    if key := life_taint(node):
        yield key, "NoSchedule"
        if execute:
            yield key, "NoExecute"
    for condition, key in PRESSURES.items():
        told = find_condition(node.status.conditions, condition)
        if told is not None and told.status == "True":
            yield key, "NoSchedule"
    if node.spec.unschedulable:
        yield UNSCHEDULABLE, "NoSchedule"
