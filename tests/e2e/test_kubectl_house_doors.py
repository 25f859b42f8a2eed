"""Every kubectl through a whole house: client, hub, broker, node, container."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cloudlink.cli.house import House
from tests.houses import a_house, apply_and_wait, deployment
from tests.kubectl_lab import programs

pytestmark = [pytest.mark.kubectl, pytest.mark.root]

WAIT = 60
COMMAND = "echo hello > /tmp/page; httpd -p 127.0.0.1:8080 -h /tmp; echo started; exec sleep 1d"


class Client:
    def __init__(self, house: House, binary: str, pod: str, environment: Mapping[str, str]) -> None:
        self.house, self.binary, self.pod, self.environment = house, binary, pod, environment

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [self.binary, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=WAIT, env=dict(self.environment))

    def ok(self, *arguments: str, stdin: bytes = b"") -> bytes:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, str]]:
    with a_house() as made:
        (pod,) = apply_and_wait(made, deployment("web", 1, COMMAND))
        yield made, pod["metadata"]["name"]


@pytest.fixture(params=programs(), ids=lambda path: Path(path).name)
def client(house: tuple[House, str], request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    environment = os.environ | {"KUBECONFIG": str(house[0].kubeconfig), "HOME": str(tmp_path)}
    return Client(house[0], request.param, house[1], environment)


def test_commands_logs_and_files_go_all_the_way(client: Client, tmp_path: Path) -> None:
    pod = client.pod
    done = client.run("exec", pod, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.returncode) == (b"out\n", 7)
    assert done.stderr.startswith(b"err\n")
    much = os.urandom(4 << 20)
    told = client.ok("exec", "-i", pod, "--", "md5sum", stdin=much)
    assert told.split()[0].decode() == hashlib.md5(much).hexdigest()
    assert client.ok("logs", "deployment/web") == b"started\n"
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(much)
    client.ok("cp", str(there), f"{pod}:/tmp/{there.parent.name}")
    client.ok("cp", f"{pod}:/tmp/{there.parent.name}", str(back))
    assert back.read_bytes() == much


def test_ports_are_reached_inside_of_the_pods_network(client: Client) -> None:
    command = [client.binary, "port-forward", client.pod, ":8080"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(client.environment)) as process:
        assert process.stdout is not None
        told = process.stdout.readline().decode()
        port = re.search(r"127\.0\.0\.1:(\d+) ", told)
        try:
            assert port is not None, told
            for _ in range(3):
                with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/page", timeout=WAIT) as answer:
                    assert answer.read() == b"hello\n"
        finally:
            process.terminate()


def test_what_the_node_uses_is_told_by_the_node(client: Client) -> None:
    (line,) = client.ok("top", "nodes", "--no-headers").decode().splitlines()
    assert re.search(r"^\S+ +\d+m +\d+% +[1-9]\d*Mi +\d+%", line)
    assert client.ok("top", "pods", "--no-headers").decode().split()[0] == client.pod
