"""The runtime's door: what the executor and the daemon may ask of the machine."""

from __future__ import annotations

import contextlib
import enum
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edged.model import (
    Claim,
    Container,
    ContainerState,
    ContainerUsage,
    Hook,
    HostPort,
    Image,
    Material,
    Pod,
    Probe,
    SandboxState,
    ServiceRules,
    Value,
)
from edged.model.remote import Size
from edged.runtime.inside import Inside, Wanted


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
        """Record when and why, so that a later observer knows that the end was meant; then send the stop signal (the
        image's, else SIGTERM), unless a preStop hook has to run before it."""

    async def signal_container(self, container_id: str) -> None:
        """Send the stop signal, now that the preStop hook is done, and record it."""

    async def run_hook(self, container_id: str, hook: Hook, ip: str, timeout: float) -> None:
        """:raises PermanentError: it failed, or took longer than `timeout` seconds; the sentence says how."""

    async def note_post_started(self, container_id: str) -> None:
        """Record that the postStart hook is done: ContainerState.post_started."""

    async def refresh_volumes(self, pod: Pod, material: Material) -> None:
        """Bring the files of a pod with containers up to date, each volume at once; SandboxState.material follows."""

    async def end_pod(self, pod_uid: str, reason: str, message: str) -> None:
        """Record that the pod is ended for good: SandboxState.evicted."""

    async def give_devices(self, container_id: str, devices: Collection[str]) -> None:
        """Make those of the claimed `devices` that are plugged in now usable inside, and no others;
        ContainerState.devices follows."""

    async def kill_container(self, container_id: str, reason: str) -> None:
        """SIGKILL to every process of the container."""

    async def remove_container(self, container_id: str) -> None: ...

    async def probe(self, container_id: str, probe: Probe, ip: str) -> ProbeResult: ...

    async def sync_services(self, services: Sequence[ServiceRules], host_ports: Sequence[HostPort] = ()) -> None: ...

    def devices(self, names: Collection[str]) -> Mapping[str, str]:
        """Those of the claimable devices `names` that are plugged in: name -> "path major:minor"."""

    def device_names(self) -> Mapping[str, int]:
        """Every claimable device of this board under its stable name, and how many containers may have it."""

    def claims(self) -> frozenset[str]:
        """uids of the persistent volumes on this node's storage."""

    async def remove_claim(self, uid: str) -> None: ...

    async def resize_claim(self, claim: Claim) -> None: ...

    async def reclaim_memory(self, pod_uid: str, amount: int) -> None: ...

    async def set_memory_high(self, pod_uid: str, high: int | None) -> None: ...

    async def freeze_pod(self, pod_uid: str, frozen: bool) -> None: ...

    def usage(self, container_id: str) -> ContainerUsage: ...

    def pod_usage(self, pod_uid: str) -> ContainerUsage:
        """All containers of a pod together, files on its tmpfs volumes included."""

    def log_file(self, container_id: str) -> Path:
        """The container's log in CRI form ("<RFC3339Nano> stdout|stderr F|P <text>"); may not exist yet."""


class Access(Protocol):
    """The door for who wants into a pod from outside, beside `Runtime`."""

    def enter(
        self, container_id: str, command: tuple[str, ...], wanted: Wanted
    ) -> contextlib.AbstractAsyncContextManager[Inside]:
        """Run a command in a running container as long as the context is open.

        :raises PermanentError: the container does not run, or there is no command."""

    def attach(self, container_id: str) -> socket.socket:
        """What its own process says from now on: edged.runtime.attaching. :raises PermanentError: nobody tells."""

    def resize(self, container_id: str, size: Size) -> None:
        """Of the terminal of a container that was made with one."""

    async def dial(self, pod_uid: str, port: int) -> socket.socket:
        """A TCP connection to a port of the pod, from inside of its network. It does not block.

        :raises PermanentError: there is no such pod; RetryError: nobody listens."""
