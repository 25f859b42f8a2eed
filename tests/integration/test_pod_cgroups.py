"""The cgroup of a whole pod on the real kernel: what it gets, and what can be done to it from outside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edged.errors import RetryError
from edged.model import Container, ContainerPhase, ContainerState, EmptyDir, Limits, Material, Mount, Pod, Volume
from edged.runtime.cgroup import Cgroups, Mode
from edged.runtime.pod_cgroups import PodCgroups
from edged.runtime.pods import PodRuntime
from edged.runtime.pressure import Gauge
from edged.runtime.settings import PodSettings, TreeSettings
from tests.fakes.boards import Corner, corner

MIB = 1 << 20
SURE = Limits(48 * MIB, 48 * MIB, 250, 250, pids_limit=40)
COUNT = "i=0; while true; do i=$((i+1)); echo $i > /tmp/i; done"
WAIT = 30.0


def pod(script: str = "exec sleep 1d", limits: Limits = SURE) -> Pod:
    main = Container("main", "busybox:test", command=("/bin/sh", "-c", script), limits=limits)
    return Pod("default", "app", "uid-1", (main,), termination_grace=5.0)


@contextlib.asynccontextmanager
async def running(place: Corner, one: Pod) -> AsyncIterator[tuple[PodRuntime, ContainerState]]:
    runtime = place.runtime()
    await runtime.open(lambda _: None)
    try:
        await runtime.prepare_sandbox(one, Material())
        yield runtime, await runtime.start_container(one, one.containers[0], place.image, Material(), 0, 0)
    finally:
        await runtime.close()


def shown(place: Corner, controller: str, name: str) -> str:
    folder = Cgroups(place.config.cgroup_parent).parent(controller)
    assert folder is not None
    return (folder / "uid-1" / name).read_text().strip()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            if true():
                return
            await asyncio.sleep(0.02)


@pytest.mark.root
def test_a_pods_cgroup_says_what_its_pod_may_use() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), corner() as place, running(place, pod()) as (runtime, state):
            if Cgroups(place.config.cgroup_parent).mode is Mode.UNIFIED:
                files = {
                    "memory": ("memory.max", "memory.min"),
                    "pids": ("pids.max",),
                    "cpu": ("cpu.max", "cpu.weight"),
                }
                expected = [str(48 * MIB), str(48 * MIB), "40", "25000 100000", "10"]
            else:
                files = {
                    "memory": ("memory.limit_in_bytes", "memory.soft_limit_in_bytes"),
                    "pids": ("pids.max",),
                    "cpu": ("cpu.cfs_quota_us", "cpu.shares"),
                }
                expected = [str(48 * MIB), str(48 * MIB), "40", "25000", "256"]
            assert [shown(place, c, name) for c, names in files.items() for name in names] == expected
            usage = runtime.pod_usage("uid-1")
            assert 0 < usage.memory < 48 * MIB
            assert usage.memory_limit == 48 * MIB
            assert usage.pids == 1
            assert state.phase is ContainerPhase.RUNNING

    asyncio.run(scenario())


@pytest.mark.root
def test_a_frozen_pod_stands_still_and_goes_on_where_it_was() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(120), corner() as place, running(place, pod(COUNT)) as (runtime, state):
            cpu = lambda: runtime.pod_usage("uid-1").cpu_seconds  # noqa: E731
            await runtime.freeze_pod("uid-1", True)
            tree = PodCgroups(Cgroups(place.config.cgroup_parent))
            assert tree.frozen("uid-1")
            (sandbox,), _ = runtime.observe()
            assert sandbox.frozen
            stat = Path(f"/proc/{state.pid}/stat")
            unified = Cgroups(place.config.cgroup_parent).mode is Mode.UNIFIED
            done = "frozen 1" if unified else "FROZEN"
            await until(lambda: done in shown(place, "freezer", "cgroup.events" if unified else "freezer.state"))
            before = cpu()
            await asyncio.sleep(0.2)
            assert cpu() == before
            assert stat.exists()
            await runtime.freeze_pod("uid-1", False)
            assert not tree.frozen("uid-1")
            await until(lambda: cpu() > before)

    asyncio.run(scenario())


@pytest.mark.root
def test_a_frozen_pod_can_be_stopped_and_removed() -> None:
    async def scenario() -> None:
        script = "trap 'exit 7' TERM; while true; do sleep 0.05; done"
        async with asyncio.timeout(120), corner() as place, running(place, pod(script)) as (runtime, state):
            await runtime.freeze_pod("uid-1", True)
            await runtime.stop_container(state.id, "the test says so")
            (sandbox,), _ = runtime.observe()
            assert not sandbox.frozen
            await runtime.freeze_pod("uid-1", True)
            await runtime.remove_sandbox("uid-1")
            assert runtime.observe() == ((), ())

    asyncio.run(scenario())


@pytest.mark.root
def test_a_daemon_that_starts_lets_go_of_what_the_one_before_it_froze() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(120), corner() as place:
            async with running(place, pod()) as (runtime, state):
                await runtime.freeze_pod("uid-1", True)
            after = place.runtime()
            await after.open(lambda _: None)
            try:
                assert not PodCgroups(Cgroups(place.config.cgroup_parent)).frozen("uid-1")
                seen = after.inspect(state.id)
                assert seen is not None
                assert seen.pid == state.pid
            finally:
                await after.close()

    asyncio.run(scenario())


@pytest.mark.root
def test_memory_that_a_pod_can_spare_is_taken_from_it() -> None:
    async def scenario() -> None:
        script = "dd if=/dev/zero of=/tmp/file bs=65536 count=256 2>/dev/null; sync; touch /tmp/done; exec sleep 1d"
        limits = Limits(memory_limit=64 * MIB)
        async with asyncio.timeout(120), corner() as place, running(place, pod(script, limits)) as (runtime, state):
            root = Path(f"/proc/{state.pid}/root")
            await until(lambda: (root / "tmp/done").exists())
            tree = PodCgroups(Cgroups(place.config.cgroup_parent))
            usage, held = tree.load("uid-1")
            assert held > 12 * MIB  # the file's cache
            assert usage <= held
            await runtime.reclaim_memory("uid-1", 64 * MIB)
            assert tree.load("uid-1")[1] < held - 8 * MIB
            await runtime.reclaim_memory("uid-of-nobody", MIB)  # it may be gone by now

    asyncio.run(scenario())


@pytest.mark.root
def test_an_evicted_pod_gives_back_its_memory_and_its_disk_when_it_has_ended() -> None:
    async def scenario() -> None:
        script = "for f in /mem/a /disk/b /root-file; do dd if=/dev/zero of=$f bs=65536 count=64 2>/dev/null; done"
        main = Container(
            "main",
            "busybox:test",
            command=("/bin/sh", "-c", f"{script}; touch /tmp/done; exec sleep 1d"),
            mounts=(Mount("mem", "/mem"), Mount("disk", "/disk")),
        )
        volumes = (Volume("mem", EmptyDir(memory=True)), Volume("disk", EmptyDir()))
        one = Pod("default", "app", "uid-1", (main,), volumes)
        async with asyncio.timeout(120), corner() as place, running(place, one) as (runtime, state):
            done = Path(f"/proc/{state.pid}/root/tmp/done")
            await until(done.exists)
            scratch, memory = place.config.state / "rw/uid-1", place.config.run / "pods/uid-1/volumes"
            assert (scratch / "volumes/disk/b").exists()
            assert (memory / "mem/a").exists()
            await runtime.end_pod("uid-1", "Evicted", "the test says so")
            assert (scratch / "volumes/disk/b").exists()  # it may want to tidy up
            await runtime.kill_container(state.id, "its grace is over")
            await until(lambda: not (memory / "mem/a").exists())
            await until(lambda: [e.name for e in scratch.iterdir()] == ["sandbox"])
            (sandbox,), (ended,) = runtime.observe()
            assert (sandbox.evicted, ended.exit_code) == ("Evicted", 137)
            await runtime.remove_sandbox("uid-1")

    asyncio.run(scenario())


@pytest.mark.root
def test_settings_can_be_changed_in_place_up_and_down() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), corner() as place, running(place, pod()):
            cgroups = Cgroups(place.config.cgroup_parent)
            tree = PodCgroups(cgroups)
            name = "memory.max" if cgroups.mode is Mode.UNIFIED else "memory.limit_in_bytes"
            for size in (96 * MIB, 32 * MIB, 64 * MIB):
                tree.apply("uid-1", PodSettings(memory_max=size))
                assert shown(place, "memory", name) == str(size)
            tree.apply("uid-1", PodSettings())
            assert shown(place, "memory", name) in ("max", "9223372036854771712")
            tree.apply_tree(TreeSettings(200 * MIB, 208 * MIB, 500))
            parent = cgroups.parent("memory")
            assert parent is not None
            assert (parent / name).read_text().strip() == str(208 * MIB)
            gauge = Gauge(cgroups)
            assert 100 * MIB < gauge.read().available <= 208 * MIB

    asyncio.run(scenario())


@pytest.mark.root
def test_what_the_machine_cannot_do_is_said_in_a_sentence() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), corner() as place, running(place, pod()) as (runtime, _):
            if Cgroups(place.config.cgroup_parent).mode is Mode.UNIFIED:
                await runtime.set_memory_high("uid-1", 32 * MIB)
                assert shown(place, "memory", "memory.high") == str(32 * MIB)
                await runtime.set_memory_high("uid-1", None)
                assert shown(place, "memory", "memory.high") == "max"
            else:
                with pytest.raises(RetryError, match=r"memory\.high is not available"):
                    await runtime.set_memory_high("uid-1", 32 * MIB)

    asyncio.run(scenario())


@pytest.mark.root
def test_the_kernel_can_be_waited_for() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), corner() as place, running(place, pod()):
            gauge = Gauge(Cgroups(place.config.cgroup_parent))
            gauge.open(1 << 40)
            try:
                rung = asyncio.Event()
                asyncio.get_running_loop().add_reader(gauge.ready, rung.set)
                gauge.drain()
                reading = gauge.read()
                assert reading.available > 0
                assert bool(reading.waited) == gauge.has_pressure
                asyncio.get_running_loop().remove_reader(gauge.ready)
            finally:
                gauge.close()

    asyncio.run(scenario())
