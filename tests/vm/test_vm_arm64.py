"""The arm64 image as it is written to a card: UEFI firmware starts it, it joins by the file on its boot partition, and
runs an arm64 workload. Emulated instruction by instruction: `make test-vm-arm64` (a quarter of an hour; more where
Debian's tree is not in .cache yet)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloudlink.cli.resources import apply
from tests.houses import deployment, pods_of
from tests.vm.fleet import Fleet
from tests.vm.hardware import Hardware
from tests.vm.image import ROOT, Image
from tests.vm.lifetime import a_machine
from tests.vm.machine import Machine

pytestmark = pytest.mark.skipif(
    os.environ.get("EDGED_VM_ARM64") != "1", reason="builds and emulates an arm64 card: make test-vm-arm64"
)
NAME = "greenhouse"
UEFI = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"  # Debian: qemu-efi-aarch64
CARD = "4G"  # larger than the image: the data partition has to grow
PATIENCE = 1500.0  # seconds for a boot that is emulated, beside others


class Card(NamedTuple):
    """A built image with a join file on it. :ivar about: what the builder says of it."""

    image: Image
    about: dict[str, Any]


def built(folder: Path, *options: str) -> dict[str, Any]:
    """Run the builder as a person would; what FILE.json says."""
    probe = folder / "probe.tar"
    python = sys.executable
    busybox = (python, os.fspath(ROOT / "images/build.py"), "probe", "--output", os.fspath(probe))
    subprocess.run([*busybox, "--arch", "arm64", "--release-only"], check=True)
    builder = (python, os.fspath(ROOT / "images/node/build.py"), "--output", os.fspath(folder / "card.img"))
    subprocess.run(["nice", *builder, "--preload", os.fspath(probe), *options], check=True)
    about: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return about


def inside(card: Card, start: int, order: str) -> str:
    """What debugfs says of one of the card's file systems."""
    done = subprocess.run(["debugfs", "-R", order, f"{card.image.disk}?offset={start}"], capture_output=True, text=True)
    return done.stdout


def write_join_file(folder: Path, about: dict[str, Any], token: str) -> None:
    """As a person with a card reader, and with a key of this test's own to log in by."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", folder / "key"], check=True)
    public = (folder / "key.pub").read_text().strip()
    lines = (f'token = "{token}"', f'hostname = "{NAME}"', f'ssh_authorized_keys = ["{public}"]')
    (folder / "edged.toml").write_text("\n".join(lines) + "\n")
    drive = f"{folder / 'card.img'}@@{about['partitions']['boot']['start']}"
    subprocess.run(["mcopy", "-i", drive, folder / "edged.toml", "::edged.toml"], check=True)


@pytest.fixture(scope="module")
def card(fleet: Fleet) -> Iterator[Card]:
    if not Path(UEFI).exists() or shutil.which("mcopy") is None:
        pytest.fail("needs Debian packages: apt-get install --no-install-recommends qemu-efi-aarch64 mtools")
    folder = Path(tempfile.mkdtemp(prefix="edged-card-", dir="/var/tmp"))
    try:
        about = built(folder, "--board", "qemu-arm64")
        write_join_file(folder, about, fleet.token())
        yield Card(Image(folder / "card.img", folder / "key"), about)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def board(request: pytest.FixtureRequest, card: Card) -> Iterator[Machine]:
    with a_machine(request, card.image, Hardware(architecture="arm64", firmware=UEFI, disk_size=CARD), "arm64") as one:
        one.power_on()
        one.until_ssh(PATIENCE)
        yield one


def test_the_arm64_image_joins_by_its_boot_partition_and_runs_an_arm64_workload(
    fleet: Fleet, board: Machine, card: Card, notes: list[str]
) -> None:
    fleet.until_ready(NAME)
    manifest = deployment("arm", command="uname -m; exec sleep 1d")
    manifest["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/arch": "arm64"}
    apply(fleet.client, manifest)

    def runs() -> bool:
        return [(p.get("status") or {}).get("phase") for p in pods_of(fleet, "arm")] == ["Running"]

    fleet.wait("the arm64 pod to run", runs, lambda: str([p.get("status") for p in pods_of(fleet, "arm")]))
    pod = pods_of(fleet, "arm")[0]
    path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}/log"
    said = fleet.client.call("GET", path, accept="*/*")
    machine = board.run("uname -m").strip()
    notes += [
        f"arm64: {board.run('uname -srm').strip()}, {card.about['board']}, edged {card.about['edged']}",
        *(f"arm64 console: {line}" for line in board.console().strip().splitlines()[-6:]),
        *(
            f"arm64 status: {line}"
            for line in board.run(
                "/opt/edged/current/bin/python -m edged status --config /etc/edged/node.toml"
            ).splitlines()
        ),
    ]
    assert machine == said.strip() == "aarch64"
    assert pod["spec"]["nodeName"] == NAME


def test_the_join_file_is_gone_and_the_data_partition_fills_the_card(board: Machine) -> None:
    there = board.run("ls /boot/firmware").split()
    assert "edged.toml" not in there
    size = int(board.run("findmnt -bno SIZE /data"))
    assert size > 1 << 30, "4 GB less 2.3 for the others"
    assert board.run("hostname").strip() == NAME


def test_the_card_as_it_is_written_has_no_identity_and_no_trace_of_where_it_was_built(card: Card) -> None:
    """The machine writes into a layer of its own: this is what the builder made."""
    root, data = (card.about["partitions"][name]["start"] for name in ("root", "data"))
    assert inside(card, root, "cat /etc/machine-id") == ""
    assert "ssh_host" not in inside(card, root, "ls -p /etc/ssh") + inside(card, data, "ls -p /ssh")
    assert "random-seed" not in inside(card, data, "ls -p /systemd")
    for folder in ("/var/log", "/var/lib/apt/lists", "/var/cache/apt", "/root/.cache", "/tmp"):
        names = {line.split("/")[5] for line in inside(card, root, f"ls -p {folder}").splitlines() if "/" in line}
        assert names <= {".", ".."}, folder
    own = subprocess.run(["hostname"], check=True, capture_output=True, text=True).stdout.strip()
    for file in ("/etc/hostname", "/etc/hosts", "/etc/apt/sources.list"):
        assert own not in inside(card, root, f"cat {file}")
    assert "99mmdebstrap" not in inside(card, root, "ls -p /etc/apt/apt.conf.d")


def test_the_image_brought_nothing_that_must_differ_between_boards(board: Machine) -> None:
    """What the first boot made: an id and host keys, and no trace of the machine that built the image."""
    made = board.run("cat /etc/machine-id; ls /data/ssh").split()
    assert len(made[0]) == 32
    assert "ssh_host_ed25519_key" in made
    assert board.run("cat /etc/apt/apt.conf.d/* | grep -ci proxy || true").strip() == "0"
