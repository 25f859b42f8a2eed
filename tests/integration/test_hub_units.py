"""The hub's units: nothing for systemd to complain of, and little that somebody who got in could reach."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parent.parent.parent / "systemd"
UNITS = ("cloudlink-hub.service", "cloudlink-hub-backup.service", "cloudlink-hub-backup.timer")
SERVICES = tuple(u for u in UNITS if u.endswith(".service"))
CEILING = 1.3  # of 10, systemd-analyze's scale; what is left is that a hub has a network


def analyze(*words: str) -> str:
    program = shutil.which("systemd-analyze")
    assert program is not None, "NOTHING WAS CHECKED: systemd-analyze is missing here; apt-get install systemd"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_systemd_finds_nothing_to_complain_of_in_the_hubs_units(tmp_path: Path) -> None:
    for unit in UNITS:  # with programs that are there on this machine
        text = (SYSTEMD / unit).read_text().replace("/opt/edged-hub/current/bin/python", sys.executable)
        (tmp_path / unit).write_text(text.replace("/opt/edged-hub/bin/edged-version", "/bin/true"))
    assert analyze("verify", "--man=no", *(str(tmp_path / unit) for unit in UNITS)) == ""


@pytest.mark.parametrize("unit", SERVICES)
def test_the_exposure_of_a_hub_stays_below_its_ceiling(unit: str) -> None:
    told = analyze("security", "--offline=true", "--no-pager", str(SYSTEMD / unit))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found, told
    assert float(found[1]) <= CEILING, told


@pytest.mark.parametrize("unit", UNITS)
def test_every_line_of_a_hubs_unit_that_is_not_obvious_has_a_reason(unit: str) -> None:
    """Each block of settings follows a comment; what only says who and what it is needs none."""
    obvious = (
        "Description=",
        "Documentation=",
        "WantedBy=",
        "ExecStart=",
        "Type=oneshot",
        "Group=",
        "Environment=FOLDER",
    )
    explained, bare = False, []
    for line in (SYSTEMD / unit).read_text().splitlines():
        if line.startswith("#"):
            explained = True
        elif not line or line.startswith("["):
            explained = False
        elif not explained and not line.startswith(obvious):
            bare.append(line)
    assert not bare


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
