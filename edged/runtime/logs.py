"""Container logs in the form of the CRI ("<RFC3339Nano> stdout|stderr F|P <text>"), bounded, in memory.

    <id>.log        what is written now, by conmon, or by LogFile once conmon is gone
    <id>.log.1      the older half: what was written before that
    .<id>.log.now   a second name of <id>.log's file
    .<id>.log.copied  how far it was copied to disk or journal (edged.runtime.logcopy)

At half of what a container may have, conmon begins a new file and renames it over <id>.log, which would lose all that
was there. The second name keeps it: when inotify tells of the rename it becomes <id>.log.1. Where no daemon is there
to hear, the next one does it; what was written in between two such renames is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

STREAMS = (b"stdout", b"stderr")
LINE_LIMIT = 8192  # bytes without a newline after which a part is written (P)
LEAST_HALF = 4096  # bytes: as much as one read of conmon's becomes
IN_MODIFY, IN_MOVED_TO, IN_IGNORED, IN_ONESHOT = 0x2, 0x80, 0x8000, 0x80000000  # inotify(7)
EVENT_HEADER = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name


class LogKeeper:
    """All logs of one folder: their older halves, and what they take together.

    Invariant, whatever the containers write: the halves promised to running containers, and what older halves and
    ended attempts hold, are at most `room` bytes. Where it is not enough the logs of ended attempts go first, the
    oldest before the others, then older halves, the largest first; a container that is started then gets a smaller
    half. Nobody who writes ever waits.

    :param half: bytes after which a log is turned over, at most.
    :param turned: called with the log's path when it was.
    """

    def __init__(self, folder: Path, half: int, room: int, turned: Callable[[Path], None] = lambda log: None) -> None:
        self._folder = folder
        self._half = max(half, LEAST_HALF)
        self._room = room
        self._turned = turned
        self._fd = -1
        self._watched: dict[int, Callable[[], None]] = {}
        self._live: dict[str, int] = {}  # name -> bytes promised to the newer half
        self._older: dict[str, int] = {}  # name -> bytes in the older half, of those
        self._ended: dict[str, int] = {}  # name -> bytes of both, of the others; the oldest first

    def open(self) -> None:
        """Catch up, then listen. Without inotify (a limit was hit) logs lose their older half, nothing else.
        Every log counts as an ended one's until `adopt`."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd >= 0:
            self._fd = fd
            libc.inotify_add_watch(fd, os.fsencode(self._folder), IN_MOVED_TO)
            asyncio.get_running_loop().add_reader(fd, self._read_events)
        found = sorted(self._folder.glob("[!.]*.log"), key=_last_written)
        for log in found:
            self._keep(log)
            self._ended[log.name] = _size(log) + _size(_older_half(log))
        self._make_room()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        for known in (self._watched, self._live, self._older, self._ended):
            known.clear()

    def next_half(self) -> int:
        """Bytes after which a log that is begun now is to be turned over: the more there are, the less."""
        return max(LEAST_HALF, min(self._half, (self._room - sum(self._live.values())) // 4))

    def begin(self, log: Path, half: int) -> None:
        """Before conmon opens it."""
        with contextlib.suppress(OSError):
            log.touch(0o600)
            self._keep(log)
        self.adopt(log, half)

    def adopt(self, log: Path, half: int) -> None:
        """A container writes it."""
        self._ended.pop(log.name, None)
        self._live[log.name] = half or self._half
        self._older[log.name] = _size(_older_half(log))
        self._make_room()

    def end(self, log: Path) -> None:
        """Nobody writes it any more."""
        if self._live.pop(log.name, None) is not None:
            self._older.pop(log.name, None)
            self._ended[log.name] = _size(log) + _size(_older_half(log))

    def remove(self, log: Path) -> None:
        for known in (self._live, self._older, self._ended):
            known.pop(log.name, None)
        remove_log(log)

    def once_written(self, log: Path, call: Callable[[], None]) -> bool:
        """Call it when something is written to this file next; once. False where nobody can listen."""
        if self._fd < 0:
            return False
        libc = ctypes.CDLL(None, use_errno=True)
        watch = libc.inotify_add_watch(self._fd, os.fsencode(log), IN_MODIFY | IN_ONESHOT)
        if watch >= 0:
            self._watched[watch] = call
        return bool(watch >= 0)

    def _read_events(self) -> None:
        with contextlib.suppress(BlockingIOError):
            events = os.read(self._fd, 4096)
            at = 0
            while at < len(events):
                watch, mask, _, length = EVENT_HEADER.unpack_from(events, at)
                at += EVENT_HEADER.size + length
                name = events[at - length : at].rstrip(b"\0").decode(errors="surrogateescape")
                if mask & (IN_MODIFY | IN_IGNORED) and not name:
                    call = self._watched.pop(watch, None)
                    if call is not None and mask & IN_MODIFY:
                        call()
                elif name.endswith(".log") and not name.startswith("."):
                    self._turned_over(self._folder / name)
                elif name.endswith(".log.1"):  # by LogFile
                    self._turned_over(self._folder / name.removesuffix(".1"))

    def _turned_over(self, log: Path) -> None:
        self._keep(log)
        if log.name in self._live:
            self._older[log.name] = _size(_older_half(log))
        self._make_room()
        self._turned(log)

    def _make_room(self) -> None:
        over = sum(self._live.values()) + sum(self._older.values()) + sum(self._ended.values()) - self._room
        while over > 0 and self._ended:
            name = next(iter(self._ended))
            over -= self._ended.pop(name)
            remove_log(self._folder / name)
        while over > 0 and any(self._older.values()):
            name = max(self._older, key=lambda n: self._older[n])
            over -= self._older[name]
            self._older[name] = 0
            _older_half(self._folder / name).unlink(missing_ok=True)

    def _keep(self, log: Path) -> None:
        now = _second_name(log)
        with contextlib.suppress(OSError):
            try:
                if now.samefile(log):
                    return
                now.rename(_older_half(log))
            except FileNotFoundError:
                pass
            os.link(log, now)


def remove_log(log: Path) -> None:
    for file in (_second_name(log), _older_half(log), position_file(log), log):
        file.unlink(missing_ok=True)


class LogFile:
    """Appends to one container's log, for the time when conmon is gone. Opened at the first word.

    :param half: bytes after which a new file is begun.
    """

    __slots__ = ("_fd", "_half", "_path", "_rest", "_size")

    def __init__(self, path: Path, half: int) -> None:
        self._path = path
        self._half = half
        self._fd = -1
        self._size = 0
        self._rest = [b"", b""]

    def write(self, stream: int, data: bytes, now_ns: int) -> None:
        """Take what came from a stream (0 stdout, 1 stderr); an unfinished line waits for its end."""
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        stamp = _stamp(now_ns)
        block = b"".join(_line(stamp, stream, b"F", line) for line in lines)
        if len(rest) > LINE_LIMIT:
            block += _line(stamp, stream, b"P", rest)
            rest = b""
        self._rest[stream] = rest
        self._append(block)

    def close(self) -> None:
        stamp = _stamp(time.time_ns())
        self._append(b"".join(_line(stamp, s, b"P", r) for s, r in enumerate(self._rest) if r))
        self._rest = [b"", b""]
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, block: bytes) -> None:
        """A full or missing file system loses lines, never the daemon."""
        if len(block) > self._half:
            block = block[-self._half :].partition(b"\n")[2]
        if not block:
            return
        with contextlib.suppress(OSError):
            if self._fd >= 0 and self._size + len(block) > self._half:
                os.close(self._fd)
                self._fd = -1
                self._path.rename(_older_half(self._path))
                _second_name(self._path).unlink(missing_ok=True)
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                self._size = os.fstat(self._fd).st_size
            self._size += os.write(self._fd, block)


def _second_name(log: Path) -> Path:
    return log.with_name(f".{log.name}.now")


def _older_half(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def position_file(log: Path) -> Path:
    return log.with_name(f".{log.name}.copied")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _last_written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _line(stamp: bytes, stream: int, kind: bytes, text: bytes) -> bytes:
    return b" ".join((stamp, STREAMS[stream], kind, text)) + b"\n"


def _stamp(now_ns: int) -> bytes:
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09d+00:00" % nanoseconds
