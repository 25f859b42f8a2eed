"""The Jobs of a CronJob's coming times: made ahead, so that a node has them when no hub is there. Pure.

A Job of one pod is made up to a day before its time, with annotations (kube.annotations) that its pod carries to the
node, which holds it until then and starts it by its own clock. It is the same Job before, at and after its time, so
whoever is away meanwhile, it runs once and is counted once.

All of them go to one node, one after the other; there each gives way to the one before it, or replaces it, by
concurrencyPolicy. Only one that is next to run has room set aside for it: the others use what that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from cloudlink.hub.changes import Create, Delete, ObjectChange, Update
from cloudlink.hub.controllers.job import start_at
from cloudlink.hub.decision import NEVER
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import find_condition, is_deleted, owned_by, rfc3339, seconds
from cloudlink.kube import cron, occurrences
from cloudlink.kube.annotations import MISSED, QUEUED, START_AT, START_BY, START_OF, START_ON, TURN, TURN_POLICY
from cloudlink.kube.batch import CronJob, Job
from cloudlink.kube.core import Node, Pod
from cloudlink.kube.meta import ObjectMeta

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
AT_MOST = 8  # Jobs that wait for their time
HORIZON = 86_400.0  # seconds before its time that a Job is made

PodsOf = Callable[[Job], Sequence[Pod]]
NodeOf = Callable[[str], Node | None]


@dataclass(slots=True)
class Ahead:
    changes: list[ObjectChange] = field(default_factory=list)
    wake_at: float = NEVER


# ---------------------------------------------------------------- one Job


def name_of(cj: CronJob, at: float) -> str:
    return f"{cj.metadata.name}-{int(at) // 60}"


def new_job(cj: CronJob, at: float, zone: tzinfo, ahead: bool = False, node: str = "") -> Job:
    """:param ahead: it has to wait for its time. :param node: where; "" = the scheduler says."""
    template = cj.spec.job_template
    stamp = datetime.fromtimestamp(int(at), zone).isoformat().replace("+00:00", "Z")
    annotations = template.metadata.annotations | {SCHEDULED: stamp}
    if ahead:
        annotations |= {START_AT: rfc3339(at), START_OF: str(cj.metadata.generation), TURN: cj.metadata.uid}
        annotations |= {TURN_POLICY: cj.spec.concurrency_policy}
        if cj.spec.starting_deadline_seconds is not None:
            annotations[START_BY] = rfc3339(at + cj.spec.starting_deadline_seconds)
        if node:
            annotations[START_ON] = node
    meta = ObjectMeta(
        name=name_of(cj, at),
        namespace=cj.metadata.namespace,
        labels=template.metadata.labels,
        annotations=annotations,
        owner_references=(owned_by(cj),),
    )
    return Job(metadata=meta, spec=template.spec)


def is_own(job: Job) -> bool:
    """Made for one of its times, and not by a person (`kubectl create job --from`)."""
    return SCHEDULED in job.metadata.annotations


def scheduled_at(job: Job) -> float:
    return seconds(job.metadata.annotations.get(SCHEDULED, "") or job.metadata.creation_timestamp)


def is_due(job: Job, now: float) -> bool:
    return start_at(job) <= now


def has_begun(job: Job, pods: Sequence[Pod]) -> bool:
    """As far as its node has told."""
    if job.status.succeeded or job.status.failed:
        return True
    return any(p.status.phase in ("Running", "Succeeded", "Failed") for p in pods)


def passed_over(jobs: Sequence[Job], pods_of: PodsOf) -> list[Job]:
    """Those whose node said that their time is over."""
    return [j for j in jobs if any(p.status.reason == MISSED and p.status.phase == "Pending" for p in pods_of(j))]


# ---------------------------------------------------------------- all of them


@dataclass(frozen=True, slots=True)
class Scope:
    """:ivar names: of all Jobs that there are, whosever. :ivar now: seconds since 1970."""

    cj: CronJob
    names: frozenset[str]
    pods_of: PodsOf
    node_of: NodeOf
    schedule: cron.Schedule
    zone: tzinfo
    now: float


def prepare(scope: Scope, active: Sequence[Job], waiting: Sequence[Job]) -> Ahead:
    """Make what is missing, take away what is wrong, and see to the room of the next.

    :param active: Jobs that have had their time and aren't over, in order. :param waiting: those that haven't.
    """
    cj, found, times = scope.cj, Ahead(), _times(scope)
    place = _place(active, scope.pods_of)
    kept: list[Job] = []
    for job in waiting:
        if _is_right(cj, job, times, place, scope.pods_of):
            kept.append(job)
        elif (change := deletion(job, "Background")) is not None:
            found.changes.append(change)
    if _is_simple(cj):
        _make(scope, active, kept, times, found)
        later = occurrences.after(scope.schedule, max([scope.now, *times.values()]), scope.zone)
        if later is not None and len(times) < AT_MOST:
            found.wake_at = later - HORIZON
    first = list(active) or kept[:1]
    found.changes += [_with_room(p) for j in first for p in scope.pods_of(j) if QUEUED in p.metadata.labels]
    return found


def _times(scope: Scope) -> dict[str, float]:
    """Names of the Jobs that should wait, with their times, in order."""
    times: dict[str, float] = {}
    if _is_simple(scope.cj):
        for at in occurrences.all_after(scope.schedule, scope.now, scope.zone):
            if at > scope.now + HORIZON or len(times) == AT_MOST:
                break
            times[name_of(scope.cj, at)] = at
    return times


def _is_simple(cj: CronJob) -> bool:
    """One pod and nothing to decide about it: what needs a hub, or several nodes, is started by the hub."""
    spec = cj.spec.job_template.spec
    one = (spec.completions, spec.parallelism) == (1, 1) and spec.completion_mode == "NonIndexed"
    return one and not spec.suspend and spec.managed_by is None and not _is_interval(cj)


def _is_interval(cj: CronJob) -> bool:
    """`@every` counts from the last start, so its times aren't known before."""
    return cj.spec.schedule.startswith("@every")


