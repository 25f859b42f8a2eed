"""A full disk and a machine out of processes: limits always, pressure one pod at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec.structs import replace

from edged.apply import Outcome
from edged.decide import starvation
from edged.decide.starvation import Use
from edged.decide.steps import EndPod
from edged.learning import WorkingSets
from edged.model import Container, Desired, EmptyDir, Limits, Observed, Pod, SandboxState, Volume
from edged.runtime import storage_use
from edged.runtime.storage_use import StorageUse
from edged.upkeep import Upkeep, eviction_mark

MIB = 1 << 20
GIB = 1 << 30


def pod(name: str, limits: Limits | None = None, size: int | None = None, priority: int = 0) -> Pod:
    volumes = (Volume("scratch", EmptyDir(size_limit=size)),) if size else ()
    main = Container("main", "x", limits=limits or Limits())
    return Pod("ns", name, f"uid-{name}", (main,), volumes, priority=priority)


def test_a_pod_above_a_limit_of_its_own_is_evicted_with_the_number_and_the_limit() -> None:
    layer = Use(pod("a", Limits(storage_limit=10 * MIB)), 12 * MIB, layers=(("main", 12 * MIB),))
    whole = Use(pod("b", Limits(storage_limit=10 * MIB)), 12 * MIB, (("scratch", 12 * MIB),), (("main", 0),))
    sized = Use(pod("c", size=10 * MIB), 12 * MIB, (("scratch", 12 * MIB),))
    fine = Use(pod("d", Limits(storage_limit=13 * MIB), size=13 * MIB), 12 * MIB, (("scratch", 12 * MIB),))
    steps = starvation.over_limits([layer, whole, sized, fine])
    assert [(s.title, s.message) for s in steps] == [
        ("ns/a", "container main has written 12 MiB, its ephemeral-storage limit is 10 MiB"),
        ("ns/b", "the pod uses 12 MiB of storage, its limit is 10 MiB"),
        ("ns/c", 'emptyDir "scratch" uses 12 MiB, its sizeLimit is 10 MiB'),
    ]


def test_a_full_disk_costs_the_largest_of_those_above_their_request_first() -> None:
    asked = Limits(storage_request=100 * MIB, memory_request=MIB)
    uses = [
        Use(pod("asked", asked), 90 * MIB),
        Use(pod("above", asked), 120 * MIB),
        Use(pod("small"), 10 * MIB),
        Use(pod("large"), 80 * MIB),
        Use(pod("large and important", priority=7), 90 * MIB),
        Use(pod("tiny"), MIB),
        Use(pod("system", priority=starvation.CRITICAL_PRIORITY), 200 * MIB),
    ]
    gone = []
    while uses:
        (step,) = starvation.for_disk(10 * MIB, 100 * MIB, uses) or [None]
        if step is None:
            break
        gone.append(step.title.removeprefix("ns/"))
        uses = [u for u in uses if u.pod.uid != step.pod_uid]
    assert gone == ["large", "small", "large and important", "above", "asked", "tiny"]
    assert starvation.for_disk(100 * MIB, 100 * MIB, [Use(pod("large"), 80 * MIB)]) == []


def test_who_has_most_processes_goes_when_there_are_none_left() -> None:
    uses = [Use(pod("bomb"), processes=3000), Use(pod("web"), processes=5)]
    assert starvation.for_processes(900, 1000, uses) == []
    (step,) = starvation.for_processes(960, 1000, uses)
    assert step.pod_uid == "uid-bomb"
    assert step.message == "the node was short of processes (960 of 1000); the pod had 3000"
    assert starvation.for_processes(960, 0, uses) == []


def test_pods_are_evicted_later_than_images_are_collected() -> None:
    assert eviction_mark(32 * GIB) == GIB
    assert eviction_mark(8 * GIB) < 8 * GIB * 15 // 100
    assert eviction_mark(100 * MIB) == 32 * MIB


# ---------------------------------------------------------------- measured


def test_storage_is_counted_by_volume_and_by_container(tmp_path: Path) -> None:
    for name, size in (
        ("volumes/data/a", 300),
        ("volumes/data/deep/b", 200),
        ("main-0/upper/x", 100),
        ("main-1/upper/y", 50),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size * 1024)
    (tmp_path / "main-0/work").mkdir()
    (tmp_path / "volumes/data/link").symlink_to("/")
    found = storage_use.measure(tmp_path)
    (data,), (main,) = found.volumes, found.layers
    assert data[0] == "data"
    assert 500 * 1024 <= data[1] < 530 * 1024
    assert main[0] == "main"
    assert 150 * 1024 <= main[1] < 180 * 1024
    assert storage_use.measure(tmp_path / "nowhere") == StorageUse()


# ---------------------------------------------------------------- once a minute


class Board:
    """Implements upkeep.Machine."""

    def __init__(self) -> None:
        self.free, self.total = 4 * GIB, 8 * GIB
        self.used: dict[str, StorageUse] = {}
        self.there, self.most = 100, 1000
        self.counted = 0
        self.now = 1000.0
        self.broken = ("", "")

    def disk(self) -> tuple[int, int]:
        return self.free, self.total

    def storage(self, pod_uid: str) -> StorageUse:
        self.counted += 1
        return self.used.get(pod_uid, StorageUse())

    def processes(self) -> tuple[int, int]:
        return self.there, self.most

    def processes_of(self, pod_uid: str) -> int:
        return 10

    def trouble(self) -> tuple[str, str]:
        return self.broken

    def protect(self) -> None:
        pass


def upkeep(board: Board, folder: Path, *pods: Pod) -> tuple[Upkeep, Desired, Observed]:
    sets = WorkingSets(folder, folder, lambda _: (0, 0), lambda: board.now)
    made = Upkeep(board, sets, 60.0, lambda: board.now)
    desired = Desired("f", "n", 1, pods)
    observed = Observed(sandboxes=tuple(SandboxState(p.uid, p.title, "") for p in pods))
    made.steps(desired, observed, board.now)
    return made, desired, observed


def test_a_board_that_can_start_no_pod_says_so_until_it_can_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        board = Board()
        source, _, _ = upkeep(board, tmp_path)
        assert not await source.look()
        board.broken = ("ContainerRuntimeNotReady", "crun is missing")
        assert await source.look()
        [condition] = source.conditions
        assert (condition.kind, condition.reason, condition.message) == ("NotReady", *board.broken)
        assert not await source.look()
        board.broken = ("", "")
        assert await source.look()
        assert source.conditions == ()

    asyncio.run(scenario())


def test_files_are_counted_only_where_somebody_asks_and_the_disk_has_changed(tmp_path: Path) -> None:
    board = Board()
    source, _, _ = upkeep(board, tmp_path, pod("limited", Limits(storage_limit=GIB)), pod("free"))
    assert asyncio.run(source.look()) is False
    assert board.counted == 1
    asyncio.run(source.look())
    assert board.counted == 1
    board.free -= 5 * MIB
    asyncio.run(source.look())
    assert board.counted == 2


def test_an_eviction_stays_pending_until_it_is_done(tmp_path: Path) -> None:
    board = Board()
    source, desired, observed = upkeep(board, tmp_path, pod("limited", Limits(storage_limit=MIB)), pod("free"))
    board.used["uid-limited"] = StorageUse(layers=(("main", 9 * MIB),))
    assert asyncio.run(source.look()) is True
    (step,) = source.steps(desired, observed, board.now).steps
    assert isinstance(step, EndPod)
    assert (step.title, step.reason) == ("ns/limited", "Evicted")
    source.remember(Outcome(step, "the disk is full"))
    assert source.steps(desired, observed, board.now).steps == (step,)
    source.remember(Outcome(step))
    assert source.steps(desired, observed, board.now).steps == ()


def test_one_pod_at_a_time_goes_for_a_full_disk(tmp_path: Path) -> None:
    board = Board()
    board.free = 10 * MIB
    source, desired, observed = upkeep(board, tmp_path, pod("a"), pod("b"))
    board.used = {"uid-a": StorageUse(layers=(("main", 9 * MIB),)), "uid-b": StorageUse(layers=(("main", 8 * MIB),))}
    asyncio.run(source.look())
    (step,) = source.steps(desired, observed, board.now).steps
    assert isinstance(step, EndPod)
    assert step.pod_uid == "uid-a"
    asyncio.run(source.look())
    assert source.steps(desired, observed, board.now).steps == (step,)
    source.remember(Outcome(step))
    left = replace(observed, sandboxes=(replace(observed.sandboxes[0], evicted="Evicted"), observed.sandboxes[1]))
    source.steps(desired, left, board.now)
    asyncio.run(source.look())  # what `a` left is not enough
    (step,) = source.steps(desired, left, board.now).steps
    assert isinstance(step, EndPod)
    assert step.pod_uid == "uid-b"


def test_a_condition_says_that_processes_run_out_and_outlasts_it_a_little(tmp_path: Path) -> None:
    board = Board()
    source, _, _ = upkeep(board, tmp_path, pod("a"))
    board.there = 920
    assert asyncio.run(source.look()) is True
    (condition,) = source.conditions
    assert (condition.kind, condition.message) == ("PIDPressure", "920 of 1000 processes and threads are there")
    board.there, board.now = 100, board.now + 30.0
    asyncio.run(source.look())
    assert source.conditions == (condition,)
    board.now += 40.0
    assert asyncio.run(source.look()) is True
    assert source.conditions == ()


def test_a_disk_that_somebody_else_has_filled_costs_no_pod_its_life() -> None:
    uses = [Use(pod("a"), 64 << 10), Use(pod("b"), 4 << 10)]
    assert starvation.for_disk(0, 100 * MIB, uses) == []
    assert len(starvation.for_disk(0, 100 * MIB, [*uses, Use(pod("c"), 2 * MIB)])) == 1
