"""Kubernetes' quality-of-service classes: who is asked to give way first when the board runs out of something."""

from __future__ import annotations

import enum

from edged.model.containers import Limits
from edged.model.pods import Pod


class Qos(enum.StrEnum):
    """v1 PodQOSClass, the first to go last."""

    GUARANTEED = "Guaranteed"  # every container has limits for CPU and memory, and requests just that
    BURSTABLE = "Burstable"  # asks for something, but not all of it for sure
    BEST_EFFORT = "BestEffort"  # asks for nothing


def qos_of(pod: Pod) -> Qos:
    """The class of a pod. As in Kubernetes, init containers count and ephemeral storage does not; a request or limit
    of 0 is as good as none."""
    everything = [c.limits for c in pod.all_containers]
    if all(_guaranteed(one) for one in everything):
        return Qos.GUARANTEED
    if not any(one.memory_request or one.memory_limit or one.cpu_request or one.cpu_limit for one in everything):
        return Qos.BEST_EFFORT
    return Qos.BURSTABLE


def _guaranteed(limits: Limits) -> bool:
    return (
        bool(limits.memory_limit)
        and bool(limits.cpu_limit)
        and limits.memory_request == limits.memory_limit
        and limits.cpu_request == limits.cpu_limit
    )
