"""Two boards and one playbook: at once, one after the other, and a bad version that reaches the first one only.

The boards differ in what they are told, as boards of a fleet do: what is made on the control machine once for a batch
has to do for all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.vm import image
from tests.vm.fleet import Fleet
from tests.vm.hardware import Hardware
from tests.vm.lifetime import a_machine, notes_of
from tests.vm.machine import Machine
from tests.vm.playbook import Inventory, Run, a_checkout

HARDWARE = Hardware(cores=1)  # of each: an emulated core uses one of ours
PAGE = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8470/ || true"
SWAP = "cat /proc/swaps; systemctl is-active edged-zram"


class Two(NamedTuple):
    """:ivar plain: comes first in its batches. :ivar rich: has the page and compressed swap."""

    plain: Machine
    rich: Machine
    fleet: Fleet
    inventory: Inventory
    notes: list[str]

    def play(self, what: str, *words: str, fails: bool = False, **variables: object) -> Run:
        run = self.inventory.play(*words, variables=variables, fails=fails)
        self.notes.extend(f"ansible, two boards, {what}: {' '.join(line.split())}" for line in run.recap_lines())
        return run


@pytest.fixture(scope="module")
def two(request: pytest.FixtureRequest, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    stock = image.build("stock")
    with (
        a_machine(request, stock, HARDWARE, "plain") as plain,
        a_machine(request, stock, HARDWARE, "rich") as rich,
    ):
        for machine in (plain, rich):
            machine.boot()
            machine.run("ip route del default")  # no internet; the hub is in the board's own network
        folder = tmp_path_factory.mktemp("control")
        token = [sys.executable, "-m", "cloudlink.hub", "token", "create", "--config", str(fleet.hub_toml)]
        of_all = {
            "node_hub": "desk",
            "node_token_command": token,
            "node_offline": True,
            "node_kubeconfig": str(fleet.kubeconfig),
            "node_cache": str(folder / "cache"),
            "node_timeout": 1200,
        }
        inventory = Inventory(folder)
        inventory.add_control("desk")
        inventory.add("nodes", "plain", plain, **of_all, node_settings={"labels": {"place": "roof"}})
        more = {"node_settings": {"labels": {"place": "cellar"}}, "node_swap": "zram", "node_dashboard": True}
        inventory.add("nodes", "rich", rich, **of_all, **more)
        yield Two(plain, rich, fleet, inventory, notes_of(request))


@pytest.fixture
def flashed(two: Two) -> Two:
    """Both are nodes, made in one batch."""
    if not {"plain", "rich"} <= two.fleet.nodes().keys():
        # The second one alone lacks the packages: in a fleet that grows, boards are of different ages.
        two.play("the first alone, its packages", "-l", "plain", "-t", "packages")
        run = two.play("both at once", batches=[2])
        assert {host: counts["failed"] for host, counts in run.recap.items()} == {"plain": 0, "rich": 0}
    return two


def test_boards_of_one_batch_get_what_each_of_them_needs(flashed: Two) -> None:
    flashed.fleet.until_ready("plain", "rich")
    places = {name: node["metadata"]["labels"].get("place") for name, node in flashed.fleet.nodes().items()}
    assert places == {"plain": "roof", "rich": "cellar"}
    swap = flashed.rich.run(SWAP)
    assert "/dev/zram0" in swap
    assert swap.splitlines()[-1] == "active"
    assert "zram" not in flashed.plain.run("cat /proc/swaps")
    flashed.notes.append(f"zram: {flashed.rich.run('cat /proc/swaps').splitlines()[-1]}")
    asked = "systemctl is-enabled edged-dashboard.socket; ss -Hltn sport = :8470 | wc -l"
    assert flashed.rich.run(asked).split() == ["enabled", "1"]
    assert flashed.plain.try_run(asked).stdout.decode().split()[-1] == "0"


def test_a_second_run_in_batches_of_one_changes_nothing_on_either(flashed: Two) -> None:
    run = flashed.play("in the usual batches")
    assert {host: counts["changed"] for host, counts in run.recap.items()} == {"plain": 0, "rich": 0}, run.said[-8000:]
    assert run.said.count("PLAY [Flash the nodes]") == 2


def test_a_version_that_does_not_come_up_stops_at_the_first_board(flashed: Two) -> None:
    words = "basename $(readlink /opt/edged/current); systemctl show -P MainPID edged"
    before, plain = flashed.rich.run(words), flashed.plain.run(words).split()[0]
    broken = a_checkout(flashed.inventory.folder / "broken", "edged/daemon.py", 'raise RuntimeError("on purpose")')
    run = flashed.play("a bad version", node_checkout=str(broken), fails=True)
    assert run.recap["plain"]["failed"] == 1
    assert "rich" not in run.recap, "the second batch was begun"
    assert flashed.rich.run(words) == before
    assert flashed.plain.run(words).split()[0] == plain
    flashed.fleet.until_ready("plain", "rich")


def test_what_a_board_is_no_longer_told_goes_and_state_absent_takes_the_rest(flashed: Two) -> None:
    """Each board's own: swap and page of one of them, nothing that the other had of its own."""
    run = flashed.play("without swap and page", "-l", "rich", node_swap="keep", node_dashboard=False)
    assert run.recap["rich"]["failed"] == 0
    assert "zram" not in flashed.rich.run("cat /proc/swaps")
    assert flashed.rich.run("ss -Hltn sport = :8470; ls /etc/systemd/system | grep -E 'zram|dashboard' || true") == ""
    flashed.fleet.until_ready("plain", "rich")
    gone = flashed.play("state=absent", batches=[2], state="absent")
    assert {host: counts["failed"] for host, counts in gone.recap.items()} == {"plain": 0, "rich": 0}
    for machine in (flashed.plain, flashed.rich):
        assert machine.run("systemctl list-unit-files --no-legend '*edged*'; ls /opt /etc | grep edged || true") == ""
    assert not {"plain", "rich"} & flashed.fleet.nodes().keys()
