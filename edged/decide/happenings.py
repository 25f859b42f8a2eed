"""What a person may want to hear about: the difference between two observations, as events without numbers."""

from __future__ import annotations

from collections.abc import Sequence

from edged.decide.pulls import BACKOFF
from edged.decide.restart import describe_end
from edged.decide.steps import (
    CLAIMS,
    IMAGES,
    EndPod,
    FreezePod,
    GiveDevices,
    PullImage,
    ReclaimMemory,
    RefreshVolumes,
    RemoveClaim,
    RemoveImages,
    SqueezeMemory,
    Step,
    StopContainer,
)
from edged.model import NOT_READY, ContainerPhase, ContainerState, NodeCondition, Observed, PodStatus, Setback, Value

WAITING = {  # waiting reason -> event reason
    "ErrImageNeverPull": "ErrImageNeverPull",
    "CrashLoopBackOff": "BackOff",
    BACKOFF: "BackOff",
    "DeviceNotFound": "DeviceNotFound",
}
TOLD_OF_A_PULL = 4  # pods: an image that every pod uses is not worth every event there is room for


class Happening(Value, frozen=True):
    """An event before it gets its number and its time. `pod` is a uid."""

    kind: str
    reason: str
    message: str
    pod: str = ""
    container: str = ""


def normal(reason: str, message: str, state: ContainerState) -> Happening:
    return Happening("Normal", reason, message, state.pod_uid, state.name)


def warning(reason: str, message: str, state: ContainerState) -> Happening:
    return Happening("Warning", reason, message, state.pod_uid, state.name)


def between(before: Observed, after: Observed) -> tuple[Happening, ...]:
    """What happened from one observation to the next. The first observation of a daemon is `Observed()`."""
    told: list[Happening] = []
    earlier = {c.id: c for c in before.containers}
    for state in after.containers:
        told += of_container(earlier.get(state.id), state)
    for container_id, health in after.health.items():
        old = before.health.get(container_id)
        owner = next((c for c in after.containers if c.id == container_id), None)
        if owner is not None and health.reason and (old is None or old.reason != health.reason):
            told.append(warning("Unhealthy", f"{owner.name}: {health.reason}", owner))
    for owner_of_steps, setback in after.setbacks.items():
        seen = before.setbacks.get(owner_of_steps)
        if seen is None or seen.message != setback.message:
            told += of_setback(owner_of_steps, setback)
    return tuple(told)


def of_setback(owner: str, setback: Setback) -> list[Happening]:
    """:param owner: Step.owner. Failed pulls are told by `pulled`, to each of their pods."""
    kind, _, subject = owner.rpartition(" ")
    if owner in (IMAGES, CLAIMS):
        subject = ""
    if kind == "image":
        return []
    if kind == "hook":
        pod, name, _ = subject.rsplit(".", 2)
        return [Happening("Warning", setback.reason, f"{name}: {setback.message}", pod, name)]
    return [Happening("Warning", setback.reason, setback.message, subject if kind in ("", "pressure") else "")]


def told_anew(before: Sequence[PodStatus], after: Sequence[PodStatus]) -> tuple[Happening, ...]:
    """What keeps a pod from running, as the status says it, the moment the status begins to say so."""
    earlier = {p.uid: p for p in before}
    told: list[Happening] = []
    for pod in after:
        old = earlier.get(pod.uid)
        if pod.reason.startswith("OutOf") and (old is None or old.message != pod.message):
            told.append(Happening("Warning", pod.reason, pod.message, pod.uid))
        known = {c.name: c for c in (*old.init, *old.containers)} if old else {}
        for container in (*pod.init, *pod.containers):
            was = known.get(container.name)
            new = was is None or (was.reason, was.restarts) != (container.reason, container.restarts)
            if container.state == "waiting" and container.reason in WAITING and new:
                message = f"{container.name}: {container.message}"
                told.append(Happening("Warning", WAITING[container.reason], message, pod.uid, container.name))
    return tuple(told)


