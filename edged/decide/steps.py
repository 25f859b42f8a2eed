"""What the node can do, one small frozen value per kind of deed. `edged plan` prints them.

Every step has an `owner`: steps of one owner are done in order and one at a time, owners side by side. While an owner
has steps under way it is in `Observed.busy`, and a failure of its steps is its entry in `Observed.setbacks`. A pod's
uid owns what is done to the pod; what takes long, or must not wait for the pod, has an owner of its own.
"""

from __future__ import annotations

import enum

from edged.model import Claim, Container, ContainerState, Hook, HostPort, Pod, ServiceRules, Value

SERVICES = ""  # owns what belongs to no pod: forwarding and names
IMAGES = "images"  # owns the collection of images nobody needs
CLAIMS = "claims"  # owns the removal of persistent volumes


def image_owner(reference: str) -> str:
    """Owner of the pull of one image; no pod uid looks like it."""
    return f"image {reference}"


def hook_owner(container_id: str) -> str:
    """Owner of the hooks of one attempt."""
    return f"hook {container_id}"


def pressure_owner(pod_uid: str) -> str:
    """Owner of what is done to a pod's memory from outside, which must not wait for the pod's own steps."""
    return f"pressure {pod_uid}"


class PrepareSandbox(Value, frozen=True):
    """Make a pod's folders, volumes and network namespace; harmless where they exist."""

    pod: Pod
    reason: str

    @property
    def owner(self) -> str:
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
    def owner(self) -> str:
        return self.pod.uid

    def describe(self) -> str:
        return f"start {self.container.name} of {self.pod.title} (attempt {self.attempt}): {self.reason}"


class StopContainer(Value, frozen=True):
    """Ask a container to end: its stop signal, or where it has a preStop hook only the decision, and then the hook's
    step. The plan kills it when the grace period is over."""

    container: ContainerState
    reason: str

    @property
    def owner(self) -> str:
        return self.container.pod_uid

    def describe(self) -> str:
        return f"stop {self.container.id}: {self.reason}"


class KillContainer(Value, frozen=True):
    """SIGKILL, after grace or where none is due."""

    container: ContainerState
    reason: str

    @property
    def owner(self) -> str:
        return self.container.pod_uid

    def describe(self) -> str:
        return f"kill {self.container.id}: {self.reason}"


class RemoveContainer(Value, frozen=True):
    """Take away an ended container: its cgroup, root file system and records."""

    container: ContainerState
    reason: str

    @property
    def owner(self) -> str:
        return self.container.pod_uid

    def describe(self) -> str:
        return f"remove {self.container.id}: {self.reason}"


class RemoveSandbox(Value, frozen=True):
    """Take away a pod's namespace, volumes and folders, once no container is left in it."""

    pod_uid: str
    title: str
    reason: str

    @property
    def owner(self) -> str:
        return self.pod_uid

    def describe(self) -> str:
        return f"remove sandbox of {self.title}: {self.reason}"


class SyncServices(Value, frozen=True):
    """Make forwarding and names say exactly this, in one transaction."""

    services: tuple[ServiceRules, ...]
    reason: str
    host_ports: tuple[HostPort, ...] = ()

    @property
    def owner(self) -> str:
        return SERVICES

    def describe(self) -> str:
        names = ", ".join(f"{s.namespace}/{s.name}->{len(s.addresses)}" for s in self.services) or "none"
        ports = "".join(f", port {p.port}/{p.protocol}" for p in self.host_ports)
        return f"sync services ({names}{ports}): {self.reason}"


class PullImage(Value, frozen=True):
    """Fetch an image, or see whether there is a newer one of that name, with the logins that `pods` bring."""

    reference: str
    pods: tuple[Pod, ...]
    reason: str

    @property
    def owner(self) -> str:
        return image_owner(self.reference)

    def describe(self) -> str:
        return f"pull {self.reference}: {self.reason}"


class RemoveImages(Value, frozen=True):
    """Take away images that nothing on this node needs."""

    references: tuple[str, ...]
    reason: str

    @property
    def owner(self) -> str:
        return IMAGES

    def describe(self) -> str:
        return f"remove {len(self.references)} images ({', '.join(self.references)}): {self.reason}"


