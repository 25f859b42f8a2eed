"""What the node and its pods use now, as `kubectl top` wants it. CPU time is a counter, so it takes two looks."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Protocol

import msgspec

from edged import host
from edged.model import ContainerPhase, ContainerUsage, Observed, Value
from edged.model.remote import STDOUT, End, PodUsage, Usage
from edged.runtime.api import Runtime
from edged.uplink import Talk

LEAST, MOST = 1.0, 90.0  # seconds: a look that is younger or older than that isn't compared with
SHORT = 0.5  # seconds between two looks where there is no earlier one


class Node(Protocol):
    """What is needed of edged.daemon.Daemon."""

    @property
    def observed(self) -> Observed: ...
    @property
    def runtime(self) -> Runtime: ...


class Look(Value, frozen=True):
    """:ivar at: seconds, monotonic. `busy`: CPU seconds of all cores together since boot, without idling.
    :ivar containers: (pod uid, name, attempt's id) -> what it has used since its start.
    """

    at: float
    busy: float
    memory: int
    containers: dict[tuple[str, str, str], ContainerUsage]


class Looks:
    """Remembers the last look, so that who asks regularly gets averages without gaps, and at once."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last: Look | None = None

    async def tell(self, talk: Talk) -> End:
        now = self._look()
        if self._last is None or not LEAST <= now.at - self._last.at <= MOST:
            self._last = now
            await asyncio.sleep(SHORT)
            now = self._look()
        before, self._last = self._last, now
        await talk.send(STDOUT, msgspec.msgpack.encode(compare(before, now)))
        return End()

    def _look(self) -> Look:
        runtime = self._node.runtime
        running = [c for c in self._node.observed.containers if c.phase is ContainerPhase.RUNNING]
        memory = host.memory_info()
        return Look(
            at=time.monotonic(),
            busy=busy(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK")),
            memory=memory["MemTotal"] - memory.get("MemAvailable", memory["MemFree"]),
            containers={(c.pod_uid, c.name, c.id): runtime.usage(c.id) for c in running},
        )


def busy(stat: str, ticks: int) -> float:
    """CPU seconds spent on anything, by the first line of /proc/stat (proc(5)): user, nice, system, irq, softirq,
    steal; not idle and iowait. Guests are in user already."""
    fields = [int(word) for word in stat.split("\n", 1)[0].split()[1:]]
    return sum(f for n, f in enumerate(fields[:8]) if n not in (3, 4)) / ticks


def compare(before: Look, now: Look) -> Usage:
    """A container that has come in between counts from its start: from 0."""
    window = max(now.at - before.at, 1e-3)
    cpu: dict[str, dict[str, float]] = {}
    memory: dict[str, dict[str, int]] = {}
    for key, used in now.containers.items():
        pod, name, _ = key
        earlier = before.containers[key].cpu_seconds if key in before.containers else 0.0
        cpu.setdefault(pod, {})[name] = max(used.cpu_seconds - earlier, 0.0) / window
        memory.setdefault(pod, {})[name] = used.memory
    pods = tuple(PodUsage(pod, cpu[pod], memory[pod]) for pod in sorted(cpu))
    return Usage(max(now.busy - before.busy, 0.0) / window, now.memory, window, pods)
