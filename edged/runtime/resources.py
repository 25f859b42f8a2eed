"""Requests and limits of one container as OCI's linux.resources and oom_score_adj (pure).

What the pod's own cgroup gets, one level up, is in edged.decide.settings.
"""

from __future__ import annotations

from typing import Any, Protocol

from edged.model import Limits, Pod, Qos, Value, qos_of

CPU_PERIOD = 100_000  # microseconds, Kubernetes' default
LEAST_QUOTA = 1000  # microseconds, the kernel's own least


class Swap(Value, frozen=True):
    """Swap that pods may use, in bytes; none by default, for on a board it is flash, or memory itself (zram).

    :ivar total: what there is of it for pods. `memory`: of the board.
    """

    total: int = 0
    memory: int = 0

    def share(self, limits: Limits) -> int:
        """Kubernetes' LimitedSwap: in proportion to the memory that a container asked for. One that asked for nothing
        gets nothing, and one that may not use more than it asked for has no need of it."""
        if self.memory <= 0 or limits.memory_request == limits.memory_limit:
            return 0
        return self.total * limits.memory_request // self.memory


class Enforceable(Protocol):
    """What this machine can enforce; see bundle.Machine."""

    @property
    def unified(self) -> bool: ...
    @property
    def memory(self) -> bool: ...
    @property
    def swap(self) -> bool: ...
    @property
    def cpu(self) -> bool: ...
    @property
    def pids(self) -> bool: ...
    @property
    def devices(self) -> bool: ...
    @property
    def swap_space(self) -> Swap: ...


def resources(limits: Limits, machine: Enforceable) -> dict[str, Any]:
    """Kubernetes' translation of requests and limits; swap beyond the memory limit only as far as `Swap` gives some.

    cpu_request becomes shares (1024 a core; crun turns them into cgroup v2 weight), cpu_limit a quota.
    """
    found: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]} if machine.devices else {}
    if machine.memory and limits.memory_limit is not None:
        found["memory"] = {"limit": limits.memory_limit}
        if machine.swap:
            found["memory"]["swap"] = limits.memory_limit + machine.swap_space.share(limits)
    if machine.memory and machine.unified:  # as Kubernetes: a container that lost one process is not left limping
        found["unified"] = {"memory.oom.group": "1"}
    if machine.cpu:
        found["cpu"] = {"shares": cpu_shares(limits.cpu_request)}
        if limits.cpu_limit is not None:
            found["cpu"] |= {"period": CPU_PERIOD, "quota": cpu_quota(limits.cpu_limit)}
    if machine.pids and limits.pids_limit > 0:
        found["pids"] = {"limit": limits.pids_limit}
    return found


def cpu_shares(request: int) -> int:
    """:param request: thousandths of a core. :returns: cgroup v1 shares, 1024 a core."""
    return max(2, request * 1024 // 1000)


def cpu_quota(limit: int) -> int:
    """:param limit: thousandths of a core. :returns: microseconds in each CPU_PERIOD."""
    return max(LEAST_QUOTA, limit * CPU_PERIOD // 1000)


def oom_score_adj(pod: Pod, limits: Limits, memory_total: int) -> int:
    """Who goes first when the whole board runs out of memory: Kubernetes' QoS classes and numbers."""
    match qos_of(pod):
        case Qos.GUARANTEED:
            return -997
        case Qos.BEST_EFFORT:
            return 1000
    share = 1000 * limits.memory_request // memory_total if memory_total > 0 else 0
    return min(max(2, 1000 - share), 999)
