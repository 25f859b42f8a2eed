"""A rollout in waves: how many pods may have the new revision now, and when the next wave begins. Pure.

How far it is stands in an annotation of the new ReplicaSet, so that a hub that restarts goes on from there and
another template starts over. A wave is full once its pods are available (minReadySeconds included); it is held from
then on, and again from the beginning should one of them stop being available. The last wave, and any that takes
all pods, is not held: there is nothing after it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cloudlink.hub.controllers import judging
from cloudlink.hub.controllers.family import COMPONENT, Family
from cloudlink.hub.controllers.judging import Verdict
from cloudlink.hub.controllers.progress import Hold
from cloudlink.hub.decision import NEVER, Note
from cloudlink.hub.objects import rfc3339, seconds
from cloudlink.kube.annotations import CONFIRM, SUCCEEDED, WAVE
from cloudlink.kube.apps import Deployment, ReplicaSet
from cloudlink.kube.core import Pod
from cloudlink.kube.rollouts import pods_of

HELD, WAITING, STOPPED = "WaveHeld", "WaitingForConfirmation", "WaveStopped"  # reasons of the condition Progressing
LAPSES = 4  # times that pods of a wave may cease to be available; a canary that comes and goes is no good one
REMEMBERED = 200  # pods whose restarts before the wave are kept; hardly one has any


@dataclass(frozen=True, slots=True)
class State:
    """:ivar wave: from 1.
    :ivar full: second since which all its pods are available; 0 = they aren't.
    :ivar lapses: how many times that came to an end.
    :ivar restarts: of pods that had some when the wave began, by name.
    """

    revision: int
    wave: int
    full: float = 0.0
    lapses: int = 0
    restarts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Course:
    """:ivar cap: how many pods may have the new revision.
    :ivar marks: annotations for its ReplicaSet.
    :ivar verdict: of the wave's pods.
    """

    cap: int
    marks: dict[str, str] = field(default_factory=dict)
    hold: Hold | None = None
    verdict: Verdict = judging.SOUND
    notes: tuple[Note, ...] = ()
    wake_at: float = NEVER


def is_in_waves(family: Family) -> bool:
    """Not what was good last, be it that a person or that the hub went back to it: there is nothing to find out, and
    what it replaces may be doing harm. Nor where there is nothing else to run."""
    others = any(s.spec.replicas or s.metadata.annotations.get(SUCCEEDED) for s in family.old)
    known = family.is_proven or family.is_restored or family.was_good_last
    return bool(family.policy.waves) and others and not known


def course_of(family: Family) -> Course:
    """Where the rollout is, and whether it goes on. Of a paused Deployment only `cap` is of use."""
    replicas = family.deployment.spec.replicas
    if not is_in_waves(family):
        return Course(replicas)
    sizes = family.policy.sizes(replicas)
    revision = family.revision()
    pods = family.active(family.new) if family.new else []
    state = read_state(family.new) if family.new else None
    notes: tuple[Note, ...] = ()
    if state is None or state.revision != revision:
        state = _begun(revision, 1, pods)
        notes = (_started(family, sizes, state.wave),)
    state = replace(state, wave=min(max(state.wave, 1), len(sizes)))
    verdict = judging.judge_wave(pods, state.restarts, family.now)
    available = family.count(family.new).available if family.new else 0
    while (cap := sizes[state.wave - 1]) < replicas:
        if not available >= cap:
            state = replace(state, full=0.0, lapses=state.lapses + bool(state.full))
            break
        state = state if state.full else replace(state, full=float(math.ceil(family.now)))
        if not _is_over(family, state, verdict):
            break
        state = _begun(revision, _next(sizes, state.wave), pods)
        verdict = judging.SOUND
        notes = (*notes, _started(family, sizes, state.wave))
    if not verdict.cause and state.lapses >= LAPSES:
        verdict = Verdict("Unstable", f"pods of wave {state.wave} ceased to be available {state.lapses} times")
    hold, wake_at = _hold(family, sizes, state, verdict) if cap < replicas else (None, NEVER)
    if hold and not notes and hold.reason != _reason_of(family.deployment):
        notes = (Note(family.deployment, "Normal", hold.reason, hold.message, COMPONENT),)
    wake_at = min(wake_at, verdict.wake_at)
    return Course(cap, {WAVE: _written(state)}, hold, verdict, notes, wake_at)


def _begun(revision: int, wave: int, pods: Sequence[Pod]) -> State:
    restarts = sorted(((judging.restarts_of(p), p.metadata.name) for p in pods), reverse=True)[:REMEMBERED]
    return State(revision, wave, restarts={name: n for n, name in restarts if n})


def _is_over(family: Family, state: State, verdict: Verdict) -> bool:
    if family.deployment.spec.paused:
        return False
    if family.policy.confirms(state.revision, state.wave):
        return True  # a person's word counts more than what we think of the pods
    if verdict.cause or family.policy.hold is None:
        return False
    return family.now >= state.full + family.policy.hold


def _next(sizes: Sequence[int], wave: int) -> int:
    """The next one that is larger: of three pods 1 and 10 % are the same."""
    return next((i + 1 for i in range(wave, len(sizes)) if sizes[i] > sizes[wave - 1]), len(sizes))


# ---------------------------------------------------------------- sentences


def _hold(family: Family, sizes: Sequence[int], state: State, verdict: Verdict) -> tuple[Hold | None, float]:
    """What the condition says while a wave has all that it may have."""
    deployment = family.deployment
    there = len(family.active(family.new)) if family.new else 0
    how_far = f"wave {state.wave} of {len(sizes)}: {there} of {deployment.spec.replicas} updated"
    by_hand = (
        f"edgectl confirm -n {deployment.metadata.namespace} deployment/{deployment.metadata.name}"
        f" (or kubectl annotate --overwrite with {CONFIRM}={state.revision}/{state.wave})"
    )
    if verdict.cause:
        text = f"{how_far}, stopped: {verdict.cause}; go back with kubectl rollout undo, or go on with {by_hand}"
        return Hold(STOPPED, text, stopped=True), NEVER
    if not state.full:
        return None, NEVER
    if family.policy.hold is None:
        return Hold(WAITING, f"{how_far}, holding for confirmation: {by_hand}"), NEVER
    until = state.full + family.policy.hold
    return Hold(HELD, f"{how_far}, holding until {rfc3339(until)}"), until


def _started(family: Family, sizes: Sequence[int], wave: int) -> Note:
    deployment, size = family.deployment, sizes[wave - 1]
    asked, replicas = pods_of(family.policy.waves[wave - 1], deployment.spec.replicas), deployment.spec.replicas
    which = f"all {replicas} pods" if size >= replicas else f"{size} of {replicas} pods"
    more = f" ({asked} asked for, there are {replicas})" if asked > replicas else ""
    text = f"wave {wave} of {len(sizes)} of revision {family.revision()}: {which}{more}"
    return Note(deployment, "Normal", "WaveStarted", text, COMPONENT)


def _reason_of(deployment: Deployment) -> str:
    return next((c.reason for c in deployment.status.conditions if c.type == "Progressing"), "")


# ---------------------------------------------------------------- the annotation


def read_state(rs: ReplicaSet) -> State | None:
    """None where there is none, or one that nobody here has written."""
    try:
        told = json.loads(rs.metadata.annotations.get(WAVE, ""))
        restarts = {str(name): int(n) for name, n in told.get("restarts", {}).items()}
        full, lapses = seconds(str(told.get("full", ""))), int(told.get("lapses", 0))
        return State(int(told["revision"]), int(told["wave"]), full, lapses, restarts)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _written(state: State) -> str:
    told: dict[str, object] = {"revision": state.revision, "wave": state.wave}
    if state.full:
        told["full"] = rfc3339(state.full)
    if state.lapses:
        told["lapses"] = state.lapses
    if state.restarts:
        told["restarts"] = state.restarts
    return json.dumps(told, separators=(",", ":"))
