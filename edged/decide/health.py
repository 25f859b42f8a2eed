"""Folds probe results into one Health per container; says which probes are due in which state.

Kubernetes' rules: while a startup probe has not succeeded, the others wait; liveness and startup failures end
the container, readiness failures only take it out of Services.
"""

from __future__ import annotations

import enum

import msgspec

from edged.model import Container, ContainerPhase, ContainerState, Health, Probe


class ProbeKind(enum.StrEnum):
    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


def initial(container: Container) -> Health:
    """What is believed of a container that has just been started."""
    started = container.startup is None
    return Health(started=started, ready=started and container.readiness is None)


def of(container: Container, state: ContainerState | None, health: Health | None) -> Health:
    """The health of a container now; one that does not run, or whose postStart hook isn't done, is neither started nor
    ready, and one that is asked to end isn't ready any more."""
    if state is None or state.phase is not ContainerPhase.RUNNING or not state.post_started:
        return Health(started=False, ready=False)
    known = health or initial(container)
    return msgspec.structs.replace(known, ready=False) if state.stop_requested_at else known


def failure(kind: ProbeKind) -> str:
    """How every reason of this kind of probe begins: a container's `stop_reason` outlives the health it came from."""
    return f"{kind} probe failed"


def grace_of(container: Container, reason: str, otherwise: float) -> float:
    """Seconds that a container gets to end, which is ended for `reason`: the probe's own, if one condemned it."""
    for kind, probe in ((ProbeKind.STARTUP, container.startup), (ProbeKind.LIVENESS, container.liveness)):
        if probe is not None and probe.termination_grace is not None and reason.startswith(failure(kind)):
            return probe.termination_grace
    return otherwise


def probes_of(container: Container) -> tuple[tuple[ProbeKind, Probe], ...]:
    pairs = (
        (ProbeKind.STARTUP, container.startup),
        (ProbeKind.LIVENESS, container.liveness),
        (ProbeKind.READINESS, container.readiness),
    )
    return tuple((kind, probe) for kind, probe in pairs if probe is not None)


def wanted(kind: ProbeKind, health: Health) -> bool:
    """Is this probe to be asked in this state?"""
    return (not health.started) if kind is ProbeKind.STARTUP else health.started


def run_length(previous: int, success: bool) -> int:
    """Consecutive results: positive counts successes, negative counts failures. Bounded, so that equal health
    compares equal once a threshold is long passed."""
    if success:
        return min(max(previous, 0) + 1, 1000)
    return max(min(previous, 0) - 1, -1000)


def fold(health: Health, kind: ProbeKind, probe: Probe, success: bool, message: str, container: Container) -> Health:
    """The new health after one result."""
    if kind is ProbeKind.STARTUP:
        run = run_length(health.startup_run, success)
        if run >= probe.success_threshold:
            return msgspec.structs.replace(
                health, startup_run=run, started=True, ready=container.readiness is None, reason=""
            )
        dead = -run >= probe.failure_threshold
        reason = f"{failure(kind)}: {message}" if not success else health.reason
        return msgspec.structs.replace(health, startup_run=run, live=health.live and not dead, reason=reason)
    if kind is ProbeKind.LIVENESS:
        run = run_length(health.liveness_run, success)
        dead = -run >= probe.failure_threshold
        reason = f"{failure(kind)}: {message}" if not success else ""
        return msgspec.structs.replace(health, liveness_run=run, live=health.live and not dead, reason=reason)
    run = run_length(health.readiness_run, success)
    ready = health.ready
    if run >= probe.success_threshold:
        ready = True
    elif -run >= probe.failure_threshold:
        ready = False
    # The first no of a container that was never ready is how every start looks, and no news.
    told = not success and (health.ready or run < -1)
    reason = f"{failure(kind)}: {message}" if told else ""
    return msgspec.structs.replace(health, readiness_run=run, ready=ready, reason=reason)


def same_story(a: Health, b: Health) -> bool:
    """Do both mean the same to the planner and to people? Counters alone don't wake anybody."""
    return (a.started, a.ready, a.live, a.reason) == (b.started, b.ready, b.live, b.reason)
