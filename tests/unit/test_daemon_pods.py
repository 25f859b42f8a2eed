"""The daemon with whole pods on a board in memory: pulls, hooks, live files, other sources of steps, and letting go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from edged.apply import Outcome
from edged.decide.steps import EndPod, Plan, Step
from edged.errors import PermanentError, RetryError
from edged.model import (
    Claim,
    ConfigFiles,
    Container,
    Desired,
    ExecAction,
    NodeCondition,
    Observed,
    Phase,
    Pod,
    Probe,
    PullPolicy,
    RestartPolicy,
    Service,
    ServicePort,
    TcpAction,
    Volume,
)
from tests.fakes.runtime import Board
from tests.unit.test_daemon import Lab, in_the_lab, running, wanting

HOOK = ExecAction(("true",))


def of(pod: Pod, generation: int = 1, **more: object) -> Desired:
    return Desired("fleet", "node", generation, (pod,), **more)  # type: ignore[arg-type]


def pod_of(*main: Container, **more: object) -> Pod:
    return Pod("default", "a", "uid-a", main or (Container("main", "demo"),), **more)  # type: ignore[arg-type]


def events(lab: Lab, *reasons: str) -> list[str]:
    return [f"{e.reason}: {e.message}" for e in lab.uplink.told[-1].events if e.reason in reasons]


async def until(true: Callable[[], bool]) -> None:
    """What no status tells."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def until_called(lab: Lab, method: str) -> None:
    await until(lambda: method in [name for name, _ in lab.runtime.calls])


