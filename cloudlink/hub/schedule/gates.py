"""Which nodes a pod may go to: one mask a reason, in the order in which people are told. Pure.

After kube-scheduler's filter plugins (NodeUnschedulable, NodeAffinity, TaintToleration, NodePorts, NodeResourcesFit,
VolumeBinding); those that look at other pods are in `company`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cloudlink.hub.schedule.fleet import Fleet, Map, Mask
from cloudlink.hub.schedule.storage import Places
from cloudlink.hub.schedule.wants import DEVICE, HostPort, Wants
from cloudlink.kube.affinity import NodeSelectorRequirement, NodeSelectorTerm
from cloudlink.kube.core import Taint
from cloudlink.kube.placement import tolerates

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
    masks = [ground.labelled(k).get(v) for k, v in wants.selector]
    having = [ground.none() if m is None else m for m in masks]
    if not having:
        return
    lacking = ~np.logical_and.reduce(having)
    patterns = {tuple(bool(h[row]) for h in having) for row in np.flatnonzero(lacking)}
    for pattern in sorted(patterns):
        missing = [f"{k}={v}" for (k, v), has in zip(wants.selector, pattern, strict=True) if not has]
        here = np.logical_and.reduce([h == has for h, has in zip(having, pattern, strict=True)])
        yield Gate("selector", ",".join(missing), ~here)


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
            return ground.with_label(key, _compared(requirement, ground.labelled(key)))


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
    taken: dict[str, Mask] = {}
    for row, there in fleet.ports.items():
        if port := taken_port(wanted, there):
            taken.setdefault(port, fleet.map.none())[row] = True
    for port, rows in sorted(taken.items()):
        yield Gate("port", port, ~rows)


def taken_port(wanted: Iterable[HostPort], taken: Iterable[HostPort]) -> str:
    """A port that two would have (scheduler's HostPortInfo.CheckConflict)."""
    there = list(taken)
    for protocol, port, address in wanted:
        for other_protocol, other_port, other_address in there:
            same_address = address == other_address or address in _EVERYWHERE or other_address in _EVERYWHERE
            if (protocol, port) == (other_protocol, other_port) and same_address:
                return f"{port}/{protocol}"
    return ""
