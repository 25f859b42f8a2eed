"""Copies of container logs that outlive the memory: rotated files on disk, or the system's journal.

    state_dir/logs/<namespace>_<pod>_<uid>/<container>/
        000001-0.log.gz     lines in CRI form; number, then attempt; what is full is compressed
        000002-0.log        what is written now

The log in memory stays the one that everybody reads; this follows it. Lines gather there until half of it is full or
PATIENCE has passed since the first of them, so that flash is written in large blocks, and not at all while nothing is
logged. How far a log was copied is noted beside it in memory: a daemon that starts anew goes on from there, and a power
cut takes note and log together. Who logs faster than disk or journal can take loses lines of the copy, and never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from edged.errors import EdgedError
from edged.runtime import process
from edged.runtime.logs import LogKeeper, position_file

BLOCK = 128 << 10  # bytes read at once; half of a log of the usual size
DISK_PATIENCE = 30.0  # seconds: as long as the kernel itself keeps what is to be written (vm.dirty_expire_centisecs)
JOURNAL_PATIENCE = 1.0  # seconds; people follow a journal
TRY_AGAIN = 30.0  # seconds until a full disk or an absent journal is tried again
FILES = 8  # of one container: seven full ones, compressed, and the one that is written
COMPRESSION_SECONDS = 300.0  # for one file, on a busy board
JOURNAL = Path("/run/systemd/journal/socket")  # systemd's native protocol, JOURNAL_NATIVE_PROTOCOL.md
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
LOG_NAME = re.compile(r"(\d{6,})-(\d+)\.log(\.gz)?")


class Sink(Protocol):
    """Where copies go."""

    patience: float

    def take(self, block: bytes) -> int:
        """Bytes of these complete lines that were taken. :raises OSError: none can be, now; its strerror says why."""

    def close(self) -> None: ...


class LogCopy:
    """One container's log on its way to one sink."""

    def __init__(self, log: Path, sink: Sink, keeper: LogKeeper, told: Callable[[str], None]) -> None:
        self._log = log
        self._sink = sink
        self._keeper = keeper
        self._told = told
        self._timer: asyncio.TimerHandle | None = None
        self._fd, self._at = -1, 0
        self._sources = self._from_note()

    def advance(self, again: bool = True) -> None:
        """Copy what is new, then wait for more; with `again` False for the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pause = 0.0
        try:
            moved, all_taken = self._copy()
            self._told("")
            if moved:
                self._note()
            pause = 0.0 if all_taken else self._sink.patience
        except OSError as e:
            self._told(e.strerror or str(e))
            pause = TRY_AGAIN
        if again and (pause or not self._keeper.once_written(self._log, self._written) or self._has_more()):
            self._later(pause or self._sink.patience)

    def close(self) -> None:
        self.advance(again=False)
        self._sink.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _has_more(self) -> bool:
        """Something was written between the last look and the listening."""
        try:
            return self._left_behind() or os.fstat(self._fd).st_size > self._at
        except OSError:
            return self._log.exists()

    def _written(self) -> None:
        if self._timer is None:
            self._later(self._sink.patience)

    def _later(self, pause: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(pause, self.advance)

    # ------------------------------------------------------------ reading

    def _from_note(self) -> list[tuple[Path, int]]:
        """Files still to be read, and from where: both halves, or what comes after the note."""
        halves = [self._log.with_name(f"{self._log.name}.1"), self._log]
        try:
            inode, at = map(int, position_file(self._log).read_text().split())
        except (OSError, ValueError):
            return [(half, 0) for half in halves if half.exists()]
        inodes = [half.stat().st_ino if half.exists() else 0 for half in halves]
        if inode in inodes:
            first = inodes.index(inode)
            return [(halves[first], at), *((half, 0) for half in halves[first + 1 :])]
        return [(half, 0) for half in halves if half.exists()]  # turned over twice since

    def _note(self) -> None:
        with contextlib.suppress(OSError):
            position_file(self._log).write_text(f"{os.fstat(self._fd).st_ino} {self._at}")

    def _copy(self) -> tuple[bool, bool]:
        """(something was copied, nothing is left to be)."""
        moved = False
        while True:
            if self._fd < 0:
                file, self._at = self._sources.pop(0) if self._sources else (self._log, 0)
                try:
                    self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return moved, True
            was_left = self._left_behind()  # asked first: what is written until the writer moves is read below
            while block := self._whole_lines():
                taken = self._sink.take(block)
                self._at += taken
                moved = moved or taken > 0
                if taken < len(block):
                    return moved, False
            if not was_left:
                return moved, True
            os.close(self._fd)
            self._fd = -1

    def _whole_lines(self) -> bytes:
        block = os.pread(self._fd, BLOCK, self._at)
        return block[: block.rfind(b"\n") + 1] or (block if len(block) == BLOCK else b"")

    def _left_behind(self) -> bool:
        try:
            return self._log.stat().st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False


class DiskSink:
    """Files of at most `size` bytes. Opened at the first line: a silent container leaves nothing on the disk."""

    patience = DISK_PATIENCE

    def __init__(self, folder: Path, attempt: int, size: int, full: Callable[[], None]) -> None:
        self._folder = folder
        self._attempt = attempt
        self._size = size
        self._full = full
        self._fd, self._held = -1, 0

    def take(self, block: bytes) -> int:
        if self._fd >= 0 and self._held and self._held + len(block) > self._size:
            self.close()
            self._full()
        if self._fd < 0:
            self._open(len(block))
        written = 0
        while written < len(block):
            try:
                written += os.write(self._fd, block[written:])
            except OSError as e:
                if not written:
                    raise OSError(e.errno, f"logs can't be written to {self._folder}: {e.strerror}") from e
                break
        self._held += written
        return written

    def _open(self, wanted: int) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = sorted(_numbered(self._folder))
            number, name = known[-1] if known else (0, "")
            file = self._folder / name
            if not name.endswith(f"-{self._attempt}.log") or file.stat().st_size + wanted > self._size:
                file = self._folder / f"{number + 1:06d}-{self._attempt}.log"
            self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise OSError(e.errno, f"logs can't be written to {self._folder}: {e.strerror}") from e
        self._held = os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class JournalSink:
    """One datagram a line. Fields as conmon and Docker name them, and POD, NAMESPACE, POD_UID."""

    patience = JOURNAL_PATIENCE

    def __init__(self, namespace: str, pod: str, uid: str, container: str, path: Path = JOURNAL) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._fields = "".join(
            f"{key}={value}\n"
            for key, value in {
                "SYSLOG_IDENTIFIER": container,
                "CONTAINER_NAME": container,
                "POD": pod,
                "NAMESPACE": namespace,
                "POD_UID": uid,
            }.items()
        ).encode()

    def take(self, block: bytes) -> int:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        taken = 0
        for line in block.split(b"\n")[:-1]:
            try:
                self._socket.sendto(self._message(line), os.fspath(self._path))
            except BlockingIOError:  # its queue is full; the rest waits in our memory
                break
            except OSError as e:
                raise OSError(e.errno, f"logs can't go to the journal at {self._path}: {e.strerror}") from e
            taken += len(line) + 1
        return taken

    def _message(self, line: bytes) -> bytes:
        _, stream, kind, text = (*line.split(b" ", 3), b"", b"", b"")[:4]
        priority = b"PRIORITY=3\n" if stream == b"stderr" else b"PRIORITY=6\n"
        partial = b"CONTAINER_PARTIAL_MESSAGE=true\n" if kind == b"P" else b""
        return self._fields + priority + partial + b"MESSAGE\n" + struct.pack("<Q", len(text)) + text + b"\n"

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class DiskLogs:
    """All copies on disk of one node, in bounds: FILES for a container, `room` bytes for all. What belonged to pods
    that are gone is kept until the room is needed: the oldest file goes first."""

    def __init__(self, root: Path, size: int, room: int) -> None:
        self._root = root
        self._size = max(size // FILES, BLOCK)
        self._room = room
        self._tidying: asyncio.Task[None] | None = None
        self._folders: set[Path] = set()  # where something is to be compressed

    def sink(self, namespace: str, pod: str, uid: str, container: str, attempt: int) -> DiskSink:
        names = (namespace, pod) if SAFE_NAME.fullmatch(namespace) and SAFE_NAME.fullmatch(pod) else ()
        folder = self._root / "_".join((*names, uid)) / container
        self._tidy(folder)  # an earlier one may have been cut off
        return DiskSink(folder, attempt, self._size, lambda: self._tidy(folder))

    def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            self._tidying = None

    def _tidy(self, folder: Path) -> None:
        if not folder.exists():
            return
        self._folders.add(folder)
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.get_running_loop().create_task(self._compress(), name="log compressor")

    async def _compress(self) -> None:
        """One file at a time, in a process that ends and gives way to everybody else."""
        while self._folders:
            folder = self._folders.pop()
            names = [name for _, name in sorted(_numbered(folder))]
            for name in names[:-FILES]:
                (folder / name).unlink(missing_ok=True)
            for name in names[-FILES:-1]:
                if name.endswith(".log"):
                    (folder / f"{name}.gz").unlink(missing_ok=True)  # half done
                    with contextlib.suppress(EdgedError):  # it stays as it is
                        argv = ["nice", "-n", "19", "gzip", "-1", os.fspath(folder / name)]
                        await process.run(argv, timeout=COMPRESSION_SECONDS)
            self._make_room()

    def _make_room(self) -> None:
        found = []
        for file in self._root.glob("*/*/*.log*"):
            with contextlib.suppress(OSError):
                stat = file.stat()
                found.append((stat.st_mtime, stat.st_size, file))
        over = sum(size for _, size, _ in found) - self._room
        for _, size, file in sorted(found):
            if over <= 0:
                return
            over -= size
            with contextlib.suppress(OSError):
                file.unlink()
                file.parent.rmdir()
                file.parent.parent.rmdir()


def _numbered(folder: Path) -> Iterator[tuple[int, str]]:
    """(number, name); the uncompressed one where both are there."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    for name in names:
        match = LOG_NAME.fullmatch(name)
        if match and not (match[3] and name.removesuffix(".gz") in names):
            yield int(match[1]), name
