"""Carries plans out: one task per owner of steps, and what became of it, as the next plan wants to know it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from edged.apply import Executor, Images, Outcome, reason_of
from edged.decide import happenings, pulls
from edged.decide.attempts import NEVER
from edged.decide.happenings import Happening
from edged.decide.steps import (
    CLAIMS,
    IMAGES,
    SERVICES,
    GiveDevices,
    KillContainer,
    PrepareSandbox,
    PullImage,
    RefreshVolumes,
    RemoveClaim,
    ResizeClaim,
    RunHook,
    StartContainer,
    Step,
    SyncServices,
)
from edged.model import Desired, HostPort, Observed, ServiceRules, Setback
from edged.sources import StepSource

log = logging.getLogger("edged")

PARALLEL_PODS = 8  # pods worked on at once; more only makes each of them slower on a small board
FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds between tries of a failing step
LETTING_GO = 5.0  # seconds that steps under way get to finish when the daemon is asked to stop
TOLD_STEPS = 12  # of a plan are written to the log


class Deeds:
    """What the daemon knows of its own doing. All of it can be lost at any moment without harm.

    :ivar busy: owners with steps under way.
    :ivar services, host_ports: the rules in force; None while nobody knows (a daemon before us may have left some).
    :ivar asked: as Observed.asked.
    :ivar killed: as Observed.killed.
    :ivar claim_sizes: as Observed.claim_sizes.
    :param told: takes events.
    """

    def __init__(
        self,
        executor: Executor,
        images: Images,
        sources: Sequence[StepSource],
        told: Callable[[Iterable[Happening]], None],
        wake: Callable[[], None],
        boottime: Callable[[], float],
    ) -> None:
        self._executor = executor
        self._images = images
        self._sources = sources
        self._told = told
        self._wake = wake
        self._boottime = boottime
        self._slots = asyncio.Semaphore(PARALLEL_PODS)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.busy: set[str] = set()
        self.setbacks: dict[str, Setback] = {}
        self.services: tuple[ServiceRules, ...] | None = None
        self.host_ports: tuple[HostPort, ...] | None = None
        self.asked: set[str] = set()
        self.killed: dict[str, float] = {}
        self.claim_sizes: dict[str, int] = {}

    def begin(self, steps: Sequence[Step], tasks: asyncio.TaskGroup, generation: int) -> None:
        """Start on all of them; owners side by side, the steps of one owner in order."""
        news = [s for s in steps if not (isinstance(s, KillContainer) and s.container.id in self.killed)]
        if news:
            said = "; ".join(s.describe() for s in news[:TOLD_STEPS])
            more = f"; and {len(news) - TOLD_STEPS} more" if len(news) > TOLD_STEPS else ""
            log.info("generation %d: %s%s", generation, said, more)
        groups: dict[str, list[Step]] = {}
        for step in steps:
            groups.setdefault(step.owner, []).append(step)
        for owner, mine in groups.items():
            self.busy.add(owner)
            self._tasks[owner] = tasks.create_task(self._carry_out(owner, mine), name=f"steps of {owner or 'the node'}")

    async def _carry_out(self, owner: str, steps: list[Step]) -> None:
        """In order, up to the first that fails; the next cycle sees what became of them."""
        try:
            if " " in owner or owner in (SERVICES, IMAGES, CLAIMS):
                await self._do(owner, steps)  # pulls and hooks take long, and pressure can't wait for a pod's turn
            else:
                async with self._slots:
                    await self._do(owner, steps)
        except Exception:  # a bug in a step must not take the other pods' daemon down
            log.exception("bug while working on %s", owner or "services")
            self.set_back(owner, "InternalError", "a bug in edged; its log has the details", FIRST_RETRY)
        finally:
            self.busy.discard(owner)
            self._tasks.pop(owner, None)
            self._wake()

    async def _do(self, owner: str, steps: list[Step]) -> None:
        for step in steps:
            self._told(happenings.begun(step, self.setbacks.get(owner)))
            outcome = await self._executor.execute(step)
            self._remember(owner, outcome)
            for source in self._sources:
                source.remember(outcome)
            if outcome.error:
                break

    async def let_go(self) -> None:
        """The daemon is asked to stop: pulls and hooks are left (both go on from where they are, with the next daemon),
        the rest gets LETTING_GO seconds to finish."""
        for owner, task in tuple(self._tasks.items()):
            if owner.startswith(("image ", "hook ")):
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=LETTING_GO)
        for task in tuple(self._tasks.values()):
            task.cancel()

    # ------------------------------------------------------------ memory

    def _remember(self, owner: str, outcome: Outcome) -> None:
        step = outcome.step
        if isinstance(step, KillContainer):
            self.killed[step.container.id] = self._boottime()
        if outcome.error:
            self._remember_failure(owner, outcome)
            return
        self._told(happenings.done(step))
        if isinstance(step, SyncServices):
            self.services, self.host_ports = step.services, step.host_ports
        elif isinstance(step, PullImage):
            self._asked(step)
        elif isinstance(step, ResizeClaim):
            self.claim_sizes[step.claim.uid] = step.claim.size
        elif isinstance(step, RemoveClaim):
            self.claim_sizes.pop(step.uid, None)
        if not isinstance(step, PrepareSandbox):  # a sandbox alone doesn't prove that the start works
            self.setbacks.pop(owner, None)

    def _remember_failure(self, owner: str, outcome: Outcome) -> None:
        step, error = outcome.step, outcome.error
        before = self.setbacks.get(owner)
        if isinstance(step, PullImage):
            here = self._images.resolve(step.reference) is not None
            self._told(happenings.failed_pull(step, error, here, before))
            if here:  # a node needs nobody's permission to go on with what it has
                log.warning("%s: %s; the one that is here is used", step.describe(), error)
                self._asked(step)
                self.setbacks.pop(owner, None)
                return
        if before is None or before.message != error:
            log.warning("%s: %s", step.describe(), error)
        if isinstance(step, PullImage):
            count = before.count + 1 if before else 1
            retry_at = self._boottime() + pulls.backoff(step.reference, count, outcome.retry_after)
            self.setbacks[owner] = Setback(outcome.reason or reason_of(step), error, count, retry_at)
            return
        after = outcome.retry_after
        if isinstance(step, ResizeClaim) and after == NEVER:  # it is told, and the other claims' turn comes
            self.claim_sizes[step.claim.uid] = step.claim.size
            after = FIRST_RETRY
        clearing = not isinstance(step, PrepareSandbox | StartContainer | RefreshVolumes | GiveDevices | RunHook)
        self.set_back(owner, outcome.reason or reason_of(step), error, after, clearing)

    def _asked(self, step: PullImage) -> None:
        self.asked |= {pulls.asked_key(pod.uid, step.reference) for pod in step.pods}

    def set_back(self, owner: str, reason: str, message: str, after: float, clearing: bool = False) -> None:
        """A permanent failure of a start waits for a new document; taking things away is never given up."""
        count = self.setbacks[owner].count + 1 if owner in self.setbacks else 1
        if clearing:
            after = min(after, LAST_RETRY)
        pause = min(max(after, FIRST_RETRY * 2 ** min(count - 1, 10)), max(LAST_RETRY, after))
        self.setbacks[owner] = Setback(reason, message, count, self._boottime() + pause, clearing)

    def begin_anew(self) -> None:
        """Something has changed that may help: a new document, an image that somebody brought."""
        self.setbacks.clear()

    def prune(self, desired: Desired | None, observed: Observed) -> None:
        """Forget what was about containers and pods that are gone."""
        known = {c.id for c in observed.containers}
        self.killed = {name: at for name, at in self.killed.items() if name in known}
        for owner in [o for o in self.setbacks if o.startswith("hook ") and o.removeprefix("hook ") not in known]:
            del self.setbacks[owner]
        wanted = {pod.uid for pod in desired.pods} if desired is not None else set()
        there = wanted | {s.pod_uid for s in observed.sandboxes} | {c.pod_uid for c in observed.containers}
        for owner in [o for o in self.setbacks if o.rpartition(" ")[0] in ("", "pressure")]:
            if owner not in (SERVICES, IMAGES, CLAIMS) and owner.rpartition(" ")[2] not in there:
                del self.setbacks[owner]
        self.asked = {entry for entry in self.asked if entry.partition(" ")[0] in wanted}
