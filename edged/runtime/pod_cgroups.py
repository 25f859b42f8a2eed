"""The cgroup of a whole pod and the one of all pods: what they get, and what is done to them under pressure.

Files are written only where they say something else, so applying twice costs a few reads; whoever is killed in between
leaves a tree that the next `apply` completes. A file that this kernel does not have is left out: what that costs is
told once by `Cgroups.degraded` and `Gauge.degraded`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edged.errors import RetryError
from edged.runtime import settings
from edged.runtime.cgroup import UNLIMITED, Cgroups, Mode, pass_on
from edged.runtime.cgroupfs import keyed, number, settle, text, write
from edged.runtime.resources import Swap
from edged.runtime.settings import NO_LIMIT, PodSettings, TreeSettings

LEGACY = ("memory", "cpu", "pids", "blkio", "freezer")
PROTECTIONS = ("memory.min", "memory.low")


class PodCgroups:
    """All pods' cgroups of one node. Stateless: the kernel's files are the state."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups

    @property
    def _unified(self) -> bool:
        return self._cgroups.mode is Mode.UNIFIED

    # ------------------------------------------------------------ settings

    def apply_tree(self, tree: TreeSettings) -> None:
        """Bound all pods together. On v1 a limit below what is in use is refused; then the old one stays until the
        next try."""
        if self._unified:
            _settle_all(self._folder(), settings.unified_tree(tree))
            return
        for controller, files in settings.legacy_tree(tree).items():
            folder = self._cgroups.parent(controller)
            for name, value in files if folder is not None else ():
                settle_legacy(folder / name, value)  # type: ignore[operator]

    def apply(self, pod_uid: str, wanted: PodSettings) -> None:
        """Make the pod's cgroup and let it have what it is due. :raises RetryError: it can't be made."""
        try:
            if self._unified:
                folder = self._folder() / pod_uid
                folder.mkdir(exist_ok=True)
                pass_on(folder)
                _settle_all(folder, settings.unified_pod(wanted))
                self.protect()
            else:
                self._apply_legacy(pod_uid, wanted)
        except OSError as e:
            raise RetryError(f"cgroup of pod {pod_uid} can't be made at {e.filename}: {e.strerror}") from e

    def _apply_legacy(self, pod_uid: str, wanted: PodSettings) -> None:
        files = settings.legacy_pod(wanted)
        for controller in LEGACY:
            parent = self._cgroups.parent(controller)
            if parent is None:
                continue
            folder = parent / pod_uid
            folder.mkdir(exist_ok=True)
            refused = [f for f in files.get(controller, ()) if not settle_legacy(folder / f[0], f[1])]
            for name, value in refused:  # memory and memory + swap: which has to be first depends on what was there
                settle_legacy(folder / name, value)

    def protect(self) -> None:
        """Have every cgroup above the pods protect what those below it do: the kernel hands protection down from the
        top and gives no more than there is. Exactly the sum: what is protected without an owner would be shared out
        among services that were promised nothing."""
        if not self._unified:
            return
        folder = self._folder()
        with contextlib.suppress(OSError):  # it is being taken away
            while (folder / "memory.min").exists():  # not so at the root
                children = [e.path for e in os.scandir(folder) if e.is_dir(follow_symlinks=False)]
                for name in PROTECTIONS:
                    settle(folder / name, str(sum(number(f"{child}/{name}") for child in children)))
                folder = folder.parent

    # ------------------------------------------------------------ under pressure

    def reclaim(self, pod_uid: str, amount: int) -> None:
        """Push out up to `amount` bytes; takes as long as the kernel needs, so not for the loop's own thread.

        :raises RetryError: the kernel has no way to (the sentence names it).
        """
        if self._unified:
            self._reclaim_unified(self._folder() / pod_uid, amount)
            return
        memory = self._cgroups.parent("memory")
        file = memory / pod_uid / "memory.force_empty" if memory is not None else None
        try:
            if file is None:
                raise RetryError("memory can't be reclaimed: this machine has no memory cgroup")
            write(file, "0")
        except FileNotFoundError:
            return  # the pod is gone, and its memory with it
        except OSError as e:
            if e.errno not in (errno.EBUSY, errno.EAGAIN):  # as far as it went, it went
                raise RetryError(f"memory of pod {pod_uid} can't be reclaimed: {e.strerror}") from e

    def _reclaim_unified(self, folder: Path, amount: int) -> None:
        try:
            write(folder / "memory.reclaim", str(amount))
        except OSError as e:
            if not folder.exists() or e.errno == errno.EAGAIN:  # gone, or less than asked for was to be had
                return
            if e.errno != errno.ENOENT:
                raise RetryError(f"memory of {folder.name} can't be reclaimed: {e.strerror}") from e
            # before Linux 5.19: lowering memory.high reclaims on the spot, and letting go again leaves it at that
            before = text(folder / "memory.high").strip() or NO_LIMIT
            with contextlib.suppress(OSError):
                write(folder / "memory.high", str(max(number(folder / "memory.current") - amount, 0)))
            settle(folder / "memory.high", before)

    def set_high(self, pod_uid: str, high: int | None) -> None:
        """:raises RetryError: this machine has no memory.high."""
        folder = self._folder() / pod_uid
        if not self._unified or (folder.exists() and not (folder / "memory.high").exists()):
            raise RetryError("memory.high is not available on this machine")
        value = NO_LIMIT if high is None else str(settings.page(high))
        if folder.exists() and not settle(folder / "memory.high", value):
            raise RetryError(f"memory.high of pod {pod_uid} can't be set to {value}")

    async def squeeze(self, pod_uid: str, high: int | None) -> None:
        """`set_high` by who can't wait: the kernel reclaims within the write, until the pod is below or sixteen rounds
        won nothing, and all that time would be the loop's. Letting go costs nothing. :raises RetryError: likewise."""
        if high is None:
            self.set_high(pod_uid, None)
        else:
            await in_thread(lambda: self.set_high(pod_uid, high), f"squeeze {pod_uid}")

    def freeze(self, pod_uid: str, frozen: bool) -> None:
        """Stop every process of the pod, or let them go on; harmless where there is none.

        :raises RetryError: this machine has no freezer.
        """
        file, value = self._freezer(pod_uid, frozen)
        if file is None or (file.parent.exists() and not file.exists()):
            if frozen:
                raise RetryError("pods can't be frozen on this machine: it has no freezer cgroup")
            return
        if file.exists() and not settle(file, value):
            raise RetryError(f"pod {pod_uid} can't be {'frozen' if frozen else 'thawed'}")

    def frozen(self, pod_uid: str) -> bool:
        """Whether it is to be frozen, as the kernel was told."""
        file, value = self._freezer(pod_uid, True)
        if file is None:
            return False
        said = text(file).strip()
        return said == value or (not self._unified and said == "FREEZING")

    def let_go(self) -> None:
        """Undo what a ladder before us did: a daemon that starts begins at its foot."""
        for uid in self.pods():
            with contextlib.suppress(RetryError):
                self.freeze(uid, False)
                if self._unified:
                    self.set_high(uid, None)

    def pods(self) -> list[str]:
        """uids of the pods that have a cgroup."""
        parent = self._folder() if self._unified else self._cgroups.parent("memory") or self._cgroups.parent("freezer")
        try:
            with os.scandir(parent or "/nonexistent") as entries:
                return [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def load(self, pod_uid: str) -> tuple[int, int]:
        """Bytes that the pod uses, tmpfs included: without and with file cache that can be dropped at once."""
        if self._unified:
            memory, used, inactive = self._cgroups.parent(), "memory.current", "inactive_file"
        else:
            memory, used, inactive = self._cgroups.parent("memory"), "memory.usage_in_bytes", "total_inactive_file"
        if memory is None:
            return 0, 0
        held = number(memory / pod_uid / used)
        return max(held - keyed(memory / pod_uid / "memory.stat").get(inactive, 0), 0), held

    def processes(self, pod_uid: str) -> int:
        """Processes and threads."""
        parent = self._cgroups.parent("pids")
        return number(parent / pod_uid / "pids.current") if parent is not None else 0

    # ------------------------------------------------------------ where

    def _folder(self) -> Path:
        return self._cgroups.parent() or Path("/nonexistent")

    def _freezer(self, pod_uid: str, frozen: bool) -> tuple[Path | None, str]:
        if self._unified:
            return self._folder() / pod_uid / "cgroup.freeze", "1" if frozen else "0"
        parent = self._cgroups.parent("freezer")
        file = parent / pod_uid / "freezer.state" if parent is not None else None
        return file, "FROZEN" if frozen else "THAWED"


def _settle_all(folder: Path, files: Mapping[str, str]) -> None:
    for name, value in files.items():
        settle(folder / name, value)


def settle_legacy(file: Path, value: str) -> bool:
    """v1 shows "no limit" as a number near 2^63."""
    if value == "-1" and number(file) >= UNLIMITED:
        return True
    return settle(file, value)


def swap_space(policy: str) -> Swap:
    """What pods may swap to (NodeConfig.swap). zram is memory itself, only smaller; everything else on a board is
    flash, which it wears out."""
    names = [line.split() for line in text("/proc/swaps").splitlines()[1:]]
    total = sum(int(fields[2]) * 1024 for fields in names if len(fields) > 2)
    only_zram = all(fields[0].startswith("/dev/zram") for fields in names)
    if policy == "none" or (policy == "zram" and not only_zram):
        total = 0
    return Swap(total, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


async def in_thread(work: Callable[[], None], name: str) -> None:
    """Do what the kernel may take seconds for. In a thread that ends: a pool would keep its stacks for good.
    Who stops waiting leaves it to end by itself."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as e:  # noqa: BLE001 (it travels to who waits)
            error = e
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    await done
