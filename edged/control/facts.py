"""Facts about the board, read afresh from /proc and /sys by whoever builds a Snapshot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edged.control.protocol import Machine


def machine_facts(state_dir: Path, memory: Mapping[str, int], root: Path = Path("/")) -> Machine:
    """What the board says of itself right now; unknown facts stay at their defaults. Five small reads, under 1 ms.

    :param state_dir: whose file system's free space is told.
    :param memory: /proc/meminfo in bytes by name, as `host.memory_info()` gives it.
    :param root: where proc and sys are, for tests.
    """
    total, free = _storage(state_dir)
    return Machine(
        memory_total=memory.get("MemTotal", 0),
        memory_available=memory.get("MemAvailable", 0),
        load=_load(_read(root / "proc/loadavg")),
        temperature=_temperature(root / "sys/class/thermal"),
        model=_read(root / "proc/device-tree/model").strip("\0 \n"),
        storage_total=total,
        storage_free=free,
        uptime=_first_number(_read(root / "proc/uptime")),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _load(text: str) -> tuple[float, float, float]:
    try:
        one, five, fifteen = (float(word) for word in text.split()[:3])
    except ValueError:
        return (0.0, 0.0, 0.0)
    return (one, five, fifteen)


def _first_number(text: str) -> float:
    try:
        return float(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return 0.0


def _temperature(thermal: Path) -> float | None:
    """The first zone with a plausible reading: on a Raspberry Pi that is the SoC (thermal_zone0, millidegrees)."""
    for number in range(4):
        text = _read(thermal / f"thermal_zone{number}/temp").strip()
        if text.removeprefix("-").isdecimal() and -40_000 < int(text) < 150_000:
            return int(text) / 1000
    return None


def _storage(folder: Path) -> tuple[int, int]:
    try:
        stat = os.statvfs(folder)
    except OSError:
        return (0, 0)
    return (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)
