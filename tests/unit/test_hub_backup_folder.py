"""A folder of backups: enough of them, never fewer than before for a clock that is wrong, nothing that isn't ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub import backups, upkeep
from cloudlink.hub.config import HubConfig
from edged.errors import PermanentError
from tests.unit.test_hub_backup import House, fill

MOMENTS = st.integers(min_value=0, max_value=4_000_000_000)


def test_a_backup_is_named_after_its_fleet_and_moment() -> None:
    assert backups.file_name("lab", 1795774500.9) == "hub-lab-20261127T101500Z.backup"


@given(st.sets(MOMENTS, max_size=20), MOMENTS, st.integers(min_value=1, max_value=30))
def test_the_newest_stay_and_the_one_just_made_whatever_the_clock_says(there: set[int], now: int, keep: int) -> None:
    made = backups.file_name("lab", now)
    names = {backups.file_name("lab", moment) for moment in there} | {made}
    gone = backups.superseded(names, made, "lab", keep)
    left = names - set(gone)
    assert made in left
    assert len(left) == min(len(names), keep)
    assert max(gone, default="") <= min(left - {made}, default="~")


def test_files_that_are_not_this_fleets_backups_are_left_alone() -> None:
    strangers = {"hub-other-20261127T101500Z.backup", "before-the-move.backup", "hub-lab-2026.backup", "notes"}
    made = backups.file_name("lab", 2e9)
    assert backups.superseded(strangers | {made}, made, "lab", 1) == []
    assert backups.drafts(strangers | {made}, "lab") == []


def test_each_run_adds_one_backup_and_removes_what_is_too_old_or_half(tmp_path: Path) -> None:
    house = House(tmp_path / "hub")
    store = house.open()
    fill(store)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for moment in (0, 1000, 2000):
        (shelf / backups.file_name("lab", moment)).write_bytes(b"old")
    (shelf / ".hub-lab-20260101T000000Z.backup.4711").write_bytes(b"half")
    told = upkeep.back_up_into(house.config, shelf, with_keys=True, keep=2)
    assert "1 keys" not in told
    assert told.endswith("2 older removed")
    left = sorted(f.name for f in shelf.iterdir())
    assert left[0] == backups.file_name("lab", 2000)
    assert len(left) == 2
    assert (shelf / left[1]).stat().st_mode & 0o777 == 0o600
    store.close()
    other = House(tmp_path / "other")
    assert "goes on at revision" in upkeep.restore(other.config, shelf / left[1])


def test_a_backup_that_fails_costs_none_of_the_others(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    old = shelf / backups.file_name("lab", 0)
    old.write_bytes(b"old")
    with pytest.raises(PermanentError, match="holds no hub's keys"):
        upkeep.back_up_into(HubConfig(data_dir=str(tmp_path / "nothing"), fleet="lab"), shelf, True, keep=1)
    assert [f.name for f in shelf.iterdir()] == [old.name]


@pytest.mark.parametrize("keep", [0, -1, 10_001])
def test_how_many_stay_must_be_a_sensible_number(tmp_path: Path, keep: int) -> None:
    with pytest.raises(PermanentError, match="must be between 1 and 10000"):
        upkeep.back_up_into(HubConfig(data_dir=str(tmp_path), fleet="lab"), tmp_path, True, keep)


def test_a_folder_that_is_missing_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="No such file"):
        upkeep.back_up_into(HubConfig(data_dir=str(tmp_path), fleet="lab"), tmp_path / "shelf", True, 3)
