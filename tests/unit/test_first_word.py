"""After a boot: pods that the hub may have moved wait for its first word, and for no longer than is worth it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from edged.config import NodeConfig
from edged.daemon import Daemon
from edged.decide import plan as planning
from edged.decide.budget import Budget
from edged.decide.steps import PrepareSandbox, PullImage
from edged.decide.summary import summarise
from edged.decide.turns import UNHEARD
from edged.first_word import FirstWord
from edged.machine import Machine
from edged.model import Container, Desired, HubLink, LinkState, Observed, Phase, Pod
from edged.store import Saved, StateStore
from tests.fakes.runtime import Board, FakePuller, FakeRuntime
from tests.fakes.world import World
from tests.unit.test_daemon import FakeImages, FakeUplink

BUDGET = Budget(memory=256 << 20)


def pod(name: str, stays: bool = False) -> Pod:
    return Pod("default", name, f"uid-{name}", (Container("main", "demo"),), stays=stays)


def wanting(*pods: Pod, generation: int = 1) -> Desired:
    return Desired("fleet", "node", generation, pods)


# ---------------------------------------------------------------- for how long


def test_the_hubs_word_is_awaited_until_it_comes_or_the_time_is_over() -> None:
    assert FirstWord(100.0, 10.0, lambda: True).is_awaited(heard=False, now=109.9)
    assert not FirstWord(100.0, 10.0, lambda: True).is_awaited(heard=True, now=100.0)
    assert not FirstWord(100.0, 10.0, lambda: True).is_awaited(heard=False, now=110.0)


def test_a_board_with_nothing_plugged_in_waits_only_as_long_as_a_cable_takes() -> None:
    assert FirstWord(100.0, 10.0, lambda: False).is_awaited(heard=False, now=102.9)
    assert not FirstWord(100.0, 10.0, lambda: False).is_awaited(heard=False, now=103.0)
    assert not FirstWord(100.0, 1.0, lambda: False).is_awaited(heard=False, now=101.0)


def test_the_loop_is_told_when_to_look_again() -> None:
    word = FirstWord(100.0, 10.0, lambda: True)
    assert [word.next_look(now) for now in (100.0, 103.0)] == [103.0, 110.0]


def test_once_over_the_waiting_does_not_begin_again() -> None:
    plugged = [False, True]
    word = FirstWord(100.0, 10.0, lambda: plugged.pop(0))
    assert [word.is_awaited(heard=False, now=104.0) for _ in range(2)] == [False, False]
    assert word.next_look(104.0) == float("inf")


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_wait_that_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"hub_wait is .*; it must be 0 or more seconds"):
        NodeConfig("node", hub_wait=seconds)


# ---------------------------------------------------------------- who waits


def begun(desired: Desired, observed: Observed) -> set[str]:
    steps = planning.plan(desired, observed, BUDGET, 1000.0).steps
    return {s.pod.name for s in steps if isinstance(s, PrepareSandbox)}


def test_only_pods_that_may_have_moved_wait_and_their_images_come_meanwhile() -> None:
    desired = wanting(pod("web"), pod("valve", stays=True))
    assert begun(desired, Observed(images=frozenset({"demo"}), unheard=True)) == {"valve"}
    assert begun(desired, Observed(images=frozenset({"demo"}))) == {"valve", "web"}
    steps = planning.plan(wanting(pod("web")), Observed(unheard=True), BUDGET, 1000.0).steps
    assert [type(s) for s in steps if isinstance(s, PullImage)] == [PullImage]


def test_who_waits_says_for_what() -> None:
    [told] = summarise(wanting(pod("web")), Observed(unheard=True), BUDGET, 1000.0)
    assert (told.phase, told.reason) == (Phase.PENDING, UNHEARD)
    assert "the hub may have moved it" in told.message


def test_what_runs_is_left_alone_whether_the_hub_has_spoken_or_not() -> None:
    """A daemon that restarts finds its pods running."""
    world, desired = World(), wanting(pod("web"))
    for _ in range(40):
        steps = planning.plan(desired, world.observe(), BUDGET, world.now).steps
        for step in steps:
            world.apply(step)
    assert len(world.live()) == 1
    assert planning.plan(desired, replace(world.observe(), unheard=True), BUDGET, world.now).steps == ()


# ---------------------------------------------------------------- in the daemon's loop


class Boot:
    """A daemon that starts with a stored document on a board where nothing runs yet, and a clock of the test's own."""

    def __init__(self, folder: Path, stored: Desired, link: LinkState, line: bool) -> None:
        self.now = 100.0
        board = Board()
        board.now = self.now
        self.runtime, self.uplink, images = FakeRuntime(board), FakeUplink(), FakeImages()
        self.uplink.state = HubLink(link)
        store = StateStore(folder)
        store.save(Saved(stored, b"signed"))
        config = NodeConfig(
            "node", "fleet", state_dir=str(folder), run_dir=str(folder / "run"), memory_allocatable=256 << 20
        )
        machine = Machine(boottime=lambda: self.now, line=lambda: line)
        puller = FakePuller(images.present)
        self.daemon = Daemon(config, self.runtime, images, puller, store, self.uplink, machine=machine)

    async def offer(self, desired: Desired, digest: bytes) -> None:
        (await self.uplink.inbox).offer(desired, digest)

    async def until_running(self, *names: str) -> None:
        async with asyncio.timeout(30):
            while {p.name for p in self.daemon.status().pods if p.ready} != set(names):
                await self.daemon.changed()

    async def rests(self) -> list[str]:
        """Uids of the pods that were begun, after some cycles more."""
        for _ in range(5):
            self.daemon.look_again()
            await self.daemon.changed()
        return [subject for method, subject in self.runtime.calls if method == "prepare_sandbox"]

    def told(self) -> dict[str, str]:
        return {p.name: p.reason for p in self.daemon.status().pods}


