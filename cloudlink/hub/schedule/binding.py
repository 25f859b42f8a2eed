"""What a verdict means for its pod: node, the PodScheduled condition, and what people are told. Pure."""

from __future__ import annotations

from typing import assert_never

from cloudlink.hub.changes import ObjectChange, UpdateStatus
from cloudlink.hub.decision import Note
from cloudlink.hub.deletion import deletion
from cloudlink.hub.objects import find_condition, rfc3339, with_condition
from cloudlink.hub.schedule.place import Binding, Unplaced, Verdict
from cloudlink.kube.core import Pod, PodCondition

COMPONENT = "default-scheduler"  # as Kubernetes signs its Events
SCHEDULED = "PodScheduled"


def with_verdict(verdict: Verdict, now: float) -> Pod:
    """The pod as it is once the verdict holds; the same pod where it says nothing new. `now`: seconds since 1970."""
    pod = verdict.pod
    match verdict:
        case Binding(node=node):
            condition = PodCondition(type=SCHEDULED, status="True", last_transition_time=rfc3339(now))
            pod = pod.model_copy(update={"spec": pod.spec.model_copy(update={"node_name": node})})
        case Unplaced(why=why):
            condition = PodCondition(
                type=SCHEDULED,
                status="False",
                reason="Unschedulable",
                message=why,
                last_transition_time=rfc3339(now),
            )
        case _:
            assert_never(verdict)
    nominated = verdict.nominated if isinstance(verdict, Unplaced) else ""
    news = {"conditions": with_condition(pod.status.conditions, condition), "nominated_node_name": nominated}
    status = pod.status.model_copy(update=news)
    return pod if status == pod.status else pod.model_copy(update={"status": status})


def farewell(victim: Pod, now: float) -> tuple[ObjectChange, ...]:
    """Ask a pod to end, in its own time, so that another one has its room."""
    condition = PodCondition(
        type="DisruptionTarget",
        status="True",
        reason="PreemptionByScheduler",
        message=f"{COMPONENT}: preempting to accommodate a higher priority pod",
        last_transition_time=rfc3339(now),
    )
    status = victim.status.model_copy(update={"conditions": with_condition(victim.status.conditions, condition)})
    asked = deletion(victim)
    told = UpdateStatus(victim.model_copy(update={"status": status}))
    return (told, asked) if asked is not None else ()


def farewell_note(victim: Pod, pod: Pod, node: str) -> Note:
    text = f"Preempted by pod {pod.title} (priority {pod.spec.priority or 0}) on node {node}"
    return Note(victim, "Normal", "Preempted", text, COMPONENT)


def note(verdict: Verdict) -> Note | None:
    """What people are told: every binding, and a reason why not when it is another than the last one."""
    match verdict:
        case Binding(pod=pod, node=node):
            text = f"Successfully assigned {pod.title} to {node}"
            return Note(pod, "Normal", "Scheduled", text, COMPONENT)
        case Unplaced(pod=pod, why=why):
            before = find_condition(pod.status.conditions, SCHEDULED)
            if before is not None and before.message == why:
                return None
            return Note(pod, "Warning", "FailedScheduling", why, COMPONENT)
    assert_never(verdict)
