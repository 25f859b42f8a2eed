"""A network of one's own for a test: a subnet, a bridge and tables that no other test has, and what lives in them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from edged.config import NetworkConfig
from edged.runtime.network import Network
from edged.runtime.services import Services
from edged.runtime.wiring import veth_prefix

DEADLINE = 60.0  # seconds until a test gives up on something that should happen at once; the machine may be very busy

LISTEN = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1]))); s.listen(64); print("ready", flush=True)
while True:
    c, peer = s.accept(); c.sendall(f"{sys.argv[2]} {peer[0]}".encode()); c.close()
"""

ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", int(sys.argv[1]))); print("ready", flush=True)
while True:
    _, peer = s.recvfrom(100); s.sendto(f"{sys.argv[2]} {peer[0]}".encode(), peer)
"""

ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 5555)); s.settimeout(30)
s.connect((sys.argv[1], int(sys.argv[2])))
try:
    s.send(b"?")
    print(s.recv(1000).decode())
except OSError as e:
    print(type(e).__name__)
"""

FETCH = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
    print(s.recv(1000).decode())
except OSError as e:
    print(type(e).__name__)
"""


class Lab:
    """Names for one node, a folder for its run_dir, and helpers that act inside its namespaces."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.run_dir = folder / "run"
        self.prefix = f"10.{200 + number // 256}.{number % 256}"
        self.config = NetworkConfig(
            bridge=f"edtest{number:x}", pod_cidr=f"{self.prefix}.0/24", nft_table=f"edged_test_{number:x}", spares=0
        )
        self.cluster_ip = f"198.18.{number // 256}.{number % 256}"  # addresses for benchmarks (RFC 2544): nobody's
        self._cleanup = contextlib.ExitStack()

    def listen(self, netns: str, port: int, name: str, udp: bool = False) -> None:
        """A server in a namespace that answers each connection or datagram with "<name> <address it saw>"."""
        argv = [*enter(netns), sys.executable, "-I", "-S", "-c", ECHO if udp else LISTEN, str(port), name]
        server = self._cleanup.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
        self._cleanup.callback(server.kill)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"

    def outside(self) -> tuple[str, str, str]:
        """A namespace beyond this machine: (its path, its address, the machine's address on the cable to it)."""
        name, here, there = f"edout{self.number:x}", f"edo{self.number:x}", f"192.0.0.{self.number % 60 * 4}"
        machine, beyond = there.rsplit(".", 1)[0], int(there.rsplit(".", 1)[1])
        ours, theirs = f"{machine}.{beyond + 1}", f"{machine}.{beyond + 2}"
        command("ip", "netns", "add", name)
        self._cleanup.callback(command, "ip", "netns", "delete", name)
        command("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name)
        command("ip", "address", "add", f"{ours}/30", "dev", here)
        command("ip", "link", "set", here, "up")
        path = f"/run/netns/{name}"
        command(*enter(path), "ip", "address", "add", f"{theirs}/30", "dev", "eth0")
        command(*enter(path), "ip", "link", "set", "eth0", "up")
        return path, theirs, ours

    def close(self) -> None:
        self._cleanup.close()

    def traces(self) -> list[str]:
        """Everything on the machine that bears this node's names."""
        found = [name for _, name in socket.if_nameindex() if name == self.config.bridge or self._is_veth(name)]
        found += [t for t in command("nft", "list", "tables").splitlines() if self.config.nft_table in t]
        found += [m for m in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.run_dir) in m]
        found += [f"process {pid}" for pid in processes(str(self.run_dir))]
        found += [str(p) for folder in ("netns", "services") for p in (self.run_dir / folder).rglob("*")]
        return found

    def _is_veth(self, name: str) -> bool:
        return name.startswith(veth_prefix(self.config.bridge))


