"""What a new object gets or is refused for because of other objects, before it is stored; however it comes: through
the API, or from a controller. Pure, over values read from the store.

As Kubernetes' admission plugins: Priority, DefaultTolerationSeconds, and of PodTolerationRestriction what needs no
settings: pods that asked for memory stand a node that is short of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cloudlink.hub.changes import Create, ObjectChange
from cloudlink.hub.patience import Patience
from cloudlink.kube.core import Taint
from cloudlink.kube.placement import tolerates
from cloudlink.kube.pod import Pod, PodSpec, Toleration
from cloudlink.kube.scheduling import SYSTEM_CLASSES, PriorityClass
from cloudlink.kube.status import qos_class
from cloudlink.kube.taints import MEMORY_PRESSURE, NOT_READY, UNREACHABLE
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


def tolerations(spec: PodSpec, patience: Patience) -> tuple[Toleration, ...]:
    """The pod's own tolerations, and those that everybody has: of a lost node for a while, of a node that is short of
    memory where some was promised. What it says itself about the same taint stays as it is."""
    added = [
        Toleration(key=key, operator="Exists", effect="NoExecute", toleration_seconds=seconds)
        for key, seconds in ((NOT_READY, patience.not_ready), (UNREACHABLE, patience.unreachable))
        if not any(t.key in ("", key) and t.effect in ("", "NoExecute") for t in spec.tolerations)
    ]
    short = Taint(key=MEMORY_PRESSURE, effect="NoSchedule")
    if qos_class(spec) != "BestEffort" and not tolerates(spec.tolerations, short):
        added.append(Toleration(key=MEMORY_PRESSURE, operator="Exists", effect="NoSchedule"))
    return (*spec.tolerations, *added)


def admit_pod(pod: Pod, classes: Iterable[PriorityClass], patience: Patience) -> Pod:
    """All that a new pod gets. :raises Forbidden: as with_priority."""
    pod = with_priority(pod, classes)
    given = {"tolerations": tolerations(pod.spec, patience)}
    return pod.model_copy(update={"spec": pod.spec.model_copy(update=given)})


def admit_created(
    changes: Sequence[ObjectChange], classes: Callable[[], Iterable[PriorityClass]], patience: Patience
) -> tuple[tuple[ObjectChange, ...], tuple[str, ...]]:
    """A controller's changes with all that its new pods get, without those that are refused; and why, once each.

    :param classes: called only where there is a new pod.
    """
    if not any(isinstance(c, Create) and isinstance(c.object, Pod) for c in changes):
        return tuple(changes), ()
    known = list(classes())
    kept: list[ObjectChange] = []
    refused: dict[str, None] = {}
    specs: dict[int, PodSpec] = {}  # by the template's id: pods of one template are worked out once
    for change in changes:
        if not isinstance(change, Create) or not isinstance(change.object, Pod):
            kept.append(change)
            continue
        pod = change.object
        try:
            if id(pod.spec) not in specs:
                specs[id(pod.spec)] = admit_pod(pod, known, patience).spec
            kept.append(Create(pod.model_copy(update={"spec": specs[id(pod.spec)]})))
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
