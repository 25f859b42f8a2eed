"""The hub's units: nothing for systemd to complain of, and little that somebody who got in could reach."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.analyzed import SYSTEMD, analyze, exposure, unexplained

UNITS = ("cloudlink-hub.service", "cloudlink-hub-backup.service", "cloudlink-hub-backup.timer")
SERVICES = tuple(u for u in UNITS if u.endswith(".service"))
CEILING = 1.3  # of 10, systemd-analyze's scale; what is left is that a hub has a network


def test_systemd_finds_nothing_to_complain_of_in_the_hubs_units(tmp_path: Path) -> None:
    for unit in UNITS:  # with programs that are there on this machine
        text = (SYSTEMD / unit).read_text().replace("/opt/edged-hub/current/bin/python", sys.executable)
        (tmp_path / unit).write_text(text.replace("/opt/edged-hub/bin/edged-version", "/bin/true"))
    assert analyze("verify", "--man=no", *(str(tmp_path / unit) for unit in UNITS)) == ""


@pytest.mark.parametrize("unit", SERVICES)
def test_the_exposure_of_a_hub_stays_below_its_ceiling(unit: str) -> None:
    score, told = exposure(unit)
    assert score <= CEILING, told


@pytest.mark.parametrize("unit", UNITS)
def test_every_line_of_a_hubs_unit_that_is_not_obvious_has_a_reason(unit: str) -> None:
    obvious = (
        "Description=",
        "Documentation=",
        "WantedBy=",
        "ExecStart=",
        "Type=oneshot",
        "Group=",
        "Environment=FOLDER",
    )
    assert unexplained(unit, obvious) == []


def test_hub_and_backup_are_walled_in_alike() -> None:
    def walls(unit: str) -> set[str]:
        words = (
            "Protect",
            "Private",
            "Restrict",
            "SystemCall",
            "Memory",
            "Lock",
            "NoNew",
            "Capab",
            "UMask",
            "RemoveIPC",
        )
        lines = (SYSTEMD / unit).read_text().splitlines()
        return {x for x in lines if x.startswith(words) and not x.startswith("MemoryMax")}

    assert walls(SERVICES[0]) == walls(SERVICES[1])
