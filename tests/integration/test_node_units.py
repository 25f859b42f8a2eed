"""The node's units: nothing for systemd to complain of, and walls that stand where containers can bear them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.analyzed import SYSTEMD, analyze, exposure, unexplained

UNITS = sorted(p.name for p in SYSTEMD.glob("edged*") if p.suffix in (".service", ".socket"))
# Of 10, systemd-analyze's scale. A daemon that is the parent of containers can't have most walls: its unit says why.
CEILINGS = {"edged.service": 9.6, "edged-pods.service": 2.1, "edged-dashboard.service": 2.1}
# Of the daemon alone: whatever is inherited by containers, or gives it a mount namespace, breaks pods.
BREAKS_CONTAINERS = re.compile(
    "^(Protect|Private|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|TemporaryFileSystem|BindPaths|RootDirectory"
    "|NoNewPrivileges|Restrict|SystemCall|MemoryDenyWriteExecute|LockPersonality|CapabilityBoundingSet|User|DynamicUser"
    "|MountFlags|UMask)"
)


def settings(unit: str) -> list[tuple[str, str]]:
    lines = (SYSTEMD / unit).read_text().splitlines()
    return [(name, value) for name, equals, value in (line.partition("=") for line in lines if line[:1].isalpha())]


def test_systemd_finds_nothing_to_complain_of_in_the_nodes_units(tmp_path: Path) -> None:
    for unit in UNITS:  # with a program that is there on this machine
        (tmp_path / unit).write_text(re.sub(r"/opt/edged/bin/[\w-]+", "/bin/true", (SYSTEMD / unit).read_text()))
    assert analyze("verify", "--man=no", *(str(tmp_path / unit) for unit in UNITS)) == ""


@pytest.mark.parametrize("unit", CEILINGS)
def test_the_exposure_of_a_node_stays_below_its_ceiling(unit: str) -> None:
    score, told = exposure(unit)
    assert score <= CEILINGS[unit], told


def test_every_service_of_the_node_has_a_ceiling() -> None:
    assert {u for u in UNITS if u.endswith(".service")} == set(CEILINGS) | {"edged-watchdog.service"} & set(UNITS)


def test_nothing_that_containers_would_inherit_stands_in_the_daemons_unit() -> None:
    assert [name for name, _ in settings("edged.service") if BREAKS_CONTAINERS.match(name)] == []


def test_a_node_never_gives_up_starting() -> None:
    told = dict(settings("edged.service"))
    assert (told["Restart"], told["StartLimitIntervalSec"], told["KillMode"]) == ("always", "0", "process")


@pytest.mark.parametrize("unit", UNITS)
def test_every_line_of_a_nodes_unit_that_is_not_obvious_has_a_reason(unit: str) -> None:
    obvious = ("Description=", "Documentation=", "WantedBy=")
    assert unexplained(unit, obvious) == []
