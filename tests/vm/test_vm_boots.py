"""Boards that boot into trouble: a clock in the past, no network, another address, a disk without a byte free."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cloudlink.cli.resources import apply
from edged.control.protocol import Snapshot
from edged.model import LinkState, Phase
from tests.vm import installed
from tests.vm.fleet import Fleet
from tests.vm.hardware import Hardware
from tests.vm.lifetime import a_machine, notes_of
from tests.vm.machine import Machine
from tests.vm.node import ENABLE, IMAGE, MIB, Node

pytestmark = pytest.mark.root
NAME = "wanderer"
HARDWARE = Hardware(management=True, cores=1)  # why one: README.md
LABELS = {"app": "web"}
MANIFESTS: list[dict[str, Any]] = [
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": LABELS},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": NAME},
                    "terminationGracePeriodSeconds": 1,
                    "containers": [
                        {
                            "name": "main",
                            "image": IMAGE,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["/bin/sh", "-c", "echo here > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"],
                            "resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "4Mi"}},
                        }
                    ],
                },
            },
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": LABELS, "ports": [{"port": 80, "targetPort": 8080}]},
    },
]
# A board without a network card answers nobody; it says on its console what we would ask.
TELLER = """[Unit]
Description=says what runs, for a test
After=edged.service
[Service]
ExecStart=/bin/sh -c 'while sleep 2; do n=$(/opt/edged/current/bin/python -m edged status 2>&1 | grep -c Running); \
echo "pods running: $n." > /dev/ttyS0; done'
[Install]
WantedBy=multi-user.target
"""
# systemd sets a battery clock of 1970 to the day that it was built; a board whose systemd doesn't starts like this. Not
# 0: Linux refuses a time of day that is below the time since the boot.
NO_CLOCK = """[Unit]
Description=a clock that nobody has set, for a test
DefaultDependencies=no
Before=edged.service
[Service]
Type=oneshot
ExecStart=/bin/date -s @3600
[Install]
WantedBy=sysinit.target
"""


class Wanderer(Node):
    """A joined board with two pods behind a Service."""

    def __init__(self, machine: Machine, notes: list[str], fleet: Fleet) -> None:
        super().__init__(machine, notes)
        self.fleet = fleet

    def boots(self, **hardware: Any) -> None:
        """The power is cut, and comes back with other hardware around."""
        self.machine.cut_power()
        self.machine.hardware = replace(HARDWARE, **hardware)
        self.machine.boot()

    def runs_both(self) -> Snapshot:
        def holds(snapshot: Snapshot) -> bool:
            return len(snapshot.status.pods) == 2 and all(p.ready and p.phase is Phase.RUNNING for p in pods(snapshot))

        return self.until(holds, "both pods to run")

    def connects(self) -> Snapshot:
        return self.until(lambda s: s.hub.state is LinkState.CONNECTED, "the hub")

    def pids(self) -> set[int]:
        return {one.pid for one in self.processes().values()}

    def serves(self) -> None:
        """From inside a pod, by the Service's address. Debian's static busybox can't be asked: its wget crashes."""
        service = self.fleet.client.call("GET", "/api/v1/namespaces/default/services/web")
        address, pid = service["spec"]["clusterIP"], min(self.pids())
        http = f"exec 3<>/dev/tcp/{address}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3"
        ask = f"nsenter -t {pid} -n timeout 10 bash -c {shlex.quote(http)}"
        self.eventually(lambda: self.machine.try_run(ask).stdout == b"here\n", f"an answer from {address}")

    def eventually(self, true: Callable[[], bool], what: str, patience: float = 300.0) -> None:
        deadline = time.monotonic() + patience
        while not true():
            assert time.monotonic() < deadline, f"waited {patience:g} s for {what}\n{self.journal()}"
            time.sleep(1.0)

    def journal(self) -> str:
        return self.machine.try_run("journalctl -b -u edged -n 80 --no-pager").stdout.decode(errors="replace")


def pods(snapshot: Snapshot) -> Any:
    return snapshot.status.pods


@pytest.fixture(scope="module")
def board(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Wanderer]:
    with a_machine(request, installed.build(), HARDWARE, NAME) as machine:
        machine.boot()
        one = Wanderer(machine, notes_of(request), fleet)
        fleet.join_machine(machine, NAME)
        machine.run(ENABLE)
        fleet.until_ready(NAME)
        for manifest in MANIFESTS:
            apply(fleet.client, manifest)
        one.runs_both()
        machine.write("/etc/systemd/system/teller.service", TELLER)
        machine.write("/etc/systemd/system/no-clock.service", NO_CLOCK)
        machine.run("sync")
        yield one


