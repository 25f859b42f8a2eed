"""The nodes as arrays, one row a node: what is free, who is there, and which nodes have which label. Pure.

Deciding for 5,000 nodes one by one costs milliseconds a pod in Python; as arrays it costs microseconds. Everything that
`place` decides on is in here; `place` works on a copy, which is as cheap as copying the arrays.

Pods on their way out keep their room until their node says that they are gone: memory on a board can't be promised
twice. So do claims, whether or not a pod uses them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cloudlink.hub.schedule.sizes import Size, allocatable
from cloudlink.hub.schedule.storage import NO_PLACES, Places
from cloudlink.hub.schedule.tally import Tally
from cloudlink.hub.schedule.wants import (
    DEVICE,
    Company,
    Crowd,
    HostPort,
    Spaces,
    Wants,
    amounts,
    plain_wants,
)
from cloudlink.kube.annotations import QUEUED
from cloudlink.kube.core import Node, Pod, Taint

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Rows = NDArray[np.intp]

BASE = ("memory", "cpu", "pods", "storage")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A pod that has its room on a node.

    :ivar key: namespace, name.
    :ivar since: when it was made (RFC 3339).
    :ivar leaving: it was asked to end; its room is free once its node says that it is gone.
    """

    key: tuple[str, str]
    node: str
    wants: Wants
    priority: int
    uid: str
    since: str = ""
    leaving: bool = False


@dataclass(slots=True)
class Topology:
    """What the nodes have as value of one label.

    :ivar of: the place of each row, -1 where a node lacks the label.
    :ivar places: value -> place, from 0.
    :ivar singles: no place has more than one node, such as with kubernetes.io/hostname.
    """

    of: Rows
    places: dict[str, int]
    singles: bool

    @property
    def count(self) -> int:
        return len(self.places)


@dataclass(slots=True)
class Map:
    """What of the nodes changes seldom, shared by copies of a Fleet: names, labels, taints."""

    nodes: tuple[Node, ...]
    rows: dict[str, int]
    _topologies: dict[str, Topology] = field(default_factory=dict)
    _taints: dict[Taint, Mask] | None = None
    _images: dict[str, Mask] | None = None

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Map:
        ordered = tuple(sorted(nodes, key=lambda n: n.metadata.name))
        return cls(ordered, {n.metadata.name: row for row, n in enumerate(ordered)})

    def with_node(self, row: int, node: Node, keep: bool) -> Map:
        """:param keep: it has the labels and taints that it had."""
        nodes = (*self.nodes[:row], node, *self.nodes[row + 1 :])
        images = self._images if _images(node) == _images(self.nodes[row]) else None
        return Map(nodes, self.rows, self._topologies, self._taints, images) if keep else Map(nodes, self.rows)

    def none(self) -> Mask:
        return np.zeros(len(self.nodes), np.bool_)

    def all(self) -> Mask:
        return np.ones(len(self.nodes), np.bool_)

    def topology(self, key: str) -> Topology:
        """The nodes by their value of a label."""
        found = self._topologies.get(key)
        if found is None:
            places: dict[str, int] = {}
            values = [node.metadata.labels.get(key) for node in self.nodes]
            of = [-1 if v is None else places.setdefault(v, len(places)) for v in values]
            having = sum(v is not None for v in values)
            found = self._topologies[key] = Topology(np.array(of, np.intp), places, having == len(places))
        return found

    def with_label(self, key: str, values: Iterable[str] | None = None) -> Mask:
        """Nodes that have the label, with one of these values or with any."""
        there = self.topology(key)
        places = None if values is None else [place for v in values if (place := there.places.get(v)) is not None]
        found: Mask
        match places:
            case None:
                found = there.of >= 0
            case [place]:
                found = there.of == place
            case _:
                found = np.isin(there.of, places)
        return found

    def images(self) -> Mapping[str, Mask]:
        """Each image that any node has -> the nodes that have it."""
        if self._images is None:
            self._images = {}
            for row, node in enumerate(self.nodes):
                for name in _images(node):
                    self._images.setdefault(name, self.none())[row] = True
        return self._images

    def taints(self) -> Mapping[Taint, Mask]:
        """Each taint that any node has -> the nodes that have it."""
        if self._taints is None:
            self._taints = {}
            for row, node in enumerate(self.nodes):
                for taint in node.spec.taints:
                    plain = Taint(key=taint.key, value=taint.value, effect=taint.effect)
                    self._taints.setdefault(plain, self.none())[row] = True
        return self._taints


