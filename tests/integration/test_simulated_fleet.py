"""Simulated nodes against a real hub and its broker: joining, running, vanishing, and what a wrong token is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli.client import HubClient
from cloudlink.cli.house import CHECKOUT, House, environment, free_port
from edged.errors import EdgedError, PermanentError
from tests.houses import unique_names

PATIENCE = 120.0
NODES, PODS = 30, 300


class Lab:
    """A hub with its broker, without a node of its own, and simulators."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder, unique_names(), patience=PATIENCE)
        self.running: list[subprocess.Popen[bytes]] = []

    @property
    def client(self) -> HubClient:
        return HubClient(self.house.kubeconfig, timeout=30.0)

    def simulate(self, *words: str, kubeconfig: Path | None = None) -> Path:
        """A simulator that runs; the file with its lines."""
        out = self.house.folder / f"simulator-{len(self.running)}.log"
        with out.open("wb") as file:
            command = ["-m", "cloudlink.cli", "simulate", "--kubeconfig", str(kubeconfig or self.house.kubeconfig)]
            child = subprocess.Popen(
                [sys.executable, *command, "--every", "1", *words],
                cwd=CHECKOUT,
                env=environment(),
                stdout=file,
                stderr=file,
            )
        self.running.append(child)
        return out

    def end(self) -> None:
        for child in self.running:
            child.send_signal(signal.SIGTERM)
        for child in self.running:
            assert child.wait(30) == 0

    def nodes(self) -> list[dict[str, Any]]:
        return list(self.client.call("GET", "/api/v1/nodes")["items"])

    def ready_nodes(self) -> int:
        return sum(condition(n, "Ready") == "True" for n in self.nodes())

    def until(self, what: str, true: Callable[[], Any], out: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"{what}\n{out.read_text()[-2000:]}"
            time.sleep(0.1)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "house")
    lab.house.prepare_hub()
    lab.house.start_hub()
    try:
        yield lab
    finally:
        for child in lab.running:
            if child.poll() is None:
                child.kill()
                child.wait()
        lab.house.down()
        left = {kind: items for kind, items in lab.house.left().items() if items}
        assert not left, f"left behind: {left}"


def condition(obj: dict[str, Any], kind: str) -> str:
    found = [c["status"] for c in obj.get("status", {}).get("conditions", ()) if c["type"] == kind]
    return str(found[0]) if found else ""


def lines(out: Path, what: str) -> list[dict[str, Any]]:
    texts = [t for t in out.read_text().splitlines() if t.startswith("{") and t.endswith("}")]
    return [line for line in map(json.loads, texts) if line["what"] == what]


def deployment(name: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name}
    container = {
        "name": "main",
        "image": "registry.example.com/shop:1",
        "readinessProbe": {"httpGet": {"port": 80}},
        "resources": {"requests": {"memory": "8Mi"}, "limits": {"memory": "16Mi"}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    return {
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "topologySpreadConstraints": [spread]},
            },
        },
    }


def test_thirty_nodes_join_and_three_hundred_pods_run_on_them_while_some_vanish_and_return(lab: Lab) -> None:
    # About every node is away once in two minutes, for a short while.
    habits = ("--vanishings", "30", "--away", "7", "9", "--pull", "0", "0.5", "--pull-failures", "0")
    out = lab.simulate("--nodes", str(NODES), "--seed", "7", *habits)
    lab.until("all nodes have joined", lambda: sum("capacity" in n["status"] for n in lab.nodes()) == NODES, out)
    lab.client.call("POST", "/apis/apps/v1/namespaces/default/deployments", deployment("shop", PODS))

    def pods() -> list[dict[str, Any]]:
        return list(lab.client.call("GET", "/api/v1/namespaces/default/pods")["items"])

    def ran() -> bool:
        """Once running, a pod is told as Running also while its node is away."""
        return [p["status"].get("phase") for p in pods()] == PODS * ["Running"]

    lab.until("300 pods run", ran, out)
    assert len({p["spec"]["nodeName"] for p in pods()}) >= NODES * 2 // 3  # those that were there at that moment
    assert all(p["status"]["containerStatuses"][0]["containerID"].startswith("edged://") for p in pods())

    def has_gone_and_come_back() -> bool:
        found = lab.client.call("GET", "/api/v1/events")["items"]
        told: dict[str, list[str]] = {}
        for event in found:
            if event["involvedObject"]["kind"] == "Node":
                told.setdefault(event["involvedObject"]["name"], []).append(event["reason"])
        gone = {name for name, reasons in told.items() if "NodeNotReady" in reasons}
        ready = {n["metadata"]["name"] for n in lab.nodes() if condition(n, "Ready") == "True"}
        return bool(gone & ready)

    lab.until("a node is away and returns", has_gone_and_come_back, out)
    assert lines(out, "fleet")[-1]["refused"] == 0
    lab.end()


