"""A stock Debian becomes a hub by our playbook over ssh, is upgraded, backed up, and brought back as another one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli.house import free_port
from tests.kubectl_lab import Kubectl, oldest_and_newest
from tests.vm import image
from tests.vm.hardware import Hardware
from tests.vm.lifetime import a_machine, notes_of
from tests.vm.machine import Machine
from tests.vm.playbook import Inventory, Run

PATIENCE = 600.0  # seconds
BACKUPS = "/var/lib/edged-hub-backups"


class HubMachine:
    """A machine, what the playbook was last told to make of it, and the administrator's side."""

    def __init__(self, machine: Machine, folder: Path, notes: list[str]) -> None:
        self.machine = machine
        self.folder = folder
        self.notes = notes
        self.inventory = Inventory(folder)
        self.inventory.add("hub", "greenhouse-hub", machine)
        self.kubeconfig = folder / "kubeconfig-default"
        self.first: Run | None = None
        self._told: dict[str, Any] | None = None

    def variables(self, **more: Any) -> dict[str, Any]:
        """The guest's port is another one on this side."""
        server = f"https://127.0.0.1:{self.machine.port(6443)}"
        return {"hub_kubeconfig_server": server, "hub_patience_delay": 3, **more}

    def play(self, *words: str, fails: bool = False, **more: Any) -> Run:
        run = self.inventory.play("-l", "hub", *words, variables=self.variables(**more), fails=fails)
        self._told = None if fails or "--check" in words else more
        self.notes += run.recap_lines()
        return run

    def is_a_hub(self, **more: Any) -> None:
        """With these variables, and whatever it knew."""
        if self._told != more:
            self.first = self.first or self.play(**more)
            if self._told != more:
                self.play(**more)

    def is_nothing(self) -> None:
        self.play(hub_state="absent", hub_purge=True)

    def kubectl(self, *words: str, stdin: object = None) -> str:
        code, said = Kubectl(oldest_and_newest()[-1], self.kubeconfig, "default").run(*words, stdin=stdin)
        assert code == 0, said
        return said

    def knows(self, name: str, value: str) -> None:
        self.kubectl("apply", "-f", "-", stdin={
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"told": value},
        })  # fmt: skip

    def told(self, name: str) -> str:
        return self.kubectl("get", "configmap", name, "-o", "jsonpath={.data.told}")

    def property(self, name: str, unit: str = "cloudlink-hub") -> str:
        return self.machine.run(f"systemctl show -P {name} {unit}").strip()

    def until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"waited for {what}\n{self.journal()}"
            time.sleep(1.0)

    def journal(self) -> str:
        return self.machine.run("journalctl -b -u cloudlink-hub -u cloudlink-hub-backup -n 60 --no-pager")


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubMachine]:
    hardware = Hardware(memory=1024, forwards=(6443, 8883), reboots=True)
    with a_machine(request, image.build("stock"), hardware, "hub") as one:
        one.boot()
        yield HubMachine(one, tmp_path_factory.mktemp("control"), notes_of(request))


@pytest.fixture
def hub(machine: HubMachine) -> HubMachine:
    """With SQLite and its own broker, whatever the test before did."""
    machine.is_a_hub()
    return machine


def test_a_stock_debian_becomes_a_hub_that_kubectl_reaches(hub: HubMachine) -> None:
    assert hub.first is not None
    assert hub.first.recap["greenhouse-hub"]["failed"] == 0
    assert hub.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert ["default", "Active"] in [line.split()[:2] for line in hub.kubectl("get", "namespaces").splitlines()]
    hub.knows("first", "a sentence")
    assert hub.told("first") == "a sentence"
    state = hub.machine.run("systemctl status cloudlink-hub --no-pager --lines=0")
    hub.notes += ["$ systemctl status cloudlink-hub", *state.splitlines()]
    analyzed = hub.machine.run("systemd-analyze security cloudlink-hub --no-pager").splitlines()
    open_ends = [line for line in analyzed if line.startswith("✗")]
    hub.notes += ["$ systemd-analyze security cloudlink-hub", *open_ends, analyzed[-1]]
    found = re.search(r"level for \S+: ([\d.]+)", analyzed[-1])
    assert found
    assert float(found[1]) <= 1.3
    processes = hub.machine.run("cat /sys/fs/cgroup/system.slice/cloudlink-hub.service/cgroup.procs").split()
    owners = hub.machine.run(f"ps -o user=,comm= -p {','.join(processes)}").split("\n")[:-1]
    assert sorted(line.split() for line in owners) == [["edged-h+", "mosquitto"], ["edged-h+", "python"]]
    secrets = hub.machine.run("stat -c '%a %U %n' /etc/edged/hub.toml /var/lib/edged-hub /var/lib/edged-hub/*.key")
    assert {line.split()[0] for line in secrets.splitlines()} == {"640", "700", "600"}


