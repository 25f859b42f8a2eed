"""What a Job asks of each of its pods: how a new one looks, which index it is for, whether it has failed, and what
that failure means. Pure.

After Kubernetes' pkg/controller/job (indexed_job_utils, pod_failure_policy, backoff_utils).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cloudlink.hub.changes import Update
from cloudlink.hub.objects import ended_at, generated_name, is_deleted, is_finished, owned_by, seconds
from cloudlink.kube.annotations import OF_STARTS, QUEUED, START_BY
from cloudlink.kube.batch import (
    Job,
    PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
)
from cloudlink.kube.core import Pod, Toleration
from cloudlink.kube.env import EnvVar, EnvVarSource, ObjectFieldSelector
from cloudlink.kube.meta import ObjectMeta
from cloudlink.kube.pod import ContainerStatus, PodSpec
from cloudlink.kube.taints import OF_LIFE

TRACKING = "batch.kubernetes.io/job-tracking"  # finalizer of a pod that its Job hasn't counted yet
INDEX = "batch.kubernetes.io/job-completion-index"  # annotation and label
FAILURES = "batch.kubernetes.io/job-index-failure-count"  # annotation: how often its index failed before it
IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"  # likewise, where that didn't count
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
FIRST_BACKOFF, LONGEST_BACKOFF = 10.0, 360.0  # seconds until a failed pod is replaced; doubled each time

Action = Literal["FailJob", "FailIndex", "Ignore", "Count"]


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed pod means. `message` says which rule of the policy has failed the Job; "" = none has."""

    pod: Pod
    action: Action
    message: str = ""


# ---------------------------------------------------------------- one pod


def is_tracked(pod: Pod) -> bool:
    return TRACKING in pod.metadata.finalizers


def untracked(pod: Pod) -> Update:
    """Counted, or none of the Job's business any more. Goes into the same commit as the count."""
    return _with_finalizers(pod, tuple(f for f in pod.metadata.finalizers if f != TRACKING))


def tracked(pod: Pod) -> Update:
    return _with_finalizers(pod, (*pod.metadata.finalizers, TRACKING))


def _with_finalizers(pod: Pod, finalizers: tuple[str, ...]) -> Update:
    return Update(pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"finalizers": finalizers})}))


def index_of(pod: Pod) -> int:
    """-1 where it has none that can be read."""
    return _number(pod, INDEX, -1)


