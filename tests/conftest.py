"""What holds for every test: root or a loud skip, no leftover process of ours, and in CI no skip at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.postgres_lab import Cluster

CI = os.environ.get("CI") == "true"

# A slow machine is no failure. In CI the same cases each time: a new find belongs to whoever looks for it at home.
settings.register_profile("house", deadline=None, derandomize=CI)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine can't run, with the reason; CI can't pass by skipping what must run there."""
    for item in items:
        reason = cannot_run(item)
        if reason and not (CI and "root" in item.keywords):
            item.add_marker(pytest.mark.skip(reason=reason))


def cannot_run(item: pytest.Item) -> str:
    if "root" in item.keywords and os.geteuid() != 0:
        return "needs root: namespaces, cgroups and mounts (make test uses sudo)"
    if "kubectl" in item.keywords and shutil.which("kubectl") is None:
        return "needs kubectl, which Debian 12 does not package: install it and put it on PATH"
    if "browser" in item.keywords and shutil.which("chromium") is None:
        return "needs chromium (Debian package chromium)"
    return ""


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """One real PostgreSQL for all tests of a worker; each takes a database of its own."""
    from tests.postgres_lab import a_cluster, programs  # a node runs its suites without the hub's packages

    if programs() is None and not CI:
        pytest.skip("needs PostgreSQL (Debian package postgresql)")
    with a_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind that the hub can use."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/hub.db"
    cluster: Cluster = request.getfixturevalue("postgresql")
    return cluster.database()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say plainly which tests this machine could not run."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests could not run here; the reasons are listed above.")