def _is_right(cj: CronJob, job: Job, times: Mapping[str, float], place: str, pods_of: PodsOf) -> bool:
    """By the newest spec, at one of its times, and where it can see the one that may still run then."""
    if job.metadata.annotations.get(START_OF) != str(cj.metadata.generation) or job.metadata.name not in times:
        return False
    own = _place((job,), pods_of)
    return cj.spec.concurrency_policy == "Allow" or not own or not place or own == place


def _place(jobs: Sequence[Job], pods_of: PodsOf) -> str:
    """The node of the newest of them; "" while it has none."""
    if not jobs:
        return ""
    nodes = [p.spec.node_name for p in pods_of(jobs[-1]) if p.spec.node_name and not is_deleted(p)]
    return nodes[-1] if nodes else ""


def _make(scope: Scope, active: Sequence[Job], kept: Sequence[Job], times: Mapping[str, float], found: Ahead) -> None:
    cj, zone = scope.cj, scope.zone
    there = scope.names - {c.name for c in found.changes if isinstance(c, Delete)}
    missing = [at for name, at in times.items() if name not in there]
    chain = (*active, *kept)
    if not missing:
        return
    place = _place(chain, scope.pods_of)
    if not chain:
        found.changes.append(Create(new_job(cj, missing[0], zone, ahead=True)))  # the others follow it to its node
    elif place and _is_fit(scope.node_of(place)):
        found.changes += [Create(new_job(cj, at, zone, ahead=True, node=place)) for at in missing]
    elif place and not kept and cj.spec.concurrency_policy == "Allow":
        found.changes.append(Create(new_job(cj, missing[0], zone, ahead=True)))


def _is_fit(node: Node | None) -> bool:
    if node is None or is_deleted(node) or node.spec.unschedulable:
        return False
    ready = find_condition(node.status.conditions, "Ready")
    return ready is not None and ready.status == "True"


def _with_room(pod: Pod) -> Update:
    labels = {k: v for k, v in pod.metadata.labels.items() if k != QUEUED}
    return Update(pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"labels": labels})}))
