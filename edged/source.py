"""What the control socket may know of the daemon: a view, with usage read only when somebody asks."""

from __future__ import annotations

import time
from pathlib import Path

from edged import host
from edged.control import Budget, DaemonFacts, Snapshot, machine_facts
from edged.daemon import Daemon
from edged.errors import PermanentError
from edged.machine import boottime
from edged.model import ContainerPhase, ContainerState


class DaemonSource:
    """Implements control.ControlSource on a running daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def snapshot(self) -> Snapshot:
        daemon = self._daemon
        running = [c.id for c in daemon.observed.containers if c.phase is ContainerPhase.RUNNING]
        usage = {container_id: daemon.runtime.usage(container_id) for container_id in running}
        return Snapshot(
            status=daemon.status(),
            wall=time.time(),
            usage=usage,
            budget=Budget(
                allocatable=daemon.budget.memory,
                requested=daemon.requested(),
                used=sum(u.memory for u in usage.values()),
            ),
            machine=machine_facts(daemon.config.state, host.memory_info()),
            daemon=DaemonFacts(pss=host.pss(), uptime=boottime() - daemon.started),
            hub=daemon.uplink.state,
            generation=daemon.generation,
        )

    async def changed(self) -> None:
        await self._daemon.changed()

    def plan_text(self) -> str:
        return self._daemon.plan_text()

    def log_file(self, container_id: str, previous: bool = False) -> Path | None:
        state = self._find(container_id)
        if state is None:
            return None
        if previous:
            older = [
                c
                for c in self._daemon.observed.containers
                if (c.pod_uid, c.name) == (state.pod_uid, state.name) and c.attempt < state.attempt
            ]
            if not older:
                raise PermanentError(f'container "{state.name}" has no previous attempt here: this is its first')
            state = max(older, key=lambda c: c.attempt)
        path = self._daemon.runtime.log_file(state.id)
        if state.phase in (ContainerPhase.EXITED, ContainerPhase.UNKNOWN) and not path.exists():
            raise PermanentError(
                f'the log of attempt {state.attempt} of "{state.name}" is gone: the memory for logs was used up '
                "(log_node_bytes in node.toml)"
            )
        return path

    def writes(self, container_id: str) -> bool:
        state = self._find(container_id)
        return state is not None and state.phase in (ContainerPhase.STARTING, ContainerPhase.RUNNING)

    def _find(self, container_id: str) -> ContainerState | None:
        return next((c for c in self._daemon.observed.containers if c.id == container_id), None)

    async def refresh(self) -> None:
        await self._daemon.refresh()
