"""Memory pressure: the degradation ladder (edged.decide.ladder) between the kernel's word and the daemon's loop.

At rest it waits for the kernel and costs nothing. Once woken it looks every second or so, until the board has had room
for a while and nobody is squeezed or frozen any more. What it decided stays pending until the daemon has done it.

It also sees to the settings of the cgroup tree: once at start, and for each pod whose spec changes in place. What a
ladder before us did is undone when the runtime is opened: whoever died at the top of it left nothing to go on from.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edged import host
from edged.apply import Outcome
from edged.config import NodeConfig
from edged.decide import ladder
from edged.decide.ladder import Abilities, Load, Marks, Sample
from edged.decide.steps import EndPod, FreezePod, Plan, ReclaimMemory, SqueezeMemory, Step
from edged.errors import EdgedError
from edged.model import Desired, NodeCondition, Observed, Pod, Qos, qos_of
from edged.runtime.cgroup import Cgroups, Mode
from edged.runtime.pod_cgroups import PodCgroups, swap_space
from edged.runtime.pressure import Gauge, Reading, processes
from edged.runtime.settings import PodSettings, TreeSettings, pod_settings

log = logging.getLogger("edged.pressure")

LOOKS = {ladder.Level.SHORT: 1.0, ladder.Level.CRITICAL: 1.0}  # seconds to the next look
LOOK_AGAIN = 2.0  # in every other state, as long as the ladder is not at rest; a PSI window
LAST_LOOKS = 10.0  # while only the node's condition has to run out
OWN_STEPS = ReclaimMemory | SqueezeMemory | FreezePod | EndPod


class Meter(Protocol):
    """edged.runtime.pressure.Gauge, as far as it matters here."""

    degraded: tuple[str, ...]

    @property
    def ready(self) -> int: ...
    def open(self, threshold: int = 0) -> None: ...
    def drain(self) -> None: ...
    def read(self) -> Reading: ...
    def close(self) -> None: ...


class Tree(Protocol):
    """edged.runtime.pod_cgroups.PodCgroups, as far as it matters here."""

    def apply_tree(self, tree: TreeSettings) -> None: ...
    def apply(self, pod_uid: str, wanted: PodSettings) -> None: ...
    def load(self, pod_uid: str) -> tuple[int, int]: ...


class MemoryPressure:
    """Implements sources.StepSource.

    :param total: bytes that pods may request together; `margin`: how much more they can take until the kernel kills.
    """

    def __init__(
        self,
        config: NodeConfig,
        total: int,
        margin: int,
        tree: Tree,
        meter: Meter,
        abilities: Abilities,
        clock: Callable[[], float],
    ) -> None:
        self._period = config.pressure_period
        self._swap = swap_space(config.swap)
        most = processes()[1] - config.pids_reserve
        self._settings = TreeSettings(total, total + margin, most if most > 0 else None)
        self._tree = tree
        self._meter = meter
        self._abilities = abilities
        self._clock = clock
        self._marks: Marks = ladder.marks_of(total, margin)
        self._state = ladder.State()
        self._pending: dict[tuple[type[Step], str], Step] = {}
        self._desired: Desired | None = None
        self._observed = Observed()
        self._applied: dict[str, PodSettings] | None = None
        self._seen: tuple[float, Reading] | None = None
        self._since_wall = 0.0
        self._kills: int | None = None
        self._rung = asyncio.Event()

    @property
    def degraded(self) -> Sequence[str]:
        return self._meter.degraded

    @property
    def conditions(self) -> Sequence[NodeCondition]:
        if not self._since_wall:
            return ()
        return (NodeCondition("MemoryPressure", "NodeHasInsufficientMemory", self._message(), self._since_wall),)

    def _message(self) -> str:
        return "pods are slowed down, frozen or evicted until there is room again"

    # ------------------------------------------------------------ the daemon's side

    def steps(self, desired: Desired | None, observed: Observed, now: float) -> Plan:
        if self._applied is None:
            self._tree.apply_tree(self._settings)
        if desired is not self._desired or self._applied is None:
            self._apply(desired, observed)
        self._desired, self._observed = desired, observed
        if self._meter.degraded:  # what happens anyway is the only bell there may be
            self._rung.set()
        there = {s.pod_uid for s in observed.sandboxes}
        return Plan(tuple(s for s in self._pending.values() if _pod(s) in there))

    def _apply(self, desired: Desired | None, observed: Observed) -> None:
        """Settings of pods that are there; a new one gets its own when its sandbox is made."""
        there = {s.pod_uid for s in observed.sandboxes}
        before, wanted = self._applied or {}, {}
        for pod in desired.pods if desired is not None else ():
            wanted[pod.uid] = made = pod_settings(pod, self._swap)
            if pod.uid in there and before.get(pod.uid) != made:
                try:
                    self._tree.apply(pod.uid, made)
                except EdgedError as e:
                    log.warning("%s", e)
        self._applied = wanted

    def remember(self, outcome: Outcome) -> None:
        step = outcome.step
        if not isinstance(step, OWN_STEPS):
            return
        if self._pending.pop((type(step), step.pod_uid), None) is not None and outcome.error:
            self._state = ladder.failed(self._state, step)

    # ------------------------------------------------------------ the kernel's side

    async def run(self, wake: Callable[[], None]) -> None:
        """Wait for pressure, then climb and descend until it is over."""
        self._meter.open(self._settings.memory_high)
        self._kills = self._meter.read().kills
        try:
            while True:
                await self._pressed()
                pause = self._look(wake)
                while pause:
                    await asyncio.sleep(pause)
                    pause = self._look(wake)
                self._seen = None
                await asyncio.sleep(LOOK_AGAIN)  # a pod that thrashes in its own limit rings all the time
                self._meter.drain()
        finally:
            self._meter.close()

    async def _pressed(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._meter.ready, self._rung.set)
        try:
            await self._rung.wait()
        finally:
            loop.remove_reader(self._meter.ready)
        self._rung.clear()
        self._meter.drain()

    def _look(self, wake: Callable[[], None]) -> float:
        """One look at the board; returns the seconds until the next one, 0 for none."""
        now = self._clock()
        sample = self._sample(now)
        self._state, steps = ladder.decide(self._state, sample, self._loads(), self._marks, self._abilities, now)
        there = {s.pod_uid for s in self._observed.sandboxes}
        self._pending = {key: step for key, step in self._pending.items() if _pod(step) in there}
        for step in steps:
            log.info("%s", step.describe())
            self._pending[type(step), _pod(step)] = step
        told = self._since_wall
        pressed = now - self._state.short_at < self._period
        self._since_wall = (told or time.time()) if pressed else 0.0
        if steps or bool(told) != pressed:
            wake()
        if not self._state.at_rest or self._pending:
            return LOOKS.get(ladder.judge(sample, self._marks), LOOK_AGAIN)
        return LAST_LOOKS if pressed else 0.0

    def _sample(self, now: float) -> Sample:
        reading = self._meter.read()
        before, self._seen = self._seen, (now, reading)
        oom = self._kills is not None and reading.kills > self._kills
        self._kills = reading.kills
        if not reading.waited:
            return Sample(reading.available, oom=oom)
        if before is None or now <= before[0]:  # the trigger says that it was a tenth at least
            return Sample(reading.available, max(reading.recent, ladder.WAITING), oom=oom)
        passed = (now - before[0]) * 1e6
        shares = [
            ((some - was_some) / passed, (full - was_full) / passed)
            for (some, full), (was_some, was_full) in zip(reading.waited, before[1].waited, strict=False)
        ]
        some, full = (min(max(column), 1.0) for column in zip(*shares, strict=True))
        return Sample(reading.available, some, full, oom)

    def _loads(self) -> list[Load]:
        pods = {p.uid: p for p in self._desired.pods} if self._desired is not None else {}
        return [self._load(s.pod_uid, s.pod, pods.get(s.pod_uid), bool(s.evicted)) for s in self._observed.sandboxes]

    def _load(self, uid: str, title: str, pod: Pod | None, evicted: bool) -> Load:
        usage, held = self._tree.load(uid)
        if pod is None:
            return Load(uid, title, Qos.BEST_EFFORT, usage, held, leaving=True)
        return Load(uid, title, qos_of(pod), usage, held, pod.memory_request, pod.priority, evicted)


def _pod(step: Step) -> str:
    return step.pod_uid if isinstance(step, OWN_STEPS) else ""


def memory_pressure(config: NodeConfig, clock: Callable[[], float]) -> MemoryPressure:
    """For this machine."""
    cgroups = Cgroups(config.cgroup_parent)
    total = host.memory_info()["MemTotal"]
    unified = cgroups.mode is Mode.UNIFIED
    return MemoryPressure(
        config,
        host.memory_for_pods(config, total),
        host.margin(config.memory_allocatable or total),
        PodCgroups(cgroups),
        Gauge(cgroups),
        Abilities(
            reclaim=unified or cgroups.parent("memory") is not None,
            squeeze=unified,
            freeze=unified or cgroups.parent("freezer") is not None,
        ),
        clock,
    )
