"""The degradation ladder: what is done about a board that runs out of memory, before the kernel thrashes or kills.

    reclaim   from pods that asked for nothing (BestEffort), which costs them cache
    squeeze   memory.high of those above their request: they wait, others don't
    freeze    BestEffort pods: nothing is lost, and everybody else has the board
    evict     one after the other: those above their request first, then by class, priority and use above request

One rung at a time, with a pause to see what it did; when pressure is over the pods are thawed and let go, one rung at
a time. Invariants, checked in simulations:
- Guaranteed pods are never touched: they can't be above what they asked for;
- pressure that stays ends in an eviction (as long as there is anybody to evict), and pressure that ends leaves nobody
  frozen or squeezed;
- nothing flaps: who was let go less than RELAPSE ago is evicted rather than frozen or squeezed again;
- nobody stays frozen for longer than FROZEN_AT_MOST: then it is thawed, or evicted where there is no room for it.

Pressure means both that tasks wait (PSI) and that little is left. A pod that thrashes below its own limit waits too,
but has the board to itself: that is between it and its limit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from edged.decide.budget import format_bytes
from edged.decide.steps import EndPod, FreezePod, ReclaimMemory, SqueezeMemory, Step
from edged.model import Qos, Value

NEVER = float("inf")
WAITING = 0.10  # share of the time that some task waits for memory: the PSI trigger, and what counts as pressure
STALLED = 0.20  # share of the time that all of them do: nobody gets anything done
PAUSES = {1: 3.0, 2: 1.0}  # seconds between two rungs while short, while critical
CALM_FOR = 10.0  # seconds of room until the first pod is let go, and between two
FROZEN_AT_MOST = 60.0
RELAPSE = 300.0
EVICTION_PATIENCE = 15.0  # seconds for an evicted pod to give its memory back until the next one goes
FORGIVEN = 60.0  # seconds without pressure after which a board that is merely full is at the foot of the ladder again
TRIVIAL = 1 << 20  # bytes: taking less than that helps nobody
LEAST_HIGH = 4 << 20  # bytes: what a squeezed pod keeps at least
CRITICAL_PRIORITY = 2_000_000_000  # Kubernetes' system-cluster-critical: never evicted


class Level(enum.IntEnum):
    CALM = -1  # there is room again
    HOLD = 0  # no pressure, but no room either: nothing is done, nothing undone
    SHORT = 1
    CRITICAL = 2


class Rung(enum.IntEnum):
    NONE = 0
    RECLAIM = 1
    SQUEEZE = 2
    FREEZE = 3
    EVICT = 4


class Abilities(Value, frozen=True):
    """Which rungs this machine has; eviction it always has."""

    reclaim: bool = True
    squeeze: bool = True
    freeze: bool = True


class Marks(Value, frozen=True):
    """Bytes still available to pods below which the board is short, or critically so."""

    low: int
    hard: int


class Sample(Value, frozen=True):
    """:ivar available: bytes that pods can have without taking them from each other.
    :ivar some, full: share of the time, 0 to 1, that some or all tasks waited for memory; None = the kernel can't say.
    :ivar oom: the kernel had to kill among the pods since the last sample.
    """

    available: int
    some: float | None = None
    full: float = 0.0
    oom: bool = False


class Load(Value, frozen=True):
    """One pod as the ladder sees it, in bytes.

    :ivar usage: without file cache that can be dropped at once. `held`: with it.
    :ivar leaving: it is evicted, or not wanted any more.
    """

    uid: str
    title: str
    qos: Qos
    usage: int
    held: int
    request: int = 0
    priority: int = 0
    leaving: bool = False

    @property
    def above(self) -> int:
        return self.usage - self.request


class State(Value, frozen=True):
    """What the ladder remembers; times in CLOCK_BOOTTIME seconds.

    :ivar rung: the highest one reached since the board was last calm.
    :ivar frozen: uid -> since. `released`: uid -> when it was let go of last.
    :ivar short_at: when it was last short; the node's condition outlasts it.
    """

    rung: Rung = Rung.NONE
    acted_at: float = -NEVER
    calm_since: float = NEVER
    squeezed: tuple[str, ...] = ()
    frozen: Mapping[str, float] = {}
    released: Mapping[str, float] = {}
    evicting: str = ""
    short_at: float = -NEVER

    @property
    def at_rest(self) -> bool:
        return self.rung is Rung.NONE and not self.squeezed and not self.frozen


def marks_of(total: int, margin: int) -> Marks:
    """:param total: bytes for pods. :param margin: bytes between that and where the kernel kills (host.margin)."""
    return Marks(low=margin + total // 20, hard=margin)


def judge(sample: Sample, marks: Marks) -> Level:
    """How bad it is."""
    if sample.oom:
        return Level.CRITICAL
    if sample.some is None:  # without PSI only the last bytes tell: a full board is not yet a suffering one
        if sample.available < marks.hard:
            return Level.CRITICAL if sample.available < marks.hard // 2 else Level.SHORT
    elif sample.available < marks.low and sample.some >= WAITING:
        return Level.CRITICAL if sample.full >= STALLED or sample.available < marks.hard else Level.SHORT
    return Level.HOLD if sample.available < marks.low + marks.low // 4 else Level.CALM


def decide(
    state: State, sample: Sample, pods: Sequence[Load], marks: Marks, abilities: Abilities, now: float
) -> tuple[State, tuple[Step, ...]]:
    """One look at the board: what to do now, and what to remember of it. Steps that could not be done are taken back
    with `failed`."""
    level = judge(sample, marks)
    there = {p.uid for p in pods if not p.leaving}
    steps: list[Step] = list(_release_leaving(state, pods))
    state = replace(
        state,
        squeezed=tuple(uid for uid in state.squeezed if uid in there),
        frozen={uid: since for uid, since in state.frozen.items() if uid in there},
        released={uid: when for uid, when in state.released.items() if uid in there and now - when < RELAPSE},
        evicting=state.evicting if any(p.uid == state.evicting for p in pods) else "",
        calm_since=min(state.calm_since, now) if level is Level.CALM else NEVER,
    )
    if level >= Level.SHORT:
        state = replace(state, short_at=now)
        if now - state.acted_at >= PAUSES[level]:
            state, more = _climb(state, sample, pods, marks, abilities, now)
            steps += more
    else:
        # A board that is merely full, where nobody suffers any more, keeps nobody squeezed for ever either.
        forgiven = NEVER if state.frozen else state.short_at + FORGIVEN - CALM_FOR
        quiet_since = state.calm_since if level is Level.CALM else forgiven
        if now - max(quiet_since, state.acted_at) >= CALM_FOR:
            state, more = _descend(state, pods, now)
            steps += more
    overdue = [uid for uid, since in state.frozen.items() if now - since >= FROZEN_AT_MOST]
    if overdue and level is not Level.CALM and now - state.acted_at >= PAUSES[Level.SHORT]:
        state, more = _evict(state, sample, [p for p in pods if p.uid in overdue or p.uid == state.evicting], now)
        steps += more
    return state, tuple(steps)


def failed(state: State, step: Step) -> State:
    """A step that could not be done is not remembered as done."""
    match step:
        case SqueezeMemory(uid, high=int()):
            return replace(state, squeezed=tuple(u for u in state.squeezed if u != uid))
        case FreezePod(uid, frozen=True):
            return replace(state, frozen={u: since for u, since in state.frozen.items() if u != uid})
        case EndPod(uid) if state.evicting == uid:
            return replace(state, evicting="")
    return state


# ------------------------------------------------------------ up


def _climb(
    state: State, sample: Sample, pods: Sequence[Load], marks: Marks, abilities: Abilities, now: float
) -> tuple[State, list[Step]]:
    """The next rung that has something to do."""
    reason = _why(sample)
    mine = [p for p in pods if not p.leaving and p.qos is not Qos.GUARANTEED]
    if state.rung < Rung.RECLAIM and abilities.reclaim:
        steps = _reclaim(mine, marks.low + marks.low // 2 - sample.available, reason)
        if steps:
            return replace(state, rung=Rung.RECLAIM, acted_at=now), steps
    if state.rung < Rung.SQUEEZE and abilities.squeeze:
        heavy = [p for p in mine if p.above >= TRIVIAL and p.uid not in state.squeezed and p.uid not in state.released]
        if heavy:
            squeezed = (*state.squeezed, *(p.uid for p in heavy))
            return replace(state, rung=Rung.SQUEEZE, acted_at=now, squeezed=squeezed), [
                SqueezeMemory(p.uid, p.title, squeezed_to(p), reason) for p in heavy
            ]
    if state.rung < Rung.FREEZE and abilities.freeze:
        cold = [
            p
            for p in mine
            if p.qos is Qos.BEST_EFFORT
            and p.priority < CRITICAL_PRIORITY
            and p.usage >= TRIVIAL
            and p.uid not in state.frozen
            and p.uid not in state.released
        ]
        if cold:
            frozen = {**state.frozen, **{p.uid: now for p in cold}}
            return replace(state, rung=Rung.FREEZE, acted_at=now, frozen=frozen), [
                FreezePod(p.uid, p.title, True, reason) for p in cold
            ]
    return _evict(replace(state, rung=Rung.EVICT), sample, pods, now)


def _reclaim(pods: Sequence[Load], needed: int, reason: str) -> list[Step]:
    """From those that hold most."""
    steps: list[Step] = []
    for pod in sorted((p for p in pods if p.qos is Qos.BEST_EFFORT), key=lambda p: (-p.held, p.uid)):
        amount = min(pod.held, needed)
        if amount >= TRIVIAL:
            steps.append(ReclaimMemory(pod.uid, pod.title, amount, reason))
            needed -= amount
    return steps


def squeezed_to(pod: Load) -> int:
    """memory.high in bytes: an eighth off, for what a pod can spare at once is its cache; never below its request."""
    return max(pod.request, pod.usage - pod.usage // 8, LEAST_HIGH)


def _evict(state: State, sample: Sample, pods: Sequence[Load], now: float) -> tuple[State, list[Step]]:
    """The next one, unless the last one is still on its way out."""
    if state.evicting and now - state.acted_at < EVICTION_PATIENCE:
        return state, []
    for pod in ranked(pods):
        message = (
            f"the node was short of memory ({_why(sample)}); the pod used {format_bytes(pod.usage)}"
            f" and had asked for {format_bytes(pod.request)}"
        )
        frozen = {uid: since for uid, since in state.frozen.items() if uid != pod.uid}
        done = replace(state, acted_at=now, evicting=pod.uid, frozen=frozen)
        return done, [EndPod(pod.uid, pod.title, "Evicted", message)]
    return state, []


def ranked(pods: Sequence[Load]) -> list[Load]:
    """Who goes first: Kubernetes' ranking for node-pressure eviction, with the class before the priority, so that a pod
    that asked for nothing goes before one that asked for less than it uses."""
    return sorted(
        (p for p in pods if not p.leaving and p.qos is not Qos.GUARANTEED and p.priority < CRITICAL_PRIORITY),
        key=lambda p: (p.above <= 0, p.usage < TRIVIAL, p.qos is Qos.BURSTABLE, p.priority, -p.above, p.uid),
    )


def _why(sample: Sample) -> str:
    left = f"{format_bytes(sample.available >> 10 << 10)} of memory left"
    if sample.oom:
        return f"{left}, and the kernel had to kill"
    return left if sample.some is None else f"{left}, tasks waited for memory {sample.some:.0%} of the time"


# ------------------------------------------------------------ down


def _release_leaving(state: State, pods: Sequence[Load]) -> Iterator[Step]:
    """A frozen pod can't end."""
    for pod in pods:
        if pod.leaving and pod.uid in state.frozen:
            yield FreezePod(pod.uid, pod.title, False, "it is being taken away")


def _descend(state: State, pods: Sequence[Load], now: float) -> tuple[State, list[Step]]:
    """Let one pod go, those that are frozen first, and of those the most important; then all is well."""
    by_uid = {p.uid: p for p in pods}
    reason = "there is room again"
    order = sorted(state.frozen, key=lambda uid: (-by_uid[uid].priority, by_uid[uid].usage, uid))
    if order:
        uid = order[0]
        left = {u: since for u, since in state.frozen.items() if u != uid}
        state = replace(state, frozen=left, acted_at=now, released={**state.released, uid: now})
        return state, [FreezePod(uid, by_uid[uid].title, False, reason)]
    if state.squeezed:
        order = sorted(state.squeezed, key=lambda uid: (-by_uid[uid].priority, by_uid[uid].above, uid))
        uid = order[0]
        rest = tuple(u for u in state.squeezed if u != uid)
        state = replace(state, squeezed=rest, acted_at=now, released={**state.released, uid: now})
        return state, [SqueezeMemory(uid, by_uid[uid].title, None, reason)]
    return replace(state, rung=Rung.NONE), []
