"""Whether and when an ended container is started again: (policy, its end, jitter) -> Decision.

The first restart comes at once, because most single ends are accidents (a kill, a short OOM) and a greenhouse
should not wait ten seconds for them; repeated ends are slowed down to the same five minutes as in Kubernetes.
An attempt that lasted RESET_AFTER clears the count, so a container that crashes daily is not punished for it.
"""

from __future__ import annotations

import zlib

from edged.model import ContainerPhase, ContainerState, RestartPolicy, Value

FIRST_DELAY = 2.0  # seconds before the second restart in a row; then doubled
MAX_DELAY = 300.0  # Kubernetes' own cap
RESET_AFTER = 600.0  # seconds of running after which earlier crashes are forgotten
JITTER = 0.1  # up to this share is added, so that replicas of one fault don't restart in step


class Decision(Value, frozen=True):
    """:ivar at: CLOCK_BOOTTIME second at which to start; infinity = never.
    :ivar crashes: what the next attempt's `crashes` should say.
    """

    restart: bool
    at: float
    crashes: int
    reason: str


def jitter(container_id: str) -> float:
    """A number in [0, 1) that depends on the container's id alone: dice that replay."""
    return zlib.crc32(container_id.encode()) / 2**32


def delay(crashes: int, dice: float) -> float:
    """Seconds to wait after the `crashes`-th end in a row (0 = the first)."""
    if crashes <= 0:
        return 0.0
    base: float = min(FIRST_DELAY * 2 ** min(crashes - 1, 16), MAX_DELAY)
    return min(base * (1 + JITTER * dice), MAX_DELAY)


def describe_end(ended: ContainerState) -> str:
    """How an attempt ended, in words."""
    if ended.oom_killed:
        return "it was OOM-killed at its memory limit"
    if ended.phase is ContainerPhase.UNKNOWN or ended.exit_code is None:
        return "it is gone and nobody saw how it ended"
    if ended.stop_reason:
        return f"it was stopped: {ended.stop_reason}"
    if ended.exit_code > 128:
        return f"it was killed by signal {ended.exit_code - 128}"
    return f"it ended with exit code {ended.exit_code}"


def decide(policy: RestartPolicy, ended: ContainerState) -> Decision:
    """Decide about the newest attempt, which has ended."""
    failed = ended.exit_code != 0 or ended.oom_killed
    if policy is RestartPolicy.NEVER or (policy is RestartPolicy.ON_FAILURE and not failed):
        return Decision(False, float("inf"), ended.crashes, f"{describe_end(ended)}; restart policy is {policy}")
    lasted = ended.finished_at - ended.started_at
    before = 0 if lasted >= RESET_AFTER else ended.crashes
    wait = delay(before, jitter(ended.id))
    return Decision(True, ended.finished_at + wait, before + 1, describe_end(ended))
