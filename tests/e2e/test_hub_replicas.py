"""Three hubs as processes on one real PostgreSQL and one real mosquitto: any answers, one leads, killed ones are
replaced; nothing is lost, doubled, or told twice."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli.client import HubClient
from cloudlink.cli.leftovers import processes
from edged.errors import EdgedError
from tests.ports import free_port
from tests.postgres_lab import Cluster

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
PODS = "/api/v1/namespaces/default/pods"
WEB = "/apis/apps/v1/namespaces/default/deployments/web"


def wait(true: Callable[[], Any], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


class Member:
    """One of the hubs."""

    def __init__(self, folder: Path, name: str, database: str, ports: tuple[int, int]) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.port = free_port()
        self.toml = self.folder / "hub.toml"
        self.toml.write_text(
            f'data_dir = "{self.folder / "hub"}"\nfleet = "lab"\nhost = "127.0.0.1"\nport = {self.port}\n'
            f'database = "{database}"\nbroker_url = "mqtts://127.0.0.1:{ports[1]}"\n'
            f'broker_host = "127.0.0.1"\nbroker_port = {ports[0]}\n'
        )
        self.kubeconfig = self.folder / "kubeconfig"
        self.process: subprocess.Popen[bytes] | None = None

    def call(self, *words: str) -> str:
        command = [sys.executable, "-m", "cloudlink.hub", *words, "--config", str(self.toml)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        with (self.folder / "log").open("wb") as log:  # anew: what an earlier life said is not this one's
            command = [sys.executable, "-m", "cloudlink.hub", "run", "--config", str(self.toml)]
            self.process = subprocess.Popen(command, cwd=CHECKOUT, stdout=log, stderr=log)
        wait(lambda: self.answers(), self.log)

    @property
    def client(self) -> HubClient:
        return HubClient(self.kubeconfig, timeout=10.0)

    def answers(self) -> bool:
        try:
            if not self.kubeconfig.exists():
                self.call("kubeconfig", "--output", str(self.kubeconfig))
            self.client.call("GET", "/readyz")
        except (EdgedError, AssertionError):
            return False
        return True

    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def leads(self) -> bool:
        told = [line for line in self.log().splitlines() if "this hub leads" in line or "no longer leads" in line]
        return bool(self.process and self.process.poll() is None and told and "this hub leads" in told[-1])

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(PATIENCE)


class Fleet:
    """:ivar members: hubs, the first of which has made the keys of all."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        ports = free_port(), free_port()
        self.members = [Member(folder, f"hub{i}", database, ports) for i in range(3)]
        first = self.members[0]
        first.call("broker-files", str(folder / "broker"), "--name", "127.0.0.1", "--hub-listener", str(ports[1]))
        with (folder / "broker.log").open("wb") as log:
            command = ["mosquitto", "-c", str(folder / "broker/mosquitto.conf")]
            path = f"{os.environ['PATH']}:/usr/sbin"
            self.broker = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": path})

    def start(self) -> None:
        first, *others = self.members
        first.start()
        keys = self.folder / "keys"
        first.call("keys", "export", str(keys))
        for member in others:
            member.call("keys", "import", str(keys))
            member.start()

    @property
    def leader(self) -> Member:
        wait(lambda: sum(m.leads for m in self.members) == 1, lambda: "\n".join(m.log() for m in self.members))
        return next(m for m in self.members if m.leads)

    def close(self) -> None:
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                member.kill()
        self.broker.kill()
        self.broker.wait()
        for pid in processes(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def fleet(tmp_path: Path, postgresql: Cluster) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, postgresql.database())
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.close()


def deployment(replicas: int) -> dict[str, Any]:
    labels = {"app": "web"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "demo:1"}]},
            },
        },
    }


class Follower(threading.Thread):
    """Watches pods at one hub, as a client would: from a revision on, and again from where it was."""

    def __init__(self, member: Member, since: str) -> None:
        super().__init__(daemon=True)
        self.member, self.since = member, since
        self.events: list[tuple[str, str, int]] = []
        self.gone = 0
        self._over = False
        self.start()

    def run(self) -> None:
        while not self._over:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self._watch()

    def _watch(self) -> None:
        client = self.member.client
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.member.port, timeout=2.0, context=context)
        try:
            headers = {"Authorization": f"Bearer {client._token}"}
            connection.request("GET", f"{PODS}?watch=1&resourceVersion={self.since}", headers=headers)
            for line in connection.getresponse():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    self.gone += 1
                    return
                meta = event["object"]["metadata"]
                self.since = meta["resourceVersion"]
                self.events.append((event["type"], meta["name"], int(self.since)))
        finally:
            connection.close()

    def end(self) -> None:
        self._over = True
        self.join(PATIENCE)


def names(member: Member) -> list[str]:
    pods = member.client.call("GET", PODS)["items"]
    return [p["metadata"]["name"] for p in pods if not p["metadata"].get("deletionTimestamp")]


