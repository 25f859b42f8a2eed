"""A board as plain values: what the steps of a plan would do to it, and what may befall it. No I/O, virtual time."""

from __future__ import annotations

from msgspec.structs import replace

from edged.decide.steps import (
    KillContainer,
    PrepareSandbox,
    RemoveContainer,
    RemoveSandbox,
    StartContainer,
    Step,
    StopContainer,
    SyncServices,
)
from edged.model import (
    ContainerPhase,
    ContainerState,
    Desired,
    Health,
    Observed,
    SandboxState,
    ServiceRules,
    container_identity,
)


class World:
    """What `Runtime` promises, in memory; `log` keeps what was done."""

    def __init__(self, images: frozenset[str] = frozenset({"demo"})) -> None:
        self.now = 1000.0
        self.containers: dict[str, ContainerState] = {}
        self.sandboxes: dict[str, SandboxState] = {}
        self.services: tuple[ServiceRules, ...] = ()
        self.health: dict[str, Health] = {}
        self.images = images
        self.log: list[Step] = []

    def observe(self) -> Observed:
        return Observed(
            containers=tuple(self.containers.values()),
            sandboxes=tuple(self.sandboxes.values()),
            images=self.images,
            services=self.services,
            health={k: v for k, v in self.health.items() if k in self.containers},
        )

    def apply(self, step: Step) -> None:
        self.log.append(step)
        match step:
            case PrepareSandbox(pod):
                self.sandboxes[pod.uid] = SandboxState(
                    pod.uid,
                    pod.title,
                    f"10.0.0.{len(self.sandboxes) + 2}",
                    True,
                    pod.termination_grace,
                    pod.memory_request,
                )
            case StartContainer(pod, container, attempt, crashes):
                assert self.sandboxes[pod.uid].ready, "a container was started without a sandbox"
                state = ContainerState(
                    id=f"{pod.uid}.{container.name}.{attempt}",
                    pod_uid=pod.uid,
                    name=container.name,
                    attempt=attempt,
                    identity=container_identity(pod, container),
                    phase=ContainerPhase.RUNNING,
                    crashes=crashes,
                    started_at=self.now,
                )
                assert state.id not in self.containers, "an attempt number was used twice"
                self.containers[state.id] = state
            case StopContainer(container, reason):
                self.containers[container.id] = replace(container, stop_requested_at=self.now, stop_reason=reason)
            case KillContainer(container):
                self.exit(container.id, 137)
            case RemoveContainer(container):
                assert self.containers[container.id].phase in (ContainerPhase.EXITED, ContainerPhase.UNKNOWN)
                del self.containers[container.id]
            case RemoveSandbox(pod_uid):
                assert not any(c.pod_uid == pod_uid for c in self.containers.values())
                self.sandboxes.pop(pod_uid, None)
            case SyncServices(services):
                self.services = services

    def exit(self, container_id: str, code: int) -> None:
        state = self.containers[container_id]
        if state.phase in (ContainerPhase.RUNNING, ContainerPhase.STARTING):
            self.containers[container_id] = replace(
                state, phase=ContainerPhase.EXITED, exit_code=code, finished_at=self.now
            )

    def lose_trace(self, container_id: str) -> None:
        """Process and monitor are gone and nobody saw it."""
        state = self.containers[container_id]
        if state.phase is ContainerPhase.RUNNING:
            self.containers[container_id] = replace(state, phase=ContainerPhase.UNKNOWN, exit_code=None)

    def lose_network(self, pod_uid: str) -> None:
        self.sandboxes[pod_uid] = replace(self.sandboxes[pod_uid], ready=False)

    def power_cut(self) -> None:
        self.containers.clear()
        self.sandboxes.clear()
        self.services = ()
        self.health.clear()
        self.now = 5.0

    def live(self) -> list[ContainerState]:
        return [c for c in self.containers.values() if c.phase in (ContainerPhase.RUNNING, ContainerPhase.STARTING)]

    def check_invariants(self, desired: Desired | None, memory: int) -> None:
        """Never two live attempts of one container; admitted requests within the budget."""
        names = [(c.pod_uid, c.name) for c in self.live()]
        assert len(names) == len(set(names)), "two instances of one container are alive"
        if desired is not None:
            pods = {p.uid: p for p in desired.pods}
            running = {c.pod_uid for c in self.live()} & set(pods)
            assert sum(pods[uid].memory_request for uid in running) <= memory
