"""Whether a Job has come to its end, and which: (type, reason, message) of the condition that says so. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cloudlink.hub.controllers import job_pods
from cloudlink.hub.controllers.indexes import Indexes
from cloudlink.hub.controllers.job_counts import Counts
from cloudlink.hub.objects import find_condition, seconds
from cloudlink.kube.batch import Job, JobCondition
from cloudlink.kube.core import Pod

SUCCESS, FAILURE = "SuccessCriteriaMet", "FailureTarget"  # decided, while pods may still run
COMPLETE, FAILED = "Complete", "Failed"  # over

Verdict = tuple[str, str, str]


def true_condition(job: Job, kind: str) -> JobCondition | None:
    found = find_condition(job.status.conditions, kind)
    return found if found is not None and found.status == "True" else None


def verdict(job: Job, counts: Counts, active: Sequence[Pod], start_time: str, now: float) -> Verdict | None:
    """None while it goes on. What was decided once stays.

    :param start_time: status.startTime as it will be.
    """
    for kind in (FAILURE, SUCCESS):
        said = true_condition(job, kind)
        if said is not None:
            return kind, said.reason, said.message
    return _failure(job, counts, active, start_time, now) or _success(job, counts, active)


def _failure(job: Job, counts: Counts, active: Sequence[Pod], start_time: str, now: float) -> Verdict | None:
    spec = job.spec
    limit = spec.backoff_limit or 0
    if counts.fail_job:
        return FAILURE, "PodFailurePolicy", counts.fail_job
    if counts.failed + sum(h.counts for h in counts.held.values()) > limit or _restarted_too_often(job, active, limit):
        return FAILURE, "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    deadline = spec.active_deadline_seconds
    if deadline is not None and start_time and not spec.suspend and seconds(start_time) + deadline <= now:
        return FAILURE, "DeadlineExceeded", "Job was active longer than specified deadline"
    lost = len(counts.failed_indexes) if counts.per_index else 0
    if spec.max_failed_indexes is not None and lost > spec.max_failed_indexes:
        return FAILURE, "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes"
    if lost and lost + counts.succeeded >= counts.completions:
        return FAILURE, "FailedIndexes", "Job has failed indexes"
    return None


def _restarted_too_often(job: Job, active: Sequence[Pod], limit: int) -> bool:
    if job.spec.template.spec.restart_policy != "OnFailure":
        return False
    restarts = job_pods.restarts(active)
    return restarts >= limit if limit else restarts > 0


def _success(job: Job, counts: Counts, active: Sequence[Pod]) -> Verdict | None:
    policy = job.spec.success_policy
    for number, rule in enumerate(policy.rules if policy is not None and counts.indexed else ()):
        there, wanted = len(counts.completed), rule.succeeded_count
        if rule.succeeded_indexes is not None:
            named = Indexes.read(rule.succeeded_indexes, counts.completions)
            there = counts.completed.common(named)
            wanted = len(named) if wanted is None else wanted
        if wanted is not None and there >= wanted:
            return SUCCESS, "SuccessPolicy", f"Matched rules at index {number}"
    if job.spec.suspend:
        return None
    if job.spec.completions is None:
        done = counts.succeeded > 0 and not active
    else:
        done = counts.succeeded >= counts.completions
    return (SUCCESS, "CompletionsReached", "Reached expected number of succeeded pods") if done else None
