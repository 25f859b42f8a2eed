"""What is going on when the power goes. A deed is begun at home, and the node is in the middle of it at the cut."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cloudlink.cli.resources import apply
from tests.vm.powercut.board import Board
from tests.vm.powercut.home import Home, deployment, fine_layer, large_layer, secret

# Both run on when we have hung up, as Ansible's tasks do when the line breaks.
UPGRADE = """
cd /opt/edged/versions
current="$(basename "$(readlink ../current)")"
other="$(ls -d */.whole | cut -d/ -f1 | grep -v -x -F "$current" | shuf -n 1)"
setsid sh -c "/opt/edged/bin/edged-version switch $other && systemctl restart edged" </dev/null >/dev/null 2>&1 &
"""
INSTALL = """
cd /opt/edged/bin
setsid sh -c './edged-version install /var/tmp/wheels && ./edged-version prune --keep 2' </dev/null >/dev/null 2>&1 &
"""


class Scene(NamedTuple):
    """:ivar number: of the cut, so that nothing comes twice. :ivar wheels: a folder of tools/wheelhouse.py."""

    home: Home
    board: Board
    node: str
    number: int
    dice: random.Random
    wheels: Path

    @property
    def base(self) -> str:
        return f"{self.home.registry}/base:1"


def settle_in(scene: Scene) -> None:
    """What the node always has: a pod that stays as it is, one with a secret, and those that deeds are done to."""
    home, node = scene.home, scene.node
    rotate(scene)
    volume = {"volumes": [{"name": "secret", "secret": {"secretName": f"secret-{node}"}}]}
    for name, pod in (("steady", None), ("keeper", volume), ("changing", None), ("pulled", None)):
        apply(home.client, deployment(f"{name}-{node}", node, scene.base, pod=pod))
    apply(home.client, deployment(f"deployed-{node}", node, scene.base, replicas=0))


def push_large(scene: Scene) -> None:
    layers = large_layer(scene.dice, 8), large_layer(scene.dice, 4)
    scene.home.an_image(f"image-{scene.node}:{scene.number}", *layers)


def push_fine(scene: Scene) -> None:
    scene.home.an_image(f"image-{scene.node}:{scene.number}", fine_layer(scene.dice, 1500))


def run_pushed(scene: Scene) -> None:
    """A pod that needs an image which isn't there yet."""
    image = f"{scene.home.registry}/image-{scene.node}:{scene.number}"
    apply(scene.home.client, deployment(f"pulled-{scene.node}", scene.node, image, revision=str(scene.number)))


def deploy(scene: Scene) -> None:
    """Pods come (or go, every other time) whose image is there."""
    path = f"/apis/apps/v1/namespaces/default/deployments/deployed-{scene.node}"
    there = int(scene.home.client.call("GET", path)["spec"].get("replicas", 0))
    replicas = 0 if there else 3
    apply(scene.home.client, deployment(f"deployed-{scene.node}", scene.node, scene.base, replicas=replicas))


def update(scene: Scene) -> None:
    """A pod is replaced by its next revision."""
    apply(
        scene.home.client,
        deployment(f"changing-{scene.node}", scene.node, scene.base, revision=str(scene.number)),
    )


def rotate(scene: Scene) -> None:
    """A secret gets other content, which running pods see without a restart."""
    apply(scene.home.client, secret(f"secret-{scene.node}", f"version-{scene.number}"))


def nothing(scene: Scene) -> None:
    """No preparations."""


def bring_wheels(scene: Scene) -> None:
    """Those of another version, for it differs in a comment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "wheels"
        shutil.copytree(scene.wheels, folder)
        requirements = folder / "requirements.txt"
        requirements.write_text(f"# build {scene.node} {scene.number}\n{requirements.read_text()}")
        lines = [
            f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n"
            for f in sorted((*folder.glob("*.whl"), requirements), key=lambda f: f.name)
        ]
        version = (folder / "VERSION").read_text().strip().rpartition("-")[0]
        (folder / "VERSION").write_text(f"{version}-{hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}\n")
        scene.board.send_tree(folder.parent, ["wheels"], "/var/tmp/wheels.new")
    scene.board.run(
        "rm -rf /var/tmp/wheels && mv /var/tmp/wheels.new/wheels /var/tmp/wheels && rmdir /var/tmp/wheels.new"
    )


def install(scene: Scene) -> None:
    """A new version of the software is made on the board."""
    scene.board.run(INSTALL)


def upgrade(scene: Scene) -> None:
    """Another version than the current one is put on trial, and the daemon is started anew."""
    scene.board.run(UPGRADE)


class Deed(NamedTuple):
    """:ivar window: seconds, on a machine that boots in 18, in which it happens. :ivar prepare: before, at home."""

    begin: Callable[[Scene], None]
    window: float
    prepare: Callable[[Scene], None] = nothing


DEEDS = {
    "pull": Deed(run_pushed, 10.0, push_large),  # few large files: the time goes into fetching
    "unpack": Deed(run_pushed, 12.0, push_fine),  # many small ones
    "deploy": Deed(deploy, 7.0),
    "update": Deed(update, 6.0),
    "rotate": Deed(rotate, 3.0),
    "install": Deed(install, 25.0, bring_wheels),
    "upgrade": Deed(upgrade, 12.0),
}
