"""systemd on a booted node: upgrades on trial, the way back, power cuts, the watchdog's bite, the page on demand.

The waits of the units are shortened by a drop-in; what they wait for is the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.image import ROOT
from tests.vm.node import Node

QUICK = """
[Service]
ExecStartPost=
ExecStartPost=-+/opt/edged/bin/edged-version confirm --after 10
"""
VERSION = "/opt/edged/bin/edged-version"
NEVER_LOADS = "raise ImportError('broken on purpose')\n"
NEVER_READY = "import time\ntime.sleep(100000)\n"
READY_THEN_GONE = "import sys, time\nfrom edged import systemd\nsystemd.notify('READY=1')\ntime.sleep(2)\nsys.exit(7)\n"
FETCH = """
import json, urllib.request, urllib.error
try:
    print(json.dumps(urllib.request.urlopen("http://127.0.0.1:8470/", timeout=100).status))
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


def spoiled(wheels: Path, daemon: str) -> Path:
    """The same wheelhouse with another edged/daemon.py, as whole in every hash as the first."""
    target = wheels.parent / hashlib.sha256(daemon.encode()).hexdigest()[:8]
    if target.exists():
        return target
    shutil.copytree(wheels, target)
    (wheel,) = target.glob("edged-*.whl")
    before = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with zipfile.ZipFile(wheel) as old:
        files = {name: old.read(name) for name in old.namelist()}
    files["edged/daemon.py"] = daemon.encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(daemon.encode()).digest()).rstrip(b"=").decode()
    record = next(name for name in files if name.endswith(".dist-info/RECORD"))
    lines = [line for line in files[record].decode().splitlines() if not line.startswith("edged/daemon.py,")]
    files[record] = "\n".join([*lines, f"edged/daemon.py,sha256={digest},{len(daemon)}", ""]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in files.items():
            new.writestr(name, data)
    requirements = target / "requirements.txt"
    after = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(requirements.read_text().replace(before, after))
    named = sorted((*target.glob("*.whl"), requirements), key=lambda p: p.name)
    sums = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in named)
    version = f"0.1.0-{hashlib.sha256(sums.encode()).hexdigest()[:12]}"
    (target / "VERSION").write_text(f"{version}\n")
    return target


@pytest.fixture(scope="module")
def quick(whole_run: Node) -> Iterator[Node]:
    machine = whole_run.machine
    folder = "/etc/systemd/system/edged.service.d"
    machine.run(f"mkdir -p {folder} && cat > {folder}/quick.conf && systemctl daemon-reload", stdin=QUICK.encode())
    yield whole_run
    machine.run(f"rm -r {folder} && {VERSION} switch source; systemctl daemon-reload; systemctl restart edged")


@pytest.fixture
def upgraded(quick: Node, node: Node) -> Node:
    return node


def install(node: Node, wheels: Path) -> str:
    packed = subprocess.run(["tar", "-C", str(wheels), "-c", "."], check=True, capture_output=True).stdout
    put = f"cat > /var/tmp/w.tar && {VERSION} install /var/tmp/w.tar && rm /var/tmp/w.tar"
    return node.machine.run(put, stdin=packed, timeout=900.0).strip()


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


def test_an_upgrade_leaves_every_container_alone_and_is_good_after_a_while(upgraded: Node, wheels: Path) -> None:
    node = upgraded
    before = pids(node)
    started = time.monotonic()
    version = install(node, wheels)
    node.notes.append(f"edged-version install in the VM: {time.monotonic() - started:.0f} s")
    assert install(node, wheels) == version  # nothing to do
    node.machine.run(f"{VERSION} switch {version}")
    node.machine.run("systemctl restart edged", timeout=300.0)
    told = listed(node)
    assert (told["current"], told["trial"], told["previous"]) == (version, None, "source")
    node.all_running()
    assert pids(node) == before
    running = node.machine.run(f"tr '\\0' ' ' < /proc/{node.daemon()}/cmdline")
    assert running.startswith(f"/opt/edged/versions/{version}/bin/python -OO -m edged run")
    node.notes.append(node.machine.run("systemctl status edged --no-pager -n 6"))


