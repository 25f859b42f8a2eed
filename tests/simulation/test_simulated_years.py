"""A hundred node-years under faults, and that the simulation would tell: planted bugs are found, seeds replay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudlink import link
from cloudlink.hub.changes import PutRecord
from cloudlink.hub.documents import BUCKET
from cloudlink.hub.entries import Commit
from edged.decide.steps import Plan as Steps
from edged.decide.steps import StopContainer
from edged.model import ContainerPhase, Desired, Observed
from edged.sources import StepSource
from edged.uplink import Asked, Inbox
from tests.simulation.hub import FragileDatabase
from tests.simulation.simulation import Bugs, Plan, simulate

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("seed", range(1, 6))
def test_twenty_nodes_live_through_a_year_of_faults(seed: int) -> None:
    report = simulate(Plan(seed, nodes=20, days=365))
    print(report.text(60))
    assert not report.violations, report.text(60)
    assert report.node_years >= 20
    assert sum(report.faults.values()) >= 10 * report.node_years


@pytest.mark.parametrize("seed", [101, 102])
def test_a_few_nodes_live_through_a_month_of_storms(seed: int) -> None:
    report = simulate(Plan(seed, nodes=5, days=30, storm=10))
    print(report.text(60))
    assert not report.violations, report.text(60)


def test_a_seed_replays_exactly_in_another_process() -> None:
    def digest(hash_seed: str) -> str:
        command = [
            sys.executable,
            "-m",
            "tests.simulation",
            "--seed",
            "7",
            "--nodes",
            "4",
            "--days",
            "60",
            "--storm",
            "4",
        ]
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(line for line in done.stdout.splitlines() if "digest" in line)

    assert digest("1") == digest("2")


# ---------------------------------------------------------------- planted bugs


class DeafLink(link.MqttUplink):
    """A node that takes its first three documents, and none ever after."""

    async def run(self, inbox: Inbox, asked: Asked) -> None:
        await super().run(_Deaf(inbox), asked)


class _Deaf(Inbox):
    def __init__(self, inbox: Inbox) -> None:
        super().__init__(lambda: None)
        self._inbox, self._taken = inbox, 0

    def offer(self, desired: Desired, digest: bytes = b"") -> bool:
        self._taken += 1
        return self._taken <= 3 and self._inbox.offer(desired, digest)


class ForgetfulDatabase(FragileDatabase):
    """A hub that doesn't write down what it told its nodes."""

    @contextmanager
    def writing(self) -> Iterator[int]:
        with super().writing() as position:
            yield position

    def write(self, commit: Commit) -> None:
        kept = [r for r in commit.records if not (isinstance(r, PutRecord) and r.bucket == BUCKET)]
        super().write(commit._replace(records=kept))


class Vandal(StepSource):
    """Something on the node that ends what runs, without a reason."""

    degraded = conditions = ()

    def steps(self, desired: Desired | None, observed: Observed, now: float) -> Steps:
        old = [c for c in observed.containers if c.phase is ContainerPhase.RUNNING and now - c.started_at > 86400]
        return Steps(tuple(StopContainer(c, "for fun") for c in old[:1]), now + 86400)

    def remember(self, outcome: object) -> None:
        pass

    async def run(self, wake: Callable[[], None]) -> None:
        pass


def vandals() -> Sequence[StepSource]:
    return (Vandal(),)


def greedy(memory: int) -> int:
    """A board that says it has ten times what it has."""
    return 10 * memory


@pytest.mark.parametrize(
    ("bugs", "sentence"),
    [
        (Bugs(uplink=DeafLink), "not what the hub told it last"),
        (Bugs(database=ForgetfulDatabase), "two contents"),
        (Bugs(extra=vandals), "which its document wants"),
        (Bugs(claimed_memory=greedy), "are requested there of"),
    ],
    ids=["a node that ignores news", "a hub that forgets generations", "a node that stops pods", "a board that lies"],
)
def test_a_planted_bug_is_found_by_the_invariants(bugs: Bugs, sentence: str) -> None:
    found: list[str] = []
    for seed in range(1, 9):
        found = simulate(Plan(seed, nodes=3, days=40, storm=4, bugs=bugs)).violations
        if any(sentence in v for v in found):
            return
    raise AssertionError(f"nothing was noticed; the last run found {found}")
