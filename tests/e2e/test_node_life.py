"""Nodes that come and go: a hub, its broker and two real nodes, of which one loses its daemon now and then."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudlink.cli import leftovers
from cloudlink.cli.house import House, is_ready
from tests.houses import a_further_node, a_house, apply_and_wait, container_pids, deployment, pods_of

pytestmark = pytest.mark.root

PATIENCE = 2  # seconds for which pods tolerate a lost node, unless they say otherwise
GRACE = 8  # seconds that nodes get to speak once the broker was reached
SETTINGS = (
    f"node_monitor_grace_period = {GRACE}",
    f"default_not_ready_toleration_seconds = {PATIENCE}",
    f"default_unreachable_toleration_seconds = {PATIENCE}",
    "node_eviction_rate = 100.0",
)
NEVER_LEAVES = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}]
Pids = dict[str, list[int]]


class Line:
    """What the other node's connection goes through: can be cut, with everything at both ends left alive.

    :ivar mended_at: when the first connection after the last cut came through, by time.monotonic.
    """

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._whole, self._open = True, set[socket.socket]()
        self._lock = threading.Lock()
        self.mended_at = 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        with self._lock:
            self._whole, self.mended_at = False, 0.0
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def mend(self) -> None:
        with self._lock:
            self._whole = True

    def close(self) -> None:
        self.cut()
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            with self._lock:
                if not self._whole:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._broker_port))
                except OSError:
                    near.close()
                    continue
                self.mended_at = self.mended_at or time.monotonic()
                self._open |= {near, far}
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        """From one to the other until either ends; each of the two directions closes its source."""
        with source:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)


class Homes:
    """Two nodes: `first` lives in the hub's house, `other` is the one that is lost, by its daemon or its line."""

    def __init__(self, first: House, other: House, line: Line) -> None:
        self.first, self.other, self.line = first, other, line
        self.client = first.client

    # ------------------------------------------------------------ what runs

    def pods(self, name: str) -> list[dict[str, Any]]:
        return pods_of(self.first, name)

    def on(self, house: House, name: str) -> list[dict[str, Any]]:
        return [p for p in self.pods(name) if p["spec"].get("nodeName") == house.names.node]

    def staying(self, name: str) -> list[dict[str, Any]]:
        return [p for p in self.pods(name) if not p["metadata"].get("deletionTimestamp")]

    def pids(self, house: House, name: str) -> Pids:
        """Pod name -> its processes on that node, whether or not its daemon runs."""
        return {p["metadata"]["name"]: container_pids(house, p) for p in self.on(house, name)}

    def node(self, house: House) -> dict[str, Any]:
        return dict(self.client.call("GET", f"/api/v1/nodes/{house.names.node}"))

    def readiness(self, house: House) -> dict[str, Any]:
        conditions = self.node(house)["status"]["conditions"]
        return next(c for c in conditions if c["type"] == "Ready")

    def taints(self, house: House) -> set[tuple[str, str]]:
        return {(t["key"], t["effect"]) for t in self.node(house)["spec"].get("taints", ())}

    def events(self, reason: str, namespace: str = "default") -> list[dict[str, Any]]:
        found = self.client.call("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
        return [e for e in found if e["reason"] == reason]

    # ------------------------------------------------------------ what happens

    def wait(self, what: str, true: Callable[[], bool], why_not: Callable[[], str] = lambda: "") -> None:
        self.first.wait(what, true, why_not)

    def lose(self, house: House) -> None:
        """The daemon dies with its connection; its containers run on, as they do when only the line is cut."""
        kill(house, "edged run")

    def until_lost(self, house: House) -> None:
        self.wait("the node to be Unknown", lambda: self.readiness(house)["status"] == "Unknown")

    def until_back(self, house: House) -> None:
        self.wait("the node to be Ready", lambda: self.readiness(house)["status"] == "True")
        self.wait("its taints to go", lambda: not self.taints(house))

    def spread(self, name: str, replicas: int, **pod: Any) -> dict[str, Any]:
        """A Deployment with as many pods on one node as on the other, if that can be had."""
        made = deployment(name, replicas)
        made["spec"]["template"]["spec"] |= {
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {"app": name}},
                }
            ],
            **pod,
        }
        return made

    def running_on(self, house: House, name: str, replicas: int) -> bool:
        pods = self.staying(name)
        return len(pods) == replicas and all(is_ready(p) and p["spec"]["nodeName"] == house.names.node for p in pods)

    def remove(self, *names: str) -> None:
        for name in names:
            self.client.call("DELETE", f"/apis/apps/v1/namespaces/default/deployments/{name}")
        self.wait("the pods to go", lambda: not any(self.pods(n) for n in names))


def kill(house: House, words: str) -> None:
    """SIGKILL, and wait until they are dead."""
    found = [pid for pid, line in leftovers.processes(house.folder).items() if words in line]
    assert found, f"no {words} runs"
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    house.wait(f"{words} to be dead", lambda: not any(leftovers.alive(pid) for pid in found))


