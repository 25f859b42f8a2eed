"""Columns of what makes pods: DaemonSet, StatefulSet, ReplicationController, Job, CronJob, ControllerRevision. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudlink.hub.api.cells import NONE, containers, controller, pairs, selector_text, wide
from cloudlink.hub.api.table import AGE, NAME, Column, duration, seconds_of, since
from cloudlink.kube.annotations import START_AT
from cloudlink.kube.apps import ControllerRevision, DaemonSet, StatefulSet
from cloudlink.kube.batch import CronJob, Job
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.replication import ReplicationController

_OF_TEMPLATE = wide("Containers", "Images", "Selector")


def _daemon_set(obj: DaemonSet, now: float) -> Sequence[object]:
    status = obj.status
    return (
        obj.metadata.name,
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        status.updated_number_scheduled,
        status.number_available,
        pairs(obj.spec.template.spec.node_selector),
        since(obj.metadata.creation_timestamp, now),
        *containers(obj.spec.template.spec.containers),
        selector_text(obj.spec.selector),
    )


_DAEMON_SET = (
    NAME,
    *(Column(n, "integer") for n in ("Desired", "Current", "Ready", "Up-to-date", "Available")),
    Column("Node Selector"),
    AGE,
    *_OF_TEMPLATE,
)


def _stateful_set(obj: StatefulSet, now: float) -> Sequence[object]:
    return (
        obj.metadata.name,
        f"{obj.status.ready_replicas}/{obj.spec.replicas}",
        since(obj.metadata.creation_timestamp, now),
        *containers(obj.spec.template.spec.containers),
    )


def _replication_controller(obj: ReplicationController, now: float) -> Sequence[object]:
    return (
        obj.metadata.name,
        obj.spec.replicas,
        obj.status.replicas,
        obj.status.ready_replicas,
        since(obj.metadata.creation_timestamp, now),
        *containers(obj.spec.template.spec.containers),
        pairs(obj.spec.selector),
    )


def _controller_revision(obj: ControllerRevision, now: float) -> Sequence[object]:
    return obj.metadata.name, controller(obj), obj.revision, since(obj.metadata.creation_timestamp, now)


def job_status(job: Job, now: float) -> str:
    """The word in the STATUS column; "Waiting" is ours, for one that is made ahead of its time."""
    true = {c.type for c in job.status.conditions if c.status == "True"}
    if "Complete" in true:
        return "Complete"
    if "Failed" in true:
        return "Failed"
    if job.metadata.deletion_timestamp:
        return "Terminating"
    starts = seconds_of(job.metadata.annotations.get(START_AT, ""))
    otherwise = "Waiting" if starts is not None and starts > now else "Running"
    return next((t for t in ("Suspended", "FailureTarget", "SuccessCriteriaMet") if t in true), otherwise)


def _completions(job: Job) -> str:
    wanted, parallelism = job.spec.completions, job.spec.parallelism or 0
    if wanted is not None:
        return f"{job.status.succeeded}/{wanted}"
    return f"{job.status.succeeded}/1" + (f" of {parallelism}" if parallelism > 1 else "")


def _job_duration(job: Job, now: float) -> str:
    start = seconds_of(job.status.start_time)
    if start is None:
        return ""
    end = seconds_of(job.status.completion_time)
    return duration((now if end is None else end) - start)


def _job(obj: Job, now: float) -> Sequence[object]:
    return (
        obj.metadata.name,
        job_status(obj, now),
        _completions(obj),
        _job_duration(obj, now),
        since(obj.metadata.creation_timestamp, now),
        *containers(obj.spec.template.spec.containers),
        NONE if obj.spec.selector is None else selector_text(obj.spec.selector),
    )


def _cron_job(obj: CronJob, now: float) -> Sequence[object]:
    spec, last = obj.spec, obj.status.last_schedule_time
    job = spec.job_template.spec
    return (
        obj.metadata.name,
        spec.schedule,
        spec.time_zone or NONE,
        str(spec.suspend),
        len(obj.status.active),
        since(last, now) if last else NONE,
        since(obj.metadata.creation_timestamp, now),
        *containers(job.template.spec.containers),
        NONE if job.selector is None else selector_text(job.selector),
    )


COLUMNS: Mapping[type[KubeObject], tuple[tuple[Column, ...], Any]] = {
    DaemonSet: (_DAEMON_SET, _daemon_set),
    StatefulSet: ((NAME, Column("Ready"), AGE, *wide("Containers", "Images")), _stateful_set),
    ReplicationController: (
        (NAME, *(Column(n, "integer") for n in ("Desired", "Current", "Ready")), AGE, *_OF_TEMPLATE),
        _replication_controller,
    ),
    ControllerRevision: ((NAME, Column("Controller"), Column("Revision"), AGE), _controller_revision),
    Job: ((NAME, Column("Status"), Column("Completions"), Column("Duration"), AGE, *_OF_TEMPLATE), _job),
    CronJob: (
        (
            NAME,
            Column("Schedule"),
            Column("Timezone"),
            Column("Suspend", "boolean"),
            Column("Active", "integer"),
            Column("Last Schedule"),
            AGE,
            *_OF_TEMPLATE,
        ),
        _cron_job,
    ),
}
