"""How one object ends: at once, after a grace period, or when its finalizers let it go. Pure.

After Kubernetes' registry.Store.Delete. What follows an owner's end (dependents in the background, in the foreground,
or orphaned) is the garbage collector's work (controllers.garbage); the finalizers here tell it which.
"""

from __future__ import annotations

from typing import Literal

from cloudlink.hub.changes import Delete, MarkDeleted
from cloudlink.hub.objects import is_finished
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import KubeObject

Policy = Literal["Background", "Foreground", "Orphan"]

FOREGROUND = "foregroundDeletion"  # metav1.FinalizerDeleteDependents
ORPHAN = "orphan"  # metav1.FinalizerOrphanDependents

# Whose dependents stay unless asked otherwise (DefaultGarbageCollectionPolicy of their strategies).
_ORPHANING = frozenset({"ReplicationController", "Job"})


def deletion(
    obj: KubeObject,
    policy: Policy | None = None,
    grace: int | None = None,
    uid: str | None = None,
    expect: str | None = None,
) -> Delete | MarkDeleted | None:
    """The change that a request to delete this object comes to; None where it is on its way already.

    :param policy: what is to become of its dependents; None: as its finalizers say, else its kind's default.
    :param grace: seconds; None: what the object itself asks for.
    :param uid: the change is refused for another object of this name; None: for another than this one.
    :param expect: a resourceVersion, likewise.
    """
    meta = obj.metadata
    namespace, uid = meta.namespace or None, uid or meta.uid or None
    seconds = _grace(obj, grace)
    before = meta.deletion_grace_period_seconds
    if meta.deletion_timestamp and before and (grace is None or seconds >= before):
        return None  # graceful, and no shorter now: neither time nor finalizers change
    finalizers = _finalizers(obj, policy)
    if obj.kind != "Namespace" and not finalizers and seconds == 0:
        return Delete(obj.key, namespace, meta.name, uid, expect)
    changed = finalizers if finalizers != meta.finalizers else None
    return MarkDeleted(obj.key, namespace, meta.name, seconds, uid, expect, changed)


def _grace(obj: KubeObject, asked: int | None) -> int:
    """Only pods that run somewhere need time."""
    if not isinstance(obj, Pod) or not obj.spec.node_name or is_finished(obj):
        return 0
    return obj.spec.termination_grace_period_seconds if asked is None else asked


def _finalizers(obj: KubeObject, policy: Policy | None) -> tuple[str, ...]:
    there = obj.metadata.finalizers
    if policy is None:
        if ORPHAN in there:
            policy = "Orphan"
        elif FOREGROUND in there:
            policy = "Foreground"
        elif obj.kind in _ORPHANING and not obj.metadata.deletion_timestamp:
            policy = "Orphan"
        else:
            return there
    wanted = {"Orphan": ORPHAN, "Foreground": FOREGROUND}.get(policy)
    if wanted in there and not ({ORPHAN, FOREGROUND} - {wanted}) & set(there):
        return there
    kept = tuple(f for f in there if f not in (ORPHAN, FOREGROUND))
    return (*kept, wanted) if wanted else kept
