"""The embedded broker: a mosquitto (2.0.11 or later) that the hub configures, starts, and starts again.

Two listeners, both TLS 1.2 or better with client certificates of the fleet's own CA, nothing anonymous:
the nodes', where a client's id is forced to be its certificate's common name (else one node could take over the
session of another by naming its id), and the hub's own on loopback, where several clients share one name.

The broker outlives a killed hub, so that nodes still get their documents; the next hub replaces it, because it
may be running with an older configuration. Nodes and containers don't mind: clients reconnect by themselves.

Persistence. mosquitto can only write its whole database at once. After each change (autosave_on_changes) that was
measured at 1 MB written for each message with 200 documents of 5 kB, which any node could provoke; by the clock
it writes as often when idle. So it saves rarely by the clock, at every clean end, and when the hub asks with
`save` because a document changed. What a kill still loses comes back by itself: the hub publishes its
documents and every node its status when they reconnect.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cloudlink import certs, trust, wire
from edged.errors import PermanentError

_log = logging.getLogger(__name__)

AUTOSAVE_SECONDS = 300  # bytes written while idle: one database in five minutes
SAVE_DELAY = 1.0  # seconds during which changes are gathered into one save
MEMORY_LIMIT = 256 << 20  # bytes of heap: what clients could make the broker keep has to end somewhere
END_SECONDS = 5.0  # how long a broker may take to save and end before it is killed


# What mosquitto says at every start by root and of every peer that hangs up early, our own look at the port included.
_NOISE = ("should not be run as root", "unexpected eof while reading")


class Listener(NamedTuple):
    """Where the broker listens. Nodes dial `host`:`port`; the hub itself `hub_port` (0 = any free port).

    :ivar hub_host: loopback where the hub is on the same machine.
    """

    host: str
    port: int
    hub_port: int = 0
    hub_host: str = "127.0.0.1"


class Identity(NamedTuple):
    """PEM files: the CA that clients must be signed by, and the broker's own server certificate."""

    ca: Path
    certificate: Path
    key: Path


class Backoff(NamedTuple):
    """Seconds between starts of a broker that keeps dying; a life of `steady` seconds forgives."""

    first: float = 0.1
    longest: float = 10.0
    steady: float = 30.0


def broker_config(folder: Path, listener: Listener, identity: Identity) -> str:
    """The text of mosquitto.conf; paths are absolute (mosquitto.conf(5))."""
    common = [
        "protocol mqtt",
        f"cafile {identity.ca.absolute()}",
        f"certfile {identity.certificate.absolute()}",
        f"keyfile {identity.key.absolute()}",
        "tls_version tlsv1.2",  # or better: 1.2 is the least
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
        f"acl_file {folder.absolute() / 'acl'}",
    ]
    return "\n".join(
        [
            "# Written by the hub at every start; changes are lost.",
            "per_listener_settings true",
            # Started by root it would change to user mosquitto, which can't enter the hub's private folder, and whose
            # other services could read the key. Where the hub is not root (its unit runs it as its own user)
            # this line has no effect.
            "user root",
            "persistence true",
            f"persistence_location {folder.absolute()}/",
            f"autosave_interval {AUTOSAVE_SECONDS}",
            "persistent_client_expiration 1d",
            f"max_packet_size {wire.MAX_PACKET + 64 * 1024}",
            "max_inflight_messages 20",
            # For one client; what conversations have under way (streams.flow) must not be dropped. Bytes end it sooner.
            "max_queued_messages 5000",
            f"max_queued_bytes {4 * wire.MAX_PACKET}",
            f"memory_limit {MEMORY_LIMIT}",
            "set_tcp_nodelay true",  # else Nagle's algorithm holds small documents back for 40 ms
            "sys_interval 0",  # nobody reads $SYS: idle is idle
            "connection_messages false",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "",
            f"listener {listener.port} {listener.host}",
            *common,
            "use_username_as_clientid true",
            "",
            f"listener {listener.hub_port} {listener.hub_host}",
            *common,
            "",
        ]
    )


def access_rules(fleet: str) -> str:
    """The text of the ACL file: the hub does all in its fleet, a node (%u, its certificate's name) its own part."""
    own = wire.topic(fleet, "0", wire.STATUS).removesuffix("0/status")
    return "\n".join(
        [
            f"user {certs.HUB_USER}",
            f"topic readwrite {own}#",
            "",
            f"pattern read {own}%u/{wire.DESIRED}",
            f"pattern read {own}%u/req/#",
            f"pattern write {own}%u/{wire.STATUS}",
            f"pattern write {own}%u/{wire.PRESENCE}",
            f"pattern write {own}%u/res/#",
            "",
        ]
    )


