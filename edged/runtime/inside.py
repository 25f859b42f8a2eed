"""A command that somebody runs in a container from outside, and talks to while it runs: pipes or a terminal.

It must not outlive who asked for it. Ending it is one thing; the other is that we may be killed ourselves: beside each
command a small shell waits at a pipe of ours, and kills it when that closes without a word. What even that misses, the
next daemon finds by the pid file that is left.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable
from pathlib import Path

from edged.errors import PermanentError, RetryError
from edged.model.remote import Size
from edged.runtime import process
from edged.runtime.crun import PROGRAM, Crun
from edged.runtime.records import read_number, write_atomically

CONSOLE_PATIENCE = 30.0  # seconds for crun to hand over the terminal; as for its start of a container
END_PATIENCE = 5.0  # seconds for crun to tell whom it has started
LAST_WORDS = 4096  # bytes of what crun says
PATTERN = "exec-*.pid"

# $1: process group of crun. $2: its pid file, which names the command, in a process group of its own (the 5th field of
# proc_pid_stat(5)). The pipe's end without a word means: we were killed.
GUARD = """read -r word && exit
file=$2
kill -9 -"$1"
read -r pid < "$file"
read -r stat < "/proc/$pid/stat" && set -- ${stat##*) } && kill -9 -"$3" "$pid"
rm -f "$file" "$file.json"
"""


class Wanted(Size, frozen=True, kw_only=True):
    """How it is to be connected. With `tty` one terminal is all three; its size as far as it is known."""

    width: int = 0
    height: int = 0
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


class Inside:
    """:ivar stdin, stdout, stderr: our ends, which don't block; -1 = none. A terminal is both `stdin` and `stdout`."""

    def __init__(self, pid_file: Path, processes: Callable[[], set[int]]) -> None:
        """:param processes: pids of the container."""
        self.stdin = self.stdout = self.stderr = -1
        self.terminal = False
        self._pid_file = pid_file
        self._processes = processes
        self._child: process.Child | None = None
        self._guard: process.Child | None = None
        self._alarm = -1  # what the guard waits at
        self._said = -1  # what crun says of itself, where that isn't the command's stderr
        self._ran = False

    # ------------------------------------------------------------ beginning

    async def start(self, crun: Crun, container_id: str, process_json: bytes, wanted: Wanted) -> None:
        """:raises PermanentError, RetryError: crun can't be started. Whatever happens, `end` must follow."""
        described = self._pid_file.with_name(f"{self._pid_file.name}.json")
        write_atomically(described, process_json)
        if wanted.tty:
            await self._start_at_terminal(crun, container_id, described)
            self.resize(wanted)
        else:
            self._start_at_pipes(crun, container_id, described, wanted)

    def _start_at_pipes(self, crun: Crun, container_id: str, described: Path, wanted: Wanted) -> None:
        theirs: dict[int, int] = {}
        try:
            if wanted.stdin:
                theirs[0], self.stdin = os.pipe()
            self.stdout, theirs[1] = os.pipe()
            self.stderr, theirs[2] = os.pipe()
            for fd in (self.stdin, self.stdout, self.stderr):
                if fd >= 0:
                    os.set_blocking(fd, False)
            self._child = crun.begin_exec(container_id, described, self._pid_file, theirs)
        finally:
            for fd in theirs.values():
                os.close(fd)
        self._set_guard(self._child.pid)

    async def _start_at_terminal(self, crun: Crun, container_id: str, described: Path) -> None:
        """crun makes the terminal inside, and sends its other end through a socket."""
        self.terminal = True
        self._said, theirs = os.pipe()
        folder = os.open(self._pid_file.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        door = socket.socket(socket.AF_UNIX)
        name = f"{self._pid_file.name}.sock"
        try:
            door.setblocking(False)
            door.bind(f"/proc/self/fd/{folder}/{name}")  # its name must be short, our folder's may not be
            door.listen(1)
            seen = f"/proc/{os.getpid()}/fd/{folder}/{name}"
            self._child = crun.begin_exec(container_id, described, self._pid_file, {1: theirs, 2: theirs}, seen)
            os.close(theirs)
            theirs = -1
            self._set_guard(self._child.pid)
            self.stdin = self.stdout = await self._terminal_from(door, self._child)
        except OSError as e:
            raise RetryError(f"{container_id}: no terminal can be had: {e}") from e
        finally:
            door.close()
            if theirs >= 0:
                os.close(theirs)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            os.close(folder)
        if self.stdout >= 0:
            os.set_blocking(self.stdout, False)

    async def _terminal_from(self, door: socket.socket, child: process.Child) -> int:
        """The terminal; -1 where crun ended without sending one."""
        loop = asyncio.get_running_loop()
        accepting = loop.create_task(loop.sock_accept(door), name="terminal of a command")
        ending = loop.create_task(child.wait(), name="a command's end")
        try:
            await asyncio.wait((accepting, ending), timeout=CONSOLE_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            if not accepting.done():
                if ending.done():
                    return -1
                raise RetryError(f"crun sent no terminal within {CONSOLE_PATIENCE:g} s")
            connection = accepting.result()[0]
            with connection:
                await process.readable(connection.fileno())
                _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
                received = array.array("i")
                for _, _, data in ancillary:
                    received.frombytes(data[:4])
                return received[0] if received else -1
        finally:
            for task in (accepting, ending):
                task.cancel()
            await asyncio.gather(accepting, ending, return_exceptions=True)

    def _set_guard(self, group: int) -> None:
        read_end, self._alarm = os.pipe()
        try:
            argv = ["sh", "-c", GUARD, "edged-guard", str(group), os.fspath(self._pid_file)]
            self._guard = process.start(argv, files={0: read_end})
        finally:
            os.close(read_end)

    # ------------------------------------------------------------ while it runs

    def resize(self, size: Size) -> None:
        """Tell the terminal, if there is one, how large it is."""
        if self.terminal and self.stdout >= 0 and size.width > 0 and size.height > 0:
            packed = struct.pack("HHHH", min(size.height, 0xFFFF), min(size.width, 0xFFFF), 0, 0)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.stdout, termios.TIOCSWINSZ, packed)

    def no_more_input(self) -> None:
        if self.terminal:
            with contextlib.suppress(OSError):
                os.write(self.stdin, b"\x04")  # what a person at it would press
        elif self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    async def ran(self) -> bool:
        """Whether the command itself was begun; waits until that is known."""
        while not self._ran:
            self._ran = self._pid_file.exists()
            if self._ran or self._child is None or self._child.poll() is not None:
                break
            await asyncio.sleep(0.005)  # crun tells by a file, some milliseconds after its start
        return self._ran

    async def wait(self) -> int:
        """Its exit code; 128 + n for signal n."""
        assert self._child is not None
        code = await self._child.wait()
        return 128 - code if code < 0 else code

    def complaint(self) -> str:
        """What crun said where the command was never begun."""
        said = b""
        for fd in (self._said, self.stdout, self.stderr):  # at a terminal it may have gone either way
            if fd >= 0:
                os.set_blocking(fd, False)
                with contextlib.suppress(OSError):
                    said += os.read(fd, LAST_WORDS)
        return said.decode(errors="replace").strip()

    # ------------------------------------------------------------ the end

    async def end(self) -> None:
        """Kill what still runs of it, and leave nothing. To be called once, whatever happened; shield it."""
        child = self._child
        if child is not None and child.poll() is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_PATIENCE):
                    await self.ran()
            _kill_session(self._pid_file, self._processes())
            child.abandon()
        if not self._ran:
            process.reap_orphans_soon(PROGRAM)
        if self._guard is not None:
            with contextlib.suppress(OSError):
                os.write(self._alarm, b"over\n")
            self._guard.abandon()
        for fd in {self.stdin, self.stdout, self.stderr, self._said, self._alarm} - {-1}:
            os.close(fd)
        for file in (self._pid_file, self._pid_file.with_name(f"{self._pid_file.name}.json")):
            file.unlink(missing_ok=True)


def _kill_session(pid_file: Path, processes: set[int]) -> None:
    """Kill the command and what it has started: crun begins a session for it. What has left that session lives on, as
    anything does that was meant to.

    :param processes: pids of the container.
    """
    pid = read_number(pid_file)
    if pid not in processes:
        return
    with contextlib.suppress(ProcessLookupError):
        session = os.getsid(pid)
        for one in processes:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(one) == session != os.getsid(0):
                    process.kill_orphan(one)


def sweep(folder: Path, processes: Callable[[], set[int]]) -> None:
    """End the commands that an earlier daemon left in a container. :param folder: the container's."""
    for file in folder.glob(PATTERN):
        _kill_session(file, processes())
        for left in (file, file.with_name(f"{file.name}.json")):
            left.unlink(missing_ok=True)


def check_command(command: tuple[str, ...]) -> None:
    """:raises PermanentError: there is nothing that could be run."""
    if not command or not command[0]:
        raise PermanentError("you must specify at least one command for the container")
    if any("\0" in word for word in command):
        raise PermanentError("a word of the command has a NUL byte in it")
