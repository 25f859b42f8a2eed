"""The hardware watchdog's policy: what is armed, what is complained of, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edged import board_watchdog
from edged.board_watchdog import BoardWatchdog, Found, complaint, told
from edged.config import NodeConfig

IDLE = Found("watchdog0", "Broadcom BCM2835 Watchdog timer", False)
ARMED = Found("watchdog0", "Broadcom BCM2835 Watchdog timer", True)


def a_board(folder: Path, state: str = "inactive") -> Path:
    device = folder / "devices" / "watchdog0"
    device.mkdir(parents=True, exist_ok=True)
    (device / "identity").write_text("Broadcom BCM2835 Watchdog timer\n")
    (device / "state").write_text(f"{state}\n")
    return device.parent


def test_only_a_required_one_that_is_missing_or_idle_is_complained_of() -> None:
    assert [complaint(policy, ()) for policy in ("automatic", "off")] == ["", ""]
    assert "shows none" in complaint("required", ())
    assert "watchdog0 isn't armed: run `edged watchdog apply`" in complaint("required", (IDLE,))
    assert complaint("required", (ARMED,)) == ""


def test_what_is_there_is_told_in_a_line() -> None:
    assert told("off", ()) == "hardware watchdog: none on this board; policy off"
    assert told("automatic", (ARMED,)).endswith("watchdog0 (Broadcom BCM2835 Watchdog timer) armed; policy automatic")


def test_it_is_armed_where_there_is_one_and_our_arming_is_taken_back_when_off(tmp_path: Path) -> None:
    drop_in, devices = tmp_path / "system.conf.d/50.conf", a_board(tmp_path)
    assert board_watchdog.apply("automatic", drop_in, devices, dry_run=True)
    assert not drop_in.exists()
    assert board_watchdog.apply("automatic", drop_in, devices)
    assert "RuntimeWatchdogSec=14s" in drop_in.read_text()
    assert not board_watchdog.apply("required", drop_in, devices)
    assert board_watchdog.apply("off", drop_in, devices)
    assert not drop_in.exists()
    assert not board_watchdog.apply("off", drop_in, devices)


def test_nothing_is_written_for_a_board_that_has_none(tmp_path: Path) -> None:
    assert not board_watchdog.apply("required", tmp_path / "50.conf", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_misses_its_required_watchdog_says_so_in_its_status(tmp_path: Path) -> None:
    required = BoardWatchdog(NodeConfig("n", hardware_watchdog="required"), a_board(tmp_path))
    assert "isn't armed" in required.degraded[0]
    a_board(tmp_path, "active")
    assert required.degraded == ()
    assert BoardWatchdog(NodeConfig("n"), tmp_path / "none").degraded == ()


def test_a_policy_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(msgspec.ValidationError, match='must be "required", "automatic" or "off"'):
        msgspec.convert({"name": "n", "hardware_watchdog": "on"}, NodeConfig)
