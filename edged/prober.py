"""Asks the probes: one named task per probe of a running container, each sleeping until it is due.

Results are folded by `decide.health`; the planner is only woken when the story changes, never per result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from edged.decide import health as healths
from edged.errors import EdgedError
from edged.model import Container, ContainerState, Health, Probe, Value
from edged.runtime.api import Runtime, Verdict

FAST_TRIES = 6  # 0.25, 0.5, 1, 2, 4, 8 s


class Patient(Value, frozen=True):
    """A running container that has probes."""

    state: ContainerState
    container: Container
    ip: str


class Prober:
    def __init__(
        self, runtime: Runtime, tasks: asyncio.TaskGroup, changed: Callable[[], None], boottime: Callable[[], float]
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self._changed = changed
        self._boottime = boottime
        self._running: dict[str, tuple[Patient, list[asyncio.Task[None]]]] = {}
        self.health: dict[str, Health] = {}

    def sync(self, patients: Mapping[str, Patient]) -> None:
        """Probe exactly these containers from now on; the rest are forgotten."""
        for container_id in list(self._running):
            patient, tasks = self._running[container_id]
            new = patients.get(container_id)
            same = new is not None and (new.container, new.ip) == (patient.container, patient.ip)
            if not same:
                for task in tasks:
                    task.cancel()
                del self._running[container_id]
            if new is None:
                self.health.pop(container_id, None)
        for container_id, patient in patients.items():
            if container_id in self._running:
                continue
            self.health.setdefault(container_id, healths.initial(patient.container))
            tasks = [
                self._tasks.create_task(self._ask(patient, kind, probe), name=f"{kind} probe {container_id}")
                for kind, probe in healths.probes_of(patient.container)
            ]
            self._running[container_id] = (patient, tasks)

    def is_settled(self) -> bool:
        """Has everybody answered who decides about readiness?"""
        for container_id, (patient, _) in self._running.items():
            health, container = self.health[container_id], patient.container
            if (container.startup and not health.startup_run) or (container.readiness and not health.readiness_run):
                return False
        return True

    async def _ask(self, patient: Patient, kind: healths.ProbeKind, probe: Probe) -> None:
        container_id = patient.state.id
        already = max(self._boottime() - patient.state.started_at, 0.0)
        await asyncio.sleep(max(probe.initial_delay - already, 0.0))
        while True:
            before = self.health.get(container_id)
            if before is None:
                return
            if healths.wanted(kind, before):
                success, message = await self._result(container_id, probe, patient.ip)
                current = self.health.get(container_id)
                if current is None:
                    return
                after = healths.fold(current, kind, probe, success, message, patient.container)
                self.health[container_id] = after
                if not healths.same_story(current, after):
                    self._changed()
            elif kind is healths.ProbeKind.STARTUP:
                return
            await asyncio.sleep(self._pause(kind, probe, container_id))

    def _pause(self, kind: healths.ProbeKind, probe: Probe, container_id: str) -> float:
        """Until a container is first ready, its readiness is asked more often than its period: a rollout shouldn't
        wait ten seconds for an answer that is there after one. Harmless, because a readiness failure ends nothing;
        the other kinds count failures towards a kill and keep their period."""
        health = self.health.get(container_id)
        if kind is healths.ProbeKind.READINESS and health is not None and not health.ready:
            tries = abs(health.readiness_run)
            if probe.initial_delay == 0 and tries < FAST_TRIES:
                return float(min(probe.period, 0.25 * 2**tries))
        return probe.period

    async def _result(self, container_id: str, probe: Probe, ip: str) -> tuple[bool, str]:
        try:
            result = await self._runtime.probe(container_id, probe, ip)
        except EdgedError as e:
            return False, str(e)
        return result.verdict is Verdict.SUCCESS, result.message
