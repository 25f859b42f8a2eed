"""What to tell people: (desired, observed, budget, now) -> one PodStatus per pod, in Kubernetes' words."""

from __future__ import annotations

from collections.abc import Sequence

from edged.decide import budget as budgets
from edged.decide import health as healths
from edged.decide import restart
from edged.decide.plan import ENDED, by_pod
from edged.model import (
    Container,
    ContainerPhase,
    ContainerState,
    ContainerStatus,
    Desired,
    Health,
    Observed,
    Phase,
    Pod,
    PodStatus,
    SandboxState,
)


def summarise(desired: Desired | None, observed: Observed, budget: budgets.Budget, now: float) -> tuple[PodStatus, ...]:
    """Status of every wanted pod and of those still being taken away, sorted by namespace and name."""
    if desired is None:
        return ()
    attempts = by_pod(observed.containers)
    sandboxes = {s.pod_uid: s for s in observed.sandboxes}
    wanted = {p.uid for p in desired.pods}
    admission = budgets.admission(desired, observed, budget)
    told = [
        refused_status(p, admission)
        if p.uid in admission.refused
        else pod_status(p, sandboxes.get(p.uid), attempts.get(p.uid, []), observed, now)
        for p in desired.pods
    ]
    told += [
        leaving_status(uid, sandboxes.get(uid), attempts.get(uid, []))
        for uid in sorted((set(sandboxes) | set(attempts)) - wanted)
    ]
    return tuple(sorted(told, key=lambda s: (s.namespace, s.name, s.uid)))


def refused_status(pod: Pod, admission: budgets.Admission) -> PodStatus:
    """A pod that there is no room for."""
    reason, message = admission.reasons[pod.uid], admission.refused[pod.uid]
    return PodStatus(pod.uid, pod.namespace, pod.name, Phase.PENDING, reason=reason, message=message)


def pod_status(
    pod: Pod,
    sandbox: SandboxState | None,
    attempts: Sequence[ContainerState],
    observed: Observed,
    now: float,
) -> PodStatus:
    setback = observed.setbacks.get(pod.uid)
    containers = []
    for container in pod.containers:
        mine = [c for c in attempts if c.name == container.name]
        health = observed.health.get(mine[-1].id) if mine else None
        told = container_status(pod, container, mine, health, container.image in observed.images, now)
        if setback is not None and told.state == "waiting" and told.reason == "ContainerCreating":
            told = ContainerStatus(
                container.name, container.image, "waiting", reason=setback.reason, message=setback.message
            )
        containers.append(told)
    phase = pod_phase(pod, containers)
    waiting = next((c for c in containers if c.state == "waiting" and c.message), None)
    started = [c.started_wall for c in attempts if c.started_wall]
    return PodStatus(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        phase=phase,
        ready=all(c.ready for c in containers),
        ip=sandbox.ip if sandbox and sandbox.ready else "",
        reason=setback.reason if setback else "",
        message=setback.message if setback else (waiting.message if waiting else ""),
        started_wall=min(started, default=0.0),
        containers=tuple(containers),
    )


def container_status(
    pod: Pod,
    container: Container,
    attempts: Sequence[ContainerState],
    health: Health | None,
    image_present: bool,
    now: float,
) -> ContainerStatus:
    """:param attempts: of this container, oldest first."""
    newest = attempts[-1] if attempts else None
    if newest is None or (newest.phase in ENDED and not image_present):
        if image_present:
            return ContainerStatus(container.name, container.image, "waiting", reason="ContainerCreating")
        return ContainerStatus(
            container.name,
            container.image,
            "waiting",
            reason="ErrImageNeverPull",
            message=f'image "{container.image}" is not on this node; bring it with `edged image import FILE`',
        )
    if newest.phase not in ENDED:
        state = healths.of(container, newest, health)
        previous = attempts[-2] if len(attempts) > 1 else None
        running = newest.phase is ContainerPhase.RUNNING
        told = ContainerStatus(
            container.name,
            container.image,
            "running" if running else "waiting",
            reason="" if running else "ContainerCreating",
            message=state.reason if not state.ready else "",
            ready=state.ready,
            started=state.started,
        )
        return with_history(told, newest, previous)
    decision = restart.decide(pod.restart_policy, newest)
    if decision.restart:
        wait = max(decision.at - now, 0.0)
        looping = decision.at > newest.finished_at
        told = ContainerStatus(
            container.name,
            container.image,
            "waiting",
            reason="CrashLoopBackOff" if looping else "ContainerCreating",
            message=f"{decision.reason}; next start after {decision.at - newest.finished_at:.0f} s"
            if wait and looping
            else "",
        )
        return with_history(told, newest, newest)
    told = ContainerStatus(
        container.name,
        container.image,
        "terminated",
        reason=end_reason(newest),
        exit_code=newest.exit_code,
        finished_wall=newest.finished_wall,
    )
    return with_history(told, newest, attempts[-2] if len(attempts) > 1 else None)


def with_history(told: ContainerStatus, newest: ContainerState, previous: ContainerState | None) -> ContainerStatus:
    """Add ids, restarts and how the attempt before ended."""
    fields = {name: getattr(told, name) for name in told.__struct_fields__}
    fields.update(
        restarts=newest.attempt,
        started_wall=newest.started_wall if told.state != "waiting" else 0.0,
        container_id=newest.id,
        image_id=newest.image_id,
    )
    if previous is not None:
        fields.update(
            last_reason=end_reason(previous),
            last_exit_code=previous.exit_code,
            last_started_wall=previous.started_wall,
            last_finished_wall=previous.finished_wall,
        )
    return ContainerStatus(**fields)


def end_reason(ended: ContainerState) -> str:
    """Kubernetes' words for how a container ended."""
    if ended.oom_killed:
        return "OOMKilled"
    if ended.phase is ContainerPhase.UNKNOWN or ended.exit_code is None:
        return "ContainerStatusUnknown"
    return "Completed" if ended.exit_code == 0 else "Error"


def pod_phase(pod: Pod, containers: Sequence[ContainerStatus]) -> Phase:
    if all(c.state == "terminated" for c in containers):
        return Phase.SUCCEEDED if all(c.exit_code == 0 for c in containers) else Phase.FAILED
    begun = [c.state != "waiting" or c.restarts or c.last_reason for c in containers]  # once, if not now
    return Phase.RUNNING if all(begun) else Phase.PENDING


def leaving_status(uid: str, sandbox: SandboxState | None, attempts: Sequence[ContainerState]) -> PodStatus:
    """A pod that is being taken away; it is told until nothing is left of it."""
    namespace, _, name = (sandbox.pod if sandbox else uid).partition("/")
    newest = {c.name: c for c in attempts}
    containers = tuple(
        with_history(
            ContainerStatus(
                c.name,
                "",
                "terminated" if c.phase in ENDED else "running",
                reason=end_reason(c) if c.phase in ENDED else "",
                exit_code=c.exit_code,
                finished_wall=c.finished_wall,
            ),
            c,
            None,
        )
        for c in newest.values()
    )
    return PodStatus(
        uid,
        namespace,
        name,
        Phase.RUNNING,
        ip=sandbox.ip if sandbox else "",
        reason="Terminating",
        message="being taken away",
        containers=containers,
    )
