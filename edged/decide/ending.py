"""How containers are brought to their end: the decision, the preStop hook, the signal, and after the grace the kill.

A pod's containers end together, but its sidecars after the rest, the last one first, as they may be what the others
talk through. The pod's grace covers all of it; a sidecar whose turn comes late still gets SIDECAR_LEAST.
"""

from __future__ import annotations

from collections.abc import Mapping

from edged.decide.attempts import Found, Scene
from edged.decide.steps import HookKind, KillContainer, RunHook, StopContainer, hook_owner
from edged.model import ContainerPhase, ContainerState

HALF_MADE = "it was left half made"
SIDECAR_LEAST = 2.0  # seconds; kubelet's minimumGracePeriodInSeconds
KILL_AGAIN = 1.0  # seconds until a kill that didn't take is repeated


def end(state: ContainerState, grace: float, reason: str, scene: Scene) -> Found:
    """End a live container: ask, wait for the grace period, then kill."""
    now = scene.now
    if state.phase is ContainerPhase.STARTING:
        yield from kill(state, HALF_MADE, scene)
    elif not state.stop_requested_at:
        yield StopContainer(state, reason)
        yield now + grace
    elif now >= state.stop_requested_at + grace:
        yield from kill(state, f"it did not end within {round(grace, 1):g} s: {state.stop_reason or reason}", scene)
    else:
        deadline = state.stop_requested_at + grace
        yield deadline
        if state.pre_stop is not None and not state.signalled:
            yield from run_hook(RunHook(state, HookKind.PRE_STOP, state.pre_stop, scene.ip, deadline - now), scene)


def kill(state: ContainerState, reason: str, scene: Scene) -> Found:
    again = scene.observed.killed.get(state.id, -KILL_AGAIN) + KILL_AGAIN
    if again > scene.now:
        yield again
        return
    yield KillContainer(state, reason)
    yield scene.now + KILL_AGAIN


def run_hook(step: RunHook, scene: Scene) -> Found:
    """Once at a time, and not before its time where it failed."""
    owner = hook_owner(step.container.id)
    setback = scene.observed.setbacks.get(owner)
    if setback is not None and setback.retry_at > scene.now:
        yield setback.retry_at
    elif owner not in scene.observed.busy:
        yield step


def end_all(scene: Scene, ranks: Mapping[str, int], grace: float, reason: str) -> Found:
    """End all that lives in a pod, in its order.

    :param ranks: sidecar name -> its place among them, from 1.
    """
    ordinary = [c for c in scene.live if c.name not in ranks]
    for state in ordinary:
        yield from end(state, grace, reason, scene)
    if ordinary or not scene.live:
        return
    last = max(ranks[c.name] for c in scene.live)
    begun = [c.stop_requested_at for c in scene.attempts if c.stop_reason == reason]
    for state in scene.live:
        if ranks[state.name] == last:
            asked = state.stop_requested_at or scene.now
            left = min([*begun, asked]) + grace - asked
            yield from end(state, max(left, min(grace, SIDECAR_LEAST)), reason, scene)