def _images(node: Node) -> tuple[str, ...]:
    return tuple(name for image in node.status.images for name in image.names)


@dataclass(slots=True)
class Fleet:
    """The nodes, and who is on them.

    :ivar whole: resource -> what each node has for pods; `free`: what is left of it. Never negative by our doing.
    :ivar open: nodes that aren't cordoned.
    :ivar pressure: type of a node condition -> nodes that have it.
    :ivar ports: those that are taken on each row, by protocol and number.
    :ivar crowds: (namespace, labels) of pods -> how many of them are on each row; by each of the labels.
    :ivar leaving: of those, the ones that were asked to end: who is spread evenly doesn't mind them, as in Kubernetes.
    :ivar shunned: who is kept away by pods that are there: their required anti-affinity -> rows that they are on; by
        the label that it selects by.
    """

    map: Map
    whole: dict[str, Numbers]
    free: dict[str, Numbers]
    ready: Mask
    open: Mask
    pressure: dict[str, Mask]
    ports: Tally[HostPort] = field(default_factory=lambda: Tally(_numbered))
    crowds: Tally[Crowd] = field(default_factory=lambda: Tally(_labelled))
    leaving: Tally[Crowd] = field(default_factory=lambda: Tally(_labelled))
    shunned: Tally[Company] = field(default_factory=lambda: Tally(_selected))
    tenants: dict[tuple[str, str], Tenant] = field(default_factory=dict)
    _scale: dict[str, NDArray[np.float64]] | None = None

    def __len__(self) -> int:
        return len(self.map.nodes)

    def resource(self, name: str) -> Numbers:
        """What is free of a resource; of one that no node has, nothing."""
        found = self.free.get(name)
        return np.zeros(len(self), np.int64) if found is None else found

    def scale(self) -> dict[str, NDArray[np.float64]]:
        """What a byte of memory and a thousandth of a core is of each node."""
        if self._scale is None:
            self._scale = {r: 1.0 / np.maximum(self.whole[r], 1) for r in ("memory", "cpu")}
        return self._scale

    def copy(self) -> Fleet:
        """One to plan in: taking room in it leaves this one as it is."""
        return Fleet(
            self.map,
            self.whole,
            {r: a.copy() for r, a in self.free.items()},
            self.ready,
            self.open,
            self.pressure,
            self.ports.copy(),
            self.crowds.copy(),
            self.leaving.copy(),
            self.shunned.copy(),
            dict(self.tenants),
            self._scale,
        )

    def with_places(self, places: Places) -> Fleet:
        """The same fleet, less what claims take of its storage."""
        storage = self.free["storage"].copy()
        for place in places.values():
            row = self.map.rows.get(place.node)
            if row is not None:
                storage[row] -= place.size
        return replace(self, free={**self.free, "storage": storage})

    def renew(self, node: Node) -> bool:
        """A node that is here has changed; False where it can't be taken over in place: make the fleet anew."""
        row = self.map.rows.get(node.metadata.name)
        if row is None:
            return False
        before, size = self.map.nodes[row], allocatable(node)
        told = dict(amounts(size or Size()))
        if not told.keys() <= self.whole.keys():
            return False
        self.map = self.map.with_node(row, node, keep=_looks_alike(before, node))
        for resource, column in self.whole.items():
            amount = told.get(resource, 0)
            self.free[resource][row] += amount - column[row]
            column[row] = amount
        self._scale = None
        self.ready[row] = size is not None and has(node, "Ready")
        self.open[row] = not node.spec.unschedulable
        for condition in {c.type for c in (*before.status.conditions, *node.status.conditions)} - {"Ready"}:
            if condition in self.pressure or has(node, condition):
                self.pressure.setdefault(condition, self.map.none())[row] = has(node, condition)
        return True

    # ------------------------------------------------------------ room

    def take(self, wants: Wants, row: int, count: int = 1) -> None:
        """Give `count` equal pods their room on a row; negative: have it back."""
        for resource, amount in wants.amounts:
            if resource in self.free:
                self.free[resource][row] -= amount * count
        self.notice(wants, row, count)

    def take_rows(self, wants: Wants, rows: Rows, counts: Numbers) -> None:
        """The same for many rows, each there once."""
        for resource, amount in wants.amounts:
            if resource in self.free:
                self.free[resource][rows] -= amount * counts
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            self.notice(wants, row, count)

    def notice(self, wants: Wants, row: int, count: int) -> None:
        """What other pods may mind of pods that are (or, negative, aren't any more) on a row."""
        for port in wants.ports:
            self.ports.add(port, row, count)
        self.crowds.add(wants.who, row, count)
        for term in wants.shuns:
            self.shunned.add(term, row, count)

    def house(self, tenant: Tenant) -> None:
        """A pod that is on its node already."""
        row = self.map.rows.get(tenant.node)
        if row is not None:
            self.tenants[tenant.key] = tenant
            self.take(tenant.wants, row)
            if tenant.leaving:
                self.leaving.add(tenant.wants.who, row, 1)

    def evict(self, tenant: Tenant) -> None:
        """The opposite of `house`: for asking what would be if a pod weren't there."""
        del self.tenants[tenant.key]
        row = self.map.rows[tenant.node]
        self.take(tenant.wants, row, -1)
        if tenant.leaving:
            self.leaving.add(tenant.wants.who, row, -1)


