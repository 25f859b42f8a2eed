"""One virtual machine for the whole run; only `make test-vm` (EDGED_VM=1) boots it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import image
from tests.vm.machine import Machine
from tests.vm.node import Node

NOTES = pytest.StashKey[list[str]]()
HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: boots a virtual machine (make test-vm)")
    config.stash[NOTES] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = os.environ.get("EDGED_VM") == "1"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if not wanted:
                item.add_marker(pytest.mark.skip(reason="boots a virtual machine, which takes minutes: make test-vm"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for note in config.stash[NOTES]:
        terminalreporter.write_line(note)


@pytest.fixture(scope="session")
def whole_run(request: pytest.FixtureRequest) -> Iterator[Node]:
    """The machine with the node installed. Gone at the end, whatever happened; its console stays where it failed."""
    assert not hasattr(request.config, "workerinput"), "one machine at a time: run without -n"
    missing = image.missing_tools()
    assert not missing, f"needs Debian packages: apt-get install --no-install-recommends {' '.join(missing)}"
    folder = Path(tempfile.mkdtemp(prefix="edged-vm-"))
    machine = Machine(image.build(), folder)
    notes = request.config.stash[NOTES]
    failed = request.session.testsfailed
    try:
        machine.boot()
        node = Node(machine, notes)
        notes.append(f"emulator: {' '.join(machine.accelerator)}; {machine.run('uname -rm').strip()}")
        node.install()
        yield node
    finally:
        machine.cut_power()
        if request.session.testsfailed == failed:
            shutil.rmtree(folder)
        else:
            (folder / "disk.img").unlink(missing_ok=True)
            notes.append(f"console of the virtual machine: {folder}/console.log")


@pytest.fixture
def node(whole_run: Node) -> Node:
    """The node with its five pods running, whatever the test before did."""
    whole_run.all_running()
    return whole_run
