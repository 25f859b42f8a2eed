"""The control group in which image work is done: a hard limit of memory, and a small share of everything else.

The cache of the files that a pull writes counts as its group's memory (cgroups(7)): under the limit the kernel writes
them out and drops them as it goes, and what is cached of the running containers stays where it is. Follows the kernel's
cgroup-v2.rst; on v1 and hybrid machines cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

NAME = "images"  # below the node's cgroup_parent, beside the pods; no pod uid looks like it
BY_HAND = "images-by-hand"  # what a person asks for: a daemon that starts must not take it for an orphan
LOW_CPU_WEIGHT, LOW_IO_WEIGHT = 20, 20  # of a default 100: pods that want the processor or the disk go first
LOW_CPU_SHARES, LOW_BLKIO_WEIGHT = 204, 200  # the same on v1, of 1024 and of 1000
_CONTROLLERS = ("memory", "cpu", "io")
_V1_CONTROLLERS = ("memory", "cpu", "blkio")


# A shell steps into the cgroup before there is a Python to charge: pages stay with the group that first touched them.
# Its first argument are the files that `Cage.open` names, the rest is the program.
ENTER = ("/bin/sh", "-c", 'for f in $1; do echo 0 > "$f"; done 2>/dev/null; shift; exec "$@"', "edged-images")


class Cage:
    """:param parent: the node's cgroup_parent, below each controller's mount.
    :param memory: bytes that all processes in it may have together; swap is not among them.
    """

    def __init__(self, parent: str, memory: int, mountinfo: str | None = None, name: str = NAME) -> None:
        self._memory = memory
        text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
        unified, v1 = _mounts(text)
        place = f"{parent.strip('/')}/{name}"
        self._unified = Path(unified, place) if unified and not v1 else None
        self._v1 = {c: Path(v1[c], place) for c in _V1_CONTROLLERS if c in v1}
        self.degraded: tuple[str, ...] = ()

    @property
    def _groups(self) -> list[Path]:
        return [self._unified] if self._unified else list(dict.fromkeys(self._v1.values()))

    def open(self) -> tuple[str, ...]:
        """Make it what it should be; harmless where it is that already.

        :returns: the files to write "0" to, for a process that wants in. What can't be had is in `degraded`.
        """
        try:
            for group in self._groups:
                group.mkdir(parents=True, exist_ok=True)
            limited = self._limit_unified(self._unified) if self._unified else self._limit_v1()
        except OSError as e:
            self.degraded = (f"image pulls run without a cgroup of their own: {e.filename}: {e.strerror}",)
            return ()
        self.degraded = () if limited else ("the memory of image pulls can't be limited: no cgroup memory controller",)
        return tuple(os.fspath(group / "cgroup.procs") for group in self._groups)

    def _limit_unified(self, group: Path) -> bool:
        for controller in _CONTROLLERS:
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.subtree_control").write_text(f"+{controller}")
        _write(group / "memory.swap.max", 0)  # missing on a kernel without swap accounting
        _write(group / "cpu.weight", LOW_CPU_WEIGHT)
        _write(group / "io.weight", LOW_IO_WEIGHT)
        return _write(group / "memory.max", self._memory)

    def _limit_v1(self) -> bool:
        if "cpu" in self._v1:
            _write(self._v1["cpu"] / "cpu.shares", LOW_CPU_SHARES)
        if "blkio" in self._v1:
            _write(self._v1["blkio"] / "blkio.weight", LOW_BLKIO_WEIGHT)
        if "memory" not in self._v1:
            return False
        group = self._v1["memory"]
        done = _write(group / "memory.limit_in_bytes", self._memory)
        _write(group / "memory.memsw.limit_in_bytes", self._memory)  # never below the one above, so after it
        return done

    def oom_kills(self) -> int:
        """How often the kernel killed in there for want of memory, since it was made."""
        file = (
            self._unified / "memory.events"
            if self._unified
            else self._v1.get("memory", Path("-")) / "memory.oom_control"
        )
        try:
            found = [line.split()[1] for line in file.read_text().splitlines() if line.startswith("oom_kill ")]
        except OSError:
            return 0
        return int(found[0]) if found else 0

    def peak(self) -> int:
        """The most bytes it ever had, file cache included; 0 where the kernel doesn't say (v2 before Linux 5.19)."""
        file = (
            self._unified / "memory.peak"
            if self._unified
            else self._v1.get("memory", Path("-")) / "memory.max_usage_in_bytes"
        )
        try:
            return int(file.read_text())
        except (OSError, ValueError):
            return 0

    def _file(self, unified: str, v1: str) -> Path:
        return self._unified / unified if self._unified else self._v1.get("memory", Path("/nonexistent")) / v1

    def sweep(self) -> int:
        """SIGKILL to whatever a daemon before us left in there; returns how many. Whoever is killed holds a lock on
        what it worked at, which the kernel lifts."""
        killed = 0
        for group in self._groups:
            try:
                pids = [int(line) for line in (group / "cgroup.procs").read_text().split()]
            except (OSError, ValueError):
                continue
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed


def _write(file: Path, value: int) -> bool:
    try:
        file.write_text(str(value))
    except OSError:
        return False
    return True


def _mounts(mountinfo: str) -> tuple[str, dict[str, str]]:
    """Where cgroup v2 is mounted ("" = nowhere), and each controller of v1 (proc(5), /proc/pid/mountinfo)."""
    unified, v1 = "", dict[str, str]()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        place, kind, options = left.split()[4], right.split()[0], right.split()[-1]
        if kind == "cgroup2":
            unified = unified or place
        elif kind == "cgroup":
            for option in options.split(","):
                v1.setdefault(option, place)
    return unified, v1
