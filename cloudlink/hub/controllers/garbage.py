"""What nobody wants any more: objects whose owners are gone, what is left in a dying namespace, pods of lost nodes.

After Kubernetes' garbage collector, namespace controller and pod garbage collector. The store itself removes a dying
namespace once it is empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from cloudlink.hub.changes import Delete, MarkDeleted, ObjectChange, Update, UpdateStatus
from cloudlink.hub.decision import NEVER, Decision
from cloudlink.hub.deletion import FOREGROUND, ORPHAN, Policy, deletion
from cloudlink.hub.objects import find_condition, is_deleted, rfc3339, with_condition
from cloudlink.kube.core import Namespace, Node, Pod
from cloudlink.kube.meta import Condition, KubeObject, OwnerReference
from cloudlink.kube.taints import OUT_OF_SERVICE

AT_ONCE = 500  # objects of a dying namespace that one round asks to end: a commit of many thousands holds everybody up

# What a reference leads to. "unknown": a kind that isn't served here, or that can't own this; never taken for gone.
Owner = KubeObject | Literal["gone", "unknown"]
OwnerOf = Callable[[KubeObject, OwnerReference], Owner]


# ---------------------------------------------------------------- owners and dependents


def collect(obj: KubeObject, owner_of: OwnerOf, dependents: Sequence[KubeObject]) -> Decision:
    """The garbage collector's answer about one object, given whatever names it as an owner."""
    if is_deleted(obj):
        return _ending(obj, dependents)
    references = obj.metadata.owner_references
    if not references:
        return Decision()
    owners = [(r, owner_of(obj, r)) for r in references]
    loose = [r for r, owner in owners if owner == "gone" or is_waiting(owner)]
    if len(loose) < len(references):
        kept = tuple(r for r in references if r not in loose)
        return Decision((_with(obj, owner_references=kept),) if loose else ())
    if any(is_waiting(owner) for _, owner in owners) and dependents:
        return _foreground(obj, dependents)
    return _decided(deletion(obj, _own_policy(obj)))


def is_waiting(owner: Owner) -> bool:
    """Whether it is being deleted in the foreground: its dependents go first."""
    return isinstance(owner, KubeObject) and is_deleted(owner) and FOREGROUND in owner.metadata.finalizers


def _ending(obj: KubeObject, dependents: Sequence[KubeObject]) -> Decision:
    """Its own finalizers: orphan lets go of the dependents first, foregroundDeletion waits for those that block."""
    meta = obj.metadata
    if ORPHAN in meta.finalizers:
        freed = [_without_owner(d, meta.uid) for d in dependents]
        return Decision((*freed, _without_finalizer(obj, ORPHAN)))
    blocked = any(r.uid == meta.uid and r.block_owner_deletion for d in dependents for r in d.metadata.owner_references)
    if FOREGROUND in meta.finalizers and not blocked:
        return Decision((_without_finalizer(obj, FOREGROUND),))
    return Decision()


def _foreground(obj: KubeObject, dependents: Sequence[KubeObject]) -> Decision:
    """It has dependents of its own: they go before it. In a circle of owners, nobody blocks anybody."""
    if any(is_waiting(d) for d in dependents):
        references = obj.metadata.owner_references
        if any(r.block_owner_deletion for r in references):
            free = tuple(r.model_copy(update={"block_owner_deletion": False}) for r in references)
            return Decision((_with(obj, owner_references=free),))
    return _decided(deletion(obj, "Foreground"))


def _own_policy(obj: KubeObject) -> Policy:
    finalizers = obj.metadata.finalizers
    return "Orphan" if ORPHAN in finalizers else "Foreground" if FOREGROUND in finalizers else "Background"


def _with(obj: KubeObject, **meta: object) -> Update:
    changed = obj.model_copy(update={"metadata": obj.metadata.model_copy(update=meta)})
    return Update(changed, expect=obj.metadata.resource_version or None)


