"""A whole hub as a process of its own: kubectl in, a node on the real wire out, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink import node
from cloudlink.cli.client import HubClient
from cloudlink.cli.leftovers import processes
from edged.config import NodeConfig, UplinkConfig
from edged.errors import EdgedError
from tests.fakes.hub_node import PretendNode
from tests.ports import free_port
from tests.wire_lab import running, until

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 40.0

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: "demo:1", resources: {requests: {memory: MEMORY}}}
"""


class HubProcess:
    """A hub in a folder of its own; whatever it leaves is ended at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.broker_port = free_port(), free_port()
        self.toml = folder / "hub.toml"
        self.toml.write_text(
            f'data_dir = "{folder / "hub"}"\nfleet = "lab"\nhost = "127.0.0.1"\nport = {self.port}\n'
            f'broker_host = "127.0.0.1"\nbroker_port = {self.broker_port}\n'
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "hub.log").open("ab")
        with log:
            command = [sys.executable, "-m", "cloudlink.hub", "run", "--config", str(self.toml)]
            self.process = subprocess.Popen(command, cwd=CHECKOUT, stdout=log, stderr=log)
        self.wait(lambda: self.call("kubeconfig", "--output", str(self.kubeconfig)).returncode == 0)
        self.wait(self.answers)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cloudlink.hub", *words, "--config", str(self.toml)]
        return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)

    def answers(self) -> bool:
        try:
            HubClient(self.kubeconfig, timeout=2.0).call("GET", "/readyz")
        except EdgedError:
            return False
        return True

    def kubectl(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self.folder / "cache"), *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE)

    def apply(self, memory: str = "10Mi", name: str = "web") -> subprocess.CompletedProcess[str]:
        return self.kubectl("apply", "-f", "-", stdin=MANIFEST.replace("MEMORY", memory).replace("web", name))

    def wait(self, true: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, (self.folder / "hub.log").read_text()
            time.sleep(0.05)

    def kill(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGTERM)
        for pid in processes(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def join(self, name: str) -> PretendNode:
        token = self.call("token", "create", "--node", name).stdout.strip()
        identity = self.folder / name
        member = node.join(token, identity)
        settings = {"identity": str(identity)}
        config = NodeConfig(name=name, fleet=member.fleet, uplink=UplinkConfig(node.FACTORY, settings))
        return PretendNode(name, node.connect(config))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()
    assert processes(tmp_path) == {}


@contextlib.asynccontextmanager
async def joined(hub: HubProcess, name: str = "pi-1") -> AsyncIterator[PretendNode]:
    pretend = await asyncio.to_thread(hub.join, name)
    async with running(pretend.run(), name):
        yield pretend


async def kubectl_says(hub: HubProcess, wanted: str, *words: str) -> None:
    """Wait until kubectl prints this."""
    async with asyncio.timeout(PATIENCE):
        while wanted != (told := await asyncio.to_thread(hub.kubectl, *words)).stdout.strip():
            await asyncio.sleep(0.1)
            assert told is not None


AVAILABLE = ("get", "deployment", "web", "-o", "jsonpath={.status.availableReplicas}/{.status.updatedReplicas}")
READY = ("get", "node", "pi-1", "-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')


@pytest.mark.kubectl
def test_a_manifest_goes_to_the_node_and_its_status_comes_back(hub: HubProcess) -> None:
    async def scenario() -> None:
        async with joined(hub) as pretend:
            await kubectl_says(hub, "True", *READY)
            applied = await asyncio.to_thread(hub.apply)
            assert applied.returncode == 0, applied.stderr
            await kubectl_says(hub, "2/2", *AVAILABLE)
            waited = await asyncio.to_thread(hub.kubectl, "rollout", "status", "deployment/web", "--timeout=20s")
            assert "successfully rolled out" in waited.stdout
            described = await asyncio.to_thread(hub.kubectl, "describe", "deployment", "web")
            assert "ScalingReplicaSet" in described.stdout
            assert pretend.desired is not None
            assert len(pretend.desired.pods) == 2
            await asyncio.to_thread(hub.kubectl, "delete", "deployment", "web", "--timeout=20s")
            await kubectl_says(hub, "", "get", "pods", "-o", "name")

    asyncio.run(scenario())


@pytest.mark.kubectl
def test_rollouts_are_undone_and_scaled_with_kubectl(hub: HubProcess) -> None:
    async def scenario() -> None:
        async with joined(hub) as pretend:
            await kubectl_says(hub, "True", *READY)
            await asyncio.to_thread(hub.apply)
            await kubectl_says(hub, "2/2", *AVAILABLE)
            await asyncio.to_thread(hub.kubectl, "set", "image", "deployment/web", "main=demo:2")
            done = await asyncio.to_thread(hub.kubectl, "rollout", "status", "deployment/web", "--timeout=20s")
            assert done.returncode == 0, done.stdout + done.stderr
            undone = await asyncio.to_thread(hub.kubectl, "rollout", "undo", "deployment/web")
            assert undone.returncode == 0, undone.stderr
            done = await asyncio.to_thread(hub.kubectl, "rollout", "status", "deployment/web", "--timeout=20s")
            assert done.returncode == 0, done.stdout + done.stderr
            scaled = await asyncio.to_thread(hub.kubectl, "scale", "deployment/web", "--replicas=4")
            assert scaled.returncode == 0, scaled.stderr
            await kubectl_says(hub, "4/4", *AVAILABLE)
            assert pretend.desired is not None
            assert {c.image for p in pretend.desired.pods for c in p.containers} == {"demo:1"}

    asyncio.run(scenario())


@pytest.mark.kubectl
def test_what_no_node_could_run_is_refused_with_both_numbers(hub: HubProcess) -> None:
    async def scenario() -> None:
        async with joined(hub):
            await kubectl_says(hub, "True", *READY)
            refused = await asyncio.to_thread(hub.apply, "4Gi")
            assert refused.returncode != 0
            assert "needs 4 GiB, the largest node has 900 MiB allocatable" in refused.stderr
            assert "spec.template.spec.containers[0].resources.requests.memory" in refused.stderr

    asyncio.run(scenario())


@pytest.mark.kubectl
def test_a_killed_hub_comes_back_to_what_it_had(hub: HubProcess) -> None:
    async def scenario() -> None:
        async with joined(hub) as pretend:
            await kubectl_says(hub, "True", *READY)
            await asyncio.to_thread(hub.apply)
            await kubectl_says(hub, "2/2", *AVAILABLE)
            generation = pretend.generation
            hub.kill(signal.SIGKILL)
            await asyncio.to_thread(hub.start)
            await kubectl_says(hub, "2/2", *AVAILABLE)
            await kubectl_says(hub, "True", *READY)
            scaled = await asyncio.to_thread(hub.kubectl, "scale", "deployment/web", "--replicas=3")
            assert scaled.returncode == 0, scaled.stderr
            await kubectl_says(hub, "3/3", *AVAILABLE)
            assert pretend.generation == generation + 1
            assert pretend.inbox.refusals == 0

    asyncio.run(scenario())


@pytest.mark.kubectl
def test_a_machine_that_joins_anew_gets_its_secrets_sealed_for_its_new_key(hub: HubProcess) -> None:
    async def scenario() -> None:
        async with joined(hub) as first:
            await kubectl_says(hub, "True", *READY)
            await asyncio.to_thread(hub.kubectl, "create", "secret", "generic", "key", "--from-literal=k=v1")
            manifest = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "lone"},
                "spec": {
                    "containers": [{"name": "main", "image": "demo:1"}],
                    "volumes": [{"name": "s", "secret": {"secretName": "key"}}],
                },
            }
            await asyncio.to_thread(hub.kubectl, "apply", "-f", "-", stdin=json.dumps(manifest))
            await until(lambda: first.desired is not None and first.desired.secrets)
            assert first.desired is not None
            assert first.uplink.unseal("default/key", first.desired.secrets["default/key"]) == {"k": b"v1"}
        (hub.folder / "pi-1").rename(hub.folder / "old")
        async with joined(hub) as second:
            await until(lambda: second.desired is not None and second.desired.secrets)
            assert second.desired is not None
            assert second.uplink.unseal("default/key", second.desired.secrets["default/key"]) == {"k": b"v1"}

    asyncio.run(scenario())


def test_it_ends_on_sigterm_and_leaves_no_broker_behind(hub: HubProcess) -> None:
    assert hub.kill(signal.SIGTERM) == 0
    assert processes(hub.folder) == {}


def test_a_second_hub_in_the_same_folder_is_told_so(hub: HubProcess) -> None:
    second = hub.call("run")
    assert second.returncode == 1
    assert second.stderr == f"edgehub: another hub works in {hub.folder / 'hub'}; stop it, or name another data_dir\n"


def test_a_port_that_is_taken_is_one_line(hub: HubProcess) -> None:
    for flag, port in (("--port", hub.broker_port), ("--broker-port", hub.port)):
        free = ("--port", str(free_port())) if flag != "--port" else ("--broker-port", str(free_port()))
        second = hub.call("run", "--data-dir", str(hub.folder / "other"), flag, str(port), *free)
        assert second.returncode == 1
        assert len(second.stderr.splitlines()) == 1
        assert f"can't listen on 127.0.0.1:{port}: Address already in use" in second.stderr


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fleet = 3", "Expected `str`, got `int` - at `$.fleet`"),
        ("colour = 'red'", "Object contains unknown field `colour`"),
        ("fleet = 'Not A Name'", "is not a DNS-1123 label"),
        ("port = 70000", "port 70000 is no TCP port"),
        ("service_network = '10.0.0.0'", ""),
        ("= broken", "Invalid"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    toml = tmp_path / "hub.toml"
    toml.write_text(text.replace("'10.0.0.0'", "'10.0.0.1/8'"))
    command = [sys.executable, "-m", "cloudlink.hub", "kubeconfig", "--config", str(toml)]
    told = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)
    assert told.returncode == 1
    assert told.stderr.startswith(f"edgehub: {toml}: ")
    assert complaint in told.stderr
    assert "Traceback" not in told.stderr


def test_the_kubeconfig_of_a_hub_that_never_ran_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cloudlink.hub", "kubeconfig", "--data-dir", str(tmp_path)]
    told = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)
    assert told.returncode == 1
    assert "start the hub once" in told.stderr