class Broker:
    """Owns one mosquitto process in `folder`. Run exactly one for each folder."""

    def __init__(
        self, folder: Path, fleet: str, listener: Listener, identity: Identity, backoff: Backoff | None = None
    ) -> None:
        self._folder = folder
        self._fleet = fleet
        self._listener = listener if listener.hub_port else listener._replace(hub_port=_free_port())
        self._identity = identity
        self._backoff = backoff or Backoff()
        self._process: asyncio.subprocess.Process | None = None
        self._save: asyncio.TimerHandle | None = None
        self._last_words: collections.deque[str] = collections.deque(maxlen=20)
        self.ready = asyncio.Event()  # set while both listeners accept connections
        self.starts = 0

    @property
    def config_file(self) -> Path:
        return self._folder.absolute() / "mosquitto.conf"

    @property
    def hub_port(self) -> int:
        """Where the hub's own clients connect, on 127.0.0.1."""
        return self._listener.hub_port

    @property
    def pid(self) -> int | None:
        """Of the mosquitto that runs, if one does."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def trouble(self) -> str:
        """What mosquitto last complained about; "" while all is well."""
        return "" if self.ready.is_set() else " | ".join(self._last_words)

    def save(self) -> None:
        """Make what is retained now survive a kill: within SAVE_DELAY and once for all calls until then."""
        if self._save is None:
            self._save = asyncio.get_running_loop().call_later(SAVE_DELAY, self._save_now)

    def _save_now(self) -> None:
        self._save = None
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGUSR1)

    async def run(self) -> None:
        """Keep a broker running until cancelled, which ends it cleanly.

        :raises PermanentError: mosquitto isn't installed, or the folder can't be written.
        """
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise PermanentError("mosquitto is not installed; `apt install mosquitto`, or give the hub another broker")
        await end_leftovers(self.config_file)
        self._write_files()
        delay = self._backoff.first
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            code = await self._live_once(program)
            if loop.time() - began > self._backoff.steady:
                delay = self._backoff.first
            _log.warning("mosquitto ended with %s (%s); next start in %.1f s", code, self.trouble or "no word", delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._backoff.longest)

    def _write_files(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            trust.write_file(self._folder / "acl", access_rules(self._fleet).encode())
            trust.write_file(self.config_file, broker_config(self._folder, self._listener, self._identity).encode())
        except OSError as e:
            raise PermanentError(f"can't write the broker's files in {self._folder}: {e.strerror}") from e

    async def _live_once(self, program: str) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            program,
            "-c",
            str(self.config_file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Debian's mosquitto would tell systemd READY=1, which is the hub's to say.
            env={k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"},
            start_new_session=True,  # Ctrl-C in the hub's terminal is the hub's to handle
        )
        self.starts += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen_to_complaints(process), name="broker complaints")
                watch = tasks.create_task(self._wait_until_ready(), name="broker readiness")
                code = await process.wait()
                watch.cancel()
        finally:
            self.ready.clear()
            if self._save is not None:
                self._save.cancel()
                self._save = None
            await _end(process)
        return code

    async def _listen_to_complaints(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:
                continue  # longer than the reader's limit: dropped by it
            if not line:
                return
            text = line.decode(errors="replace").strip()[:500].partition(": ")[2]
            if not any(n in text for n in _NOISE):
                self._last_words.append(text)
                _log.info("mosquitto: %s", text)

    async def _wait_until_ready(self) -> None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._listener.host, self._listener.host)
        for address in ((host, self._listener.port), ("127.0.0.1", self._listener.hub_port)):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(*address)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        self._last_words.clear()
        self.ready.set()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


# ---------------------------------------------------------------- what a killed hub left behind


def _processes_of(config_file: Path) -> Iterator[int]:
    """Every process that runs a mosquitto with this very file, read from /proc: no pid file that could be stale."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if words[0].endswith(b"mosquitto") and os.fsencode(config_file) in words:
            yield int(entry.name)


async def end_leftovers(config_file: Path) -> int:
    """End every broker of an earlier hub that uses this file, politely first; how many there were."""
    ended = 0
    for pid in tuple(_processes_of(config_file)):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            # The handle is of whoever has that pid now: look again before sending anything.
            if pid in _processes_of(config_file):
                await _end_by_handle(handle)
                ended += 1
        finally:
            os.close(handle)
    return ended


async def _end_by_handle(handle: int) -> None:
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, gone.set)  # a pidfd is readable once its process has ended
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await gone.wait()
                return
    finally:
        loop.remove_reader(handle)
