"""What one pod needs now: (pod, how it is on the machine) -> steps. A wanted one is brought nearer to running as it
should, one that is over or not wanted nearer to its end."""

from __future__ import annotations

from collections.abc import Sequence

from edged.decide import devices, ending, health, lifecycle, pulls, restart
from edged.decide.attempts import ENDED, Found, Scene
from edged.decide.ending import HALF_MADE, end, end_all
from edged.decide.steps import (
    EndPod,
    HookKind,
    PrepareSandbox,
    RefreshVolumes,
    RemoveContainer,
    RemoveSandbox,
    RunHook,
    StartContainer,
)
from edged.decide.turns import REPLACED
from edged.model import (
    Container,
    ContainerPhase,
    ContainerState,
    Pod,
    SleepAction,
    container_identity,
)

GONE = "its pod is not wanted here any more"
CHANGED = "its spec has changed"
LOST_NETWORK = "the pod's network namespace is gone"
DONE = "the rest of its pod is over"
DEADLINE_EXCEEDED = "DeadlineExceeded"
EVICTION_GRACE = 5.0  # seconds at most: time to close files, where the node has none to lose
POST_START_LIMIT = 3600.0  # seconds; Kubernetes sets none, but then a hook that hangs keeps its pod down for ever
REFRESH_FAILED, GIVE_FAILED = "FailedMount", "FailedGiveDevices"  # setbacks that don't keep a container from starting


def wind_down(uid: str, scene: Scene, grace: float | None = None) -> Found:
    """Take a pod away that is not wanted: end its containers, then remove all that is left of it.

    :param grace: seconds that somebody gave it instead of its own; see Desired.leaving.
    """
    sandbox = scene.sandbox
    ranks = {c.name: c.sidecar for c in scene.attempts if c.sidecar}
    own = sandbox.termination_grace if sandbox else 0.0
    yield from end_all(scene, ranks, own if grace is None else grace, GONE)
    if scene.live:
        return
    for state in scene.attempts:
        yield RemoveContainer(state, GONE)
    yield RemoveSandbox(uid, sandbox.pod if sandbox else uid, GONE)


def keep(pod: Pod, scene: Scene, course: lifecycle.Course, digest: str, replaced: str = "") -> Found:
    """Bring a wanted pod nearer to running as it should.

    :param digest: of what its files should show, see decide.material.
    :param replaced: why it has to make way for another one; "" = it hasn't.
    """
    sandbox, ranks = scene.sandbox, pod.sidecars
    if sandbox is not None and sandbox.evicted:
        grace = pod.termination_grace
        if sandbox.evicted not in (DEADLINE_EXCEEDED, REPLACED):
            grace = min(grace, EVICTION_GRACE)
        yield from end_all(scene, ranks, grace, sandbox.evicted_message or sandbox.evicted)
        return
    if sandbox is not None and not sandbox.ready and scene.live:
        for state in scene.live:
            yield from end(state, 0.0, LOST_NETWORK, scene)
        return
    if course.over:
        yield from end_all(scene, ranks, pod.termination_grace, DONE)
        yield from _tidy(pod, scene)
        return
    if replaced and sandbox is not None:
        yield EndPod(pod.uid, pod.title, REPLACED, replaced)
        return
    if pod.active_deadline is not None and sandbox is not None and sandbox.created_at:
        due = sandbox.created_at + pod.active_deadline
        if scene.now >= due:
            said = f"it was active for longer than its deadline of {pod.active_deadline:g} s"
            yield EndPod(pod.uid, pod.title, DEADLINE_EXCEEDED, said)
            return
        yield due
    yield from _run(pod, scene, course, digest)


