"""Which of a Job's pods are counted now, and what the counts are then. Pure.

A pod that carries the tracking finalizer hasn't been counted. Where failures are counted by index
(backoffLimitPerIndex) a failed pod is held back until its successor is made, which carries on how often its index has
failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cloudlink.hub.controllers import job_pods
from cloudlink.hub.controllers.indexes import Indexes
from cloudlink.hub.objects import is_active
from cloudlink.kube.batch import Job
from cloudlink.kube.core import Pod

NOTHING = Indexes()


class Held(NamedTuple):
    """A failed pod whose index is to be tried again. `failed`: how often that has failed, counted and ignored."""

    pod: Pod
    failed: tuple[int, int]
    counts: bool


@dataclass(slots=True)
class Counts:
    """:ivar succeeded: pods, or indexes of an Indexed Job.
    :ivar freed: pods that are counted by this.
    :ivar waiting: pods that are tracked and not over yet, the active ones aside.
    :ivar fail_job: what podFailurePolicy says of a pod that fails the whole Job.
    """

    indexed: bool = False
    per_index: bool = False
    completions: int = 0
    succeeded: int = 0
    failed: int = 0
    completed: Indexes = NOTHING
    failed_indexes: Indexes = NOTHING
    freed: list[Pod] = field(default_factory=list)
    held: dict[int, Held] = field(default_factory=dict)
    waiting: int = 0
    fail_job: str = ""

    def take(self, index: int) -> None:
        """Count the pod that was held back for an index."""
        held = self.held.pop(index)
        self.failed += held.counts
        self.freed.append(held.pod)


def count(job: Job, pods: Sequence[Pod]) -> Counts:
    spec, status = job.spec, job.status
    counts = Counts(spec.completion_mode == "Indexed", spec.backoff_limit_per_index is not None, spec.completions or 0)
    counts.succeeded, counts.failed = status.succeeded, status.failed
    if counts.indexed:
        counts.completed = Indexes.read(status.completed_indexes, counts.completions)
        counts.failed_indexes = Indexes.read(status.failed_indexes or "", counts.completions)
    tracked = [p for p in pods if job_pods.is_tracked(p)]
    fresh = [p for p in tracked if p.status.phase == "Succeeded"]
    counts.freed += fresh
    if counts.indexed:
        done = map(job_pods.index_of, fresh)
        counts.completed = counts.completed.plus(i for i in done if 0 <= i < counts.completions)
        counts.succeeded = len(counts.completed)
    else:
        counts.succeeded += len(fresh)
    busy = {job_pods.index_of(p) for p in pods if is_active(p)}
    for pod in tracked:
        if job_pods.has_failed(pod, job):
            _fail(job, counts, pod, busy)
        elif pod.status.phase != "Succeeded" and not is_active(pod):
            counts.waiting += 1
    return counts


def _fail(job: Job, counts: Counts, pod: Pod, busy: set[int]) -> None:
    failure, index = job_pods.judge(pod, job), job_pods.index_of(pod)
    counts.fail_job = counts.fail_job or failure.message
    valid = not counts.indexed or 0 <= index < counts.completions
    counted = failure.action != "Ignore" and valid
    if not counts.per_index or not valid:
        counts.failed += counted
        counts.freed.append(pod)
        return
    limit, before = job.spec.backoff_limit_per_index or 0, job_pods.failures_of_index(pod)
    failed = (before[0] + counted, before[1] + (not counted))
    if index in counts.completed or index in busy:
        counts.failed += counted
        counts.freed.append(pod)
    elif failure.action == "FailIndex" or failed[0] > limit:
        counts.failed_indexes = counts.failed_indexes.plus((index,))
        counts.failed += counted
        counts.freed.append(pod)
        if index in counts.held:
            counts.take(index)
    elif index in counts.failed_indexes:
        counts.failed += counted
        counts.freed.append(pod)
    else:
        other = counts.held.get(index)
        if other is not None:
            failed = (max(failed[0], other.failed[0]), max(failed[1], other.failed[1]))
            counts.take(index)
        counts.held[index] = Held(pod, failed, counted)
