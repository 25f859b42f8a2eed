"""What nodes say, made into changes: statuses of pods and nodes, their events, and who is there at all.

Takes decoded messages, answers with changes for one commit; knows no MQTT. A node may speak only of itself and of
pods that are bound to it; whatever else it says is passed over.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from cloudlink.hub.attendance import NEVER, Attendance
from cloudlink.hub.changes import Change, Create, Delete, PutRecord, Update, UpdateStatus
from cloudlink.hub.controllers import events
from cloudlink.hub.controllers.nodes import with_labels
from cloudlink.hub.decision import Note
from cloudlink.hub.documents import Documents
from cloudlink.hub.fitting import Fitted
from cloudlink.hub.learned import Lessons
from cloudlink.hub.objects import FINISHED, find_condition, is_deleted, rfc3339
from cloudlink.hub.store import Store
from cloudlink.hub.world import World
from cloudlink.kube.core import Event, Node, NodeCondition, Pod, PodStatus
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.status import Absence, away, lost_connection, node_status, pod_status, silence, unreachable
from cloudlink.wire import Presence
from edged import model

log = logging.getLogger(__name__)

BUCKET = "heard"
EPOCHS_KEPT = 8
TOO_LARGE = "DocumentTooLarge"  # reason of a pod that its node can't be told of
COMPONENT_OF_LIFE = "node-controller"
WHY = {
    "NodeUnreachable": "edged is not connected",
    "NodeStatusUnknown": "edged said nothing since the hub reached its broker",
}
COMPONENT = "edged"  # who a node's events come from, as Kubernetes' say kubelet


class Memory(msgspec.Struct, frozen=True):
    """A record: how far we have listened to a node, so that nothing is told twice after a restart of the hub.

    :ivar epochs: lives of its daemon, the newest last; what an earlier one says is late post.
    :ivar seq: number of the last event of the newest epoch.
    """

    epochs: tuple[str, ...] = ()
    seq: int = 0


@dataclass(slots=True)
class Heard:
    """What one node said since this hub started.

    :ivar absence: why it counts as away, if it does.
    """

    memory: Memory
    status: model.NodeStatus | None = None
    attendance: Attendance = field(default_factory=Attendance)
    absence: Absence | None = None
    fresh_events: deque[model.Event] = field(default_factory=lambda: deque(maxlen=256))


class Shown(NamedTuple):
    """What a node said of a pod last, and the very status that was stored for it."""

    report: model.PodStatus
    address: str
    status: PodStatus


class Reports:
    """Bounded by the number of nodes that hold a certificate, and of pods."""

    def __init__(self, store: Store, world: World, documents: Documents, now: Callable[[], float]) -> None:
        self._store, self._world, self._documents, self._now = store, world, documents, now
        self._heard: dict[str, Heard] = {}
        self._shown_as: dict[str, Shown] = {}  # by the uid of a pod
        self._complained: dict[str, str] = {}
        self._lessons = Lessons(store, world)
        self._present_lately: set[str] = set()  # since the broker was last reached

    # ------------------------------------------------------------ hearing

    def hear_status(self, status: model.NodeStatus, live: bool) -> bool:
        """Remember what a node says. False if it is older than what we know.

        :param live: it came while we listened, not out of the broker's memory: the node is there.
        """
        heard = self._of(status.node)
        memory, before = heard.memory, heard.status
        if status.epoch in memory.epochs[:-1]:
            return False
        same_life = memory.epochs[-1:] == (status.epoch,)
        if same_life and before is not None and status.generation < before.generation:
            return False
        last = memory.seq if same_life else 0
        heard.fresh_events.extend(e for e in status.events if e.seq > last)
        epochs = memory.epochs if same_life else (*memory.epochs, status.epoch)[-EPOCHS_KEPT:]
        heard.memory = Memory(epochs, max((e.seq for e in status.events), default=last))
        heard.status = status
        if live:
            heard.attendance.came()
            self._present_lately.add(status.node)
        return True

    def hear_presence(self, node: str, presence: Presence, live: bool) -> bool:
        """Remember whether a node is connected; False if that is no news, or not to be believed yet.

        :param live: it came while we listened. That a node was connected once, out of the broker's memory, may be older
            than the broker's own last start: it counts, but not as a word of the node.
        """
        heard = self._of(node)
        if live or not presence.online:
            self._present_lately.add(node)
        if presence.online:
            return heard.attendance.came(presence.epoch)
        if heard.attendance.left(presence.epoch, self._now()):
            heard.absence = lost_connection(rfc3339(self._now()))
            return True
        return False

    def listening_anew(self) -> None:
        """The broker was reached again: from now on we wait to hear who is there."""
        self._present_lately.clear()

    def silent(self, grace: float) -> list[str]:
        """Nodes that count as present, but have not been heard since; to be called `grace` seconds after
        listening_anew."""
        found = []
        for node in self._world.all(Node):
            name = node.metadata.name
            if name not in self._present_lately and self._is_present(name, node):
                self._is_gone(name, silence(rfc3339(self._now()), grace))
                found.append(name)
        return found

    def next_loss(self) -> float:
        """When an absence that was heard of is to be believed, in seconds since 1970."""
        return min((h.attendance.due for h in self._heard.values()), default=NEVER)

    def lost(self) -> list[str]:
        """Nodes whose absence is to be believed now."""
        now = self._now()
        found = [name for name, heard in self._heard.items() if heard.attendance.overdue(now)]
        for name in found:
            self._is_gone(name, lost_connection(rfc3339(now)))
        return found

    def _is_gone(self, node: str, absence: Absence) -> None:
        heard = self._of(node)
        heard.absence = absence
        heard.attendance.gone()

    def _of(self, node: str) -> Heard:
        if node not in self._heard:
            raw = self._store.get_record(BUCKET, node)
            self._heard[node] = Heard(_memory(raw))
        return self._heard[node]

    # ------------------------------------------------------------ what follows from it

    def changes(self, nodes: Iterable[str]) -> list[Change]:
        """Everything to commit after hearing these nodes; nothing for those that say what is known already."""
        changes: list[Change] = []
        notes: list[Note] = []
        for name in nodes:
            changes += self._node_changes(name, notes)
        return [*changes, *events.record(notes, self._find_event, self._now())]

    def _node_changes(self, name: str, notes: list[Note]) -> list[Change]:
        heard = self._of(name)
        now = rfc3339(self._now())
        node = self._world.get(Node, "", name)
        present = self._is_present(name, node)
        changes: list[Change] = []
        if node is None:
            if heard.status is None:
                return []
            node = with_labels(_new_node(heard.status), heard.status.labels)
            changes.append(Create(node))
        elif heard.status is not None and (labelled := with_labels(node, heard.status.labels)) != node:
            changes.append(Update(labelled))
        before = node.status
        after = node_status(heard.status, now, before) if heard.status is not None else before
        if not present:
            after = away(after, before, heard.absence or lost_connection(now), now)
        elif heard.status is None and _readiness(before.conditions) == "Unknown":
            return []  # it is there again; how it is, its status tells, which follows
        if after != before or changes:
            changes.append(UpdateStatus(node.model_copy(update={"status": after})))
            notes += _readiness_notes(node, before.conditions, after.conditions)
        changes += self._pod_changes(name, heard.status, present, now)
        notes += self._said(heard, node)
        changes += self._lessons.changes()
        record = msgspec.msgpack.encode(heard.memory)
        changes.append(PutRecord(BUCKET, name, record))
        return changes

    def _pod_changes(self, node: str, status: model.NodeStatus | None, present: bool, now: str) -> list[Change]:
        told = {p.uid: p for p in status.pods} if status is not None else {}
        changes: list[Change] = []
        for pod in self._world.on_node(node):
            report = told.get(pod.metadata.uid)
            if gone := self.farewell(pod, status):
                changes += gone
                continue
            after = pod.status
            if report is not None and status is not None:
                after = self._shown(report, pod, now, status.address)
            if not present and after.start_time and after.phase not in FINISHED:
                after = unreachable(after, pod, now)
            if after != pod.status:
                changes.append(UpdateStatus(pod.model_copy(update={"status": after})))
        return changes

    def _shown(self, report: model.PodStatus, pod: Pod, now: str, address: str) -> PodStatus:
        """The status that a report means. A node tells of all its pods each time, of most what it said before."""
        shown, uid = self._shown_as, report.uid
        known = shown.get(uid)
        if known is not None and known.status is pod.status and (known.report, known.address) == (report, address):
            return pod.status
        after = pod_status(report, pod, now, address)
        self._lessons.hear(pod, report)
        shown[uid] = Shown(report, address, after if after != pod.status else pod.status)
        return after

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        self._shown_as.pop(uid, None)

    def farewell(self, pod: Pod, status: model.NodeStatus | None) -> list[Change]:
        """Remove a pod for good once its node works by a document without it and doesn't report it any more."""
        if status is None or not is_deleted(pod) or any(p.uid == pod.metadata.uid for p in status.pods):
            return []
        if not self._documents.is_gone(status.node, pod.metadata.uid, status.generation):
            return []
        return [Delete("Pod", pod.metadata.namespace, pod.metadata.name, uid=pod.metadata.uid)]

    def farewells(self, node: str) -> list[Change]:
        """The same for all pods of a node, by what it said last."""
        heard = self._heard.get(node)
        status = heard.status if heard is not None else None
        return [c for pod in self._world.on_node(node) for c in self.farewell(pod, status)]

    def _is_present(self, name: str, node: Node | None) -> bool:
        present = self._of(name).attendance.present
        if present is not None:
            return present
        return node is not None and _readiness(node.status.conditions) in ("True", "False")

    # ------------------------------------------------------------ events

    def _said(self, heard: Heard, node: Node) -> list[Note]:
        """The node's own words, each about the pod that it names if that pod is (still) bound there."""
        pods = {p.metadata.uid: p for p in self._world.on_node(node.metadata.name)}
        notes: list[Note] = []
        while heard.fresh_events:
            e = heard.fresh_events.popleft()
            about = pods.get(e.pod) if e.pod else node
            if about is None:
                continue
            path = _field_path(about, e.container)
            warns = e.kind == "Warning"
            notes.append(
                Note(about, "Warning" if warns else "Normal", e.reason, e.message, COMPONENT, node.metadata.name, path)
            )
        return notes

    def complaints(self, problems: Mapping[str, str], fitted: Mapping[str, Fitted]) -> list[Change]:
        """What people are told of documents that can't be sent as they should be, each reason once: an Event on the
        node, or on the pod that is too large, and the pod's own status if its node doesn't know of it."""
        notes, changes = [], []
        told = dict(problems)
        for name, why in problems.items():
            node = self._world.get(Node, "", name)
            if node is not None and self._complained.get(name) != why:
                log.error("node %s can't be told anything new: %s", name, why)
                notes.append(Note(node, "Warning", "DesiredStateNotSent", why, "exchange"))
        for name, parts in fitted.items():
            for pod in self._world.on_node(name):
                uid = pod.metadata.uid
                why = parts.left_out.get(uid) or parts.held_back.get(uid, "")
                if not why:
                    continue
                told[uid] = why
                if self._complained.get(uid) != why:
                    log.error("pod %s on node %s: %s", pod.title, name, why)
                    notes.append(Note(pod, "Warning", TOO_LARGE, why, "exchange"))
                if uid in parts.left_out and (pod.status.reason, pod.status.message) != (TOO_LARGE, why):
                    status = pod.status.model_copy(update={"reason": TOO_LARGE, "message": why})
                    changes.append(UpdateStatus(pod.model_copy(update={"status": status})))
        self._complained = told
        return [*changes, *events.record(notes, self._find_event, self._now())]

    def _find_event(self, namespace: str, name: str) -> Event | None:
        return self._world.get(Event, namespace, name)


