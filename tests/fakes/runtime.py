"""A board in memory that keeps the promises of `edged.runtime.api.Runtime`; the contract suite runs on both.

The `Board` is the machine, `FakeRuntime` a daemon's view of it: a new FakeRuntime on the same board is a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from edged.errors import EdgedError, PermanentError, RetryError
from edged.model import (
    Claim,
    ClaimFiles,
    Container,
    ContainerPhase,
    ContainerState,
    ContainerUsage,
    ExecAction,
    Hook,
    HostPort,
    Image,
    Material,
    Pod,
    Probe,
    SandboxState,
    ServiceRules,
    container_identity,
)
from edged.runtime.api import ProbeResult, Verdict
from edged.runtime.environment import arguments, resolve_env
from edged.runtime.records import container_id


class Board:
    """What survives a daemon's restart. `now` is CLOCK_BOOTTIME and moves only when told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.sandboxes: dict[str, SandboxState] = {}
        self.containers: dict[str, ContainerState] = {}
        self.services: tuple[ServiceRules, ...] = ()
        self.host_ports: tuple[HostPort, ...] = ()
        self.claimed: dict[str, int] = {}  # bytes, by uid
        self.plugged: dict[str, str] = {}  # name -> "path major:minor" of what is plugged in
        self.pressed: dict[str, tuple[int | None, bool]] = {}  # pod uid -> (memory.high, frozen)
        self.next_ip = 2

    def power_cut(self) -> None:
        """Everything in memory is gone."""
        self.sandboxes.clear()
        self.containers.clear()
        self.services, self.host_ports = (), ()
        self.pressed.clear()
        self.now = 5.0


class FakePuller:
    """Implements apply.Puller: remembers what it was asked for.

    :ivar errors: what the next pulls of a reference end with.
    :ivar gate: pulls wait for it.
    :param store: where pulled references appear.
    """

    def __init__(self, store: set[str] | None = None) -> None:
        self.store = set[str]() if store is None else store
        self.pulled: list[str] = []
        self.removed: list[str] = []
        self.errors: dict[str, list[EdgedError]] = {}
        self.gate: asyncio.Event | None = None

    async def pull(self, reference: str, logins: Sequence[Mapping[str, bytes]]) -> None:
        self.pulled.append(reference)
        if self.gate is not None:
            await self.gate.wait()
        if self.errors.get(reference):
            raise self.errors[reference].pop(0)
        self.store.add(reference)

    async def remove(self, references: Sequence[str]) -> None:
        self.removed += references


