"""Which nodes a pod may go to: one mask a reason, in the order in which people are told. Pure.

After kube-scheduler's filter plugins (NodeUnschedulable, NodeAffinity, TaintToleration, NodePorts, NodeResourcesFit,
VolumeBinding); those that look at other pods are in `company`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloudlink.hub.schedule.fleet import Fleet, Map, Mask
from cloudlink.hub.schedule.storage import Places
from cloudlink.hub.schedule.wants import DEVICE, HostPort, Wants
from cloudlink.kube.affinity import NodeSelectorRequirement, NodeSelectorTerm
from cloudlink.kube.core import Taint
from cloudlink.kube.placement import CORDONED, tolerates

Wishes = NDArray[np.float64]  # by row: the larger, the better

_EVERYWHERE = ("", "0.0.0.0")
# Conditions that keep pods away, as the taints that Kubernetes makes of them.
PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
}


@dataclass(frozen=True, slots=True)
class Gate:
    """Nodes that it lets through, and what is said of those that it doesn't (see `words`)."""

    kind: str
    detail: str
    through: Mask


def lasting(wants: Wants, fleet: Fleet, places: Places) -> Iterator[Gate]:
    """Gates that stay as they are while pods are being placed."""
    ground = fleet.map
    yield Gate("ready", "", fleet.ready)
    if not tolerates(wants.tolerations, CORDONED):
        yield Gate("cordoned", "", fleet.open)
    yield from _selector(wants, ground)
    if wants.terms is not None:
        through = ground.none()
        for term in wants.terms:
            through |= term_mask(term, ground)
        yield Gate("affinity", "", through)
    yield from _claims(wants, ground, places)
    for taint, there in ground.taints().items():
        if taint.effect in ("NoSchedule", "NoExecute") and not tolerates(wants.tolerations, taint):
            named = f"{taint.key}={taint.value}" if taint.value else taint.key
            yield Gate("taint", f"{named}:{taint.effect}", ~there)
    yield from _pressures(wants, fleet)


def passing(wants: Wants, fleet: Fleet) -> Iterator[Gate]:
    """Gates that close as room is taken."""
    if wants.ports:
        yield from _ports(wants.ports, fleet)
    for resource, amount in wants.amounts:
        kind = "device" if resource.startswith(DEVICE) else resource
        yield Gate(kind, resource.removeprefix(DEVICE), fleet.resource(resource) >= amount)


def through(gates: Iterable[Gate], fleet: Fleet) -> Mask:
    """Nodes that all of them let through."""
    found = fleet.map.all()
    for gate in gates:
        found &= gate.through
    return found


def wishes(wants: Wants, ground: Map) -> Wishes | None:
    """What a pod wishes of nodes: weights that hold, less a lot for each taint that says "rather not", and less than
    any weight for the images that are there already; None where it is the same everywhere.

    Images come before tightness: what a fuller board saves is less than a download behind a 4G router costs.
    """
    rather_not = unwanted(wants, ground)
    having = [there for image in wants.images if (there := ground.images().get(image)) is not None]
    if not wants.wishes and not rather_not.any() and not having:
        return None
    total = -1e6 * rather_not.astype(np.float64)
    for there in having:
        total += there / (len(wants.images) + 1)
    for wish in wants.wishes:
        total += wish.weight * term_mask(wish.preference, ground)
    return total


def unwanted(wants: Wants, ground: Map) -> np.ndarray:
    """How many taints on each node say "rather not" to this pod."""
    count = np.zeros(len(ground.nodes), np.int64)
    for taint, there in ground.taints().items():
        if taint.effect == "PreferNoSchedule" and not tolerates(wants.tolerations, taint):
            count += there
    return count


# ---------------------------------------------------------------- labels


def _selector(wants: Wants, ground: Map) -> Iterator[Gate]:
    """Nodes that lack the same labels are counted together."""
    having = [ground.with_label(k, (v,)) for k, v in wants.selector]
    if not having:
        return
    if len(having) == 1:
        [(key, value)] = wants.selector
        yield Gate("selector", f"{key}={value}", having[0])
        return
    for pattern in _patterns(having):
        missing = [f"{k}={v}" for (k, v), has in zip(wants.selector, pattern, strict=True) if not has]
        here = np.logical_and.reduce([h == has for h, has in zip(having, pattern, strict=True)])
        yield Gate("selector", ",".join(missing), ~here)


