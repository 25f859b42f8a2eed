"""What the kernel says of memory: PSI triggers, memory.events, thresholds, and the numbers behind them.

Nothing is polled: `ready` is a descriptor that is readable once the kernel has something to say, whatever this machine
has for it (the first that works):

    PSI triggers on /proc/pressure/memory and, on v2, on the memory.pressure of all pods (kernel: accounting/psi.rst)
    v2: memory.events.local of all pods, which changes when they reach memory.high or the kernel kills
    v1: an eventfd for a threshold of all pods' usage (kernel: cgroup-v1/memory.rst)

PSI speaks through POLLPRI, which selectors can't wait for; an epoll(7) of our own can, and is itself readable.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path

from edged.model import Value
from edged.runtime.cgroup import UNLIMITED, Cgroups, Mode
from edged.runtime.cgroupfs import keyed, number, text, words

# Microseconds of waiting in a window. Windows that are not a multiple of 2 s need CAP_SYS_RESOURCE (Linux 6.5).
TRIGGER = b"some 200000 2000000\0"
BOARD = Path("/proc/pressure/memory")


class Reading(Value, frozen=True):
    """:ivar available: bytes that pods can still have.
    :ivar waited: (some, full): microseconds since boot that some or all tasks waited, of the board and of all pods;
        empty where the kernel can't say.
    :ivar recent: share of the last ten seconds, 0 to 1, that some did.
    :ivar kills: how often the kernel killed among the pods.
    """

    available: int
    waited: tuple[tuple[int, int], ...] = ()
    recent: float = 0.0
    kills: int = 0


class Gauge:
    """Owned by edged.pressure. `open` before anything else; what can't be had is told by `degraded`."""

    def __init__(self, cgroups: Cgroups, board: Path = BOARD, meminfo: Path = Path("/proc/meminfo")) -> None:
        self._cgroups = cgroups
        self._board = board
        self._meminfo = meminfo
        self._sources: list[Path] = []
        self._fds: list[int] = []
        self._events = self._bell = -1
        self._epoll: select.epoll | None = None
        self.degraded: tuple[str, ...] = ()

    @property
    def has_pressure(self) -> bool:
        return bool(self._sources)

    # ------------------------------------------------------------ waiting

    def open(self, threshold: int = 0) -> None:
        """:param threshold: bytes of usage of all pods at which v1 wakes us."""
        self._epoll = select.epoll()
        parent = self._cgroups.parent() if self._cgroups.mode is Mode.UNIFIED else None
        for file in (self._board, *([parent / "memory.pressure"] if parent else [])):
            self._arm(file)
        waits = self.has_pressure
        if parent is not None:
            self._watch_events(parent / "memory.events.local")
        elif threshold:
            waits = self._watch_threshold(threshold) or waits
        if not self._sources:
            self.degraded = (
                "the kernel does not measure memory pressure (CONFIG_PSI; boot with psi=1): "
                + ("a memory threshold" if waits else "what happens anyway")
                + " wakes the degradation ladder instead, and it acts later",
            )

    def _arm(self, file: Path) -> None:
        try:
            fd = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            if text(file):  # may be read, but not waited for
                self._sources.append(file)
            return
        try:
            os.write(fd, TRIGGER)
        except OSError:
            os.close(fd)
        else:
            self._wait_for(fd, select.EPOLLPRI)
        if text(file):
            self._sources.append(file)

    def _watch_events(self, file: Path) -> None:
        with contextlib.suppress(OSError):
            self._events = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            os.read(self._events, 4096)  # tells only of changes since it was read
            self._wait_for(self._events, select.EPOLLPRI)

    def _watch_threshold(self, threshold: int) -> bool:
        memory = self._cgroups.parent("memory")
        if memory is None:
            return False
        try:
            usage = os.open(memory / "memory.usage_in_bytes", os.O_RDONLY | os.O_CLOEXEC)
            self._fds.append(usage)
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._wait_for(self._bell, select.EPOLLIN)
            control = os.open(memory / "cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(control, f"{self._bell} {usage} {threshold}".encode())
            finally:
                os.close(control)
        except OSError:
            return False
        return True

    def _wait_for(self, fd: int, events: int) -> None:
        assert self._epoll is not None
        self._fds.append(fd)
        self._epoll.register(fd, events)

    @property
    def ready(self) -> int:
        """A descriptor to wait for; the same until `close`."""
        assert self._epoll is not None
        return self._epoll.fileno()

    def drain(self) -> None:
        """Hear what was said, so that `ready` is quiet until there is more."""
        if self._epoll is None:
            return
        for fd, _ in self._epoll.poll(0):  # a PSI trigger has nothing to read: asking for it was hearing it
            with contextlib.suppress(OSError):
                if fd == self._events:
                    os.pread(fd, 4096, 0)
                elif fd == self._bell:
                    os.eventfd_read(fd)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    # ------------------------------------------------------------ numbers

    def read(self) -> Reading:
        waited: list[tuple[int, int]] = []
        recent = 0.0
        for file in self._sources:
            facts = _pressure(file)
            waited.append((int(facts.get("some total", 0)), int(facts.get("full total", 0))))
            recent = max(recent, facts.get("some avg10", 0.0) / 100)
        return Reading(min(self._of_board(), self._of_pods()), tuple(waited), recent, self._kills())

    def _of_board(self) -> int:
        for line in text(self._meminfo).splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return UNLIMITED

    def _of_pods(self) -> int:
        """What all pods together may still take; cache that can be dropped at once counts as free."""
        if self._cgroups.mode is Mode.UNIFIED:
            limit, used, inactive = "memory.max", "memory.current", "inactive_file"
        else:
            limit, used, inactive = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        folder = self._cgroups.parent("memory")
        most = number(folder / limit) if folder is not None else 0
        if folder is None or not 0 < most < UNLIMITED:
            return UNLIMITED
        return max(most - number(folder / used) + keyed(folder / "memory.stat").get(inactive, 0), 0)

    def _kills(self) -> int:
        """Only for want of memory of all pods together: a pod that outgrows its own limit concerns nobody else."""
        if self._cgroups.mode is not Mode.UNIFIED:
            return 0  # v1 does not tell the two apart
        parent = self._cgroups.parent()
        return keyed(parent / "memory.events.local").get("oom", 0) if parent is not None else 0


def _pressure(file: Path) -> dict[str, float]:
    """ "some avg10=0.12 ... total=34" as {"some avg10": 0.12, "some total": 34}."""
    found: dict[str, float] = {}
    for line in text(file).splitlines():
        kind, *facts = line.split()
        for fact in facts:
            name, _, value = fact.partition("=")
            with contextlib.suppress(ValueError):
                found[f"{kind} {name}"] = float(value)
    return found


def processes() -> tuple[int, int]:
    """How many processes and threads there are on the machine, and how many there can be (proc(5))."""
    loads = words("/proc/loadavg")
    there = int(loads[3].partition("/")[2]) if len(loads) > 3 else 0
    bounds = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")]
    return there, min((bound for bound in bounds if bound > 0), default=0)
