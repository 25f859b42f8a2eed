"""The one door to conmon and crun: create, start, exec, and forgetting what is over.

conmon(8) forks, so that it is nobody's child here; it starts `crun create`, sends the container's pid (or what went
wrong) through the pipe named by _OCI_SYNCPIPE, keeps the log, and at the end writes <bundle>/<id> with the exit code.
Both run in a private mount namespace (edged.runtime.mounts); on a cgroup v1 hybrid machine its v2 half is not mounted
there, because crun refuses hybrid mode.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from edged.errors import PermanentError, RetryError
from edged.model import Value
from edged.runtime import mounts, process, userns
from edged.runtime.records import read_number, write_atomically

CREATE_TIMEOUT = 60.0  # seconds; a board under memory pressure reads crun from its SD card first
START_TIMEOUT = 30.0
PROGRAM = "crun"  # what its processes are called; one that fails leaves the one that it has started behind
MESSAGE_SHOWN = 1000  # characters
NOISE = re.compile(r"\[conmon:[a-z]\]:[^\n]*oom_score_adj[^\n]*\n*")  # said on machines without CAP_SYS_RESOURCE


class Creation(Value, frozen=True):
    """What conmon is told. `bundle` holds config.json; `contents` are mounted before crun looks.

    :ivar users: first host uid of the user namespace to which the id-mapped ones are shifted; 0 = none are.
    :ivar seccomp: the profile in config.json.
    :ivar stdin, stdin_once, tty: as Container's.
    """

    id: str
    bundle: str
    log: str
    log_bytes: int
    contents: tuple[mounts.Content, ...] = ()
    users: int = 0
    seccomp: bytes = b"null"
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


class SyncMessage(Value, frozen=True):
    """conmon's line: `data` is the pid (older ones: `pid`), negative for a failure."""

    data: int | None = None
    pid: int | None = None
    message: str = ""


