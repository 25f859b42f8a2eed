"""Running external programs from the loop: posix_spawn and a pidfd, no thread and no signal handler.

asyncio's own child watcher starts a thread per child on Python 3.11; that costs memory and wake-ups a board
would rather keep. Nobody in this process may call waitpid(-1): every child is reaped through its own pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edged.errors import PermanentError, RetryError

OUTPUT_LIMIT = 1 << 20  # bytes of stdout and of stderr that are kept; the rest is read and dropped
STDERR_SHOWN = 2000  # characters of stderr in an error message: the end, where the reason usually is
SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Spawn = Callable[[Callable[[], int]], int]
"""Calls its argument (which starts the program and returns the pid) in some context: another mount namespace, say."""


class Completed(NamedTuple):
    """How a program ended. `code` is its exit code, or minus the signal that killed it."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    def describe(self) -> str:
        """What happened, what it said, and the command to paste."""
        end = f"killed by {_signal_name(-self.code)}" if self.code < 0 else f"ended with {self.code}"
        said = self.stderr.decode(errors="replace").strip()[-STDERR_SHOWN:] or "it said nothing"
        return f"{self.argv[0]} {end}: {said} [command: {shlex.join(self.argv)}]"


_started: set[int] = set()  # pids of the programs below that were not reaped yet


class Child:
    """A running program. Whoever has it must `wait` for it, or hand it over to `abandon`."""

    def __init__(self, argv: Sequence[str], pid: int) -> None:
        self.argv = tuple(argv)
        self.pid = pid
        self.code: int | None = None
        self._pidfd = os.pidfd_open(pid)
        _started.add(pid)

    def send(self, number: int) -> None:
        """Signal its whole process group; nothing happens if it has ended."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def poll(self) -> int | None:
        """Reap it if it has ended; its code as in Completed, or None while it runs."""
        if self.code is None:
            try:
                result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:  # somebody else reaped it; there is no way to learn more
                self.code = 255
            else:
                if result is None:
                    return None
                killed = result.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
                self.code = -result.si_status if killed else result.si_status
            os.close(self._pidfd)
            _started.discard(self.pid)
        return self.code

    async def wait(self) -> int:
        """Until it ends. Cancelling leaves it running and waitable."""
        if self.poll() is None:
            await readable(self._pidfd)
        return self.poll() or 0

    def abandon(self) -> None:
        """Kill it and reap it whenever it is really gone, without anybody waiting."""
        self.send(signal.SIGKILL)
        if self.poll() is None:
            loop, fd = asyncio.get_running_loop(), self._pidfd

            def gone() -> None:
                loop.remove_reader(fd)
                self.poll()

            loop.add_reader(fd, gone)


async def readable(fd: int) -> None:
    """Until `fd` can be read (a pidfd: until its process has ended). One waiter for a descriptor at a time."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_reader(fd, ready)
    try:
        await done
    finally:
        loop.remove_reader(fd)


def reap(pidfd: int) -> None:
    """Take a process that has ended out of the process table, where it is our child."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def reap_at_end(pidfd: int) -> None:
    """Take over the descriptor of a process that has ended or is about to: reap it, then close."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(pidfd)
        reap(pidfd)
        os.close(pidfd)

    loop.add_reader(pidfd, gone)


def reap_orphans_soon(name: str) -> None:
    """Reap the ended children of that name (comm) that nobody here has started: what a program of ours had started
    itself and not waited for comes to us, the subreaper. A moment later: its parent may be some microseconds behind.
    """
    asyncio.get_running_loop().call_later(0.1, _reap_orphans, name)


def _reap_orphans(name: str) -> None:
    wanted = f"({name}) Z "
    with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            if int(pid) not in _started:
                with contextlib.suppress(OSError):
                    if wanted in Path(f"/proc/{pid}/stat").read_text():
                        os.waitpid(int(pid), os.WNOHANG)


