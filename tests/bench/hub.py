"""The hub with a large fleet stored: memory, time to start, latency of reads and of watches, commits a second.

python -m tests.bench.hub [store] [postgresql]
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cloudlink.cli.client import HubClient
from cloudlink.hub.changes import Change, Create
from cloudlink.hub.store import Store
from cloudlink.kube.core import Namespace
from cloudlink.kube.meta import KubeObject, ObjectMeta
from cloudlink.kube.parse import parse
from edged.errors import EdgedError
from tests.bench.measure import cpu_seconds, rss, tell
from tests.bench.watchers import Crowd
from tests.fakes.hub_objects import config
from tests.ports import free_port
from tests.postgres_lab import a_cluster, programs

CHECKOUT = Path(__file__).resolve().parents[2]
NODES, PODS, DEPLOYMENTS, NAMESPACES = 1000, 20_000, 400, 20
STARTED = "2026-11-01T10:%02d:%02dZ"


def fill(store: Store, nodes: int = NODES, pods: int = PODS) -> None:
    """A fleet at work: Deployments with their ReplicaSets, pods that run on nodes that are ready."""
    store.commit([Create(Namespace(metadata=ObjectMeta(name=f"team-{n}"))) for n in range(NAMESPACES)])
    _in_batches(store, (Create(_node(n)) for n in range(nodes)))
    for d in range(DEPLOYMENTS):
        namespace, name = f"team-{d % NAMESPACES}", f"app-{d}"
        [deployment] = store.commit([Create(_deployment(namespace, name, pods // DEPLOYMENTS))])
        [rs] = store.commit([Create(_replica_set(deployment, pods // DEPLOYMENTS))])
        each = range(d * pods // DEPLOYMENTS, (d + 1) * pods // DEPLOYMENTS)
        _in_batches(store, (Create(_pod(rs, n, f"node-{n % nodes:04d}")) for n in each))


def _in_batches(store: Store, changes: Iterator[Change], size: int = 500) -> None:
    batch: list[Change] = []
    for change in changes:
        batch.append(change)
        if len(batch) == size:
            store.commit(batch)
            batch.clear()
    if batch:
        store.commit(batch)


def _template(name: str) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    return {
        "metadata": {"labels": {"app": name, "tier": "edge", "pod-template-hash": "5d4f8c7b9x"}},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": f"registry.example.com/shop/{name}:1.4.2",
                    "args": ["--listen", ":8080", "--log-level", "info"],
                    "env": [{"name": "MODE", "value": "production"}, {"name": "REGION", "value": "north"}],
                    "ports": [{"containerPort": 8080}],
                    "readinessProbe": probe,
                    "livenessProbe": probe,
                    "resources": {
                        "requests": {"memory": "16Mi", "cpu": "50m"},
                        "limits": {"memory": "32Mi", "cpu": "200m"},
                    },
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}, {"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [{"name": "config", "configMap": {"name": f"{name}-config"}}, {"name": "tmp", "emptyDir": {}}],
        },
    }


def _deployment(namespace: str, name: str, replicas: int) -> KubeObject:
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": _template(name)}
    meta = {"name": name, "namespace": namespace}
    return parse({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})


def _owner(obj: KubeObject) -> list[dict[str, Any]]:
    told = {"apiVersion": obj.api_version, "kind": obj.kind, "name": obj.metadata.name, "uid": obj.metadata.uid}
    return [{**told, "controller": True, "blockOwnerDeletion": True}]


def _replica_set(deployment: KubeObject, replicas: int) -> KubeObject:
    name = deployment.metadata.name
    meta = {
        "name": f"{name}-5d4f8c7b9x",
        "namespace": deployment.metadata.namespace,
        "ownerReferences": _owner(deployment),
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": _template(name)}
    return parse({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": meta, "spec": spec})


def _pod(rs: KubeObject, number: int, node: str) -> KubeObject:
    app = rs.metadata.name.rpartition("-")[0]
    template = _template(app)
    when = STARTED % (number // 60 % 60, number % 60)
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": when}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    container = {
        "name": "main",
        "image": template["spec"]["containers"][0]["image"],
        "imageID": f"sha256:{app:0>64}"[:71],
        "containerID": f"crun://{number:064x}",
        "ready": True,
        "started": True,
        "restartCount": number % 3,
        "state": {"running": {"startedAt": when}},
    }
    ip = f"10.{64 + number // 65536}.{number // 256 % 256}.{number % 256}"
    return parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{rs.metadata.name}-{number:05d}",
                "namespace": rs.metadata.namespace,
                "labels": template["metadata"]["labels"],
                "ownerReferences": _owner(rs),
            },
            "spec": {**template["spec"], "nodeName": node},
            "status": {
                "phase": "Running",
                "conditions": conditions,
                "containerStatuses": [container],
                "hostIP": f"192.168.{number % NODES // 256}.{number % NODES % 256}",
                "podIP": ip,
                "podIPs": [{"ip": ip}],
                "qosClass": "Burstable",
                "startTime": when,
            },
        }
    )


def _node(number: int) -> KubeObject:
    name = f"node-{number:04d}"
    size = {"cpu": "4", "memory": "3884Mi", "pods": "110", "ephemeral-storage": "28Gi"}
    conditions = [
        {"type": kind, "status": status, "reason": f"Kubelet{kind}", "lastTransitionTime": STARTED % (0, number % 60)}
        for kind, status in (("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"))
    ]
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
    status = {
        "capacity": size,
        "allocatable": size,
        "conditions": conditions,
        "addresses": [{"type": "InternalIP", "address": f"192.168.{number // 256}.{number % 256}"}],
    }
    return parse({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status})


# ---------------------------------------------------------------- a real hub


class RunningHub:
    """A hub process on a database that is there already."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self.folder, self.port = folder, free_port()
        self.toml, self.kubeconfig = folder / "hub.toml", folder / "kubeconfig"
        self.toml.write_text(
            f'data_dir = "{folder / "hub"}"\nfleet = "bench"\nhost = "127.0.0.1"\nport = {self.port}\n'
            f'broker_host = "127.0.0.1"\nbroker_port = {free_port()}\n'
            + (f'database = "{database}"\n' if database else "")
        )

    def __enter__(self) -> RunningHub:
        begun = time.perf_counter()
        with (self.folder / "log").open("ab") as log:
            profile = os.environ.get("HUB_PROFILE")  # a file; the hub is then two or three times as slow
            module = ["tests.bench.profiled", profile] if profile else ["cloudlink.hub"]
            words = [sys.executable, "-m", *module, "run", "--config", str(self.toml)]
            self.process = subprocess.Popen(words, cwd=CHECKOUT, stdout=log, stderr=log)
        while not self._answers():
            if self.process.poll() is not None:
                sys.exit((self.folder / "log").read_text())
            time.sleep(0.05)
        self.startup = time.perf_counter() - begun
        self.token = self.client._token
        context = ssl._create_unverified_context()
        self.connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        return self

    def _answers(self) -> bool:
        if not self.kubeconfig.exists():
            words = ["kubeconfig", "--config", str(self.toml), "--output", str(self.kubeconfig)]
            subprocess.run([sys.executable, "-m", "cloudlink.hub", *words], cwd=CHECKOUT, capture_output=True)
            return False
        try:
            self.client.call("GET", "/readyz")
        except EdgedError:
            return False
        return True

    @property
    def client(self) -> HubClient:
        return HubClient(self.kubeconfig, timeout=60.0)

    def get(self, path: str) -> bytes:
        try:
            answer = self._asked(path)
        except http.client.RemoteDisconnected:  # it was idle for longer than the hub keeps connections
            self.connection.close()
            answer = self._asked(path)
        body = answer.read()
        assert answer.status == 200, body[:500]
        return body

    def _asked(self, path: str) -> http.client.HTTPResponse:
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        return self.connection.getresponse()

    def settle(self) -> None:
        """Wait until it has nothing left to do."""
        busy = -1.0
        while cpu_seconds(self.process.pid) - busy > 0.02:
            busy = cpu_seconds(self.process.pid)
            time.sleep(3)

    def rss(self) -> float:
        return rss(self.process.pid)

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def pages(hub: RunningHub, limit: int = 500) -> int:
    """List all pods in pages; how many there were."""
    seen, token = 0, ""
    while True:
        document = json.loads(hub.get(f"/api/v1/pods?limit={limit}&continue={token}"))
        seen += len(document["items"])
        token = document["metadata"].get("continue", "")
        if not token:
            return seen


