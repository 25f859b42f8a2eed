"""The degradation ladder on a model board: it climbs while pressure stays, comes down when it ends, and never flaps."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edged.decide import ladder
from edged.decide.ladder import Abilities, Load, Marks, Sample, State
from edged.decide.steps import EndPod, FreezePod, ReclaimMemory, SqueezeMemory, Step
from edged.model import Qos

MIB = 1 << 20
TOTAL = 340 * MIB
MARKS = ladder.marks_of(TOTAL, 8 * MIB)
ALL = Abilities()


class Pod:
    """:ivar grows: bytes a second that it wants more."""

    def __init__(
        self, name: str, qos: Qos, usage: int, request: int = 0, priority: int = 0, cache: int = 0, grows: int = 0
    ) -> None:
        self.name, self.qos, self.usage, self.request, self.priority = name, qos, usage, request, priority
        self.cache, self.grows = cache, grows
        self.high: int | None = None
        self.frozen = False
        self.evicted_at = float("inf")
        self.longest_frozen = self.froze_at = 0.0

    def load(self, now: float) -> Load:
        held = self.usage + self.cache
        leaving = now >= self.evicted_at
        return Load(self.name, f"ns/{self.name}", self.qos, self.usage, held, self.request, self.priority, leaving)


class ModelBoard:
    """A board of TOTAL bytes on which pods grow; who finds no room waits. `noise` is what the system takes besides."""

    def __init__(self, *pods: Pod) -> None:
        self.pods = {p.name: p for p in pods}
        self.state = State()
        self.now = 1000.0
        self.noise = 0
        self.told: list[tuple[float, Step]] = []
        self.slow_to_end = 2.0
        self.abilities = ALL
        self.psi = True

    @property
    def available(self) -> int:
        return max(TOTAL + MARKS.hard - self.noise - sum(p.usage + p.cache for p in self.pods.values()), 0)

    def second(self) -> None:
        waits = 0.0
        self.now += 1.0
        for pod in [p for p in self.pods.values() if self.now >= p.evicted_at + self.slow_to_end]:
            del self.pods[pod.name]
        for pod in self.pods.values():
            if not pod.grows or pod.frozen:
                continue
            room = self.available if pod.high is None else min(self.available, max(pod.high - pod.usage, 0))
            taken = min(pod.grows, room)
            pod.usage += taken
            if pod.high is not None and taken < pod.grows:
                waits = max(waits, 0.3)
            elif taken < pod.grows or self.available < MARKS.hard:
                waits = max(waits, 0.9)
        sample = Sample(self.available, waits if self.psi else None, waits / 2)
        loads = [p.load(self.now) for p in self.pods.values()]
        self.state, steps = ladder.decide(self.state, sample, loads, MARKS, self.abilities, self.now)
        for step in steps:
            self.told.append((self.now, step))
            self.do(step)

    def do(self, step: Step) -> None:
        match step:
            case ReclaimMemory(uid, amount=amount):
                pod = self.pods[uid]
                pod.cache = max(pod.cache - amount, 0)
            case SqueezeMemory(uid, high=high):
                self.pods[uid].high = high
            case FreezePod(uid, frozen=frozen):
                pod = self.pods[uid]
                pod.frozen = frozen
                if frozen:
                    pod.froze_at = self.now
                else:
                    pod.longest_frozen = max(pod.longest_frozen, self.now - pod.froze_at)
            case EndPod(uid):
                self.pods[uid].evicted_at = self.now
                self.pods[uid].frozen = False
            case _:
                raise AssertionError(step)

    def seconds(self, count: int, until: Callable[[], bool] = lambda: False) -> None:
        for _ in range(count):
            self.second()
            if until():
                return

    def kinds(self) -> list[str]:
        return [type(step).__name__ for _, step in self.told]

    def evicted(self) -> list[str]:
        return [s.pod_uid for _, s in self.told if isinstance(s, EndPod)]


def hog(grows: int = 20 * MIB) -> Pod:
    return Pod("hog", Qos.BURSTABLE, 20 * MIB, request=16 * MIB, grows=grows)


# ---------------------------------------------------------------- single decisions


@pytest.mark.parametrize(
    ("sample", "level"),
    [
        (Sample(200 * MIB, 0.0), ladder.Level.CALM),
        (Sample(200 * MIB, 0.9, 0.9), ladder.Level.CALM),  # somebody thrashes in a limit of his own
        (Sample(26 * MIB, 0.0), ladder.Level.HOLD),
        (Sample(20 * MIB, 0.05), ladder.Level.HOLD),
        (Sample(20 * MIB, 0.15), ladder.Level.SHORT),
        (Sample(20 * MIB, 0.5, 0.4), ladder.Level.CRITICAL),
        (Sample(4 * MIB, 0.15), ladder.Level.CRITICAL),
        (Sample(4 * MIB, 0.0), ladder.Level.HOLD),  # full, but nobody waits
        (Sample(200 * MIB, 0.0, oom=True), ladder.Level.CRITICAL),
        (Sample(20 * MIB), ladder.Level.HOLD),  # without PSI
        (Sample(6 * MIB), ladder.Level.SHORT),
        (Sample(1 * MIB), ladder.Level.CRITICAL),
    ],
)
def test_pressure_means_that_tasks_wait_and_little_is_left(sample: Sample, level: ladder.Level) -> None:
    assert ladder.judge(sample, MARKS) is level


def test_the_next_to_go_is_chosen_by_class_then_priority_then_use_above_request() -> None:
    def load(name: str, qos: Qos, usage: int, request: int = 0, priority: int = 0) -> Load:
        return Load(name, name, qos, usage * MIB, usage * MIB, request * MIB, priority)

    order = ladder.ranked(
        [
            load("below its request", Qos.BURSTABLE, 10, 20),
            load("guaranteed", Qos.GUARANTEED, 100, 100),
            load("important", Qos.BURSTABLE, 200, 10, priority=5),
            load("a little above", Qos.BURSTABLE, 40, 30),
            load("far above", Qos.BURSTABLE, 90, 30),
            load("tiny", Qos.BEST_EFFORT, 0),
            load("nothing asked", Qos.BEST_EFFORT, 5),
            load("nothing asked, important", Qos.BEST_EFFORT, 50, priority=9),
            load("system", Qos.BEST_EFFORT, 50, priority=ladder.CRITICAL_PRIORITY),
        ]
    )
    assert [p.uid for p in order] == [
        "nothing asked",
        "nothing asked, important",
        "far above",
        "a little above",
        "important",
        "below its request",
        "tiny",
    ]


def test_a_squeezed_pod_keeps_what_it_asked_for() -> None:
    assert ladder.squeezed_to(Load("a", "a", Qos.BURSTABLE, 80 * MIB, 0, 16 * MIB)) == 70 * MIB
    assert ladder.squeezed_to(Load("a", "a", Qos.BURSTABLE, 80 * MIB, 0, 78 * MIB)) == 78 * MIB
    assert ladder.squeezed_to(Load("a", "a", Qos.BEST_EFFORT, 2 * MIB, 0)) == ladder.LEAST_HIGH


def test_a_step_that_could_not_be_done_is_not_remembered_as_done() -> None:
    state = State(squeezed=("a", "b"), frozen={"c": 1.0}, evicting="d")
    assert ladder.failed(state, SqueezeMemory("a", "a", 1, "")).squeezed == ("b",)
    assert ladder.failed(state, FreezePod("c", "c", True, "")).frozen == {}
    assert ladder.failed(state, EndPod("d", "d", "", "")).evicting == ""
    assert ladder.failed(state, SqueezeMemory("a", "a", None, "")) == state


# ---------------------------------------------------------------- on the model board


def test_the_rungs_come_in_order() -> None:
    idle = Pod("idle", Qos.BEST_EFFORT, 20 * MIB, cache=30 * MIB)
    board = ModelBoard(hog(), idle, Pod("sure", Qos.GUARANTEED, 60 * MIB, 60 * MIB))
    board.seconds(60, lambda: bool(board.evicted()))
    order = list(dict.fromkeys(board.kinds()))
    assert order == ["ReclaimMemory", "SqueezeMemory", "FreezePod", "EndPod"] or order == [
        "ReclaimMemory",
        "SqueezeMemory",
        "EndPod",
    ]
    assert idle.cache < 30 * MIB


def test_reclaiming_alone_may_do() -> None:
    board = ModelBoard(Pod("cache", Qos.BEST_EFFORT, 10 * MIB, cache=200 * MIB), hog(grows=20 * MIB))
    board.seconds(8)
    board.pods["hog"].grows = 0
    board.seconds(300)
    assert board.kinds()[0] == "ReclaimMemory"
    assert board.evicted() == []
    assert board.state.at_rest


def test_a_hog_that_does_not_stop_is_evicted_and_its_neighbours_are_not() -> None:
    board = ModelBoard(hog(), *(Pod(f"n{i}", Qos.BURSTABLE, 30 * MIB, request=32 * MIB) for i in range(4)))
    board.seconds(200)
    assert board.evicted() == ["hog"]
    assert board.state.at_rest


def test_a_board_of_guaranteed_pods_is_left_alone() -> None:
    board = ModelBoard(*(Pod(f"g{i}", Qos.GUARANTEED, 80 * MIB, 80 * MIB) for i in range(4)))
    board.noise = 40 * MIB
    board.pods["g0"].grows = MIB
    board.seconds(120)
    assert board.told == []


def test_a_frozen_pod_goes_on_when_there_is_room_again() -> None:
    idle = Pod("idle", Qos.BEST_EFFORT, 60 * MIB)
    board = ModelBoard(idle, Pod("busy", Qos.BURSTABLE, 200 * MIB, request=260 * MIB, grows=30 * MIB))
    board.seconds(60, lambda: idle.frozen)
    assert idle.frozen
    board.pods["busy"].usage, board.pods["busy"].grows = 40 * MIB, 0
    board.seconds(60)
    assert (idle.frozen, idle.high, board.evicted()) == (False, None, [])
    assert board.state.at_rest


def test_a_frozen_pod_for_which_there_is_no_room_is_evicted_in_the_end() -> None:
    idle = Pod("idle", Qos.BEST_EFFORT, 60 * MIB)
    board = ModelBoard(idle, Pod("busy", Qos.BURSTABLE, 200 * MIB, request=260 * MIB, grows=30 * MIB))
    board.seconds(60, lambda: idle.frozen)
    board.pods["busy"].grows = 0  # nobody waits any more, but the board is as full as it was
    board.pods["busy"].usage = TOTAL + MARKS.hard - MARKS.low - idle.usage
    board.seconds(70)
    assert board.evicted() == ["idle"]


def test_who_presses_again_right_after_it_was_let_go_is_evicted() -> None:
    board = ModelBoard(hog(), Pod("n", Qos.BURSTABLE, 100 * MIB, request=120 * MIB))
    board.seconds(400)
    squeezes = [s for _, s in board.told if isinstance(s, SqueezeMemory) and s.high is not None and s.pod_uid == "hog"]
    assert len(squeezes) == 1
    assert board.evicted() == ["hog"]


def test_a_slow_end_does_not_cost_the_next_pod_its_life() -> None:
    board = ModelBoard(hog(), *(Pod(f"n{i}", Qos.BURSTABLE, 40 * MIB, request=20 * MIB) for i in range(3)))
    board.slow_to_end = 10.0
    board.seconds(200)
    assert board.evicted() == ["hog"]


def test_what_the_machine_cannot_do_is_passed_over() -> None:
    idle = Pod("idle", Qos.BEST_EFFORT, 20 * MIB, cache=30 * MIB)
    board = ModelBoard(hog(), idle)
    board.abilities, board.psi = Abilities(reclaim=False, squeeze=False, freeze=False), False
    board.seconds(200)
    assert set(board.kinds()) == {"EndPod"}
    assert "hog" in board.evicted()


def test_a_full_board_on_which_nobody_waits_comes_to_rest() -> None:
    board = ModelBoard(hog())
    board.seconds(30, lambda: bool(board.told))
    board.pods["hog"].grows = 0
    board.state = replace(board.state, squeezed=())
    board.noise = 300 * MIB
    board.seconds(70)
    assert board.state.at_rest


def test_a_pod_on_its_way_out_is_thawed_so_that_it_can_end() -> None:
    state = State(rung=ladder.Rung.FREEZE, frozen={"a": 990.0})
    gone = Load("a", "ns/a", Qos.BEST_EFFORT, 10 * MIB, 10 * MIB, leaving=True)
    after, steps = ladder.decide(state, Sample(20 * MIB, 0.0), [gone], MARKS, ALL, 1000.0)
    assert [(type(s), s.frozen) for s in steps if isinstance(s, FreezePod)] == [(FreezePod, False)]
    assert after.frozen == {}


# ---------------------------------------------------------------- any board


pods_strategy = st.lists(
    st.builds(
        lambda n, qos, usage, request, priority, cache, grows: Pod(
            f"p{n}",
            qos,
            usage * MIB,
            usage * MIB if qos is Qos.GUARANTEED else request * MIB if qos is Qos.BURSTABLE else 0,
            priority,
            cache * MIB,
            0 if qos is Qos.GUARANTEED else grows * MIB,
        ),
        st.integers(0, 10**6),
        st.sampled_from(list(Qos)),
        st.integers(0, 60),
        st.integers(1, 40),
        st.integers(0, 3),
        st.integers(0, 40),
        st.sampled_from([0, 0, 0, 2, 10, 40]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda p: p.name,
)


@settings(max_examples=150, deadline=None)
@given(pods_strategy, st.integers(0, 200), st.booleans(), st.booleans())
def test_pressure_that_stays_ends_in_evictions_and_pressure_that_ends_leaves_no_trace(
    pods: list[Pod], noise: int, freeze: bool, psi: bool
) -> None:
    guaranteed = {p.name for p in pods if p.qos is Qos.GUARANTEED}
    board = ModelBoard(*pods)
    board.noise, board.psi, board.abilities = noise * MIB, psi, Abilities(freeze=freeze)
    board.seconds(600)
    touched = {s.pod_uid for _, s in board.told if isinstance(s, EndPod | FreezePod | SqueezeMemory | ReclaimMemory)}
    assert not touched & guaranteed
    thirsty = [p for p in board.pods.values() if p.grows and p.evicted_at > board.now]
    if thirsty and board.available < MARKS.hard // 2:
        raise AssertionError(f"{thirsty[0].name} still has the board on its knees: {board.told}")
    for pod in pods:
        assert pod.longest_frozen <= ladder.FROZEN_AT_MOST + 60.0
        freezes = [t for t, s in board.told if isinstance(s, FreezePod) and s.frozen and s.pod_uid == pod.name]
        assert all(b - a >= ladder.RELAPSE for a, b in itertools.pairwise(freezes))
    for pod in board.pods.values():  # now everybody is content
        pod.grows = 0
    board.noise = -TOTAL
    board.seconds(300)
    assert board.state.at_rest
    assert not any(p.frozen or p.high is not None for p in board.pods.values())


def test_marks_leave_room_above_where_the_kernel_kills() -> None:
    assert Marks(low=25 * MIB, hard=8 * MIB) == MARKS