class FakeRuntime:
    """Implements api.Runtime on a `Board`.

    :ivar calls: (method, subject) of everything done, in order.
    :ivar probe_results: what `probe` answers, by container id; success where nothing is said.
    :ivar hooks: a hook of that container waits for its event; where none is, it is done at once.
    """

    def __init__(self, board: Board | None = None, degraded: Sequence[str] = ()) -> None:
        self.board = board or Board()
        self.degraded: Sequence[str] = degraded
        self.calls: list[tuple[str, str]] = []
        self.probe_results: dict[str, ProbeResult] = {}
        self.deaf: set[str] = set()  # container ids that ignore their stop signal
        self.hooks: dict[str, asyncio.Event] = {}
        self._failures: dict[str, list[EdgedError]] = {}
        self._on_exit: Callable[[str], None] | None = None

    # ------------------------------------------------------------ scripting

    def fail_next(self, method: str, error: EdgedError) -> None:
        """The next call of that method raises; several queue up."""
        self._failures.setdefault(method, []).append(error)

    def exit(self, container: str, code: int, *, oom: bool = False) -> None:
        """The container's first process ends; 128 + n for signal n."""
        state = self.board.containers[container]
        if state.phase is not ContainerPhase.RUNNING:
            return
        self.board.containers[container] = replace(
            state,
            phase=ContainerPhase.EXITED,
            pid=0,
            exit_code=code,
            oom_killed=oom,
            finished_at=self.board.now,
            finished_wall=self.board.wall,
            monitored=True,
        )
        if self._on_exit is not None:
            self._on_exit(container)

    def kill_monitor(self, container: str) -> None:
        """kill -9 of its conmon."""
        self.board.containers[container] = replace(self.board.containers[container], monitored=False)
        if self._on_exit is not None:
            self._on_exit(container)

    def _called(self, method: str, subject: str) -> None:
        self.calls.append((method, subject))
        queue = self._failures.get(method)
        if queue:
            raise queue.pop(0)

    # ------------------------------------------------------------ api.Runtime

    async def open(self, on_exit: Callable[[str], None]) -> None:
        self._called("open", "")
        self._on_exit = on_exit

    async def close(self) -> None:
        self._on_exit = None

    async def teardown(self) -> None:
        self._called("teardown", "")
        self.board.containers.clear()
        self.board.sandboxes.clear()
        self.board.services, self.board.host_ports = (), ()
        self._on_exit = None

    def observe(self) -> tuple[Sequence[SandboxState], Sequence[ContainerState]]:
        return tuple(self.board.sandboxes.values()), tuple(self.board.containers.values())

    def inspect(self, container_id: str) -> ContainerState | None:
        return self.board.containers.get(container_id)

    async def prepare_sandbox(self, pod: Pod, material: Material) -> SandboxState:
        self._called("prepare_sandbox", pod.uid)
        known = self.board.sandboxes.get(pod.uid)
        if known is not None and known.ready:
            self.board.sandboxes[pod.uid] = replace(known, material=material.digest)
            return self.board.sandboxes[pod.uid]
        for volume in pod.volumes:
            if isinstance(volume.source, ClaimFiles):
                self.board.claimed.setdefault(volume.source.uid, volume.source.size)
        ip = f"10.0.{self.board.next_ip // 256}.{self.board.next_ip % 256}"
        self.board.next_ip += 1
        state = SandboxState(
            pod.uid,
            pod.title,
            ip,
            True,
            pod.termination_grace,
            pod.memory_request,
            created_at=known.created_at if known is not None else self.board.now,
            material=material.digest,
            evicted=known.evicted if known is not None else "",
            evicted_message=known.evicted_message if known is not None else "",
        )
        self.board.sandboxes[pod.uid] = state
        return state

    async def remove_sandbox(self, pod_uid: str) -> None:
        self._called("remove_sandbox", pod_uid)
        for state in tuple(self.board.containers.values()):
            if state.pod_uid == pod_uid:
                del self.board.containers[state.id]
        self.board.sandboxes.pop(pod_uid, None)

    async def start_container(
        self, pod: Pod, container: Container, image: Image, material: Material, attempt: int, crashes: int
    ) -> ContainerState:
        name = container_id(pod.uid, container.name, attempt)
        self._called("start_container", name)
        sandbox = self.board.sandboxes.get(pod.uid)
        if sandbox is None or not sandbox.ready:
            raise RetryError(f"the sandbox of pod {pod.title} is not ready")
        known = self.board.containers.get(name)
        if known is not None:
            return known
        arguments(container, image, resolve_env(pod, container, material))
        state = ContainerState(
            id=name,
            pod_uid=pod.uid,
            name=container.name,
            attempt=attempt,
            identity=container_identity(pod, container),
            phase=ContainerPhase.RUNNING,
            crashes=crashes,
            pid=len(self.calls) + 1000,
            started_at=self.board.now,
            started_wall=self.board.wall,
            image_id=image.id,
            post_started=container.post_start is None,
            pre_stop=container.pre_stop,
            devices=self._plugged_in(container.devices),
            sidecar=pod.sidecars.get(container.name, 0),
        )
        self.board.containers[name] = state
        return state

    async def stop_container(self, container_id: str, reason: str) -> None:
        self._called("stop_container", container_id)
        if self._mark(container_id, reason) and self.board.containers[container_id].pre_stop is None:
            self._signal(container_id)

    async def signal_container(self, container_id: str) -> None:
        self._called("signal_container", container_id)
        if container_id in self.board.containers:
            self._signal(container_id)

    def _signal(self, container_id: str) -> None:
        state = self.board.containers[container_id]
        if state.phase is ContainerPhase.RUNNING:
            self.board.containers[container_id] = replace(state, signalled=True)
            if container_id not in self.deaf:
                self.exit(container_id, 128 + 15)

    async def run_hook(self, container_id: str, hook: Hook, ip: str, timeout: float) -> None:
        self._called("run_hook", container_id)
        gate = self.hooks.get(container_id)
        if gate is not None:
            try:
                async with asyncio.timeout(timeout):
                    await gate.wait()
            except TimeoutError as e:
                raise PermanentError(f"it took longer than {timeout:g} s") from e
        state = self.board.containers.get(container_id)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            raise PermanentError(f"{container_id} does not run")
        if isinstance(hook, ExecAction) and hook.command[0] == "false":
            raise PermanentError("it ended with 1")

    async def note_post_started(self, container_id: str) -> None:
        self._called("note_post_started", container_id)
        state = self.board.containers.get(container_id)
        if state is not None:
            self.board.containers[container_id] = replace(state, post_started=True)

    async def refresh_volumes(self, pod: Pod, material: Material) -> None:
        self._called("refresh_volumes", pod.uid)
        known = self.board.sandboxes.get(pod.uid)
        if known is None:
            raise RetryError(f"the sandbox of pod {pod.title} is not ready")
        self.board.sandboxes[pod.uid] = replace(known, material=material.digest)

    async def end_pod(self, pod_uid: str, reason: str, message: str) -> None:
        self._called("end_pod", pod_uid)
        known = self.board.sandboxes.get(pod_uid)
        if known is not None:
            self.board.sandboxes[pod_uid] = replace(known, evicted=reason, evicted_message=message)

    async def give_devices(self, container_id: str, devices: Collection[str]) -> None:
        self._called("give_devices", container_id)
        state = self.board.containers.get(container_id)
        if state is not None:
            self.board.containers[container_id] = replace(state, devices=self._plugged_in(devices))

    def _plugged_in(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(f"{name}={self.board.plugged[name]}" for name in sorted(names) if name in self.board.plugged)

    async def kill_container(self, container_id: str, reason: str) -> None:
        self._called("kill_container", container_id)
        if self._mark(container_id, reason):
            self.exit(container_id, 128 + 9)

    def _mark(self, container_id: str, reason: str) -> bool:
        """Record that its end is meant; False if it has ended already or is not there."""
        state = self.board.containers.get(container_id)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            return False
        if not state.stop_requested_at:
            state = replace(state, stop_requested_at=self.board.now, stop_reason=reason)
            self.board.containers[container_id] = state
        return True

    async def remove_container(self, container_id: str) -> None:
        self._called("remove_container", container_id)
        self.board.containers.pop(container_id, None)

    async def probe(self, container_id: str, probe: Probe, ip: str) -> ProbeResult:
        self._called("probe", container_id)
        state = self.board.containers.get(container_id)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            return ProbeResult(Verdict.FAILURE, f"{container_id} does not run")
        if isinstance(probe.action, ExecAction) and container_id not in self.probe_results:
            code = 1 if probe.action.command[0] == "false" else 0
            return ProbeResult(Verdict.FAILURE if code else Verdict.SUCCESS, f"ended with {code}")
        return self.probe_results.get(container_id, ProbeResult(Verdict.SUCCESS))

    async def sync_services(self, services: Sequence[ServiceRules], host_ports: Sequence[HostPort] = ()) -> None:
        self._called("sync_services", "")
        self.board.services, self.board.host_ports = tuple(services), tuple(host_ports)

    def devices(self, names: Collection[str]) -> Mapping[str, str]:
        return {name: self.board.plugged[name] for name in names if name in self.board.plugged}

    def device_names(self) -> Mapping[str, int]:
        return dict.fromkeys(self.board.plugged, 1)

    def claims(self) -> frozenset[str]:
        return frozenset(self.board.claimed)

    async def remove_claim(self, uid: str) -> None:
        self._called("remove_claim", uid)
        self.board.claimed.pop(uid, None)

    async def resize_claim(self, claim: Claim) -> None:
        self._called("resize_claim", claim.uid)
        if claim.uid in self.board.claimed:
            self.board.claimed[claim.uid] = max(self.board.claimed[claim.uid], claim.size)

    async def reclaim_memory(self, pod_uid: str, amount: int) -> None:
        self._called("reclaim_memory", pod_uid)

    async def set_memory_high(self, pod_uid: str, high: int | None) -> None:
        self._called("set_memory_high", pod_uid)
        self.board.pressed[pod_uid] = (high, self.board.pressed.get(pod_uid, (None, False))[1])

    async def freeze_pod(self, pod_uid: str, frozen: bool) -> None:
        self._called("freeze_pod", pod_uid)
        self.board.pressed[pod_uid] = (self.board.pressed.get(pod_uid, (None, False))[0], frozen)

    def pod_usage(self, pod_uid: str) -> ContainerUsage:
        live = [c for c in self.board.containers.values() if c.pod_uid == pod_uid and c.pid]
        return ContainerUsage(memory=len(live) << 20, cpu_seconds=0.1 * len(live), pids=len(live))

    def usage(self, container_id: str) -> ContainerUsage:
        if container_id not in self.board.containers:
            return ContainerUsage()
        return ContainerUsage(memory=1 << 20, cpu_seconds=0.1, pids=1)

    def log_file(self, container_id: str) -> Path:
        if container_id.count(".") < 2:
            raise PermanentError(f"{container_id!r} is not a container id (<pod uid>.<container name>.<attempt>)")
        return Path("/nonexistent") / f"{container_id}.log"