def _field_path(about: Node | Pod, container: str) -> str:
    """As the kubelet's events name a container."""
    if not container:
        return ""
    first = isinstance(about, Pod) and any(c.name == container for c in about.spec.init_containers)
    return f"spec.{'initContainers' if first else 'containers'}{{{container}}}"


def _memory(raw: bytes | None) -> Memory:
    try:
        return msgspec.msgpack.decode(raw, type=Memory) if raw else Memory()
    except (msgspec.MsgspecError, ValueError):
        return Memory()  # at worst, a few events are counted twice


def _new_node(status: model.NodeStatus) -> Node:
    labels = {"kubernetes.io/hostname": status.node, "kubernetes.io/os": "linux"}
    if status.capacity.architecture:
        labels["kubernetes.io/arch"] = status.capacity.architecture
    return Node(metadata=ObjectMeta(name=status.node, labels=labels))


def _readiness(conditions: tuple[NodeCondition, ...]) -> str:
    """Status of the Ready condition; "" while there is none."""
    ready = find_condition(conditions, "Ready")
    return ready.status if ready is not None else ""


def _readiness_notes(node: Node, before: tuple[NodeCondition, ...], after: tuple[NodeCondition, ...]) -> list[Note]:
    was, is_now = find_condition(before, "Ready"), find_condition(after, "Ready")
    if is_now is None or (was is not None and was.status == is_now.status):
        return []
    name = node.metadata.name
    if is_now.status == "True":
        return [Note(node, "Normal", "NodeReady", f"Node {name} status is now: NodeReady", COMPONENT_OF_LIFE)]
    why = WHY.get(is_now.reason, is_now.message)  # without a time: an event that comes again is counted
    return [Note(node, "Warning", "NodeNotReady", f"Node {name} status is now: NodeNotReady: {why}", COMPONENT_OF_LIFE)]
