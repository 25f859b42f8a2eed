"""batch/v1: Job and CronJob."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from cloudlink.kube.errors import Cause, Invalid
from cloudlink.kube.meta import (
    Condition,
    ConditionStatus,
    KubeObject,
    LabelSelector,
    Many,
    Model,
    ObjectMeta,
    Report,
    put,
)
from cloudlink.kube.pod import PodTemplateSpec
from cloudlink.kube.references import ObjectReference

MAX_INT32 = (1 << 31) - 1
DEFAULT_BACKOFF_LIMIT = 6

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
OLD_CONTROLLER_UID = "controller-uid"  # what selectors of old still use
OLD_JOB_NAME = "job-name"


class PodFailurePolicyOnExitCodesRequirement(Model):
    container_name: str | None = None
    operator: Literal["In", "NotIn"]
    values: Many[int] = ()


class PodFailurePolicyOnPodConditionsPattern(Model):
    type: str
    status: ConditionStatus = "True"


class PodFailurePolicyRule(Model):
    action: Literal["FailJob", "FailIndex", "Ignore", "Count"]
    on_exit_codes: PodFailurePolicyOnExitCodesRequirement | None = None
    on_pod_conditions: Many[PodFailurePolicyOnPodConditionsPattern] = ()


class PodFailurePolicy(Model):
    """The first rule that fits decides what a pod's failure means."""

    rules: Many[PodFailurePolicyRule] = ()


class SuccessPolicyRule(Model):
    succeeded_indexes: str | None = None
    succeeded_count: int | None = None


class SuccessPolicy(Model):
    rules: Many[SuccessPolicyRule] = ()


class JobSpec(Model):
    """:ivar selector: made by the hub unless `manualSelector` is true.
    :ivar backoff_limit: failures before the Job is failed; 6 where nothing is said.
    :ivar ttl_seconds_after_finished: how long a finished Job is kept.
    """

    template: PodTemplateSpec
    parallelism: int | None = None
    completions: int | None = None
    completion_mode: Literal["NonIndexed", "Indexed"] = "NonIndexed"
    backoff_limit: int | None = None
    backoff_limit_per_index: int | None = None
    max_failed_indexes: int | None = None
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None
    selector: LabelSelector | None = None
    manual_selector: bool | None = None
    suspend: bool = False
    pod_failure_policy: PodFailurePolicy | None = None
    success_policy: SuccessPolicy | None = None
    pod_replacement_policy: Literal["", "TerminatingOrFailed", "Failed"] = ""
    managed_by: str | None = None

    @model_validator(mode="after")
    def _defaults(self) -> JobSpec:
        """Kubernetes' SetDefaults_Job."""
        if self.completions is None and self.parallelism is None:
            put(self, completions=1)
        if self.parallelism is None:
            put(self, parallelism=1)
        if self.backoff_limit is None:
            put(self, backoff_limit=DEFAULT_BACKOFF_LIMIT if self.backoff_limit_per_index is None else MAX_INT32)
        if not self.pod_replacement_policy:
            put(self, pod_replacement_policy="Failed" if self.pod_failure_policy else "TerminatingOrFailed")
        return self


class JobCondition(Condition):
    always: ClassVar = frozenset()

    last_probe_time: str = ""


class UncountedTerminatedPods(Report):
    succeeded: Many[str] = ()
    failed: Many[str] = ()


class JobStatus(Report):
    conditions: Many[JobCondition] = ()
    start_time: str = ""
    completion_time: str = ""
    active: int = 0
    ready: int | None = None
    succeeded: int = 0
    failed: int = 0
    terminating: int | None = None
    completed_indexes: str = ""
    failed_indexes: str | None = None
    uncounted_terminated_pods: UncountedTerminatedPods | None = None


class Job(KubeObject):
    api_version: Literal["batch/v1"] = "batch/v1"
    kind: Literal["Job"] = "Job"
    spec: JobSpec
    status: JobStatus = JobStatus()

    @model_validator(mode="after")
    def _labels_of_the_template(self) -> Job:
        """A Job without labels has its pods' (SetDefaults_Job)."""
        labels = self.spec.template.metadata.labels
        if labels and not self.metadata.labels:
            put(self, metadata=self.metadata.model_copy(update={"labels": dict(labels)}))
        return self


def check_generated(job: Job) -> None:
    """Invalid where a new Job brings what is made for it (ValidateGeneratedSelector)."""
    if job.spec.manual_selector:
        return
    labels, path = job.spec.template.metadata.labels, "spec.template.metadata.labels"
    wanted = dict.fromkeys((JOB_NAME, OLD_JOB_NAME), job.metadata.name)
    wanted |= dict.fromkeys((CONTROLLER_UID, OLD_CONTROLLER_UID), "the Job's own uid, which it doesn't have yet")
    causes = [
        Cause(f"{path}[{label}]", "FieldValueInvalid", f"Invalid value: {labels[label]!r}: must be '{value}'")
        for label, value in wanted.items()
        if label in labels and labels[label] != value
    ]
    if job.spec.selector is not None:
        text = "Invalid value: `selector` not auto-generated; leave it out, or set manualSelector"
        causes.append(Cause("spec.selector", "FieldValueInvalid", text))
    if causes:
        raise Invalid(causes, job.kind, job.metadata.name)


def with_generated_selector(job: Job) -> Job:
    """A new Job (with its uid) selects the pods that carry that uid, and its pods carry it, unless its author sees to
    that (generateSelector in kubernetes/pkg/registry/batch/job)."""
    spec, meta = job.spec, job.metadata
    if spec.manual_selector:
        return job
    uid, name = meta.uid, meta.name
    own = {CONTROLLER_UID: uid, OLD_CONTROLLER_UID: uid, JOB_NAME: name, OLD_JOB_NAME: name}
    template = spec.template
    labels = template.metadata.model_copy(update={"labels": own | template.metadata.labels})
    template = template.model_copy(update={"metadata": labels})
    selector = LabelSelector(match_labels={CONTROLLER_UID: uid})
    meta = meta if meta.labels else meta.model_copy(update={"labels": template.metadata.labels.copy()})
    spec = spec.model_copy(update={"template": template, "selector": selector})
    return job.model_copy(update={"metadata": meta, "spec": spec})


class JobTemplateSpec(Model):
    metadata: ObjectMeta = ObjectMeta()
    spec: JobSpec


class CronJobSpec(Model):
    """:ivar schedule: five fields (minute, hour, day of month, month, day of week), or @hourly, @daily and the like.
    :ivar time_zone: of the IANA database, such as Europe/Berlin; UTC where nothing is said.
    :ivar starting_deadline_seconds: a start that is later than that is left out.
    """

    schedule: str
    time_zone: str | None = None
    job_template: JobTemplateSpec
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = "Allow"
    suspend: bool = False
    starting_deadline_seconds: int | None = None
    successful_jobs_history_limit: int = 3
    failed_jobs_history_limit: int = 1


class CronJobStatus(Report):
    active: Many[ObjectReference] = Field(default=())
    last_schedule_time: str = ""
    last_successful_time: str = ""


class CronJob(KubeObject):
    api_version: Literal["batch/v1"] = "batch/v1"
    kind: Literal["CronJob"] = "CronJob"
    spec: CronJobSpec
    status: CronJobStatus = CronJobStatus()
