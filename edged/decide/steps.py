"""What the node can do, one small frozen value per kind of deed. `edged plan` prints them."""

from __future__ import annotations

from edged.model import Container, ContainerState, Pod, ServiceRules, Value


class PrepareSandbox(Value, frozen=True):
    """Make a pod's folders, volumes and network namespace; harmless where they exist."""

    pod: Pod
    reason: str

    @property
    def pod_uid(self) -> str:
        return self.pod.uid

    def describe(self) -> str:
        return f"prepare sandbox of {self.pod.title}: {self.reason}"


class StartContainer(Value, frozen=True):
    """Start attempt number `attempt` of one container."""

    pod: Pod
    container: Container
    attempt: int
    crashes: int
    reason: str

    @property
    def pod_uid(self) -> str:
        return self.pod.uid

    def describe(self) -> str:
        return f"start {self.container.name} of {self.pod.title} (attempt {self.attempt}): {self.reason}"


class StopContainer(Value, frozen=True):
    """Ask a container to end (its stop signal); the plan kills it when the grace period is over."""

    container: ContainerState
    reason: str

    @property
    def pod_uid(self) -> str:
        return self.container.pod_uid

    def describe(self) -> str:
        return f"stop {self.container.id}: {self.reason}"


class KillContainer(Value, frozen=True):
    """SIGKILL, after grace or where none is due."""

    container: ContainerState
    reason: str

    @property
    def pod_uid(self) -> str:
        return self.container.pod_uid

    def describe(self) -> str:
        return f"kill {self.container.id}: {self.reason}"


class RemoveContainer(Value, frozen=True):
    """Take away an ended container: its cgroup, root file system and records."""

    container: ContainerState
    reason: str

    @property
    def pod_uid(self) -> str:
        return self.container.pod_uid

    def describe(self) -> str:
        return f"remove {self.container.id}: {self.reason}"


class RemoveSandbox(Value, frozen=True):
    """Take away a pod's namespace, volumes and folders, once no container is left in it."""

    pod_uid: str
    title: str
    reason: str

    def describe(self) -> str:
        return f"remove sandbox of {self.title}: {self.reason}"


class SyncServices(Value, frozen=True):
    """Make forwarding and names say exactly this, in one transaction."""

    services: tuple[ServiceRules, ...]
    reason: str
    pod_uid: str = ""  # belongs to no pod

    def describe(self) -> str:
        names = ", ".join(f"{s.namespace}/{s.name}->{len(s.addresses)}" for s in self.services) or "none"
        return f"sync services ({names}): {self.reason}"


Step = PrepareSandbox | StartContainer | StopContainer | KillContainer | RemoveContainer | RemoveSandbox | SyncServices


class Plan(Value, frozen=True):
    """Steps to take now, in order (steps of different pods don't depend on each other).

    :ivar wake_at: CLOCK_BOOTTIME second at which to plan again even if nothing happens; infinity = never.
    """

    steps: tuple[Step, ...] = ()
    wake_at: float = float("inf")

    def describe(self) -> str:
        return "\n".join(s.describe() for s in self.steps) or "nothing to do"
