"""Facts about a board that says much, and about one that says nothing."""

from __future__ import annotations

from pathlib import Path

from edged.control.facts import machine_facts
from edged.control.protocol import Machine


def test_a_raspberry_pi_tells_its_model_temperature_and_load(tmp_path: Path) -> None:
    for name, text in {
        "proc/loadavg": "0.42 0.38 0.35 1/180 4242\n",
        "proc/uptime": "11400.51 40000.00\n",
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "sys/class/thermal/thermal_zone0/temp": "52417\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    facts = machine_facts(tmp_path, {"MemTotal": 4 << 30, "MemAvailable": 3 << 30}, tmp_path)
    assert facts.load == (0.42, 0.38, 0.35)
    assert facts.uptime == 11400.51
    assert facts.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert facts.temperature == 52.417
    assert (facts.memory_total, facts.memory_available) == (4 << 30, 3 << 30)
    assert 0 < facts.storage_free <= facts.storage_total


def test_a_machine_that_tells_nothing_gives_defaults(tmp_path: Path) -> None:
    assert machine_facts(tmp_path / "missing", {}, tmp_path) == Machine()


def test_nonsense_from_a_sensor_is_not_a_temperature(tmp_path: Path) -> None:
    zones = tmp_path / "sys/class/thermal"
    for number, text in enumerate(["-274000", "garbage", "", "41000"]):
        (zones / f"thermal_zone{number}").mkdir(parents=True)
        (zones / f"thermal_zone{number}/temp").write_text(text)
    assert machine_facts(tmp_path, {}, tmp_path).temperature == 41.0