def _numbered(port: HostPort) -> Iterable[Hashable]:
    protocol, number, _ = port
    yield protocol, number


def _labelled(crowd: Crowd) -> Iterable[Hashable]:
    return crowd[1]


def _selected(term: Company) -> Iterable[Hashable]:
    yield None if term.selector is None or not term.selector.labels else term.selector.labels[0]


def fleet_of(nodes: Iterable[Node], tenants: Iterable[Tenant] = (), places: Places = NO_PLACES) -> Fleet:
    """Every node, with what its pods and claims leave free."""
    ground = Map.of(nodes)
    sizes = [allocatable(n) for n in ground.nodes]
    whole = _columns([s or Size() for s in sizes])
    ready = np.array(
        [size is not None and has(n, "Ready") for n, size in zip(ground.nodes, sizes, strict=True)], np.bool_
    )
    open_ = np.array([not n.spec.unschedulable for n in ground.nodes], np.bool_)
    fleet = Fleet(ground, whole, {r: a.copy() for r, a in whole.items()}, ready, open_, _pressures(ground))
    for tenant in tenants:
        fleet.house(tenant)
    return fleet.with_places(places)


def fleet_with(
    nodes: Iterable[Node], pods: Iterable[Pod], places: Places = NO_PLACES, spaces: Spaces | None = None
) -> Fleet:
    """The fleet from the objects themselves."""
    return fleet_of(nodes, [t for p in pods if (t := tenant_of(p, spaces or {})) is not None], places)


def tenant_of(pod: Pod, spaces: Spaces) -> Tenant | None:
    """None for a pod that takes no room: on no node yet, finished, or behind another one that has the room."""
    if not pod.spec.node_name or pod.status.phase in ("Succeeded", "Failed") or QUEUED in pod.metadata.labels:
        return None
    meta = pod.metadata
    wants = plain_wants(pod, spaces)
    return Tenant(
        (meta.namespace, meta.name),
        pod.spec.node_name,
        wants,
        pod.spec.priority or 0,
        meta.uid,
        meta.creation_timestamp,
        bool(meta.deletion_timestamp),
    )


def _looks_alike(before: Node, after: Node) -> bool:
    return before.metadata.labels == after.metadata.labels and before.spec.taints == after.spec.taints


def has(node: Node, condition: str) -> bool:
    return any(c.type == condition and c.status == "True" for c in node.status.conditions)


def _pressures(ground: Map) -> dict[str, Mask]:
    found: dict[str, Mask] = {}
    for row, node in enumerate(ground.nodes):
        for condition in node.status.conditions:
            if condition.status == "True" and condition.type != "Ready":
                found.setdefault(condition.type, ground.none())[row] = True
    return found


def _columns(sizes: Sequence[Size]) -> dict[str, Numbers]:
    columns = {r: np.zeros(len(sizes), np.int64) for r in BASE}
    for row, size in enumerate(sizes):
        for resource, amount in amounts(size):
            if resource not in columns:
                assert resource.startswith(DEVICE)
                columns[resource] = np.zeros(len(sizes), np.int64)
            columns[resource][row] = amount
    return columns
