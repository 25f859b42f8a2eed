"""The daemon's loop on a board in memory: what wakes it, what it tells, and what it survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from edged.config import NodeConfig
from edged.daemon import Daemon, epoch
from edged.errors import PermanentError, RetryError
from edged.machine import Machine, boottime
from edged.model import Container, Desired, Env, HubLink, Image, NodeStatus, Phase, Pod, PodStatus, PullPolicy
from edged.sources import StepSource, WorkingSets, unknown_working_sets
from edged.store import StateStore
from edged.systemd import Watchdog
from edged.uplink import Asked, Inbox
from tests.fakes.runtime import Board, FakePuller, FakeRuntime


class FakeUplink:
    """A hub that says what the test says, and remembers what it hears."""

    def __init__(self) -> None:
        self.inbox: asyncio.Future[Inbox] = asyncio.get_running_loop().create_future()
        self.told: list[NodeStatus] = []
        self.state = HubLink()

    async def run(self, inbox: Inbox, asked: Asked) -> None:
        self.inbox.set_result(inbox)
        await asyncio.Event().wait()

    def report(self, status: NodeStatus) -> None:
        self.told.append(status)

    def unseal(self, name: str, sealed: bytes) -> Mapping[str, bytes]:
        if sealed == b"for another node":
            raise PermanentError(f"secret {name} was not sealed for this node")
        return {"key": sealed}


class FakeImages:
    def __init__(self) -> None:
        self.present = {"demo"}

    def resolve(self, reference: str) -> Image | None:
        return Image(reference, "sha256:0", (), cmd=("sleep",)) if reference in self.present else None

    def list(self) -> tuple[Image, ...]:
        return tuple(Image(name, "sha256:0", ()) for name in sorted(self.present))


class Lab:
    def __init__(
        self, daemon: Daemon, runtime: FakeRuntime, uplink: FakeUplink, images: FakeImages, puller: FakePuller
    ) -> None:
        self.daemon, self.runtime, self.uplink, self.images, self.puller = daemon, runtime, uplink, images, puller

    async def offer(self, desired: Desired, digest: bytes = b"") -> None:
        async with asyncio.timeout(30):
            inbox = await self.uplink.inbox
        inbox.offer(desired, digest)

    async def until(self, true: Callable[[NodeStatus], bool]) -> NodeStatus:
        """Wait, event by event, for a status like that."""
        async with asyncio.timeout(30):
            while not (self.uplink.told and true(self.uplink.told[-1])):
                await self.daemon.changed()
        return self.uplink.told[-1]

    def pod(self) -> PodStatus:
        return self.uplink.told[-1].pods[0]


@asynccontextmanager
async def a_lab(
    folder: Path,
    board: Board | None = None,
    extra: Sequence[StepSource] = (),
    working_sets: WorkingSets = unknown_working_sets,
    machine: Machine | None = None,
) -> AsyncIterator[Lab]:
    board = board or Board()
    board.now = boottime()
    runtime, uplink, images = FakeRuntime(board), FakeUplink(), FakeImages()
    config = NodeConfig(
        "node", "fleet", state_dir=str(folder), run_dir=str(folder / "run"), memory_allocatable=256 << 20
    )
    puller = FakePuller(images.present)
    daemon = Daemon(config, runtime, images, puller, StateStore(folder), uplink, extra, working_sets, machine)
    running = asyncio.create_task(daemon.run(), name="daemon under test")
    try:
        yield Lab(daemon, runtime, uplink, images, puller)
    finally:
        daemon.stop()
        await running


def wanting(*names: str, generation: int = 1, image: str = "demo", **more: object) -> Desired:
    pods = tuple(Pod("default", n, f"uid-{n}", (Container("main", image, **more),)) for n in names)  # type: ignore[arg-type]
    return Desired("fleet", "node", generation, pods)


def running(count: int) -> Callable[[NodeStatus], bool]:
    return lambda status: sum(p.ready for p in status.pods) == count == len(status.pods)


def in_the_lab(
    folder: Path,
    story: Callable[[Lab], Awaitable[None]],
    board: Board | None = None,
    extra: Sequence[StepSource] = (),
    working_sets: WorkingSets = unknown_working_sets,
    machine: Machine | None = None,
) -> None:
    async def main() -> None:
        async with a_lab(folder, board, extra, working_sets, machine) as lab:
            await story(lab)

    asyncio.run(main())


def test_a_document_becomes_running_pods_and_a_status(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a", "b"))
        status = await lab.until(running(2))
        assert status.generation == 1
        assert {p.phase for p in status.pods} == {Phase.RUNNING}

    in_the_lab(tmp_path, story)


def test_a_killed_container_is_started_again_and_the_event_says_why(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a"))
        await lab.until(running(1))
        lab.runtime.exit("uid-a.main.0", 137)
        await lab.until(lambda s: running(1)(s) and s.pods[0].containers[0].restarts == 1)
        assert lab.pod().containers[0].last_exit_code == 137
        assert any(e.reason == "Died" and "signal 9" in e.message for e in lab.uplink.told[-1].events)

    in_the_lab(tmp_path, story)


def test_an_oom_kill_is_told_as_such(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a"))
        await lab.until(running(1))
        lab.runtime.exit("uid-a.main.0", 137, oom=True)
        await lab.until(lambda s: s.pods[0].containers[0].last_reason == "OOMKilled")

    in_the_lab(tmp_path, story)


def test_the_next_daemon_adopts_what_runs_and_starts_nothing(tmp_path: Path) -> None:
    board = Board()

    async def first(lab: Lab) -> None:
        await lab.offer(wanting("a", "b"))
        await lab.until(running(2))

    async def second(lab: Lab) -> None:
        await lab.until(running(2))
        async with asyncio.timeout(8):
            while lab.daemon.plan_text() != "nothing to do":
                await lab.daemon.changed()
        assert not [c for c in lab.runtime.calls if c[0] in ("start_container", "stop_container", "kill_container")]

    in_the_lab(tmp_path, first, board)
    in_the_lab(tmp_path, second, board)


def test_after_a_power_cut_the_stored_document_is_enough(tmp_path: Path) -> None:
    async def first(lab: Lab) -> None:
        await lab.offer(wanting("a"))
        await lab.until(running(1))

    async def second(lab: Lab) -> None:
        assert (await lab.until(running(1))).generation == 1

    in_the_lab(tmp_path, first)
    in_the_lab(tmp_path, second, Board())


def test_an_older_document_is_refused_aloud_and_changes_nothing(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a", generation=5))
        await lab.until(running(1))
        await lab.offer(wanting(generation=4))
        status = await lab.until(lambda s: s.refused is not None)
        assert status.refused is not None
        assert "older generation 4; this node has 5" in status.refused.reason
        assert running(1)(status)

    in_the_lab(tmp_path, story)


def test_a_refusal_is_over_when_the_next_document_is_accepted(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a", generation=5))
        await lab.offer(wanting(generation=4))
        await lab.until(lambda s: s.refused is not None)
        await lab.offer(wanting("a", generation=6))
        status = await lab.until(lambda s: s.generation == 6)
        assert status.refused is None
        assert "DesiredRefused" in [e.reason for e in status.events], "what happened stays told"
        await lab.offer(wanting(generation=1))
        again = await lab.until(lambda s: s.refused is not None)
        assert again.refused is not None
        assert again.refused.count == 2

    in_the_lab(tmp_path, story)


def test_a_disk_that_takes_nothing_is_told_and_the_pods_run_all_the_same(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        slots = [tmp_path / f"desired.{n}" for n in "ab"]
        for slot in slots:
            slot.mkdir()  # nobody can write a file there, not even root
        await lab.offer(wanting("a"))
        status = await lab.until(running(1))
        assert "can't save desired state" in " ".join(status.degraded)
        assert [e.reason for e in status.events].count("StateNotSaved") == 1
        for slot in slots:
            slot.rmdir()
        await lab.offer(wanting("a", "b", generation=2))
        status = await lab.until(running(2))
        assert not status.degraded
        assert any(slot.exists() for slot in slots)

    in_the_lab(tmp_path, story)


def test_the_same_document_again_tells_nothing_new(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a"), b"digest")
        await lab.until(running(1))
        told = len(lab.uplink.told)
        await lab.offer(wanting("a"), b"digest")
        await lab.daemon.refresh()
        await lab.daemon.changed()
        assert len(lab.uplink.told) == told

    in_the_lab(tmp_path, story)


def test_a_missing_image_is_a_sentence_and_its_arrival_starts_the_pod(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a", image="absent", pull_policy=PullPolicy.NEVER))
        status = await lab.until(lambda s: bool(s.pods))
        assert 'image "absent" is not on this node' in status.pods[0].message
        assert [e.reason for e in status.events] == ["ErrImageNeverPull"]
        lab.images.present.add("absent")
        await lab.daemon.refresh()
        await lab.until(running(1))

    in_the_lab(tmp_path, story)


def test_a_failing_start_is_told_and_tried_again_later(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.uplink.inbox
        lab.runtime.fail_next("start_container", RetryError("crun says no"))
        await lab.offer(wanting("a"))
        status = await lab.until(lambda s: bool(s.pods and s.pods[0].containers[0].message))
        assert status.pods[0].containers[0].reason == "CreateContainerError"
        assert status.pods[0].containers[0].message == "crun says no"
        await lab.until(running(1))

    in_the_lab(tmp_path, story)


def test_a_secret_sealed_for_another_node_stops_only_the_pod_that_needs_it(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        needy = wanting("a", env=(Env("K", secret="s", key="key"),)).pods
        plain = wanting("b").pods
        await lab.offer(Desired("fleet", "node", 1, needy + plain, secrets={"default/s": b"for another node"}))
        status = await lab.until(lambda s: any(p.ready for p in s.pods) and bool(s.pods[0].message))
        assert "was not sealed for this node" in status.pods[0].message
        assert status.pods[1].ready

    in_the_lab(tmp_path, story)


def test_a_bug_in_one_step_leaves_the_daemon_and_the_other_pods_alone(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.uplink.inbox
        lab.runtime.fail_next("prepare_sandbox", ZeroDivisionError())  # type: ignore[arg-type]
        await lab.offer(wanting("a", "b"))
        await lab.until(lambda s: any(p.ready for p in s.pods))
        await lab.until(running(2))

    in_the_lab(tmp_path, story)


def test_a_failing_removal_is_told_and_does_not_spin(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a"))
        await lab.until(running(1))
        lab.runtime.fail_next("remove_sandbox", RetryError("busy"))
        await lab.offer(wanting(generation=2))
        await lab.until(lambda s: not s.pods)
        assert sum(c[0] == "remove_sandbox" for c in lab.runtime.calls) == 2

    in_the_lab(tmp_path, story)


def test_a_daemons_epoch_is_its_own_whatever_the_wall_clock_says() -> None:
    assert epoch("boot-1", 4.0) == epoch("boot-1", 4.0)
    assert len({epoch("boot-1", 4.0), epoch("boot-2", 4.0), epoch("boot-1", 4.5)}) == 3


class FakeSystemd:
    """Hears what a daemon says of itself, and wants a sign of life from it every 5 ms."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.machine = Machine(tell=self.heard.append, watchdog=lambda: 0.005)

    def fed(self) -> int:
        return self.heard.count("WATCHDOG=1")

    async def hears_more(self) -> None:
        before = self.fed()
        async with asyncio.timeout(30):
            while self.fed() == before:  # noqa: ASYNC110 -- systemd has no events for us
                await asyncio.sleep(0.001)


