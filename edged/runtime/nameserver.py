"""The names of Services for pods: one dnsmasq, bound to the bridge's address and nothing else.

It outlives the daemon and is found again by its pid file and its command line, so a killed daemon costs no answer.
It is started only while there is something to name, and brought back when it ends without being asked to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

from edged.errors import PermanentError, RetryError
from edged.runtime import process

log = logging.getLogger(__name__)

RESOLV_CONF = Path("/etc/resolv.conf")
LONG_ENOUGH = 10.0  # seconds: one that ran so long is brought back without delay
DELAY_CAP = 60.0  # seconds between starts of one that keeps ending
STOP_TIMEOUT = 5.0  # seconds for each signal
STOP_LIMIT = 5  # processes


def dnsmasq_command(address: str, domain: str, folder: Path, upstream: Path | None, as_root: bool) -> list[str]:
    """dnsmasq(8) for one node. It puts itself in the background once it listens.

    :param upstream: a resolv.conf whose servers answer for all other names; dnsmasq follows its changes.
    :param as_root: where the folder can't be read by the user that dnsmasq would become.
    """
    return [
        "dnsmasq",
        "--conf-file=/dev/null",  # nothing of the machine's own dnsmasq
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

    async def serve(self, hosts: str) -> None:
        """Answer for these names (hosts(5) form). What goes wrong is in `problem`; it is tried again by itself."""
        self._wanted = True
        changed = self._write_hosts(hosts)
        await self._settle()
        if self._pidfd < 0:
            await self._start_or_say()
        elif changed:
            self._signal(signal.SIGHUP)  # it reads the file again and keeps answering meanwhile

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

    async def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
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
        upstream = RESOLV_CONF if RESOLV_CONF.exists() else None
        readable = all(parent.stat().st_mode & 0o001 for parent in self._hosts.parents)
        return dnsmasq_command(self._address, self._domain, self._folder, upstream, as_root=not readable)

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
        if pid and _command_line(pid) == command and self._hold(pid):
            self._signal(signal.SIGHUP)  # the hosts file may have changed while nobody was there to tell it
            return
        if pid and self._hold(pid):  # settings have changed
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