@pytest.mark.vm_ci
def test_a_board_without_a_clock_runs_its_pods_and_finds_its_hub_and_survives_the_leap(board: Wanderer) -> None:
    board.machine.run("systemctl enable -q no-clock && sync")
    board.boots(clock="1970-01-01T00:00:00", link=False)
    board.runs_both()
    date = float(board.machine.run("date +%s"))
    assert date < 86400.0, "the first day of 1970"
    before = board.pids()
    board.machine.link(True)
    assert board.connects().hub.reason == ""
    board.fleet.until_ready(NAME)
    assert int(board.machine.run("cat /var/lib/edged/identity/floor")) > 1_735_689_600, "what the hub has signed last"
    board.notes.append(
        f"booted with a clock of {time.strftime('%F', time.gmtime(date))}: pods up, hub found in spite of today's dates"
    )
    board.machine.run(f"date -s @{time.time():.0f}")
    time.sleep(15.0)
    after = board.runs_both()
    board.machine.run("systemctl disable -q no-clock && sync")
    assert board.pids() == before, "nothing is restarted because the clock has jumped"
    assert not [e for e in after.status.events if e.reason == "Evicted"]
    assert not after.status.conditions


def test_a_board_that_has_never_a_right_clock_takes_what_is_new_from_its_hub(board: Wanderer) -> None:
    """A battery clock that is wrong for good, but not as much: the day that systemd was built."""
    board.boots(clock="1970-01-01T00:00:00")
    board.runs_both()
    board.connects()
    assert float(board.machine.run("date +%s")) < time.time() - 86400.0
    before = board.snapshot().generation
    manifest: dict[str, Any] = {**MANIFESTS[0], "spec": {**MANIFESTS[0]["spec"], "replicas": 1}}
    apply(board.fleet.client, manifest)
    board.until(lambda s: s.generation > before and len(s.status.pods) == 1, "one pod less")
    apply(board.fleet.client, MANIFESTS[0])
    board.runs_both()


@pytest.mark.vm_ci
def test_a_board_without_any_network_card_runs_its_pods(board: Wanderer) -> None:
    board.machine.run("systemctl enable -q teller && sync")
    board.machine.cut_power()
    board.machine.hardware = Hardware(network="none")
    board.machine.power_on()
    board.machine.until_console("pods running: 2.")
    board.boots()
    board.machine.run("systemctl disable -q --now teller && sync")
    board.runs_both()


def test_a_board_at_another_address_serves_as_before_and_tells_its_hub(board: Wanderer) -> None:
    board.boots(subnet="10.0.2.0/24", address="10.0.2.77")
    board.runs_both()
    board.connects()
    board.serves()

    def told() -> bool:
        addresses = (board.fleet.nodes()[NAME].get("status") or {}).get("addresses") or []
        return {"type": "InternalIP", "address": "10.0.2.77"} in addresses

    board.eventually(told, "the hub to know the new address")


def test_a_board_in_a_foreign_network_without_its_hub_serves_as_before(board: Wanderer) -> None:
    board.boots(subnet="192.168.77.0/24")
    assert board.runs_both().hub.state is LinkState.AWAY
    board.serves()
    assert board.snapshot().status.address.startswith("192.168.77.")


def test_a_board_with_a_full_disk_runs_its_pods_says_so_and_recovers_by_itself(board: Wanderer) -> None:
    machine = board.machine
    board.boots()
    board.runs_both()
    # 0 bytes free, for root, too: what mke2fs keeps for it is filled as well
    machine.run("fallocate -l $(($(stat -f -c '%f * %S' /var/lib) - (32 << 20))) /var/lib/ballast")
    machine.try_run("cat /dev/zero > /var/lib/ballast2 2>/dev/null; sync", timeout=600.0)
    free = int(machine.run("stat -f -c '%a' /var/lib/edged")) * 4096  # ext4 keeps 16 MiB more from root, too: not in it
    board.boots()
    up = board.runs_both()
    before = board.pids()
    pressed = board.until(lambda s: any(c.kind == "DiskPressure" for c in s.status.conditions), "DiskPressure")
    sentence = next(c.message for c in pressed.status.conditions if c.kind == "DiskPressure")
    board.notes.append(f"booted with {free} bytes free: {len(pods(up))} pods run; told: {sentence}")
    board.fleet.wait("the hub to know", lambda: board.fleet.node_is(NAME, "DiskPressure"))
    extra = json.loads(json.dumps(MANIFESTS[0]).replace('"web"', '"late"'))
    apply(board.fleet.client, extra)
    time.sleep(10.0)
    late = [p for p in board.fleet.pods() if p["metadata"]["labels"].get("app") == "late"]
    assert late, "the hub keeps them"
    assert not [p for p in late if (p.get("status") or {}).get("phase") == "Running"]
    assert board.pids() == before
    machine.run("rm /var/lib/ballast /var/lib/ballast2; sync")
    board.until(lambda s: not s.status.conditions, "the pressure to be over")

    def all_four() -> bool:
        there = board.fleet.pods()
        return len(there) == 4 and all((p.get("status") or {}).get("phase") == "Running" for p in there)

    board.eventually(all_four, "the new pods to run")
    assert before <= board.pids(), "those that ran were left alone"
    assert board.snapshot().budget.allocatable > MIB
