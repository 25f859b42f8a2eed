"""`edged image` and `edgectl image`: import, list, pull, remove, prune, verify, with the node's own settings."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.images.cage import BY_HAND, Cage
from edged.images.store import ImageStore
from edged.model import Container, Desired, Pod
from edged.store import Saved, StateStore
from tests.fakes.oci_layout import Layout, config, layer, member
from tests.fakes.registries import ScriptedRegistry

pytestmark = pytest.mark.root
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
EDGED, EDGECTL = ("edged",), ("cloudlink.cli",)


class Node:
    def __init__(self, folder: Path, more: str = "") -> None:
        self.parent = f"edged-test-commands-{uuid.uuid4().hex[:8]}"
        self.file, self.state = folder / "node.toml", folder / "state"
        run = folder / "run"
        self.file.write_text(
            f'name = "n"\nstate_dir = "{self.state}"\nrun_dir = "{run}"\ncgroup_parent = "{self.parent}"\n[images]\n'
            f"attempts = 1\n{more}"
        )
        self.images = ImageStore(self.state / "images")

    def add(self, settings: str) -> None:
        self.file.write_text(self.file.read_text() + settings)

    def run(self, *words: object, program: tuple[str, ...] = EDGED) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *program, "image", "--config", str(self.file), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    def accept(self, *references: str) -> None:
        containers = tuple(Container(f"c{n}", reference) for n, reference in enumerate(references))
        pod = Pod("default", "p", "u", containers=containers[1:], init=containers[:1])
        StateStore(self.state).save(Saved(Desired("f", "n", 1, pods=(pod,))))

    def names(self) -> list[str]:
        return sorted(r.removeprefix("localhost/") for r in self.images.references())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    deadline = time.monotonic() + 30
    for group in Cage(node.parent, 64 << 20, name=BY_HAND)._groups:
        while group.parent.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                for folder in [*group.parent.glob("*/"), group.parent]:
                    folder.rmdir()
            time.sleep(0.005)


def archive(folder: Path, name: str, size: int = 1000) -> Path:
    noise, layout = layer(member(name, random.Random(name).randbytes(size))), Layout()
    layout.name(f"localhost/{name}:1", layout.image([noise], settings=config([noise], ARCHITECTURE)))
    return layout.archive(folder / f"{name}.tar")


@pytest.mark.parametrize("program", [EDGED, EDGECTL], ids=["edged", "edgectl"])
def test_images_are_imported_listed_and_removed_with_the_nodes_own_settings(
    node: Node, tmp_path: Path, program: tuple[str, ...]
) -> None:
    done = node.run("import", archive(tmp_path, "a"), archive(tmp_path, "b"), program=program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("imported localhost/") == 2
    listed = node.run("list", program=program).stdout
    assert "localhost/a:1" in listed
    assert "on disk: 2.0 kB" in listed
    done = node.run("remove", "localhost/a:1", program=program)
    assert done.stdout == "removed localhost/a:1, 1.0 kB freed\n"
    assert node.names() == ["b:1"]
    done = node.run("remove", "localhost/a:1", program=program)
    assert done.returncode == 1
    assert "there is no image localhost/a:1 in" in done.stderr


@pytest.mark.parametrize("program", [EDGED, EDGECTL], ids=["edged", "edgectl"])
def test_prune_removes_what_no_pod_needs_and_says_how_much_was_freed(
    node: Node, tmp_path: Path, program: tuple[str, ...]
) -> None:
    node.run("import", *(archive(tmp_path, name, 50_000) for name in ("init", "main", "old", "older")))
    node.accept("localhost/init:1", "localhost/main:1")
    done = node.run("prune", "--dry-run", program=program)
    assert done.stdout == (
        "would remove localhost/old:1, 50.0 kB\nwould remove localhost/older:1, 50.0 kB\nwould free 100.0 kB\n"
    )
    assert len(node.names()) == 4
    done = node.run("prune", program=program)
    assert done.stdout == "removed localhost/old:1\nremoved localhost/older:1\n100.0 kB freed\n"
    assert node.names() == ["init:1", "main:1"]
    assert node.run("prune").stdout == "0 B freed\n"


def test_prune_also_takes_half_fetched_layers_that_nobody_wants(node: Node, tmp_path: Path) -> None:
    node.run("import", archive(tmp_path, "main"))
    node.accept("localhost/main:1")
    half = node.images.root / "partial" / ("ab" * 32)
    half.parent.mkdir()
    half.write_bytes(bytes(2000))
    assert node.run("prune", "--dry-run").stdout == "would free 2.0 kB\n"
    assert node.run("prune").stdout == "2.0 kB freed\n"
    assert not half.exists()


def test_prune_is_refused_where_nobody_knows_what_is_needed(node: Node, tmp_path: Path) -> None:
    node.run("import", archive(tmp_path, "a"))
    done = node.run("prune")
    assert done.returncode == 1
    assert "never accepted a desired state, so nobody knows which images it needs" in done.stderr
    assert node.names() == ["a:1"]


def test_a_pull_by_hand_says_in_words_how_it_goes_and_uses_the_nodes_mirrors_and_logins(
    node: Node, tmp_path: Path
) -> None:
    with ScriptedRegistry() as registry:
        part = layer(member("x", random.Random(1).randbytes(3_000_000)))
        registry.tag("1", registry.layout.image([part], [part], config([part], ARCHITECTURE)))
        docker = tmp_path / "docker.json"
        docker.write_text(json.dumps({"auths": {registry.address: {"username": "bob", "password": "s3cret"}}}))
        node.add(
            f'docker_config = "{docker}"\n[images.registries."registry.invalid"]\nmirrors = ["{registry.address}"]\n'
        )
        seen: list[str] = []

        def script(request: object) -> bool:
            authorization = request.headers.get("Authorization", "")  # type: ignore[attr-defined]
            seen.append(authorization)
            if authorization:
                return False
            request.answer(401, WWW_Authenticate='Basic realm="test"')  # type: ignore[attr-defined]
            return True

        registry.script = script
        done = node.run("pull", "registry.invalid/a:1")
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = done.stdout.splitlines()
    assert first == "registry.invalid/a:1: 1 layers to fetch, 3.0 MB"
    assert last == "registry.invalid/a:1 is here, 3.0 MB came over the network"
    assert any(one.startswith("Basic ") for one in seen)
    assert "s3cret" not in done.stdout + done.stderr


def test_verify_says_what_was_compared_and_what_is_broken(node: Node, tmp_path: Path) -> None:
    node.run("import", archive(tmp_path, "a"), archive(tmp_path, "b"))
    assert node.run("verify").stdout == "2 layers compared, 2.0 kB\n"
    image = node.images.resolve("localhost/a:1")
    assert image is not None
    Path(image.layers[0], "a").write_bytes(b"")
    assert "was damaged on the disk: a has 0 bytes instead of 1000" in node.run("verify").stdout
    assert node.images.resolve("localhost/a:1") is None


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("parallel = 9", "parallel is 9; it must be 1 to 8"),
        ("gc_target_percent = 90", "at most gc_start_percent"),
        ("memory_limit = 1000", "needs 48 MiB"),
        ("stall_seconds = 700.0", "patience_seconds above stall_seconds"),
        ('[images.registries."r"]\nmirror = "x"', "mirror"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_name(tmp_path: Path, setting: str, complaint: str) -> None:
    done = Node(tmp_path, setting + "\n").run("list")
    assert done.returncode == 1
    assert complaint in done.stderr