class Crun:
    """:param state: folder for crun's own state, in memory.
    :param hidden: mounts that crun must not see.
    :param create_timeout, start_timeout: seconds after which it is taken to hang.
    """

    def __init__(
        self,
        state: Path,
        hidden: Sequence[str] = (),
        *,
        conmon: str = "conmon",
        crun: str = "crun",
        create_timeout: float = CREATE_TIMEOUT,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self._state = state
        self._hidden = tuple(hidden)
        self._conmon = shutil.which(conmon, path=process.SAFE_PATH) or conmon
        self._crun = shutil.which(crun, path=process.SAFE_PATH) or crun
        self._create_timeout = create_timeout
        self._start_timeout = start_timeout

    async def create(self, creation: Creation) -> tuple[int, int]:
        """Make the container; its first process waits for `start`. :returns: pids of it and of its conmon.

        :raises PermanentError, RetryError: with what crun said. Traces may be left; the caller removes them.
        """
        users = await userns.hold(creation.users) if creation.users else -1
        try:
            child, read_end = self._start_conmon(creation, users)
        finally:
            if users >= 0:
                os.close(users)
        try:
            async with asyncio.timeout(self._create_timeout):
                line = await _first_line(read_end)
                await child.wait()
        except TimeoutError as e:
            raise RetryError(f"conmon did not create {creation.id} within {self._create_timeout:g} s") from e
        finally:
            os.close(read_end)
            if child.code is None:
                child.abandon()
        bundle = Path(creation.bundle)
        pid = self._pid_or_raise(creation.id, bundle, line)
        monitor = read_number(bundle / "conmon")
        if monitor is None:
            raise RetryError(f"conmon of {creation.id} left no pid file; it is started again")
        return pid, monitor

    def _start_conmon(self, creation: Creation, users: int) -> tuple[process.Child, int]:
        """It, and the end of a pipe where it says how it went. :param users: descriptor of a user namespace, or -1."""
        bundle = Path(creation.bundle)
        read_end, write_end = os.pipe()
        said = os.open(bundle / "conmon.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            child = process.start(
                self._conmon_argv(creation),
                env={"PATH": process.SAFE_PATH, "_OCI_SYNCPIPE": str(write_end)},
                files={2: said},
                pass_fds=(write_end,),
                within=functools.partial(
                    mounts.start_privately,
                    contents=(*self._own_contents(), *creation.contents),
                    hidden=self._hidden,
                    users=users,
                ),
            )
            return child, read_end
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
            os.close(said)

    def _conmon_argv(self, creation: Creation) -> list[str]:
        return [
            self._conmon,
            *("--api-version", "1"),
            *("--cid", creation.id),
            *("--cuuid", creation.id),
            *("--runtime", self._crun),
            *("--runtime-arg", f"--root={self._state}"),
            *("--bundle", creation.bundle),
            *("--container-pidfile", f"{creation.bundle}/pid"),
            *("--conmon-pidfile", f"{creation.bundle}/conmon"),
            *("--log-path", f"k8s-file:{creation.log}"),
            *("--log-size-max", str(creation.log_bytes)),
            *("--exit-dir", creation.bundle),
            "--full-attach",  # its socket goes into the bundle, whose path may be longer than a socket's name
            "--no-sync-log",  # the log is in memory
            *(("--stdin",) if creation.stdin else ()),
            *(("--leave-stdin-open",) if creation.stdin and not creation.stdin_once else ()),
            *(("--terminal",) if creation.tty else ()),
        ]

    def _pid_or_raise(self, container_id: str, bundle: Path, line: bytes) -> int:
        try:
            answer = msgspec.json.decode(line, type=SyncMessage)
        except msgspec.DecodeError as e:
            with contextlib.suppress(OSError):
                line = (bundle / "conmon.err").read_bytes()
            said = NOISE.sub("", line.decode(errors="replace")).strip()[-MESSAGE_SHOWN:]
            raise RetryError(f"conmon could not create {container_id}: {said or 'it ended without a word'}") from e
        pid = answer.data if answer.data is not None else answer.pid
        if pid is None or pid <= 0:
            said = NOISE.sub("", answer.message).strip()[-MESSAGE_SHOWN:]
            raise _failure(container_id, said)
        return pid

    async def start(self, container_id: str) -> None:
        """Let the first process of a created container go.

        That is what `crun start` does in the end, after 6 ms of starting a program: a byte into the fifo where the
        process waits. Where there is no such fifo, or nobody at its other end, crun itself is asked.
        """
        fifo = self._state / container_id / "exec.fifo"
        try:
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            await self._call("start", container_id, timeout=self._start_timeout)
            return
        try:
            os.write(fd, b"\0")
            fifo.unlink()  # from here on it counts as started: whoever is cut in between finds one half made
        finally:
            os.close(fd)

    async def exec(
        self,
        container_id: str,
        process_json: bytes,
        *,
        pid_file: Path,
        timeout: float,
        owned: Callable[[int], bool],
    ) -> process.Completed:
        """Run a command in a running container. `check` is the caller's.

        :param process_json: runtime-spec's `process`, whole: what crun makes of a bare command line runs as root, and
            may gain privileges, whatever the container itself may.
        :param pid_file: a file that doesn't exist; gone afterwards.
        :param owned: whether a pid is the container's own.
        :raises RetryError: it took longer; the command is then killed with its process group.
        """
        what = pid_file.with_name(f"{pid_file.name}.json")
        arguments = ("exec", "--process", os.fspath(what), "--pid-file", os.fspath(pid_file), container_id)
        try:
            write_atomically(what, process_json)
            return await self._call(*arguments, timeout=timeout, check=False)
        except (RetryError, asyncio.CancelledError):
            pid = read_number(pid_file)
            if pid is not None and owned(pid):  # it outlives a killed `crun exec`
                process.kill_orphan(pid)
            elif pid is not None:  # it ended first, and `crun exec` had no time to notice
                process.reap_orphan(pid)
            raise
        finally:
            if not pid_file.exists():  # it was never begun
                process.reap_orphans_soon(PROGRAM)
            for file in (pid_file, what):
                file.unlink(missing_ok=True)

    def begin_exec(
        self, container_id: str, described: Path, pid_file: Path, files: Mapping[int, int], console: str = ""
    ) -> process.Child:
        """Start a command in a running container and return at once: see edged.runtime.inside.

        :param described: file with runtime-spec's `process`.
        :param files: as process.start has them. :param console: socket to which its terminal is sent.
        """
        to = ("--console-socket", console) if console else ()
        arguments = ("exec", *to, "--process", os.fspath(described), "--pid-file", os.fspath(pid_file), container_id)
        within = functools.partial(mounts.start_privately, contents=self._own_contents(), hidden=self._hidden)
        return process.start([self._crun, f"--root={self._state}", *arguments], files=files, within=within)

    def waits_for_start(self, container_id: str) -> bool:
        """Created and not yet started: crun's fifo is there until `start` has opened it."""
        return os.path.exists(f"{self._state}/{container_id}/exec.fifo")  # noqa: PTH110 (a hot path)

    def forget(self, container_id: str) -> None:
        """Remove crun's own record of a container that has ended."""
        shutil.rmtree(self._state / container_id, ignore_errors=True)

    # ------------------------------------------------------------ seccomp

    def compiled(self, profile: bytes) -> str:
        """What crun once made of this seccomp profile (base64), or "": compiling it takes 9 ms of every create."""
        try:
            return base64.b64encode(self._filter_file(profile).read_bytes()).decode()
        except OSError:
            return ""

    def keep_compiled(self, profile: bytes, container_id: str) -> None:
        """Remember it from a container that was just created with it."""
        with contextlib.suppress(OSError):
            file = self._filter_file(profile)
            if not file.exists():
                write_atomically(file, (self._state / container_id / "seccomp.bpf").read_bytes())

    def _filter_file(self, profile: bytes) -> Path:
        """One for each profile and each crun: an upgrade may know more system calls."""
        stamp = os.stat(self._crun)  # noqa: PTH116
        key = hashlib.blake2b(profile + f"{stamp.st_mtime_ns} {stamp.st_size}".encode(), digest_size=8).hexdigest()
        return self._state.parent / f"seccomp-{key}.bpf"

    def _own_contents(self) -> tuple[mounts.Content, ...]:
        """crun starts itself a second time from a read-only mount of its own program, lest a container overwrites it
        by way of /proc/self/exe (CVE-2019-5736). Where it stands on one already it doesn't: 4 ms of each call, and two
        files in /tmp."""
        return (mounts.ReadOnly(self._crun),) if os.path.isabs(self._crun) else ()  # noqa: PTH117

    async def _call(self, *arguments: str, timeout: float, check: bool = True) -> process.Completed:
        within = functools.partial(mounts.start_privately, contents=self._own_contents(), hidden=self._hidden)
        argv = [self._crun, f"--root={self._state}", *arguments]
        return await process.run(argv, timeout=timeout, check=check, within=within)


def _failure(container_id: str, said: str) -> PermanentError | RetryError:
    """crun's words as an error; what only a change of the pod or of the image can cure is still tried again, rarely."""
    if "not found in $PATH" in said or "No such file or directory" in said or "Permission denied" in said:
        return RetryError(f"{container_id} can't be started: {said}; check command, image and mounts", after=10.0)
    return RetryError(f"{container_id} can't be started: {said or 'crun gave no reason'}")


async def _first_line(fd: int) -> bytes:
    """Up to the first newline, or all there is."""
    data = b""
    while b"\n" not in data and len(data) < 65536:
        await process.readable(fd)
        piece = os.read(fd, 4096)
        if not piece:
            break
        data += piece
    return data