def latencies(hub: RunningHub, count: int = 3000) -> list[float]:
    """Milliseconds of GETs of single pods, one after the other, sorted."""
    items = json.loads(hub.get("/api/v1/namespaces/team-3/pods?limit=500"))["items"]
    times = []
    for n in range(count):
        meta = items[n * 7919 % len(items)]["metadata"]
        begun = time.perf_counter()
        hub.get(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}")
        times.append(1000 * (time.perf_counter() - begun))
    return sorted(times)


def resident(database: str = "", folder: Path | None = None) -> None:
    """1,000 nodes and 20,000 pods: memory, start, pages, latency."""
    kind = "PostgreSQL" if database else "SQLite"
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as made:
        home = folder or Path(made)
        hub = RunningHub(home, database)
        if not (home / "hub/hub.db").exists():
            from cloudlink.hub.config import load
            from cloudlink.hub.premises import Premises

            settings = load(hub.toml, {})
            premises = Premises.enter(settings)
            os.close(premises.lock)
            store = Store.open(settings.database_url, secret_key=premises.secrets_key)
            fill(store)
            store.close()
        with hub:
            what = f"{NODES} nodes, {PODS} pods, {kind}"
            tell(f"hub's start to readyz, {what}", hub.startup, "s")
            hub.settle()
            before = hub.rss()
            tell(f"hub resident, {what}", before, "MB", goal=400.0)
            begun = time.perf_counter()
            assert pages(hub) >= PODS
            tell(f"all pods listed in pages of 500, {what}", time.perf_counter() - begun, "s")
            tell(f"hub's growth by pages, {what}", hub.rss() - before, "MB", goal=50.0)
            times = latencies(hub)
            tell(f"GET of a pod, median, {what}", statistics.median(times), "ms")
            tell(
                f"GET of a pod, 99 %, {what}", times[len(times) * 99 // 100], "ms", goal=20.0, worst=round(times[-1], 1)
            )
            heard(hub, what)


def heard(hub: RunningHub, what: str, watchers: int = 200) -> None:
    times = sorted(asyncio.run(Crowd(hub.port, hub.token).times(watchers)))
    median, worst = 1000 * statistics.median(times), round(1000 * times[-1], 1)
    tell(f"a write heard by the last of {watchers} watchers, {what}", median, "ms", goal=100.0, worst=worst)


def commits(url: str, kind: str, seconds: float = 3.0) -> None:
    """One object a commit, as fast as they go."""
    store = Store.open(url)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        store.commit([Create(config(f"c{count}", {"n": str(count)}))])
        count += 1
    tell(f"commits of one object, {kind}", count / seconds, "a second")
    store.close()


def store() -> None:
    resident()
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        commits(f"sqlite:///{folder}/hub.db", "SQLite")


def postgresql() -> None:
    if programs() is None:
        print("PostgreSQL is not installed: not measured", file=sys.stderr)
        return
    with a_cluster() as cluster:
        commits(cluster.database(), "PostgreSQL on the same machine")
        resident(cluster.database())


PARTS: dict[str, Callable[[], None]] = {"store": store, "postgresql": postgresql}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
