"""A Deployment with its ReplicaSets and their pods, and what their annotations say of revisions. Pure.

Every template that a Deployment had is a ReplicaSet with a revision; going back to one gives it a new number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloudlink.hub.controllers.rollout import Bounds, Count, bounds
from cloudlink.hub.objects import (
    available_at,
    controller_of,
    find_condition,
    is_active,
    is_deleted,
    is_finished,
    seconds,
    without_hash,
)
from cloudlink.kube.annotations import CONFIRM, RESTORED, ROLLOUT_POLICY, ROLLOUT_STATE, SUCCEEDED
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import Pod
from cloudlink.kube.rollouts import RolloutPolicy, policy_of

COMPONENT = "deployment-controller"
REVISION = "deployment.kubernetes.io/revision"
DESIRED = "deployment.kubernetes.io/desired-replicas"  # the Deployment's replicas when this set was last sized
MAXIMUM = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        DESIRED,
        MAXIMUM,
        CONFIRM,
        *ROLLOUT_STATE,
    }
)


@dataclass(frozen=True, slots=True)
class Family:
    """:ivar new: the set with the present template, if there is one already.
    :ivar old: the others, oldest first.
    :ivar pods: by the uid of their ReplicaSet.
    :ivar alive: those of them that count as replicas.
    :ivar cap: how many pods the present wave allows the new set; all of them where there are no waves.
    :ivar marks: annotations to write on the new set.
    """

    deployment: Deployment
    new: ReplicaSet | None
    old: tuple[ReplicaSet, ...]
    pods: dict[str, tuple[Pod, ...]]
    limits: Bounds
    policy: RolloutPolicy
    now: float
    cap: int
    alive: Mapping[str, list[Pod]]
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def sets(self) -> tuple[ReplicaSet, ...]:
        return (*self.old, self.new) if self.new else self.old

    def active(self, rs: ReplicaSet) -> list[Pod]:
        return self.alive.get(rs.metadata.uid, [])

    def count(self, rs: ReplicaSet) -> Count:
        active = self.active(rs)
        wait = self.deployment.spec.min_ready_seconds
        available = sum(available_at(p, wait) <= self.now for p in active)
        return Count(rs.metadata.name, rs.spec.replicas, len(active), available)

    def any_pod_left(self) -> bool:
        """Recreate starts nothing before the last old pod is off its node, on its way out or not."""
        return any(not is_finished(p) for s in self.old for p in self.pods.get(s.metadata.uid, ()))

    # ------------------------------------------------------------ revisions

    def last_revision(self) -> int:
        """The highest of the old sets."""
        return max((revision_of(s) for s in self.old), default=0)

    def revision(self) -> int:
        """That of the present template: higher than all others, also where its set doesn't say so yet."""
        return max(self.last_revision() + 1, revision_of(self.new) if self.new else 0)

    @property
    def is_proven(self) -> bool:
        """The present revision was good once; what happens to its pods now is no matter of rollouts."""
        return self.new is not None and number(self.new.metadata.annotations.get(SUCCEEDED, "")) == self.revision()

    @property
    def is_restored(self) -> bool:
        """The hub itself went back to this revision: nothing undoes that but a person."""
        return self.new is not None and number(self.new.metadata.annotations.get(RESTORED, "")) == self.revision()

    @property
    def was_good_last(self) -> bool:
        """The present template was a good one, and none has been since."""
        of_new = number(self.new.metadata.annotations.get(SUCCEEDED, "")) if self.new else 0
        there = self.last_good()
        return of_new > (number(there.metadata.annotations[SUCCEEDED]) if there is not None else 0)

    def last_good(self) -> ReplicaSet | None:
        """The old set that was completely available most recently."""
        good = [s for s in self.old if number(s.metadata.annotations.get(SUCCEEDED, ""))]
        return max(good, key=lambda s: number(s.metadata.annotations[SUCCEEDED]), default=None)

    def proven_at(self) -> float:
        """When the present revision will have been completely available for long enough; infinity if not now."""
        replicas = self.deployment.spec.replicas
        if self.new is None or not replicas or self.is_proven:
            return float("inf")
        count = self.count(self.new)
        if not (count.wanted == count.present == count.available == replicas):
            return float("inf")
        return max(_ready_since(p) for p in self.active(self.new)) + self.policy.proven_after

    # ------------------------------------------------------------ annotations

    def copied(self) -> dict[str, str]:
        """The Deployment's own (a change cause, say) that its newest ReplicaSet has, too."""
        return {k: v for k, v in self.deployment.metadata.annotations.items() if k not in _NOT_COPIED}

    def sizing(self) -> dict[str, str]:
        replicas = self.deployment.spec.replicas
        return {DESIRED: str(replicas), MAXIMUM: str(replicas + self.limits.surge)}

    def with_policy(self, annotations: Mapping[str, str]) -> dict[str, str]:
        """How rollouts are to go stands on every set: `kubectl rollout undo` copies a set's annotations back."""
        wanted = {k: v for k, v in self.deployment.metadata.annotations.items() if k in ROLLOUT_POLICY}
        return {k: v for k, v in annotations.items() if k not in ROLLOUT_POLICY} | wanted

    def was_good(self, rs: ReplicaSet) -> bool:
        """Whether an old set was never marked, as it is replaced so early, and yet is completely available: for long
        enough, or for any time where no other was good. (A bad one is available for a moment, too.)"""
        count, pods = self.count(rs), self.active(rs)
        if not 0 < self.deployment.spec.replicas <= count.wanted <= count.available:
            return False
        if max(_ready_since(p) for p in pods) + self.policy.proven_after <= self.now:
            return True
        known = any(number(s.metadata.annotations.get(SUCCEEDED, "")) for s in self.sets if s is not rs)
        return not known and not any(c.restart_count for p in pods for c in p.status.container_statuses)


def family_of(deployment: Deployment, sets: Sequence[ReplicaSet], pods: Sequence[Pod], now: float) -> Family:
    in_order = sorted(
        (s for s in sets if not is_deleted(s)), key=lambda s: (seconds(s.metadata.creation_timestamp), s.metadata.name)
    )
    wanted = without_hash(deployment.spec.template)
    new = next((s for s in in_order if without_hash(s.spec.template) == wanted), None)
    by_set: dict[str, list[Pod]] = {}
    for pod in pods:
        if owner := controller_of(pod):
            by_set.setdefault(owner.uid, []).append(pod)
    spec = deployment.spec
    rolling = spec.strategy.rolling_update
    if spec.strategy.type == "Recreate" or rolling is None:
        limits = Bounds(surge=0, unavailable=0)
    else:
        limits = bounds(spec.replicas, rolling.max_surge, rolling.max_unavailable)
    policy = policy_of(deployment.metadata.annotations)
    old = tuple(s for s in in_order if s is not new)
    every = {uid: tuple(of_set) for uid, of_set in by_set.items()}
    alive = {uid: [p for p in of_set if is_active(p)] for uid, of_set in by_set.items()}
    return Family(deployment, new, old, every, limits, policy, now, cap=spec.replicas, alive=alive)


def revision_of(rs: ReplicaSet) -> int:
    return number(rs.metadata.annotations.get(REVISION, ""))


def number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def images_of(rs: ReplicaSet) -> str:
    """For sentences: "image x:2", "images x:2, y:1"."""
    images = list(dict.fromkeys(c.image for c in rs.spec.template.spec.containers))
    return f"image{'s' if len(images) > 1 else ''} {', '.join(images)}"


def _ready_since(pod: Pod) -> float:
    ready = find_condition(pod.status.conditions, "Ready")
    return seconds(ready.last_transition_time) if ready else 0.0
