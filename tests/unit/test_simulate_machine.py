"""A simulated node: what it says is what edged says, and the same seed says it again."""

from __future__ import annotations

import math

import msgspec
import pytest

from cloudlink.simulate.boards import BOARDS, Dice, Habits, board_of, capacity_of
from cloudlink.simulate.machine import Machine, Place
from edged.model import (
    Container,
    ContainerStatus,
    Desired,
    ExecAction,
    Limits,
    NodeStatus,
    Phase,
    Pod,
    Probe,
    RestartPolicy,
)

MIB = 1 << 20
WALL = 1_780_000_000.0
CALM = Habits(crashes=0.0, hangs=0.0, pull_failures=0.0)
READY = Probe(ExecAction(("true",)))


def pod(uid: str, container: Container | None = None, **more: object) -> Pod:
    main = container or Container("main", "shop/web:1", readiness=READY, limits=Limits(memory_limit=16 * MIB))
    return Pod("default", f"web-{uid}", uid, (main,), **{"termination_grace": 5.0, **more})  # type: ignore[arg-type]


def document(generation: int, *pods: Pod) -> Desired:
    return Desired("lab", "sim-0001", generation, pods=pods)


class Board:
    """A machine and the time that passes for it."""

    def __init__(self, seed: int = 7, habits: Habits = CALM) -> None:
        self.now = 100.0
        self.told: list[NodeStatus] = []
        dice = Dice(seed, "sim-0001")
        place = Place("sim-0001", "10.64.0.1", "0.1.0", board_of(dice))
        self.machine = Machine(place, dice, habits, self.told.append, self.now, WALL)

    def take(self, desired: Desired) -> None:
        self.machine.take(desired)
        self.run(0.0)

    def run(self, seconds: float) -> None:
        """Each turn when it is due."""
        end = self.now + seconds
        while (wake_at := self.machine.cycle(self.now)) <= end:
            self.now = wake_at
        self.now = end

    @property
    def status(self) -> NodeStatus:
        return self.told[-1]

    def only(self) -> ContainerStatus:
        return self.status.pods[0].containers[0]


def test_a_pod_is_pending_then_running_then_ready_as_the_node_works_it_off() -> None:
    board = Board()
    board.take(document(1, pod("a")))
    assert board.status.generation == 1
    first = board.status.pods[0]
    assert (first.phase, first.containers[0].state, first.ready) == (Phase.PENDING, "waiting", False)
    assert first.containers[0].reason == "ContainerCreating"
    board.run(30.0)
    last = board.status.pods[0]
    assert (last.phase, last.containers[0].state, last.ready) == (Phase.RUNNING, "running", True)
    assert last.ip.startswith("10.88.")
    assert last.started_wall > WALL
    assert {"Pulling", "Pulled", "Started"} <= {e.reason for e in board.status.events}
    states = [(s.pods[0].phase, s.pods[0].ready) for s in board.told if s.pods]
    assert states == sorted(states, key=[(Phase.PENDING, False), (Phase.RUNNING, False), (Phase.RUNNING, True)].index)


def test_nothing_is_told_twice_and_an_idle_node_sleeps() -> None:
    board = Board()
    board.take(document(1, pod("a"), pod("b")))
    board.run(30.0)
    assert all(a != b for a, b in zip(board.told, board.told[1:], strict=False))
    count = len(board.told)
    board.run(30.0)
    assert len(board.told) == count
    assert board.machine.cycle(board.now) > board.now + 1.0


def test_no_more_than_eight_pods_are_started_at_the_same_time() -> None:
    board = Board()
    board.take(document(1, pod("first")))
    board.run(30.0)  # the image is here from now on
    board.take(document(2, pod("first"), *(pod(f"p{n:02d}") for n in range(20))))
    most = 0
    for _ in range(600):
        board.run(0.05)
        runtime = board.machine.runtime
        most = max(most, len(runtime.sandboxes) - len(runtime.containers))
    assert 4 <= most <= 8
    assert all(p.ready for p in board.status.pods)


def test_the_same_seed_and_documents_give_the_same_statuses_and_another_seed_others() -> None:
    def story(seed: int) -> list[bytes]:
        board = Board(seed, Habits(crashes=60.0, hangs=30.0, pull_failures=0.5))
        board.take(document(1, pod("a"), pod("b")))
        board.run(300.0)
        board.take(document(2, pod("b"), pod("c")))
        board.run(300.0)
        return [msgspec.msgpack.encode(status) for status in board.told]

    assert story(3) == story(3)
    assert story(3) != story(4)


def test_a_container_that_crashes_is_started_again_later_and_later() -> None:
    board = Board(habits=CALM._replace(crashes=3600.0))
    board.take(document(1, pod("a")))
    board.run(120.0)
    told = [s.pods[0].containers[0] for s in board.told if s.pods]
    assert max(c.restarts for c in told) >= 3
    assert "CrashLoopBackOff" in {c.reason for c in told}
    assert {e.reason for e in board.status.events} & {"Died", "OOMKilled"}
    assert board.status.pods[0].phase is Phase.RUNNING  # a pod that is being restarted is one that runs


