"""What a new object gets or is refused for because of other objects, before it is stored; however it comes: through
the API, or from a controller. Pure, over values read from the store.

As Kubernetes' admission plugins: Priority.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cloudlink.hub.changes import Create, ObjectChange
from cloudlink.kube.pod import Pod
from cloudlink.kube.scheduling import SYSTEM_CLASSES, PriorityClass
from edged.errors import PermanentError


class Forbidden(PermanentError):  # noqa: N818 - Kubernetes' own word
    """The object may not be made now; the message says why, in Kubernetes' words (HTTP 403)."""


def with_priority(pod: Pod, classes: Iterable[PriorityClass]) -> Pod:
    """The pod with the priority of its class, or of the class that is everybody's.

    :param classes: all that are stored; the two system classes are known without.
    :raises Forbidden: there is no such class, or the pod brings another number along.
    """
    known = {c.metadata.name: c for c in (*SYSTEM_CLASSES, *classes)}
    spec, name = pod.spec, pod.spec.priority_class_name
    chosen = known.get(name) if name else _default(known.values())
    if name and chosen is None:
        raise Forbidden(f"no PriorityClass with name {name} was found")
    value = chosen.value if chosen is not None else 0
    if spec.priority not in (None, value):
        raise Forbidden(
            f"the integer value of priority ({spec.priority}) must not be provided in pod spec;"
            f" priority admission controller computed {value} from the given PriorityClass name"
        )
    policy = chosen.preemption_policy if chosen is not None else spec.preemption_policy
    if spec.preemption_policy not in (None, policy):
        raise Forbidden(
            f"the string value of PreemptionPolicy ({spec.preemption_policy}) must not be provided in pod spec;"
            f" priority admission controller computed {policy} from the given PriorityClass name"
        )
    name = chosen.metadata.name if chosen is not None else ""
    given = {"priority_class_name": name, "priority": value, "preemption_policy": policy}
    return pod.model_copy(update={"spec": spec.model_copy(update=given)})


def with_priorities(
    changes: Sequence[ObjectChange], classes: Callable[[], Iterable[PriorityClass]]
) -> tuple[tuple[ObjectChange, ...], tuple[str, ...]]:
    """A controller's changes with each new pod's priority, without those that are refused; and why, once each.

    :param classes: called only where there is a new pod.
    """
    if not any(isinstance(c, Create) and isinstance(c.object, Pod) for c in changes):
        return tuple(changes), ()
    known = list(classes())
    kept: list[ObjectChange] = []
    refused: dict[str, None] = {}
    for change in changes:
        if not isinstance(change, Create) or not isinstance(change.object, Pod):
            kept.append(change)
            continue
        try:
            kept.append(Create(with_priority(change.object, known)))
        except Forbidden as e:
            refused[f"Error creating: pods is forbidden: {e}"] = None
    return tuple(kept), tuple(refused)


def _default(classes: Iterable[PriorityClass]) -> PriorityClass | None:
    """Of several (there should be one), the lowest, as Kubernetes takes it."""
    return min((c for c in classes if c.global_default), key=lambda c: (c.value, c.metadata.name), default=None)


def check_default(new: PriorityClass, classes: Iterable[PriorityClass]) -> None:
    """Forbidden where another class is everybody's already."""
    for other in classes:
        if new.global_default and other.global_default and other.metadata.name != new.metadata.name:
            name = other.metadata.name
            raise Forbidden(f"PriorityClass {name} is already marked as default. Only one default can exist")
