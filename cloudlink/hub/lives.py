"""The node-life controller's part of a round: the fleet is looked at as a whole, whenever a node's life changes."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from cloudlink.hub.controllers import node_life
from cloudlink.hub.controllers.node_life import COMPONENT, Census, Knobs
from cloudlink.hub.decision import Decision, Note
from cloudlink.hub.listening import Always, Listening
from cloudlink.hub.watch import WatchEvent
from cloudlink.hub.workqueue import Task
from cloudlink.hub.world import World
from cloudlink.kube.core import Node

log = logging.getLogger(__name__)

LIVES = Task("lives", "", "", "")
TOLD_EACH = 10  # lost nodes that get an event about a disruption; more would say nothing new


class Lives:
    """Keeps count of the nodes, and remembers what was said last, so that it is said once.

    :param listening: since when nodes are heard at all.
    """

    def __init__(self, knobs: Knobs | None = None, listening: Listening | None = None) -> None:
        self._knobs = knobs or Knobs()
        self.listening = listening or Always()
        self._census = Census()
        self._dirty: set[str] = set()  # nodes whose taints may not be what they should
        self._held = False

    def begin(self, world: World) -> None:
        """Count anew: at the start, and where events were missed."""
        self._census, self._dirty = Census(), set()
        for node in world.all(Node):
            self._census.note(node)
            self._dirty.add(node.metadata.name)

    def concerned(self, event: WatchEvent, world: World) -> Iterator[Task]:
        """Who has to look because of this: the fleet's life, and pods of a node whose taints or readiness changed."""
        new, old = event.object, event.before
        if not isinstance(new, Node):
            return
        before = node_life.seen(old) if isinstance(old, Node) and event.type == "MODIFIED" else None
        if before == node_life.seen(new) and event.type == "MODIFIED":
            return
        self._census.note(new, gone=event.type == "DELETED")
        self._dirty.add(new.metadata.name)
        yield LIVES
        for pod in world.on_node(new.metadata.name):
            yield Task("Pod", "Pod", pod.metadata.namespace, pod.metadata.name)

    def decide(self, world: World, now: float) -> Decision:
        nodes = [n for name in self._dirty if (n := world.get(Node, "", name)) is not None]
        verdict = node_life.reconcile(nodes, self._census, now, self._knobs)
        # Until the commit is heard of: it may be refused.
        self._dirty = {c.object.metadata.name for c in verdict.changes}
        return Decision(verdict.changes, tuple(self._said(verdict.held)), verdict.wake_at)

    def _said(self, held: str) -> Iterator[Note]:
        if bool(held) == self._held:
            return
        self._held = bool(held)
        lost = self._census.lost
        if not held:
            log.info("evictions go on; lost nodes: %d", len(lost))
        elif len(self._census.spoke) == 1:
            log.info("evictions are held: %s", held)  # nothing that anybody could do better
        else:
            log.warning("evictions are held: %s", held)
            for name in sorted(lost)[:TOLD_EACH]:
                yield Note(lost[name], "Warning", "EvictionHeld", held, COMPONENT)
