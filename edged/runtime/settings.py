"""What the cgroup of a whole pod gets, and the one of all pods: values in, kernel files out (pure).

    <parent>     TreeSettings: all pods together, so that they never take the daemon's and sshd's memory
      <pod uid>  PodSettings: what its containers share
        <name>   edged.runtime.resources, written by crun

Protection (memory.min, memory.low) is worth only what the cgroups above pass on (kernel: cgroup-v2.rst), so the parent
protects what its pods do together, and so do those above it (edged.runtime.pod_cgroups).

memory.high of a pod is left alone here: it belongs to the degradation ladder. A standing memory.high near the limit
slows a pod down that grows into its limit instead of ending it, and a pod that crawls is seen by nobody; that is why
Kubernetes' MemoryQoS never left its alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edged.model import Limits, Pod, Qos, Value, qos_of
from edged.runtime.resources import CPU_PERIOD, Swap, cpu_quota, cpu_shares

IO_WEIGHTS = {Qos.GUARANTEED: 200, Qos.BURSTABLE: 100, Qos.BEST_EFFORT: 25}  # the kernel's default is 100
NO_LIMIT = "max"


class TreeSettings(Value, frozen=True):
    """All pods together, in bytes.

    :ivar memory_high: what pods may request together; beyond it whoever allocates is slowed down.
    :ivar memory_max: beyond it the kernel kills among the pods. The difference is the time that the ladder has to act.
    :ivar pids_max: processes and threads.
    """

    memory_high: int
    memory_max: int
    pids_max: int | None = None


class PodSettings(Value, frozen=True):
    """Memory in bytes, CPU in thousandths of a core; None = no limit.

    :ivar memory_min: not taken away even when the board is short.
    :ivar memory_low: not taken away as long as others have something left.
    :ivar cpu_idle: as little CPU as the least weight (sched(7), SCHED_IDLE), and no other pod ever waits for its
        turn to end: that is what neighbours of a fork bomb feel.
    """

    memory_min: int = 0
    memory_low: int = 0
    memory_max: int | None = None
    swap_max: int = 0
    cpu_request: int = 0
    cpu_limit: int | None = None
    cpu_idle: bool = False
    io_weight: int = 100
    pids_max: int | None = None


def pod_settings(pod: Pod, swap: Swap) -> PodSettings:
    """As Kubernetes' pod-level cgroup: a limit only where every container has one, for a container without is bounded
    by nothing but the board."""
    qos, memory = qos_of(pod), pod.memory_request
    return PodSettings(
        memory_min=memory if qos is Qos.GUARANTEED else 0,
        memory_low=memory if qos is Qos.BURSTABLE else 0,
        memory_max=at_busiest(pod, lambda limits: limits.memory_limit),
        swap_max=sum(swap.share(c.limits) for c in pod.all_containers) if qos is Qos.BURSTABLE else 0,
        cpu_request=at_busiest(pod, lambda limits: limits.cpu_request) or 0,
        cpu_limit=at_busiest(pod, lambda limits: limits.cpu_limit),
        cpu_idle=qos is Qos.BEST_EFFORT,
        io_weight=IO_WEIGHTS[qos],
        pids_max=at_busiest(pod, lambda limits: limits.pids_limit or None),
    )


def at_busiest(pod: Pod, pick: Callable[[Limits], int | None]) -> int | None:
    """The most of something that a pod's containers have at one time (the rule of Pod.memory_request); None where one
    of them has no bound."""
    sidecars, most = 0, 0
    for one in pod.init:
        value = pick(one.limits)
        if value is None:
            return None
        sidecars += value if one.sidecar else 0
        most = max(most, sidecars if one.sidecar else sidecars + value)
    together = sidecars
    for one in pod.containers:
        value = pick(one.limits)
        if value is None:
            return None
        together += value
    return max(most, together)


def unified_tree(tree: TreeSettings) -> dict[str, str]:
    """cgroup v2: file -> value."""
    return {
        "memory.high": str(page(tree.memory_high)),
        "memory.max": str(page(tree.memory_max)),
        "pids.max": _count(tree.pids_max),
    }


def unified_pod(pod: PodSettings) -> dict[str, str]:
    """cgroup v2: file -> value; those of controllers that the machine lacks are for the caller to leave out."""
    shares = cpu_shares(pod.cpu_request)
    quota = NO_LIMIT if pod.cpu_limit is None else str(cpu_quota(pod.cpu_limit))
    return {
        "memory.min": str(page(pod.memory_min)),
        "memory.low": str(page(pod.memory_low)),
        "memory.max": NO_LIMIT if pod.memory_max is None else str(page(pod.memory_max)),
        "memory.swap.max": str(page(pod.swap_max)),
        "cpu.idle": str(int(pod.cpu_idle)),  # before the weight, which an idle cgroup does not take
        "cpu.weight": str(1 + (min(shares, 262_144) - 2) * 9999 // 262_142),  # Kubernetes' and crun's formula
        "cpu.max": f"{quota} {CPU_PERIOD}",
        "io.weight": f"default {pod.io_weight}",
        "io.bfq.weight": f"default {pod.io_weight}",
        "pids.max": _count(pod.pids_max),
    }


def legacy_tree(tree: TreeSettings) -> Mapping[str, tuple[tuple[str, str], ...]]:
    """cgroup v1: controller -> (file, value), in the order in which they have to be written."""
    return {
        "memory": (("memory.limit_in_bytes", str(page(tree.memory_max))),),
        "pids": (("pids.max", _count(tree.pids_max)),),
    }


def legacy_pod(pod: PodSettings) -> Mapping[str, tuple[tuple[str, str], ...]]:
    """cgroup v1: controller -> (file, value). memory.soft_limit_in_bytes is the nearest thing to memory.low: the
    kernel takes from those above it first."""
    limit = "-1" if pod.memory_max is None else str(page(pod.memory_max))
    both = "-1" if pod.memory_max is None else str(page(pod.memory_max + pod.swap_max))
    soft = pod.memory_min or pod.memory_low
    return {
        "memory": (
            ("memory.limit_in_bytes", limit),
            ("memory.memsw.limit_in_bytes", both),  # never below the one before
            ("memory.soft_limit_in_bytes", str(page(soft)) if soft else "-1"),
        ),
        "cpu": (
            ("cpu.idle", str(int(pod.cpu_idle))),
            ("cpu.shares", str(min(cpu_shares(pod.cpu_request), 262_144))),
            ("cpu.cfs_period_us", str(CPU_PERIOD)),
            ("cpu.cfs_quota_us", "-1" if pod.cpu_limit is None else str(cpu_quota(pod.cpu_limit))),
        ),
        "blkio": (("blkio.bfq.weight", str(pod.io_weight)), ("blkio.weight", str(pod.io_weight))),
        "pids": (("pids.max", _count(pod.pids_max)),),
    }


def page(count: int) -> int:
    """The kernel counts in pages and shows what it made of a number; rounded down like there."""
    return count // 4096 * 4096


def _count(value: int | None) -> str:
    return NO_LIMIT if value is None else str(value)