def test_systemd_is_told_when_the_first_cycle_is_over_and_hears_of_a_daemon_that_idles(tmp_path: Path) -> None:
    systemd = FakeSystemd()

    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a"))
        await lab.until(running(1))
        assert systemd.heard[0] == "READY=1"
        for _ in range(3):
            await systemd.hears_more()

    in_the_lab(tmp_path, story, machine=systemd.machine)
    assert systemd.heard[-1] == "STOPPING=1"


def test_a_daemon_whose_cycle_never_ends_is_not_vouched_for(tmp_path: Path) -> None:
    """The loop runs, and answers, but what the daemon is for isn't done any more."""
    systemd = FakeSystemd()

    async def story(lab: Lab) -> None:
        await lab.offer(wanting("a"))
        await lab.until(running(1))
        await systemd.hears_more()
        async with lab.daemon._changed:  # the next cycle waits for us to let go, which is never
            lab.daemon.look_again()
            for _ in range(10):
                await asyncio.sleep(0.005)
            silent = systemd.fed()
            for _ in range(10):
                await asyncio.sleep(0.005)
            assert systemd.fed() == silent
        await systemd.hears_more()

    in_the_lab(tmp_path, story, machine=systemd.machine)


def test_a_busy_loop_does_not_tell_systemd_each_time() -> None:
    heard: list[str] = []
    watchdog = Watchdog(30.0, heard.append)
    for hundredth in range(3001):
        watchdog.feed(hundredth / 100)
    assert len(heard) == 3
    assert watchdog.pause(float("inf")) == 30.0
    assert watchdog.pause(4.0) == 4.0


def test_without_a_watchdog_nothing_is_told_and_a_wait_is_as_long_as_it_is() -> None:
    heard: list[str] = []
    watchdog = Watchdog(0.0, heard.append)
    watchdog.feed(1.0)
    assert (heard, watchdog.pause(float("inf"))) == ([], float("inf"))
