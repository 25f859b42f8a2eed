"""The board itself: capacity, identity of the boot, memory facts.

Plain reads of /proc instead of psutil: each number here is one line of one file, and psutil costs the resident
process 0.9 MB. The dashboard and the bench, which need more, use psutil in their own processes.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from edged.addresses import own_address as own_address
from edged.config import NodeConfig
from edged.errors import PermanentError
from edged.model import Capacity

PROC = Path("/proc")


def claim(folder: Path, patience: float = 3.0) -> int:
    """Make this process the only daemon of a node: two would start every container twice and fight over names.

    The lock is on the folder itself (flock(2)), so nothing is written to flash, and the kernel lifts it when we die.

    :param patience: seconds for a daemon that was killed a moment ago to be gone with all its threads and with helpers
        that it had just forked.
    :returns: a descriptor that holds the claim while it is open.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise PermanentError(f"state_dir {folder} can't be used: {e.strerror}; edged needs root") from e
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as e:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(descriptor)
            raise PermanentError(f"another edged already works in {folder}; stop it, or name another state_dir") from e
        except OSError as e:
            os.close(descriptor)
            raise PermanentError(f"state_dir {folder} can't be locked: {e.strerror}; use a local file system") from e


def memory_info() -> dict[str, int]:
    """/proc/meminfo in bytes (proc(5))."""
    facts: dict[str, int] = {}
    for line in (PROC / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        amount = rest.split()
        if amount:
            facts[name] = int(amount[0]) * (1024 if len(amount) > 1 else 1)
    return facts


def pss(pid: int | str = "self") -> int:
    """Proportional set size in bytes from smaps_rollup; 0 if the process is gone."""
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def lower_oom_score(wanted: int = -999) -> bool:
    """Have the kernel end everything else first (proc(5), oom_score_adj); helpers inherit it, containers get their own.
    False where that takes CAP_SYS_RESOURCE, which `degraded` says."""
    file = PROC / "self/oom_score_adj"
    try:
        if int(file.read_text()) > wanted:
            file.write_text(str(wanted))
    except (OSError, ValueError):
        return False
    return True


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def os_name() -> str:
    """PRETTY_NAME of os-release(5)."""
    for candidate in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        try:
            lines = candidate.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip('"')
    return "Linux"


OCI_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "riscv64": "riscv64"}


MIB = 1 << 20


def system_reserve(config: NodeConfig, total: int) -> int:
    """Bytes for the OS: what the settings say, or an eighth of `total` within bounds. At least 96 MiB: with 64, hogs
    on a board of 512 MB left sshd 12 MB of its 42, and the daemon read its own code again. Smaller boards give a fifth,
    but never less than 64 MiB."""
    least = max(min(total // 5, 96 * MIB), 64 * MIB)
    return config.system_reserve if config.system_reserve >= 0 else min(max(total // 8, least), 256 * MIB)


def margin(size: int) -> int:
    """Bytes between what pods may request together and where the kernel kills: the room in which the degradation
    ladder acts. Kubernetes' eviction threshold (100 MiB), to the scale of boards. :param size: of the board, or of the
    part of it that the settings give to pods."""
    return min(max(size // 50, 8 * MIB), 64 * MIB)


def memory_for_pods(config: NodeConfig, total: int) -> int:
    """Bytes that pods may request together: `total` minus the OS, minus ourselves, minus the margin."""
    if config.memory_allocatable:
        return config.memory_allocatable
    return max(total - system_reserve(config, total) - config.own_reserve - margin(total), 0) // MIB * MIB


def disk_size(folder: Path) -> int:
    """Bytes of the file system that `folder` is or will be on (statvfs(3)); 0 where nobody can tell."""
    for place in (folder, *folder.parents):
        try:
            facts = os.statvfs(place)
        except OSError:
            continue
        return facts.f_blocks * facts.f_frsize
    return 0


def capacity(config: NodeConfig) -> Capacity:
    """What the board has, and what of it is for pods."""
    uname = os.uname()
    total = memory_info()["MemTotal"]
    storage = disk_size(config.state)
    reserve = config.storage_reserve if config.storage_reserve >= 0 else storage // 10
    return Capacity(
        memory=total,
        memory_allocatable=memory_for_pods(config, total),
        cpu=len(os.sched_getaffinity(0)) * 1000,
        architecture=OCI_ARCHITECTURES.get(uname.machine, uname.machine),
        kernel=uname.release,
        os=os_name(),
        runtime="crun+conmon",
        storage=storage,
        storage_allocatable=max(storage - reserve, 0),
    )
