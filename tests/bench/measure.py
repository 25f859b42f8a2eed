"""Reading processes from outside: proportional memory, CPU time, bytes written; and waiting without slack."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cloudlink.cli import leftovers
from cloudlink.cli.house import House

TICKS = os.sysconf("SC_CLK_TCK")


def tell(name: str, value: float, unit: str, floor: float | None = None, **more: object) -> None:
    """One line of the bench. `floor` is what the same machine does without us (or a peer, named in `more`)."""
    line: dict[str, object] = {"name": name, "value": round(value, 3), "unit": unit}
    line["floor"] = None if floor is None else round(floor, 3)
    if floor:
        line["ratio"] = round(value / floor, 2)  # what to read on a noisy machine
    print(json.dumps({**line, **more}), flush=True)


def pss(pid: int) -> float:
    """Proportional set size in MB (10^6 bytes); 0 if it is gone. Pages shared with others count as a fraction."""
    return _rollup(pid, "Pss:")


def rss(pid: int) -> float:
    """Resident set size in MB: what PSS would be if nobody else had any of its pages mapped. An upper bound for a
    board, where no hub shares the interpreter's."""
    return _rollup(pid, "Rss:")


def anonymous(pid: int) -> float:
    """Memory that is nobody else's and no file's, in MB: what a leak would add to."""
    return _rollup(pid, "Pss_Anon:")


def _rollup(pid: int, field: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time so far (proc(5), stat fields 14 and 15)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def written_bytes(pid: int) -> int:
    """Bytes that this process caused to be sent to storage (proc(5), io: write_bytes)."""
    try:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def node_processes(house: House) -> dict[str, list[int]]:
    """The node's own processes by role; workloads and the hub are not among them."""
    roles: dict[str, list[int]] = {"edged": [], "conmon": [], "dnsmasq": [], "worker": []}
    node = os.fspath(house.folder / "node")
    for pid, line in leftovers.processes(house.folder).items():
        if node not in line:
            continue
        if "edged run" in line:
            roles["edged"].append(pid)
        elif "conmon" in line.split(" ", 1)[0]:
            roles["conmon"].append(pid)
        elif "dnsmasq" in line:
            roles["dnsmasq"].append(pid)
        elif "networker" in line:
            roles["worker"].append(pid)
    return roles


def total(read: Callable[[int], float], pids: Iterable[int]) -> float:
    return sum(read(pid) for pid in pids)


def median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


def spin_until(true: Callable[[], bool], patience: float = 30.0) -> float:
    """Seconds until it is true, looked at every millisecond."""
    begun = time.perf_counter()
    while not true():
        if time.perf_counter() - begun > patience:
            raise TimeoutError(f"not true within {patience} s")
        time.sleep(0.001)
    return time.perf_counter() - begun