def alive(pids: Pids) -> set[int]:
    return {pid for found in pids.values() for pid in found if leftovers.alive(pid)}


@pytest.fixture(scope="module")
def homes() -> Iterator[Homes]:
    with a_house(hub_settings=SETTINGS) as first, a_further_node(first) as other:
        hub = tomllib.loads(first.hub_toml.read_text())
        it = Homes(first, other, Line(hub["broker_port"]))
        it.lose(other)
        with other.node_toml.open("a") as file:
            file.write(f'[uplink.options]\nport = "{it.line.port}"\n')
        other.start_node()
        it.wait("both nodes", lambda: len(it.client.call("GET", "/api/v1/nodes")["items"]) == 2)
        for house in (first, other):
            it.until_back(house)
        yield it
        it.line.close()


def test_a_node_lost_and_back_its_pods_move_and_its_old_ones_stop_and_nothing_else_is_touched(homes: Homes) -> None:
    first, other = homes.first, homes.other
    apply_and_wait(first, homes.spread("mover", 4))
    bound = {"nodeSelector": {"kubernetes.io/hostname": other.names.node}, "tolerations": NEVER_LEAVES}
    stays = deployment("stays")
    stays["spec"]["template"]["spec"] |= bound
    apply_and_wait(first, stays)
    homes.wait("pods on both", lambda: len(homes.on(other, "mover")) == 2)
    neighbours, old, kept = homes.pids(first, "mover"), homes.pids(other, "mover"), homes.pids(other, "stays")
    print("before:", f"{neighbours=} {old=} {kept=}")

    homes.lose(other)
    homes.until_lost(other)
    ready = homes.readiness(other)
    assert ready["reason"] == "NodeUnreachable"
    assert "lost its connection to the broker, which was noticed at 20" in ready["message"]
    assert not any(is_ready(p) for p in homes.on(other, "mover"))
    homes.wait("the pods to have moved", lambda: homes.running_on(first, "mover", 4))
    assert ("node.kubernetes.io/unreachable", "NoExecute") in homes.taints(other)
    leaving = [p for p in homes.pods("mover") if p["metadata"].get("deletionTimestamp")]
    assert sorted(p["metadata"]["name"] for p in leaving) == sorted(old)
    for pod in leaving:
        [target] = [c for c in pod["status"]["conditions"] if c["type"] == "DisruptionTarget"]
        assert target["reason"] == "DeletionByTaintManager"
        assert pod["status"]["phase"] == "Running"
    assert {e["involvedObject"]["name"] for e in homes.events("TaintManagerEviction")} == set(old)
    moved = {n: p for n, p in homes.pids(first, "mover").items() if n not in neighbours}
    assert len(moved) == 2
    assert all(alive({n: p}) for n, p in old.items())  # nobody could tell them; nothing of the node was touched
    print("while it is away:", f"{moved=} {old=} {kept=}")

    other.start_node()
    homes.wait("the old pods' processes to end", lambda: not alive(old))
    homes.wait("their objects to go", lambda: len(homes.pods("mover")) == 4)
    homes.until_back(other)
    print("back:", f"{homes.pids(first, 'mover')=} {homes.pids(other, 'mover')=} {homes.pids(other, 'stays')=}")
    assert homes.pids(first, "mover") == neighbours | moved
    assert homes.pids(other, "stays") == kept
    homes.wait("who stayed to be ready", lambda: all(map(is_ready, homes.staying("stays"))))
    homes.remove("mover", "stays")


def test_a_node_that_is_back_before_its_pods_lose_patience_has_none_of_them_touched(homes: Homes) -> None:
    patient = [{**NEVER_LEAVES[0], "tolerationSeconds": 3600}]
    apply_and_wait(homes.first, homes.spread("patient", 4, tolerations=patient))
    before = {h.names.node: homes.pids(h, "patient") for h in (homes.first, homes.other)}
    assert len(before[homes.other.names.node]) == 2
    for _ in range(2):
        homes.lose(homes.other)
        homes.until_lost(homes.other)
        homes.wait("the taints", lambda: len(homes.taints(homes.other)) == 2)
        assert len(homes.staying("patient")) == 4
        homes.other.start_node()
        homes.until_back(homes.other)
        homes.wait("all of them ready", lambda: all(map(is_ready, homes.staying("patient"))))
    assert before == {h.names.node: homes.pids(h, "patient") for h in (homes.first, homes.other)}
    assert all(c["restartCount"] == 0 for p in homes.pods("patient") for c in p["status"]["containerStatuses"])
    homes.remove("patient")