def test_a_second_run_changes_nothing_and_a_check_run_neither(hub: HubMachine) -> None:
    pid = hub.property("MainPID")
    again = hub.play()
    assert again.recap["greenhouse-hub"]["changed"] == 0, again.changed_tasks()
    check = hub.play("--check", hub_settings={"audit_size": 16})
    assert check.changed_tasks() == ["hub : Write the settings"], check.said
    assert hub.property("MainPID") == pid
    assert "audit_size" not in hub.machine.run("cat /etc/edged/hub.toml")


def test_settings_that_nobody_understands_change_nothing(hub: HubMachine) -> None:
    before = hub.machine.run("cat /etc/edged/hub.toml"), hub.property("MainPID")
    run = hub.play(fails=True, hub_settings={"audit_sise": 16})
    assert "audit_sise" in run.said
    assert (hub.machine.run("cat /etc/edged/hub.toml"), hub.property("MainPID")) == before


def test_a_hub_that_hangs_or_is_killed_comes_back_with_its_broker(hub: HubMachine) -> None:
    pid = hub.property("MainPID")
    hub.machine.run(f"kill -KILL {pid}")
    hub.until(
        lambda: hub.property("MainPID") not in (pid, "0") and hub.property("ActiveState") == "active", "its return"
    )
    assert hub.kubectl("get", "--raw", "/readyz") == "ok"
    brokers = hub.machine.run("pgrep -c -x mosquitto").strip()
    assert brokers == "1"


def test_an_upgrade_that_does_not_come_up_is_undone_without_anybodys_help(hub: HubMachine, tmp_path: Path) -> None:
    good = hub.machine.run("readlink /opt/edged-hub/current").strip()
    hub.knows("upgrade", "before")
    bad = a_broken_wheelhouse(tmp_path / "broken")
    run = hub.play(fails=True, hub_wheelhouse=str(tmp_path / "broken"))
    assert "The hub did not come up with what is new" in run.said
    assert hub.machine.run("readlink /opt/edged-hub/current").strip() == good
    listed = hub.machine.run("/opt/edged-hub/bin/edged-version --root /opt/edged-hub list")
    hub.notes += ["$ edged-version --root /opt/edged-hub list", *listed.splitlines()]
    assert bad in listed
    assert hub.told("upgrade") == "before"
    assert hub.machine.run(f"ls {BACKUPS}").count(".backup") >= 1  # made before it
    refused = hub.play(fails=True, hub_wheelhouse=str(tmp_path / "broken"))
    assert f"{bad} failed at" in refused.said
    assert hub.play().recap["greenhouse-hub"]["changed"] == 0


def test_a_backup_of_the_timers_service_begins_a_fresh_hub_with_postgresql(hub: HubMachine) -> None:
    hub.knows("kept", "through a fire")
    hub.kubectl("create", "secret", "generic", "sealed", "--from-literal=password=hunter2-hunter2")
    assert "cloudlink-hub-backup.timer" in hub.machine.run("systemctl list-timers --no-pager")
    hub.machine.run("systemctl start cloudlink-hub-backup.service", timeout=PATIENCE)
    assert hub.property("Result", "cloudlink-hub-backup") == "success"
    [*_, newest] = hub.machine.run(f"ls {BACKUPS}/*.backup").split()
    assert hub.machine.run(f"stat -c '%a %U' {newest}").split() == ["600", "edged-hub"]
    backup = hub.folder / "kept.backup"
    backup.write_bytes(hub.machine.try_run(f"cat {newest}").stdout)
    before = hub.kubeconfig.read_text()
    refused = hub.play(fails=True, hub_database="postgresql")
    assert "another hub_database would begin with none" in " ".join(refused.said.split())
    hub.is_nothing()
    assert hub.machine.try_run("ls -d /opt/edged-hub /var/lib/edged-hub /etc/edged/hub.toml").stdout == b""
    assert hub.machine.try_run("id edged-hub").returncode != 0

    hub.play(hub_database="postgresql", hub_restore_from=str(backup))
    assert hub.told("kept") == "through a fire"
    secret = hub.kubectl("get", "secret", "sealed", "-o", "jsonpath={.data.password}")
    assert secret == "aHVudGVyMi1odW50ZXIy"
    assert hub.kubeconfig.read_text() == before  # the CA and the token are the same
    tables = "runuser -u postgres -- psql -X -A -t -d edged_hub -c 'SELECT count(*) FROM objects'"
    assert int(hub.machine.run(f"cd / && {tables}")) > 5
    again = hub.play(hub_database="postgresql", hub_restore_from=str(backup))
    assert again.recap["greenhouse-hub"]["changed"] == 0, again.changed_tasks()
    hub.machine.run("systemctl start cloudlink-hub-backup.service", timeout=PATIENCE)
    hub.is_nothing()


