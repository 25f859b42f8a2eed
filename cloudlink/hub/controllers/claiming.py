"""What is a controller's: pods that name it, unless their labels say otherwise, and orphans that match. Pure.

After Kubernetes' controller_ref_manager. A pod that no longer matches is let go (people take a pod out of service that
way, to look at it); one without a controller that matches is taken in (`kubectl delete --cascade=orphan` leaves such).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cloudlink.hub.changes import ObjectChange, Update
from cloudlink.hub.objects import controller_of, is_deleted, is_finished, owned_by
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import KubeObject, OwnerReference

Selects = Callable[[Mapping[str, str]], bool]


def claim(
    owner: KubeObject, selects: Selects, owned: Iterable[Pod], loose: Iterable[Pod]
) -> tuple[list[Pod], tuple[ObjectChange, ...]]:
    """The owner's pods from now on, and the changes that make it so.

    :param owned: pods with a reference to it. :param loose: pods of its namespace without a controller.
    """
    kept: list[Pod] = []
    changes: list[ObjectChange] = []
    uid, ending = owner.metadata.uid, is_deleted(owner)
    for pod in owned:
        controller = controller_of(pod)
        if controller is None or controller.uid != uid:
            continue
        if ending or selects(pod.metadata.labels):
            kept.append(pod)
        else:
            changes.append(_with(pod, tuple(r for r in pod.metadata.owner_references if r.uid != uid)))
    if not ending:
        for pod in loose:
            if is_deleted(pod) or is_finished(pod) or not selects(pod.metadata.labels):
                continue
            others = tuple(r for r in pod.metadata.owner_references if r.uid != uid)
            change = _with(pod, (*others, owned_by(owner)))
            changes.append(change)
            kept.append(change.object)  # type: ignore[arg-type]  # the pod itself
    return kept, tuple(changes)


def adopt(owner: KubeObject, selects: Selects, everything: Iterable[KubeObject]) -> tuple[ObjectChange, ...]:
    """Take in revisions that nobody controls: so that a set made anew over its old pods knows their template.

    :param everything: revisions of the owner's namespace.
    """
    if is_deleted(owner):
        return ()
    loose = [o for o in everything if controller_of(o) is None and not is_deleted(o) and selects(o.metadata.labels)]
    return tuple(_with(o, (*o.metadata.owner_references, owned_by(owner))) for o in loose)


def _with(obj: KubeObject, references: tuple[OwnerReference, ...]) -> Update:
    meta = obj.metadata.model_copy(update={"owner_references": references})
    return Update(obj.model_copy(update={"metadata": meta}), expect=obj.metadata.resource_version or None)
