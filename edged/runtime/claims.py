"""Persistent volumes on this node's own storage; their size is enforced, and they go only when somebody says so.

    state_dir/volumes/<uid>/claim      ClaimRecord, JSON
    state_dir/volumes/<uid>/image      a file with an ext4 of its own, on a loop device, with data/ in it; or
    state_dir/volumes/<uid>/data/      a folder with a project quota, where state_dir's file system enforces those
    run_dir/volumes/<uid>              where it is mounted, once for the node, while a pod uses it

An image file gets its blocks when it is made, and keeps them: a claim is a promise, and a file system whose device has
no room left when it writes would see I/O errors where the pod should see "No space left on device". That is also why
freed blocks aren't handed back (discard). It is larger than the claim by what ext4 needs for itself.

A volume is made under another name, flushed and renamed; it is renamed before it is deleted. What a power cut leaves
half made or half deleted is swept by `open`. ext4's journal puts right what a power cut leaves inside; e2fsck is run
before mounting where the file system itself asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
from pathlib import Path

import msgspec

from edged.config import StorageConfig
from edged.errors import EdgedError, PermanentError, RetryError
from edged.model import Claim, ClaimFiles, Value
from edged.runtime import ext4, loops, mounts, process, quota
from edged.runtime.records import UID

PATIENCE = 600.0  # seconds for mkfs, fsck, resize or removal of one volume: a large one on a slow card
MOUNT_PATIENCE = 120.0  # seconds; the journal is replayed
NEW, TRASH = ".new-", ".trash-"
CONTENT = "data"  # what pods see; beside it, in an image, lost+found, which many programs would stumble over
FULL = 30.0  # seconds until the disk is looked at again

log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


class ClaimRecord(Value, frozen=True):
    """:ivar kind: "image" or "quota". :ivar size: bytes that were asked for last."""

    namespace: str
    name: str
    uid: str
    size: int
    kind: str


class Claims:
    """All persistent volumes of one node. `observe` works without `open`. Owned by PodRuntime; one loop."""

    def __init__(self, disk: Path, memory: Path, config: StorageConfig) -> None:
        self._disk = disk
        self._memory = memory
        self._config = config
        self._lock = asyncio.Lock()  # making, growing and mounting: one at a time
        self.degraded: tuple[str, ...] = ()

    async def open(self) -> None:
        """Take away what was left half made or half deleted."""
        if not quota.supported(self._disk.parent) and not loops.usable():
            self.degraded = (f"no persistent volume can be made on this node: {self.describe()}",)
        for entry in self._entries():
            if entry.startswith((NEW, TRASH)):
                with contextlib.suppress(EdgedError):
                    await _remove(self._disk / entry)

    def observe(self) -> frozenset[str]:
        """uids of all that are there."""
        return frozenset(e for e in self._entries() if UID.fullmatch(e))

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self._disk)  # noqa: PTH208
        except FileNotFoundError:
            return []

    # ------------------------------------------------------------ for pods

    async def show(self, claim: ClaimFiles, target: Path, title: str) -> None:
        """Make it if this is its first use, mount it, and show it at `target`, a folder below run_dir.

        :param title: "namespace/name". :raises RetryError: no room, or it is damaged. :raises PermanentError.
        """
        namespace, _, name = title.partition("/")
        wanted = Claim(namespace, name, claim.uid, claim.size)
        async with self._lock:
            try:
                home = await self._ensure(wanted)
                if home.is_relative_to(self._memory) and not _mounted_at(home):  # memory must not pass for the volume
                    raise RetryError(f"persistent volume {title} was unmounted by somebody else")
                if not _mounted_at(target):
                    target.mkdir(parents=True, exist_ok=True)
                    mounts.mount(os.fspath(_content(home)), os.fspath(target), "", mounts.MS_BIND)
            except OSError as e:
                raise RetryError(f"persistent volume {title} can't be used: {e}", 10.0) from e

    def release(self) -> None:
        """Unmount those that no pod uses any more, so that a power cut finds them clean. While another one is being
        made or mounted nothing is done; it isn't lost by waiting for the next pod that goes."""
        if not self._lock.locked():
            self._release()

    def _release(self) -> None:
        if not self._memory.is_dir():  # none was ever mounted
            return
        points = mounts.mount_points()
        for point in points:
            if point.path.startswith(f"{self._memory}/"):
                same = [p for p in points if p.device == point.device]
                if len(same) == 1 or all(p.path == point.path for p in same):
                    with contextlib.suppress(OSError):
                        mounts.unmount(point.path)
                        os.rmdir(point.path)  # noqa: PTH106

    async def remove(self, uid: str) -> None:
        """Delete it and all that is in it; repeatable. :raises RetryError: a pod uses it."""
        folder = self._folder(uid)
        async with self._lock:
            if not folder.exists():
                return
            self._release()
            if _mounted_at(self._memory / uid) or self._is_bound(folder) or loops.device_of(folder / "image"):
                raise RetryError(f"persistent volume {uid} is still used by a pod", 2.0)
            quota.release(folder / CONTENT)
            trash = self._disk / f"{TRASH}{uid}"
            try:
                await _remove(trash)
                folder.rename(trash)
                _flush(self._disk)
            except OSError as e:
                raise RetryError(f"persistent volume {uid} can't be deleted: {e}", 10.0) from e
            await _remove(trash)

    def _is_bound(self, folder: Path) -> bool:
        """Whether a pod sees its data folder: mountinfo names the part of the file system that a mount shows."""
        return any(p.root.endswith(f"/{folder.parent.name}/{folder.name}/{CONTENT}") for p in mounts.mount_points())

    async def resize(self, claim: Claim) -> None:
        """Let it hold what the claim says now, also while it is used; repeatable. One that isn't made yet is made in
        the right size. :raises PermanentError: it would have to shrink."""
        async with self._lock:
            record = self._read(claim.uid)
            if record is None:
                return
            if claim.size < record.size:
                raise PermanentError(
                    f"persistent volume {claim.title} holds {_size(record.size)} and can't shrink to"
                    f" {_size(claim.size)}; make a new claim and copy what is needed"
                )
            try:
                await self._grow(claim, record)
            except OSError as e:
                raise RetryError(f"persistent volume {claim.title} can't grow: {e}", 10.0) from e

    # ------------------------------------------------------------ making

    async def _ensure(self, claim: Claim) -> Path:
        """The folder that holds its content, mounted where it has to be. :raises OSError."""
        record = self._read(claim.uid)
        if record is None:
            record = await self._make(claim)
        elif claim.size > record.size or self._is_half_grown(record):
            with contextlib.suppress(RetryError):  # a pod needn't wait for more room: what is there is mounted
                record = await self._grow(claim, record)
        folder = self._folder(claim.uid)
        if record.kind == "quota":
            quota.limit(folder / CONTENT, claim.uid, record.size)
            return folder
        home = self._memory / claim.uid
        if not _mounted_at(home):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._mount(claim, folder / "image", home)
        return home

    async def _make(self, claim: Claim) -> ClaimRecord:
        if claim.size <= 0:
            raise PermanentError(f"persistent volume {claim.title} asks for {claim.size} bytes; it needs more than 0")
        self._disk.mkdir(mode=0o700, parents=True, exist_ok=True)
        kind = self._kind()
        record = ClaimRecord(claim.namespace, claim.name, claim.uid, claim.size, kind)
        new = self._disk / f"{NEW}{claim.uid}"
        await _remove(new)
        self._check_room(claim, claim.size if kind == "quota" else ext4.image_size(claim.size))
        try:
            new.mkdir(mode=0o700)
            if kind == "quota":
                quota.limit(_content(new), claim.uid, claim.size)
            else:
                _reserve(new / "image", ext4.image_size(claim.size))
                await process.run(ext4.mkfs(new / "image"), timeout=PATIENCE)
                _flush(new / "image")
            _write(new / "claim", record)
            _flush(new)
            new.rename(self._folder(claim.uid))
            _flush(self._disk)
        except BaseException:
            with contextlib.suppress(EdgedError):
                await _remove(new)
            raise
        log.info("persistent volume %s (%s) made: %s", claim.title, _size(claim.size), self.describe())
        return record

    def _kind(self) -> str:
        """Which rung this node stands on."""
        if self._config.claims != "image" and quota.supported(self._disk):
            return "quota"
        if self._config.claims != "quota" and loops.usable():
            return "image"
        raise RetryError(f"no persistent volume can be made on this node: {self.describe()}", FULL)

    def describe(self) -> str:
        """How sizes are enforced here, and why so; a sentence."""
        there = quota.supported(self._disk if self._disk.is_dir() else self._disk.parent)
        if self._config.claims != "image" and there:
            return "state_dir's file system enforces project quotas, so each is a folder with one"
        why = "storage.claims says so" if self._config.claims == "image" else "state_dir has no project quotas"
        if self._config.claims == "quota":
            return 'storage.claims is "quota", but state_dir is not mounted with prjquota'
        if not loops.usable():
            return f"{why}, and {loops.CONTROL} is not usable: load the kernel's loop module"
        return f"{why}, so each is a file with an ext4 of its own"

    def _check_room(self, claim: Claim, size: int) -> None:
        seen = os.statvfs(self._disk)
        free = seen.f_bavail * seen.f_frsize
        if size + self._config.keep_free > free:
            raise RetryError(
                f"persistent volume {claim.title} needs {_size(size)}, and the disk has {_size(free)} free, of which"
                f" {_size(self._config.keep_free)} are kept for the node",
                FULL,
            )

    # ------------------------------------------------------------ growing

    async def _grow(self, claim: Claim, record: ClaimRecord) -> ClaimRecord:
        """Repeatable: the record says what the size shall be, the file system what it is."""
        folder = self._folder(claim.uid)
        if claim.size > record.size:
            if record.kind == "image":
                more = ext4.image_size(claim.size) - (folder / "image").stat().st_size
                self._check_room(claim, max(more, 0))
            else:
                self._check_room(claim, claim.size - record.size)
            record = msgspec.structs.replace(record, size=claim.size)
            new = folder / ".claim.new"
            _write(new, record)
            new.rename(folder / "claim")
            _flush(folder)
        if record.kind == "quota":
            quota.limit(folder / CONTENT, claim.uid, record.size)
            return record
        wanted = ext4.image_size(record.size)
        if (folder / "image").stat().st_size < wanted:
            _reserve(folder / "image", wanted)
        if _mounted_at(self._memory / claim.uid):
            await self._fill(claim, folder / "image")
        return record

    def _is_half_grown(self, record: ClaimRecord) -> bool:
        image = self._folder(record.uid) / "image"
        return record.kind == "image" and image.stat().st_size < ext4.image_size(record.size)

    async def _fill(self, claim: Claim, image: Path) -> None:
        """Let a mounted file system use all of its file; where it does already, nothing happens."""
        device = loops.device_of(image)
        if not device or ext4.look(Path(device)).size >= image.stat().st_size:
            return
        loops.follow_size(device)
        done = await process.run(["resize2fs", device], timeout=PATIENCE, check=False)
        if done.code != 0 and b"Permission denied" in done.stderr:
            raise RetryError(
                f"persistent volume {claim.title} can't grow while a pod uses it, for edged lacks CAP_SYS_RESOURCE"
                " here; it grows when the pod is made anew",
                FULL,
            )
        if done.code != 0:
            raise RetryError(f"persistent volume {claim.title} can't grow: {done.describe()}", FULL)

    # ------------------------------------------------------------ mounting

    async def _mount(self, claim: Claim, image: Path, home: Path) -> None:
        """In a child: replaying the journal of a large volume from a slow card takes its time."""
        with loops.attached(image) as device:
            seen = ext4.look(image)
            if not _is_mounted(device):
                if seen.needs_check:
                    await self._check(claim, device)
                if seen.size < image.stat().st_size:
                    await self._check(claim, device, "-f")  # resize2fs wants it
                    await process.run(["resize2fs", device], timeout=PATIENCE)
            argv = ["mount", "-t", "ext4", "-o", ext4.OPTIONS, device, os.fspath(home)]
            done = await process.run(argv, timeout=MOUNT_PATIENCE, check=False)
            if done.code != 0:
                await self._check(claim, device)
                await process.run(argv, timeout=MOUNT_PATIENCE)

    async def _check(self, claim: Claim, device: str, *options: str) -> None:
        done = await process.run(["e2fsck", "-p", *options, device], timeout=PATIENCE, check=False)
        log.info("persistent volume %s was checked: %s", claim.title, done.stdout.decode(errors="replace").strip())
        if done.code < 0 or done.code & ~3:  # 1: put right; 2: likewise, and reboot if it is the root (e2fsck(8))
            raise RetryError(
                f"persistent volume {claim.title} is damaged, and e2fsck can't put it right alone: run e2fsck -f"
                f" {self._folder(claim.uid)}/image; it said {done.stdout.decode(errors='replace').strip()[-500:]!r}",
                60.0,
            )

    # ------------------------------------------------------------ records

    def _folder(self, uid: str) -> Path:
        if not UID.fullmatch(uid):
            raise PermanentError(f"persistent volume uid {uid!r} can't name a folder")
        return self._disk / uid

    def _read(self, uid: str) -> ClaimRecord | None:
        """None where there is no such volume. A record that a bad card has eaten is made anew from what is there."""
        folder = self._folder(uid)
        try:
            return msgspec.json.decode((folder / "claim").read_bytes(), type=ClaimRecord)
        except (OSError, msgspec.DecodeError):
            if (folder / "image").is_file():
                return ClaimRecord("", "", uid, ext4.claim_size((folder / "image").stat().st_size), "image")
            if (folder / CONTENT).is_dir():
                return ClaimRecord("", "", uid, 0, "quota")
            return None


