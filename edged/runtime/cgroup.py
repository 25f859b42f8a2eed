"""Control groups: where a container's is, what it uses, whether it ran out of memory, and taking it away.
What a whole pod and all pods together get is in edged.runtime.pod_cgroups.

v2 is the target; v1 and hybrid are a rung below. The path is the same everywhere:
`/<parent>/<pod uid>/<container>-<attempt>`, in the one hierarchy of v2 or in each controller's of v1. It is unique,
so a pid is ours exactly when its /proc/<pid>/cgroup names it: a reused pid can never be taken for a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from edged.errors import RetryError
from edged.model import ContainerUsage
from edged.runtime.cgroupfs import keyed, number, settle, words
from edged.runtime.mounts import MountPoint, mount_points
from edged.runtime.resources import Swap

CAP_SYS_RESOURCE = 24
REMOVE_PATIENCE = 10.0  # seconds for killed processes to let go; some milliseconds unless the board is swamped
REMOVE_PAUSE = 0.002  # before the second look; then doubled
LONGEST_PAUSE = 0.25
CONTROLLERS_V2 = ("cpu", "memory", "pids", "io")
UNLIMITED = 1 << 62  # v1 shows "no limit" as a number near 2^63


class Mode(enum.StrEnum):
    UNIFIED = "v2"
    HYBRID = "v1 hybrid"
    LEGACY = "v1"


class Cgroups:
    """The control groups of one node.

    :ivar mode: what this machine has.
    :ivar hidden: mounts that crun must not see (it refuses hybrid mode while the v2 half is mounted).
    :ivar memory, swap, pids, cpu, devices: whether limits of that kind can be set.
    :ivar degraded: sentences for what can't.
    :ivar swap_space: what pods may use of it.
    """

    def __init__(
        self,
        parent: str,
        points: Sequence[MountPoint] | None = None,
        capabilities: int | None = None,
        swap_space: Swap | None = None,
    ) -> None:
        self.swap_space = swap_space or Swap()
        self._parent = parent.strip("/")
        points = mount_points() if points is None else points
        unified = [p.path for p in points if p.fstype == "cgroup2"]
        self._v1: dict[str, Path] = {}
        for point in points:
            if point.fstype == "cgroup":
                for option in point.options.split(","):
                    self._v1.setdefault(option.removeprefix("name="), Path(point.path))
        if unified and not self._v1:
            self.mode = Mode.UNIFIED
            self._unified = Path(unified[0])
        else:
            self.mode = Mode.HYBRID if unified else Mode.LEGACY
        self.hidden = tuple(unified) if self.mode is Mode.HYBRID else ()
        self.memory = self.swap = self.pids = self.cpu = False
        self.may_lower_oom_score = bool(
            (_capabilities() if capabilities is None else capabilities) >> CAP_SYS_RESOURCE & 1
        )
        self.devices = self.mode is not Mode.UNIFIED or self.may_lower_oom_score
        self._shares_protection = any("memory_recursiveprot" in p.options for p in points if p.fstype == "cgroup2")
        self.degraded: tuple[str, ...] = ()

    def open(self) -> None:
        """Make the parent and learn what can be limited. :raises RetryError: no cgroups can be made here."""
        try:
            for root in self._roots():
                folder = root / self._parent
                if self.mode is Mode.UNIFIED:
                    self._delegate(root, folder)
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise RetryError(
                f"no cgroup can be made at {e.filename}: {e.strerror}; edged needs root (systemd: Delegate=yes)",
                after=10.0,
            ) from e
        if self.mode is Mode.UNIFIED:
            parent = self._unified / self._parent
            available = words(parent / "cgroup.controllers")
            self.memory, self.pids, self.cpu = ("memory" in available, "pids" in available, "cpu" in available)
            self.swap = (parent / "memory.swap.max").exists()
        else:
            self.memory, self.pids, self.cpu = ("memory" in self._v1, "pids" in self._v1, "cpu" in self._v1)
            self.swap = self.memory and (self._v1["memory"] / "memory.memsw.limit_in_bytes").exists()
        self.degraded = tuple(self._sentences())

    def _sentences(self) -> Iterable[str]:
        if self.mode is not Mode.UNIFIED:
            yield f"cgroup {self.mode}: memory.high, memory.min and PSI per pod are not available"
        elif not self._shares_protection:
            yield (
                "memory that pods have asked for isn't protected inside them:"
                " mount /sys/fs/cgroup with memory_recursiveprot (systemd 247 does)"
            )
        if not self.memory:
            yield "memory limits can't be enforced: add cgroup_enable=memory to the one line of cmdline.txt and reboot"
        if not self.cpu:
            yield "CPU limits can't be enforced: the kernel's cpu cgroup controller is not available"
        if not self.pids:
            yield "process limits can't be enforced: the kernel's pids cgroup controller is not available"
        if not self.devices:
            yield (
                "access to devices can't be limited (crun needs CAP_SYS_RESOURCE to load its filter):"
                " containers may not make device files instead"
            )
        if not self.may_lower_oom_score:
            yield "can't lower oom_score_adj (CAP_SYS_RESOURCE is missing): under memory pressure all pods die alike"

    def _delegate(self, root: Path, folder: Path) -> None:
        """v2: a controller reaches a cgroup only if every one above it passes it on."""
        place = root
        for name in folder.relative_to(root).parts:
            pass_on(place)
            place = place / name
            place.mkdir(exist_ok=True)
        pass_on(place)

    def parent(self, controller: str = "") -> Path | None:
        """The folder of all pods: the one of v2, or the controller's own of v1 (None where it isn't there)."""
        if self.mode is Mode.UNIFIED:
            return self._unified / self._parent
        return self._v1[controller] / self._parent if controller in self._v1 else None

    def _roots(self) -> list[Path]:
        return [self._unified] if self.mode is Mode.UNIFIED else list(dict.fromkeys(self._v1.values()))

    # ------------------------------------------------------------ one container

    def path(self, pod_uid: str, container: str, attempt: int) -> str:
        """As OCI's linux.cgroupsPath and /proc/<pid>/cgroup write it."""
        return f"/{self._parent}/{pod_uid}/{container}-{attempt}"

    def pod_path(self, pod_uid: str) -> str:
        """Likewise, of all containers of a pod."""
        return f"/{self._parent}/{pod_uid}"

    def owns(self, path: str, pid: int) -> bool:
        """Whether this pid is alive and in that cgroup (or below it)."""
        if pid <= 0:
            return False
        try:
            with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as f:  # noqa: PTH123 (a hot path)
                places, ours = f.read(), os.fsencode(path)
                if b":%b\n" % ours not in places and b":%b/" % ours not in places:
                    return False
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as f:  # noqa: PTH123
                return f.read().rpartition(b")")[2].split(None, 1)[0] not in (b"Z", b"X")
        except (OSError, IndexError):
            return False

    def processes(self, path: str) -> set[int]:
        """Pids in that cgroup and below."""
        found: set[int] = set()
        for root in self._roots():
            for folder, _, files in os.walk(f"{root}{path}"):
                if "cgroup.procs" in files:
                    with contextlib.suppress(OSError, ValueError), open(f"{folder}/cgroup.procs") as f:  # noqa: PTH123
                        found.update(int(line) for line in f)
            if found or self.mode is Mode.UNIFIED:
                break
        return found

    def kill(self, path: str) -> None:
        """SIGKILL to every process in it."""
        if self.mode is Mode.UNIFIED:
            with contextlib.suppress(OSError):
                (Path(f"{self._unified}{path}") / "cgroup.kill").write_text("1")  # Linux 5.14
                return
        freezer = self.parent("freezer")
        if freezer is not None:  # a frozen process dies only when it is let go; a pod is frozen as a whole
            settle(freezer / path.strip("/").split("/")[len(self._parent.split("/"))] / "freezer.state", "THAWED")
        for pid in self.processes(path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def permit_device(self, path: str, major: int, minor: int, allow: bool) -> None:
        """Change what may be opened in there, where that can be changed: v1. v2's filter was given all it needs when
        the container was made. :raises OSError."""
        if "devices" in self._v1:
            file = "devices.allow" if allow else "devices.deny"
            Path(f"{self._v1['devices']}{path}/{file}").write_text(f"c {major}:{minor} rw")

    def oom_kills(self, path: str) -> int:
        """How often the kernel killed in there for want of memory."""
        if self.mode is Mode.UNIFIED:
            return keyed(Path(f"{self._unified}{path}/memory.events")).get("oom_kill", 0)
        if "memory" in self._v1:
            return keyed(Path(f"{self._v1['memory']}{path}/memory.oom_control")).get("oom_kill", 0)
        return 0

    def usage(self, path: str) -> ContainerUsage:
        """Memory as Kubernetes counts it: what is used minus file cache that can be dropped at once."""
        if self.mode is Mode.UNIFIED:
            folder = Path(f"{self._unified}{path}")
            used, stat = number(folder / "memory.current"), keyed(folder / "memory.stat")
            inactive, limit = stat.get("inactive_file", 0), number(folder / "memory.max")
            cpu = keyed(folder / "cpu.stat").get("usage_usec", 0) / 1e6
            pids = number(folder / "pids.current")
        else:
            none = Path("/nonexistent")
            memory, cpuacct, pid = (Path(f"{self._v1.get(c, none)}{path}") for c in ("memory", "cpuacct", "pids"))
            used, stat = number(memory / "memory.usage_in_bytes"), keyed(memory / "memory.stat")
            inactive, limit = stat.get("total_inactive_file", 0), number(memory / "memory.limit_in_bytes")
            cpu = number(cpuacct / "cpuacct.usage") / 1e9
            pids = number(pid / "pids.current")
        pids = pids or len(self.processes(path))  # without the controller
        return ContainerUsage(max(used - inactive, 0), limit if 0 < limit < UNLIMITED else None, cpu, pids)

    def working_set(self, path: str) -> tuple[int, int]:
        """Bytes used now without cache that can be dropped at once; and at most so far, as far as the kernel says
        (Linux 5.19), less the cache of now: a file that was read once is no need for memory."""
        if self.mode is Mode.UNIFIED:
            folder, names = self._unified, ("memory.current", "memory.peak", "inactive_file")
        else:
            folder = self._v1.get("memory", Path("/nonexistent"))
            names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "total_inactive_file")
        place = f"{folder}{path}"
        inactive = keyed(f"{place}/memory.stat").get(names[2], 0)
        used, peak = (max(number(f"{place}/{name}") - inactive, 0) for name in names[:2])
        return used, max(used, peak)

    def containers(self) -> list[str]:
        """Paths of all that are there."""
        found: dict[str, None] = {}
        for root in self._roots():
            parent = root / self._parent
            for pattern in parent.glob("*/*/cgroup.procs"):
                found["/" + os.fspath(pattern.parent.relative_to(root))] = None
        return list(found)

    # ------------------------------------------------------------ taking away

    async def remove(self, path: str) -> None:
        """Kill what is in it and take it away, wherever it is. :raises RetryError: it stays busy."""
        waited, pause = 0.0, REMOVE_PAUSE
        while any(not _remove_tree(Path(f"{root}{path}")) for root in self._roots()):
            if waited >= REMOVE_PATIENCE:
                left = sorted(self.processes(path))[:10]
                raise RetryError(f"cgroup {path} can't be removed: its processes {left} don't end")
            self.kill(path)
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(pause * 2, LONGEST_PAUSE)

    async def remove_pod(self, pod_uid: str) -> None:
        await self.remove(self.pod_path(pod_uid))

    async def remove_all(self) -> None:
        await self.remove(f"/{self._parent}")


def _remove_tree(folder: Path) -> bool:
    """True if it is gone. Files of a cgroup can't be removed; removing the folders is enough."""
    try:
        for below, names, _ in os.walk(folder, topdown=False):
            for name in names:
                os.rmdir(f"{below}/{name}")  # noqa: PTH106
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def pass_on(folder: Path) -> None:
    """v2: let the cgroups below have controllers of their own."""
    available, passed = words(folder / "cgroup.controllers"), words(folder / "cgroup.subtree_control")
    missing = [c for c in CONTROLLERS_V2 if c in available and c not in passed]
    for controller in missing:  # what the kernel does not pass on is told by `degraded`
        settle(folder / "cgroup.subtree_control", f"+{controller}")


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
