"""The runtime's door: what the executor and the daemon may ask of the machine."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from edged.model import (
    Container,
    ContainerState,
    ContainerUsage,
    Image,
    Material,
    Pod,
    Probe,
    SandboxState,
    ServiceRules,
    Value,
)


class Verdict(enum.StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"  # the probe got its answer, and the answer is no (or none came in time)


class ProbeResult(Value, frozen=True):
    verdict: Verdict
    message: str = ""


class Runtime(Protocol):
    """All methods may raise PermanentError or RetryError with a sentence; a half-done step is always safe to repeat.

    Crash contract: whoever is killed in the middle of any method, `observe` in a new process tells the truth,
    and repeating the method (or `remove_*`) succeeds.
    """

    @property
    def degraded(self) -> Sequence[str]:
        """Sentences for what this machine can't do fully."""

    async def open(self, on_exit: Callable[[str], None]) -> None:
        """Get ready (bridge, spares) and re-attach to what runs. `on_exit(container id)` is called from the
        loop when a running container's first process ends, or its monitor does."""

    async def close(self) -> None:
        """Let go without touching any container."""

    async def teardown(self) -> None:
        """Remove all that this node ever made: containers, namespaces, mounts, bridge, tables, cgroups."""

    def observe(self) -> tuple[Sequence[SandboxState], Sequence[ContainerState]]:
        """Everything of ours that is on the machine, read afresh."""

    def inspect(self, container_id: str) -> ContainerState | None:
        """One container, read afresh; None if there is no trace of it."""

    async def prepare_sandbox(self, pod: Pod, material: Material) -> SandboxState: ...

    async def remove_sandbox(self, pod_uid: str) -> None: ...

    async def start_container(
        self, pod: Pod, container: Container, image: Image, material: Material, attempt: int, crashes: int
    ) -> ContainerState:
        """Create and start; returns once the first process runs (or has already ended)."""

    async def stop_container(self, container_id: str, reason: str) -> None:
        """Send the stop signal (SIGTERM) and record when and why, so that a later observer knows it was meant."""

    async def kill_container(self, container_id: str, reason: str) -> None:
        """SIGKILL to every process of the container."""

    async def remove_container(self, container_id: str) -> None: ...

    async def probe(self, container_id: str, probe: Probe, ip: str) -> ProbeResult: ...

    async def sync_services(self, services: Sequence[ServiceRules]) -> None: ...

    def usage(self, container_id: str) -> ContainerUsage: ...

    def log_file(self, container_id: str) -> Path:
        """The container's log in CRI form ("<RFC3339Nano> stdout|stderr F|P <text>"); may not exist yet."""