def _without_owner(obj: KubeObject, uid: str) -> Update:
    return _with(obj, owner_references=tuple(r for r in obj.metadata.owner_references if r.uid != uid))


def _without_finalizer(obj: KubeObject, name: str) -> Update:
    return _with(obj, finalizers=tuple(f for f in obj.metadata.finalizers if f != name))


def _decided(change: ObjectChange | None) -> Decision:
    return Decision((change,) if change is not None else ())


# ---------------------------------------------------------------- pods and namespaces


def lost_pod(pod: Pod, node: Node | None) -> Decision:
    """End a pod that nobody will ever report about: on its way out without a node, or its node was removed, or somebody
    has vouched for it that the node is off (Kubernetes' non-graceful node shutdown).

    A pod that names a node which never was there stays: somebody may be about to add that node. One that is held by
    a finalizer (its Job has to count it) is only marked: nobody waits for a node any more.

    :param node: the one that it is bound to; None where there is none.
    """
    nowhere = not pod.spec.node_name
    was_there = bool(pod.status.start_time or is_deleted(pod))
    off = node is not None and is_deleted(pod) and _is_out_of_service(node)
    if (nowhere and is_deleted(pod)) or (not nowhere and node is None and was_there) or off:
        meta = pod.metadata
        if not meta.finalizers:
            return Decision((Delete("Pod", meta.namespace, meta.name, uid=meta.uid or None),))
        if not is_deleted(pod) or meta.deletion_grace_period_seconds:
            return Decision((MarkDeleted("Pod", meta.namespace, meta.name, 0, uid=meta.uid or None),))
    return Decision()


def _is_out_of_service(node: Node) -> bool:
    ready = find_condition(node.status.conditions, "Ready")
    lost = ready is None or ready.status != "True"
    return lost and any(t.key == OUT_OF_SERVICE for t in node.spec.taints)


def dying_namespace(namespace: Namespace, content: Sequence[KubeObject], now: float) -> Decision:
    """Empty a namespace that was asked to end, and say what it still waits for. Events stay until the last: they
    tell how it went."""
    if not is_deleted(namespace):
        return Decision()
    content = [o for o in content if o.kind != "Event"]
    wanted = [o for o in content if not is_deleted(o)]
    changes = [c for o in wanted[:AT_ONCE] if (c := deletion(o, "Background")) is not None]
    told = _waiting_for(namespace, [o for o in content if is_deleted(o)], now)
    if told.status != namespace.status:
        changes.append(UpdateStatus(told))  # type: ignore[arg-type]
    return Decision(tuple(changes), wake_at=now if len(wanted) > AT_ONCE else NEVER)


def _waiting_for(namespace: Namespace, left: Sequence[KubeObject], now: float) -> Namespace:
    """The conditions that Kubernetes' namespace controller sets, so that a namespace that won't go says why."""
    kinds = Counter(o.kind for o in left)
    finalizers = Counter(f for o in left for f in o.metadata.finalizers)
    remaining = ", ".join(f"{kind} has {n} resource instances" for kind, n in sorted(kinds.items()))
    holding = ", ".join(f"{name} in {n} resource instances" for name, n in sorted(finalizers.items()))
    conditions = namespace.status.conditions
    for name, found, reason, some, none in (
        (
            "NamespaceContentRemaining",
            remaining,
            "SomeResourcesRemain",
            "Some resources are remaining",
            "ContentRemoved",
        ),
        (
            "NamespaceFinalizersRemaining",
            holding,
            "SomeFinalizersRemain",
            "Some content in the namespace has finalizers remaining",
            "ContentHasNoFinalizers",
        ),
    ):
        message = f"{some}: {found}" if found else "All content successfully removed"
        condition = Condition(
            type=name,
            status="True" if found else "False",
            last_transition_time=rfc3339(now),
            reason=reason if found else none,
            message=message,
        )
        if found or any(c.type == name for c in conditions):
            conditions = with_condition(conditions, condition)
    status = namespace.status.model_copy(update={"conditions": conditions})
    return namespace.model_copy(update={"status": status})
