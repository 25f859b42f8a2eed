"""The executor: one match over Step, an Outcome for each. The only place where plans become deeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, assert_never

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
from edged.errors import PermanentError, RetryError
from edged.model import Image, Material, Pod, Value
from edged.runtime.api import Runtime


class Images(Protocol):
    """What the executor needs from the image store."""

    def resolve(self, reference: str) -> Image | None: ...


class Outcome(Value, frozen=True):
    """:ivar error: "" for success, else the sentence.
    :ivar retry_after: seconds; infinity where trying the same again can't help.
    """

    step: Step
    error: str = ""
    retry_after: float = 0.0


REASONS = {  # Kubernetes' words for a step that fails (kubelet's event and waiting reasons)
    PrepareSandbox: "FailedCreatePodSandBox",
    StartContainer: "CreateContainerError",
    StopContainer: "FailedKillPod",
    KillContainer: "FailedKillPod",
    RemoveContainer: "FailedRemove",
    RemoveSandbox: "FailedRemove",
    SyncServices: "FailedSyncServices",
}


class Executor:
    """Knows how to do each step, and nothing about when."""

    def __init__(self, runtime: Runtime, images: Images, material: Callable[[Pod], Material]) -> None:
        self._runtime = runtime
        self._images = images
        self._material = material

    async def execute(self, step: Step) -> Outcome:
        """Do one step. Known failures come back as an Outcome; anything else is a bug and travels up."""
        try:
            await self._do(step)
        except PermanentError as e:
            return Outcome(step, str(e), float("inf"))
        except RetryError as e:
            return Outcome(step, str(e), e.after)
        return Outcome(step)

    async def _do(self, step: Step) -> None:
        runtime = self._runtime
        match step:
            case PrepareSandbox(pod):
                await runtime.prepare_sandbox(pod, self._material(pod))
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
            case RemoveSandbox(pod_uid):
                await runtime.remove_sandbox(pod_uid)
            case SyncServices(services):
                await runtime.sync_services(services)
            case _:
                assert_never(step)
