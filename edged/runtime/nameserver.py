"""The names of Services for pods: one dnsmasq, bound to the bridge's address and nothing else.

It outlives the daemon and is found again by its pid file and its command line, so a killed daemon costs no answer.
It is started only while there is something to name, and brought back when it ends without being asked to.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from edged.errors import PermanentError, RetryError
from edged.runtime import process

log = logging.getLogger(__name__)

RESOLV_CONF = Path("/etc/resolv.conf")
NO_SETTINGS = Path("/dev/null")
LONG_ENOUGH = 10.0  # seconds: one that ran so long is brought back without delay
DELAY_CAP = 60.0  # seconds between starts of one that keeps ending
STOP_TIMEOUT = 2.0  # seconds for each signal
STOP_LIMIT = 5  # processes
ANSWER_TIMEOUT = 2.0  # seconds; it answers for its own names from memory, but a board may be very busy
ANSWER_TRIES = 5


def dnsmasq_command(
    address: str, domain: str, folder: Path, upstream: Path | None, as_root: bool, settings: Path = NO_SETTINGS
) -> list[str]:
    """dnsmasq(8) for one node. It puts itself in the background once it listens.

    :param upstream: a resolv.conf whose servers answer for all other names; dnsmasq follows its changes.
    :param as_root: where the folder can't be read by the user that dnsmasq would become.
    :param settings: never those of the machine's own dnsmasq.
    """
    return [
        "dnsmasq",
        f"--conf-file={settings}",
        f"--listen-address={address}",
        "--bind-interfaces",  # not the wildcard address: others may serve names on this machine
        f"--pid-file={folder / 'dnsmasq.pid'}",
        "--no-hosts",
        f"--addn-hosts={folder / 'hosts'}",
        f"--local=/{domain}/",  # never asked upstream
        "--local-ttl=5",  # seconds: a Service that is removed is soon forgotten
        "--cache-size=150",
        *(["--no-resolv"] if upstream is None else [f"--resolv-file={upstream}"]),
        *(["--user=root"] if as_root else []),
    ]


class NameServer:
    """One dnsmasq. Methods are called from one loop, one at a time.

    :ivar problem: a sentence while names can't be served, else "".
    """

    def __init__(self, address: str, domain: str, folder: Path) -> None:
        self.problem = ""
        self._address = address
        self._domain = domain
        self._folder = folder
        self._hosts = folder / "hosts"
        self._settings = NO_SETTINGS
        self._pid_file = folder / "dnsmasq.pid"
        self._wanted = False
        self._pid = 0
        self._pidfd = -1
        self._started_at = 0.0
        self._delay = 0.0
        self._return_due: asyncio.TimerHandle | None = None
        self._returning: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where to ask; "" while nothing is named or nobody could answer."""
        return self._address if self._wanted and not self.problem else ""

    @property
    def pid(self) -> int:
        """Of the running dnsmasq, else 0."""
        return self._pid if self._pidfd >= 0 else 0

    async def serve(self, hosts: str, settings: str = "") -> None:
        """Answer for these names (hosts(5) form). What goes wrong is in `problem`; it is tried again by itself.

        :param settings: in dnsmasq's own form; a change of these costs a restart, some milliseconds without answers.
        """
        self._wanted = True
        changed = self._write_hosts(hosts)
        self._write_settings(settings)
        await self._settle()
        if self._pidfd < 0 or _command_line(self._pid) != self._command():
            await self._start_or_say()
        elif changed:
            self._signal(signal.SIGHUP)  # it reads the file again and keeps answering meanwhile
            await self._replace_if_mute()

    async def recheck(self) -> None:
        """The machine's network or name servers have changed: see that it answers, and whom it asks itself."""
        if not self._wanted or self._pidfd < 0:
            return  # nobody to ask, or on its way back anyway
        await self._settle()
        if self._pidfd < 0 or _command_line(self._pid) != self._command():
            await self._start_or_say()
        else:
            await self._replace_if_mute()

    async def stop(self) -> None:
        """No dnsmasq of ours, also none that an earlier daemon left."""
        self._wanted = False
        self.problem = ""
        await self._settle()
        for _ in range(STOP_LIMIT):  # one that is being born has several processes for a moment
            pid = self._pid if self._pidfd >= 0 else self._find()
            if not pid:
                break
            if self._pidfd >= 0 or self._hold(pid):
                await self._end()
        self._pid_file.unlink(missing_ok=True)

    async def _end(self, signals: Sequence[int] = (signal.SIGTERM, signal.SIGKILL)) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        try:
            for number in signals:
                self._signal(number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_TIMEOUT):
                        await process.readable(self._pidfd)
                        return
        finally:
            self._let_go()

    async def close(self) -> None:
        """Let go; dnsmasq keeps answering."""
        await self._settle()
        if self._pidfd >= 0:
            self._let_go()

    # ------------------------------------------------------------ inside

    def _command(self) -> list[str]:
        # The real file, for dnsmasq watches the folder it is in; without that folder it would not even start.
        real = Path(os.path.realpath(RESOLV_CONF))
        upstream = real if real.parent.is_dir() else None
        readable = all(parent.stat().st_mode & 0o001 for parent in self._hosts.parents)
        return dnsmasq_command(
            self._address, self._domain, self._folder, upstream, as_root=not readable, settings=self._settings
        )

    def _write_settings(self, text: str) -> None:
        """Under a name that tells what is in it, so that a running dnsmasq's command line tells what it has read."""
        name = f"dnsmasq-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.conf"
        self._settings = self._folder / name if text else NO_SETTINGS
        for file in self._folder.glob("dnsmasq-*.conf"):
            if file != self._settings:
                file.unlink(missing_ok=True)
        if text:
            new = self._folder / "dnsmasq.new"
            new.write_text(text)
            new.chmod(0o644)
            new.rename(self._settings)

    async def _replace_if_mute(self) -> None:
        """One that hangs (stopped, or waiting for something for ever) is replaced."""
        if self._pidfd < 0 or await self._answers():
            return
        log.warning("dnsmasq (pid %d) does not answer; starting another one", self._pid)
        if self._pidfd >= 0:
            await self._end((signal.SIGKILL,))
        await self._start_or_say()

    async def _answers(self) -> bool:
        question = b"".join(bytes([len(label)]) + label for label in self._domain.encode().split(b"."))
        query = b"ed\1\0\0\1\0\0\0\0\0\0" + question + b"\0\0\1\0\1"  # RFC 1035: A of the domain itself
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as asker:
            for _ in range(ANSWER_TRIES):
                with contextlib.suppress(OSError):  # TimeoutError is one; so is a refusal
                    asker.connect((self._address, 53))
                    asker.send(query)
                    async with asyncio.timeout(ANSWER_TIMEOUT):
                        if await loop.sock_recv(asker, 512):
                            return True
                if self._pidfd < 0:  # ended meanwhile, and on its way back
                    return True
        return False

    def _write_hosts(self, text: str) -> bool:
        """True if the file says something else now."""
        with contextlib.suppress(OSError):
            if self._hosts.read_text() == text:
                return False
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._hosts.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(self._hosts)
        return True

    async def _start_or_say(self) -> None:
        try:
            await self._start()
            self.problem = ""
        except PermanentError as e:
            self.problem = f"names of Services can't be served, their addresses work: {e}"
        except RetryError as e:
            self.problem = f"names of Services can't be served for now, their addresses work: {e}"
            self._return_later()

    async def _start(self) -> None:
        command = self._command()
        pid = self._find()
        if pid and self._pidfd < 0:
            self._hold(pid)
        if self._pidfd >= 0 and _command_line(pid) == command:
            self._signal(signal.SIGHUP)  # the hosts file may have changed while nobody was there to tell it
            if await self._answers():
                return
            log.warning("dnsmasq (pid %d) does not answer; starting another one", pid)
            if self._pidfd >= 0:
                await self._end((signal.SIGKILL,))
        elif self._pidfd >= 0:  # settings have changed
            await self._end()
        await process.run(command, timeout=10.0)
        pid = self._find()
        if not pid or not self._hold(pid):
            raise RetryError("dnsmasq ended as soon as it was started; its reason is in the system's log")
        with contextlib.suppress(OSError):
            # A daemon forks twice. The process in between ended as an orphan, ours where this process adopts orphans;
            # its pid is the daemon's session.
            process.reap_at_end(os.pidfd_open(os.getsid(pid)))

    def _find(self) -> int:
        """The pid of our dnsmasq, whoever started it, or 0."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file.read_text())
            if self._is_ours(pid):
                return pid
        # The pid file may be lost with the run folder while the process lives on.
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return next((pid for pid in pids if self._is_ours(pid)), 0)

    def _is_ours(self, pid: int) -> bool:
        line = _command_line(pid)
        return bool(line) and Path(line[0]).name == "dnsmasq" and f"--pid-file={self._pid_file}" in line

    def _hold(self, pid: int) -> bool:
        """Be told when it ends. False if it has ended already."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        if not self._is_ours(pid):  # asked again: the number can't change its owner any more
            os.close(self._pidfd)
            self._pidfd = -1
            return False
        self._pid = pid
        loop = asyncio.get_running_loop()
        self._started_at = loop.time()
        loop.add_reader(self._pidfd, self._ended)
        return True

    def _let_go(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):  # ours to reap only if this process adopts orphans
            os.waitpid(self._pid, os.WNOHANG)
        os.close(self._pidfd)
        self._pidfd = -1

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _ended(self) -> None:
        self._let_go()
        if asyncio.get_running_loop().time() - self._started_at > LONG_ENOUGH:
            self._delay = 0.0
        log.warning("dnsmasq (pid %d) ended without being asked to; starting it again in %g s", self._pid, self._delay)
        self._return_later()

    def _return_later(self) -> None:
        if self._wanted:
            delay, self._delay = self._delay, min(max(self._delay * 2, 1.0), DELAY_CAP)
            self._return_due = asyncio.get_running_loop().call_later(delay, self._return)

    def _return(self) -> None:
        self._return_due = None
        self._returning = asyncio.get_running_loop().create_task(self._start_or_say(), name="dnsmasq-return")

    async def _settle(self) -> None:
        """No start planned or under way. One under way is waited for: stopped halfway it would leave a stray."""
        if self._returning is not None:
            await asyncio.wait([self._returning])
            self._returning = None
        if self._return_due is not None:
            self._return_due.cancel()
            self._return_due = None


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
