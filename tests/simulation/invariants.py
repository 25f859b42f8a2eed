"""What must hold after every event. Docs: docs/simulation.md names each of these and says exactly what it means."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from cloudlink import trust
from cloudlink.hub.errors import Gone
from cloudlink.hub.objects import controller_of, is_active, is_deleted
from cloudlink.hub.store import Store, Subscription, WatchEvent
from cloudlink.kube.apps import ReplicaSet
from cloudlink.kube.core import Node, Pod
from edged.decide import lifecycle
from edged.decide.keep import DONE
from edged.model import Container, ContainerState, Desired, container_identity
from edged.model import Pod as NodePod
from tests.simulation.node import SimulatedNode
from tests.simulation.stage import Stage

CYCLE = 120.0  # seconds that a plan under way may still act for the document before; steps take seconds at most
PROBED = ("liveness probe failed", "startup probe failed")


class Live:
    """Who runs where, by pod uid."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, ContainerState]] = {}  # node -> container id -> state
        self.pods: dict[str, dict[str, NodePod]] = {}  # node -> pod uid -> pod, of those that live or are being started
        self.nodes_of: dict[str, set[str]] = {}  # pod uid -> nodes where containers of it live

    def begin(self, node: str, pod: NodePod) -> None:
        self.pods.setdefault(node, {})[pod.uid] = pod

    def add(self, node: str, state: ContainerState) -> None:
        self.containers.setdefault(node, {})[state.id] = state
        self.nodes_of.setdefault(state.pod_uid, set()).add(node)

    def drop(self, node: str, state: ContainerState) -> None:
        mine = self.containers.get(node, {})
        mine.pop(state.id, None)
        if not any(s.pod_uid == state.pod_uid for s in mine.values()):
            self.pods.get(node, {}).pop(state.pod_uid, None)
            nodes = self.nodes_of.get(state.pod_uid, set())
            nodes.discard(node)
            if not nodes:
                self.nodes_of.pop(state.pod_uid, None)

    def forget(self, node: str, uid: str) -> None:
        """A start has come to nothing."""
        if not self.of_pod(node, uid):
            self.pods.get(node, {}).pop(uid, None)

    def of_pod(self, node: str, uid: str) -> list[ContainerState]:
        return [s for s in self.containers.get(node, {}).values() if s.pod_uid == uid]