def test_the_same_seed_gives_the_same_boards_and_a_fleet_comes_back_to_its_hub(lab: Lab) -> None:
    def boards() -> dict[str, Any]:
        return {n["metadata"]["name"]: n["status"]["capacity"] for n in lab.nodes()}

    state = lab.house.folder / "fleet"
    out = lab.simulate("--nodes", "5", "--seed", "3", "--state", str(state))
    lab.until("five nodes are ready", lambda: lab.ready_nodes() == 5, out)
    before = boards()
    lab.end()
    lab.running.clear()
    lab.until("they are away", lambda: lab.ready_nodes() == 0, out)
    again = lab.simulate("--nodes", "5", "--seed", "3", "--state", str(state))
    lab.until("five nodes are ready again", lambda: lab.ready_nodes() == 5, again)
    assert boards() == before
    assert len({json.dumps(c, sort_keys=True) for c in before.values()}) > 1
    lab.end()


def test_whom_the_hub_does_not_know_is_told_what_to_do(lab: Lab) -> None:
    text = lab.house.kubeconfig.read_text()
    token = text[text.index("token:") :].split()[1]
    wrong = lab.house.folder / "wrong"
    wrong.write_text(text.replace(token, "x" * len(token)))
    out = lab.simulate("--nodes", "3", kubeconfig=wrong)
    child = lab.running.pop()
    assert child.wait(60) == 1
    said = out.read_text()
    assert said.startswith("edgectl: "), said
    assert "may not make join tokens" in said
    assert "edgehub kubeconfig" in said
    assert len(said.splitlines()) == 1
    assert lab.nodes() == []


def test_a_hub_that_is_not_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "house")
    lab.house.prepare_hub()
    lab.house.start_hub()
    config = lab.house.kubeconfig.read_text()
    lab.house.down()
    server = next(line.split()[1] for line in config.splitlines() if line.strip().startswith("server:"))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(config.replace(server, f"https://127.0.0.1:{free_port()}"))
    command = [sys.executable, "-m", "cloudlink.cli", "simulate", "--kubeconfig", str(kubeconfig), "--nodes", "2"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_settings_that_make_no_sense_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    from cloudlink.cli.__main__ import parser
    from cloudlink.cli.simulate import run

    for words, said in (
        (("--nodes", "0"), "between 1 and"),
        (("--nodes", "3", "--broker", "here"), "HOST:PORT"),
        (("--nodes", "3", "--away", "9", "3"), "--away"),
        (("--nodes", "3", "--crashes", "-1"), "--crashes"),
        (("--nodes", "3", "--pull-failures", "2"), "--pull-failures"),
    ):
        arguments = parser().parse_args(["simulate", "--kubeconfig", str(tmp_path / "none"), *words])
        with pytest.raises(PermanentError, match=said):
            run(arguments)
    with pytest.raises(EdgedError, match="does not exist"):
        run(parser().parse_args(["simulate", "--kubeconfig", str(tmp_path / "none")]))
