"""The node-life controller's part of a round: the fleet is looked at as a whole, whenever a node's life changes."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from cloudlink.hub.controllers import node_life
from cloudlink.hub.controllers.node_life import COMPONENT, Knobs
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
    """Remembers only what was said last, so that it is said once.

    :param listening: since when nodes are heard at all.
    """

    def __init__(self, knobs: Knobs | None = None, listening: Listening | None = None) -> None:
        self._knobs = knobs or Knobs()
        self.listening = listening or Always()
        self._held = False

    def concerned(self, event: WatchEvent, world: World) -> Iterator[Task]:
        """Who has to look because of this: the fleet's life, and pods of a node whose taints or readiness changed."""
        new, old = event.object, event.before
        if not isinstance(new, Node):
            return
        before = node_life.seen(old) if isinstance(old, Node) and event.type == "MODIFIED" else None
        if before == node_life.seen(new) and event.type == "MODIFIED":
            return
        yield LIVES
        for pod in world.on_node(new.metadata.name):
            yield Task("Pod", "Pod", pod.metadata.namespace, pod.metadata.name)

    def decide(self, world: World, now: float) -> Decision:
        nodes = world.all(Node)
        verdict = node_life.reconcile(nodes, now, self._knobs)
        notes: tuple[Note, ...] = ()
        if bool(verdict.held) != self._held:
            self._held = bool(verdict.held)
            if len(verdict.lost) == 1 == len(nodes):
                log.info("evictions are held: %s", verdict.held)  # nothing that anybody could do better
            elif verdict.held:
                log.warning("evictions are held: %s", verdict.held)
                told = {n.metadata.name: n for n in nodes}
                notes = tuple(
                    Note(told[name], "Warning", "EvictionHeld", verdict.held, COMPONENT)
                    for name in verdict.lost[:TOLD_EACH]
                )
            else:
                log.info("evictions go on; lost nodes: %d", len(verdict.lost))
        return Decision(verdict.changes, notes, verdict.wake_at)