class RemoveClaim(Value, frozen=True):
    """Delete a persistent volume and all that is in it."""

    uid: str
    reason: str

    @property
    def owner(self) -> str:
        return CLAIMS

    def describe(self) -> str:
        return f"delete persistent volume {self.uid}: {self.reason}"


class ResizeClaim(Value, frozen=True):
    """Let a persistent volume hold what its claim says now."""

    claim: Claim
    reason: str

    @property
    def owner(self) -> str:
        return CLAIMS

    def describe(self) -> str:
        return f"resize persistent volume {self.claim.title}: {self.reason}"


class RefreshVolumes(Value, frozen=True):
    """Bring the files of configs, secrets and the pod's own fields up to date in a pod that runs."""

    pod: Pod
    reason: str

    @property
    def owner(self) -> str:
        return self.pod.uid

    def describe(self) -> str:
        return f"refresh volumes of {self.pod.title}: {self.reason}"


class HookKind(enum.StrEnum):
    """Kubernetes' own names."""

    POST_START = "postStart"
    PRE_STOP = "preStop"


class RunHook(Value, frozen=True):
    """Run a lifecycle hook. After postStart the container counts as started; after preStop, however that ended, it gets
    its stop signal. A hook that was cut off is run again."""

    container: ContainerState
    kind: HookKind
    hook: Hook
    ip: str
    timeout: float

    @property
    def owner(self) -> str:
        return hook_owner(self.container.id)

    def describe(self) -> str:
        return f"run {self.kind} hook of {self.container.id}"


class GiveDevices(Value, frozen=True):
    """Give a running container the devices that it claims as they are plugged in now, and take away those that left."""

    container: ContainerState
    devices: tuple[str, ...]
    reason: str

    @property
    def owner(self) -> str:
        return self.container.pod_uid

    def describe(self) -> str:
        return f"give {self.container.id} its devices ({', '.join(self.devices) or 'none'}): {self.reason}"


class EndPod(Value, frozen=True):
    """Write down that a pod is ended for good (evicted, or past its deadline); its containers then go, and it is told
    as Failed. `reason` is one word, `message` a sentence."""

    pod_uid: str
    title: str
    reason: str
    message: str

    @property
    def owner(self) -> str:
        return self.pod_uid

    def describe(self) -> str:
        return f"end {self.title} ({self.reason}): {self.message}"


class ReclaimMemory(Value, frozen=True):
    """Push up to `amount` bytes that a pod can do without out of memory (memory.reclaim)."""

    pod_uid: str
    title: str
    amount: int
    reason: str

    @property
    def owner(self) -> str:
        return pressure_owner(self.pod_uid)

    def describe(self) -> str:
        return f"reclaim {self.amount >> 20} MiB from {self.title}: {self.reason}"


class SqueezeMemory(Value, frozen=True):
    """Set a pod's memory.high to `high` bytes; None lets go."""

    pod_uid: str
    title: str
    high: int | None
    reason: str

    @property
    def owner(self) -> str:
        return pressure_owner(self.pod_uid)

    def describe(self) -> str:
        what = "let go of" if self.high is None else f"squeeze to {self.high >> 20} MiB"
        return f"{what} {self.title}: {self.reason}"


class FreezePod(Value, frozen=True):
    """Stop a pod in its tracks (cgroup.freeze), or let it go on."""

    pod_uid: str
    title: str
    frozen: bool
    reason: str

    @property
    def owner(self) -> str:
        return pressure_owner(self.pod_uid)

    def describe(self) -> str:
        return f"{'freeze' if self.frozen else 'thaw'} {self.title}: {self.reason}"


Step = (
    PrepareSandbox
    | StartContainer
    | StopContainer
    | KillContainer
    | RemoveContainer
    | RemoveSandbox
    | SyncServices
    | PullImage
    | RemoveImages
    | RemoveClaim
    | ResizeClaim
    | RefreshVolumes
    | RunHook
    | GiveDevices
    | EndPod
    | ReclaimMemory
    | SqueezeMemory
    | FreezePod
)


class Plan(Value, frozen=True):
    """Steps to take now, in order (steps of different owners don't depend on each other).

    :ivar wake_at: CLOCK_BOOTTIME second at which to plan again even if nothing happens; infinity = never.
    """

    steps: tuple[Step, ...] = ()
    wake_at: float = float("inf")

    def describe(self) -> str:
        return "\n".join(s.describe() for s in self.steps) or "nothing to do"