def _number(pod: Pod, annotation: str, otherwise: int = 0) -> int:
    text = pod.metadata.annotations.get(annotation, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else otherwise


def has_failed(pod: Pod, job: Job) -> bool:
    """A pod that was deleted before it could end counts as failed: at once, or (podReplacementPolicy Failed) when its
    node is through with it, which nobody but the finalizer keeps it for then."""
    if pod.status.phase == "Failed":
        return True
    if not is_deleted(pod) or pod.status.phase == "Succeeded":
        return False
    return job.spec.pod_replacement_policy != "Failed" or not pod.metadata.deletion_grace_period_seconds


def is_terminating(pod: Pod) -> bool:
    """Being deleted and not over: it may still run."""
    return is_deleted(pod) and not is_finished(pod) and bool(pod.metadata.deletion_grace_period_seconds)


def restarts(pods: Iterable[Pod]) -> int:
    """Of containers in pods that go on, as kubelet's restart policy OnFailure has them."""
    return sum(
        c.restart_count
        for p in pods
        if p.status.phase in ("Running", "Pending")
        for c in (*p.status.init_container_statuses, *p.status.container_statuses)
    )


# ---------------------------------------------------------------- failure


def judge(pod: Pod, job: Job) -> Failure:
    """What its failure means by the Job's podFailurePolicy: the first rule that fits decides."""
    policy = job.spec.pod_failure_policy
    for number, rule in enumerate(policy.rules if policy is not None else ()):
        why = _fits(pod, rule)
        if why:
            said = f"{why} matching {rule.action} rule at index {number}" if rule.action == "FailJob" else ""
            return Failure(pod, rule.action, said)
    return Failure(pod, "Count")


def _fits(pod: Pod, rule: PodFailurePolicyRule) -> str:
    if rule.on_exit_codes is not None:
        lists = (pod.status.container_statuses, pod.status.init_container_statuses)
        found = next((c for one in lists for c in one if _has_code(c, rule.on_exit_codes)), None)
        if found is not None and found.state.terminated is not None:
            code = found.state.terminated.exit_code
            return f"Container {found.name} for pod {pod.title} failed with exit code {code}"
        return ""
    kind = _condition(pod, rule.on_pod_conditions)
    return f"Pod {pod.title} has condition {kind}" if kind else ""


def _has_code(status: ContainerStatus, wanted: PodFailurePolicyOnExitCodesRequirement) -> bool:
    ended = status.state.terminated
    if ended is None or not ended.exit_code or wanted.container_name not in (None, status.name):
        return False
    return (ended.exit_code in wanted.values) == (wanted.operator == "In")


def _condition(pod: Pod, patterns: Sequence[PodFailurePolicyOnPodConditionsPattern]) -> str:
    wanted = {(p.type, p.status) for p in patterns}
    return next((c.type for c in pod.status.conditions if (c.type, c.status) in wanted), "")


def failures_of_index(pod: Pod) -> tuple[int, int]:
    """How often its index had failed before this pod: counted, and ignored."""
    return _number(pod, FAILURES), _number(pod, IGNORED)


# ---------------------------------------------------------------- backoff


def gone_at(pod: Pod) -> float:
    """When it was over, in seconds since 1970: a deleted pod when it was asked to end."""
    if is_deleted(pod) and not is_finished(pod):
        return seconds(pod.metadata.deletion_timestamp) - (pod.metadata.deletion_grace_period_seconds or 0)
    return ended_at(pod)


def next_try(pods: Iterable[Pod], job: Job) -> float:
    """When the next pod may be made, by how often pods have failed since one succeeded; 0 = at any time."""
    pods = list(pods)
    succeeded = max((gone_at(p) for p in pods if p.status.phase == "Succeeded"), default=0.0)
    failed = [at for p in pods if has_failed(p, job) and (at := gone_at(p)) > succeeded]
    return max(failed) + backoff(len(failed)) if failed else 0.0


def backoff(failures: int) -> float:
    """Seconds to wait after this many failures in a row."""
    return min(FIRST_BACKOFF * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF) if failures > 0 else 0.0


# ---------------------------------------------------------------- new pods


def new_pod(job: Job, suffix: str, index: int | None = None, failed: tuple[int, int] = (0, 0)) -> Pod:
    """:param index: what it is to complete, for an Indexed Job. :param failed: see `failures_of_index`."""
    template, spec = job.spec.template, job.spec.template.spec
    base, labels, annotations = f"{job.metadata.name}-", dict(template.metadata.labels), {}
    if index is not None:
        tail = f"-{index}-"
        base = job.metadata.name[: 58 - len(tail)] + tail  # what generated_name leaves of it
        labels[INDEX] = annotations[INDEX] = str(index)
        spec = _indexed(spec, f"{job.metadata.name}-{index}")
        if job.spec.backoff_limit_per_index is not None:
            annotations[FAILURES] = str(failed[0])
            annotations |= {IGNORED: str(failed[1])} if failed[1] else {}
    meta = ObjectMeta(
        name=generated_name(base, suffix),
        generate_name=base,
        namespace=job.metadata.namespace,
        labels=labels,
        annotations=template.metadata.annotations | annotations,
        finalizers=(*template.metadata.finalizers, TRACKING),
        owner_references=(owned_by(job),),
    )
    return Pod(metadata=meta, spec=spec)


def on_time(pod: Pod, job: Job, node: str, again: bool) -> Pod:
    """With what its node must know to hold it until its time.

    :param node: where it is to go; "" = not decided. :param again: its time has come, so it can't be too late.
    """
    given = {k: v for k, v in job.metadata.annotations.items() if k in OF_STARTS and not (again and k == START_BY)}
    if not given:
        return pod
    meta = pod.metadata.model_copy(
        update={
            "annotations": pod.metadata.annotations | given,
            "labels": pod.metadata.labels | ({QUEUED: "true"} if node else {}),
        }
    )
    spec = pod.spec if again else _staying(pod.spec)
    spec = spec.model_copy(update={"node_name": node}) if node else spec
    return pod.model_copy(update={"metadata": meta, "spec": spec})


def _staying(spec: PodSpec) -> PodSpec:
    """A board that is away runs what it has at its time: it must not be moved then, and so run twice. Who would rather
    have that says so in the template."""
    own = {t.key for t in spec.tolerations}
    added = (Toleration(key=k, operator="Exists", effect="NoExecute") for k in sorted(OF_LIFE - own))
    return spec if "" in own else spec.model_copy(update={"tolerations": (*spec.tolerations, *added)})


def _indexed(spec: PodSpec, hostname: str) -> PodSpec:
    """Each container is told its index, unless its author has; host names follow the indexes."""
    source = EnvVarSource(field_ref=ObjectFieldSelector(field_path=f"metadata.labels['{INDEX}']"))
    variable = EnvVar(name=INDEX_VARIABLE, value_from=source)
    groups = {
        name: tuple(
            c if any(e.name == INDEX_VARIABLE for e in c.env) else c.model_copy(update={"env": (*c.env, variable)})
            for c in getattr(spec, name)
        )
        for name in ("init_containers", "containers")
    }
    return spec.model_copy(update=groups | {"hostname": hostname[:63].rstrip("-")})
