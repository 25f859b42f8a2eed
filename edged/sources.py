"""What else may have steps for the node, beside the desired document: memory pressure, image collection, learning.

A source is a collaborator of the daemon with a decision of its own. The loop asks every source in every cycle, after
the plan for the document, and carries its steps out like any others:

- a step whose owner is busy, or waits after a failed clean-up, is left out of that cycle; so a source decides afresh
  each time from what is observed, never "once";
- steps of one owner are done in order, after those that the document asks for in the same cycle;
- whatever became of a step comes back through `remember`; failures are also a Setback of the step's owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from edged.apply import Outcome
from edged.decide.steps import Plan
from edged.model import Container, Desired, NodeCondition, Observed, Pod

WorkingSets = Callable[[Pod, Container], tuple[int, int]]
"""(pod, container) -> bytes that it stays below 95 % of the time, and at most; 0 where not known yet. Coarsely rounded:
each new number is a new status on the wire."""


def unknown_working_sets(pod: Pod, container: Container) -> tuple[int, int]:
    """Nobody has learned anything."""
    return 0, 0


class StepSource(Protocol):
    """Implemented by whoever plugs into the daemon's loop. Only `run` may take time."""

    def steps(self, desired: Desired | None, observed: Observed, now: float) -> Plan:
        """What this source wants done now (`now` in CLOCK_BOOTTIME seconds). Called in every cycle, so it must cost
        next to nothing while there is nothing to do; `wake_at` asks for another cycle without any event.

        :param desired: None while nothing was ever accepted.
        """

    @property
    def conditions(self) -> Sequence[NodeCondition]:
        """Those that hold now; a new or ended one becomes an event and a new status. Call `wake` when they change."""

    @property
    def degraded(self) -> Sequence[str]:
        """Sentences for what this machine can't do fully, for the node's status."""

    def remember(self, outcome: Outcome) -> None:
        """What became of one of its steps, in the order in which they ended. Also called for steps of others."""

    async def run(self, wake: Callable[[], None]) -> None:
        """Wait for the kernel's word (PSI, memory.events, a timer) and call `wake` for a cycle. Runs as long as the
        daemon does and is cancelled at its end; returning early means that there is nothing to wait for."""
