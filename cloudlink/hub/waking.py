"""Which news can give a node to a pod that waits; the scheduler sleeps through all others. Pure, but for its memory.

With thousands of pods that fit nowhere, a round that finds that out again costs seconds; the nodes' heartbeats and the
pods' own conditions come all the time.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloudlink.hub.objects import is_finished
from cloudlink.hub.watch import WatchEvent
from cloudlink.kube.core import Namespace, Node, Pod


class Waking:
    """:param waiting: pods that have no node when this is made."""

    def __init__(self, waiting: Iterable[Pod]) -> None:
        # Pods that wait and mind where others are. Bounded by the pods that wait.
        self._minding = {_key(p) for p in waiting if _minds(p)}

    def by(self, event: WatchEvent) -> bool:
        """Whether the pods that wait have to be looked at again."""
        obj = event.object
        match obj:
            case Pod():
                before = event.before if isinstance(event.before, Pod) else None
                return self._pod(before, obj, event.type == "DELETED")
            case Node():
                return not isinstance(event.before, Node) or event.type != "MODIFIED" or _changed(event.before, obj)
            case Namespace():
                return event.before is not None and event.before.metadata.labels != obj.metadata.labels
        return False

    def _pod(self, before: Pod | None, after: Pod, gone: bool) -> bool:
        waits = not gone and not after.spec.node_name
        if waits and _minds(after):
            self._minding.add(_key(after))
        else:
            self._minding.discard(_key(after))
        if gone or before is None:
            return gone or waits or bool(self._minding)
        if waits:
            return (before.spec, before.metadata.labels) != (after.spec, after.metadata.labels)
        if is_finished(after) != is_finished(before):
            return True
        moved = before.spec.node_name != after.spec.node_name or before.metadata.labels != after.metadata.labels
        return moved and bool(self._minding)


def _minds(pod: Pod) -> bool:
    affinity = pod.spec.affinity
    near = affinity is not None and (affinity.pod_affinity is not None or affinity.pod_anti_affinity is not None)
    return near or bool(pod.spec.topology_spread_constraints)


def _changed(before: Node, after: Node) -> bool:
    """In what decides who may run there, and how much of it."""
    return (
        before.metadata.labels != after.metadata.labels
        or before.spec != after.spec
        or (before.status.allocatable, before.status.capacity) != (after.status.allocatable, after.status.capacity)
        or _conditions(before) != _conditions(after)
    )


def _conditions(node: Node) -> dict[str, bool]:
    return {c.type: c.status == "True" for c in node.status.conditions}


def _key(pod: Pod) -> tuple[str, str]:
    return pod.metadata.namespace, pod.metadata.name
