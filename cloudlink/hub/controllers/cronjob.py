"""CronJob -> Jobs: one for each of its times, if the one before lets it.

After Kubernetes' pkg/controller/cronjob. A Job's name tells its time (in minutes since 1970), so nothing is started
twice, whatever the hub has forgotten. Jobs of the next times may be there already, see `ahead`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo

from cloudlink.hub.changes import Create, ObjectChange, UpdateStatus
from cloudlink.hub.controllers import ahead
from cloudlink.hub.controllers.job import is_over
from cloudlink.hub.controllers.job_verdict import COMPLETE, FAILED, true_condition
from cloudlink.hub.decision import NEVER, Decision, Note
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import is_deleted, rfc3339, seconds
from cloudlink.kube import cron, occurrences
from cloudlink.kube.annotations import START_AT
from cloudlink.kube.batch import CronJob, CronJobStatus, Job
from cloudlink.kube.core import Node, Pod
from cloudlink.kube.references import ObjectReference
from cloudlink.kube.validate_batch import time_zone

COMPONENT = "cronjob-controller"
TOO_MANY = 100  # missed starts that people should hear of
CLOCK_SLACK = 3600.0  # seconds that the last start may lie ahead: beyond that the clock was wrong, and what it said


@dataclass(frozen=True, slots=True)
class Surroundings:
    """:ivar jobs: that the CronJob has made. :ivar names: of all Jobs of its namespace.
    :ivar pods_of: those of a Job. :ivar node: by name; None if there is none."""

    jobs: Sequence[Job]
    names: frozenset[str]
    pods_of: Callable[[Job], Sequence[Pod]]
    node: Callable[[str], Node | None]


@dataclass(slots=True)
class _Plan:
    cj: CronJob
    now: float
    active: list[Job]
    last: str
    changes: list[ObjectChange] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    wake_at: float = NEVER

    def say(self, kind: str, reason: str, message: str) -> None:
        self.notes.append(Note(self.cj, "Warning" if kind == "Warning" else "Normal", reason, message, COMPONENT))

    def remove(self, job: Job) -> None:
        change = deletion(job, "Background")
        if change is not None:
            self.changes.append(change)
        self.active = [j for j in self.active if j.metadata.uid != job.metadata.uid]


def reconcile(cj: CronJob, there: Surroundings, now: float) -> Decision:
    """Decide about one CronJob. `now` in seconds since 1970."""
    if is_deleted(cj):
        return Decision()
    living = [j for j in there.jobs if not is_deleted(j)]
    jobs = sorted((j for j in living if ahead.is_due(j, now)), key=ahead.scheduled_at)
    plan = _Plan(cj, now, [j for j in jobs if ahead.is_own(j) and not is_over(j)], _last(cj, now))
    _tell_of_finished(plan, jobs)
    started = [j for j in jobs if ahead.is_own(j) and ahead.scheduled_at(j) <= now + CLOCK_SLACK]
    for job in started:
        if START_AT in job.metadata.annotations and ahead.scheduled_at(job) > seconds(plan.last):
            plan.say("Normal", "SuccessfulCreate", f"Created job {job.metadata.name}")
    if started:
        plan.last = rfc3339(max(seconds(plan.last), *map(ahead.scheduled_at, started)))
    _tidy(plan, jobs)
    waiting = sorted((j for j in living if not ahead.is_due(j, now)), key=ahead.scheduled_at)
    zone = _zone(cj)
    if zone is None:
        plan.say("Warning", "UnknownTimeZone", f'invalid timeZone: "{cj.spec.time_zone}"')
    elif not cj.spec.suspend:
        schedule = cron.parse(cj.spec.schedule)
        _start(plan, schedule, zone, there.names)
        for job in ahead.passed_over(plan.active, there.pods_of):
            plan.say("Warning", "MissSchedule", f"Missed scheduled time to start a job: {job.metadata.name}")
            plan.remove(job)
        _replace(plan, there)
        names = there.names | {c.object.metadata.name for c in plan.changes if isinstance(c, Create)}
        scope = ahead.Scope(cj, names, there.pods_of, there.node, schedule, zone, now)
        found = ahead.prepare(scope, plan.active, waiting)
        plan.changes += found.changes
        plan.wake_at = min(plan.wake_at, found.wake_at)
        due = occurrences.after(schedule, now, zone)
        plan.wake_at = min(plan.wake_at, due if due is not None else NEVER)
    if zone is None or cj.spec.suspend:
        for job in waiting:
            plan.remove(job)
    fresh = _status(plan, jobs)
    if fresh != cj.status:
        plan.changes.append(UpdateStatus(cj.model_copy(update={"status": fresh})))
    return Decision(tuple(plan.changes), tuple(plan.notes), plan.wake_at)


def _last(cj: CronJob, now: float) -> str:
    """When the last one was started; not what a clock that was wrong has said of that."""
    last = cj.status.last_schedule_time
    return rfc3339(now - occurrences.MINUTE) if seconds(last) > now + CLOCK_SLACK else last


def _zone(cj: CronJob) -> tzinfo | None:
    """None where this machine doesn't know it (any more)."""
    name = cj.spec.time_zone
    if name is None:
        return UTC
    return None if time_zone(name) else ZoneInfo(name)


