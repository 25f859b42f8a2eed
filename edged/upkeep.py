"""What is looked at once a minute, all of it in one wake-up: working sets, the disk, the number of processes, whether
pods can be started at all, and whether what they were promised still holds.

A source of steps (edged.sources). Walking through pods' files is done only where a limit or a full disk asks for it,
and only after the disk has changed: an idle node reads two numbers a minute.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from edged.apply import Outcome
from edged.config import NodeConfig
from edged.decide import starvation
from edged.decide.starvation import Use
from edged.decide.steps import EndPod, Plan
from edged.learning import WorkingSets
from edged.model import NOT_READY, Desired, NodeCondition, Observed, Pod
from edged.runtime import storage_use
from edged.runtime.cgroup import Cgroups
from edged.runtime.pod_cgroups import PodCgroups, in_thread
from edged.runtime.pressure import processes
from edged.runtime.process import SAFE_PATH
from edged.runtime.records import parse_id

EVERY = 60.0  # seconds
SOON = 10.0  # seconds, while the disk is too full or pods are being evicted
MOVED = 1 << 20  # bytes by which the disk must have changed for files to be counted again
LEAST_FREE, MOST_FREE = 32 << 20, 1 << 30  # bytes: bounds of the twentieth of the disk that pods may not fill


def eviction_mark(total: int) -> int:
    """Bytes of the disk below which pods are evicted: less than where images are collected (ImagesConfig), so that
    those go first; and still enough for state.db and an update."""
    return min(max(total // 20, LEAST_FREE), MOST_FREE)


class Machine(Protocol):
    """What is to be known of the machine."""

    def disk(self) -> tuple[int, int]:
        """Bytes free, and in all."""

    def storage(self, pod_uid: str) -> storage_use.StorageUse: ...

    def processes(self) -> tuple[int, int]:
        """There, and at most."""

    def processes_of(self, pod_uid: str) -> int: ...

    def trouble(self) -> tuple[str, str]:
        """Reason and sentence for why no pod can be started here; two empty words while one can."""

    def protect(self) -> None:
        """Renew what is promised to pods in cgroups that others write to as well."""


class ThisMachine:
    """Implements Machine."""

    def __init__(self, config: NodeConfig, tree: PodCgroups) -> None:
        self._state = config.state
        self.processes_of = tree.processes
        self.protect = tree.protect

    def disk(self) -> tuple[int, int]:
        return storage_use.disk_free(self._state)

    def storage(self, pod_uid: str) -> storage_use.StorageUse:
        return storage_use.measure(Path(self._state, "rw", pod_uid))

    def processes(self) -> tuple[int, int]:
        return processes()

    def trouble(self) -> tuple[str, str]:
        for program in ("conmon", "crun"):
            if shutil.which(program, path=SAFE_PATH) is None:
                sentence = f"{program} is missing: pods run on, but none can be started; install it again"
                return "ContainerRuntimeNotReady", sentence
        if os.statvfs(self._state).f_flag & os.ST_RDONLY:  # what ext4 does with a card that fails
            sentence = f"{self._state} is read-only: pods run on, but none can be started; replace the disk or card"
            return "FilesystemIsReadOnly", sentence
        return "", ""


class Upkeep:
    """Implements sources.StepSource."""

    def __init__(self, machine: Machine, sets: WorkingSets, period: float, clock: Callable[[], float]) -> None:
        self._machine = machine
        self._sets = sets
        self._period = period
        self._clock = clock
        self._desired: Desired | None = None
        self._observed = Observed()
        self._pending: dict[str, EndPod] = {}
        self._counted_at = -1  # bytes free when files were counted last
        self._condition: NodeCondition | None = None
        self._crowded_at = float("-inf")
        self._trouble: NodeCondition | None = None

    @property
    def degraded(self) -> Sequence[str]:
        return ()

    @property
    def conditions(self) -> Sequence[NodeCondition]:
        return tuple(c for c in (self._condition, self._trouble) if c is not None)

    def steps(self, desired: Desired | None, observed: Observed, now: float) -> Plan:
        self._desired, self._observed = desired, observed
        there = {s.pod_uid for s in observed.sandboxes if not s.evicted}
        return Plan(tuple(step for uid, step in self._pending.items() if uid in there))

    def remember(self, outcome: Outcome) -> None:
        if isinstance(outcome.step, EndPod) and not outcome.error:
            self._pending.pop(outcome.step.pod_uid, None)

    async def run(self, wake: Callable[[], None]) -> None:
        self._sets.load()
        try:
            while True:
                await asyncio.sleep(SOON if self._pending else EVERY)
                if await self.look():
                    wake()
        finally:
            self._sets.save()

    async def look(self) -> bool:
        """Whether the daemon should know."""
        news = self._sets.sample(self._desired, self._observed)
        self._machine.protect()  # systemd sets system.slice back whenever it starts a unit with limits in there
        pods = self._pods()
        there = {pod.uid for pod in pods}
        self._pending = {uid: step for uid, step in self._pending.items() if uid in there}
        steps = [*await self._look_at_disk(pods), *self._look_at_processes(pods)]
        before = self.conditions
        self._judge_processes()
        self._judge_trouble()
        fresh = [step for step in steps if step.pod_uid not in self._pending]
        self._pending |= {step.pod_uid: step for step in fresh}
        return news or bool(self._pending) or before != self.conditions

    def _pods(self) -> list[Pod]:
        """Those that have something on this machine and are to keep it."""
        there = {s.pod_uid for s in self._observed.sandboxes if not s.evicted}
        return [p for p in self._desired.pods if p.uid in there] if self._desired is not None else []

    async def _look_at_disk(self, pods: list[Pod]) -> list[EndPod]:
        free, total = self._machine.disk()
        mark = eviction_mark(total)
        short = total > 0 and free < mark
        concerned = pods if short else [p for p in pods if starvation.has_storage_limits(p)]
        if not concerned or (abs(free - self._counted_at) < MOVED and not short):
            return []
        uses: list[Use] = []

        def count() -> None:
            for pod in concerned:
                found = self._machine.storage(pod.uid)
                uses.append(Use(pod, found.total, found.volumes, found.layers))

        await in_thread(count, "count files")
        self._counted_at = free
        steps = starvation.over_limits(uses)
        if not steps and not self._leaving():
            steps = starvation.for_disk(free, mark, uses)
        return steps

    def _leaving(self) -> bool:
        """Somebody is on his way out already: what he leaves may be enough."""
        live = {c.pod_uid for c in self._observed.containers if c.pid}
        return bool(self._pending) or any(s.evicted and s.pod_uid in live for s in self._observed.sandboxes)

    def _look_at_processes(self, pods: list[Pod]) -> list[EndPod]:
        there, most = self._machine.processes()
        if most <= 0 or there < starvation.ENOUGH * most:
            return []
        self._crowded_at = self._clock()
        uses = [Use(pod, processes=self._machine.processes_of(pod.uid)) for pod in pods]
        return starvation.for_processes(there, most, uses) if not self._leaving() else []

    def _judge_processes(self) -> None:
        if self._clock() - self._crowded_at >= self._period:
            self._condition = None
        elif self._condition is None:
            there, most = self._machine.processes()
            message = f"{there} of {most} processes and threads are there"
            self._condition = NodeCondition("PIDPressure", "NodeHasInsufficientPID", message, time.time())

    def _judge_trouble(self) -> None:
        reason, message = self._machine.trouble()
        if not reason:
            self._trouble = None
        elif self._trouble is None or self._trouble.message != message:
            self._trouble = NodeCondition(NOT_READY, reason, message, time.time())


def upkeep(config: NodeConfig, clock: Callable[[], float]) -> tuple[Upkeep, WorkingSets]:
    """For this machine."""
    cgroups = Cgroups(config.cgroup_parent)

    def working_set(container: str) -> tuple[int, int]:
        return cgroups.working_set(cgroups.path(*parse_id(container)))

    sets = WorkingSets(config.state, config.run, working_set, clock)
    return Upkeep(ThisMachine(config, PodCgroups(cgroups)), sets, config.pressure_period, clock), sets