def test_a_missing_image_is_pulled_and_said_and_the_pod_starts(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a", image="absent"))
        await lab.until(running(1))
        assert lab.puller.pulled == ["absent"]
        assert events(lab, "Pulling", "Pulled") == [
            'Pulling: pulling image "absent": pod default/a needs it',
            'Pulled: image "absent" is here',
        ]

    in_the_lab(tmp_path, story)


def test_a_failed_pull_is_told_in_the_kubelets_words_and_a_new_document_tries_at_once(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        lab.puller.errors["absent"] = [RetryError("no route to host"), PermanentError("denied"), RetryError("denied")]
        await lab.offer(wanting("a", image="absent"))
        status = await lab.until(lambda s: bool(s.pods and s.pods[0].containers[0].reason == "ErrImagePull"))
        assert status.pods[0].containers[0].message == "no route to host"
        assert status.pods[0].phase is Phase.PENDING
        await lab.daemon.refresh()
        await lab.until(lambda s: s.pods[0].containers[0].message == "denied")
        await lab.offer(wanting("a", image="absent", generation=2))
        await lab.until(lambda s: s.generation == 2)
        await lab.daemon.refresh()
        await lab.until(running(1))

    in_the_lab(tmp_path, story)


def test_a_name_that_no_image_can_have_is_told_as_such(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a", image="no image:1"))
        status = await lab.until(lambda s: bool(s.pods and s.pods[0].containers[0].reason == "InvalidImageName"))
        assert "no image:1" in status.pods[0].containers[0].message
        assert not lab.puller.pulled

    in_the_lab(tmp_path, story)


def test_with_no_network_a_new_pod_that_always_asks_starts_and_says_so(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        lab.puller.errors["demo"] = [RetryError("no route to host")] * 5
        await lab.offer(wanting("a", pull_policy=PullPolicy.ALWAYS))
        await lab.until(running(1))
        assert lab.puller.pulled == ["demo"]
        (said,) = events(lab, "Failed")
        assert "no route to host; the one that is here is used" in said

    in_the_lab(tmp_path, story)


def test_after_a_power_cut_nobody_is_asked(tmp_path: Path) -> None:
    async def first(lab: Lab) -> None:
        await lab.offer(wanting("a", pull_policy=PullPolicy.ALWAYS))
        await lab.until(running(1))

    async def second(lab: Lab) -> None:
        await lab.until(running(1))
        assert not lab.puller.pulled

    in_the_lab(tmp_path, first)
    in_the_lab(tmp_path, second, Board())


def test_init_containers_and_sidecars_are_told_apart_from_the_rest(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        pod = pod_of(init=(Container("prepare", "demo"), Container("mesh", "demo", sidecar=True)))
        await lab.offer(of(pod))
        status = await lab.until(lambda s: bool(s.pods and s.pods[0].init and s.pods[0].init[0].state == "running"))
        assert not status.pods[0].initialized
        assert (status.pods[0].phase, status.pods[0].containers[0].reason) == (Phase.PENDING, "PodInitializing")
        lab.runtime.exit("uid-a.prepare.0", 0)
        status = await lab.until(running(1))
        assert status.pods[0].initialized
        assert [(c.name, c.state, c.ready) for c in status.pods[0].init] == [
            ("prepare", "terminated", True),
            ("mesh", "running", True),
        ]
        assert status.pods[0].qos == "BestEffort"

    in_the_lab(tmp_path, story)


def test_a_pod_whose_init_container_failed_for_good_has_failed(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(of(pod_of(init=(Container("prepare", "demo"),), restart_policy=RestartPolicy.NEVER)))
        await lab.until(lambda s: bool(s.pods and s.pods[0].init[0].state == "running"))
        lab.runtime.exit("uid-a.prepare.0", 3)
        status = await lab.until(lambda s: s.pods[0].phase is Phase.FAILED)
        assert status.pods[0].message == "init container prepare failed, and the restart policy is Never"
        assert status.pods[0].init[0].exit_code == 3

    in_the_lab(tmp_path, story)


def test_a_failed_post_start_hook_ends_its_container_and_says_why(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a", post_start=ExecAction(("false",))))
        status = await lab.until(lambda s: bool(s.pods and s.pods[0].containers[0].last_reason == "PostStartHookError"))
        assert not status.pods[0].ready
        await lab.until(lambda s: "FailedPostStartHook" in [e.reason for e in s.events])
        assert events(lab, "FailedPostStartHook")[0] == "FailedPostStartHook: main: it ended with 1"

    in_the_lab(tmp_path, story)


def test_a_pre_stop_hook_that_hangs_holds_up_nobody_else(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        hooked = pod_of(Container("main", "demo", pre_stop=HOOK))
        await lab.offer(of(hooked))
        await lab.until(running(1))
        gate = lab.runtime.hooks["uid-a.main.0"] = asyncio.Event()
        await lab.offer(wanting("b", generation=2))
        await lab.until(lambda s: any(p.name == "b" and p.ready for p in s.pods))
        await until_called(lab, "run_hook")
        assert ("signal_container", "uid-a.main.0") not in lab.runtime.calls
        gate.set()
        await lab.until(running(1))
        assert ("signal_container", "uid-a.main.0") in lab.runtime.calls

    in_the_lab(tmp_path, story)


def test_a_daemon_that_stops_in_the_middle_of_a_hook_leaves_it_to_the_next(tmp_path: Path) -> None:
    board = Board()

    async def first(lab: Lab) -> None:
        await lab.offer(of(pod_of(Container("main", "demo", pre_stop=HOOK))))
        await lab.until(running(1))
        lab.runtime.hooks["uid-a.main.0"] = asyncio.Event()
        await lab.offer(wanting(generation=2))
        await until_called(lab, "run_hook")

    async def second(lab: Lab) -> None:
        await lab.until(lambda s: not s.pods)
        hooks = [c for c in lab.runtime.calls if c[0] in ("run_hook", "signal_container", "kill_container")]
        assert hooks == [("run_hook", "uid-a.main.0"), ("signal_container", "uid-a.main.0")]

    in_the_lab(tmp_path, first, board)
    assert not board.containers["uid-a.main.0"].signalled, "its grace isn't cut short by us"
    in_the_lab(tmp_path, second, board)


def test_a_changed_config_reaches_a_running_pod_without_a_restart(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        pod = pod_of(volumes=(Volume("v", ConfigFiles("app")),))
        await lab.offer(of(pod, configs={"default/app": {"k": b"1"}}))
        await lab.until(running(1))
        before = lab.runtime.board.sandboxes["uid-a"].material
        await lab.offer(of(pod, 2, configs={"default/app": {"k": b"2"}}))
        await lab.until(lambda s: "VolumesRefreshed" in [e.reason for e in s.events])
        assert lab.runtime.board.sandboxes["uid-a"].material not in ("", before)
        assert [c for c, _ in lab.runtime.calls].count("start_container") == 1

    in_the_lab(tmp_path, story)


def test_a_config_that_was_deleted_leaves_the_running_pod_its_files_and_is_told(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        pod = pod_of(volumes=(Volume("v", ConfigFiles("app")),))
        await lab.offer(of(pod, configs={"default/app": {"k": b"1"}}))
        await lab.until(running(1))
        lab.runtime.fail_next("refresh_volumes", RetryError("config map default/app does not exist", 5.0))
        await lab.offer(of(pod, 2))
        status = await lab.until(lambda s: s.generation == 2 and bool(s.pods[0].message))
        assert (status.pods[0].reason, status.pods[0].ready) == ("FailedMount", True)
        lab.runtime.exit("uid-a.main.0", 1)
        await lab.until(lambda s: running(1)(s) and s.pods[0].containers[0].restarts == 1)

    in_the_lab(tmp_path, story)


def test_a_device_that_comes_back_is_given_back(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a", devices=("camera",)))
        status = await lab.until(lambda s: bool(s.pods))
        assert status.pods[0].containers[0].reason == "DeviceNotFound"
        assert 'device "camera" not found' in status.pods[0].containers[0].message
        lab.runtime.board.plugged["camera"] = "/dev/video0 81:0"
        lab.daemon.look_again()
        status = await lab.until(running(1))
        assert status.capacity.devices == {"camera": 1}
        for there in ({}, {"camera": "/dev/video1 81:1"}):
            lab.runtime.board.plugged = dict(there)
            lab.daemon.look_again()
            want = tuple(f"{k}={v}" for k, v in there.items())
            await until(lambda want=want: lab.runtime.board.containers["uid-a.main.0"].devices == want)  # type: ignore[misc]
        assert lab.runtime.board.containers["uid-a.main.0"].attempt == 0

    in_the_lab(tmp_path, story)


class Evictor:
    """A source of steps that wants one pod gone."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.due = False
        self.conditions: Sequence[NodeCondition] = ()
        self.degraded: Sequence[str] = ("this board can't smell smoke",)
        self.ran = False
        self.heard: list[Step] = []
        self.wake: Callable[[], None] = lambda: None

    def steps(self, desired: Desired | None, observed: Observed, now: float) -> Plan:
        ended = any(s.evicted for s in observed.sandboxes)
        if not self.due or ended:
            return Plan()
        return Plan((EndPod(self.uid, "default/a", "Evicted", "memory ran out"),))

    def remember(self, outcome: Outcome) -> None:
        self.heard.append(outcome.step)

    async def run(self, wake: Callable[[], None]) -> None:
        self.wake, self.ran = wake, True
        await asyncio.Event().wait()


def test_another_source_of_steps_is_asked_carried_out_and_told(tmp_path: Path) -> None:
    evictor = Evictor("uid-a")

    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a"))
        status = await lab.until(running(1))
        assert status.degraded == ("this board can't smell smoke",)
        evictor.due = True
        evictor.conditions = (NodeCondition("MemoryPressure", "LadderClimbed", "memory is short"),)
        evictor.wake()
        status = await lab.until(lambda s: s.pods[0].phase is Phase.FAILED)
        assert (status.pods[0].reason, status.pods[0].message) == ("Evicted", "memory ran out")
        assert [c.kind for c in status.conditions] == ["MemoryPressure"]
        assert events(lab, "Evicted", "NodeHasMemoryPressure")
        assert any(isinstance(s, EndPod) for s in evictor.heard)
        evictor.conditions = ()
        evictor.wake()
        await lab.until(lambda s: "NodeHasNoMemoryPressure" in [e.reason for e in s.events])

    in_the_lab(tmp_path, story, extra=(evictor,))


def test_the_next_daemon_asks_before_it_says_that_anybody_is_not_ready(tmp_path: Path) -> None:
    board = Board()
    service = Service("default", "a", "10.96.0.5", (ServicePort(80, 80),), ("uid-a",))

    async def first(lab: Lab) -> None:
        await lab.offer(of(pod_of(Container("main", "demo", readiness=Probe(TcpAction(80)))), services=(service,)))
        await lab.until(running(1))
        await until(lambda: bool(board.services and board.services[0].addresses))

    async def second(lab: Lab) -> None:
        await lab.until(running(1))
        assert all(status.pods[0].ready for status in lab.uplink.told)
        await until(lambda: ("sync_services", "") in lab.runtime.calls)
        assert board.services[0].addresses

    in_the_lab(tmp_path, first, board)
    in_the_lab(tmp_path, second, board)


def test_a_claim_that_can_not_be_resized_is_told_once_and_keeps_no_other_from_its_end(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        lab.runtime.board.claimed = {"small": 1 << 20, "gone": 1 << 20}
        lab.runtime.fail_next("resize_claim", PermanentError("can't shrink"))
        await lab.offer(Desired("fleet", "node", 1, claims=(Claim("default", "data", "small", 1 << 19),)))
        await until(lambda: set(lab.runtime.board.claimed) == {"small"})
        await lab.daemon.refresh()
        await lab.offer(wanting("a", generation=2))
        await lab.until(running(1))
        assert [c for c, _ in lab.runtime.calls].count("resize_claim") == 1

    in_the_lab(tmp_path, story)


def test_what_was_learned_of_containers_is_told(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a"))
        status = await lab.until(running(1))
        told = status.pods[0].containers[0]
        assert (told.working_set_p95, told.working_set_peak) == (10 << 20, 12 << 20)

    in_the_lab(tmp_path, story, working_sets=lambda pod, container: (10 << 20, 12 << 20))


def test_a_pull_under_way_does_not_keep_the_daemon_from_stopping(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        lab.puller.gate = asyncio.Event()
        await lab.offer(wanting("a", image="absent"))
        await until(lambda: bool(lab.puller.pulled))

    in_the_lab(tmp_path, story)
