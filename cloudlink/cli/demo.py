"""The whole house on one machine: hub, broker, one enrolled node, its dashboard, the demo workload.

    up:    fresh folder -> hub -> join -> image -> edged -> dashboard -> manifest -> pods Ready
    down:  processes -> edged teardown -> folder; then look whether anything is left, and say so

Every start begins with `down`, so it works from whatever state an earlier one was killed in. Nothing in here is
known to the daemons: they are started with the same commands and files that a real hub and node use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cloudlink.cli import leftovers
from cloudlink.cli.client import HubClient, apply
from edged.errors import EdgedError, PermanentError

NODE = "demo-node"
BRIDGE = "edgeddemo0"
TABLE = "edged-demo"
CGROUP = "edged-demo"
SUBNET = "10.89.0.0/24"
PATIENCE = 60.0  # seconds until the demo's pods must be Ready


class Demo:
    """:param checkout: the source tree; `.demo/` is made in it."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.folder = checkout / ".demo"
        self.kubeconfig = self.folder / "kubeconfig"
        self.node_toml = self.folder / "node" / "node.toml"
        self.hub_toml = self.folder / "hub.toml"

    # ------------------------------------------------------------ up

    def up(self) -> None:
        if self._already_up():
            print("the demo is up already:")
            self._tell()
            return
        self.down(quiet=True)
        (self.folder / "node").mkdir(parents=True)
        with self._step("hub and broker"):
            self._start_hub()
        with self._step("demo image"):
            self._build_image()
        with self._step(f"node {NODE}: join, then edged"):
            self._start_node()
        with self._step("manifest images/demo/demo.yaml"):
            pods = self._apply_manifest()
        with self._step(f"{pods} pods Ready"):
            self._await("the demo's pods to be Ready", lambda: self._ready_pods() >= pods, self._not_ready)
        self._hand_over()
        self._tell()

    def _already_up(self) -> bool:
        try:
            running = leftovers.processes(self.folder)
            wanted = ("cloudlink.hub", "edged run", "mosquitto", "edged.dashboard")
            return all(any(w in line for line in running.values()) for w in wanted) and self._ready_pods() > 0
        except EdgedError:
            return False

    @contextlib.contextmanager
    def _step(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        print(f"  {what} ...", end="", flush=True)
        yield
        print(f" {time.monotonic() - begun:.1f} s")

    def _start_hub(self) -> None:
        port, broker_port = free_port(6443), free_port(8883)
        self.hub_toml.write_text(
            f'data_dir = "{self.folder / "hub"}"\nfleet = "demo"\nhost = "127.0.0.1"\nport = {port}\n'
            f'broker_host = "127.0.0.1"\nbroker_port = {broker_port}\n'
        )
        self._spawn("hub", "-m", "cloudlink.hub", "run", "--config", str(self.hub_toml))
        self._await("the hub to answer", self._hub_answers)

    def _hub_answers(self) -> bool:
        if not self.kubeconfig.exists():
            made = self._python("-m", "cloudlink.hub", "kubeconfig", "--config", str(self.hub_toml), check=False)
            if made.returncode != 0:
                return False
            self.kubeconfig.touch(mode=0o600)
            self.kubeconfig.write_text(made.stdout)
        try:
            HubClient(self.kubeconfig, timeout=2.0).call("GET", "/readyz")
        except EdgedError:
            return False
        return True

    def _build_image(self) -> None:
        archive = self.folder / "demo-image.tar"
        self._python(str(self.checkout / "images" / "build.py"), "demo", "--output", str(archive))
        root = self.folder / "node" / "state" / "images"
        self._python("-m", "edged.images", "import", "--root", str(root), str(archive))

    def _start_node(self) -> None:
        made = self._python("-m", "cloudlink.hub", "token", "create", "--config", str(self.hub_toml))
        token = made.stdout.split()[-1]
        node = self.folder / "node"
        self._python(
            *("-m", "cloudlink.cli", "join", token, "--name", NODE, "--config", str(self.node_toml)),
            *("--state-dir", str(node / "state"), "--run-dir", str(node / "run")),
            *("--set", f"cgroup_parent={CGROUP}", "--set", f"network.bridge={BRIDGE}"),
            *("--set", f"network.pod_cidr={SUBNET}", "--set", f"network.nft_table={TABLE}"),
            *("--set", f"dashboard.port={free_port(8470)}"),
        )
        # -OO: no docstrings in the resident process, 1 MB less; see "What it costs" in the README.
        self._spawn("node", "-OO", "-m", "edged", "run", "--config", str(self.node_toml))
        (node / "control.sock").symlink_to("run/control.sock")
        self._await("edged to answer", lambda: (node / "control.sock").exists())
        self._spawn("dashboard", "-m", "edged.dashboard", "--config", str(self.node_toml), "--idle-seconds", "0")

    def _apply_manifest(self) -> int:
        """Apply through the hub, as kubectl would; returns how many pods that asks for."""
        from cloudlink.kube.parse import load_yaml

        client = HubClient(self.kubeconfig)
        manifest = self.checkout / "images" / "demo" / "demo.yaml"
        documents = load_yaml(manifest.read_text(), str(manifest))
        for document in documents:
            apply(client, document)
        return sum(int(d["spec"].get("replicas", 1)) for d in documents if d["kind"] == "Deployment")

    def _pods(self) -> list[dict[str, Any]]:
        answer = HubClient(self.kubeconfig, timeout=5.0).call("GET", "/api/v1/namespaces/default/pods")
        return list(answer["items"])

    def _ready_pods(self) -> int:
        return sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in (p.get("status") or {}).get("conditions") or [])
            for p in self._pods()
        )

    def _not_ready(self) -> str:
        lines = [f"    {p['metadata']['name']}: {(p.get('status') or {}).get('message', '')}" for p in self._pods()]
        return "\n".join(lines)

    def _tell(self) -> None:
        from edged import config as configs

        dashboard = configs.load(self.node_toml).dashboard
        token_file = self.folder / "node" / "state" / "dashboard.token"
        token = token_file.read_text().strip() if token_file.exists() else ""
        kubeconfig = self.kubeconfig.relative_to(self.checkout)
        print(f"\n  node dashboard  http://{dashboard.host}:{dashboard.port}/?token={token}")
        print(f"  hub             {HubClient(self.kubeconfig).server}")
        print(f"  pods            kubectl --kubeconfig {kubeconfig} get pods")
        if shutil.which("kubectl") is None:
            print("                  (no kubectl on this machine; .venv/bin/edgectl get pods shows the same)")
        print()

    def _hand_over(self) -> None:
        """With sudo, the files that the person needs belong to the person."""
        uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
        if uid and gid:
            for path in (self.folder, self.kubeconfig):
                os.chown(path, int(uid), int(gid))

    # ------------------------------------------------------------ down

    def down(self, quiet: bool = False) -> None:
        """Idempotent; raises PermanentError if something is left after all."""
        daemons = leftovers.processes(self.folder)
        first = [pid for pid, line in daemons.items() if "conmon" not in line and "mosquitto" not in line]
        leftovers.end(first)
        if self.node_toml.exists():
            done = self._python("-m", "edged", "teardown", "--yes", "--config", str(self.node_toml), check=False)
            if done.returncode != 0 and not quiet:
                print(done.stderr.strip(), file=sys.stderr)
        leftovers.end(list(leftovers.processes(self.folder)))
        leftovers.unmount(leftovers.mounts(self.folder))
        if self.folder.exists():
            shutil.rmtree(self.folder)
        left = leftovers.report(self.folder, BRIDGE, TABLE, CGROUP)
        found = [f"{kind}: {', '.join(items)}" for kind, items in left.items() if items]
        if found:
            raise PermanentError("left behind after the demo:\n  " + "\n  ".join(found))
        if not quiet:
            print("the demo is down; nothing left: " + ", ".join(f"0 {kind}" for kind in left))

    # ------------------------------------------------------------ run

    def run(self) -> None:
        """Up, wait for Ctrl-C or SIGTERM, down; also when interrupted on the way up."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, interrupted)
        try:
            self.up()
            print("  Ctrl-C takes everything down", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print("\ntaking the demo down ...", flush=True)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.down()

    # ------------------------------------------------------------ processes

    def _python(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=self.checkout
        )
        if check and done.returncode != 0:
            words = " ".join(arguments)
            raise PermanentError(f"`python {words}` failed:\n{done.stdout}{done.stderr}".rstrip())
        return done

    def _spawn(self, name: str, *arguments: str) -> None:
        """A daemon of its own session: it outlives `demo up`, and the terminal's Ctrl-C doesn't reach it."""
        with (self.folder / f"{name}.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.checkout,
                start_new_session=True,
                env={**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONUNBUFFERED": "1"},
            )

    def _await(self, what: str, true: Callable[[], bool], why_not: Callable[[], str] = lambda: "") -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                logs = "\n".join(self._tail(log) for log in sorted(self.folder.glob("*.log")))
                raise PermanentError(f"waited {PATIENCE:.0f} s for {what}, in vain\n{why_not()}\n{logs}")
            time.sleep(0.05)

    def _tail(self, log: Path) -> str:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"--- {log.name}", *lines])


def free_port(preferred: int) -> int:
    """The preferred TCP port on loopback, or any free one where it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise PermanentError("no free TCP port on 127.0.0.1")