def _run(pod: Pod, scene: Scene, course: lifecycle.Course, digest: str) -> Found:
    """A pod that is neither over nor to be ended."""
    sandbox = scene.sandbox
    setback = scene.observed.setbacks.get(pod.uid)
    held = setback is not None and setback.retry_at > scene.now
    slight = setback is not None and setback.reason in (REFRESH_FAILED, GIVE_FAILED)
    may_start = sandbox is not None and sandbox.ready
    refresh = None
    if setback is not None and held:
        yield setback.retry_at
    elif not may_start:
        yield from _prepare(pod, scene)
        may_start = not any(c.name in scene.newest for c in pod.init)  # those begin anew, in the next plan
    elif sandbox is not None and sandbox.material != digest:
        refresh = RefreshVolumes(pod, "its configs, secrets or labels have changed")
    if refresh is not None and not slight:
        yield refresh
    yield from _tidy(pod, scene)
    for container in pod.all_containers:
        mine = [c for c in scene.attempts if c.name == container.name]
        turn = container.name in course.may_start and may_start and (slight or not held)
        yield from _keep_container(pod, container, mine, turn, scene, course)
    if refresh is not None and slight:  # it failed before: the old files must do, and nothing waits for it
        yield refresh
    if not held:
        for container in pod.all_containers:
            state = scene.newest.get(container.name)
            if state is not None and not state.stop_requested_at:
                yield from devices.give(container, state, scene.observed)


def _prepare(pod: Pod, scene: Scene) -> Found:
    """A sandbox made again is a new start: what its init containers did to the old network is done anew."""
    if scene.sandbox is not None:
        names = {c.name for c in pod.init}
        for state in scene.attempts:
            if state.name in names and state.phase in ENDED:
                yield RemoveContainer(state, LOST_NETWORK)
    yield PrepareSandbox(pod, "it is wanted here" if scene.sandbox is None else LOST_NETWORK)


def _tidy(pod: Pod, scene: Scene) -> Found:
    """Take away what the pod doesn't have any more, and what nobody will ask about: the newest attempt and the one
    before it stay, for "why did it restart" and `logs --previous`."""
    known = {c.name for c in pod.all_containers}
    seen: dict[str, int] = {}
    for state in reversed(scene.attempts):
        seen[state.name] = seen.get(state.name, 0) + 1
        ended = state.phase in ENDED
        if state.name not in known:
            if ended:
                yield RemoveContainer(state, CHANGED)
            else:
                yield from end(state, pod.termination_grace, CHANGED, scene)
        elif seen[state.name] > 2 and ended:
            yield RemoveContainer(state, "it is older than the previous attempt")
        elif seen[state.name] > 1 and not ended:
            yield from end(state, 0.0, "a newer attempt exists", scene)


def _keep_container(
    pod: Pod,
    container: Container,
    attempts: Sequence[ContainerState],
    turn: bool,
    scene: Scene,
    course: lifecycle.Course,
) -> Found:
    """One container of a pod that runs: start, restart, end.

    :param attempts: of this container, oldest first. :param turn: it may be started now.
    """
    newest = attempts[-1] if attempts else None
    older_lives = any(c.phase not in ENDED for c in attempts[:-1])
    can_start = (
        turn
        and not older_lives
        and pulls.is_here(pod, container, scene.observed)
        and not devices.missing(container, scene.observed)
    )
    if newest is None:
        if can_start:
            yield StartContainer(pod, container, 0, 0, "it is wanted here")
        return
    if newest.phase not in ENDED:
        yield from _keep_live(pod, container, newest, scene)
        return
    if not can_start:
        return
    if newest.identity != container_identity(pod, container):
        yield StartContainer(pod, container, newest.attempt + 1, 0, CHANGED)
        return
    decision = restart.decide(lifecycle.policy_of(pod, container), newest)
    if not decision.restart:
        return
    if decision.at > scene.now:
        yield decision.at
        return
    yield StartContainer(pod, container, newest.attempt + 1, decision.crashes, decision.reason)


def _keep_live(pod: Pod, container: Container, state: ContainerState, scene: Scene) -> Found:
    known = scene.observed.health.get(state.id)
    grace = pod.termination_grace
    if state.phase is ContainerPhase.STARTING:
        yield from end(state, 0.0, HALF_MADE, scene)
    elif state.stop_requested_at:
        yield from end(state, health.grace_of(container, state.stop_reason, grace), state.stop_reason, scene)
    elif state.identity != container_identity(pod, container):
        yield from end(state, grace, CHANGED, scene)
    elif known is not None and not known.live:
        yield from end(state, health.grace_of(container, known.reason, grace), known.reason, scene)
    elif not state.post_started:
        hook = container.post_start or SleepAction(0.0)  # the document wants none any more
        yield from ending.run_hook(RunHook(state, HookKind.POST_START, hook, scene.ip, POST_START_LIMIT), scene)
