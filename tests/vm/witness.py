"""Stands in a guest and writes down which pods have processes, by the kernel's word alone: the cgroups of the node.

Copied into the guest and run by its /usr/bin/python3, from before the daemon's start on. One line a change, and one
each second, so that a power cut leaves a last word; each is on the disk before the next:

    <boot id> 1764240000.123 <pod uid> <pod uid> .      (seconds since 1970 by the guest's clock)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PARENT = "/sys/fs/cgroup/system.slice/edged-pods.service"
LOG = "/var/log/witness"
NO_PODS = {"images"}  # what else has a cgroup there: the puller's
PAUSE = 0.1
UNIT = f"""[Unit]
Description=witness of a test
DefaultDependencies=no
After=local-fs.target
Before=edged-pods.service edged.service
[Service]
ExecStart=/usr/bin/python3 -IS /usr/local/sbin/witness.py {PARENT} {LOG}
[Install]
WantedBy=multi-user.target
"""


class Stay(NamedTuple):
    """A pod had processes from `since` to `until`, in seconds of the guest's clock."""

    boot: str
    uid: str
    since: float
    until: float


def seen(parent: str) -> list[str]:
    """Pods with a living process."""
    found = []
    try:
        pods = sorted(entry.path for entry in os.scandir(parent) if entry.is_dir() and entry.name not in NO_PODS)
    except OSError:
        return []
    for pod in pods:
        try:
            with open(f"{pod}/cgroup.events") as file:  # noqa: PTH123 (ten times a second in an emulator)
                populated = "populated 1" in file.read()
        except OSError:
            continue
        if populated:
            found.append(pod.rpartition("/")[2])
    return found


def stand(parent: str, log: str) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_DSYNC, 0o644)
    told: list[str] | None = None
    when = 0.0
    while True:
        now, pods = time.time(), seen(parent)
        if pods != told or now - when >= 1.0:
            os.write(fd, f"{' '.join([boot, f'{now:.3f}', *pods])} .\n".encode())
            told, when = pods, now
        time.sleep(PAUSE)


def stays(log: str) -> list[Stay]:
    """What a log tells, a stay for each time that a pod came."""
    found: list[Stay] = []
    here: dict[str, float] = {}
    boot, last = "", 0.0
    for line in [*log.splitlines(), "end 0 ."]:
        words = line.split()
        if len(words) < 3 or words[-1] != ".":
            continue  # torn by a cut
        if words[0] != boot:
            found += [Stay(boot, uid, since, last) for uid, since in here.items()]
            boot, here = words[0], {}
        now, pods = float(words[1]), words[2:-1]
        found += [Stay(boot, uid, since, now) for uid, since in here.items() if uid not in pods]
        here = {uid: here.get(uid, now) for uid in pods}
        last = now
    return found


def most_at_once(spans: Iterable[tuple[float, float]]) -> tuple[int, float]:
    """How many ran at the same time at most, and for how many seconds that many did. Who ends in the moment in which
    another one begins has ended before."""
    steps = sorted(step for since, until in spans for step in ((since, 1), (until, -1)))
    many = most = 0
    seconds = last = 0.0
    for at, step in steps:
        if many == most:
            seconds += at - last
        many, last = many + step, at
        if many > most:
            most, seconds = many, 0.0
    return most, seconds


if __name__ == "__main__":
    stand(*sys.argv[1:])