def conditions(before: Sequence[NodeCondition], after: Sequence[NodeCondition]) -> tuple[Happening, ...]:
    """Conditions of the node that began and those that ended, in the kubelet's manner of naming."""
    was, now = {c.kind for c in before}, {c.kind for c in after}
    return (
        *(Happening("Warning", _begun(c.kind), c.message) for c in after if c.kind not in was),
        *(Happening("Normal", _over(c.kind), "it is over") for c in before if c.kind not in now),
    )


def _begun(kind: str) -> str:
    return "NodeNotReady" if kind == NOT_READY else f"NodeHas{kind}"


def _over(kind: str) -> str:
    return "NodeReady" if kind == NOT_READY else f"NodeHasNo{kind}"


def of_container(old: ContainerState | None, new: ContainerState) -> list[Happening]:
    told = []
    running = new.phase is ContainerPhase.RUNNING
    if running and (old is None or old.phase is not ContainerPhase.RUNNING):
        told.append(normal("Started", f"{new.name} runs (attempt {new.attempt})", new))
    if running and not new.monitored and (old is None or old.monitored):
        told.append(warning("MonitorLost", f"{new.name} goes on without its conmon; the daemon keeps its log", new))
    ended_now = new.phase in (ContainerPhase.EXITED, ContainerPhase.UNKNOWN) and (old is None or old.phase != new.phase)
    if not ended_now:
        return told
    if new.oom_killed:
        told.append(warning("OOMKilled", f"{new.name}: {describe_end(new)}", new))
    elif new.exit_code == 0 or new.stop_requested_at:
        told.append(normal("Exited", f"{new.name}: {describe_end(new)}", new))
    else:
        told.append(warning("Died", f"{new.name}: {describe_end(new)}", new))
    return told


# ---------------------------------------------------------------- deeds


def begun(step: Step, setback: Setback | None) -> list[Happening]:
    """What is told when a step is begun. :param setback: of its owner: what failed before is no news again."""
    if isinstance(step, StopContainer):
        return [normal("Killing", f"stopping {step.container.name}: {step.reason}", step.container)]
    if isinstance(step, PullImage) and setback is None:
        return _to_pods(step, "Normal", "Pulling", f'pulling image "{step.reference}": {step.reason}')
    return []


def done(step: Step) -> list[Happening]:
    """What is told when a step has worked."""
    match step:
        case PullImage(reference):
            return _to_pods(step, "Normal", "Pulled", f'image "{reference}" is here')
        case EndPod(uid, _, reason, message):
            return [Happening("Warning", reason, message, uid)]
        case GiveDevices(container):
            return [normal("DevicesChanged", f"{container.name}: {step.reason}", container)]
        case RefreshVolumes(pod):
            return [Happening("Normal", "VolumesRefreshed", step.reason, pod.uid)]
        case RemoveClaim() | RemoveImages():
            return [Happening("Normal", "Removed", step.describe())]
        case ReclaimMemory(uid):
            return [Happening("Normal", "ReclaimedMemory", step.describe(), uid)]
        case SqueezeMemory(uid, _, high):
            return [Happening("Normal" if high is None else "Warning", "SqueezedMemory", step.describe(), uid)]
        case FreezePod(uid, _, frozen):
            return [
                Happening("Warning" if frozen else "Normal", "Frozen" if frozen else "Thawed", step.describe(), uid)
            ]
        case _:
            return []


def failed_pull(step: PullImage, error: str, here: bool, before: Setback | None) -> list[Happening]:
    """:param here: an image of that name is on the node, and is used now. :param before: how it failed last time."""
    image = f'image "{step.reference}"'
    if here:
        said = f"the registry could not be asked for {image}: {error}; the one that is here is used"
        return _to_pods(step, "Warning", "Failed", said)
    if before is not None and before.message == error:
        return []
    return _to_pods(step, "Warning", "Failed", f"failed to pull {image}: {error}")


def _to_pods(step: PullImage, kind: str, reason: str, message: str) -> list[Happening]:
    return [Happening(kind, reason, message, pod.uid) for pod in step.pods[:TOLD_OF_A_PULL]]
