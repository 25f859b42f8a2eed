"""One hub and one node on this machine, in one folder: what the demo, the end-to-end tests and the bench stand on.

    folder/
        hub.toml kubeconfig hub.log node.log dashboard.log
        hub/            the hub's data, its broker's too
        node/           node.toml, state/ (survives a power cut), run/ (memory), control.sock -> run/control.sock

The daemons are started with the same commands and files that a real hub and a real node use; nothing in them knows
about this module.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudlink.cli import leftovers
from cloudlink.cli.client import HubClient
from edged.errors import EdgedError, PermanentError

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Names:
    """What the node puts on the machine; several houses live side by side when these differ."""

    node: str
    bridge: str
    table: str
    cgroup: str
    subnet: str


class House:
    def __init__(self, folder: Path, names: Names, patience: float = 60.0) -> None:
        self.folder = folder
        self.names = names
        self.patience = patience
        self.kubeconfig = folder / "kubeconfig"
        self.node_toml = folder / "node" / "node.toml"
        self.hub_toml = folder / "hub.toml"
        self.control_socket = folder / "node" / "control.sock"
        self.pids: dict[str, int] = {}

    @property
    def client(self) -> HubClient:
        return HubClient(self.kubeconfig, timeout=10.0)

    # ------------------------------------------------------------ hub

    def prepare_hub(self, port: int = 0, broker_port: int = 0) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hub_toml.write_text(
            f'data_dir = "{self.folder / "hub"}"\nfleet = "{self.names.node}"\n'
            f'host = "127.0.0.1"\nport = {free_port(port)}\n'
            f'broker_host = "127.0.0.1"\nbroker_port = {free_port(broker_port)}\n'
        )

    def start_hub(self) -> None:
        self.spawn("hub", "-m", "cloudlink.hub", "run", "--config", str(self.hub_toml))
        self.wait("the hub to answer", self.hub_answers)

    def hub_answers(self) -> bool:
        if not self.kubeconfig.exists():
            made = self.python("-m", "cloudlink.hub", "kubeconfig", "--config", str(self.hub_toml), check=False)
            if made.returncode != 0:
                return False
            self.kubeconfig.touch(mode=0o600)
            self.kubeconfig.write_text(made.stdout)
        try:
            HubClient(self.kubeconfig, timeout=2.0).call("GET", "/readyz")
        except EdgedError:
            return False
        return True

    # ------------------------------------------------------------ node

    def build_image(self, name: str) -> None:
        """Build images/<name> and bring it into the node's store."""
        archive = self.folder / f"{name}-image.tar"
        self.python(str(CHECKOUT / "images" / "build.py"), name, "--output", str(archive))
        root = self.folder / "node" / "state" / "images"
        self.python("-m", "edged.images", "import", "--root", str(root), str(archive))
        archive.unlink()

    def join(self, settings: Sequence[str] = ()) -> None:
        made = self.python("-m", "cloudlink.hub", "token", "create", "--config", str(self.hub_toml))
        token = made.stdout.split()[-1]
        node, names = self.folder / "node", self.names
        every = [
            f"cgroup_parent={names.cgroup}",
            f"network.bridge={names.bridge}",
            f"network.pod_cidr={names.subnet}",
            f"network.nft_table={names.table}",
            *settings,
        ]
        self.python(
            *("-m", "cloudlink.cli", "join", token, "--name", names.node, "--config", str(self.node_toml)),
            *("--state-dir", str(node / "state"), "--run-dir", str(node / "run")),
            *(word for setting in every for word in ("--set", setting)),
        )

    def start_node(self) -> None:
        # -OO: no docstrings in the resident process, 1 MB less
        self.spawn("node", "-OO", "-m", "edged", "run", "--config", str(self.node_toml))
        if not self.control_socket.is_symlink():
            self.control_socket.symlink_to("run/control.sock")
        self.wait("edged to answer", self.node_answers)

    def node_answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(2.0)
                peer.connect(os.fspath(self.control_socket))
                peer.sendall(b'{"op":"ping"}\n')
                return b"ok" in peer.recv(100)
        except OSError:
            return False

    # ------------------------------------------------------------ pods

    def pods(self, namespace: str = "default") -> list[dict[str, Any]]:
        return list(self.client.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"])

    def ready_pods(self) -> int:
        return sum(is_ready(pod) for pod in self.pods())

    # ------------------------------------------------------------ down

    def down(self) -> None:
        """Idempotent, from whatever state; `left` tells whether it worked."""
        found = leftovers.processes(self.folder)
        leftovers.end([pid for pid, line in found.items() if "conmon" not in line and "mosquitto" not in line])
        if self.node_toml.exists():
            self.python("-m", "edged", "teardown", "--yes", "--config", str(self.node_toml), check=False)
        leftovers.end(list(leftovers.processes(self.folder)))
        leftovers.unmount(leftovers.mounts(self.folder))
        while self.folder.exists():
            with contextlib.suppress(FileNotFoundError):  # somebody else takes it down at the same time
                shutil.rmtree(self.folder)

    def left(self) -> dict[str, list[str]]:
        """What is still there, by kind; all lists empty is the goal."""
        return leftovers.report(self.folder, self.names.bridge, self.names.table, self.names.cgroup)

    # ------------------------------------------------------------ processes

    def python(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=CHECKOUT, env=environment()
        )
        if check and done.returncode != 0:
            words = " ".join(arguments)
            raise PermanentError(f"`python {words}` failed:\n{done.stdout}{done.stderr}".rstrip())
        return done

    def spawn(self, name: str, *arguments: str) -> None:
        """A daemon in its own session: it outlives its starter, and the terminal's Ctrl-C doesn't reach it."""
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=CHECKOUT,
                start_new_session=True,
                env=environment(),
            )
        self.pids[name] = child.pid
        child.returncode = 0  # not waited for here: whoever takes the house down looks at /proc

    def wait(self, what: str, true: Callable[[], bool], why_not: Callable[[], str] = lambda: "") -> None:
        deadline = time.monotonic() + self.patience
        while not true():
            if time.monotonic() > deadline:
                logs = "\n".join(tail(log) for log in sorted(self.folder.glob("*.log")))
                raise PermanentError(f"waited {self.patience:.0f} s for {what}, in vain\n{why_not()}\n{logs}")
            time.sleep(0.02)


def environment() -> dict[str, str]:
    """Byte code goes into a cache of the checkout's own, whatever the person's shell says about it."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    cache = os.fspath(CHECKOUT / ".cache" / "byte-code")
    return {**kept, "PYTHONPYCACHEPREFIX": cache, "MALLOC_ARENA_MAX": "1", "PYTHONUNBUFFERED": "1"}


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join([f"--- {log.name}", *lines])


# Below the ports that the kernel gives to outgoing connections (32768 and up, ip(7)): none of those takes a port
# between here and the daemon that will listen on it, which may be seconds later, or after a restart.
PORTS = range(20000, 32000)


def free_port(preferred: int = 0) -> int:
    """The preferred TCP port on loopback, or any free one where it is taken."""
    for port in ((preferred,) if preferred else ()) + tuple(random.sample(PORTS, 100)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PermanentError("no free TCP port on 127.0.0.1")
