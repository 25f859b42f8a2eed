"""Rules for Jobs and CronJobs. See `validate`."""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Callable, Mapping

from cloudlink.kube import batch, cron, names, occurrences
from cloudlink.kube.findings import Findings
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.validate_apps import template
from cloudlink.kube.validate_meta import labels_and_annotations, selector

MAX_PARALLELISM_INDEXED = 100_000
MAX_RULES = 20
MAX_EXIT_CODES = 255
_INDEXES = re.compile(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", re.ASCII)


def _job(obj: batch.Job, found: Findings) -> None:
    if obj.spec.completion_mode == "Indexed" and (why := names.dns_label(obj.metadata.name)) and obj.metadata.name:
        found.invalid("metadata.name", obj.metadata.name, why)  # its pods' host names begin with it
    _job_spec(obj.spec, "spec", found)


def _job_spec(spec: batch.JobSpec, path: str, found: Findings) -> None:
    for field, value in (
        ("parallelism", spec.parallelism),
        ("completions", spec.completions),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ):
        if value is not None:
            found.at_least(f"{path}.{field}", value, 0)
    _indexes(spec, path, found)
    if spec.managed_by is not None and (why := names.qualified_path(spec.managed_by)):
        found.invalid(f"{path}.managedBy", spec.managed_by, why)
    _failure_policy(spec, path, found)
    _success_policy(spec, path, found)
    if spec.manual_selector and spec.selector is None:
        found.required(f"{path}.selector")
    selector(spec.selector, f"{path}.selector", found)
    labels = spec.template.metadata.labels
    if spec.selector is not None and spec.manual_selector and not spec.selector.matches(labels):
        # Without manualSelector the hub adds what is missing.
        found.invalid(f"{path}.template.metadata.labels", dict(labels), "`selector` does not match template `labels`")
    if spec.template.spec.restart_policy == "Always":
        found.required(f"{path}.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
    template(spec.template, f"{path}.template", found)


def _indexes(spec: batch.JobSpec, path: str, found: Findings) -> None:
    indexed = spec.completion_mode == "Indexed"
    if indexed:
        if spec.completions is None:
            found.required(f"{path}.completions", "when completion mode is Indexed")
        if (spec.parallelism or 0) > MAX_PARALLELISM_INDEXED:
            why = f"must be less than or equal to {MAX_PARALLELISM_INDEXED} when completion mode is Indexed"
            found.invalid(f"{path}.parallelism", spec.parallelism, why)
    if spec.backoff_limit_per_index is not None and not indexed:
        found.invalid(f"{path}.backoffLimitPerIndex", spec.backoff_limit_per_index, "requires indexed completion mode")
    if spec.max_failed_indexes is None:
        return
    if not indexed:
        found.invalid(f"{path}.maxFailedIndexes", spec.max_failed_indexes, "requires indexed completion mode")
    if spec.backoff_limit_per_index is None:
        found.required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    if spec.completions is not None and spec.max_failed_indexes > spec.completions:
        found.invalid(f"{path}.maxFailedIndexes", spec.max_failed_indexes, "must be less than or equal to completions")


def _failure_policy(spec: batch.JobSpec, path: str, found: Findings) -> None:
    policy = spec.pod_failure_policy
    if policy is None:
        return
    if spec.template.spec.restart_policy != "Never":
        why = 'only "Never" is supported when podFailurePolicy is specified'
        found.invalid(f"{path}.template.spec.restartPolicy", spec.template.spec.restart_policy, why)
    if spec.pod_replacement_policy != "Failed":
        found.unsupported(f"{path}.podReplacementPolicy", spec.pod_replacement_policy, ["Failed"])
    rules = f"{path}.podFailurePolicy.rules"
    if len(policy.rules) > MAX_RULES:
        found.too_long(rules, MAX_RULES, "items")
        return
    containers = {c.name for c in (*spec.template.spec.init_containers, *spec.template.spec.containers)}
    for i, rule in enumerate(policy.rules):
        here = f"{rules}[{i}]"
        if rule.action == "FailIndex" and spec.backoff_limit_per_index is None:
            found.invalid(f"{here}.action", rule.action, "requires the backoffLimitPerIndex to be set")
        if rule.on_exit_codes is not None and rule.on_pod_conditions:
            found.invalid(here, rule.action, "specifying both OnExitCodes and OnPodConditions is not supported")
        elif rule.on_exit_codes is None and not rule.on_pod_conditions:
            found.invalid(here, rule.action, "specifying one of OnExitCodes and OnPodConditions is required")
        if rule.on_exit_codes is not None:
            _exit_codes(rule.on_exit_codes, containers, f"{here}.onExitCodes", found)
        for j, condition in enumerate(rule.on_pod_conditions):
            found.text(f"{here}.onPodConditions[{j}].type", condition.type, names.label_key)


def _exit_codes(
    codes: batch.PodFailurePolicyOnExitCodesRequirement, containers: set[str], path: str, found: Findings
) -> None:
    if codes.container_name is not None and codes.container_name not in containers:
        found.invalid(
            f"{path}.containerName", codes.container_name, "must be one of the container or initContainer names"
        )
    values = f"{path}.values"
    if not codes.values:
        found.invalid(values, [], "at least one value is required")
    elif len(codes.values) > MAX_EXIT_CODES:
        found.too_long(values, MAX_EXIT_CODES, "items")
        return
    if list(codes.values) != sorted(codes.values):
        found.invalid(values, list(codes.values), "must be ordered")
    seen: set[object] = set()
    for i, value in enumerate(codes.values):
        if codes.operator == "In" and value == 0:
            found.invalid(f"{values}[{i}]", value, "must not be 0 for the In operator")
        found.unique(f"{values}[{i}]", value, seen)


def _success_policy(spec: batch.JobSpec, path: str, found: Findings) -> None:
    policy, here = spec.success_policy, f"{path}.successPolicy"
    if policy is None:
        return
    if spec.completion_mode != "Indexed":
        found.invalid(here, {}, "requires indexed completion mode")
    if not policy.rules:
        found.required(f"{here}.rules", "at least one rules must be specified when the successPolicy is specified")
    if len(policy.rules) > MAX_RULES:
        found.too_long(f"{here}.rules", MAX_RULES, "items")
        return
    for i, rule in enumerate(policy.rules):
        if rule.succeeded_count is None and rule.succeeded_indexes is None:
            why = "at least one of succeededCount or succeededIndexes must be specified"
            found.required(f"{here}.rules[{i}]", why)
        if rule.succeeded_count is not None:
            found.at_least(f"{here}.rules[{i}].succeededCount", rule.succeeded_count, 1)
        if rule.succeeded_indexes is not None and not _INDEXES.fullmatch(rule.succeeded_indexes):
            found.invalid(
                f"{here}.rules[{i}].succeededIndexes", rule.succeeded_indexes, "error parsing succeededIndexes"
            )


# ---------------------------------------------------------------- CronJob


def _cron_job(obj: batch.CronJob, found: Findings) -> None:
    spec = obj.spec
    if not spec.schedule:
        found.required("spec.schedule")
    elif "TZ" in spec.schedule:
        why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        if spec.time_zone is not None:
            why = "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        found.invalid("spec.schedule", spec.schedule, why)
    else:
        try:
            if not occurrences.ever(cron.parse(spec.schedule)):
                why = "there is no such day: it would never run; choose a day that one of its months has"
                found.invalid("spec.schedule", spec.schedule, why)
        except cron.CronError as e:
            found.invalid("spec.schedule", spec.schedule, str(e))
    if spec.time_zone is not None and (why := time_zone(spec.time_zone)):
        found.invalid("spec.timeZone", spec.time_zone, why)
    if spec.starting_deadline_seconds is not None:
        found.at_least("spec.startingDeadlineSeconds", spec.starting_deadline_seconds, 0)
    found.at_least("spec.successfulJobsHistoryLimit", spec.successful_jobs_history_limit, 0)
    found.at_least("spec.failedJobsHistoryLimit", spec.failed_jobs_history_limit, 0)
    job, path = spec.job_template, "spec.jobTemplate"
    labels_and_annotations(job.metadata, f"{path}.metadata", found)
    if job.spec.selector is not None:
        found.invalid(f"{path}.spec.selector", {}, "`selector` will be auto-generated")
    if job.spec.manual_selector:
        found.unsupported(f"{path}.spec.manualSelector", True, ["nil", "false"])
    _job_spec(job.spec, f"{path}.spec", found)


@functools.lru_cache(maxsize=1024)
def time_zone(name: str) -> str:
    """What is wrong with it. The IANA database is the machine's (Debian package tzdata)."""
    if not name:
        return "timeZone must be nil or non-empty string"
    if name.lower() == "local":
        return "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return f"unknown time zone {name}"
    return ""


CHECKS: Mapping[type[KubeObject], Callable[..., None]] = {batch.Job: _job, batch.CronJob: _cron_job}
