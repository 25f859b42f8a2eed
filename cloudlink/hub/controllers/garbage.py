"""What nobody wants any more: objects whose owner is gone, what is left in a dying namespace, pods of lost nodes.

After Kubernetes' garbage collector (background policy), namespace controller and pod garbage collector. The store
itself removes a dying namespace once it is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cloudlink.hub.changes import Delete, MarkDeleted, ObjectChange
from cloudlink.hub.controllers.replicaset import remove_pod
from cloudlink.hub.decision import Decision
from cloudlink.hub.objects import is_deleted
from cloudlink.kube.core import Namespace, Pod
from cloudlink.kube.meta import KubeObject

Exists = Callable[[str, str, str, str], bool]  # kind, namespace, name, uid


def orphan(obj: KubeObject, exists: Exists) -> Decision:
    """Remove an object all of whose owners are gone, or have been made anew under the same names."""
    owners = obj.metadata.owner_references
    if not owners or is_deleted(obj):
        return Decision()
    if any(exists(o.kind, obj.metadata.namespace, o.name, o.uid) for o in owners):
        return Decision()
    return Decision((_remove(obj),))


def lost_pod(pod: Pod, node_exists: bool) -> Decision:
    """End a pod that nobody will ever report about: on its way out without a node, or its node was removed.

    A pod that names a node which never was there stays: somebody may be about to add that node.
    """
    nowhere = not pod.spec.node_name
    was_there = bool(pod.status.start_time or is_deleted(pod))
    if (nowhere and is_deleted(pod)) or (not nowhere and not node_exists and was_there):
        return Decision((Delete("Pod", pod.metadata.namespace, pod.metadata.name, uid=pod.metadata.uid or None),))
    return Decision()


def dying_namespace(namespace: Namespace, content: Sequence[KubeObject]) -> Decision:
    """Empty a namespace that was asked to end. Events stay until the last: they tell how it went."""
    if not is_deleted(namespace):
        return Decision()
    wanted = [o for o in content if o.kind != "Event" and not is_deleted(o)]
    return Decision(tuple(_remove(o) for o in wanted))


def _remove(obj: KubeObject) -> ObjectChange:
    if isinstance(obj, Pod):
        return remove_pod(obj)
    if obj.metadata.finalizers:  # somebody (for a claim, its pods) isn't through with it
        return MarkDeleted(obj.kind, obj.metadata.namespace or None, obj.metadata.name, 0)
    return Delete(obj.kind, obj.metadata.namespace or None, obj.metadata.name, uid=obj.metadata.uid or None)