def kill_orphan(pid: int) -> None:
    """SIGKILL a process (and its group) that some child of ours started, and reap it if it becomes our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    loop = asyncio.get_running_loop()

    def finish() -> None:
        reap(fd)
        os.close(fd)

    def gone() -> None:
        loop.remove_reader(fd)
        loop.call_later(0.1, finish)  # its parent may be some microseconds behind

    loop.add_reader(fd, gone)


def reap_orphan(pid: int) -> None:
    """Reap a process that has ended and that some child of ours started, if it becomes our child. In a container's pid
    namespace it would otherwise keep the container from ending for ever: its init waits for it."""
    if pid in _started:
        return
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    loop = asyncio.get_running_loop()

    def attempt(*delays: float) -> None:
        with contextlib.suppress(ChildProcessError):  # its parent is behind yet, or has reaped it
            if os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG) is not None:
                delays = ()
        if delays:
            loop.call_later(delays[0], attempt, *delays[1:])
        else:
            os.close(fd)

    attempt(0.1, 1.0, 10.0)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    files: Mapping[int, int] | None = None,
    pass_fds: Sequence[int] = (),
    within: Spawn | None = None,
) -> Child:
    """Start a program in a process group of its own.

    :param env: its whole environment; None gives it PATH and nothing else.
    :param files: its descriptor -> ours, for 0, 1 and 2; those left out are /dev/null.
    :param pass_fds: descriptors that it gets under the same numbers.
    :param within: see `Spawn`.
    :raises PermanentError: the program is not there or can't be executed.
    """
    given = {} if files is None else files
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    for target in (0, 1, 2):
        if target in given:
            actions.append((os.POSIX_SPAWN_DUP2, given[target], target))
        else:
            actions.append((os.POSIX_SPAWN_OPEN, target, os.devnull, os.O_RDWR, 0))
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in pass_fds]  # onto itself: clears close-on-exec
    environment = {"PATH": SAFE_PATH} if env is None else dict(env)

    def spawn() -> int:
        return os.posix_spawnp(
            argv[0],
            list(argv),
            environment,
            file_actions=actions,
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )

    try:
        return Child(argv, spawn() if within is None else within(spawn))
    except FileNotFoundError as e:
        raise PermanentError(f"{argv[0]} is not installed; install the package that brings it") from e
    except PermissionError as e:
        raise PermanentError(f"{argv[0]} can't be executed: {e.strerror} [command: {shlex.join(argv)}]") from e
    except OSError as e:
        raise RetryError(f"{argv[0]} could not be started: {e.strerror} [command: {shlex.join(argv)}]") from e


async def run(
    argv: Sequence[str],
    *,
    timeout: float = 30.0,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    pass_fds: Sequence[int] = (),
    check: bool = True,
    within: Spawn | None = None,
) -> Completed:
    """Run a program to its end and keep what it says.

    It is over when the program itself ends; descendants that keep its pipes open are not waited for.
    A cancelled or late program is killed with its whole process group.

    :raises PermanentError: it is not installed or can't be executed.
    :raises RetryError: it took longer than `timeout` seconds, or (with `check`) did not end with 0.
    """
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    feed, out, err = _Feed(in_write, stdin), _Collect(out_read), _Collect(err_read)
    try:
        child = start(argv, env=env, files={0: in_read, 1: out_write, 2: err_write}, pass_fds=pass_fds, within=within)
    except BaseException:
        for end in (feed, out, err):
            end.close()
        raise
    finally:
        for fd in (in_read, out_write, err_write):
            os.close(fd)
    try:
        for end in (feed, out, err):
            end.watch()
        async with asyncio.timeout(timeout):
            code = await child.wait()
        for collector in (out, err):
            collector.drain()
    except TimeoutError as e:
        said = bytes(err.data).decode(errors="replace").strip()[-STDERR_SHOWN:]
        raise RetryError(
            f"{argv[0]} took longer than {timeout:g} s and was killed{': ' + said if said else ''}"
            f" [command: {shlex.join(argv)}]"
        ) from e
    finally:
        for end in (feed, out, err):
            end.close()
        if child.code is None:
            child.abandon()
    completed = Completed(child.argv, code, bytes(out.data), bytes(err.data))
    if check and code != 0:
        raise RetryError(completed.describe())
    return completed


class _Collect:
    """Reads one pipe from the loop into a bounded buffer."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.data = bytearray()
        self._loop = asyncio.get_running_loop()

    def watch(self) -> None:
        self._loop.add_reader(self.fd, self._read)

    def _read(self) -> bool:
        try:
            piece = os.read(self.fd, 65536)
        except BlockingIOError:
            return False
        self.data += piece[: max(0, OUTPUT_LIMIT - len(self.data))]
        if not piece:
            self._loop.remove_reader(self.fd)
        return bool(piece)

    def drain(self) -> None:
        """Take what is in the pipe now; bounded, for somebody may still be writing."""
        for _ in range(64):
            if not self._read():
                return

    def close(self) -> None:
        self._loop.remove_reader(self.fd)
        os.close(self.fd)


class _Feed:
    """Writes `data` into one pipe from the loop, then closes it."""

    def __init__(self, fd: int, data: bytes) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._rest = memoryview(data)
        self._loop = asyncio.get_running_loop()

    def watch(self) -> None:
        if not self._rest:
            self.close()
        else:
            self._loop.add_writer(self._fd, self._write)

    def _write(self) -> None:
        try:
            self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it did not want to hear all of it; its exit code tells whether that matters
            self._rest = memoryview(b"")
        if not self._rest:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
