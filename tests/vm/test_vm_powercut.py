"""A board that loses its power at any moment: 20 cuts, or as many as CUTS says (`make test-powercut`: 200).

Two boards are cut at the same time, each with an emulator of one core, where BOARDS doesn't say otherwise. The plan of
the cuts comes from SEED; a run prints its own. Where something is wrong after a cut, the card as the cut has left it
stays, with what was found.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.fakes.registries import needs_registry
from tests.vm import image, installed
from tests.vm.hardware import Hardware
from tests.vm.image import ROOT
from tests.vm.lifetime import notes_of
from tests.vm.powercut.board import Board
from tests.vm.powercut.campaign import HEAD, Campaign, plan, summary
from tests.vm.powercut.home import a_home

CUTS = int(os.environ.get("CUTS", "20"))
BOARDS = int(os.environ.get("BOARDS", "2"))
CORES = 2  # of all boards together
CI = os.environ.get("CI") == "true"  # the same plan each time: a new find belongs to whoever looks for it at home


@needs_registry
@pytest.mark.root
@pytest.mark.vm_ci
def test_a_board_that_loses_its_power_at_any_moment_comes_back_whole(request: pytest.FixtureRequest) -> None:
    assert not (missing := image.missing_tools()), f"apt-get install --no-install-recommends {' '.join(missing)}"
    seed = int(os.environ.get("SEED") or (7 if CI else random.SystemRandom().randrange(1 << 32)))
    notes = notes_of(request)
    notes.append(f"power cuts: replay with SEED={seed} CUTS={CUTS} BOARDS={BOARDS} make test-powercut")
    folder = Path(tempfile.mkdtemp(prefix="edged-powercut-"))
    campaigns: list[Campaign] = []
    troubles: list[str] = []
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s {line}", file=sys.__stderr__, flush=True)

    try:
        wheels = _wheels(folder)
        with a_home(folder / "home") as home:
            home.an_image("base:1")
            cores = max(1, CORES // BOARDS)
            ready = installed.build()
            for n in range(BOARDS):
                node = f"board-{n + 1}"
                board = Board(ready, _new(folder / node), Hardware(cores=cores))
                campaigns.append(Campaign(home, wheels, board, node, tell))
            shares = [CUTS // BOARDS + (n < CUTS % BOARDS) for n in range(BOARDS)]
            threads = [
                threading.Thread(target=_run, args=(campaign, seed, count, troubles), name=campaign.node)
                for campaign, count in zip(campaigns, shares, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        for campaign in campaigns:
            campaign.board.cut_power()
        notes += [HEAD, *(f"{c.node} {line.text()}" for c in campaigns for line in c.lines)]
        notes += summary([line for c in campaigns for line in c.lines])
        wrong = troubles + [failure for c in campaigns for failure in c.failures]
        _tidy(folder, campaigns, bool(wrong))
    assert not wrong, f"SEED={seed}, cards and findings are in {folder}\n" + "\n".join(wrong)


def _run(campaign: Campaign, seed: int, count: int, troubles: list[str]) -> None:
    try:
        campaign.join()
        campaign.run(plan(seed, campaign.node, count))
    except Exception as e:  # noqa: BLE001 (of a thread: told by the test)
        troubles.append(f"{campaign.node}, after {len(campaign.lines)} cuts: {type(e).__name__}: {e}")


def _wheels(folder: Path) -> Path:
    made = folder / "wheels"
    words = ["--output", str(made), "--arch", "amd64", "--python", f"3.{sys.version_info.minor}"]
    subprocess.run([sys.executable, str(ROOT / "tools" / "wheelhouse.py"), *words], check=True, capture_output=True)
    return made


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tidy(folder: Path, campaigns: list[Campaign], wrong: bool) -> None:
    """Nothing stays of a good run; of a bad one what tells why."""
    if not wrong:
        shutil.rmtree(folder)
        return
    for campaign in campaigns:
        for file in campaign.board.folder.iterdir():
            if file.name not in ("failed.img", "failed.json", "console.log", "emulator.log"):
                file.unlink()
    for name in ("wheels", "home"):
        shutil.rmtree(folder / name, ignore_errors=True)
