"""One simulated node: edged's own loop (observe -> plan -> apply -> report) over the fake runtime, as calls. Pure.

    take(document), cycle(now) -> when to call it again         report <- NodeStatus, only when it says something new

Planning, summing up, events and the telling of them are edged's; this does what edged.deeds does with tasks: the steps
of one owner in order, so many pods at once, what takes time ends later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cloudlink.simulate.boards import Board, Dice, Habits, capacity_of
from cloudlink.simulate.runtime import Agenda, Runtime
from edged.decide import budget as budgets
from edged.decide import happenings, material, pulls, summary
from edged.decide import plan as planning
from edged.decide.steps import (
    CLAIMS,
    IMAGES,
    SERVICES,
    EndPod,
    HookKind,
    KillContainer,
    PrepareSandbox,
    PullImage,
    RefreshVolumes,
    RemoveClaim,
    RemoveContainer,
    RemoveSandbox,
    ResizeClaim,
    RunHook,
    StartContainer,
    Step,
    StopContainer,
    SyncServices,
)
from edged.model import Desired, HostPort, NodeStatus, Observed, Refusal, ServiceRules, Setback, StoredImage
from edged.telling import Teller

PARALLEL_PODS = 8  # as edged.deeds: pods worked on at once
SAMPLE_EVERY = 60.0  # seconds between two looks at memory, as edged.learning
ROUNDS = 8  # of planning in one cycle; what is still to be done then waits for the next one
SOON = 0.05  # seconds until then
PULL_ERROR = "the registry answered 503 Service Unavailable"


class Place(NamedTuple):
    """Who a node is, and where."""

    name: str
    address: str
    version: str
    board: Board
    labels: Mapping[str, str] = {}


class Machine:
    """:param report: gets each new status.
    :param now: seconds since the board's boot, of the same clock as `cycle`'s; `wall`: added to it, the wall clock.
    """

    def __init__(
        self, place: Place, dice: Dice, habits: Habits, report: Callable[[NodeStatus], None], now: float, wall: float
    ) -> None:
        self.place = place
        self._dice, self._habits, self._wall, self._now = dice, habits, wall, now
        self._capacity = capacity_of(place.board)
        self._budget = budgets.of(self._capacity)
        self._report = report
        self._agenda = Agenda()
        self.runtime = Runtime(dice, habits, place.board.slowness, wall, self._agenda)
        self.desired: Desired | None = None
        self._digests: Mapping[str, str] = {}
        self._titles: dict[str, str] = {}
        self._refusal: Refusal | None = None
        self._images: set[str] = set()
        self._lives = 0
        self._boot(now)

    def _boot(self, now: float) -> None:
        """The daemon starts; what it knows of its own doing begins anew."""
        self._lives += 1
        self._boot_id = f"{int(self._dice.throw('boot') * 2**64):016x}"
        self._epoch = f"{int((self._wall + now) * 1e9):x}-{self._lives}"
        self._teller = Teller(self._report, self._title_of, lambda: self._wall + self._now)
        self._seen: Observed | None = None
        self._busy: set[str] = set()
        self._waiting: dict[str, list[Step]] = {}  # by owner: for one of the places among PARALLEL_PODS
        self._working = 0
        self._setbacks: dict[str, Setback] = {}
        self._services: tuple[ServiceRules, ...] | None = None
        self._host_ports: tuple[HostPort, ...] | None = None
        self._killed: dict[str, float] = {}
        self._claim_sizes: dict[str, int] = {}
        self._asked: set[str] = {p.uid for p in self.desired.pods} if self.desired is not None else set()
        self._agenda.clear()
        self._agenda.at(now + SAMPLE_EVERY * (0.5 + self._dice.throw("sample")), self._sample)

    def power_cut(self, now: float) -> None:
        """All that isn't on the disk is gone: containers, sandboxes, what the daemon knew. It is back at once."""
        self.runtime.power_cut()
        self._now = now
        self._boot(now)

    # ------------------------------------------------------------ what is wanted

    def take(self, desired: Desired) -> None:
        """A document that was verified, and is newer than the last."""
        self.desired, self._digests = desired, material.digests(desired)
        self._titles = {p.uid: p.title for p in desired.pods}
        self._refusal = None
        self._setbacks.clear()

    def refuse(self, count: int, reason: str) -> None:
        self._refusal = Refusal(count, reason, self._wall + self._now)
        self._teller.event("Warning", "DesiredRefused", reason)

    # ------------------------------------------------------------ the loop

    def cycle(self, now: float) -> float:
        """Do what is due, plan, begin it, and tell; the second at which there will be something to do again."""
        self._now = now
        wake_at = math.inf
        for _ in range(ROUNDS):
            self._agenda.run(now)
            before, self._seen = self._seen, self._observe()
            if before is not None:
                self._teller.happened(happenings.between(before, self._seen))
            planned = planning.plan(self.desired, self._seen, self._budget, now, self._digests)
            self._begin(planned.steps, now)
            wake_at = planned.wake_at
            if self._agenda.next_at > now:
                break
        self._teller.report(self.status)
        return max(min(wake_at, self._agenda.next_at), now + SOON)

    def _observe(self) -> Observed:
        runtime = self.runtime
        there = {p.uid for p in self.desired.pods} if self.desired is not None else set()
        self._asked = {entry for entry in self._asked if entry.partition(" ")[0] in there}
        self._killed = {name: at for name, at in self._killed.items() if name in runtime.containers}
        return Observed(
            containers=tuple(runtime.containers.values()),
            sandboxes=tuple(runtime.sandboxes.values()),
            images=frozenset(self._images),
            services=self._services,
            health=dict(runtime.health),
            setbacks=dict(self._setbacks),
            busy=frozenset(self._busy),
            host_ports=self._host_ports,
            asked=frozenset(self._asked),
            claims=frozenset(runtime.claims),
            claim_sizes=dict(self._claim_sizes),
            killed=dict(self._killed),
        )

    def status(self) -> NodeStatus:
        seen = self._seen or Observed()
        return NodeStatus(
            node=self.place.name,
            generation=self.desired.generation if self.desired is not None else 0,
            epoch=self._epoch,
            capacity=self._capacity,
            pods=summary.summarise(self.desired, seen, self._budget, self._now, self.runtime.working_sets),
            events=self._teller.events,
            refused=self._refusal,
            boot_id=self._boot_id,
            version=self.place.version,
            address=self.place.address,
            labels=dict(self.place.labels),
            images=tuple(StoredImage(name, 0) for name in sorted(self._images)),
        )

    def _title_of(self, pod: str) -> str:
        known = self._titles.get(pod, "")
        return known or (self.runtime.sandboxes[pod].pod if pod in self.runtime.sandboxes else "")

    def _sample(self, at: float) -> None:
        pods = self.desired.pods if self.desired is not None else ()
        self.runtime.sample({p.uid: p for p in pods})
        self._agenda.at(at + SAMPLE_EVERY, self._sample)

    # ------------------------------------------------------------ deeds

    def _begin(self, steps: tuple[Step, ...], now: float) -> None:
        groups: dict[str, list[Step]] = {}
        for step in steps:
            if isinstance(step, SyncServices):
                self._services, self._host_ports = step.services, step.host_ports
            elif not (isinstance(step, KillContainer) and step.container.id in self._killed):
                groups.setdefault(step.owner, []).append(step)
        for owner, mine in groups.items():
            self._busy.add(owner)
            if _needs_no_place(owner):
                self._next(owner, mine, now)
            else:
                self._waiting[owner] = mine
        self._give_places(now)

    def _give_places(self, now: float) -> None:
        while self._waiting and self._working < PARALLEL_PODS:
            self._working += 1
            owner = next(iter(self._waiting))
            self._next(owner, self._waiting.pop(owner), now)

    def _next(self, owner: str, steps: list[Step], now: float) -> None:
        """Begin the next of an owner's steps, or let the owner go."""
        if not steps:
            self._busy.discard(owner)
            if not _needs_no_place(owner):
                self._working -= 1
                self._give_places(now)
            return
        step = steps.pop(0)
        self._teller.happened(happenings.begun(step, self._setbacks.get(owner)))

        def done(at: float) -> None:
            if self._do(step, at):
                self._teller.happened(happenings.done(step))
                if not isinstance(step, PrepareSandbox):
                    self._setbacks.pop(owner, None)
            else:
                steps.clear()
            self._next(owner, steps, at)

        self._agenda.at(now + self._takes(step), done)

    def _takes(self, step: Step) -> float:
        """Seconds."""
        dice, habits, slowness = self._dice, self._habits, self.place.board.slowness
        match step:
            case PrepareSandbox():
                return slowness * dice.between("prepare", habits.prepare)
            case StartContainer():
                return slowness * dice.between("start", habits.start)
            case PullImage():
                return dice.between("pull", habits.pull)
            case RunHook():
                return slowness * dice.between("hook", habits.start)
            case RemoveSandbox() | RemoveContainer():
                return slowness * dice.between("remove", habits.prepare) / 2
        return 0.0

    def _do(self, step: Step, at: float) -> bool:
        """Carry one step out; False if it has failed. What has no effect on a status has none here."""
        runtime = self.runtime
        match step:
            case PrepareSandbox(pod):
                runtime.prepare_sandbox(pod, self._digests.get(pod.uid, ""), at)
            case RefreshVolumes(pod):
                runtime.refresh(pod.uid, self._digests.get(pod.uid, ""))
            case RemoveSandbox(uid):
                runtime.remove_sandbox(uid)
            case EndPod(uid, reason=reason, message=message):
                runtime.end_pod(uid, reason, message)
            case StartContainer(pod, container, attempt, crashes):
                runtime.start(pod, container, attempt, crashes, at)
            case StopContainer(container, reason):
                runtime.stop(container.id, reason, at)
            case KillContainer(container, reason):
                self._killed[container.id] = at
                runtime.kill(container.id, reason, at)
            case RemoveContainer(container):
                runtime.remove(container.id)
            case RunHook(container, kind):
                if kind is HookKind.POST_START:
                    runtime.post_started(container.id)
                else:
                    runtime.signal(container.id, at)
            case PullImage():
                return self._pull(step, at)
            case RemoveClaim(uid):
                runtime.claims.pop(uid, None)
            case ResizeClaim(claim):
                runtime.claims[claim.uid] = self._claim_sizes[claim.uid] = claim.size
        return True

    def _pull(self, step: PullImage, at: float) -> bool:
        owner, reference = step.owner, step.reference
        if self._dice.throw("registry") >= self._habits.pull_failures:
            self._images.add(reference)
            self._asked |= {pulls.asked_key(pod.uid, reference) for pod in step.pods}
            return True
        before = self._setbacks.get(owner)
        self._teller.happened(happenings.failed_pull(step, PULL_ERROR, reference in self._images, before))
        count = before.count + 1 if before is not None else 1
        retry_at = at + pulls.backoff(reference, count, 0.0)
        self._setbacks[owner] = Setback(pulls.ERR_PULL, PULL_ERROR, count, retry_at)
        return False


def _needs_no_place(owner: str) -> bool:
    """Pulls and hooks take long, and belong to no pod."""
    return " " in owner or owner in (SERVICES, IMAGES, CLAIMS)
