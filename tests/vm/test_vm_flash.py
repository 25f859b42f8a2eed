"""A stock Debian without internet becomes a node by Ansible over ssh: what its owner does, and what is left afterwards.

The playbook runs as a person's would: from ansible/, as an account with sudo, with an inventory of one board.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloudlink.cli.resources import apply
from tests.houses import container_status, deployment
from tests.vm import image
from tests.vm.fleet import Fleet
from tests.vm.image import ROOT
from tests.vm.lifetime import a_machine, notes_of
from tests.vm.machine import OPTIONS, Machine
from tests.vm.node import PARENT, Node
from tests.vm.playbook import a_checkout

NAME = "board"
PATIENCE = 1800.0  # seconds for one run; an emulated board makes a virtual environment in one or two minutes
APP = "sensor"
# Names below the places that a node writes to; not what the system itself keeps about packages, time and byte code.
FILES = (
    "find /boot /etc /home /opt /root /srv /usr /var -xdev ! -path '*/__pycache__*' ! -path '*/.ansible*'"
    " ! -path '/var/cache/*' ! -path '/var/lib/dpkg/*' ! -path '/var/lib/apt/*' ! -path '/var/lib/systemd/*'"
    " ! -path '/var/log/*' ! -path '/var/tmp/systemd-*' ! -path '/etc/ld.so.cache' ! -path '/etc/.pwd.lock'"
    " ! -name .sudo_as_admin_successful | sort"
)
OTHERS = (
    "dpkg-query -W -f '${Package}\\n'; ip -o link | cut -d: -f2; nft list tables 2>/dev/null || true;"
    " cut -d' ' -f2 /proc/mounts | grep edged || true; systemctl list-unit-files --no-legend '*edged*' | cut -d' ' -f1;"
    " find /run/edged* /sys/fs/cgroup -maxdepth 3 -name '*edged*' 2>/dev/null || true"
)


class Recap(NamedTuple):
    """:ivar line: as Ansible prints it. :ivar said: all that it printed."""

    code: int
    line: str
    said: str

    def count(self, what: str) -> int:
        found = re.search(rf"\b{what}=(\d+)", self.line)
        assert found, self.said[-6000:]
        return int(found[1])


class Board:
    """:ivar present: whether the last run made it a node."""

    def __init__(self, machine: Machine, fleet: Fleet, notes: list[str]) -> None:
        self.machine, self.fleet, self.notes = machine, fleet, notes
        self.node = Node(machine, notes)
        self.present = False
        self.work = machine.folder / "control"
        self.work.mkdir()
        self.inventory = self.work / "inventory.json"
        self.inventory.write_text(json.dumps(self.hosts()))

    def hosts(self) -> dict[str, Any]:
        board = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.machine.port(22),
            "ansible_user": "admin",
            "ansible_ssh_private_key_file": os.fspath(self.machine.image.key),
            "ansible_ssh_common_args": " ".join(OPTIONS),
        }
        token = [sys.executable, "-m", "cloudlink.hub", "token", "create", "--config", os.fspath(self.fleet.hub_toml)]
        nodes = {
            "node_hub": "desk",
            "node_token_command": token,
            "node_offline": True,
            "node_kubeconfig": os.fspath(self.fleet.kubeconfig),
            "node_cache": os.fspath(self.work / "cache"),
            "node_timeout": 1200,
            "node_settings": {"labels": {"edged.io/site": "roof"}},
            "node_commit": 30,
            "node_journal": "volatile",
        }
        return {
            "all": {"hosts": {"desk": {"ansible_connection": "local", "ansible_become": False}}},
            "nodes": {"hosts": {NAME: board}, "vars": nodes},
        }

    def play(self, what: str, *words: str) -> Recap:
        """One run, told in the notes."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
        environment |= {"HOME": os.fspath(self.work), "ANSIBLE_NOCOLOR": "1", "PYTHONPATH": os.fspath(ROOT)}
        program = Path(sys.executable).parent / "ansible-playbook"
        argv = ["nice", "-n", "19", os.fspath(program), "-i", os.fspath(self.inventory), "site.yml", *words]
        done = subprocess.run(
            argv, cwd=ROOT / "ansible", env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        said = done.stdout + done.stderr
        (self.work / f"{what.replace(' ', '-')}.log").write_text(said)
        line = next((text for text in said.splitlines() if re.match(rf"{NAME}\s+: ok=", text)), "")
        self.notes.append(f"ansible, {what}: {' '.join(line.split())}")
        return Recap(done.returncode, line, said)

    def flash(self, what: str = "the first run") -> Recap:
        recap = self.play(what)
        assert recap.code == 0, recap.said[-8000:]
        self.present = True
        return recap

    def everything(self) -> set[str]:
        """Files, packages, links, tables, mounts, units and cgroups, by name."""
        return {*self.machine.run(FILES).splitlines(), *self.machine.run(OTHERS).splitlines()}

    def pods(self) -> list[dict[str, Any]]:
        return [p for p in self.fleet.pods() if p["metadata"].get("labels", {}).get("app") == APP]

    def run_pods(self) -> dict[str, int]:
        """First processes by pod uid of two pods of a Deployment, which is applied where it isn't yet."""
        with contextlib.suppress(AssertionError):
            return self.pids()
        archive = self.work / "probe.tar"
        self.fleet.python(os.fspath(ROOT / "images" / "build.py"), "probe", "--output", os.fspath(archive))
        self.machine.write("/var/tmp/probe.tar", archive.read_bytes())
        self.machine.run("edged image import /var/tmp/probe.tar && rm /var/tmp/probe.tar", timeout=600.0)
        apply(self.fleet.client, deployment(APP, 2))
        self.fleet.wait("two pods to run", lambda: self.running() == 2, lambda: str([p["status"] for p in self.pods()]))
        return self.pids()

    def running(self) -> int:
        pods = self.pods()
        return sum(p["status"].get("phase") == "Running" and container_status(p)["ready"] for p in pods)

    def pids(self) -> dict[str, int]:
        found = {uid: process.pid for uid, process in self.node.processes().items()}
        assert len(found) == 2, found
        return found

    def away(self) -> float:
        """Seconds without a daemon that was ready, until its last start."""
        said = self.machine.run("journalctl -b -u edged -o short-unix --no-pager | grep -E '(Stopping|Started) edged'")
        words = [(float(line.split()[0]), "Stopping" in line) for line in said.splitlines()]
        [*_, stopped] = [when for when, stopping in words if stopping]
        return words[-1][0] - stopped

    def versions(self) -> dict[str, Any]:
        listed: dict[str, Any] = json.loads(self.machine.run("edged-version list --json"))
        return listed


@pytest.fixture(scope="module")
def board(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Board]:
    with a_machine(request, image.build("stock"), name="flash") as machine:
        machine.boot()
        one = Board(machine, fleet, notes_of(request))
        # The hub is in the board's own network; nothing else is to be had.
        machine.run("ip route del default")
        # A watchdog, as every Pi has one; but an emulator may hang for a while, so it only says that it would bite.
        machine.run("modprobe softdog soft_noboot=1")
        yield one


@pytest.fixture
def flashed(board: Board) -> Board:
    """A node, whatever the test before left."""
    if not board.present:
        board.flash()
    return board


def test_a_check_of_a_fresh_board_says_what_would_be_done_and_changes_nothing(board: Board) -> None:
    if board.present:  # the tests came in another order
        board.play("absent before a check", "-e", "state=absent")
        board.present = False
    before = board.everything()
    recap = board.play("--check on a fresh board", "--check")
    assert recap.code == 0, recap.said[-8000:]
    assert recap.count("changed") >= 6
    assert not board.everything() ^ before


@pytest.mark.vm_ci
def test_a_flashed_board_is_ready_at_its_hub_and_runs_what_the_hub_says(flashed: Board) -> None:
    assert flashed.fleet.node_is(NAME)
    assert flashed.fleet.nodes()[NAME]["metadata"]["labels"]["edged.io/site"] == "roof"
    assert len(flashed.run_pods()) == 2
    for process in flashed.node.processes().values():
        assert process.cgroup.startswith(f"{PARENT}/uid-") or process.cgroup.startswith(f"{PARENT}/")
    state = flashed.node.properties("ActiveState", "UnitFileState", "Type")
    assert state == {"ActiveState": "active", "UnitFileState": "enabled", "Type": "notify"}
    status = flashed.machine.run("systemctl status --no-pager --lines=3 edged | cat")
    exposure = flashed.machine.run("systemd-analyze security --no-pager edged | tail -n 1")
    flashed.notes += [f"  {line}" for line in (*status.splitlines(), exposure.strip())]
    assert flashed.machine.run("cat /sys/class/watchdog/watchdog0/state").strip() == "active"
    assert "commit=30" in flashed.machine.run("findmnt -no OPTIONS /")
    assert "volatile" in flashed.machine.run("systemd-analyze cat-config systemd/journald.conf | grep Storage=v")


@pytest.mark.vm_ci
def test_a_second_run_and_its_check_change_nothing(flashed: Board) -> None:
    for what, words in (("the second run", ()), ("--check on a node", ("--check",))):
        recap = flashed.play(what, *words)
        assert recap.code == 0, recap.said[-8000:]
        assert recap.count("changed") == 0, recap.said[-8000:]


def test_an_upgrade_leaves_every_process_of_a_pod_alone(flashed: Board) -> None:
    before, daemon, pids = flashed.versions()["current"], flashed.node.daemon(), flashed.run_pods()
    newer = a_checkout(flashed.work / "newer", "edged/errors.py", "# a newer one")
    recap = flashed.play("an upgrade", "-e", f"node_checkout={newer}")
    assert recap.code == 0, recap.said[-8000:]
    after = flashed.versions()
    assert after["current"] != before
    assert after["previous"] == before
    assert after["trial"] is None
    assert flashed.node.daemon() != daemon
    assert flashed.pids() == pids


def test_an_upgrade_that_does_not_come_up_is_undone_and_the_run_says_why(flashed: Board) -> None:
    before, pids = flashed.versions()["current"], flashed.run_pods()
    broken = a_checkout(flashed.work / "broken", "edged/daemon.py", 'raise RuntimeError("broken on purpose")')
    recap = flashed.play("an upgrade that fails", "-e", f"node_checkout={broken}")
    assert recap.code != 0
    assert recap.count("failed") == 1
    assert "did not come up and the board is back on" in " ".join(recap.said.split())
    assert "broken on purpose" in recap.said
    flashed.notes.append(f"an upgrade that fails: {flashed.away():.0f} s without a daemon")
    assert flashed.versions()["current"] == before
    assert flashed.node.properties("ActiveState") == {"ActiveState": "active"}
    assert flashed.pids() == pids
    flashed.fleet.until_ready(NAME)
    again = flashed.play("the same again", "-e", f"node_checkout={broken}")
    assert again.code != 0
    assert "`switch --again` tries it once more" in " ".join(again.said.split())
    assert flashed.pids() == pids


def test_state_absent_leaves_nothing_of_a_node(flashed: Board) -> None:
    flashed.run_pods()
    recap = flashed.play("state=absent", "-e", "state=absent")
    assert recap.code == 0, recap.said[-8000:]
    flashed.present = False
    assert not {name for name in flashed.everything() if "edged" in name or name in ("crun", "conmon", "dnsmasq-base")}
    assert "commit=30" not in flashed.machine.run("cat /etc/fstab")
    assert flashed.machine.run("cat /sys/class/watchdog/watchdog0/state").strip() == "inactive"
    assert NAME not in flashed.fleet.nodes()
    again = flashed.play("state=absent again", "-e", "state=absent")
    assert again.code == 0
    assert again.count("changed") == 0
