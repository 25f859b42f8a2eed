"""Job -> Pods: so many at a time until enough have succeeded, or too much has gone wrong.

After Kubernetes' pkg/controller/job. A pod is counted in the same commit that takes the finalizer
batch.kubernetes.io/job-tracking from it, so it is counted once however it ends and whoever deletes it; Kubernetes
needs status.uncountedTerminatedPods for that, for its store can't change two objects at once.

Invariants: never more active pods than `parallelism` allows; a pod is counted once, as succeeded or as failed; a
finished Job makes no pods, and has its last condition only when none of its pods may still run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cloudlink.hub.changes import Create, Delete, MarkDeleted, ObjectChange, UpdateStatus
from cloudlink.hub.controllers import job_pods
from cloudlink.hub.controllers.job_counts import Counts, count
from cloudlink.hub.controllers.job_verdict import COMPLETE, FAILED, FAILURE, SUCCESS, true_condition, verdict
from cloudlink.hub.controllers.replicaset import BURST, least_useful, tell
from cloudlink.hub.decision import NEVER, Decision, Note, Suffix
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import (
    is_active,
    is_deleted,
    is_finished,
    is_ready,
    rfc3339,
    seconds,
    with_condition,
)
from cloudlink.kube.annotations import START_AT, START_ON
from cloudlink.kube.batch import Job, JobCondition, JobStatus
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import ConditionStatus

COMPONENT = "job-controller"
MANAGER = "kubernetes.io/job-controller"  # spec.managedBy of Jobs that are ours
FINISHED_KEPT = 20  # pods that succeeded, and as many that failed, which stay for people to look at


@dataclass(slots=True)
class _Plan:
    """What comes of looking at one Job, collected."""

    job: Job
    now: float
    counts: Counts
    conditions: tuple[JobCondition, ...]
    start_time: str
    completion_time: str
    changes: list[ObjectChange] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    active: list[Pod] = field(default_factory=list)
    terminating: int = 0
    wake_at: float = NEVER

    def wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)

    def say(self, kind: str, status: ConditionStatus, reason: str, message: str) -> bool:
        """Set a condition; True if that is news."""
        time = rfc3339(self.now)
        new = JobCondition(
            type=kind, status=status, reason=reason, message=message, last_probe_time=time, last_transition_time=time
        )
        before, self.conditions = self.conditions, with_condition(self.conditions, new)
        return before != self.conditions

    def end(self, pods: Sequence[Pod], *, counted: bool = True) -> None:
        """Ask active pods to end. :param counted: their fate is decided; otherwise they count as any pod that ends."""
        for pod in pods:
            meta, grace = pod.metadata, pod.spec.termination_grace_period_seconds if pod.spec.node_name else 0
            if counted and job_pods.is_tracked(pod):
                self.changes.append(job_pods.untracked(pod))
            self.changes.append(MarkDeleted("Pod", meta.namespace, meta.name, grace, uid=meta.uid or None))
            self.terminating += grace > 0
        gone = {p.metadata.name for p in pods}
        self.active = [p for p in self.active if p.metadata.name not in gone]
        self.notes += tell(self.job, "SuccessfulDelete", "Deleted pod", pods)


def reconcile(job: Job, pods: Sequence[Pod], now: float, suffix: Suffix) -> Decision:
    """Decide about one Job, given every pod that it controls. `now` in seconds since 1970."""
    if job.spec.managed_by not in (None, MANAGER):
        return Decision()
    if is_deleted(job):
        return Decision(tuple(job_pods.untracked(p) for p in pods if job_pods.is_tracked(p)))
    if is_over(job):
        return _afterwards(job, pods, now)
    status, counts = job.status, count(job, pods)
    plan = _Plan(job, now, counts, status.conditions, status.start_time, status.completion_time)
    plan.active = [p for p in pods if is_active(p)]
    plan.terminating = sum(job_pods.is_terminating(p) for p in pods)
    starts_at = start_at(job)
    plan.wake(starts_at if starts_at > now else NEVER)
    _begin(plan, starts_at)
    found = verdict(job, counts, plan.active, plan.start_time, now)
    if found is not None:
        _finish(plan, *found)
    elif job.spec.suspend:
        plan.end(plan.active)
    else:
        plan.changes += [job_pods.tracked(p) for p in plan.active if not job_pods.is_tracked(p)]  # taken in
        _manage(plan, pods, suffix)
    plan.changes += [job_pods.untracked(p) for p in counts.freed]
    plan.changes += _surplus(pods)
    fresh = _status(plan, started=starts_at <= now)
    if fresh != status:
        plan.changes.append(UpdateStatus(job.model_copy(update={"status": fresh})))
    return Decision(tuple(plan.changes), tuple(plan.notes), plan.wake_at)


def is_over(job: Job) -> bool:
    return any(true_condition(job, kind) is not None for kind in (COMPLETE, FAILED))


def start_at(job: Job) -> float:
    """The second before which it must not begin; 0 = it may at once. See controllers.ahead."""
    return seconds(job.metadata.annotations.get(START_AT, ""))


# ---------------------------------------------------------------- beginning


def _begin(plan: _Plan, starts_at: float) -> None:
    """Suspended, resumed, or begun: status.startTime, from which activeDeadlineSeconds counts."""
    job, now = plan.job, plan.now
    if job.spec.suspend:
        if plan.say("Suspended", "True", "JobSuspended", "Job suspended"):
            plan.notes.append(Note(job, "Normal", "Suspended", "Job suspended", COMPONENT))
        plan.start_time = ""
        return
    suspended = true_condition(job, "Suspended")
    if suspended is not None:
        plan.say("Suspended", "False", "JobResumed", "Job resumed")
        plan.notes.append(Note(job, "Normal", "Resumed", "Job resumed", COMPONENT))
    if not plan.start_time and starts_at <= now:
        plan.start_time = rfc3339(now)
    if plan.start_time and job.spec.active_deadline_seconds is not None:
        due = seconds(plan.start_time) + job.spec.active_deadline_seconds
        plan.wake(due if due > now else NEVER)


# ---------------------------------------------------------------- pods


def _manage(plan: _Plan, pods: Sequence[Pod], suffix: Suffix) -> None:
    """As many active pods as are wanted now."""
    job, counts = plan.job, plan.counts
    plan.end(_unwanted(plan))
    want = _wanted(plan)
    if len(plan.active) > want:
        plan.end(least_useful(plan.active, min(len(plan.active) - want, BURST)))
    occupied = len(plan.active)
    if job.spec.pod_replacement_policy == "Failed":
        occupied += plan.terminating
    missing = min(want - occupied, BURST)
    if missing <= 0:
        return
    if not counts.per_index:
        due = job_pods.next_try(pods, job)
        if due > plan.now:
            plan.wake(due)
            return
    made = _new_pods(plan, pods, missing, suffix)
    plan.active += made
    plan.changes += [Create(p) for p in made]
    plan.notes += tell(job, "SuccessfulCreate", "Created pod", made)


def _unwanted(plan: _Plan) -> list[Pod]:
    """Pods of an Indexed Job that do what another one does, or what nobody wants (any more)."""
    if not plan.counts.indexed:
        return []
    taken = plan.counts.completed.united(plan.counts.failed_indexes)
    seen: set[int] = set()
    unwanted: list[Pod] = []
    for pod in reversed(least_useful(plan.active, len(plan.active))):
        index = job_pods.index_of(pod)
        if not 0 <= index < plan.counts.completions or index in taken or index in seen:
            unwanted.append(pod)
        seen.add(index)
    return unwanted


def _wanted(plan: _Plan) -> int:
    counts, parallelism = plan.counts, plan.job.spec.parallelism or 0
    if plan.job.spec.completions is None:  # a work queue: once one has succeeded, the others only finish
        return min(len(plan.active), parallelism) if counts.succeeded else parallelism
    left = counts.completions - counts.succeeded - len(counts.failed_indexes)
    return max(min(parallelism, left), 0)


def _new_pods(plan: _Plan, pods: Sequence[Pod], missing: int, suffix: Suffix) -> list[Pod]:
    job, counts = plan.job, plan.counts
    if not counts.indexed:
        late = start_at(job) <= plan.now
        node = "" if late or counts.failed or pods else job.metadata.annotations.get(START_ON, "")
        return [job_pods.on_time(job_pods.new_pod(job, suffix()), job, node, late) for _ in range(missing)]
    taken = counts.completed.united(counts.failed_indexes).plus(map(job_pods.index_of, plan.active))
    if job.spec.pod_replacement_policy == "Failed":
        taken = taken.plus(job_pods.index_of(p) for p in pods if job_pods.is_terminating(p))
    made: list[Pod] = []
    for index in taken.missing(counts.completions):
        if len(made) == missing:
            break
        before = counts.held.get(index)
        failed = (0, 0)
        if before is not None:
            failed = before.failed
            due = job_pods.gone_at(before.pod) + job_pods.backoff(sum(failed))
            if due > plan.now:
                plan.wake(due)
                continue
            counts.take(index)  # counted now that its successor knows how often its index has failed
        made.append(job_pods.new_pod(job, suffix(), index, failed))
    return made


# ---------------------------------------------------------------- the end


def _finish(plan: _Plan, kind: str, reason: str, message: str) -> None:
    """It is decided how the Job ends: no pod goes on, and when the last has ended the Job is over."""
    job, counts, active = plan.job, plan.counts, plan.active
    plan.say(kind, "True", reason, message)
    for index in tuple(counts.held):
        counts.take(index)
    if kind == FAILURE:
        counts.failed += sum(not counts.indexed or 0 <= job_pods.index_of(p) < counts.completions for p in active)
    uncounted = kind == SUCCESS and any(map(job_pods.is_tracked, active))
    plan.end(active, counted=kind == FAILURE)
    if plan.terminating or uncounted or counts.waiting:
        return
    if kind == SUCCESS:
        plan.say(COMPLETE, "True", reason, message)
        plan.completion_time = rfc3339(plan.now)
        plan.notes.append(Note(job, "Normal", "Completed", "Job completed", COMPONENT))
    else:
        plan.say(FAILED, "True", reason, message)
        plan.notes.append(Note(job, "Warning", reason, message, COMPONENT))
    if job.spec.ttl_seconds_after_finished is not None:
        plan.wake(plan.now + job.spec.ttl_seconds_after_finished)


def _afterwards(job: Job, pods: Sequence[Pod], now: float) -> Decision:
    """A Job that is over: nothing runs for it, nothing more is counted, and after its TTL it goes."""
    plan = _Plan(job, now, Counts(), (), "", "")
    plan.active = [p for p in pods if is_active(p)]
    plan.changes += [job_pods.untracked(p) for p in pods if job_pods.is_tracked(p) and not is_active(p)]
    plan.end(plan.active)
    plan.changes += _surplus(pods)
    fresh = job.status.model_copy(update={"active": 0, "ready": 0, "terminating": 0})
    if fresh != job.status:
        plan.changes.append(UpdateStatus(job.model_copy(update={"status": fresh})))
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is not None:
        ended = max(seconds(c.last_transition_time) for c in job.status.conditions if c.type in (COMPLETE, FAILED))
        plan.wake(ended + ttl)
        if ended + ttl <= now and (gone := deletion(job, "Foreground")) is not None:
            return Decision((*plan.changes, gone), tuple(plan.notes))
    return Decision(tuple(plan.changes), tuple(plan.notes), plan.wake_at)


def _surplus(pods: Sequence[Pod]) -> list[ObjectChange]:
    """Finished and counted pods beyond those that stay, the oldest: boards keep their logs in memory."""
    changes: list[ObjectChange] = []
    for phase in ("Succeeded", "Failed"):
        there = [p for p in pods if p.status.phase == phase and is_finished(p) and not is_deleted(p)]
        there = sorted(there, key=lambda p: (job_pods.gone_at(p), p.metadata.name))
        for pod in there[:-FINISHED_KEPT]:
            if not pod.metadata.finalizers:
                changes.append(Delete("Pod", pod.metadata.namespace, pod.metadata.name, uid=pod.metadata.uid or None))
    return changes


def _status(plan: _Plan, *, started: bool) -> JobStatus:
    counts, old = plan.counts, plan.job.status
    succeeded = len(counts.completed) if counts.indexed else counts.succeeded
    return old.model_copy(
        update={
            "conditions": plan.conditions,
            "start_time": plan.start_time,
            "completion_time": plan.completion_time,
            "active": len(plan.active) if started else 0,
            "ready": sum(map(is_ready, plan.active)),
            "succeeded": succeeded,
            "failed": counts.failed,
            "terminating": plan.terminating,
            "completed_indexes": str(counts.completed),
            "failed_indexes": str(counts.failed_indexes) if counts.per_index else old.failed_indexes,
        }
    )
