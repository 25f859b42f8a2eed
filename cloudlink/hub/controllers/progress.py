"""What a Deployment says of itself: counts and the conditions Available and Progressing, as kubectl reads them.

After Kubernetes' pkg/controller/deployment/progress.go; `kubectl rollout status` and `kubectl wait` go by these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from cloudlink.hub.controllers.refusals import FAILURE
from cloudlink.hub.decision import NEVER
from cloudlink.hub.objects import find_condition, rfc3339, seconds, with_condition
from cloudlink.kube.apps import Deployment, DeploymentCondition, DeploymentStatus
from cloudlink.kube.meta import Condition

TIMED_OUT = "ProgressDeadlineExceeded"  # the one reason by which `kubectl rollout status` ends with an error


UPDATED = "ReplicaSetUpdated"
_SAID = re.compile(r'ReplicaSet "(.+)" is progressing: (\d+) of (\d+) updated, (\d+) of them available, (\d+) old\.')
_UNHELD = frozenset(
    {
        "NewReplicaSetCreated",
        "NewReplicaSetAvailable",
        UPDATED,
        "DeploymentPaused",
        "DeploymentResumed",
        "RolledBack",
        TIMED_OUT,
    }
)  # reasons of Progressing other than those of a Hold


@dataclass(frozen=True, slots=True)
class Hold:
    """A rollout that waits on purpose: reason and message for its condition.

    :ivar stopped: it won't go on by itself.
    """

    reason: str
    message: str
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """One Deployment in numbers.

    :ivar newest: name of the ReplicaSet with the present template, "" while there is none.
    :ivar created: it is being created by this very decision.
    :ivar next_available: second at which another ready pod will count as available.
    :ivar hold: its wave waits; no deadline runs meanwhile.
    :ivar failure: ReplicaFailure of one of its sets, which is repeated here.
    """

    newest: str
    created: bool
    replicas: int
    updated: int
    ready: int
    available: int
    updated_available: int
    max_unavailable: int
    next_available: float
    hold: Hold | None = None
    failure: Condition | None = None


def summarise(facts: Facts, deployment: Deployment, now: float) -> tuple[DeploymentStatus, float]:
    """The status to have now, and the second at which it may change by itself."""
    before, spec = deployment.status, deployment.spec
    status = before.model_copy(
        update={
            "observed_generation": deployment.metadata.generation,
            "replicas": facts.replicas,
            "updated_replicas": facts.updated,
            "ready_replicas": facts.ready,
            "available_replicas": facts.available,
            "unavailable_replicas": max(spec.replicas - facts.available, facts.replicas - facts.available, 0),
        }
    )
    conditions = with_condition(before.conditions, _available(facts, spec.replicas, now))
    wake_at = facts.next_available
    progressing = _progressing(facts, deployment, status, now)
    conditions = _with_failure(_with_progress(conditions, progressing), facts.failure)
    wake_at = min(wake_at, _deadline(deployment, find_condition(conditions, "Progressing"), now))
    return status.model_copy(update={"conditions": conditions}), wake_at


def is_complete(spec_replicas: int, status: DeploymentStatus) -> bool:
    """Every pod is of the present template and available (deploymentutil.DeploymentComplete)."""
    return status.updated_replicas == status.replicas == status.available_replicas == spec_replicas


def _available(facts: Facts, replicas: int, now: float) -> DeploymentCondition:
    enough = facts.available >= replicas - facts.max_unavailable
    return condition(
        "Available",
        "True" if enough else "False",
        "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        "Deployment has minimum availability." if enough else "Deployment does not have minimum availability.",
        now,
    )


def _progressing(facts: Facts, deployment: Deployment, status: DeploymentStatus, now: float) -> DeploymentCondition:
    """The condition to have; the present one itself where nothing has changed."""
    present = find_condition(deployment.status.conditions, "Progressing")
    if deployment.spec.paused:
        if present and present.reason == "DeploymentPaused":
            return present
        return condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now)
    if present and present.reason == "DeploymentPaused":
        return condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now)
    name = facts.newest
    if facts.created:
        return condition("Progressing", "True", "NewReplicaSetCreated", f'Created new replica set "{name}"', now)
    if is_complete(deployment.spec.replicas, status):
        text = f'ReplicaSet "{name}" has successfully progressed.'
        return condition("Progressing", "True", "NewReplicaSetAvailable", text, now)
    if facts.hold is not None:
        return condition("Progressing", _held(facts.hold), facts.hold.reason, facts.hold.message, now)
    changed = deployment.status.observed_generation != deployment.metadata.generation
    reached = _reached(facts, deployment.spec.replicas)
    if present is None:
        return _progress(reached, now)
    if present.reason == "NewReplicaSetAvailable":  # a finished rollout that lost a pod stays finished
        return _progress(reached, now) if changed else present
    if present.reason == TIMED_OUT:
        return _progress(reached, now) if changed or _has_progressed(deployment.status, status) else present
    before = _read(present.message) if present.reason == UPDATED else None
    if before is None or (best := reached.with_best_of(before)) != before:
        return _progress(reached if before is None else best, now)
    if present.status != "False" and now >= seconds(present.last_update_time) + _limit(deployment):
        return condition("Progressing", "False", TIMED_OUT, timed_out(name), now)
    return present


def timed_out(name: str) -> str:
    return f'ReplicaSet "{name}" has timed out progressing.'


def _held(hold: Hold) -> Literal["True", "False"]:
    return "False" if hold.stopped else "True"


@dataclass(frozen=True, slots=True)
class Reached:
    """The best that a rollout came to: more of this is progress. Less, and then the same again, is none: pods that come
    and go would keep the deadline away for ever. It stands in the condition's message, from where it is read again.

    :ivar old: pods of other revisions that are still there.
    """

    newest: str
    replicas: int
    updated: int
    available: int
    old: int

    def with_best_of(self, before: Reached) -> Reached:
        if (before.newest, before.replicas) != (self.newest, self.replicas):
            return self
        return replace(
            self,
            updated=max(self.updated, before.updated),
            available=max(self.available, before.available),
            old=min(self.old, before.old),
        )


def _reached(facts: Facts, replicas: int) -> Reached:
    return Reached(facts.newest, replicas, facts.updated, facts.updated_available, facts.replicas - facts.updated)


def _progress(to: Reached, now: float) -> DeploymentCondition:
    text = (
        f'ReplicaSet "{to.newest}" is progressing:'
        f" {to.updated} of {to.replicas} updated, {to.available} of them available, {to.old} old."
    )
    return condition("Progressing", "True", UPDATED, text, now)


def _read(message: str) -> Reached | None:
    found = _SAID.fullmatch(message)
    return Reached(found[1], int(found[3]), int(found[2]), int(found[4]), int(found[5])) if found else None


def _has_progressed(before: DeploymentStatus, after: DeploymentStatus) -> bool:
    return (
        after.updated_replicas > before.updated_replicas
        or after.replicas - after.updated_replicas < before.replicas - before.updated_replicas
        or after.ready_replicas > before.ready_replicas
        or after.available_replicas > before.available_replicas
    )


def _limit(deployment: Deployment) -> float:
    return float(deployment.spec.progress_deadline_seconds)


def _with_failure(
    conditions: tuple[DeploymentCondition, ...], failure: Condition | None
) -> tuple[DeploymentCondition, ...]:
    """With what a set of it says of pods that weren't let in, or without."""
    if failure is None:
        return tuple(c for c in conditions if c.type != FAILURE)
    since = seconds(failure.last_transition_time)
    return with_condition(conditions, condition(FAILURE, failure.status, failure.reason, failure.message, since))


