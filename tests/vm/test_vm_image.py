"""The flashed image on a booted machine: who it is comes from a file on its boot partition, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.cli.resources import apply
from tests.houses import deployment, pods_of
from tests.vm.card import Flash, key_pair, wheelhouse
from tests.vm.fleet import Fleet
from tests.vm.hardware import Hardware
from tests.vm.image import Image
from tests.vm.lifetime import a_machine
from tests.vm.machine import Machine

PASSWORD = "only for the air 4711"
DISK = "4G"  # larger than the image, as a card is
PATIENCE = 600.0


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return key_pair(tmp_path_factory.mktemp("person"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flash")


@pytest.fixture(scope="module")
def wheels(place: Path) -> Path:
    return wheelhouse(place / "wheels")


@pytest.fixture(scope="module")
def writable(place: Path, person: tuple[Path, str], wheels: Path) -> Flash:
    return Flash.build(place, person[0], False, wheels)


@pytest.fixture(scope="module")
def read_only(place: Path, person: tuple[Path, str], wheels: Path) -> Flash:
    return Flash.build(place, person[0], True, wheels)


def hardware(flash: Flash) -> Hardware:
    return Hardware(disk_size=DISK, reboots=True, append=flash.about["kernel_arguments"])


def join_file(name: str, key: str, token: str = "") -> str:
    first = f'token = "{token}"\n' if token else ""
    return f"""{first}hostname = "{name}"
