"""Watching running containers: their ends by pidfd, and their output where conmon is gone.

For each one four descriptors: pidfds of its first process and of its conmon, and second read ends of its stdout and
stderr pipes. Those keep the pipes open when conmon is killed, so that the container doesn't die of SIGPIPE at its next
word; from then on we read them and write the log ourselves. If the daemon dies too there is no reader left: the pipes
are opened again from the container's own ends when the next daemon starts, and what was written in between is kept by
the kernel, but a container that writes more in that gap gets SIGPIPE. Only a process per container could prevent that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edged.runtime import process
from edged.runtime.logs import LogFile

PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes), Linux 6.13
PIDFD_INFO_EXIT = 1 << 3  # Linux 6.15
EXIT_STATUS_OFFSET = 60  # in struct pidfd_info
READ_SIZE = 4096  # as lines of a log it may be twenty times as much
LAST_READS = 17  # more than a pipe holds
CONMON_LAST_WORDS = 2.0  # seconds that conmon gets to write the exit code after its container has ended


class Watch:
    """One container. Tells `ended(exit code or None)` once, and `orphaned()` when only conmon has ended."""

    __slots__ = ("_conmon", "_ended", "_late", "_log", "_loop", "_orphaned", "_over", "_pid", "_pidfd", "_pipes")

    def __init__(
        self,
        pid: int,
        conmon: int,
        pipes: tuple[int, ...],
        log: LogFile,
        ended: Callable[[int | None], None],
        orphaned: Callable[[], None],
    ) -> None:
        """:raises ProcessLookupError: the container has ended already."""
        self._loop = asyncio.get_running_loop()
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._log = log
        self._ended = ended
        self._orphaned = orphaned
        self._over = False
        self._late: asyncio.TimerHandle | None = None
        self._pipes = _open_pipes(pid, conmon, pipes)
        self._conmon = -1
        self._loop.add_reader(self._pidfd, self._container_gone)
        if conmon > 0:
            with contextlib.suppress(ProcessLookupError):
                self._conmon = os.pidfd_open(conmon)
        if self._conmon >= 0:
            self._loop.add_reader(self._conmon, self._conmon_gone)
        else:
            self._drain()

    def close(self) -> None:
        """Let go of it; it runs on."""
        self._over = True
        if self._late is not None:
            self._late.cancel()
        for fd in (self._pidfd, self._conmon, *self._pipes):
            if fd >= 0:
                self._loop.remove_reader(fd)
                os.close(fd)
        self._pidfd = self._conmon = -1
        self._pipes = []
        self._log.close()

    def bury(self) -> None:
        """It has ended, or is being removed: its conmon is about to end and must be reaped."""
        if self._conmon >= 0:
            self._loop.remove_reader(self._conmon)
            process.reap_at_end(self._conmon)
            self._conmon = -1
        self.close()

    # ------------------------------------------------------------ ends

    def _container_gone(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._conmon < 0:
            self._finish()
        else:  # it is about to write the exit code; its own end comes next
            self._late = self._loop.call_later(CONMON_LAST_WORDS, self._finish)

    def _conmon_gone(self) -> None:
        process.reap(self._conmon)
        self._loop.remove_reader(self._conmon)
        os.close(self._conmon)
        self._conmon = -1
        if _is_ready(self._pidfd):
            self._finish()
        else:
            self._drain()
            self._orphaned()

    def _finish(self) -> None:
        if self._over:
            return
        code = exit_code(self._pid, self._pidfd)
        for stream, fd in enumerate(self._pipes):
            for _ in range(LAST_READS if fd >= 0 else 0):  # what conmon has left, if it was killed
                self._read(stream, fd)
        self.bury()
        self._ended(code)

    # ------------------------------------------------------------ output

    def _drain(self) -> None:
        """conmon doesn't read any more: we do."""
        for stream, fd in enumerate(self._pipes):
            if fd >= 0:
                self._loop.add_reader(fd, self._read, stream, fd)

    def _read(self, stream: int, fd: int) -> None:
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return
        if data:
            self._log.write(stream, data, time.time_ns())
        else:  # every writer has closed it
            self._loop.remove_reader(fd)


def pipe_inodes(pid: int) -> tuple[int, ...]:
    """Of stdout and stderr of a container that has not been started yet: later they may be anything."""
    found = []
    for number in (1, 2):
        with contextlib.suppress(OSError):
            known = os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116
            if stat.S_ISFIFO(known.st_mode):  # a terminal can't be read by two: without conmon it is hung up
                found.append(known.st_ino)
    return tuple(found)


def exit_code(pid: int, pidfd: int) -> int | None:
    """How a process that has ended did so, 128 + n for signal n; None where nobody can tell.

    It can be learned where the process is our child, or not reaped yet by whose child it is, or from a pidfd that
    was open when it ended (Linux 6.15).
    """
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if result is not None:
            killed = result.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
            return 128 + result.si_status if killed else result.si_status
    except ChildProcessError:
        pass
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] == b"Z":
            return _decode(int(fields[49]))  # exit_code, the 52nd of proc_pid_stat(5); field 3 is our 0
    with contextlib.suppress(OSError):
        info = bytearray(64)
        struct.pack_into("Q", info, 0, PIDFD_INFO_EXIT)
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
        if struct.unpack_from("Q", info, 0)[0] & PIDFD_INFO_EXIT:
            return _decode(struct.unpack_from("i", info, EXIT_STATUS_OFFSET)[0])
    return None


def _decode(status: int) -> int:
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF


def _open_pipes(pid: int, conmon: int, inodes: tuple[int, ...]) -> list[int]:
    """Read ends of our own for stdout and stderr; -1 where it can't be had any more."""
    opened = []
    for inode in inodes:
        opened.append(-1)
        for path in _descriptors(pid, conmon):
            with contextlib.suppress(OSError):
                if os.readlink(path) == f"pipe:[{inode}]":  # noqa: PTH115
                    opened[-1] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                    break
    return opened


def _descriptors(pid: int, conmon: int) -> Iterator[str]:
    """Where the pipes may be found, the likeliest first: a server may have thousands."""
    yield from (f"/proc/{pid}/fd/1", f"/proc/{pid}/fd/2")
    for holder in (conmon, pid):
        if holder > 0:
            with contextlib.suppress(OSError):
                yield from (f"/proc/{holder}/fd/{number}" for number in os.listdir(f"/proc/{holder}/fd"))  # noqa: PTH208


def _is_ready(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))
