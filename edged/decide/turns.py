"""Pods that may not begin yet or not any more, and which must make way: those with a time, those that may have moved.

The hub hands out the pods of a CronJob's coming times ahead (Pod.start_at). The node begins each at its time, by its
own clock, hub or no hub; those of one CronJob (Pod.turn) look to each other, by its concurrencyPolicy. A board that
doesn't know the time begins none of them: a sprinkler at the wrong hour does more harm than one that is late.

After a boot, pods that the hub may have moved meanwhile wait for its first word, for as long as Observed.unheard says:
a board that was away for an hour would else run for some seconds what runs elsewhere by now.

Of several whose time has come before one could begin, only the newest begins, as Kubernetes makes up for one missed
time at most. What has begun is never looked at again here, whatever the clock does then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from edged.decide.attempts import ENDED, newest_of
from edged.decide.lifecycle import terminal
from edged.model import ContainerState, Desired, Observed, Pod, SandboxState, Turn, Value

MISSED = "MissedStart"
NOT_YET = "WaitingForTime"
BUSY = "WaitingForTurn"
REPLACED = "Replaced"
UNHEARD = "WaitingForHub"
MAY_HAVE_MOVED = "the hub may have moved it while this node was off; it starts when the hub has spoken, or soon without"


class Turns(Value, frozen=True):
    """:ivar held: uid of a pod that may not begin -> (reason, sentence).
    :ivar replaced: uid of a pod that has to end -> sentence.
    :ivar next_in: seconds until the time of the next one; infinity = there is none.
    """

    held: Mapping[str, tuple[str, str]] = {}
    replaced: Mapping[str, str] = {}
    next_in: float = float("inf")


def turns(desired: Desired, observed: Observed, attempts: Mapping[str, Sequence[ContainerState]]) -> Turns:
    """:param attempts: `by_pod` of the observed containers."""
    timed = [p for p in desired.pods if p.start_at is not None]
    movable = [p for p in desired.pods if not p.stays] if observed.unheard else []
    if not timed and not movable:
        return Turns()
    sandboxes = {s.pod_uid: s for s in observed.sandboxes}
    begun = {p.uid for p in desired.pods if p.uid in sandboxes or p.uid in attempts or p.uid in observed.ended}
    going = [p for p in timed if p.uid in begun and not _is_over(p, sandboxes, attempts, observed)]
    held = {p.uid: (UNHEARD, MAY_HAVE_MOVED) for p in movable if p.uid not in begun}
    replaced: dict[str, str] = {}
    next_in = float("inf")
    for pod in timed:
        if pod.uid in begun:
            continue
        wait = _wait(pod, timed, begun, observed.wall)
        if wait is not None:
            held[pod.uid] = wait
            if observed.wall is not None and observed.wall < _start(pod):
                next_in = min(next_in, _start(pod) - observed.wall)
            continue
        before = [other for other in going if other.turn and other.turn == pod.turn]
        if not before or pod.turn_policy is Turn.ALLOW:
            continue
        held[pod.uid] = BUSY, f"{before[0].title} is still there"
        if pod.turn_policy is Turn.REPLACE:
            replaced |= {other.uid: f"the time of {pod.title} has come, which replaces it" for other in before}
    return Turns(held, replaced, next_in)


def is_held(uid: str, found: Turns, present: Collection[str]) -> bool:
    return uid in found.held and uid not in present


def fetched(pods: Iterable[Pod], found: Turns) -> list[Pod]:
    """Those whose images should be here: also of pods that wait, for there may be no registry at their time."""
    return [p for p in pods if found.held.get(p.uid, ("", ""))[0] != MISSED]


def _wait(pod: Pod, timed: Sequence[Pod], begun: Collection[str], wall: float | None) -> tuple[str, str] | None:
    """Why it is not its time; None if it is."""
    if wall is None:
        return NOT_YET, f"starts at {_words(_start(pod))}, but this board doesn't know what time it is"
    if wall < _start(pod):
        return NOT_YET, f"starts at {_words(_start(pod))}"
    if pod.start_by is not None and wall > pod.start_by:
        return MISSED, f"it could not start before {_words(pod.start_by)}, its starting deadline"
    for other in timed:
        later = other.turn == pod.turn and _start(other) > _start(pod)
        if pod.turn and later and (other.uid in begun or wall >= _start(other)):
            return MISSED, f"it could not start before the time of {other.title} came"
    return None


def _is_over(
    pod: Pod,
    sandboxes: Mapping[str, SandboxState],
    attempts: Mapping[str, Sequence[ContainerState]],
    observed: Observed,
) -> bool:
    mine = attempts.get(pod.uid, ())
    if any(state.phase not in ENDED for state in mine):
        return False
    evicted = sandboxes[pod.uid].evicted if pod.uid in sandboxes else ""
    return pod.uid in observed.ended or terminal(pod, newest_of(mine), evicted)


def _start(pod: Pod) -> float:
    return pod.start_at or 0.0


def _words(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
