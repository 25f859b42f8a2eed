"""The executor: one match over Step, an Outcome for each. The only place where plans become deeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, assert_never

from edged.decide.attempts import ENDED
from edged.decide.pulls import INVALID_NAME
from edged.decide.steps import (
    EndPod,
    FreezePod,
    GiveDevices,
    HookKind,
    KillContainer,
    PrepareSandbox,
    PullImage,
    ReclaimMemory,
    RefreshVolumes,
    RemoveClaim,
    RemoveContainer,
    RemoveImages,
    RemoveSandbox,
    ResizeClaim,
    RunHook,
    SqueezeMemory,
    StartContainer,
    Step,
    StopContainer,
    SyncServices,
)
from edged.errors import PermanentError, RetryError
from edged.images.reference import parse
from edged.model import Image, Material, Pod, Value
from edged.runtime.api import Runtime


class Images(Protocol):
    """What the executor needs from the image store."""

    def resolve(self, reference: str) -> Image | None: ...

    def list(self) -> tuple[Image, ...]: ...


class Puller(Protocol):
    """Whoever brings images here and takes them away, in processes that end."""

    async def pull(self, reference: str, logins: Sequence[Mapping[str, bytes]]) -> None:
        """:param logins: contents of registry secrets (v1 Secret, type kubernetes.io/dockerconfigjson or dockercfg).
        :raises RetryError, PermanentError: as edged.images.pull; also when it takes too long."""

    async def remove(self, references: Sequence[str]) -> None: ...


class Outcome(Value, frozen=True):
    """:ivar error: "" for success, else the sentence.
    :ivar retry_after: seconds; infinity where trying the same again can't help.
    :ivar reason: one word for the failure where `reason_of` the step is too coarse.
    """

    step: Step
    error: str = ""
    retry_after: float = 0.0
    reason: str = ""


REASONS = {  # Kubernetes' words for a step that fails (kubelet's event and waiting reasons)
    PrepareSandbox: "FailedCreatePodSandBox",
    StartContainer: "CreateContainerError",
    StopContainer: "FailedKillPod",
    KillContainer: "FailedKillPod",
    RemoveContainer: "FailedRemove",
    RemoveSandbox: "FailedRemove",
    SyncServices: "FailedSyncServices",
    PullImage: "ErrImagePull",
    RemoveImages: "ImageGCFailed",
    RemoveClaim: "VolumeFailedDelete",
    ResizeClaim: "VolumeResizeFailed",
    RefreshVolumes: "FailedMount",
    GiveDevices: "FailedGiveDevices",
    EndPod: "FailedKillPod",
    ReclaimMemory: "FailedReclaim",
    SqueezeMemory: "FailedReclaim",
    FreezePod: "FailedFreeze",
}


def reason_of(step: Step) -> str:
    """One word for the failure of this step."""
    if isinstance(step, RunHook):
        return "FailedPostStartHook" if step.kind is HookKind.POST_START else "FailedPreStopHook"
    return REASONS[type(step)]


class InvalidNameError(PermanentError):
    """Nobody could have an image of that name."""


def check_name(image: str) -> None:
    try:
        parse(image)
    except PermanentError as e:
        raise InvalidNameError(str(e)) from e


class Executor:
    """Knows how to do each step, and nothing about when.

    :param material: what a pod's files and variables are made from.
    :param logins: the contents of a pod's registry secrets.
    """

    def __init__(
        self,
        runtime: Runtime,
        images: Images,
        puller: Puller,
        material: Callable[[Pod], Material],
        logins: Callable[[Pod], Sequence[Mapping[str, bytes]]],
    ) -> None:
        self._runtime = runtime
        self._images = images
        self._puller = puller
        self._material = material
        self._logins = logins

    async def execute(self, step: Step) -> Outcome:
        """Do one step. Known failures come back as an Outcome; anything else is a bug and travels up."""
        try:
            await self._do(step)
        except InvalidNameError as e:
            return Outcome(step, str(e), float("inf"), INVALID_NAME)
        except PermanentError as e:
            return Outcome(step, str(e), float("inf"))
        except RetryError as e:
            return Outcome(step, str(e), e.after)
        return Outcome(step)

    async def _do(self, step: Step) -> None:
        match step:
            case PrepareSandbox() | RefreshVolumes() | RemoveSandbox() | EndPod():
                await self._do_to_pod(step)
            case PullImage(reference, pods):
                check_name(reference)
                await self._puller.pull(reference, [login for pod in pods for login in self._logins(pod)])
            case RemoveImages(references):
                await self._puller.remove(references)
            case RemoveClaim(uid):
                await self._runtime.remove_claim(uid)
            case ResizeClaim(claim):
                await self._runtime.resize_claim(claim)
            case SyncServices(services, host_ports=ports):
                await self._runtime.sync_services(services, ports)
            case ReclaimMemory(pod_uid, amount=amount):
                await self._runtime.reclaim_memory(pod_uid, amount)
            case SqueezeMemory(pod_uid, high=high):
                await self._runtime.set_memory_high(pod_uid, high)
            case FreezePod(pod_uid, frozen=frozen):
                await self._runtime.freeze_pod(pod_uid, frozen)
            case _:
                await self._do_to_container(step)

    async def _do_to_pod(self, step: PrepareSandbox | RefreshVolumes | RemoveSandbox | EndPod) -> None:
        runtime = self._runtime
        match step:
            case PrepareSandbox(pod):
                await runtime.prepare_sandbox(pod, self._material(pod))
            case RefreshVolumes(pod):
                await runtime.refresh_volumes(pod, self._material(pod))
            case RemoveSandbox(pod_uid):
                await runtime.remove_sandbox(pod_uid)
            case EndPod(pod_uid, reason=reason, message=message):
                await runtime.end_pod(pod_uid, reason, message)
            case _:
                assert_never(step)

    async def _do_to_container(
        self, step: StartContainer | StopContainer | KillContainer | RemoveContainer | GiveDevices | RunHook
    ) -> None:
        runtime = self._runtime
        match step:
            case StartContainer(pod, container, attempt, crashes):
                image = self._images.resolve(container.image)
                if image is None:
                    raise RetryError(f'image "{container.image}" is not on this node any more')
                await runtime.start_container(pod, container, image, self._material(pod), attempt, crashes)
            case StopContainer(container, reason):
                await runtime.stop_container(container.id, reason)
            case KillContainer(container, reason):
                await runtime.kill_container(container.id, reason)
            case RemoveContainer(container):
                await runtime.remove_container(container.id)
            case GiveDevices(container, devices):
                await runtime.give_devices(container.id, devices)
            case RunHook():
                await self._run_hook(step)
            case _:
                assert_never(step)

    async def _run_hook(self, step: RunHook) -> None:
        runtime, container = self._runtime, step.container.id
        try:
            await runtime.run_hook(container, step.hook, step.ip, step.timeout)
        except (PermanentError, RetryError) as e:
            state = runtime.inspect(container)
            if state is None or state.phase in ENDED:  # it ended under its hook, which is how many of them work
                return
            if step.kind is HookKind.PRE_STOP:  # a hook that fails doesn't keep anything alive
                await runtime.signal_container(container)
                raise
            if isinstance(e, RetryError):
                raise
            # as Kubernetes: the container is ended, and its restart policy decides
            await runtime.stop_container(container, f"postStart hook failed: {e}")
            raise
        if step.kind is HookKind.PRE_STOP:
            await runtime.signal_container(container)
        else:
            await runtime.note_post_started(container)
