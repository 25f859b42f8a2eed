"""What must be true once the faults have ended and everybody has had time: hub, documents, boards and indexes agree."""

from __future__ import annotations

import msgspec

from cloudlink.hub import documents
from cloudlink.hub.manager import Manager
from cloudlink.hub.objects import is_active, is_deleted, is_finished, is_ready
from cloudlink.hub.store import Store
from cloudlink.hub.tenancy import Tenancy
from cloudlink.hub.world import World
from cloudlink.kube.apps import Deployment, StatefulSet
from cloudlink.kube.core import Node, Pod
from edged.model import ContainerPhase, Desired
from tests.simulation.hub import SimulatedHub
from tests.simulation.node import SimulatedNode

INDEXES = ("_owned", "_on_node", "_claims_on", "_loose")


def disagreements(hub: SimulatedHub, nodes: list[SimulatedNode]) -> list[str]:
    """Sentences; none when all is well."""
    store, manager = hub.store, hub.manager
    if store is None or manager is None:
        return ["the hub is down"]
    found: list[str] = []
    for node in nodes:
        found += _of_node(store, node)
    found += _of_pods(store)
    for deployment in store.list("Deployment"):
        assert isinstance(deployment, Deployment)
        found += _of_deployment(store, deployment)
    for there in store.list("StatefulSet"):
        assert isinstance(there, StatefulSet)
        ready = sum(
            p.metadata.name in {f"{there.metadata.name}-{n}" for n in range(there.spec.replicas)} and is_ready(p)
            for p in store.list("Pod")
            if isinstance(p, Pod)
        )
        waits = any(isinstance(p, Pod) and not p.spec.node_name and not _room_for(store, p) for p in store.list("Pod"))
        if ready != there.spec.replicas and not waits:
            found.append(f"StatefulSet {there.metadata.name} wants {there.spec.replicas}, {ready} are ready")
    return found + _of_indexes(store, manager)


def _told(store: Store, node: str) -> Desired | None:
    """The document that the hub has written down for a node."""
    raw = store.get_record(documents.BUCKET, node)
    if raw is None:
        return None
    return msgspec.msgpack.decode(msgspec.msgpack.decode(raw, type=documents.Told).desired, type=Desired)


def _of_node(store: Store, node: SimulatedNode) -> list[str]:
    """The node works by the document that the hub gave it last, and what runs there is what that says."""
    name, desired = node.name, node.desired
    bound = {p.metadata.uid: p for p in store.list("Pod") if isinstance(p, Pod) and p.spec.node_name == name}
    wanted = {uid for uid, p in bound.items() if not is_deleted(p)}
    if desired is None:
        return [f"{name} was told nothing and should run {len(wanted)} pods"] if wanted else []
    if desired != _told(store, name):
        return [f"{name} works by generation {desired.generation}, which is not what the hub told it last"]
    found: list[str] = []
    if {p.uid for p in desired.pods} != wanted:
        found.append(f"the document of {name} has {len(desired.pods)} pods, {len(wanted)} are bound there")
    running = {(c.pod_uid, c.name) for c in node.hardware.containers.values() if c.phase is ContainerPhase.RUNNING}
    should = {(p.uid, c.name) for p in desired.pods for c in p.containers}
    if orphans := sorted(running - should):
        found.append(f"{name} runs {orphans}, which nobody wants")
    if missing := sorted(should - running):
        found.append(f"{name} doesn't run {missing}")
    sandboxes = sorted(node.hardware.sandboxes.keys() - {p.uid for p in desired.pods})
    if sandboxes:
        found.append(f"{name} still has what is left of {sandboxes}")
    return found


def _of_pods(store: Store) -> list[str]:
    found = []
    for pod in store.list("Pod"):
        assert isinstance(pod, Pod)
        if not pod.metadata.owner_references:
            found.append(f"pod {pod.metadata.name} has no owner")
        if is_deleted(pod):
            found.append(f"pod {pod.metadata.name} is still ending on {pod.spec.node_name!r}")
    return found


def _of_deployment(store: Store, deployment: Deployment) -> list[str]:
    """Available in full, or as far as the room allows: pods that wait say so, and there is no room for them."""
    status, wanted = deployment.status, deployment.spec.replicas
    name = deployment.metadata.name
    if status.available_replicas == wanted and status.updated_replicas == wanted and status.replicas == wanted:
        return []
    labels = deployment.spec.selector.match_labels
    mine = [
        p
        for p in store.list("Pod")
        if isinstance(p, Pod) and is_active(p) and labels.items() <= p.metadata.labels.items()
    ]
    waiting = [p for p in mine if not p.spec.node_name]
    fits = [f"{p.metadata.name} on {where}" for p in waiting if (where := _room_for(store, p))]
    if fits:
        return [f"{name} waits for {fits}, where there is room"]
    if waiting and len(mine) >= wanted and all(is_ready(p) for p in mine if p.spec.node_name):
        return []
    return [
        f"Deployment {name} wants {wanted}: {status.available_replicas} available, {status.updated_replicas} updated,"
        f" {status.replicas} in all, {len(waiting)} wait"
    ]


def _room_for(store: Store, pod: Pod) -> str:
    """By arithmetic of its own: a node with memory and host ports left for it; "" if there is none."""
    for node in store.list("Node"):
        assert isinstance(node, Node)
        ready = any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)
        if node.spec.unschedulable or not ready or node.spec.taints:
            continue
        there = [
            p
            for p in store.list("Pod")
            if isinstance(p, Pod) and p.spec.node_name == node.metadata.name and not is_finished(p)
        ]
        taken = {port for p in there for port in _ports(p)}
        room = _mebibytes(node.status.allocatable.get("memory", "0")) - sum(_memory(p) for p in there)
        if _memory(pod) <= room and not taken & _ports(pod):
            return node.metadata.name
    return ""


def _ports(pod: Pod) -> set[int]:
    return {port.host_port for c in pod.spec.containers for port in c.ports if port.host_port}


def _memory(pod: Pod) -> int:
    return sum(_mebibytes(c.resources.requests.get("memory", "0")) for c in pod.spec.containers)


def _mebibytes(text: str) -> int:
    """The simulation writes nothing but Mi; nodes are whole ones, too."""
    if text.endswith("Mi"):
        return int(text[:-2])
    if text.endswith("Gi"):
        return int(text[:-2]) * 1024
    return int(text.removesuffix("Ki") or 0) // (1024 if text.endswith("Ki") else 1 << 20)


def _of_indexes(store: Store, manager: Manager) -> list[str]:
    """What the manager keeps beside the store says the same as what is worked out anew. Private, for that is what a
    second memory would be: nobody else may look."""
    kept, fresh = manager._world, World(store)
    found = [f"the index {name} disagrees with the store" for name in INDEXES if vars(kept)[name] != vars(fresh)[name]]
    tenancy = manager._scheduler._tenancy
    mine, anew = tenancy.fleet(tenancy.places()), Tenancy(fresh).fleet(tenancy.places())
    if {k: t.node for k, t in mine.tenants.items()} != {k: t.node for k, t in anew.tenants.items()}:
        found.append("the scheduler knows other tenants than the store")
    free = {
        name: {n.metadata.name: int(room) for n, room in zip(mine.map.nodes, row, strict=True)}
        for name, row in mine.free.items()
    }
    true = {
        name: {n.metadata.name: int(room) for n, room in zip(anew.map.nodes, row, strict=True)}
        for name, row in anew.free.items()
    }
    if free != true:
        found.append(f"the scheduler thinks that {free} is free, and it is {true}")
    return found
