"""PodDisruptionBudgets: how many pods may be evicted now. After Kubernetes' disruption controller. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cloudlink.hub.changes import UpdateStatus
from cloudlink.hub.controllers.garbage import OwnerOf
from cloudlink.hub.decision import NEVER, Decision
from cloudlink.hub.objects import controller_of, is_deleted, is_ready, rfc3339, seconds, with_condition
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import Condition, KubeObject
from cloudlink.kube.policy import PodDisruptionBudget

FORGOTTEN = 120.0  # seconds after which an eviction that led to nothing counts no more (DeletionTimeout)


def concerns(budget: PodDisruptionBudget, pod: Pod) -> bool:
    selector = budget.spec.selector
    return (
        selector is not None
        and budget.metadata.namespace == pod.metadata.namespace
        and selector.matches(pod.metadata.labels)
    )


def reconcile(budget: PodDisruptionBudget, pods: Sequence[Pod], owner_of: OwnerOf, now: float) -> Decision:
    """The budget's status, given the pods that it concerns."""
    waiting = {
        pod.metadata.name: since
        for pod in pods
        if (since := budget.status.disrupted_pods.get(pod.metadata.name))
        and not is_deleted(pod)
        and seconds(since) + FORGOTTEN > now
    }
    healthy = sum(is_ready(p) and not is_deleted(p) and p.metadata.name not in waiting for p in pods)
    expected, desired = _numbers(budget, pods, owner_of)
    allowed = max(healthy - desired, 0) if expected > 0 else 0
    condition = Condition(
        type="DisruptionAllowed",
        status="True" if allowed else "False",
        last_transition_time=rfc3339(now),
        reason="SufficientPods" if allowed else "InsufficientPods",
    )
    status = budget.status.model_copy(
        update={
            "observed_generation": budget.metadata.generation,
            "disrupted_pods": waiting,
            "disruptions_allowed": allowed,
            "current_healthy": healthy,
            "desired_healthy": desired,
            "expected_pods": expected,
            "conditions": with_condition(budget.status.conditions, condition),
        }
    )
    wake_at = min((seconds(since) + FORGOTTEN for since in waiting.values()), default=NEVER)
    if status == budget.status:
        return Decision(wake_at=wake_at)
    return Decision((UpdateStatus(budget.model_copy(update={"status": status})),), wake_at=wake_at)


def _numbers(budget: PodDisruptionBudget, pods: Sequence[Pod], owner_of: OwnerOf) -> tuple[int, int]:
    """How many pods there should be, and how many of them healthy."""
    least, away = budget.spec.min_available, budget.spec.max_unavailable
    if isinstance(least, int):
        return len(pods), least
    expected = _scale(pods, owner_of)
    if least is not None:
        return expected, _share(least, expected)
    return expected, max(expected - _share(away if away is not None else 0, expected), 0)


def _share(value: int | str, whole: int) -> int:
    """A count, or a percentage rounded up."""
    if isinstance(value, int):
        return value
    number = value.removesuffix("%")
    return -(-int(number) * whole // 100) if number.isdecimal() else whole


def _scale(pods: Sequence[Pod], owner_of: OwnerOf) -> int:
    """What the pods' controllers want, each counted once; pods without one are nobody's plan."""
    wanted: dict[str, int] = {}
    for pod in pods:
        top: KubeObject | None = None
        reference = controller_of(pod)
        while reference is not None and not isinstance(owner := owner_of(pod, reference), str):
            top, reference = owner, controller_of(owner)
        replicas = getattr(getattr(top, "spec", None), "replicas", None)
        if top is not None and isinstance(replicas, int):
            wanted[top.metadata.uid] = replicas
    return sum(wanted.values())
