"""Container logs in the form of the CRI ("<RFC3339Nano> stdout|stderr F|P <text>"), bounded, in memory.

    <id>.log        what is written now, by conmon, or by LogFile once conmon is gone
    <id>.log.1      the older half: what was written before that
    .<id>.log.now   a second name of <id>.log's file

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
from pathlib import Path

STREAMS = (b"stdout", b"stderr")
LINE_LIMIT = 8192  # bytes without a newline after which a part is written (P)
IN_MOVED_TO = 0x80
EVENT_HEADER = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name


class LogKeeper:
    """The older halves of all logs of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1

    def open(self) -> None:
        """Catch up, then listen. Without inotify (a limit was hit) logs lose their older half, nothing else."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd >= 0:
            self._fd = fd
            libc.inotify_add_watch(fd, os.fsencode(self._folder), IN_MOVED_TO)
            asyncio.get_running_loop().add_reader(fd, self._renamed)
        for log in self._folder.glob("*.log"):
            self._keep(log)

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def begin(self, log: Path) -> None:
        """Before conmon opens it."""
        with contextlib.suppress(OSError):
            log.touch(0o600)
            self._keep(log)

    def _renamed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            events = os.read(self._fd, 4096)
            at = 0
            while at < len(events):
                *_, length = EVENT_HEADER.unpack_from(events, at)
                at += EVENT_HEADER.size + length
                name = events[at - length : at].rstrip(b"\0").decode(errors="surrogateescape")
                if name.endswith(".log"):
                    self._keep(self._folder / name)

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
    for file in (_second_name(log), _older_half(log), log):
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


def _line(stamp: bytes, stream: int, kind: bytes, text: bytes) -> bytes:
    return b" ".join((stamp, STREAMS[stream], kind, text)) + b"\n"


def _stamp(now_ns: int) -> bytes:
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09d+00:00" % nanoseconds
