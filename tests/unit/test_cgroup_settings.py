"""What a pod's cgroup gets, and the one of all pods, in the kernel's files."""

from __future__ import annotations

from edged.model import Container, Limits, Pod
from edged.runtime import settings
from edged.runtime.resources import Swap, resources
from edged.runtime.settings import PodSettings, TreeSettings, pod_settings

MIB = 1 << 20
SURE = Limits(64 * MIB, 64 * MIB, 500, 500, 100)


def pod(*limits: Limits, init: tuple[Container, ...] = ()) -> Pod:
    return Pod("ns", "p", "uid", tuple(Container(f"c{n}", "x", limits=x) for n, x in enumerate(limits)), init=init)


def test_a_guaranteed_pods_memory_is_not_taken_away() -> None:
    files = settings.unified_pod(pod_settings(pod(SURE, SURE), Swap(1 << 30, 1 << 30)))
    assert files == {
        "memory.min": str(128 * MIB),
        "memory.low": "0",
        "memory.max": str(128 * MIB),
        "memory.swap.max": "0",
        "cpu.idle": "0",
        "cpu.weight": "39",  # 1024 shares
        "cpu.max": "100000 100000",
        "io.weight": "default 200",
        "io.bfq.weight": "default 200",
        "pids.max": "200",
    }


def test_a_burstable_pod_keeps_what_it_asked_for_as_long_as_others_have_something() -> None:
    made = pod_settings(pod(Limits(32 * MIB, 64 * MIB), Limits(16 * MIB)), Swap())
    assert (made.memory_min, made.memory_low, made.memory_max) == (0, 48 * MIB, None)
    assert made.cpu_limit is None


def test_a_best_effort_pod_comes_last_everywhere() -> None:
    files = settings.unified_pod(pod_settings(pod(Limits()), Swap(1 << 30, 1 << 30)))
    assert (files["memory.low"], files["memory.max"], files["memory.swap.max"]) == ("0", "max", "0")
    assert (files["cpu.idle"], files["cpu.weight"], files["io.weight"]) == ("1", "1", "default 25")


def test_limits_hold_for_the_busiest_moment_of_a_pod() -> None:
    big = Container("big", "x", limits=Limits(0, 300 * MIB, pids_limit=10))
    side = Container("side", "x", limits=Limits(0, 20 * MIB, pids_limit=10), sidecar=True)
    made = pod_settings(pod(SURE, init=(side, big)), Swap())
    assert made.memory_max == 320 * MIB
    assert made.pids_max == 110  # later: the sidecar and the container
    unbounded = Container("free", "x", limits=Limits(pids_limit=0))
    assert pod_settings(pod(SURE, init=(unbounded,)), Swap()).memory_max is None
    assert pod_settings(pod(SURE, init=(unbounded,)), Swap()).pids_max is None


def test_swap_is_shared_in_proportion_to_requests_among_burstable_containers() -> None:
    swap = Swap(total=512 * MIB, memory=1024 * MIB)
    burstable = pod(Limits(64 * MIB, 128 * MIB), Limits(32 * MIB, 32 * MIB), Limits())
    assert pod_settings(burstable, swap).swap_max == 32 * MIB
    assert [swap.share(c.limits) for c in burstable.containers] == [32 * MIB, 0, 0]
    assert pod_settings(pod(SURE), swap).swap_max == 0
    assert pod_settings(burstable, Swap()).swap_max == 0


class Board:
    unified = memory = swap = cpu = pids = devices = True
    swap_space = Swap(total=512 * MIB, memory=1024 * MIB)


def test_a_containers_swap_goes_on_top_of_its_limit() -> None:
    made = resources(Limits(64 * MIB, 128 * MIB), Board())
    assert made["memory"] == {"limit": 128 * MIB, "swap": 160 * MIB}


def test_a_container_that_lost_a_process_ends_whole_with_a_limit_or_without() -> None:
    assert resources(Limits(), Board())["unified"] == {"memory.oom.group": "1"}


def test_legacy_files_come_in_the_order_in_which_the_kernel_takes_them() -> None:
    files = settings.legacy_pod(pod_settings(pod(SURE), Swap()))
    assert files["memory"] == (
        ("memory.limit_in_bytes", str(64 * MIB)),
        ("memory.memsw.limit_in_bytes", str(64 * MIB)),
        ("memory.soft_limit_in_bytes", str(64 * MIB)),
    )
    assert dict(files["cpu"]) == {
        "cpu.idle": "0",
        "cpu.shares": "512",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
    }
    free = settings.legacy_pod(PodSettings())
    assert dict(free["memory"]) == {
        "memory.limit_in_bytes": "-1",
        "memory.memsw.limit_in_bytes": "-1",
        "memory.soft_limit_in_bytes": "-1",
    }


def test_all_pods_together_have_room_between_slowing_down_and_being_killed() -> None:
    assert settings.unified_tree(TreeSettings(300 * MIB, 308 * MIB, 5000)) == {
        "memory.high": str(300 * MIB),
        "memory.max": str(308 * MIB),
        "pids.max": "5000",
    }
    assert settings.legacy_tree(TreeSettings(300 * MIB, 308 * MIB))["pids"] == (("pids.max", "max"),)
