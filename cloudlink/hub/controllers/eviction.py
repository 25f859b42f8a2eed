"""NoExecute taints -> pods that end, each when it has stood the taints of its node for as long as it tolerates them.

After Kubernetes' pkg/controller/tainteviction, with two differences. The time counts from the taint's `timeAdded`,
which is stored, so that a hub that starts anew neither forgets how long a node has been away nor counts from its own
start. And a pod whose data is on a node that is merely lost stays bound there: nobody else could run it, and a node
that comes back would have to start it again for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cloudlink.hub.changes import UpdateStatus
from cloudlink.hub.decision import NEVER, Decision, Note
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import find_condition, is_deleted, rfc3339, seconds, with_condition
from cloudlink.kube.core import Node, Pod, PodCondition, Taint, Toleration
from cloudlink.kube.taints import OF_LIFE, UNREACHABLE, endures, executing

COMPONENT = "taint-eviction-controller"
HELD = "EvictionHeld"


def reconcile(pod: Pod, node: Node, now: float, settled_at: float = 0.0, tied: Sequence[str] = ()) -> Decision:
    """Decide about one pod that is bound to this node. `now` in seconds since 1970.

    :param settled_at: until then the hub has not listened for long enough to believe that nodes are away; it ends
        nothing because of that. :param tied: claims of the pod whose data is on this node.
    """
    if is_deleted(pod):
        return Decision()
    taints = executing(node.spec.taints)
    if not taints:
        return Decision()
    lost = [t for t in taints if t.key in OF_LIFE and _holds(t, node)]
    other = [t for t in taints if t.key not in OF_LIFE]
    tolerations = pod.spec.tolerations
    at, why = due_at(other, tolerations, now)
    lost_at, lost_why = due_at(lost, tolerations, now)
    lost_at = max(lost_at, settled_at)
    if tied and lost_at <= now < at:
        return Decision(notes=(_held(pod, node, tied),), wake_at=at)
    if lost_at < at and not tied:
        at, why = lost_at, lost_why
    if at > now or why is None:
        return Decision(wake_at=min(at, lost_at))
    return _evicted(pod, node, why, now)


def due_at(taints: Iterable[Taint], tolerations: Sequence[Toleration], now: float) -> tuple[float, Taint | None]:
    """When the first of these taints (NoExecute) is no longer tolerated, and which; NEVER and None where none ever is.

    A taint that doesn't say when it was added is as new as can be.
    """
    found: list[tuple[float, Taint]] = []
    for taint in taints:
        patience = endures(taint, tolerations)
        if patience < NEVER:
            found.append(((seconds(taint.time_added) or now) + patience if patience else 0.0, taint))
    return min(found, key=lambda f: f[0], default=(NEVER, None))


def _holds(taint: Taint, node: Node) -> bool:
    """Whether a taint of the node's life still says the truth: a node that has just come back may have it yet."""
    ready = find_condition(node.status.conditions, "Ready")
    if ready is None or ready.status == "True":
        return False
    return (ready.status == "Unknown") == (taint.key == UNREACHABLE)


def _evicted(pod: Pod, node: Node, taint: Taint, now: float) -> Decision:
    condition = PodCondition(
        type="DisruptionTarget",
        status="True",
        reason="DeletionByTaintManager",
        message="Taint manager: deleting due to NoExecute taint",
        last_transition_time=rfc3339(now),
    )
    status = pod.status.model_copy(update={"conditions": with_condition(pod.status.conditions, condition)})
    asked = deletion(pod)
    if asked is None:
        return Decision()
    since = f" since {taint.time_added}" if taint.time_added else ""
    named = f"{taint.key}={taint.value}" if taint.value else taint.key
    text = f"Marking for deletion Pod {pod.title}: node {node.metadata.name} has taint {named}:NoExecute{since}"
    note = Note(pod, "Normal", "TaintManagerEviction", text, COMPONENT)
    return Decision((UpdateStatus(pod.model_copy(update={"status": status})), asked), (note,))


def _held(pod: Pod, node: Node, tied: Sequence[str]) -> Note:
    name = node.metadata.name
    what = f"claim {tied[0]}" if len(tied) == 1 else f"claims {', '.join(tied)}"
    text = (
        f"not moved: the data of {what} is on node {name} and nowhere else; the pod goes on when the node is back."
        f" If it never will be, give the data up: delete node {name} and the claim"
    )
    return Note(pod, "Warning", HELD, text, COMPONENT)
