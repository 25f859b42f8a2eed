"""What to tell people: (desired, observed, budget, now) -> one PodStatus per pod, in Kubernetes' words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from edged.decide import budget as budgets
from edged.decide import devices, lifecycle, pulls, restart, turns
from edged.decide import health as healths
from edged.decide.admission import admission
from edged.decide.attempts import ENDED, Scene, by_pod
from edged.decide.keep import GIVE_FAILED, REFRESH_FAILED
from edged.decide.services import pod_ready
from edged.model import (
    Container,
    ContainerPhase,
    ContainerState,
    ContainerStatus,
    Desired,
    Image,
    Observed,
    Phase,
    Pod,
    PodStatus,
    SandboxState,
    StoredImage,
    qos_of,
)

POST_START_FAILED = "postStart hook failed"  # how edged.apply begins the reason
CREATING, INITIALIZING = "ContainerCreating", "PodInitializing"

WorkingSets = Callable[[Pod, Container], tuple[int, int]]

MAX_IMAGES = 50  # told to the hub, as the kubelet's nodeStatusMaxImages


def summarise(
    desired: Desired | None,
    observed: Observed,
    budget: budgets.Budget,
    now: float,
    working_sets: WorkingSets | None = None,
) -> tuple[PodStatus, ...]:
    """Status of every wanted pod and of those still being taken away, sorted by namespace and name.

    :param working_sets: bytes that a container stays below 95 % of the time, and at most.
    """
    if desired is None:
        return ()
    attempts = by_pod(observed.containers)
    sandboxes = {s.pod_uid: s for s in observed.sandboxes}
    wanted = {p.uid for p in desired.pods}
    admitted = admission(desired, observed, budget, attempts)
    waits = turns.turns(desired, observed, attempts)
    told = []
    for pod in desired.pods:
        if pod.uid not in sandboxes and pod.uid not in attempts:
            if (ended := observed.ended.get(pod.uid)) is not None:
                told.append(ended)
                continue
            if pod.uid in waits.held:
                told.append(refused_status(pod, *waits.held[pod.uid]))
                continue
        scene = Scene(sandboxes.get(pod.uid), attempts.get(pod.uid, ()), observed, now)
        status = pod_status(pod, scene, working_sets)
        if pod.uid in admitted.refused and not status.started_wall:
            status = refused_status(pod, admitted.reasons.get(pod.uid, "OutOfmemory"), admitted.refused[pod.uid])
        told.append(status)
    told += [
        leaving_status(uid, sandboxes.get(uid), attempts.get(uid, ()))
        for uid in sorted((set(sandboxes) | set(attempts)) - wanted)
    ]
    return tuple(sorted(told, key=lambda s: (s.namespace, s.name, s.uid)))


def images(stored: Sequence[Image]) -> tuple[StoredImage, ...]:
    """What a hub is told of the images that are here, by name; with very many, the largest."""
    largest = sorted(stored, key=lambda i: (-i.size, i.reference))[:MAX_IMAGES]
    return tuple(StoredImage(i.reference, i.size) for i in sorted(largest, key=lambda i: i.reference))


def refused_status(pod: Pod, reason: str, message: str) -> PodStatus:
    return PodStatus(
        pod.uid,
        pod.namespace,
        pod.name,
        Phase.PENDING,
        reason=reason,
        message=message,
        initialized=not pod.init,
        qos=str(qos_of(pod)),
    )


def pod_status(pod: Pod, scene: Scene, working_sets: WorkingSets | None = None) -> PodStatus:
    """A pod that may be here."""
    sandbox, observed = scene.sandbox, scene.observed
    course = lifecycle.course(pod, scene.newest, observed.health)
    setback = observed.setbacks.get(pod.uid)
    evicted = sandbox.evicted if sandbox is not None else ""
    told = {c.name: container_status(pod, c, scene, course, bool(evicted)) for c in pod.all_containers}
    if working_sets is not None:
        for container in pod.all_containers:
            p95, peak = working_sets(pod, container)
            if p95 or peak:
                known = told[container.name]
                told[container.name] = replace(known, working_set_p95=p95, working_set_peak=peak)
    init, main = tuple(told[c.name] for c in pod.init), tuple(told[c.name] for c in pod.containers)
    waiting = next((c for c in (*init, *main) if c.state == "waiting" and c.message), None)
    started = [c.started_wall for c in scene.attempts if c.started_wall]
    if evicted and sandbox is not None:
        reason, message = evicted, sandbox.evicted_message
    elif setback is not None:
        reason, message = setback.reason, setback.message
    elif course.failed_init:
        reason, message = "", f"init container {course.failed_init} failed, and the restart policy is Never"
    else:
        reason, message = "", waiting.message if waiting is not None else ""
    return PodStatus(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        phase=pod_phase(main, bool(evicted or course.failed_init) and not scene.live),
        ready=pod_ready(pod, scene),
        ip=sandbox.ip if sandbox and sandbox.ready else "",
        reason=reason,
        message=message,
        started_wall=min(started, default=0.0),
        containers=main,
        init=init,
        initialized=course.initialized or any(c.name in scene.newest for c in pod.containers),
        qos=str(qos_of(pod)),
    )


def container_status(
    pod: Pod, container: Container, scene: Scene, course: lifecycle.Course, evicted: bool = False
) -> ContainerStatus:
    mine = [c for c in scene.attempts if c.name == container.name]
    newest = mine[-1] if mine else None
    previous = mine[-2] if len(mine) > 1 else None
    plain = ContainerStatus(container.name, container.image, "waiting")
    if newest is None:
        reason, message = waiting_for(pod, container, scene, course, CREATING)
        return replace(plain, reason=reason, message=message)
    if newest.phase not in ENDED:
        state = healths.of(container, newest, scene.observed.health.get(newest.id))
        running = newest.phase is ContainerPhase.RUNNING
        told = replace(
            plain,
            state="running" if running else "waiting",
            reason="" if running else CREATING,
            message=_running_message(container, newest, state.ready, state.reason, scene),
            ready=state.ready,
            started=state.started,
        )
        return with_history(told, newest, previous)
    decision = restart.decide(lifecycle.policy_of(pod, container), newest)
    if not decision.restart or course.over or evicted or container.name not in course.may_start:
        return with_history(terminated(plain, pod, container, newest), newest, previous)
    delay = decision.at - newest.finished_at
    if delay > 0:
        reason = "CrashLoopBackOff"
        message = f"{decision.reason}; next start after {delay:.0f} s" if decision.at > scene.now else ""
    else:
        failed_hook = newest.stop_reason.startswith(POST_START_FAILED)
        reason, message = ("PostStartHookError", newest.stop_reason) if failed_hook else (CREATING, "")
    reason, message = waiting_for(pod, container, scene, course, reason, message)
    return with_history(replace(plain, reason=reason, message=message), newest, newest)


def _running_message(container: Container, state: ContainerState, ready: bool, reason: str, scene: Scene) -> str:
    gone = devices.missing(container, scene.observed)
    if gone:
        return devices.not_found(gone)
    return "" if ready else reason


def terminated(plain: ContainerStatus, pod: Pod, container: Container, ended: ContainerState) -> ContainerStatus:
    through = not container.sidecar and container in pod.init and ended.exit_code == 0 and not ended.oom_killed
    return replace(
        plain,
        state="terminated",
        reason=end_reason(ended),
        message=ended.message,
        ready=through,  # as v1 ContainerStatus.ready of an init container
        exit_code=ended.exit_code,
        finished_wall=ended.finished_wall,
    )


def waiting_for(
    pod: Pod, container: Container, scene: Scene, course: lifecycle.Course, reason: str, message: str = ""
) -> tuple[str, str]:
    """(reason, message) of a container that should be started: what is in its way, else what was given."""
    observed = scene.observed
    if not pulls.is_here(pod, container, observed):
        why, said = pulls.waiting_for(pod, container, observed)
        if why:
            return why, said
    if pod.init and container.name not in course.may_start:
        return INITIALIZING, message
    setback = observed.setbacks.get(pod.uid)
    if setback is not None and setback.reason not in (REFRESH_FAILED, GIVE_FAILED) and reason == CREATING:
        return setback.reason, setback.message
    gone = devices.missing(container, observed)
    if gone:
        return devices.NOT_FOUND, devices.not_found(gone)
    return reason, message


def with_history(told: ContainerStatus, newest: ContainerState, previous: ContainerState | None) -> ContainerStatus:
    """Add ids, restarts and how the attempt before ended."""
    told = replace(
        told,
        restarts=newest.attempt,
        started_wall=newest.started_wall if told.state != "waiting" else 0.0,
        container_id=newest.id,
        image_id=newest.image_id,
    )
    if previous is None:
        return told
    return replace(
        told,
        last_reason=end_reason(previous),
        last_exit_code=previous.exit_code,
        last_started_wall=previous.started_wall,
        last_finished_wall=previous.finished_wall,
    )


def end_reason(ended: ContainerState) -> str:
    """Kubernetes' words for how a container ended."""
    if ended.oom_killed:
        return "OOMKilled"
    if ended.phase is ContainerPhase.UNKNOWN or ended.exit_code is None:
        return "ContainerStatusUnknown"
    if ended.stop_reason.startswith(POST_START_FAILED):
        return "PostStartHookError"
    return "Completed" if ended.exit_code == 0 else "Error"


def pod_phase(containers: Sequence[ContainerStatus], failed: bool) -> Phase:
    """:param containers: the main ones. :param failed: the pod was ended for good, or never came to its main ones."""
    if failed:
        return Phase.FAILED
    if all(c.state == "terminated" for c in containers):
        return Phase.SUCCEEDED if all(c.exit_code == 0 for c in containers) else Phase.FAILED
    begun = [c.state != "waiting" or c.restarts or c.last_reason for c in containers]  # once, if not now
    return Phase.RUNNING if all(begun) else Phase.PENDING


def leaving_status(uid: str, sandbox: SandboxState | None, attempts: Sequence[ContainerState]) -> PodStatus:
    """A pod that is being taken away; it is told until nothing is left of it."""
    namespace, _, name = (sandbox.pod if sandbox else uid).partition("/")
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
        for c in {c.name: c for c in attempts}.values()
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
