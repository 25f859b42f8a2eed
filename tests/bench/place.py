"""Places of their own for measuring: a block device that nobody else writes to, and a machine within the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SECTOR = 512  # bytes, the unit of /sys/block/*/stat whatever the device's own


class Disk:
    """An ext4 on a loop device. Nothing is initialised lazily, so that all that reaches it comes from what is measured.

    :ivar path: where it is mounted.
    """

    def __init__(self, folder: Path, megabytes: int = 2048) -> None:
        self.path = folder / "disk"
        self._image = folder / "disk.img"
        folder.mkdir(parents=True, exist_ok=True)
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(megabytes << 20)
        quiet = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
        subprocess.run(["mkfs.ext4", *quiet, str(self._image)], check=True)
        made = subprocess.run(
            ["losetup", "--find", "--show", str(self._image)], check=True, capture_output=True, text=True
        )
        self._device = made.stdout.strip()
        subprocess.run(["mount", self._device, str(self.path)], check=True)
        self.settle()

    def settle(self) -> None:
        """Everything that was written reaches the device."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            subprocess.run(["sync", "--file-system", str(self.path)], check=True)
        finally:
            os.close(descriptor)

    def counters(self) -> tuple[int, int]:
        """(bytes written, flushes) so far; Linux' Documentation/block/stat.rst."""
        fields = Path("/sys/block", Path(self._device).name, "stat").read_text().split()
        return int(fields[6]) * SECTOR, int(fields[15])

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", self._device], check=False, capture_output=True)
        self._image.unlink(missing_ok=True)


@contextlib.contextmanager
def disk(folder: Path, megabytes: int = 2048) -> Iterator[Disk]:
    made = Disk(folder, megabytes)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


# In it engines find an empty network and folders of their own; on a cgroup v1 hybrid machine the v2 half, which crun
# refuses, isn't mounted there. The machine itself is not touched.
FURNISH = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/netns /var/lib/cni /etc/cni/net.d
mount -t tmpfs tmpfs /var/lib/cni
umount /sys/fs/cgroup/unified 2>/dev/null || true
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 || true
echo ready
exec sleep infinity
"""


class Jail:
    """Mount and network namespaces that live as long as this does."""

    def __init__(self) -> None:
        unshare = ["unshare", "--mount", "--net", "--propagation", "slave", "sh", "-c", FURNISH]
        self._holder = subprocess.Popen(unshare, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "ready":
            self.close()
            raise RuntimeError("no private namespaces can be made here; run this as root")

    @property
    def pid(self) -> int:
        """Of the process that holds them."""
        return self._holder.pid

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self._holder.pid), "--mount", "--net", "--", *argv]

    def run(self, argv: Sequence[str], check: bool = True, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(argv), check=check, capture_output=True, text=True, timeout=timeout)

    def spawn(self, argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(self.command(argv), stdout=file, stderr=file, start_new_session=True)

    def processes(self) -> list[int]:
        """Everything in its network or mount namespace, its holder aside."""
        own = Path(f"/proc/{self._holder.pid}/ns")
        net, mount = (own / "net").readlink(), (own / "mnt").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != self._holder.pid:
                with contextlib.suppress(OSError):
                    if (entry / "ns/net").readlink() == net or (entry / "ns/mnt").readlink() == mount:
                        found.append(int(entry.name))
        return found

    def close(self) -> None:
        deadline = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            time.sleep(0.05)
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


@contextlib.contextmanager
def jail() -> Iterator[Jail]:
    made = Jail()
    try:
        yield made
    finally:
        made.close()
