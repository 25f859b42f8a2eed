"""Pods with a time: begun when it has come, by the node's own clock, each giving way to others as it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edged.decide import plan as planning
from edged.decide.budget import Budget
from edged.decide.steps import EndPod, Plan, PrepareSandbox, PullImage
from edged.decide.summary import summarise
from edged.decide.turns import BUSY, MISSED, NOT_YET, REPLACED
from edged.endings import LOST, Endings
from edged.model import (
    Container,
    Desired,
    Limits,
    Observed,
    Phase,
    Pod,
    PodStatus,
    RestartPolicy,
    Turn,
)
from tests.fakes.world import World

MIB = 1 << 20
BUDGET = Budget(memory=256 * MIB)
NOON = 1_750_000_000.0


def timed(minutes: int, policy: Turn = Turn.ALLOW, memory: int = 16 * MIB, deadline: float | None = None) -> Pod:
    """One that is to start so many minutes after noon."""
    start = NOON + 60 * minutes
    return Pod(
        "default",
        f"water-{minutes}",
        f"uid-{minutes}",
        (Container("main", "demo", limits=Limits(memory_request=memory)),),
        restart_policy=RestartPolicy.NEVER,
        termination_grace=5.0,
        start_at=start,
        start_by=None if deadline is None else start + deadline,
        turn="water",
        turn_policy=policy,
    )


class Board:
    """A board with some pods, and a clock that may not know the time."""

    def __init__(self, *pods: Pod, images: frozenset[str] = frozenset({"demo"})) -> None:
        self.desired = Desired("fleet", "node", 1, pods)
        self.world = World(images)
        self.wall: float | None = NOON
        self.ended: dict[str, PodStatus] = {}
        self.begun: list[str] = []

    def observe(self) -> Observed:
        return replace(self.world.observe(), wall=self.wall, ended=self.ended)

    def plan(self) -> Plan:
        return planning.plan(self.desired, self.observe(), BUDGET, self.world.now)

    def settle(self) -> None:
        for _ in range(40):
            planned = self.plan()
            for step in planned.steps:
                self.begun += [step.pod.name] if isinstance(step, PrepareSandbox) else []
                self.world.apply(step)
            if not planned.steps:
                return
        raise AssertionError("the plan never came to rest")

    def at(self, minutes: float) -> None:
        """Let the time pass, for both clocks."""
        assert self.wall is not None
        self.world.now += NOON + 60 * minutes - self.wall
        self.wall = NOON + 60 * minutes
        self.settle()

    def live(self) -> list[str]:
        return sorted(c.pod_uid for c in self.world.live())

    def finish(self, pod: Pod, code: int = 0) -> None:
        [state] = [c for c in self.world.live() if c.pod_uid == pod.uid]
        self.world.exit(state.id, code)

    def told(self, pod: Pod) -> PodStatus:
        [found] = [s for s in summarise(self.desired, self.observe(), BUDGET, self.world.now) if s.uid == pod.uid]
        return found

    def power_cut(self) -> None:
        for pod in self.desired.pods:
            status = self.told(pod)
            if status.phase in (Phase.SUCCEEDED, Phase.FAILED):
                self.ended[pod.uid] = status
        self.world.power_cut()


def test_a_pod_is_held_until_its_time_and_the_plan_says_when_that_is() -> None:
    pod = timed(5)
    board = Board(pod)
    assert board.plan().steps == () or all(not isinstance(s, PrepareSandbox) for s in board.plan().steps)
    board.settle()
    assert board.plan().wake_at == board.world.now + 300
    told = board.told(pod)
    assert (told.phase, told.reason, told.message) == (Phase.PENDING, NOT_YET, "starts at 2025-06-15T15:11:40Z")
    board.at(5)
    assert board.live() == [pod.uid]


def test_a_board_that_does_not_know_the_time_starts_nothing() -> None:
    pod = timed(5)
    board = Board(pod)
    board.wall = None
    board.settle()
    assert board.live() == []
    assert "doesn't know what time it is" in board.told(pod).message
    board.wall = NOON + 600
    board.settle()
    assert board.live() == [pod.uid]


def test_an_image_is_fetched_before_the_time_comes() -> None:
    board = Board(timed(5), images=frozenset())
    assert any(isinstance(s, PullImage) for s in board.plan().steps)


def test_no_room_is_taken_before_the_time_comes() -> None:
    big = [timed(n, memory=200 * MIB) for n in (5, 10, 15)]
    now = Pod("default", "web", "uid-web", (Container("main", "demo", limits=Limits(memory_request=200 * MIB)),))
    board = Board(*big, now)
    board.settle()
    assert board.live() == ["uid-web"]
    assert board.told(big[0]).reason == NOT_YET


def test_a_time_that_has_passed_before_it_could_start_is_made_up_for_once() -> None:
    pods = [timed(n) for n in (5, 10, 15, 20)]
    board = Board(*pods)
    board.at(17)
    assert board.live() == [pods[2].uid]
    assert [board.told(p).reason for p in pods] == [MISSED, MISSED, "", NOT_YET]
    board.at(20)
    assert board.begun == ["water-15", "water-20"]


def test_a_pod_that_is_too_late_is_not_started_any_more() -> None:
    pod = timed(5, deadline=60)
    board = Board(pod)
    board.at(6.5)
    assert board.live() == []
    assert board.told(pod).reason == MISSED
    early = Board(pod)
    early.at(5.5)
    assert early.live() == [pod.uid]


def test_a_pod_that_may_not_run_beside_the_one_before_waits_for_its_end() -> None:
    one, two = timed(5, Turn.FORBID), timed(10, Turn.FORBID)
    board = Board(one, two)
    board.at(5)
    board.at(10)
    assert board.live() == [one.uid]
    assert (board.told(two).reason, board.told(two).message) == (BUSY, "default/water-5 is still there")
    board.finish(one)
    board.settle()
    assert board.live() == [two.uid]


def test_a_pod_that_replaces_the_one_before_ends_it_first() -> None:
    one, two = timed(5, Turn.REPLACE), timed(10, Turn.REPLACE)
    board = Board(one, two)
    board.at(5)
    assert board.wall is not None
    board.wall += 300
    board.world.now += 300
    [end] = [s for s in board.plan().steps if isinstance(s, EndPod)]
    assert (end.pod_uid, end.reason) == (one.uid, REPLACED)
    board.settle()
    if one.uid in board.live():
        board.finish(one, 143)
    board.settle()
    assert board.live() == [two.uid]
    assert (board.told(one).phase, board.told(one).reason) == (Phase.FAILED, REPLACED)


def test_pods_of_different_turns_do_not_wait_for_each_other() -> None:
    one, two = timed(5, Turn.FORBID), replace(timed(10, Turn.FORBID), turn="other")
    board = Board(one, two)
    board.at(5)
    board.at(10)
    assert board.live() == [one.uid, two.uid] or board.live() == [two.uid, one.uid]


@pytest.mark.parametrize("policy", list(Turn))
def test_what_has_ended_is_not_begun_again_after_a_power_cut(policy: Turn) -> None:
    one, two = timed(5, policy), timed(10, policy)
    board = Board(one, two)
    board.at(5)
    board.finish(one)
    board.settle()
    before = board.told(one)
    assert before.phase is Phase.SUCCEEDED
    board.power_cut()
    board.settle()
    assert board.live() == []
    assert board.told(one) == before
    board.at(10)
    assert board.begun == ["water-5", "water-10"]


def test_a_job_of_no_time_that_has_ended_stays_ended_too() -> None:
    pod = replace(timed(5), start_at=None, turn="")
    board = Board(pod)
    board.settle()
    board.finish(pod, 3)
    board.power_cut()
    board.settle()
    assert board.begun == [pod.name]
    assert board.told(pod).containers[0].exit_code == 3


def test_endings_are_kept_for_the_pods_that_are_wanted_and_survive(tmp_path: Path) -> None:
    pods = [timed(n) for n in (5, 10)]
    done = [PodStatus(p.uid, p.namespace, p.name, Phase.SUCCEEDED) for p in pods]
    endings = Endings(tmp_path)
    endings.load()
    endings.note([done[0], PodStatus(pods[1].uid, "default", "x", Phase.RUNNING)], pods)
    again = Endings(tmp_path)
    again.load()
    assert again.known == {pods[0].uid: done[0]}
    again.note(done, pods[1:])
    assert again.known == {pods[1].uid: done[1]}


def test_what_may_run_only_once_has_failed_where_a_power_cut_took_it(tmp_path: Path) -> None:
    once, often = timed(5), replace(timed(10), restart_policy=RestartPolicy.ON_FAILURE)
    endings = Endings(tmp_path)
    endings.begin([once, often])
    restarted = Endings(tmp_path)
    restarted.load()
    restarted.look_for([once, often], {once.uid, often.uid})
    assert restarted.known == {}
    cut = Endings(tmp_path)
    cut.load()
    cut.look_for([once, often], set())
    assert {uid: (s.phase, s.reason) for uid, s in cut.known.items()} == {once.uid: (Phase.FAILED, LOST)}
    again = Endings(tmp_path)
    again.load()
    assert again.known == cut.known


def test_endings_that_cannot_be_read_or_written_stop_nobody(tmp_path: Path) -> None:
    (tmp_path / "ended").write_bytes(b"\xff\xff")
    endings = Endings(tmp_path)
    endings.load()
    assert endings.known == {}
    nowhere = Endings(tmp_path / "missing")
    pod = timed(5)
    nowhere.note([PodStatus(pod.uid, "default", pod.name, Phase.FAILED)], [pod])
    assert pod.uid in nowhere.known


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(list(Turn)),
    st.lists(st.tuples(st.sampled_from(["wait", "back", "lost", "end", "cut"]), st.integers(1, 12)), max_size=25),
)
def test_whatever_happens_each_time_is_begun_once_and_never_early(
    policy: Turn, happenings: list[tuple[str, int]]
) -> None:
    pods = [timed(n, policy) for n in range(5, 30, 5)]
    board = Board(*pods)
    latest = NOON
    for what, n in happenings:
        live = [p for p in pods if p.uid in board.live()]
        if what == "wait":
            board.wall = (board.wall or latest) + 60 * n
            board.world.now += 60 * n
        elif what == "back":
            board.wall = (board.wall or latest) - 60 * n
        elif what == "lost":
            board.wall = None
        elif what == "end" and live:
            board.finish(live[0], n % 2)
        elif what == "cut":
            board.power_cut()
            board.begun = [b for b in board.begun if not any(p.name == b and p.uid not in board.ended for p in pods)]
        latest = max(latest, board.wall or 0.0)
        board.settle()
        assert len(board.begun) == len(set(board.begun))
        for name in board.begun:
            assert NOON + 60 * int(name.removeprefix("water-")) <= latest
        if policy is not Turn.ALLOW:
            assert len({c.pod_uid for c in board.world.live() if not c.stop_requested_at}) <= 1