class Invariants:
    """Implements board.Watch, and looks at what the hub publishes and commits."""

    def __init__(self, stage: Stage, nodes: Mapping[str, SimulatedNode]) -> None:
        self._stage, self._nodes = stage, nodes
        self.live = Live()
        self._generations: dict[tuple[str, int], int] = {}  # (node, disk's life) -> newest generation in force
        self._said: dict[tuple[int, str, int], bytes] = {}  # (lineage, node, generation) -> content
        self._told_at: dict[str, tuple[float, Desired]] = {}  # node -> (since when, its document in force)
        self._before: dict[str, Desired] = {}

    # ------------------------------------------------------------ on the boards

    def starting(self, node: str, pod: NodePod, container: Container) -> None:
        self._look_at(node)
        check = self._stage.check
        there = [s for s in self.live.of_pod(node, pod.uid) if s.name == container.name]
        check(
            not there, f"{node} starts a second attempt of {pod.title} {container.name} beside {[s.id for s in there]}"
        )
        self._check_budget(node, pod)
        self._check_ports(node, pod)
        self._check_elsewhere(node, pod, pod.uid)
        for other in sorted({p.uid for pods in self.live.pods.values() for p in pods.values() if p.title == pod.title}):
            self._check_elsewhere(node, pod, other)
        self.live.begin(node, pod)

    def started(self, node: str, state: ContainerState) -> None:
        self.live.add(node, state)

    def gave_up(self, node: str, pod: NodePod) -> None:
        self.live.forget(node, pod.uid)

    def ended(self, node: str, state: ContainerState) -> None:
        self.live.drop(node, state)

    def stopping(self, node: str, state: ContainerState, reason: str) -> None:
        """Nothing that should run is stopped: not while the document in force wants just this container."""
        self._look_at(node)
        told = self._told_at.get(node)
        if told is None:
            self._stage.check(False, f"{node} stops {state.id} without ever having been told anything")
            return
        since, desired = told
        pod = next((p for p in desired.pods if p.uid == state.pod_uid), None)
        before = self._before.get(node) if since > self._stage.now - CYCLE else None
        meant = (
            not _wants(desired, state)
            or (before is not None and not _wants(before, state))  # decided by the document before
            or reason.startswith(PROBED)
            or reason == DONE
            or state.stop_requested_at > 0
            or (pod is not None and self._is_over(node, pod))
        )
        self._stage.check(meant, f"{node} stops {state.id}, which its document wants ({reason})")

    def _is_over(self, node: str, pod: NodePod) -> bool:
        """Ended for good: by its deadline, by the pressure ladder, or because all of it is through."""
        hardware = self._nodes[node].hardware
        sandbox = hardware.sandboxes.get(pod.uid)
        if sandbox is not None and (sandbox.evicted or not sandbox.ready):
            return True
        newest = {
            s.name: s for s in sorted(hardware.containers.values(), key=lambda s: s.attempt) if s.pod_uid == pod.uid
        }
        return lifecycle.course(pod, newest, {}).over

    def _check_budget(self, node: str, pod: NodePod) -> None:
        there = {uid: p for uid, p in self.live.pods.get(node, {}).items() if uid != pod.uid}
        used = sum(p.memory_request for p in there.values()) + pod.memory_request
        room = self._nodes[node].memory
        self._stage.check(
            used <= room, f"{node} starts {pod.title}: {used >> 20} MiB are requested there of {room >> 20} MiB"
        )

    def _check_ports(self, node: str, pod: NodePod) -> None:
        mine = {(p.protocol, p.host_port) for c in pod.all_containers for p in c.ports if p.host_port}
        if not mine:
            return
        desired = self._nodes[node].desired
        wanted = {p.uid for p in desired.pods} if desired is not None else set()
        for other in self.live.pods.get(node, {}).values():
            if other.uid not in wanted:
                continue  # it is leaving, and its port leads to it no more
            theirs = {(p.protocol, p.host_port) for c in other.all_containers for p in c.ports if p.host_port}
            self._stage.check(
                other.uid == pod.uid or not mine & theirs, f"{node} starts {pod.title} on a port of {other.title}"
            )

    def _check_elsewhere(self, node: str, pod: NodePod, uid: str) -> None:
        """Nothing runs twice beyond one exchange: another node that still runs it (that uid, or that name)
        must not have been told otherwise longer than a grace and a cycle ago."""
        for other in sorted(self.live.nodes_of.get(uid, set()) - {node}):
            since, desired = self._told_at.get(other, (0.0, None))
            still_told = desired is not None and any(p.uid == uid for p in desired.pods)
            leaving = self._stage.now - since <= pod.termination_grace + CYCLE
            self._stage.check(
                still_told or leaving,
                f"{node} starts {pod.title}, which still runs on {other} though that one was told",
            )

    def _look_at(self, name: str) -> None:
        """Note the document in force. Its generation only grows, as long as the disk is the same."""
        node = self._nodes[name]
        desired = node.desired
        if desired is None:
            return
        told = self._told_at.get(name)
        if told is not None and told[1] is desired:
            return
        key = (name, node.disk_life)
        last = self._generations.get(key, 0)
        if told is None or told[1] != desired or last != desired.generation:
            again = last == desired.generation and told is not None and told[1] == desired
            self._stage.check(
                desired.generation > last or again,
                f"{name} goes from generation {last} to {desired.generation}",
            )
            self._generations[key] = max(last, desired.generation)
            if told is not None:
                self._before[name] = told[1]
            self._told_at[name] = (self._stage.now, desired)
            grace = max((p.termination_grace for p in self.live.pods.get(name, {}).values()), default=0.0)
            self._stage.loop.call_later(grace + CYCLE, self._check_rid, name, desired, node.hardware.life, node.daemon)
        else:
            self._told_at[name] = (told[0], desired)

    def _check_rid(self, name: str, desired: Desired, life: int, daemon: object) -> None:
        """A grace and a cycle after a document, nothing runs that it doesn't want."""
        node = self._nodes[name]
        undisturbed = node.on and node.hardware.life == life and node.daemon is daemon and node.desired is desired
        if not undisturbed:
            return
        wanted = {p.uid for p in desired.pods}
        left = sorted(s.id for s in self.live.containers.get(name, {}).values() if s.pod_uid not in wanted)
        self._stage.check(not left, f"{name} has generation {desired.generation} for long and still runs {left}")

    def changed(self, node: SimulatedNode) -> None:
        """A node has said something."""
        self._look_at(node.name)

    # ------------------------------------------------------------ what the hub publishes

    def published(self, lineage: int, node: str, raw: bytes) -> None:
        """One generation never has two contents, and generations of one database only grow."""
        envelope = msgspec.msgpack.decode(raw, type=trust.Envelope)
        key = (lineage, node, envelope.generation)
        content = hashlib.blake2b(envelope.content, digest_size=16).digest()
        before = self._said.setdefault(key, content)
        self._stage.check(before == content, f"the hub gave generation {envelope.generation} of {node} two contents")


