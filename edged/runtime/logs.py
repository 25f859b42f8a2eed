"""Container logs in the form of the CRI ("<RFC3339Nano> stdout|stderr F|P <text>"), bounded, in memory.

conmon writes them; this is for the time when conmon is gone.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

STREAMS = (b"stdout", b"stderr")
LINE_LIMIT = 8192  # bytes without a newline after which a part is written (P)


class LogFile:
    """Appends to one container's log; starts it anew at `limit` bytes, as conmon does. Opened at the first word."""

    __slots__ = ("_fd", "_limit", "_path", "_rest", "_size")

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
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
        if not block:
            return
        with contextlib.suppress(OSError):
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                self._size = os.fstat(self._fd).st_size
            if self._size + len(block) > self._limit:
                os.ftruncate(self._fd, 0)
                self._size = 0
            self._size += os.write(self._fd, block)


def _line(stamp: bytes, stream: int, kind: bytes, text: bytes) -> bytes:
    return b" ".join((stamp, STREAMS[stream], kind, text)) + b"\n"


def _stamp(now_ns: int) -> bytes:
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09d+00:00" % nanoseconds
