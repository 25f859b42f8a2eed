"""Whether the pods of a new revision fail: not for one slow start, but where trying the same again won't help. Pure.

Bounds, so that no accident undoes a rollout: an image counts as missing after two pulls and half a minute, a container
as crashing after its fourth restart in a row, a revision as failed when that is so for half of its pods. What is
only slow is left to progressDeadlineSeconds. A wave is judged more strictly: it exists to find out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloudlink.hub.decision import NEVER
from cloudlink.hub.objects import find_condition, is_ready, seconds
from cloudlink.kube.core import Pod
from cloudlink.kube.pod import ContainerStatus

CRASHES = 4  # restarts in a row: with edged's back-off of 0, 2, 4, 8 s about a quarter of a minute
CRASHES_IN_WAVE = 2
CRASH_LOOP, OOM = "CrashLoopBackOff", "OOMKilled"
# Waiting reason -> seconds since the pod came to its node until it counts.
PATIENCE: Mapping[str, float] = {
    "InvalidImageName": 0.0,
    "ErrImageNeverPull": 30.0,
    "ImagePullBackOff": 30.0,
    "CreateContainerConfigError": 60.0,
    "CreateContainerError": 60.0,
    "RunContainerError": 60.0,
}
MESSAGE_MAX = 300  # characters of one pod's trouble in a sentence


@dataclass(frozen=True, slots=True)
class Trouble:
    """:ivar at: second from which on it counts."""

    reason: str
    message: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """:ivar cause: why the revision fails, for people; "" = it doesn't.
    :ivar wake_at: when it might, without anything else happening.
    """

    reason: str = ""
    cause: str = ""
    wake_at: float = NEVER


SOUND = Verdict()


def judge(pods: Sequence[Pod], now: float) -> Verdict:
    """:param pods: the active ones of the new revision."""
    troubles = [t for p in pods if (t := trouble_of(p)) is not None]
    failing = [t for t in troubles if t.at <= now]
    if failing and 2 * len(failing) >= len(pods):
        return _verdict(failing, len(pods))
    return Verdict(wake_at=min((t.at for t in troubles if t.at > now), default=NEVER))


def judge_wave(pods: Sequence[Pod], before: Mapping[str, int], now: float) -> Verdict:
    """One failing pod is enough, and so is one OOM kill, or a second restart, since the wave began.

    :param before: restarts that pods had then, by name.
    """
    troubles = [t for p in pods if (t := _in_wave(p, before.get(p.metadata.name, 0)) or trouble_of(p)) is not None]
    failing = [t for t in troubles if t.at <= now]
    if failing:
        return _verdict(failing, len(pods))
    return Verdict(wake_at=min((t.at for t in troubles), default=NEVER))


def standstill(pods: Sequence[Pod], wanted: int, limit: float, failure: str = "") -> Verdict:
    """A revision without progress within its deadline of `limit` seconds: what keeps it, as far as that is known.

    :param failure: why its pods can't be made.
    """
    cause = f"no progress within {limit:.0f} s"
    stuck = [_obstacle(p) for p in pods if not is_ready(p)]
    if stuck:
        reason, message = _commonest(stuck)
        cause += f"; {sum(t.reason == reason for t in stuck)} of {len(pods)} new pods {reason}{message}"
    elif len(pods) < wanted:
        cause += f"; {len(pods)} of {wanted} new pods exist"
        cause += f": {failure[:MESSAGE_MAX]}" if failure else ""
    return Verdict("ProgressDeadlineExceeded", cause)


def trouble_of(pod: Pod) -> Trouble | None:
    """What keeps this pod from ever running, or from running for long."""
    begun = seconds(pod.status.start_time) or seconds(pod.metadata.creation_timestamp)
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        waiting = status.state.waiting
        if waiting is None:
            continue
        if waiting.reason == CRASH_LOOP and status.restart_count >= CRASHES:
            return _crashing(status, waiting.message)
        if waiting.reason in PATIENCE:
            return Trouble(waiting.reason, waiting.message, begun + PATIENCE[waiting.reason])
    return None


def restarts_of(pod: Pod) -> int:
    return sum(c.restart_count for c in (*pod.status.init_container_statuses, *pod.status.container_statuses))


def _in_wave(pod: Pod, before: int) -> Trouble | None:
    more = restarts_of(pod) - before
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        now, last = status.state.terminated, status.last_state.terminated
        if (now and now.reason == OOM) or (more > 0 and last and last.reason == OOM):
            return Trouble(OOM, f"container {status.name} needed more than its memory limit")
    if more >= CRASHES_IN_WAVE:
        return Trouble("Restarted", f"pod {pod.metadata.name} was restarted {more} times since the wave began")
    return None


def _crashing(status: ContainerStatus, message: str) -> Trouble:
    last = status.last_state.terminated
    if last is not None and last.reason == OOM:
        return Trouble(OOM, f"container {status.name} was killed at its memory limit again and again")
    how = f"container {status.name} ended with exit code {last.exit_code}" if last is not None else message
    return Trouble(CRASH_LOOP, f"{how}, restarted {status.restart_count} times")


def _obstacle(pod: Pod) -> Trouble:
    """Why a pod isn't ready, be it for ever or not."""
    placed = find_condition(pod.status.conditions, "PodScheduled")
    if not pod.spec.node_name:
        return Trouble("have no node", placed.message if placed else "")
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if status.state.waiting is not None and status.state.waiting.reason:
            return Trouble(status.state.waiting.reason, status.state.waiting.message)
    ready = find_condition(pod.status.conditions, "Ready")
    return Trouble("are not ready", ready.message if ready else "")


def _verdict(failing: Sequence[Trouble], total: int) -> Verdict:
    reason, message = _commonest(failing)
    count = sum(t.reason == reason for t in failing)
    return Verdict(reason, f"{count} of {total} new pods {reason}{message}")


def _commonest(troubles: Sequence[Trouble]) -> tuple[str, str]:
    """The reason that most have, and the first message with it, ready to be put behind it."""
    reason = Counter(t.reason for t in troubles).most_common(1)[0][0]
    message = next((t.message for t in troubles if t.reason == reason and t.message), "")[:MESSAGE_MAX]
    return reason, f": {message}" if message else ""
