"""`python -m tests.bench.neighbours`: what a neighbour's HTTP clients feel while a pod beside it misbehaves.

A fork bomb, a memory hog, a log flood and a disk filler, each in its own pod, one after the other; the neighbour is
asked by one client with a new connection each time. On a private disk, so that the filler fills nobody else's. About
three minutes.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from edged.control.protocol import Snapshot
from edged.model import Container, Limits, Pod
from tests.bench.alone import Alone
from tests.bench.measure import spin_until, tell
from tests.bench.place import disk
from tests.local_node import IMAGE, MIB, LocalNode, local_node

REQUESTS = 600
PAUSE = 0.01  # seconds between two requests
UNDER_WAY = 3.0  # seconds that the bad pod gets before it is measured beside
FOR_PODS = 256 * MIB

BAD: dict[str, tuple[str, Limits]] = {
    # its first process forks no more once it is up, or the bomb would end with it; it only buries the dead
    "fork bomb": ("bomb() { while true; do bomb & done; }; bomb & while true; do wait; done 2>/dev/null", Limits()),
    "memory hog": (
        "while true; do dd if=/dev/zero bs=8388608 count=1 2>/dev/null | sleep 1d & sleep 0.1; done",
        Limits(memory_request=8 * MIB),
    ),
    "log flood": ("exec yes this line is written again and again, for nobody stops who writes it", Limits()),
    "disk filler": (
        "n=0; while true; do n=$((n+1)); dd if=/dev/zero of=/fill-$n bs=1048576 count=64 2>/dev/null || sleep 1; done",
        Limits(),
    ),
}


def web() -> Pod:
    script = "mkdir -p /www && echo hello > /www/index.html && exec httpd -f -p 8080 -h /www"
    limits = Limits(memory_request=8 * MIB, memory_limit=32 * MIB, cpu_request=200)
    main = Container("main", IMAGE, command=("sh", "-c", script), limits=limits)
    return Pod("default", "web", "uid-web", (main,), termination_grace=0.0)


def bad_pod(name: str) -> Pod:
    script, limits = BAD[name]
    uid = f"uid-{name.replace(' ', '-')}"
    main = Container("main", IMAGE, command=("sh", "-c", script), limits=limits)
    return Pod("default", name.replace(" ", "-"), uid, (main,), termination_grace=0.0)


def snapshot(node: LocalNode) -> Snapshot:
    """Over the control socket, as `edged status` asks."""
    import asyncio

    from edged.control import ControlClient

    return asyncio.run(ControlClient(node.run / "control.sock", 60.0).status())


def latencies(address: str, count: int) -> list[float]:
    """Milliseconds of one request each; one that fails counts as long as it took to fail, and at least a second."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        ok = False
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(address, 8080, timeout=10.0)
            connection.request("GET", "/")
            ok = connection.getresponse().read() == b"hello\n"
            connection.close()
        took = time.perf_counter() - begun
        found.append(1000 * (took if ok else max(took, 1.0)))
        time.sleep(PAUSE)
    return found


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


class Asker(threading.Thread):
    """Asks all the time whether the daemon answers. :ivar worst: milliseconds. :ivar failed: how often it did not."""

    def __init__(self, node: LocalNode) -> None:
        super().__init__(name="asker", daemon=True)
        self._node = node
        self._over = threading.Event()
        self.worst, self.asked, self.failed = 0.0, 0, 0

    def run(self) -> None:
        while not self._over.wait(0.25):
            begun = time.perf_counter()
            self.asked += 1
            self.failed += not self._node.answers()
            self.worst = max(self.worst, 1000 * (time.perf_counter() - begun))

    def end(self) -> None:
        self._over.set()
        self.join()


def beside(node: LocalNode, address: str, name: str) -> None:
    before = latencies(address, REQUESTS)
    node.want([web(), bad_pod(name)])
    bad = bad_pod(name)
    spin_until(lambda: bool(node.container_pids(bad.uid)))
    time.sleep(UNDER_WAY)
    asker = Asker(node)
    asker.start()
    during = latencies(address, REQUESTS)
    asker.end()
    if name == "disk filler":  # the disk is looked at once a minute
        spin_until(lambda: any(p.uid == bad.uid and p.reason == "Evicted" for p in snapshot(node).status.pods), 150.0)
    told = snapshot(node)
    events = list(dict.fromkeys(e.reason for e in told.status.events if e.pod == bad.uid))
    status = next((p for p in told.status.pods if p.uid == bad.uid), None)
    restarts = sum(c.restarts for p in told.status.pods if p.uid == "uid-web" for c in p.containers)
    tell(
        f"neighbour's HTTP p99 beside a {name}, times that without",
        p99(during) / p99(before),
        "x",
        goal=2.0,
        before_ms=round(p99(before), 2),
        during_ms=round(p99(during), 2),
        median_before_ms=round(statistics.median(before), 2),
        median_during_ms=round(statistics.median(during), 2),
        failed_requests=sum(one >= 1000 for one in during),
        neighbour_restarts=restarts,
        daemon_answers_worst_ms=round(asker.worst, 1),
        daemon_silent=asker.failed,
        daemon_asked=asker.asked,
        bad_pod=events,
        bad_pod_is=status.message or status.phase if status else "gone",
    )
    node.want([web()])
    spin_until(lambda: node.gone(bad.uid), patience=120.0)


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("this bench needs root: it starts containers")
    folder = Path(tempfile.mkdtemp(prefix="edged-neighbours-"))
    try:
        archive = Alone(folder).archive
        with disk(folder / "disk", megabytes=1024) as private:
            place = folder / secrets.token_hex(3)
            with local_node(place, private.path / "state") as node:
                node.state.mkdir(parents=True, exist_ok=True)
                settings = node.toml.read_text()
                node.toml.write_text(f"memory_allocatable = {FOR_PODS}\n{settings}")
                node.bring_image(archive)
                node.start()
                node.want([web()])
                spin_until(lambda: any(p.ready for p in snapshot(node).status.pods), patience=60.0)
                address = snapshot(node).status.pods[0].ip
                spin_until(lambda: p99(latencies(address, 20)) < 1000, patience=60.0)
                for name in sys.argv[1:] or BAD:
                    beside(node, address, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
