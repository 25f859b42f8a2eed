"""Half-fetched layers on the disk, so that a fetch goes on where it ended: after a cut, a kill, a power loss.

    <root>/partial/<64 hex>         the compressed layer as far as it came, named by its digest; flock'ed while in use
    <root>/partial/<64 hex>.safe    how much of it is certain to be on the disk, and in which boot that was written

After a power loss a file may have its length and yet not its content. So the length that counts is the one noted after
an fdatasync, unless the machine has been up since the file was begun. Notes are made every few seconds of slow
fetching; a fetch that is over sooner forces nothing to the disk. Whatever is believed here, the digest decides in the
end.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import threading
import time
from pathlib import Path

import msgspec

from edged.errors import RetryError
from edged.images import oci
from edged.images.space import disk_error, require_space
from edged.images.store import boot_id
from edged.model import Value

CHUNK = 256 << 10
NOTE_SECONDS, NOTE_BYTES = 5.0, 1 << 20  # both must have passed since the last note; flash is not written for less
CHECK_SPACE = 1 << 20  # bytes between two looks at the free space
_NAME = re.compile(r"[0-9a-f]{64}")


class _Safe(Value, frozen=True):
    """:ivar image: the reference whose pull began it; "" = nobody knows (a version before)."""

    boot: str
    length: int
    image: str = ""


class Partial:
    """One layer's file, open and locked. `length` bytes of it are there and hashed.

    :param cancelled: set when the pull ends; waiting for another process stops then.
    :param image: the reference that it is fetched for.
    """

    def __init__(self, folder: Path, digest: str, size: int, cancelled: threading.Event, image: str = "") -> None:
        self.digest, self.size = digest, size
        self._image = image
        self.path = folder / oci.hex_of(digest, "layer")
        self._safe = self.path.with_suffix(".safe")
        self._cancelled = cancelled
        self._since_check = self._since_note = 0
        self._noted_at = time.monotonic()
        self.noted = False  # whether any of it has been forced to the disk
        folder.mkdir(mode=0o700, exist_ok=True)
        self._fd = self._open_locked()
        try:
            self._take_over()
        except BaseException:
            os.close(self._fd)
            raise

    def _open_locked(self) -> int:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                while True:
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:  # another pull has this layer under way
                        if self._cancelled.wait(0.2):
                            raise RetryError("the pull ends") from None
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), self.path.stat()):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # the other pull has finished with it and deleted it

    def _take_over(self) -> None:
        """Believe what an earlier run left as far as it can be believed, and hash it."""
        there = os.fstat(self._fd).st_size
        safe = _read_safe(self._safe)
        self.noted = safe.length > 0
        if safe.boot != boot_id():
            there = min(there, safe.length)
        self._hash = hashlib.sha256()
        self.length = 0
        credible = min(there, self.size)
        while self.length < credible:
            data = os.pread(self._fd, min(CHUNK, credible - self.length), self.length)
            if not data:
                break
            self._hash.update(data)
            self.length += len(data)
        os.ftruncate(self._fd, self.length)
        self.inherited = self.length
        if safe.boot != boot_id() or safe.image != self._image:
            self._write_safe(_Safe(boot_id(), self.length, self._image), flush=self.noted)

    def _write_safe(self, safe: _Safe, flush: bool) -> None:
        new = self.path.with_suffix(".new")
        try:
            with new.open("wb") as f:
                f.write(msgspec.json.encode(safe))
                f.flush()
                if flush:
                    os.fsync(f.fileno())
            new.rename(self._safe)
        except OSError as e:
            raise disk_error(new, e) from e

    @property
    def complete(self) -> bool:
        return self.length == self.size

    def append(self, data: bytes) -> None:
        """:raises RetryError: the disk is full (or would be) or failing; what is there stays."""
        self._since_check += len(data)
        if self._since_check >= CHECK_SPACE:
            self._since_check = 0
            require_space(self.path.parent, 0)
        try:
            view = memoryview(data)
            while view:
                view = view[os.pwrite(self._fd, view, self.length + len(data) - len(view)) :]
        except OSError as e:
            os.ftruncate(self._fd, self.length)
            raise disk_error(self.path, e) from e
        self._hash.update(data)
        self.length += len(data)
        self._since_note += len(data)
        if self._since_note >= NOTE_BYTES and time.monotonic() - self._noted_at >= NOTE_SECONDS:
            self.note()

    def note(self) -> None:
        """Force what is there to the disk, and say so beside it."""
        try:
            os.fdatasync(self._fd)
        except OSError as e:
            raise disk_error(self.path, e) from e
        self._write_safe(_Safe(boot_id(), self.length, self._image), flush=True)
        self.noted = True
        self._since_note, self._noted_at = 0, time.monotonic()

    def is_right(self) -> bool:
        return "sha256:" + self._hash.hexdigest() == self.digest

    def restart(self) -> None:
        self._write_safe(_Safe(boot_id(), 0, self._image), flush=self.noted)
        os.ftruncate(self._fd, 0)
        self._hash = hashlib.sha256()
        self.length = self.inherited = 0
        self.noted = False

    def drop_content(self) -> None:
        """Give its pages back before anything writes them to the disk; the lock stays."""
        os.ftruncate(self._fd, 0)

    def delete(self) -> None:
        for file in (self._safe, self.path):
            file.unlink(missing_ok=True)

    def close(self) -> None:
        if self._fd >= 0:
            if self.length == 0:
                self.delete()
            os.close(self._fd)
            self._fd = -1


def sweep(folder: Path, keep: frozenset[str], limit: int) -> int:
    """Delete the oldest half-fetched layers until the rest has `limit` bytes at most; returns the bytes deleted.

    :param keep: digests that are wanted now; they don't count. What another process has under way isn't touched.
    """
    found: list[tuple[float, int, Path]] = []
    for file in folder.iterdir() if folder.is_dir() else ():
        if not _NAME.fullmatch(file.name):
            if file.suffix and not file.with_suffix("").exists():
                file.unlink(missing_ok=True)
        elif f"sha256:{file.name}" not in keep:
            with contextlib.suppress(FileNotFoundError):
                s = file.stat()
                found.append((s.st_mtime, s.st_size, file))
    freed, total = 0, sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total - freed <= limit:
            break
        if _delete_unused(file):
            freed += size
    return freed


def unwanted_bytes(folder: Path, wanted: frozenset[str]) -> int:
    """Bytes of what is half-fetched for images whose references are not `wanted`."""
    total = 0
    for file in _unwanted(folder, wanted):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def discard_unwanted(folder: Path, wanted: frozenset[str]) -> int:
    """Delete that, except what some process has under way; returns the bytes deleted."""
    freed = 0
    for file in _unwanted(folder, wanted):
        with contextlib.suppress(FileNotFoundError):
            size = file.stat().st_size
            freed += size if _delete_unused(file) else 0
    return freed


def _unwanted(folder: Path, wanted: frozenset[str]) -> list[Path]:
    found = [file for file in folder.iterdir() if _NAME.fullmatch(file.name)] if folder.is_dir() else []
    return [file for file in found if _read_safe(file.with_suffix(".safe")).image not in wanted]


def _read_safe(file: Path) -> _Safe:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Safe)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return _Safe("", 0)


def discard(folder: Path, digests: frozenset[str]) -> None:
    """Delete what is half-fetched of layers that are in the store now, except what another process has under way."""
    for digest in digests:
        file = folder / digest.removeprefix("sha256:")
        if not _delete_unused(file) and not file.exists():
            file.with_suffix(".safe").unlink(missing_ok=True)


def _delete_unused(file: Path) -> bool:
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.with_suffix(".safe").unlink(missing_ok=True)
        file.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