def _is_mounted(device: str) -> bool:
    """Whether the device is mounted somewhere already: then its file system is in use and must not be checked."""
    number = os.stat(device).st_rdev  # noqa: PTH116
    return any(p.device == f"{os.major(number)}:{os.minor(number)}" for p in mounts.mount_points())


def _content(home: Path) -> Path:
    """Any user of any container that sees it may write to it, as to an emptyDir, unless the pod has a group for it."""
    folder = home / CONTENT
    if not folder.is_dir():
        folder.mkdir()
        folder.chmod(0o777)
    return folder


def _mounted_at(path: Path) -> bool:
    return any(p.path == os.fspath(path) for p in mounts.mount_points())


def _reserve(file: Path, size: int) -> None:
    """Give it its blocks; a file system that can't (EOPNOTSUPP) gets a file with holes instead. :raises OSError."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if _libc.fallocate64(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size)) < 0:
            number = ctypes.get_errno()
            if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(number, f"no room for {_size(size)}: {os.strerror(number)}")
            os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(file: Path, record: ClaimRecord) -> None:
    file.write_bytes(msgspec.json.encode(record))
    _flush(file)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


async def _remove(folder: Path) -> None:
    if folder.exists():
        await process.run(["rm", "-rf", "--one-file-system", "--", os.fspath(folder)], timeout=PATIENCE)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{-(-count // (1 << 20))} MiB"