def test_a_broker_on_another_machine_gets_its_files_and_is_spoken_to(hub: HubMachine, tmp_path: Path) -> None:
    nodes, hubs = free_port(), free_port()
    wanted = {
        "hub_broker_url": f"mqtts://10.0.2.2:{hubs}",
        "hub_broker_port": nodes,
        "hub_broker_files": str(tmp_path / "broker"),
        "hub_broker_place": str(tmp_path / "broker"),
    }
    hub.play(**wanted)
    assert hub.machine.run("pgrep -c -x mosquitto || :").strip() == "0"
    assert (tmp_path / "broker" / "server.key").stat().st_mode & 0o777 == 0o600
    with a_broker(tmp_path / "broker") as log:
        hub.until(lambda: "u'_hub'" in log.read_text(), "the hub at the broker")
        assert hub.play(**wanted).recap["greenhouse-hub"]["changed"] == 0


def test_what_a_hub_knew_outlives_its_removal_and_check_mode_is_safe_on_an_empty_machine(hub: HubMachine) -> None:
    hub.knows("patient", "waits")
    assert "The hub is left as it is" in hub.play(state="absent").said
    assert hub.property("ActiveState") == "active"
    hub.play(hub_state="absent")
    assert hub.machine.try_run("systemctl cat cloudlink-hub").returncode != 0
    assert hub.machine.try_run("ls -d /opt/edged-hub").returncode != 0
    assert hub.play(hub_state="absent").recap["greenhouse-hub"]["changed"] == 0
    hub.play("--check")
    assert hub.machine.try_run("ls -d /opt/edged-hub").returncode != 0
    hub.play()
    assert hub.told("patient") == "waits"


# ---------------------------------------------------------------- helpers


@contextlib.contextmanager
def a_broker(folder: Path) -> Iterator[Path]:
    """A mosquitto on this machine with the files that the role brought home; its log, which says who comes."""
    conf, log = folder / "mosquitto.conf", folder / "log"
    text = conf.read_text().replace("connection_messages false", "connection_messages true\nlog_type notice")
    (folder / "test.conf").write_text(text)
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None, "needs Debian's package mosquitto"
    with log.open("wb") as file:
        process = subprocess.Popen([program, "-c", str(folder / "test.conf")], stdout=file, stderr=file)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(30)


def tool(name: str) -> Any:
    """A module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", image.ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def a_broken_wheelhouse(folder: Path) -> str:
    """One whose hub ends before it serves; its VERSION."""
    wheelhouse = tool("wheelhouse")
    wheelhouse.make(folder, wheelhouse.Target("amd64", image.PYTHONS[image.default_release()]), ["hub", "postgresql"])
    [own] = folder.glob("edged-*.whl")
    spoil(own, "cloudlink/hub/app.py", lambda text: text + "\nraise SystemExit('this version is broken')\n")
    (folder / "requirements.txt").unlink()
    (folder / "requirements.txt").write_text(wheelhouse.requirements_text(wheelhouse.digests(folder)))
    version = str(wheelhouse.version_of(wheelhouse.project()[0], wheelhouse.digests(folder)))
    (folder / "VERSION").write_text(f"{version}\n")
    return version


def spoil(wheel: Path, member: str, change: Callable[[str], str]) -> None:
    """Rewrite one file of a wheel."""
    whole = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info, change(content.decode()) if info.filename == member else content)
    whole.rename(wheel)