def boot(
    folder: Path,
    stored: Sequence[Pod],
    story: Callable[[Boot], Awaitable[None]],
    link: LinkState = LinkState.AWAY,
    line: bool = True,
) -> None:
    async def main() -> None:
        one = Boot(folder, wanting(*stored), link, line)
        running = asyncio.create_task(one.daemon.run(), name="daemon under test")
        try:
            async with asyncio.timeout(30):
                await story(one)
        finally:
            one.daemon.stop()
            with suppress(asyncio.CancelledError):
                await running

    asyncio.run(main())


def test_a_pod_that_has_moved_meanwhile_is_never_started_again(tmp_path: Path) -> None:
    async def story(one: Boot) -> None:
        await one.until_running("valve")
        assert one.told() == {"valve": "", "web": UNHEARD}
        await one.offer(wanting(pod("valve", stays=True), generation=2), b"newer")
        assert await one.rests() == ["uid-valve"]

    boot(tmp_path, [pod("web"), pod("valve", stays=True)], story)


def test_the_document_that_was_here_already_is_word_enough(tmp_path: Path) -> None:
    async def story(one: Boot) -> None:
        assert await one.rests() == []
        await one.offer(wanting(pod("web")), b"signed")
        await one.until_running("web")

    boot(tmp_path, [pod("web")], story)


def test_a_hub_that_keeps_silent_is_waited_for_ten_seconds(tmp_path: Path) -> None:
    async def story(one: Boot) -> None:
        one.now += 9.9
        assert await one.rests() == []
        one.now += 0.2
        one.daemon.look_again()
        await one.until_running("web")

    boot(tmp_path, [pod("web")], story)


def test_a_node_without_a_hub_starts_its_pods_at_once(tmp_path: Path) -> None:
    async def story(one: Boot) -> None:
        await one.until_running("web")

    boot(tmp_path, [pod("web")], story, link=LinkState.LOCAL)


def test_a_node_without_a_line_starts_its_pods_when_a_cable_would_have_come_up(tmp_path: Path) -> None:
    async def story(one: Boot) -> None:
        assert await one.rests() == []
        one.now += 3.0
        one.daemon.look_again()
        await one.until_running("web")

    boot(tmp_path, [pod("web")], story, line=False)
