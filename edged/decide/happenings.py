"""What a person may want to hear about: the difference between two observations, as events without numbers."""

from __future__ import annotations

from collections.abc import Sequence

from edged.decide.restart import describe_end
from edged.model import ContainerPhase, ContainerState, Observed, PodStatus, Value

WAITING = {"ErrImageNeverPull": "ErrImageNeverPull", "CrashLoopBackOff": "BackOff"}  # waiting reason -> event reason


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
    for uid, setback in after.setbacks.items():
        seen = before.setbacks.get(uid)
        if seen is None or seen.message != setback.message:
            told.append(Happening("Warning", setback.reason, setback.message, uid))
    return tuple(told)


def told_anew(before: Sequence[PodStatus], after: Sequence[PodStatus]) -> tuple[Happening, ...]:
    """What keeps a pod from running, as the status says it, the moment the status begins to say so."""
    earlier = {p.uid: p for p in before}
    told: list[Happening] = []
    for pod in after:
        old = earlier.get(pod.uid)
        if pod.reason.startswith("OutOf") and (old is None or old.message != pod.message):
            told.append(Happening("Warning", pod.reason, pod.message, pod.uid))
        known = {c.name: c for c in old.containers} if old else {}
        for container in pod.containers:
            was = known.get(container.name)
            new = was is None or (was.reason, was.restarts) != (container.reason, container.restarts)
            if container.state == "waiting" and container.reason in WAITING and new:
                message = f"{container.name}: {container.message}"
                told.append(Happening("Warning", WAITING[container.reason], message, pod.uid, container.name))
    return tuple(told)


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
