"""systemd on a booted node: upgrades on trial, the way back, power cuts, the watchdog's bite, the page on demand.

The waits of the units are shortened by a drop-in; what they wait for is the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.image import ROOT
from tests.vm.node import Node

PROBATION = 10.0
QUICK = f"""
[Service]
ExecStartPost=
ExecStartPost=-+/opt/edged/bin/edged-version confirm --after {PROBATION:g}
TimeoutStartSec=60
WatchdogSec=30
"""
VERSION = "/opt/edged/bin/edged-version"
VERSIONS = "/opt/edged/versions"
NEVER_LOADS = "raise ImportError('broken on purpose')\n"
NEVER_READY = "import time\ntime.sleep(100000)\n"
READY_THEN_GONE = "import sys, time\nfrom edged import systemd\nsystemd.notify('READY=1')\ntime.sleep(2)\nsys.exit(7)\n"
FETCH = """
import json, sys, urllib.request, urllib.error
headers = {"Authorization": f"Bearer {token}" for token in sys.argv[1:]}
asked = urllib.request.Request("http://127.0.0.1:8470/", headers=headers)
try:
    print(json.dumps(urllib.request.urlopen(asked, timeout=100).status))
except urllib.error.HTTPError as e:
    print(json.dumps(e.code))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels") / "good"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"  # the image is of this machine's release
    argv = [sys.executable, "tools/wheelhouse.py", "--output", str(folder), "--arch", "amd64", "--python", python]
    done = subprocess.run([*argv, "--extra", "dashboard"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def quick(whole_run: Node) -> Iterator[Node]:
    machine = whole_run.machine
    folder = "/etc/systemd/system/edged.service.d"
    machine.run(f"mkdir -p {folder} && cat > {folder}/quick.conf && systemctl daemon-reload", stdin=QUICK.encode())
    yield whole_run
    machine.run(f"{VERSION} switch source && systemctl restart edged", timeout=300.0)
    machine.run(f"rm {folder}/quick.conf && systemctl daemon-reload && systemctl restart edged", timeout=300.0)


@pytest.fixture(scope="module")
def good(quick: Node, wheels: Path) -> str:
    """A version that edged-version has installed in the machine, from a wheelhouse."""
    packed = subprocess.run(["tar", "-C", str(wheels), "-c", "."], check=True, capture_output=True).stdout
    quick.machine.write("/var/tmp/wheels.tar", packed)
    started = time.monotonic()
    version = quick.machine.run(f"{VERSION} install /var/tmp/wheels.tar", timeout=900.0).strip()
    quick.notes.append(f"edged-version install in the VM: {time.monotonic() - started:.0f} s")
    again = quick.machine.run(f"{VERSION} install /var/tmp/wheels.tar", timeout=300.0).strip()
    assert again == version  # it is there, and nothing is done
    quick.machine.run("rm /var/tmp/wheels.tar")
    return version


@pytest.fixture
def upgraded(good: str, node: Node) -> Node:
    """With the installed version in use, whatever the test before did."""
    if listed(node)["current"] != good:
        node.machine.run(f"{VERSION} switch {good} && systemctl restart edged", timeout=300.0)
        node.all_running()
    return node


def spoil(node: Node, good: str, name: str, daemon: str) -> str:
    """A copy of an installed version with another edged/daemon.py, as whole as that one. An install takes minutes."""
    bad = f"0.1.0-{name}"
    copy = f"cd {VERSIONS} && rm -rf {bad} && cp -a {good} {bad} && cd {bad} && touch .whole && cd lib/python3*"
    there = "cd site-packages/edged && rm __pycache__/daemon.* && cat > daemon.py && sync"
    node.machine.run(f"{copy} && {there}", stdin=daemon.encode(), timeout=300.0)
    return bad


def listed(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.machine.run(f"{VERSION} list --json"))
    return found


def pids(node: Node) -> dict[str, int]:
    return {uid: one.pid for uid, one in node.processes().items()}


def until(node: Node, holds: Callable[[], bool], what: str, patience: float = 600.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if holds():
            return
        time.sleep(2.0)
    journal = node.machine.run("journalctl -b -u edged -n 60 --no-pager")
    raise AssertionError(f"waited {patience:g} s for {what}\n{journal}")


def is_back(node: Node, good: str) -> Callable[[], bool]:
    def holds() -> bool:
        told = listed(node)
        return told["current"] == good and told["trial"] is None

    return holds


@pytest.mark.vm_ci
def test_an_upgrade_leaves_every_container_alone_and_is_good_after_a_while(good: str, node: Node) -> None:
    before = pids(node)
    node.machine.run(f"{VERSION} switch {good}")
    node.machine.run("systemctl restart edged", timeout=300.0)
    told = listed(node)
    assert (told["current"], told["trial"], told["previous"]) == (good, None, "source")
    node.all_running()
    assert pids(node) == before
    running = node.machine.run(f"tr '\\0' ' ' < /proc/{node.daemon()}/cmdline")
    assert running.startswith(f"{VERSIONS}/{good}/bin/python -m edged run")
    started = node.properties("ActiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic")
    lived = (int(started["ActiveEnterTimestampMonotonic"]) - int(started["ExecMainStartTimestampMonotonic"])) / 1e6
    assert lived >= PROBATION, "ExecStartPost= was given no MAINPID to watch"
    node.notes.append(node.machine.run("systemctl status edged --no-pager -n 6"))


def fails_and_goes_back(node: Node, good: str, bad: str, how: str) -> None:
    before = pids(node)
    node.machine.run(f"{VERSION} switch --again {bad}")
    assert node.machine.try_run("systemctl restart edged", timeout=300.0).returncode != 0
    until(node, is_back(node, good), "the version before")
    node.all_running()
    assert pids(node) == before
    failed = {v["version"]: v["failed"] for v in listed(node)["versions"]}[bad]
    assert failed["why"] == f"{bad} was not ready after 3 starts; the last one ended with {how}"
    assert f"back to {good}: {bad} was not ready" in node.machine.run("journalctl -b -u edged --no-pager -o cat")
    assert node.machine.try_run(f"{VERSION} switch {bad}").returncode == 1


@pytest.mark.vm_ci
def test_an_upgrade_that_never_loads_undoes_itself_and_says_why(upgraded: Node, good: str) -> None:
    fails_and_goes_back(upgraded, good, spoil(upgraded, good, "loads", NEVER_LOADS), "exit-code (exited 1)")
    upgraded.notes.append(f"{VERSION} list:\n{upgraded.machine.run(f'{VERSION} list')}")


def test_an_upgrade_that_ends_soon_after_it_was_ready_undoes_itself(upgraded: Node, good: str) -> None:
    fails_and_goes_back(upgraded, good, spoil(upgraded, good, "gone", READY_THEN_GONE), "exit-code (exited 7)")


def test_a_power_cut_in_the_middle_of_an_upgrade_that_hangs_ends_in_the_version_before(
    upgraded: Node, good: str
) -> None:
    node = upgraded
    bad = spoil(node, good, "hangs", NEVER_READY)
    node.machine.run(f"{VERSION} switch --again {bad} && systemctl restart --no-block edged")
    until(node, lambda: (listed(node)["trial"] or {"attempts": 0})["attempts"] > 0, "the first start on trial")
    node.machine.cut_power()
    node.machine.boot()
    told = listed(node)
    assert told["current"] in (good, bad)
    until(node, is_back(node, good), "the version before", 900.0)
    node.all_running()
    why = {v["version"]: v["failed"] for v in listed(node)["versions"]}[bad]["why"]
    assert why == f"{bad} was not ready after 3 starts; the last one ended with timeout (killed TERM)"


@pytest.mark.vm_ci
def test_a_daemon_that_hangs_is_bitten_and_the_next_one_adopts_every_container(upgraded: Node) -> None:
    node = upgraded
    before, daemon = pids(node), node.daemon()
    node.machine.run(f"kill -STOP {daemon}")
    until(node, lambda: node.daemon() not in (0, daemon), "another daemon", 300.0)
    node.all_running()
    assert pids(node) == before
    journal = node.machine.run("journalctl -b -u edged --no-pager -o cat")
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal  # and below it where it was stuck
    node.notes += [line for line in journal.splitlines() if "atchdog" in line]


def test_the_page_is_there_on_demand_behind_its_walls(upgraded: Node) -> None:
    node = upgraded
    node.machine.run("cp /opt/edged/src/systemd/edged-dashboard.* /etc/systemd/system/ && systemctl daemon-reload")
    node.machine.run("systemctl start edged-dashboard.socket")
    try:
        assert node.machine.try_run("systemctl is-active edged-dashboard").returncode != 0
        assert node.machine.python(FETCH, timeout=200.0) == 401
        token = node.machine.run("cat /var/lib/edged/dashboard.token").strip()
        answer = node.machine.python(FETCH, token, timeout=200.0)
        assert answer == 200, node.machine.run("journalctl -u edged-dashboard --no-pager")
        assert node.machine.run("systemctl --failed --plain --no-legend") == ""
    finally:
        node.machine.run("systemctl stop edged-dashboard.socket edged-dashboard.service")


def test_the_boards_watchdog_is_fed_by_systemd_and_resets_a_board_whose_systemd_hangs(upgraded: Node) -> None:
    """Debian's cloud kernel has a driver for no watchdog that QEMU has; its software one does what a board's does."""
    node = upgraded
    apply = "/opt/edged/current/bin/python -m edged watchdog apply --config /etc/edged/node.toml"
    node.machine.run("modprobe softdog && udevadm settle")
    try:
        assert "watchdog0 (Software Watchdog) armed; policy automatic" in node.machine.run(apply)
        assert node.machine.run("systemctl show -P RuntimeWatchdogUSec").strip() == "14s"
        assert node.machine.read("/sys/class/watchdog/watchdog0/state", "/sys/class/watchdog/watchdog0/timeout") == [
            "active",
            "14",
        ]
        journal = node.machine.run("journalctl -b _PID=1 --no-pager -o cat")
        node.notes += [line for line in journal.splitlines() if "watchdog" in line.lower()]
        node.machine.try_run("sync; kill -SEGV 1")  # it says so on the console and does nothing any more
        node.machine.until_off(300.0)  # a reset, as the emulator ends where the guest would boot again
    finally:
        if not node.machine.is_on:
            node.machine.boot()
        node.machine.run("rm -f /etc/systemd/system.conf.d/50-edged-watchdog.conf && systemctl daemon-reload")
    node.all_running()


def test_what_the_units_can_reach_is_noted(upgraded: Node) -> None:
    units = "edged.service edged-pods.service edged-dashboard.service"
    upgraded.machine.run("cp /opt/edged/src/systemd/edged-dashboard.* /etc/systemd/system/ && systemctl daemon-reload")
    table = upgraded.machine.run(f"systemd-analyze security --no-pager {units}")
    summary = [line for line in table.splitlines() if "Overall exposure level" in line]
    upgraded.notes += summary
    assert len(summary) == 3
