"""The whole path on one machine: hub, broker, one enrolled node, its dashboard, the demo workload.

    up:    fresh folder -> hub -> image -> join -> edged -> dashboard -> manifest -> pods Ready
    down:  processes -> edged teardown -> folder; then look whether anything is left, and say so

Every start begins with `down`, so it works from whatever state an earlier one was killed in.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator

from cloudlink.cli import leftovers
from cloudlink.cli.house import CHECKOUT, House, Names, free_port
from cloudlink.cli.resources import apply
from edged import config as configs
from edged.errors import EdgedError, PermanentError

NAMES = Names("demo-node", "edgeddemo0", "edged_demo", "edged-demo", "10.89.0.0/24")
MANIFEST = CHECKOUT / "images" / "demo" / "demo.yaml"


class Demo:
    def __init__(self) -> None:
        self.house = House(CHECKOUT / ".demo", NAMES)

    def up(self) -> None:
        """Returns when the demo's pods are Ready."""
        house = self.house
        if self._already_up():
            print("the demo is up already:")
            self._tell()
            return
        house.down()
        (house.folder / "node").mkdir(parents=True)
        with step("hub and broker"):
            house.prepare_hub(6443, 8883)
            house.start_hub()
        with step("demo image"):
            house.build_image("demo")
        with step(f"node {NAMES.node}: join, then edged and its dashboard"):
            house.join([f"dashboard.port={free_port(8470)}"])
            house.start_node()
            house.spawn("dashboard", "-m", "edged.dashboard", "--config", str(house.node_toml), "--idle-seconds", "0")
            house.wait("the dashboard to answer", self._dashboard_answers)
        with step(f"manifest {MANIFEST.relative_to(CHECKOUT)}"):
            wanted = self._apply_manifest()
        with step(f"{wanted} pods Ready"):
            house.wait("the demo's pods to be Ready", lambda: house.ready_pods() >= wanted, self._not_ready)
        self._hand_over()
        self._tell()

    def down(self) -> None:
        self.house.down()
        left = self.house.left()
        found = [f"{kind}: {', '.join(items)}" for kind, items in left.items() if items]
        if found:
            raise PermanentError("left behind after the demo:\n  " + "\n  ".join(found))
        print("the demo is down; nothing left: " + ", ".join(f"0 {kind}" for kind in left))

    def run(self) -> None:
        """Up, wait for Ctrl-C, SIGTERM or the terminal's end, down; also when interrupted on the way up."""

        def interrupted(*_: object) -> None:
            leave_alone()
            raise KeyboardInterrupt

        def leave_alone() -> None:
            """Nothing interrupts the way down: neither a second Ctrl-C nor the terminal that closes after the first."""
            for number in ends:
                signal.signal(number, signal.SIG_IGN)

        # What is ignored already stays so: nohup's SIGHUP.
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        ends = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
        for number in ends:
            signal.signal(number, interrupted)
        try:
            self.up()
            print("  Ctrl-C takes everything down", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("\ntaking the demo down ...", flush=True)
        finally:
            leave_alone()
            self.down()

    def _already_up(self) -> bool:
        try:
            lines = leftovers.processes(self.house.folder).values()
            wanted = ("cloudlink.hub", "edged run", "mosquitto", "edged.dashboard")
            return all(any(w in line for line in lines) for w in wanted) and self.house.ready_pods() > 0
        except EdgedError:
            return False

    def _apply_manifest(self) -> int:
        """Apply through the hub's API, as kubectl would; returns how many pods that asks for."""
        from cloudlink.kube.parse import load_yaml

        documents = load_yaml(MANIFEST.read_text(), str(MANIFEST))
        for document in documents:
            apply(self.house.client, document)
        return sum(int(d["spec"].get("replicas", 1)) for d in documents if d["kind"] == "Deployment")

    def _not_ready(self) -> str:
        pods = self.house.pods()
        return "\n".join(f"    {p['metadata']['name']}: {(p.get('status') or {}).get('message', '')}" for p in pods)

    def _dashboard_answers(self) -> bool:
        """It makes its token before it listens, so that the printed address is good once it does."""
        dashboard = configs.load(self.house.node_toml).dashboard
        try:
            socket.create_connection((dashboard.host, dashboard.port), timeout=2.0).close()
        except OSError:
            return False
        return True

    def _tell(self) -> None:
        house = self.house
        dashboard = configs.load(house.node_toml).dashboard
        token = (house.folder / "node" / "state" / "dashboard.token").read_text().strip()
        kubeconfig = house.kubeconfig.relative_to(CHECKOUT)
        print(f"\n  node dashboard  http://{dashboard.host}:{dashboard.port}/?token={token}")
        print(f"  hub             {house.client.server}")
        print(f"  pods            kubectl --kubeconfig {kubeconfig} get pods")
        if shutil.which("kubectl") is None:
            print("                  (no kubectl on this machine: .venv/bin/edgectl get pods shows the same)")
        print()

    def _hand_over(self) -> None:
        """With sudo, the files that the person needs belong to the person."""
        uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
        if uid and gid:
            for path in (self.house.folder, self.house.kubeconfig):
                os.chown(path, int(uid), int(gid))


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    begun = time.monotonic()
    print(f"  {what} ...", end="", flush=True)
    yield
    print(f" {time.monotonic() - begun:.1f} s")