# ---------------------------------------------------------------- what has run


def _tell_of_finished(plan: _Plan, jobs: Sequence[Job]) -> None:
    known = {a.uid for a in plan.cj.status.active}
    for job in jobs:
        how = next((c for c in (COMPLETE, FAILED) if true_condition(job, c) is not None), "")
        if how and job.metadata.uid in known:
            plan.say("Normal", "SawCompletedJob", f"Saw completed job: {job.metadata.name}, condition: {how}")
    there = {j.metadata.uid for j in jobs}
    for reference in plan.cj.status.active:
        if reference.uid not in there:
            plan.say("Normal", "MissingJob", f"Active job went missing: {reference.name}")


def _tidy(plan: _Plan, jobs: Sequence[Job]) -> None:
    """Only so many finished Jobs stay, the newest."""
    spec = plan.cj.spec
    for kind, kept in ((COMPLETE, spec.successful_jobs_history_limit), (FAILED, spec.failed_jobs_history_limit)):
        over = [j for j in jobs if true_condition(j, kind) is not None]
        over.sort(key=lambda j: (seconds(j.status.start_time), j.metadata.name))
        for job in over[: max(len(over) - kept, 0)]:
            plan.remove(job)
            plan.say("Normal", "SuccessfulDelete", f"Deleted job {job.metadata.name}")


def _status(plan: _Plan, jobs: Sequence[Job]) -> CronJobStatus:
    completed = [j.status.completion_time for j in jobs if true_condition(j, COMPLETE) is not None]
    return plan.cj.status.model_copy(
        update={
            "active": tuple(
                ObjectReference(
                    kind="Job",
                    namespace=j.metadata.namespace,
                    name=j.metadata.name,
                    uid=j.metadata.uid,
                    api_version="batch/v1",
                    resource_version="",
                )
                for j in plan.active
                if j.metadata.uid
            ),
            "last_schedule_time": plan.last,
            "last_successful_time": max([plan.cj.status.last_successful_time, *completed], key=seconds),
        }
    )


# ---------------------------------------------------------------- starting


def _start(plan: _Plan, schedule: cron.Schedule, zone: tzinfo, taken: frozenset[str]) -> None:
    """The newest time that has come since the last start, unless it is too late or something is in its way."""
    cj, now = plan.cj, plan.now
    since = seconds(plan.last) or seconds(cj.metadata.creation_timestamp)
    deadline = cj.spec.starting_deadline_seconds
    if deadline is not None:
        since = max(since, now - deadline)
    due = occurrences.latest(schedule, since, now, zone)
    if due is None:
        return
    if occurrences.more_than(schedule, TOO_MANY, since, now, zone):
        text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        plan.say("Warning", "TooManyMissedTimes", text)
    name = ahead.name_of(cj, due)
    if name in taken:  # started, or finished and about to go; whoever removed it since doesn't want it again
        return
    if cj.spec.concurrency_policy == "Forbid" and plan.active:
        text = "Not starting job because prior execution is running and concurrency policy is Forbid"
        plan.say("Normal", "JobAlreadyActive", text)
        return
    if cj.spec.concurrency_policy == "Replace":
        for job in tuple(plan.active):
            plan.remove(job)
            plan.say("Normal", "SuccessfulDelete", f"Deleted job {job.metadata.name}")
    job = ahead.new_job(cj, due, zone)
    plan.changes.append(Create(job))
    plan.active.append(job)
    plan.last = rfc3339(due)
    plan.say("Normal", "SuccessfulCreate", f"Created job {name}")


def _replace(plan: _Plan, there: Surroundings) -> None:
    """A Job whose node has begun it without asking replaces those before it."""
    if plan.cj.spec.concurrency_policy != "Replace":
        return
    begun = [j for j in plan.active if ahead.has_begun(j, there.pods_of(j))]
    for job in tuple(plan.active):
        if begun and ahead.scheduled_at(job) < ahead.scheduled_at(begun[-1]):
            plan.remove(job)
            plan.say("Normal", "SuccessfulDelete", f"Deleted job {job.metadata.name}")