def test_only_a_container_with_a_limit_is_killed_for_its_memory() -> None:
    habits = CALM._replace(crashes=3600.0, killed=1.0)
    for limit, reason in ((16 * MIB, "OOMKilled"), (None, "Error")):
        board = Board(habits=habits)
        board.take(document(1, pod("a", Container("main", "shop/web:1", limits=Limits(memory_limit=limit)))))
        board.run(60.0)
        reasons = {c.last_reason for s in board.told for p in s.pods for c in p.containers if c.last_reason}
        assert reasons == {reason}


def test_a_container_that_hangs_fails_its_liveness_probe_and_is_started_anew() -> None:
    asked = Container("main", "shop/web:1", liveness=Probe(ExecAction(("true",)), period=1.0, failure_threshold=2))
    board = Board(habits=CALM._replace(hangs=360.0))
    board.take(document(1, pod("a", asked)))
    board.run(120.0)
    assert board.only().restarts >= 1
    assert any(e.reason == "Unhealthy" for s in board.told for e in s.events)
    assert any("liveness probe failed" in e.message for s in board.told for e in s.events if e.reason == "Killing")


def test_a_pod_that_is_wanted_no_more_is_told_as_terminating_until_nothing_is_left_of_it() -> None:
    board = Board()
    board.take(document(1, pod("a"), pod("b")))
    board.run(30.0)
    board.take(document(2, pod("b")))
    leaving = next(p for p in board.status.pods if p.uid == "a")
    assert (leaving.reason, leaving.phase) == ("Terminating", Phase.RUNNING)
    board.run(10.0)
    assert [p.uid for p in board.status.pods] == ["b"]
    assert board.status.generation == 2


def test_init_containers_run_to_their_end_before_the_others_begin() -> None:
    init = Container("prepare", "shop/init:1")
    board = Board()
    board.take(document(1, pod("a", init=(init,))))
    board.run(60.0)
    last = board.status.pods[0]
    assert (last.init[0].state, last.init[0].exit_code, last.initialized, last.ready) == ("terminated", 0, True, True)
    assert any(c.reason == "PodInitializing" for s in board.told for p in s.pods for c in p.containers)


def test_a_job_pod_that_fails_is_failed_and_stays_so() -> None:
    board = Board(habits=CALM._replace(crashes=3600.0))
    board.take(document(1, pod("a", restart_policy=RestartPolicy.NEVER)))
    board.run(60.0)
    assert board.status.pods[0].phase is Phase.FAILED
    assert board.only().restarts == 0


def test_a_registry_that_fails_makes_pods_wait_in_kubernetes_words() -> None:
    board = Board(habits=CALM._replace(pull_failures=1.0))
    board.take(document(1, pod("a")))
    board.run(60.0)
    assert board.only().reason == "ImagePullBackOff"
    assert "503" in board.only().message
    assert board.status.pods[0].phase is Phase.PENDING


def test_what_doesnt_fit_on_the_board_is_refused_as_edged_refuses_it() -> None:
    board = Board()
    memory = capacity_of(board.machine.place.board).memory
    board.take(document(1, pod("a", Container("main", "x:1", limits=Limits(memory_request=2 * memory)))))
    board.run(10.0)
    assert board.status.pods[0].reason == "OutOfmemory"
    assert any(e.reason == "OutOfmemory" for e in board.status.events)


def test_after_a_power_cut_everything_starts_again_in_another_life() -> None:
    board = Board()
    board.take(document(4, pod("a")))
    board.run(30.0)
    before = board.status
    board.machine.power_cut(board.now)
    board.run(0.0)
    assert (board.status.generation, board.status.pods[0].phase) == (4, Phase.PENDING)
    assert board.status.epoch != before.epoch
    assert board.status.boot_id != before.boot_id
    board.run(30.0)
    assert board.status.pods[0].ready
    assert not any(e.reason == "Pulling" for e in board.status.events)  # images are on the disk


def test_memory_is_learned_and_told_in_steps_below_the_limit() -> None:
    board = Board()
    board.take(document(1, pod("a")))
    board.run(1200.0)
    assert 0 < board.only().working_set_p95 <= board.only().working_set_peak < 18 * MIB


def test_boards_are_drawn_by_their_share_and_have_room_for_the_system() -> None:
    drawn = [board_of(Dice(1, f"sim-{n:04d}")) for n in range(400)]
    assert {b.model for b in drawn} == {b.model for b in BOARDS}
    assert drawn == [board_of(Dice(1, f"sim-{n:04d}")) for n in range(400)]
    for board in BOARDS:
        assert capacity_of(board).memory_allocatable < board.memory


@pytest.mark.parametrize("rate", [0.0, 3600.0])
def test_what_happens_n_times_an_hour_happens_after_a_time_that_fits(rate: float) -> None:
    dice = Dice(1, "a")
    times = [dice.after("x", rate) for _ in range(500)]
    if not rate:
        assert all(t == math.inf for t in times)
    else:
        assert 0.8 < sum(times) / len(times) < 1.25
