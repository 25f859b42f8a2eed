"""What the tests in virtual machines share. Only `make test-vm` and its like (EDGED_VM=1) boot any.

A test that CI runs, too, is marked `vm_ci`; such a run takes `-m vm_ci`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm import installed
from tests.vm.fleet import Fleet, a_fleet
from tests.vm.lifetime import NOTES, a_machine, notes_of
from tests.vm.node import Node

HERE = Path(__file__).parent
CI = os.environ.get("CI") == "true"
WANTED = os.environ.get("EDGED_VM") == "1"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: boots a virtual machine (make test-vm)")
    config.addinivalue_line("markers", "vm_ci: part of what CI boots (make test-vm-ci)")
    config.addinivalue_line("markers", "vm_long: has a make target of its own, and is not part of make test-vm")
    config.stash[NOTES] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if not WANTED:
                item.add_marker(pytest.mark.skip(reason="boots a virtual machine, which takes minutes: make test-vm"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI what belongs to its part can't be passed by skipping it."""
    report = yield
    if CI and WANTED and report.skipped and "vm_ci" in item.keywords:
        report.outcome = "failed"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of a worker of pytest-xdist, which has no terminal of its own."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["notes"] = session.config.stash[NOTES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[NOTES] += getattr(node, "workeroutput", {}).get("notes", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[NOTES]:
        terminalreporter.section("measured in virtual machines")
    for note in config.stash[NOTES]:
        terminalreporter.write_line(note)


@pytest.fixture(scope="session")
def notes(request: pytest.FixtureRequest) -> list[str]:
    """Sentences with measured numbers, printed at the end of the run."""
    return notes_of(request)


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """A hub with its broker on this machine, which every virtual machine reaches as 10.0.2.2."""
    with a_fleet() as one:
        yield one


@pytest.fixture(scope="session")
def whole_run(request: pytest.FixtureRequest) -> Iterator[Node]:
    """One machine with the node installed, for all tests of a worker that change it no more than they mend."""
    with a_machine(request, installed.build()) as machine:
        machine.boot()
        node = Node(machine, notes_of(request))
        node.notes.append(f"emulator: {' '.join(machine.accelerator)}; {machine.run('uname -rm').strip()}")
        node.install()
        node.install_tests()
        yield node


@pytest.fixture
def node(whole_run: Node) -> Node:
    """The node with its five pods running, whatever the test before did."""
    whole_run.all_running()
    return whole_run
