"""A hub's API over HTTPS with one node whose containers are processes of this machine, and what listens on a port."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloudlink.hub.changes import Create, UpdateStatus
from cloudlink.hub.store import Store
from cloudlink.kube.core import Pod
from cloudlink.kube.parse import dump, parse
from tests.fakes import hub_objects
from tests.fakes.hub_server import HubServer
from tests.fakes.remote import FakeRemote
from tests.fakes.shell_node import ShellNode


class Place:
    """A hub, one node, and pods on it."""

    def __init__(self, folder: Path) -> None:
        (folder / "hub").mkdir()
        (folder / "node").mkdir()
        self.node = ShellNode(folder / "node", ("sh", "-c", "echo here; read line; echo got $line; exit 3"))
        self.remote = FakeRemote({"pi-1": self.node})
        self.hub = HubServer(folder / "hub", remote=self.remote)
        self.folder = folder
        self.uids: dict[str, str] = {}

    def pod(self, name: str, containers: tuple[str, ...] = ("main",), node: str = "pi-1", **status: Any) -> str:
        """A pod, running where `status` says nothing else; returns its uid."""

        def deed(store: Store) -> str:
            spec = {"nodeName": node, "containers": [{"name": c, "image": "demo:1"} for c in containers]}
            meta = {"name": name, "namespace": "default", "labels": {"app": name}}
            (made,) = store.commit([Create(parse({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}))])
            assert isinstance(made, Pod)
            state = {"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "ready": True, "restartCount": 0}
            running = {
                "phase": "Running",
                "containerStatuses": [{"name": c, "image": "demo:1", **state} for c in containers],
            }
            store.commit([UpdateStatus(parse(dump(made) | {"status": running | status}))])
            return made.metadata.uid

        self.uids[name] = self.hub.do(deed)
        return self.uids[name]

    def furnish(self) -> None:
        """Pods in all the states that the doors care about. Once the hub runs."""
        self.add_node("pi-1")
        self.add_node("pi-2")
        self.pod("web")
        self.pod("pair", ("main", "side"))
        waits = {"name": "main", "image": "demo:1", "ready": False, "restartCount": 0}
        self.pod("waiting", phase="Pending", containerStatuses=[waits | {"state": {"waiting": {"reason": "Pulling"}}}])
        self.pod("nowhere", node="", phase="Pending", containerStatuses=[])

    def add_node(self, name: str) -> None:
        capacity = {"cpu": "1", "memory": "1000Mi"}

        def deed(store: Store) -> None:
            (made,) = store.commit([Create(hub_objects.node(name))])
            store.commit(
                [UpdateStatus(parse(dump(made) | {"status": {"allocatable": capacity, "capacity": capacity}}))]
            )

        self.hub.do(deed)


class Handler(http.server.BaseHTTPRequestHandler):
    """What listens on a pod's port."""

    def do_GET(self) -> None:
        self.answer(self.path.encode() + bytes(200_000))

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["content-length"])))

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name)
        pass


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """The port on which it does."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()
