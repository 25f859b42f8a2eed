"""A simulated fleet on a real hub and broker, three processes on this machine: from apply to all running, a rollout,
memory, and who used the CPU.

python -m tests.bench.fleet [NODES [PODS]]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloudlink.cli import leftovers
from tests.bench.hub import CHECKOUT, RunningHub
from tests.bench.measure import cpu_seconds, pss, rss, tell

NODES, PODS, REPLICAS = 1000, 20_000, 1000
NAMESPACE = "bench"
SEED = 7
PATIENCE = 900.0  # seconds
LOOK = 0.5  # seconds between looks at the hub, each of which costs it a little


class Simulator:
    """`edgectl simulate` as a process, and what it says."""

    def __init__(self, hub: RunningHub, nodes: int, seed: int = SEED) -> None:
        words = ["-m", "cloudlink.cli", "simulate", "--kubeconfig", str(hub.kubeconfig), "--nodes", str(nodes)]
        words += ["--seed", str(seed), "--every", "5"]
        words += ["--pull", "0", "0", "--pull-failures", "0"]  # neither registries nor bad programs are measured here
        words += ["--crashes", "0", "--hangs", "0"]
        self._log = (hub.folder / "simulator.log").open("w+b")
        self.process = subprocess.Popen([sys.executable, *words], cwd=CHECKOUT, stdout=self._log, stderr=self._log)
        self._file = hub.folder / "simulator.log"

    def lines(self) -> list[dict[str, Any]]:
        text = self._file.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in text if line.startswith("{") and line.endswith("}")]

    def said(self, what: str) -> dict[str, Any]:
        begun = time.monotonic()
        while True:
            found = [line for line in self.lines() if line["what"] == what]
            if found:
                return found[-1]
            if self.process.poll() is not None or time.monotonic() - begun > PATIENCE:
                sys.exit(self._file.read_text(errors="replace")[-3000:])
            time.sleep(0.2)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self._log.close()


class Bench:
    def __init__(self, hub: RunningHub, nodes: int, pods: int) -> None:
        self.hub, self.nodes, self.pods = hub, nodes, pods
        self.replicas = min(REPLICAS, pods)
        self.what = f"{nodes} nodes"
        self.simulator = Simulator(hub, nodes)
        self.broker = 0
        self.peaks = {"hub": 0.0, "broker": 0.0, "simulator": 0.0}

    def pids(self) -> dict[str, int]:
        return {"hub": self.hub.process.pid, "broker": self.broker, "simulator": self.simulator.process.pid}

    def join(self) -> None:
        joined = self.simulator.said("joined")
        connected = self.simulator.said("connected")
        found = leftovers.processes(self.hub.folder)
        self.broker = next(pid for pid, line in found.items() if "mosquitto" in line.split()[0])
        tell(f"nodes joined, {self.what}", joined["seconds"], "s")
        tell(f"all connected, {self.what}", connected["seconds"], "s", connected=connected["connected"])
        self.until("nodes ready", lambda: self.ready_nodes() == self.nodes)

    def ready_nodes(self) -> int:
        items = json.loads(self.hub.get("/api/v1/nodes"))["items"]
        return sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"].get("conditions", ()))
            for n in items
        )

    def until(self, what: str, true: Callable[[], bool], state: Callable[[], Any] = lambda: "") -> float:
        """Seconds until it is true; peaks of memory meanwhile."""
        begun = time.perf_counter()
        while not true():
            if time.perf_counter() - begun > PATIENCE:
                sys.exit(f"not after {PATIENCE:g} s: {what}: {state()}")
            if os.environ.get("BENCH_VERBOSE"):
                print(f"{time.perf_counter() - begun:.1f} {what} {state()}", file=sys.stderr)
            self.look()
            time.sleep(LOOK)
        return time.perf_counter() - begun

    def look(self) -> None:
        for name, pid in self.pids().items():
            self.peaks[name] = max(self.peaks[name], pss(pid))

    def deployments(self) -> list[dict[str, Any]]:
        return list(json.loads(self.hub.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"))["items"])

    def ready(self) -> int:
        return sum(d.get("status", {}).get("readyReplicas", 0) for d in self.deployments())

    def fill(self) -> None:
        """Deployments of `replicas` pods each, all applied at once; until the hub says that all of them run."""
        self.hub.client.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        count = self.pods // self.replicas
        cpu, before = self.cpu(), self.simulator.said("connected")
        revision = self.revision()
        begun = time.perf_counter()
        for n in range(count):
            path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
            self.hub.client.call("POST", path, deployment(f"app-{n:03d}", self.replicas, "1"))
        posted = time.perf_counter() - begun
        self.until("pods ready", lambda: self.ready() == count * self.replicas, lambda: f"{self.ready()} ready")
        took = time.perf_counter() - begun
        running = self.count_running()
        assert running == count * self.replicas, running
        tell(
            f"{self.pods} pods, from apply to all Running, {self.what}",
            took,
            "s",
            goal=60.0,
            applied=round(posted, 2),
            pods_a_second=round(self.pods / took),
            revisions=self.revision() - revision,
            **self.spent(cpu),
            **self.moved(before),
            load=os.getloadavg()[0],
        )

    def count_running(self) -> int:
        seen, token = 0, ""
        while True:
            path = f"/api/v1/namespaces/{NAMESPACE}/pods?limit=500&continue={token}"
            document = json.loads(self.hub.get(path))
            seen += sum(p["status"]["phase"] == "Running" for p in document["items"])
            token = document["metadata"].get("continue", "")
            if not token:
                return seen

    def revision(self) -> int:
        found = json.loads(self.hub.get("/api/v1/namespaces?limit=1"))
        return int(found["metadata"]["resourceVersion"])

    def change(self) -> None:
        """Another image for one Deployment of a thousand, a quarter more than that at a time."""
        name = "app-000"
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}"
        cpu, before = self.cpu(), self.simulator.said("fleet")
        revision = self.revision()
        changed = deployment(name, self.replicas, "2")
        begun = time.perf_counter()
        self.hub.client.call("PATCH", path, {"spec": changed["spec"]}, "application/merge-patch+json")

        def status() -> dict[str, Any]:
            return dict(json.loads(self.hub.get(path)))

        def done() -> bool:
            now = status()
            told = now["status"]
            seen = told.get("observedGeneration") == now["metadata"]["generation"]
            fields = ("updatedReplicas", "replicas", "availableReplicas")
            return seen and all(told.get(f) == self.replicas for f in fields) and self.old_pods(name) == 0

        self.until("rolled out", done, lambda: status()["status"].get("updatedReplicas", 0))
        tell(
            f"{self.replicas} replicas changed, to all new ones available and the old ones gone, {self.what}",
            time.perf_counter() - begun,
            "s",
            goal=10.0,
            revisions=self.revision() - revision,
            **self.spent(cpu),
            **self.moved(before),
            load=os.getloadavg()[0],
        )

    def old_pods(self, name: str) -> int:
        query = f"labelSelector=app%3D{name}%2Crelease%3D1&limit=1"
        return len(json.loads(self.hub.get(f"/api/v1/namespaces/{NAMESPACE}/pods?{query}"))["items"])

    def cpu(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self.pids().items()}

    def spent(self, before: dict[str, float]) -> dict[str, float]:
        return {f"cpu_{name}": round(now - before[name], 1) for name, now in self.cpu().items()}

    def moved(self, before: dict[str, Any]) -> dict[str, int]:
        """Documents and statuses since then; the simulator tells them every five seconds."""
        time.sleep(6)
        now = self.simulator.said("fleet")
        return {what: now[what] - before[what] for what in ("documents", "statuses")}

    def memory(self) -> None:
        for name, pid in self.pids().items():
            more = {"goal": 500.0} if name == "hub" else {}
            tell(f"{name}, {self.what}", pss(pid), "MB PSS", peak=round(self.peaks[name], 1), rss=rss(pid), **more)


def deployment(name: str, replicas: int, release: str) -> dict[str, Any]:
    """A pod like people's: a label or two, probes, limits; small enough for any board."""
    labels = {"app": name, "release": release}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",  # the hub's habit is to fill one node after the other
        "labelSelector": {"matchLabels": {"app": name}},
    }
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "topologySpreadConstraints": [spread],
                    "containers": [
                        {
                            "name": "main",
                            "image": f"registry.example.com/shop/{name}:1.0.{release}",
                            "env": [{"name": "MODE", "value": "production"}],
                            "ports": [{"containerPort": 8080}],
                            "readinessProbe": probe,
                            "resources": {
                                "requests": {"memory": "8Mi", "cpu": "10m"},
                                "limits": {"memory": "16Mi", "cpu": "100m"},
                            },
                        }
                    ],
                },
            },
        },
    }


def measure(nodes: int = NODES, pods: int = PODS) -> None:
    with tempfile.TemporaryDirectory(prefix="edged-fleet-") as made, RunningHub(Path(made)) as hub:
        bench = Bench(hub, nodes, pods)
        try:
            bench.join()
            bench.memory()
            bench.fill()
            bench.memory()
            bench.change()
            bench.memory()
        finally:
            bench.simulator.end()


if __name__ == "__main__":
    measure(*(int(word) for word in sys.argv[1:3]))