def test_any_hub_answers_with_what_was_acknowledged_by_another(fleet: Fleet) -> None:
    clients = [m.client for m in fleet.members]
    for i in range(30):
        one, other = clients[i % 3], clients[(i + 1) % 3]
        made = one.call(
            "POST",
            "/api/v1/namespaces/default/configmaps",
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{i}"}, "data": {"n": str(i)}},
        )
        assert other.call("GET", f"/api/v1/namespaces/default/configmaps/c{i}") == made
    lists = [c.call("GET", "/api/v1/configmaps") for c in clients]
    assert [c["metadata"]["resourceVersion"] for c in lists] == [lists[0]["metadata"]["resourceVersion"]] * 3
    assert len(lists[0]["items"]) == 30


def test_a_leader_killed_while_a_deployment_scales_is_replaced_and_no_pod_is_lost_or_doubled(fleet: Fleet) -> None:
    for round_, replicas in enumerate((150, 40)):
        leader = fleet.leader
        others = [m for m in fleet.members if m is not leader]
        since = others[0].client.call("GET", PODS)["metadata"]["resourceVersion"]
        followers = [Follower(m, since) for m in others]
        if round_ == 0:
            others[0].client.call("POST", "/apis/apps/v1/namespaces/default/deployments", deployment(replicas))
        else:
            others[1].client.call("PUT", WEB, deployment(replicas))
        leader.kill()
        killed = time.monotonic()
        successor = fleet.leader
        took = time.monotonic() - killed
        print(f"leader replaced after {took:.2f} s")
        assert successor is not leader
        wait(lambda: len(names(others[0])) == replicas, lambda: f"{names(others[0])}\n{successor.log()}")  # noqa: B023
        rs = others[1].client.call("GET", "/apis/apps/v1/namespaces/default/replicasets")["items"]
        assert len(rs) == 1
        time.sleep(0.5)  # whatever is still wrong would show itself now
        assert sorted(names(others[0])) == sorted(names(others[1])) == sorted(set(names(others[0])))
        assert len(names(others[1])) == replicas
        end = int(others[0].client.call("GET", PODS)["metadata"]["resourceVersion"])
        wait(lambda: followers[0].events[-1:] == followers[1].events[-1:], lambda: str(followers[0].events[-1:]))  # noqa: B023
        for follower in followers:
            follower.end()
            revisions = [r for _, _, r in follower.events]
            assert revisions == sorted(set(revisions))
            assert follower.gone == 0
            assert revisions[-1] <= end
        assert followers[0].events == followers[1].events
        leader.start()
    assert len(names(fleet.members[0])) == 40


def test_a_database_that_is_away_is_told_with_retry_after_and_all_hubs_live_on(
    fleet: Fleet, postgresql: Cluster
) -> None:
    member = fleet.members[0]
    postgresql.stop()
    try:
        context = ssl._create_unverified_context()
        answers = {}
        for path in (PODS, f"{PODS}?resourceVersion=0", "/readyz", "/healthz"):
            connection = http.client.HTTPSConnection("127.0.0.1", member.port, timeout=10.0, context=context)
            connection.request("GET", path, headers={"Authorization": f"Bearer {member.client._token}"})
            response = connection.getresponse()
            answers[path] = response.status, response.headers.get("retry-after"), response.read()
            connection.close()
        assert answers[PODS][0] == 503
        assert int(answers[PODS][1] or 0) >= 1
        assert json.loads(answers[PODS][2])["reason"] == "ServiceUnavailable"
        assert answers[f"{PODS}?resourceVersion=0"][0] == 200  # content with what this hub knows
        assert answers["/readyz"][0] == 500  # as kube-apiserver says that it is not ready
        assert answers["/healthz"][0] == 200
    finally:
        postgresql.start()
    for each in fleet.members:
        wait(each.answers, each.log)
        assert each.process is not None
        assert each.process.poll() is None
    assert fleet.leader.client.call("GET", PODS)["items"] == []


def test_a_leader_that_stands_still_is_replaced_and_obeys_when_it_goes_on(fleet: Fleet) -> None:
    leader = fleet.leader
    others = [m for m in fleet.members if m is not leader]
    assert leader.process is not None
    leader.process.send_signal(signal.SIGSTOP)
    try:
        # The server ends a session that it hears nothing of; only then may another hub lead.
        wait(lambda: sum(m.leads for m in others) == 1, lambda: "\n".join(m.log() for m in others))
        others[0].client.call("POST", "/apis/apps/v1/namespaces/default/deployments", deployment(20))
        wait(lambda: len(names(others[1])) == 20, lambda: str(names(others[1])))
    finally:
        leader.process.send_signal(signal.SIGCONT)
    wait(lambda: "no longer leads" in leader.log() and leader.answers(), leader.log)
    assert sum(m.leads for m in fleet.members) == 1
    assert sorted(names(leader)) == sorted(names(others[0]))
    assert len(names(leader)) == 20
