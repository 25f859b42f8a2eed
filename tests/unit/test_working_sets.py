"""What is learned of containers' memory: in few bytes, told seldom, outliving pods and the daemon."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.decide import working_sets
from edged.decide.working_sets import Learned, learn, size_of, step_of, told
from edged.learning import DAY, NAME, WorkingSets
from edged.model import Container, ContainerPhase, ContainerState, Desired, Observed, Pod

MIB = 1 << 20


def taught(*samples: int, peak: int = 0, known: Learned | None = None) -> Learned:
    known = known or Learned()
    for n, used in enumerate(samples):
        known = learn(known, used, peak, n)
    return known


@given(st.integers(0, 1 << 40))
def test_numbers_are_rounded_up_by_an_eighth_at_most(count: int) -> None:
    rounded = size_of(step_of(count))
    assert count <= rounded
    assert rounded <= max(count * 1.123 + 1024, working_sets.LEAST)


def test_nothing_is_told_of_a_start() -> None:
    assert told(taught(MIB, 2 * MIB, 3 * MIB, 4 * MIB)) == (0, 0)
    assert told(None) == (0, 0)


def test_a_spike_is_a_peak_and_no_working_set() -> None:
    known = taught(*[10 * MIB] * 60, 50 * MIB, *[10 * MIB] * 60)
    p95, peak = told(known)
    assert 10 * MIB <= p95 <= 11.3 * MIB
    assert 50 * MIB <= peak <= 56.2 * MIB


def test_what_the_kernel_saw_between_two_samples_counts_as_peak() -> None:
    assert told(taught(*[10 * MIB] * 20, peak=70 * MIB))[1] >= 70 * MIB


def test_a_step_that_does_not_stay_is_not_told() -> None:
    known = taught(*[10 * MIB] * 200)
    before = told(known)
    grown = taught(*[40 * MIB] * (working_sets.STAYED - 1), known=known)
    assert told(grown) == before
    settled = taught(*[40 * MIB] * 400, known=known)
    assert told(settled)[0] >= 40 * MIB


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(4 * MIB, 64 * MIB))
def test_a_container_that_breathes_changes_the_status_a_few_times_at_most(dice: Random, size: int) -> None:
    known, numbers = Learned(), []
    for n in range(400):
        known = learn(known, dice.randint(size, size * 9 // 8), 0, n)
        if not numbers or numbers[-1] != told(known):
            numbers.append(told(known))
    assert len(numbers) <= 5


def test_old_times_count_less_and_the_histogram_stays_small() -> None:
    known = taught(*[100 * MIB] * working_sets.REMEMBERED)
    assert known.samples < working_sets.REMEMBERED
    known = taught(*[10 * MIB] * 3 * working_sets.REMEMBERED, known=known)
    assert told(known)[0] < 12 * MIB
    assert told(known)[1] < 12 * MIB  # even the peak is forgotten after two periods
    assert len(known.steps) <= 3


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("nginx", "nginx"),
        ("nginx:1.25", "nginx"),
        ("localhost:5000/a/b:1@sha256:" + "0" * 64, "localhost:5000/a/b"),
        ("localhost:5000/a", "localhost:5000/a"),
    ],
)
def test_a_new_version_of_an_image_is_the_same_kind(image: str, repository: str) -> None:
    pod = Pod("ns", "app-5d4f", "u", (Container("main", image),))
    assert working_sets.kind_of(pod, pod.containers[0]) == f"ns/main/{repository}"


def test_only_so_many_kinds_are_remembered_the_newest_first() -> None:
    known = {f"k{n}": Learned(seen=n) for n in range(working_sets.KINDS + 50)}
    kept = working_sets.bounded(known)
    assert len(kept) == working_sets.KINDS
    assert "k0" not in kept
    assert f"k{working_sets.KINDS + 49}" in kept


# ---------------------------------------------------------------- kept


class House:
    """A node with one pod, whose clock and memory the test moves."""

    def __init__(self, folder: Path) -> None:
        self.state, self.run = folder / "state", folder / "run"
        self.state.mkdir()
        self.run.mkdir()
        self.now = 100.0
        self.used = 10 * MIB
        self.pod = Pod("ns", "app-1", "uid-1", (Container("main", "x:1"),))

    def sets(self) -> WorkingSets:
        made = WorkingSets(self.state, self.run, lambda _: (self.used, self.used), lambda: self.now)
        made.load()
        return made

    def minutes(self, sets: WorkingSets, count: int) -> int:
        """How often something new was told."""
        desired = Desired("f", "n", 1, (self.pod,))
        running = ContainerState("uid-1.main.0", "uid-1", "main", 0, "", ContainerPhase.RUNNING)
        told_anew = 0
        for _ in range(count):
            self.now += 60.0
            told_anew += sets.sample(desired, Observed((running,)))
        return told_anew

    def ask(self, sets: WorkingSets) -> tuple[int, int]:
        return sets(self.pod, self.pod.containers[0])


def test_what_was_learned_outlives_the_pod_and_the_daemon(tmp_path: Path) -> None:
    house = House(tmp_path)
    first = house.sets()
    assert house.minutes(first, 30) == 1
    known = house.ask(first)
    assert known[0] >= 10 * MIB
    house.pod = Pod("ns", "app-2", "uid-2", (Container("main", "x:2"),))
    assert house.ask(house.sets()) == known  # a daemon that was killed: from run_dir
    assert not (house.state / NAME).exists()


def test_the_disk_is_written_once_a_day_and_only_with_news(tmp_path: Path) -> None:
    house = House(tmp_path)
    sets = house.sets()
    house.minutes(sets, 30)
    assert not (house.state / NAME).exists()
    house.now += DAY
    house.minutes(sets, 1)
    written = (house.state / NAME).stat().st_mtime_ns
    assert (house.state / NAME).stat().st_size < 300
    for _ in range(3):
        house.now += DAY
        house.minutes(sets, 5)
    assert (house.state / NAME).stat().st_mtime_ns == written
    sets.save()  # at the end likewise
    assert (house.state / NAME).stat().st_mtime_ns == written


def test_after_a_power_cut_what_the_disk_has_is_known(tmp_path: Path) -> None:
    house = House(tmp_path)
    sets = house.sets()
    house.minutes(sets, 30)
    sets.save()
    (house.run / NAME).unlink()
    assert house.ask(house.sets()) == house.ask(sets)


def test_a_broken_file_is_learned_anew(tmp_path: Path) -> None:
    house = House(tmp_path)
    (house.state / NAME).write_bytes(b"\xc1 not msgpack")
    (house.run / NAME).write_bytes(b"")
    sets = house.sets()
    assert house.ask(sets) == (0, 0)
    house.minutes(sets, 30)
    assert house.ask(sets)[0] > 0


def test_a_disk_that_takes_nothing_stops_no_learning(tmp_path: Path) -> None:
    house = House(tmp_path)
    sets = house.sets()
    house.state.rmdir()
    house.now += DAY
    house.minutes(sets, 30)
    assert house.ask(sets)[0] > 0