def test_a_node_whose_line_was_cut_stops_what_has_moved_with_the_first_exchange(homes: Homes) -> None:
    ends_at_once = "trap 'exit 0' TERM; while :; do sleep 0.01; done"
    cut = homes.spread("cut", 4)
    cut["spec"]["template"]["spec"]["containers"][0]["command"] = ["/bin/sh", "-c", ends_at_once]
    apply_and_wait(homes.first, cut)
    apply_and_wait(homes.first, homes.spread("patient", 2, tolerations=NEVER_LEAVES))
    roots = {n: p[:1] for n, p in homes.pids(homes.other, "cut").items()}
    kept = homes.pids(homes.other, "patient")
    assert (len(roots), len(kept)) == (2, 1)
    homes.line.cut()
    homes.until_lost(homes.other)
    homes.wait("the pods to have moved", lambda: homes.running_on(homes.first, "cut", 4))
    assert len(alive(roots)) == 2
    homes.line.mend()
    homes.wait("the old pods' processes to end", lambda: not alive(roots))
    print(f"from the first byte to the end of the old pods: {time.monotonic() - homes.line.mended_at:.3f} s")
    homes.until_back(homes.other)
    homes.wait("their objects to go", lambda: len(homes.pods("cut")) == 4)
    assert homes.pids(homes.other, "patient") == kept
    homes.remove("cut", "patient")


def test_a_node_that_comes_back_while_the_hub_is_away_stops_what_has_moved(homes: Homes) -> None:
    apply_and_wait(homes.first, homes.spread("orphan", 2))
    old = homes.pids(homes.other, "orphan")
    assert len(old) == 1
    homes.lose(homes.other)
    homes.wait("the pod to have moved", lambda: homes.running_on(homes.first, "orphan", 2))
    kept = {n: p for n, p in homes.pids(homes.first, "orphan").items() if n not in old}
    kill(homes.first, "cloudlink.hub")  # the broker lives on, and has what the hub said last
    homes.other.start_node()
    homes.wait("the old pod's processes to end", lambda: not alive(old))
    assert alive(kept) == {pid for found in kept.values() for pid in found}
    homes.first.start_hub()
    homes.wait("its object to go", lambda: len(homes.pods("orphan")) == 2)
    homes.until_back(homes.other)
    assert homes.pids(homes.first, "orphan") == kept
    homes.remove("orphan")


def test_a_hub_and_broker_that_start_anew_move_nothing_of_nodes_that_are_there(homes: Homes) -> None:
    apply_and_wait(homes.first, homes.spread("calm", 4))
    before = {h.names.node: homes.pids(h, "calm") for h in (homes.first, homes.other)}
    kill(homes.first, "mosquitto")
    kill(homes.first, "cloudlink.hub")
    homes.first.start_hub()
    begun = time.monotonic()
    homes.wait("the hub to have listened for long enough", lambda: time.monotonic() > begun + GRACE + PATIENCE)
    assert all(homes.readiness(h)["status"] == "True" for h in (homes.first, homes.other))
    assert before == {h.names.node: homes.pids(h, "calm") for h in (homes.first, homes.other)}
    homes.remove("calm")


def test_a_node_that_died_while_the_hub_was_away_is_noticed_by_its_silence(homes: Homes) -> None:
    apply_and_wait(homes.first, homes.spread("quiet", 2))
    old = homes.pids(homes.other, "quiet")
    kill(homes.first, "cloudlink.hub")
    kill(homes.first, "mosquitto")  # without telling anybody's last will
    homes.lose(homes.other)
    homes.first.start_hub()
    homes.until_lost(homes.other)
    assert homes.readiness(homes.other)["reason"] == "NodeStatusUnknown"
    homes.wait("the pods to have moved", lambda: homes.running_on(homes.first, "quiet", 2))
    assert homes.readiness(homes.first)["status"] == "True"
    homes.other.start_node()
    homes.wait("the old pod's processes to end", lambda: not alive(old))
    homes.until_back(homes.other)
    homes.remove("quiet")


def test_a_pod_deleted_by_force_on_a_lost_node_is_stopped_when_it_is_back_also_if_the_node_was_deleted(
    homes: Homes,
) -> None:
    apply_and_wait(homes.first, homes.spread("forced", 4, tolerations=NEVER_LEAVES))
    old = homes.pids(homes.other, "forced")
    first, second = sorted(old)
    homes.lose(homes.other)
    homes.until_lost(homes.other)
    homes.client.call("DELETE", f"/api/v1/namespaces/default/pods/{first}?gracePeriodSeconds=0")
    homes.wait("its replacement", lambda: len(homes.staying("forced")) == 4)
    homes.client.call("DELETE", f"/api/v1/nodes/{homes.other.names.node}")
    homes.wait("all to have moved", lambda: homes.running_on(homes.first, "forced", 4))
    assert second not in {p["metadata"]["name"] for p in homes.pods("forced")}
    assert alive(old)
    homes.other.start_node()
    homes.wait("the old pods' processes to end", lambda: not alive(old))
    homes.until_back(homes.other)
    homes.remove("forced")
