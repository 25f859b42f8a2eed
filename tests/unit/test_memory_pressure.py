"""The ladder between the kernel's word and the daemon's loop: woken, it acts; when all is well, it sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

from msgspec.structs import replace

from edged.apply import Outcome
from edged.config import NodeConfig
from edged.decide.ladder import Abilities
from edged.decide.steps import EndPod, FreezePod, ReclaimMemory, SqueezeMemory, Step
from edged.model import Container, Desired, Limits, Observed, Pod, SandboxState
from edged.pressure import MemoryPressure
from edged.runtime.pressure import Reading
from edged.runtime.settings import PodSettings, TreeSettings

MIB = 1 << 20
TOTAL, MARGIN = 300 * MIB, 8 * MIB
WAIT = 20.0


class Kernel:
    """Implements pressure.Meter and pressure.Tree: a board whose numbers the test sets."""

    def __init__(self) -> None:
        self.degraded: tuple[str, ...] = ()
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        self.reading = Reading(200 * MIB, ((0, 0),))
        self.waiting = 0  # microseconds that are added for each look
        self.loads: dict[str, tuple[int, int]] = {}
        self.tree: TreeSettings | None = None
        self.applied: list[tuple[str, PodSettings]] = []
        self.looks = 0

    @property
    def ready(self) -> int:
        return self.bell

    def open(self, threshold: int = 0) -> None:
        assert threshold == TOTAL

    def close(self) -> None:
        os.close(self.bell)

    def ring(self) -> None:
        os.eventfd_write(self.bell, 1)

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)

    def read(self) -> Reading:
        self.looks += 1
        some, full = self.reading.waited[0] if self.reading.waited else (0, 0)
        if self.reading.waited:
            self.reading = replace(self.reading, waited=((some + self.waiting, full + self.waiting // 2),))
        return self.reading

    def load(self, pod_uid: str) -> tuple[int, int]:
        return self.loads.get(pod_uid, (0, 0))

    def apply_tree(self, tree: TreeSettings) -> None:
        self.tree = tree

    def apply(self, pod_uid: str, wanted: PodSettings) -> None:
        self.applied.append((pod_uid, wanted))


def pod(name: str, limits: Limits | None = None) -> Pod:
    return Pod("ns", name, f"uid-{name}", (Container("main", "x", limits=limits or Limits()),))


HOG = pod("hog", Limits(memory_request=16 * MIB))
IDLE = pod("idle")


class Node:
    """What the daemon would do: take steps, do them, say what became of them. Its clock runs a second a look."""

    def __init__(self, *pods: Pod, abilities: Abilities | None = None) -> None:
        self.kernel = Kernel()
        self.now = 1000.0
        self.desired = Desired("f", "n", 1, pods)
        self.observed = Observed(sandboxes=tuple(SandboxState(p.uid, p.title, "10.0.0.2") for p in pods))
        self.source = MemoryPressure(
            NodeConfig("n", swap="none"), TOTAL, MARGIN, self.kernel, self.kernel, abilities or Abilities(), self.clock
        )
        self.woken = asyncio.Event()
        self.done: list[Step] = []
        self.errors: dict[type[Step], str] = {}

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def cycle(self) -> list[Step]:
        steps = list(self.source.steps(self.desired, self.observed, self.now).steps)
        for step in steps:
            self.done.append(step)
            error = self.errors.get(type(step), "")
            if isinstance(step, EndPod) and not error:
                self.observed = Observed(
                    sandboxes=tuple(s for s in self.observed.sandboxes if s.pod_uid != step.pod_uid)
                )
                self.kernel.reading = Reading(200 * MIB, self.kernel.reading.waited)
                self.kernel.waiting = 0
            self.source.remember(Outcome(step, error))
        return steps

    def short(self) -> None:
        """The kernel says that everybody waits and next to nothing is left."""
        self.kernel.reading = replace(self.kernel.reading, available=4 * MIB)
        self.kernel.waiting = 500_000
        self.kernel.loads = {HOG.uid: (200 * MIB, 201 * MIB), IDLE.uid: (60 * MIB, 70 * MIB)}
        self.kernel.ring()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT):
            while not true():
                await self.woken.wait()
                self.woken.clear()
                self.cycle()


@contextlib.asynccontextmanager
async def running(node: Node) -> AsyncIterator[None]:
    node.cycle()
    task = asyncio.create_task(node.source.run(node.woken.set), name="source")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_pressure_leads_up_the_ladder_and_a_condition_says_so() -> None:
    async def scenario() -> None:
        node = Node(HOG, IDLE)
        async with running(node):
            assert node.source.conditions == ()
            node.short()
            await node.until(lambda: any(isinstance(s, EndPod) for s in node.done))
            kinds = list(dict.fromkeys(type(s) for s in node.done))
            assert kinds == [ReclaimMemory, SqueezeMemory, FreezePod, EndPod]
            (condition,) = node.source.conditions
            assert (condition.kind, condition.reason) == ("MemoryPressure", "NodeHasInsufficientMemory")
            assert condition.since_wall > 0

    asyncio.run(scenario())


def test_nothing_is_looked_at_while_the_kernel_says_nothing() -> None:
    async def scenario() -> None:
        node = Node(HOG, IDLE)
        async with running(node):
            await asyncio.sleep(0)
            looks = node.kernel.looks
            for _ in range(50):
                assert node.cycle() == []
                await asyncio.sleep(0)
            assert node.kernel.looks == looks

    asyncio.run(scenario())


def test_a_step_stays_pending_until_the_daemon_has_done_it() -> None:
    async def scenario() -> None:
        node = Node(HOG, IDLE)
        async with running(node):
            node.short()
            async with asyncio.timeout(WAIT):
                await node.woken.wait()
            first = node.source.steps(node.desired, node.observed, node.now).steps
            again = node.source.steps(node.desired, node.observed, node.now).steps
            assert first == again != ()
            node.source.remember(Outcome(first[0]))
            assert first[0] not in node.source.steps(node.desired, node.observed, node.now).steps

    asyncio.run(scenario())


def test_a_rung_that_fails_does_not_end_the_climb() -> None:
    async def scenario() -> None:
        node = Node(HOG, IDLE)
        node.errors = {ReclaimMemory: "no", SqueezeMemory: "no", FreezePod: "no"}
        async with running(node):
            node.short()
            await node.until(lambda: any(isinstance(s, EndPod) for s in node.done))
            assert [s.pod_uid for s in node.done if isinstance(s, EndPod)] == [IDLE.uid]

    asyncio.run(scenario())


def test_settings_are_applied_at_start_and_when_a_spec_changes_in_place() -> None:
    node = Node(HOG, IDLE)
    node.cycle()
    assert node.kernel.tree is not None
    assert (node.kernel.tree.memory_high, node.kernel.tree.memory_max) == (TOTAL, TOTAL + MARGIN)
    assert [uid for uid, _ in node.kernel.applied] == [HOG.uid, IDLE.uid]
    node.cycle()
    assert len(node.kernel.applied) == 2
    larger = replace(HOG, containers=(replace(HOG.containers[0], limits=Limits(memory_request=32 * MIB)),))
    node.desired = Desired("f", "n", 2, (larger, IDLE, pod("new")))
    node.cycle()
    assert [(uid, s.memory_low) for uid, s in node.kernel.applied[2:]] == [(HOG.uid, 32 * MIB)]
    os.close(node.kernel.bell)


def test_a_machine_without_psi_is_looked_at_when_the_loop_turns_anyway() -> None:
    async def scenario() -> None:
        node = Node(HOG, IDLE, abilities=Abilities(squeeze=False))
        node.kernel.degraded = ("no PSI here",)
        node.kernel.reading = Reading(200 * MIB)
        assert node.source.degraded == ("no PSI here",)
        async with running(node):
            node.kernel.loads = {HOG.uid: (200 * MIB, 201 * MIB), IDLE.uid: (60 * MIB, 70 * MIB)}
            node.kernel.reading = Reading(2 * MIB)
            node.cycle()
            await node.until(lambda: bool(node.done))
            assert isinstance(node.done[0], ReclaimMemory)

    asyncio.run(scenario())
