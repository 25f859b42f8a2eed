"""What the deciders share: the attempts at one pod's containers, and the moment at which they are looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from edged.decide.steps import Step
from edged.model import ContainerPhase, ContainerState, Observed, SandboxState

NEVER = float("inf")
ENDED = (ContainerPhase.EXITED, ContainerPhase.UNKNOWN)
Found = Iterator[Step | float]  # steps to take now, and times (CLOCK_BOOTTIME seconds) at which to look again


def by_pod(containers: Sequence[ContainerState]) -> dict[str, list[ContainerState]]:
    """Pod uid -> its attempts, oldest first."""
    groups: dict[str, list[ContainerState]] = defaultdict(list)
    for state in sorted(containers, key=lambda c: c.attempt):
        groups[state.pod_uid].append(state)
    return groups


def newest_of(attempts: Sequence[ContainerState]) -> dict[str, ContainerState]:
    """Container name -> its newest attempt, of attempts that are sorted oldest first."""
    return {c.name: c for c in attempts}


class Scene:
    """One pod on the machine at one moment. Made for one plan and thrown away."""

    __slots__ = ("attempts", "live", "newest", "now", "observed", "sandbox")

    def __init__(
        self, sandbox: SandboxState | None, attempts: Sequence[ContainerState], observed: Observed, now: float
    ) -> None:
        self.sandbox = sandbox
        self.attempts = attempts
        self.newest: Mapping[str, ContainerState] = newest_of(attempts)
        self.live = [c for c in attempts if c.phase not in ENDED]
        self.observed = observed
        self.now = now

    @property
    def ip(self) -> str:
        return self.sandbox.ip if self.sandbox is not None else ""
