"""What a verdict means for its pod: node, the PodScheduled condition, and what people are told. Pure."""

from __future__ import annotations

from typing import assert_never

from cloudlink.hub.decision import Note
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
    conditions = with_condition(pod.status.conditions, condition)
    if conditions == pod.status.conditions:
        return pod
    return pod.model_copy(update={"status": pod.status.model_copy(update={"conditions": conditions})})


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