@contextlib.contextmanager
def a_lab() -> Iterator[Lab]:
    """Gone afterwards, whatever happened; and it is an error if something stays."""
    with contextlib.ExitStack() as stack:
        number, reservation = _reserve()
        stack.enter_context(reservation)
        folder = Path(tempfile.mkdtemp(prefix="edged-network-"))
        folder.chmod(0o755)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        lab = Lab(folder, number)
        try:
            yield lab
        finally:
            lab.close()
            asyncio.run(_teardown(lab))
            left = lab.traces()
        assert not left, f"left behind: {left}"


async def _teardown(lab: Lab) -> None:
    await Services(lab.config, lab.run_dir).teardown()
    await Network(lab.config, lab.run_dir).teardown()


def _reserve() -> tuple[int, socket.socket]:
    """A number that no other test of this machine has; it is free again when this process ends."""
    for number in random.sample(range(8192), 100):
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0edged-test-network-{number}")
        except OSError:
            reservation.close()
            continue
        return number, reservation
    raise AssertionError("no subnet is free for this test")


@contextlib.asynccontextmanager
async def opened(network: Network) -> AsyncIterator[Network]:
    """Open, and let go at the end."""
    await network.open()
    try:
        yield network
    finally:
        await network.close()


@contextlib.asynccontextmanager
async def services_of(lab: Lab) -> AsyncIterator[tuple[Network, Services]]:
    """A network with Services on it, both let go at the end."""
    async with opened(Network(lab.config, lab.run_dir)) as network:
        services = Services(lab.config, lab.run_dir)
        await services.open()
        try:
            yield network, services
        finally:
            await services.close()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that comes from outside the loop."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 (what is waited for happens outside the loop)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {DEADLINE:g} s in vain: {what}") from None


def enter(netns: str) -> list[str]:
    return ["nsenter", f"--net={netns}"] if netns else []


def command(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def fetch(netns: str, address: str, port: int, patience: float = 30.0) -> str:
    """What a server says to somebody in `netns` ("" is the machine itself), or the name of the error."""
    return command(*enter(netns), sys.executable, "-I", "-S", "-c", FETCH, address, str(port), str(patience)).strip()


def ask(netns: str, address: str, port: int) -> str:
    """What a UDP server answers to one datagram, always from the same port; or the name of the error."""
    return command(*enter(netns), sys.executable, "-I", "-S", "-c", ASK, address, str(port)).strip()


def lookup(netns: str, name: str, server: str) -> str:
    """What busybox' nslookup says inside a pod's namespace, whole."""
    argv = [*enter(netns), "busybox", "nslookup", "-type=a", name, server]
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE).stdout


def processes(argument: str) -> list[int]:
    """Processes, not zombies, that have the text in their command line; not this one."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if argument.encode() in Path(entry.path, "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def worker_pids(lab: Lab) -> list[int]:
    return [p for p in processes(str(lab.run_dir)) if b"networker" in Path(f"/proc/{p}/cmdline").read_bytes()]


def isolated(lab: Lab, script: str, environment: dict[str, str] | None = None, own_net: bool = False) -> str:
    """Run Python in a process of its own with `config` and `run_dir` set, and return what it prints.

    :param own_net: in a network namespace (and a /sys that shows it) of its own.
    """
    settings = json.dumps(
        {name: getattr(lab.config, name) for name in ("bridge", "pod_cidr", "nft_table", "spares", "egress")}
    )
    start = (
        "import asyncio, json, os, signal, sys\nfrom pathlib import Path\nfrom edged.config import NetworkConfig\n"
        "from edged.runtime.network import Network\nfrom edged.runtime.services import Services\n"
        f"config = NetworkConfig(**json.loads({settings!r}))\nrun_dir = Path({str(lab.run_dir)!r})\n"
    )
    argv: Sequence[str] = [sys.executable, "-c", start + script]
    if own_net:
        argv = ["unshare", "-nm", "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh", *argv]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=240, env={**os.environ, **(environment or {})}, cwd="/"
    )
    assert done.returncode in (0, -9), done.stderr
    return done.stdout