ssh_authorized_keys = ["{key}"]
timezone = "Europe/Berlin"
[wifi]
country = "DE"
ssid = "the air"
password = "{PASSWORD}"
[network]
link = "wired"
address = "dhcp"
[node]
labels = {{ "example.com/place" = "roof" }}
"""


@pytest.fixture
def card(request: pytest.FixtureRequest, tmp_path: Path, person: tuple[Path, str]) -> Iterator[Machine]:
    """A machine with a card in it that was flashed, with a file that has a mistake."""
    flash: Flash = request.getfixturevalue("writable")
    wrong = join_file("roof", person[1]).replace('country = "DE"', 'country = "Germany"')
    with a_machine(request, flash.card(tmp_path, {"edged.toml": wrong.encode()}), hardware(flash), "card") as machine:
        yield machine


def run_a_pod(fleet: Fleet, node: str, name: str) -> None:
    manifest = deployment(name)
    manifest["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
    apply(fleet.client, manifest)
    until_running(fleet, name)


def until_running(fleet: Fleet, name: str) -> None:
    def running() -> bool:
        return [(p.get("status") or {}).get("phase") for p in pods_of(fleet, name)] == ["Running"]

    fleet.wait(f"{name} to run", running, lambda: str(pods_of(fleet, name)))


def size_of_data(machine: Machine) -> int:
    return int(machine.run("df --output=size -B1 /data | tail -1"))


def no_secret_is_left(flash: Flash, machine: Machine, *secrets: str) -> None:
    """Anywhere on the boot partition, in a file or not."""
    content = flash.bytes_of(flash.pull(machine), "boot")
    for secret in secrets:
        for code in ("utf-8", "utf-16-le"):
            assert secret.encode(code) not in content
    (machine.folder / "pulled.img").unlink()


def told(machine: Machine) -> str:
    return machine.run("journalctl -b -u edged-firstboot -u edged-join -u edged --no-pager -n 80; systemctl --failed")


def test_a_flashed_card_joins_by_the_file_on_its_boot_partition_and_runs_a_pod(
    request: pytest.FixtureRequest, tmp_path: Path, person: tuple[Path, str], writable: Flash, fleet: Fleet
) -> None:
    token = fleet.token()
    # As Notepad writes it: a byte order mark, CRLF, and a name of its own.
    content = join_file("greenhouse-3", person[1], token).replace("\n", "\r\n").encode("utf-8-sig")
    base = writable.card(tmp_path, {"edged.toml.txt": content})
    with a_machine(request, base, hardware(writable), "image") as machine:
        machine.boot()  # with the key from the file: sshd knows no other
        fleet.until_ready("greenhouse-3")
        assert machine.run("hostname").strip() == "greenhouse-3"
        assert machine.run("date +%Z").strip() in ("CET", "CEST")
        assert size_of_data(machine) > 1_300_000_000
        assert fleet.nodes()["greenhouse-3"]["metadata"]["labels"]["example.com/place"] == "roof"
        run_a_pod(fleet, "greenhouse-3", "pod-of-an-image")
        assert "psk=" in machine.run("cat /data/etc/wifi.conf")
        assert machine.run("networkctl --no-pager --no-legend list edged0 | grep -c unmanaged").strip() == "1"
        joined = machine.run("cat /boot/firmware/edged-joined.txt")
        assert "joined: this board is the node greenhouse-3" in joined
        assert machine.run("ls /boot/firmware | grep -c 'edged.toml$' || true").strip() == "0"
        assert machine.run("ls -A /data/first-boot").split() == ["done", "node.json"]
        assert machine.run("systemctl --failed --no-legend").strip() == "", told(machine)
        verify = "systemd-analyze verify --man=no edged-firstboot.service edged-join.service edged-wifi@wlan0.service"
        assert machine.run(f"{verify} 2>&1").strip() == ""
        before = machine.run("cat /etc/machine-id")
        machine.cut_power()
        no_secret_is_left(writable, machine, token, token.split("1", 1)[1], PASSWORD)
        machine.boot()
        assert machine.run("cat /etc/machine-id") == before
        assert machine.run("systemctl show -P ConditionResult edged-firstboot").strip() == "no"  # nothing waits for it
        until_running(fleet, "pod-of-an-image")


def test_a_wrong_file_is_told_on_the_card_and_the_mended_one_survives_a_power_cut_in_the_first_boot(
    card: Machine, writable: Flash, person: tuple[Path, str]
) -> None:
    card.power_on()
    card.until_console("edged.toml.example shows how each line is written")
    card.until_console("write /data/first-boot/done")
    card.cut_power()
    assert 'line 5: wifi.country: "GERMANY" is no country' in writable.read(card, "edged-error.txt")
    mended = join_file("roof", person[1]).encode("utf-16")
    writable.write(card, "edged.toml", mended)
    card.power_on()
    card.until_console("wipe edged.toml on the boot partition")
    card.cut_power()
    card.boot()
    assert card.run("hostname").strip() == "roof"
    assert card.run("ls /boot/firmware | grep -E 'edged.toml$|error|fill' || true").strip() == ""
    assert card.run("ls -A /data/first-boot").split() == ["done", "node.json"]
    assert card.run("cat /etc/hostname /data/ssh/authorized_keys/root") == f"roof\n{person[1]}\n"
    card.cut_power()
    no_secret_is_left(writable, card, PASSWORD)


def test_a_read_only_root_runs_pods_survives_power_cuts_and_is_upgraded_without_a_byte_written_to_it(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    person: tuple[Path, str],
    read_only: Flash,
    wheels: Path,
    fleet: Fleet,
    notes: list[str],
) -> None:
    base: Image = read_only.card(tmp_path, {"edged.toml": join_file("cellar", person[1], fleet.token()).encode()})
    with a_machine(request, base, hardware(read_only), "image") as machine:
        machine.boot()
        fleet.until_ready("cellar")
        run_a_pod(fleet, "cellar", "pod-on-a-read-only-root")
        assert machine.try_run("touch /root/x /etc/x /usr/x").returncode != 0
        assert machine.run("systemctl --failed --no-legend").strip() == "", told(machine)
        identity = machine.run("cat /etc/machine-id /data/ssh/ssh_host_ed25519_key.pub")
        machine.cut_power()
        machine.boot()
        assert machine.run("hostname; cat /etc/hostname; date +%Z").split()[:2] == ["cellar", "cellar"]
        assert machine.run("cat /etc/machine-id /data/ssh/ssh_host_ed25519_key.pub") == identity
        until_running(fleet, "pod-on-a-read-only-root")

        factory = machine.run("readlink /opt/edged/current").strip()
        newer = another_version(wheels, tmp_path)
        machine.send_tree(newer.parent, [newer.name], "/data/wheels")
        machine.run(f"/opt/edged/bin/edged-version install /data/wheels/{newer.name}", timeout=PATIENCE)
        version = (newer / "VERSION").read_text().strip()
        machine.run(f"/opt/edged/bin/edged-version switch {version} && systemctl restart edged", timeout=PATIENCE)
        assert machine.run("readlink /opt/edged/current").strip() == f"versions/{version}"
        until_running(fleet, "pod-on-a-read-only-root")
        machine.run("/opt/edged/bin/edged-version prune --keep 1")
        machine.cut_power()
        machine.boot()
        assert machine.run("readlink /opt/edged/current").strip() == f"versions/{version}"
        machine.run(f"test -x /opt/edged/{factory}/bin/python")  # the way back that no power cut can take
        until_running(fleet, "pod-on-a-read-only-root")
        machine.cut_power()
        raw = read_only.pull(machine)
        for part in ("root",):
            now = hashlib.sha256(read_only.bytes_of(raw, part)).hexdigest()
            assert now == hashlib.sha256(read_only.bytes_of(read_only.file, part)).hexdigest()
        raw.unlink()
        notes.append(f"read-only root: not a byte of {read_only.part('root')[1] >> 20} MiB changed in three boots")


def another_version(wheels: Path, folder: Path) -> Path:
    """The same wheels under the name of a later version."""
    copy = folder / "newer"
    copy.mkdir()
    for file in wheels.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "VERSION").write_text(f"{(wheels / 'VERSION').read_text().strip()[:-1]}z\n")
    return copy