def _wants(desired: Desired, state: ContainerState) -> bool:
    """Whether a document has just this container."""
    pod = next((p for p in desired.pods if p.uid == state.pod_uid), None)
    container = next((c for c in pod.all_containers if c.name == state.name), None) if pod is not None else None
    return pod is not None and container is not None and state.identity == container_identity(pod, container)


class HubWatch:
    """Follows the hub's commits in their order: no pod is ended without a reason, no revision is lost."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._pods: dict[str, Pod] = {}  # by uid
        self._sets: dict[str, ReplicaSet] = {}
        self._nodes: set[str] = set()
        self._subscription: Subscription | None = None
        self._store: Store | None = None
        self.revision = 0
        self.asked: set[str] = set()  # uids of pods that people have ended

    def follow(self, store: Store, restored: bool) -> None:
        if not restored:
            self._stage.check(
                store.revision >= self.revision,
                f"the hub comes back at revision {store.revision}, it had {self.revision}",
            )
        self._store = store
        self._subscription = store.subscribe({"Pod", "ReplicaSet", "Node"})
        self._pods = {o.metadata.uid: o for o in store.list("Pod") if isinstance(o, Pod)}
        self._sets = {o.metadata.uid: o for o in store.list("ReplicaSet") if isinstance(o, ReplicaSet)}
        self._nodes = {o.metadata.name for o in store.list("Node")}
        self.revision = store.revision

    def look(self) -> None:
        """Take in what was committed since the last look."""
        if self._subscription is None or self._store is None:
            return
        try:
            news = self._subscription.drain()
        except Gone:
            self.follow(self._store, False)
            return
        for event in news:
            self._stage.check(event.revision > self.revision or event.kind != "Pod", "a revision came twice")
            self.revision = max(self.revision, event.revision)
            self._take(event)
        self.revision = max(self.revision, self._store.revision)

    def _take(self, event: WatchEvent) -> None:
        obj, uid = event.object, event.object.metadata.uid
        match obj:
            case ReplicaSet():
                self._keep(self._sets, event.type, uid, obj)
            case Node():
                (self._nodes.discard if event.type == "DELETED" else self._nodes.add)(obj.metadata.name)
            case Pod():
                before = self._pods.get(uid)
                if before is not None and is_active(before) and (event.type == "DELETED" or is_deleted(obj)):
                    self._check_end(before)
                self._keep(self._pods, event.type, uid, obj)

    @staticmethod
    def _keep(shelf: dict[str, object], kind: str, uid: str, obj: object) -> None:  # type: ignore[override]
        if kind == "DELETED":
            shelf.pop(uid, None)
        else:
            shelf[uid] = obj

    def _check_end(self, pod: Pod) -> None:
        """The hub ends a pod that counts as a replica: there are too many, or its node is gone, or people want it."""
        uid = pod.metadata.uid
        owner = controller_of(pod)
        if uid in self.asked or owner is None or owner.kind != "ReplicaSet":
            self.asked.discard(uid)
            return
        above = self._sets.get(owner.uid)
        if above is None or is_deleted(above) or (pod.spec.node_name and pod.spec.node_name not in self._nodes):
            return
        wanted = above.spec.replicas
        mine = [p for p in self._pods.values() if is_active(p) and (c := controller_of(p)) and c.uid == owner.uid]
        self._stage.check(
            len(mine) > wanted or self._is_excused(pod),
            f"the hub ends pod {pod.metadata.name} though its ReplicaSet wants {wanted} and has {len(mine)}",
        )

    def _is_excused(self, pod: Pod) -> bool:
        """By preemption, or because its node is tainted: the condition says so (DisruptionTarget)."""
        return any(c.type == "DisruptionTarget" and c.status == "True" for c in pod.status.conditions)