def _deadline(deployment: Deployment, progressing: DeploymentCondition | None, now: float) -> float:
    if progressing is None or progressing.status == "False" or deployment.spec.paused:
        return NEVER
    if progressing.reason == "NewReplicaSetAvailable" or progressing.reason not in _UNHELD:
        return NEVER
    at = seconds(progressing.last_update_time) + _limit(deployment)
    return at if at > now else now + 1.0  # reached between two decisions: look again soon, not at once


def _with_progress(
    conditions: tuple[DeploymentCondition, ...], new: DeploymentCondition
) -> tuple[DeploymentCondition, ...]:
    """As with_condition, but progress within the same reason counts as news: it moves the deadline."""
    old = find_condition(conditions, new.type)
    if old is None or old == new:
        return with_condition(conditions, new)
    if old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    finished = "NewReplicaSetAvailable"
    if new.reason == old.reason == finished and new.message == old.message:
        return conditions  # finished is finished; saying it again would be a change for ever
    return tuple(new if c.type == new.type else c for c in conditions)


def condition(kind: str, status: str, reason: str, message: str, now: float) -> DeploymentCondition:
    text = rfc3339(now)
    return DeploymentCondition.model_validate(
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastUpdateTime": text,
            "lastTransitionTime": text,
        }
    )