@pytest.mark.parametrize(
    ("daemon", "how"),
    [(NEVER_LOADS, "exit-code (exited 1)"), (READY_THEN_GONE, "exit-code (exited 7)")],
    ids=("never_loads", "ready_then_gone"),
)
def test_an_upgrade_that_fails_undoes_itself_and_says_why(upgraded: Node, wheels: Path, daemon: str, how: str) -> None:
    node = upgraded
    before, good = pids(node), listed(node)["current"]
    bad = install(node, spoiled(wheels, daemon))
    node.machine.run(f"{VERSION} switch {bad}")
    assert node.machine.try_run("systemctl restart edged", timeout=300.0).returncode != 0
    until(node, is_back(node, good), "the version before")
    node.all_running()
    assert pids(node) == before
    failed = {v["version"]: v["failed"] for v in listed(node)["versions"]}[bad]
    assert failed["why"].startswith(f"{bad} was not ready after 3 starts; the last one ended with {how}")
    assert f"back to {good}: {bad} was not ready" in node.machine.run("journalctl -b -u edged --no-pager -o cat")
    refused = node.machine.try_run(f"{VERSION} switch {bad}")
    assert refused.returncode == 1
    node.notes.append(f"{VERSION} list:\n{node.machine.run(f'{VERSION} list')}")


def test_power_cuts_in_the_middle_of_an_upgrade_end_in_a_version_that_works(upgraded: Node, wheels: Path) -> None:
    node = upgraded
    good = listed(node)["current"]
    bad = install(node, spoiled(wheels, NEVER_READY))
    node.machine.run(f"{VERSION} switch --again {bad} && systemctl restart --no-block edged")
    until(node, lambda: listed(node)["trial"]["attempts"] > 0, "the first start on trial")
    node.machine.cut_power()
    node.machine.boot()
    told = listed(node)
    assert told["current"] in (good, bad)
    until(node, is_back(node, good), "the version before", 900.0)
    node.all_running()
    why = {v["version"]: v["failed"] for v in listed(node)["versions"]}[bad]["why"]
    assert why.endswith("after 3 starts; the last one ended with timeout (killed TERM)")


def test_a_daemon_that_hangs_is_bitten_and_the_next_one_adopts_every_container(upgraded: Node) -> None:
    node = upgraded
    before, daemon = pids(node), node.daemon()
    node.machine.run(f"kill -STOP {daemon}")
    until(node, lambda: node.daemon() not in (0, daemon), "another daemon", 300.0)
    node.all_running()
    assert pids(node) == before
    journal = node.machine.run("journalctl -b -u edged --no-pager -o cat")
    assert "Watchdog timeout" in journal
    node.notes += [line for line in journal.splitlines() if "atchdog" in line]


def test_the_page_is_there_on_demand_behind_its_walls(upgraded: Node) -> None:
    node = upgraded
    node.machine.run("cp /opt/edged/src/systemd/edged-dashboard.* /etc/systemd/system/ && systemctl daemon-reload")
    node.machine.run("systemctl start edged-dashboard.socket")
    try:
        assert node.machine.try_run("systemctl is-active edged-dashboard").returncode != 0
        assert node.machine.python(FETCH, timeout=200.0) in (200, 401, 403)
        token = node.machine.run("cat /var/lib/edged/dashboard.token").strip()
        source = FETCH.replace("8470/", f"8470/?token={token}")
        assert node.machine.python(source, timeout=200.0) == 200, node.machine.run("journalctl -u edged-dashboard")
        assert node.machine.run("systemctl --failed --plain --no-legend") == ""
    finally:
        node.machine.run("systemctl stop edged-dashboard.socket edged-dashboard.service")


def test_what_the_units_can_reach_is_noted(upgraded: Node) -> None:
    table = upgraded.machine.run("systemd-analyze security --no-pager 'edged*' 2>&1 | cat; :")
    upgraded.notes.append(table)
    assert "edged.service" in table
