"""Runs of our playbook against virtual machines, as an administrator at a control machine makes them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.vm.image import ROOT
from tests.vm.machine import Machine

BIN = Path(sys.executable).parent
PATIENCE = 3600.0  # seconds; a task that takes one takes twenty in an emulator that has company
# What a version is made from.
SOURCES = ("edged", "cloudlink", "tools", "systemd", "pyproject.toml", "README.md", "requirements.lock")
RECAP = re.compile(r"^(\S+)\s+:((?: +\w+=\d+)+)\s*$", re.MULTILINE)


class Run(NamedTuple):
    """One run. :ivar recap: host -> ok, changed, failed, ... as its last lines say."""

    code: int
    said: str
    recap: dict[str, dict[str, int]]

    def recap_lines(self) -> list[str]:
        """As they were printed."""
        return [found[0].strip() for found in RECAP.finditer(self.said)]

    def changed_tasks(self) -> list[str]:
        """Of which the run said "changed"."""
        tasks = re.findall(
            r"^(?:TASK|RUNNING HANDLER) \[(.+?)\] \**\n((?:(?!TASK|RUNNING|PLAY).*\n)*)", self.said, re.M
        )
        return [name for name, said in tasks if re.search(r"^changed: ", said, re.M)]


class Inventory:
    """A folder of its own with machines in it. :ivar folder: where kubeconfigs go, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._groups: dict[str, dict[str, dict[str, Any]]] = {}

    @property
    def file(self) -> Path:
        return self.folder / "inventory.json"

    def add(self, group: str, name: str, machine: Machine, **variables: Any) -> None:
        """:param variables: of that host."""
        reached = {
            "ansible_host": "127.0.0.1",
            "ansible_port": machine.port(22),
            "ansible_user": "admin",
            "ansible_ssh_private_key_file": str(machine.image.key),
            "ansible_ssh_common_args": "-F/dev/null -oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null",
        }
        self._groups.setdefault(group, {})[name] = reached | variables
        self._write()

    def _write(self) -> None:
        every = {group: {"hosts": hosts} for group, hosts in self._groups.items()}
        self.file.write_text(json.dumps(every, indent=1))  # JSON is YAML

    def add_control(self, name: str) -> None:
        """This machine, in no group: for what is delegated to where the hub runs."""
        self._groups.setdefault("all", {})[name] = {"ansible_connection": "local", "ansible_become": False}
        self._write()

    def play(self, *words: str, variables: Mapping[str, Any] | None = None, fails: bool = False) -> Run:
        """`ansible-playbook -i inventory site.yml`; AssertionError with its output where it didn't end as expected.

        :param fails: whether it is to fail.
        """
        argv = [str(BIN / "ansible-playbook"), "-i", str(self.file), "site.yml", *words]
        argv += ["-e", json.dumps(dict(variables))] if variables else []
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        environment = os.environ | {
            **{"HOME": str(home), "ANSIBLE_HOME": str(home), "NO_COLOR": "1", "PATH": f"{BIN}:{os.environ['PATH']}"},
            "XDG_CACHE_HOME": str(ROOT / ".cache"),  # wheelhouses are made once
        }
        done = subprocess.run(
            ["nice", *argv], cwd=ROOT / "ansible", env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{' '.join(argv)}\nended with {done.returncode}\n{said[-12000:]}"
        recap = {
            host: {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", rest)}
            for host, rest in RECAP.findall(done.stdout)
        }
        return Run(done.returncode, said, recap)


def a_checkout(folder: Path, file: str, line: str) -> Path:
    """A copy of what a version is made from, with one line more in one file. :param folder: which it makes."""
    for source in SOURCES:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder / source)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "wheels").symlink_to(ROOT / ".cache" / "wheels")
    with (folder / file).open("a") as source_file:
        source_file.write(f"{line}\n")
    return folder
