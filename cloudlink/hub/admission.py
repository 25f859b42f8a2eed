"""What a new object gets or is refused for because of other objects, before it is stored; however it comes: through
the API, or from a controller.

As Kubernetes' admission plugins: Priority, LimitRanger, ResourceQuota, DefaultTolerationSeconds, and of
PodTolerationRestriction what needs no settings: pods that asked for memory stand a node that is short of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from cloudlink.hub.errors import Forbidden
from cloudlink.hub.learned import Requests
from cloudlink.hub.limits import ANNOTATION, check_claim, within_limits
from cloudlink.hub.patience import Patience
from cloudlink.hub.quotas import Ledger
from cloudlink.hub.schedule.admit import impossible
from cloudlink.hub.store import Store
from cloudlink.kube.catalogue import Catalogue
from cloudlink.kube.claims import PersistentVolumeClaim
from cloudlink.kube.core import Node, Taint
from cloudlink.kube.errors import Invalid
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.placement import tolerates
from cloudlink.kube.pod import Pod, PodSpec, Toleration
from cloudlink.kube.quotas import LimitRange, ResourceQuota
from cloudlink.kube.scheduling import SYSTEM_CLASSES, PriorityClass
from cloudlink.kube.status import qos_class
from cloudlink.kube.taints import MEMORY_PRESSURE, NOT_READY, UNREACHABLE


class Room:
    """What new objects are measured by, read from the store once; for the objects of one commit.

    :param now: seconds since 1970.
    :param patience: how long pods that don't say otherwise stay bound to a lost node.
    :ivar ledger: what they use of quotas; its changes belong into that commit.
    """

    def __init__(self, store: Store, now: float, patience: Patience) -> None:
        self._store, self._patience = store, patience
        # By the id of a template's description, which is kept beside it: pods of one template are worked out once, and
        # go on sharing one description.
        self._worked_out: dict[int, tuple[PodSpec, PodSpec, str]] = {}
        self._ranges: dict[str, list[LimitRange]] = {}
        self._requests = Requests(store)
        self.catalogue: Catalogue = store.catalogue
        self.ledger = Ledger(self._quotas, store.list, store.catalogue, now)

    def let_in(self, obj: KubeObject) -> KubeObject:
        """A new object as it is to be stored, counted.

        :raises Forbidden: it may not be made now.
        """
        if isinstance(obj, Pod) and (learned := self._requests.of(obj)) is not obj:
            try:
                return self._let_in(learned)
            except Forbidden:
                pass  # by a quota or a range: what it declares may be let in
        return self._let_in(obj)

    def _let_in(self, obj: KubeObject) -> KubeObject:
        ranges = self._ranges_of(obj.metadata.namespace)
        if isinstance(obj, Pod):
            obj = self._pod(obj, ranges)
        elif isinstance(obj, PersistentVolumeClaim):
            check_claim(obj, ranges)
        elif isinstance(obj, PriorityClass):
            check_default(obj, self._classes)
        self.ledger.charge(obj)
        return obj

    def let_become(self, obj: KubeObject, before: KubeObject) -> None:
        """Forbidden where an object may not be changed so."""
        if isinstance(obj, PriorityClass):
            check_default(obj, self._classes)
        elif isinstance(obj, PersistentVolumeClaim):
            check_claim(obj, self._ranges_of(obj.metadata.namespace))
        self.ledger.charge(obj, before)

    def _pod(self, pod: Pod, ranges: list[LimitRange]) -> Pod:
        if id(pod.spec) not in self._worked_out:
            new = within_limits(with_priority(pod, self._classes), ranges)
            spec = new.spec.model_copy(update={"tolerations": tolerations(new.spec, self._patience)})
            given = new.metadata.annotations.get(ANNOTATION, "") if new.metadata != pod.metadata else ""
            self._worked_out[id(pod.spec)] = (pod.spec, spec, given)
        _, spec, given = self._worked_out[id(pod.spec)]
        if given:
            annotations = pod.metadata.annotations | {ANNOTATION: given}
            pod = pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"annotations": annotations})})
        return pod.model_copy(update={"spec": spec})

    def _ranges_of(self, namespace: str) -> list[LimitRange]:
        if namespace not in self._ranges:
            there = self._store.list("LimitRange", namespace) if namespace else []
            self._ranges[namespace] = [r for r in there if isinstance(r, LimitRange)]
        return self._ranges[namespace]

    def _quotas(self, namespace: str) -> list[ResourceQuota]:
        return [q for q in self._store.list("ResourceQuota", namespace) if isinstance(q, ResourceQuota)]

    @cached_property
    def _classes(self) -> list[PriorityClass]:
        return [c for c in self._store.list("PriorityClass") if isinstance(c, PriorityClass)]


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


def _default(classes: Iterable[PriorityClass]) -> PriorityClass | None:
    """Of several (there should be one), the lowest, as Kubernetes takes it."""
    return min((c for c in classes if c.global_default), key=lambda c: (c.value, c.metadata.name), default=None)


def check_size(new: KubeObject, old: KubeObject | None, nodes: Iterable[KubeObject]) -> None:
    """Invalid where no node of the fleet could ever run its pods."""
    if causes := impossible(new, old, [n for n in nodes if isinstance(n, Node)]):
        raise Invalid(causes, new.kind, new.metadata.name)


def check_default(new: PriorityClass, classes: Iterable[PriorityClass]) -> None:
    """Forbidden where another class is everybody's already."""
    for other in classes:
        if new.global_default and other.global_default and other.metadata.name != new.metadata.name:
            name = other.metadata.name
            raise Forbidden(f"PriorityClass {name} is already marked as default. Only one default can exist")