def _patterns(having: Sequence[Mask]) -> list[tuple[bool, ...]]:
    """Which labels nodes have that lack one, each combination once."""
    table = np.array(having)
    lacking = ~np.logical_and.reduce(having)
    return sorted(tuple(column) for column in np.unique(table[:, lacking], axis=1).T.tolist())


def term_mask(term: NodeSelectorTerm, ground: Map) -> Mask:
    """Nodes for which all of a term holds; a term without any requirement holds nowhere, as in Kubernetes."""
    through = ground.all() if term.match_expressions or term.match_fields else ground.none()
    for requirement in term.match_expressions:
        through &= _labels_hold(requirement, ground)
    for requirement in term.match_fields:
        named = ground.none()
        for name in requirement.values:
            if name in ground.rows:
                named[ground.rows[name]] = True
        through &= named if requirement.operator == "In" else ~named
    return through


def _labels_hold(requirement: NodeSelectorRequirement, ground: Map) -> Mask:
    key, values = requirement.key, requirement.values
    match requirement.operator:
        case "In":
            return ground.with_label(key, values)
        case "NotIn":
            return ~ground.with_label(key, values)
        case "Exists":
            return ground.with_label(key)
        case "DoesNotExist":
            return ~ground.with_label(key)
        case "Gt" | "Lt":
            return ground.with_label(key, _compared(requirement, ground.topology(key).places))


def _compared(requirement: NodeSelectorRequirement, values: Iterable[str]) -> list[str]:
    """Label values above (or below) the requirement's only value, as whole numbers."""
    bound = _whole(requirement.values[0]) if requirement.values else None
    if bound is None:
        return []
    numbers = [(v, n) for v in values if (n := _whole(v)) is not None]
    return [v for v, n in numbers if (n > bound if requirement.operator == "Gt" else n < bound)]


def _whole(text: str) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


# ---------------------------------------------------------------- taints, pressure, claims, ports


def _pressures(wants: Wants, fleet: Fleet) -> Iterator[Gate]:
    """Only pods that ask for nothing are kept from a node that is short of memory: the others were promised theirs."""
    for condition, taint in PRESSURES.items():
        there = fleet.pressure.get(condition)
        if there is None or (condition == "MemoryPressure" and not wants.best_effort):
            continue
        if not tolerates(wants.tolerations, Taint(key=taint, effect="NoSchedule")):
            yield Gate("pressure", condition, ~there)


def _claims(wants: Wants, ground: Map, places: Places) -> Iterator[Gate]:
    """Pods follow their data: a claim that is somewhere keeps them from everywhere else."""
    for title in wants.claims:
        place = places[title]
        if place.node:
            through = ground.none()
            if place.node in ground.rows:
                through[ground.rows[place.node]] = True
            yield Gate("claim", f"{place.name} (it is on {place.node})", through)


def _ports(wanted: Sequence[HostPort], fleet: Fleet) -> Iterator[Gate]:
    through: dict[str, Mask] = {}
    told: set[int] = set()  # of each row the first port is said that is taken there
    for port in wanted:
        protocol, number, _ = port
        for other in fleet.ports.tagged((protocol, number)):
            rows = [row for row in fleet.ports[other] if row not in told and taken_port([port], [other])]
            if rows:
                told.update(rows)
                through.setdefault(f"{number}/{protocol}", fleet.map.all())[rows] = False
    for text, mask in sorted(through.items()):
        yield Gate("port", text, mask)


def taken_port(wanted: Iterable[HostPort], taken: Iterable[HostPort]) -> str:
    """A port that two would have (scheduler's HostPortInfo.CheckConflict)."""
    there = list(taken)
    for protocol, port, address in wanted:
        for other_protocol, other_port, other_address in there:
            same_address = address == other_address or address in _EVERYWHERE or other_address in _EVERYWHERE
            if (protocol, port) == (other_protocol, other_port) and same_address:
                return f"{port}/{protocol}"
    return ""
