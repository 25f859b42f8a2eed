"""A node without a hub and a private registry: a pod's image comes with its own login, and survives power cuts."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edged.images.store import ImageStore
from edged.model import Container, Desired, Pod, PullPolicy
from tests.fakes import registries
from tests.fakes.registries import Link, TokenServer, docker_registry
from tests.houses import unique_names

pytestmark = [pytest.mark.root, registries.needs_registry]
CHECKOUT = Path(__file__).parents[2]
PATIENCE = 180.0
USER, PASSWORD = "bob", "s3cret-of-bob"


class Board:
    """One `edged run` with a desired document in a file."""

    def __init__(self, folder: Path) -> None:
        self.names = unique_names()
        self.state, self.run_dir, self.file = folder / "state", folder / "run", folder / "node.toml"
        self.file.write_text(
            f'name = "board"\nstate_dir = "{self.state}"\nrun_dir = "{self.run_dir}"\n'
            f'cgroup_parent = "{self.names.cgroup}"\n[network]\nbridge = "{self.names.bridge}"\n'
            f'pod_cidr = "{self.names.subnet}"\nnft_table = "{self.names.table}"\nspares = 0\n[images]\nattempts = 2\n'
        )
        self.state.mkdir()
        self.log = folder / "log"
        self._daemon: subprocess.Popen[bytes] | None = None

    def edged(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edged", *words, "--config", str(self.file)]
        return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)

    def want(self, desired: Desired) -> None:
        (self.state / "desired.json").write_bytes(msgspec.json.encode(desired))

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "edged", "run", "--config", str(self.file)]
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log, cwd=CHECKOUT)

    def kill(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def cut_the_power(self) -> None:
        """Nothing runs any more, memory is empty, and what was written belongs to an earlier boot."""
        self.kill()
        assert self.edged("teardown", "--yes").returncode == 0
        shutil.rmtree(self.run_dir)
        index = self.state / "images" / "index.json"
        content = json.loads(index.read_text())
        content["unsettled"] = dict.fromkeys(content["layers"], "an earlier boot")
        index.write_text(json.dumps(content))
        (self.state / "images" / "boot.json").write_text('{"boot": "an earlier boot"}')

    def wait(self, word: str) -> None:
        until(lambda: word in self.edged("status").stdout, f"{word} in the status", self)

    def end(self) -> None:
        self.kill()
        self.edged("teardown", "--yes")


def until(true: Callable[[], bool], what: str, board: Board) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            told = board.edged("status"), board.log.read_text()[-4000:]
            raise AssertionError(f"waited for {what} in vain; {told}")
        time.sleep(0.2)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path)
    try:
        yield board
    finally:
        board.end()


def wanted(reference: str, registry: str, policy: PullPolicy = PullPolicy.IF_NOT_PRESENT) -> Desired:
    main = Container("main", reference, command=("/bin/sh", "-c", "exec sleep 1d"), pull_policy=policy)
    pod = Pod("default", "p", "uid-p", containers=(main,), pull_secrets=("regcred",), termination_grace=0.0)
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    secret = {".dockerconfigjson": json.dumps({"auths": {registry: {"auth": login}}}).encode()}
    return Desired("default", "board", 1, pods=(pod,), secrets={"default/regcred": msgspec.json.encode(secret)})


@contextlib.contextmanager
def private_registry(folder: Path) -> Iterator[str]:
    """The probe image at x:1, behind tokens."""
    archive = folder / "probe.tar"
    build = [sys.executable, CHECKOUT / "images" / "build.py", "probe", "--output", archive]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    tokens = TokenServer(folder / "t", USER, PASSWORD)
    with tokens, docker_registry(folder / "r", auth=tokens.registry_auth) as address:
        copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", f"{USER}:{PASSWORD}"]
        subprocess.run([*copy, f"oci-archive:{archive}", f"docker://{address}/x:1"], check=True)
        yield address


def test_a_private_image_comes_runs_and_is_mended_after_a_power_cut(board: Board, tmp_path: Path) -> None:
    with private_registry(tmp_path) as address:
        board.want(wanted(f"{address}/x:1", address))
        board.start()
        board.wait("Running")
        image = ImageStore(board.state / "images").resolve(f"{address}/x:1")
        assert image is not None
        board.cut_the_power()
        shell = Path(image.layers[0], "bin/busybox")
        size = shell.stat().st_size
        shell.write_bytes(b"")
        board.start()
        board.wait("Running")
        assert shell.stat().st_size == size
    assert PASSWORD not in board.log.read_text()


def test_after_a_power_cut_a_node_needs_no_registry_to_start_what_it_has(board: Board, tmp_path: Path) -> None:
    with private_registry(tmp_path) as address:
        board.want(wanted(f"{address}/x:1", address, PullPolicy.ALWAYS))
        board.start()
        board.wait("Running")
        board.cut_the_power()
    board.start()
    board.wait("Running")


def test_a_daemon_killed_in_the_middle_of_a_pull_loses_nothing(board: Board, tmp_path: Path) -> None:
    with private_registry(tmp_path) as address, Link(address) as link:
        more = f'[images.registries."{address}"]\nmirrors = ["http://{link.address}"]\n'
        board.file.write_text(board.file.read_text() + more)
        link.per_second = 300_000
        board.want(wanted(f"{address}/x:1", link.address))
        board.start()
        partial = board.state / "images" / "partial"
        until(lambda: sum(f.stat().st_size for f in partial.glob("?" * 64)) > 300_000, "a part of the image", board)
        board.kill()
        link.per_second = 0
        board.start()
        board.wait("Running")
        whole = sum(f.stat().st_size for f in (tmp_path / "r" / "data").rglob("data"))
        assert link.passed < whole + 150_000, "what had come before was fetched again"
