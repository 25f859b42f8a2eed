"""What virtual machines are started with, and what their witness tells."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vm import witness
from tests.vm.hardware import Hardware, command
from tests.vm.image import Image
from tests.vm.witness import Stay

IMAGE = Image(Path("/i/disk.img"), Path("/i/key"), Path("/i/vmlinuz"), Path("/i/initrd.img"))
PORTS = {22: 20022, 8470: 28470}
TCG = ("-accel", "tcg", "-cpu", "Nehalem")


def words(hardware: Hardware, image: Image = IMAGE) -> list[str]:
    return command(hardware, image, Path("/m"), TCG, PORTS)


def after(line: list[str], option: str) -> list[str]:
    """What follows each of an option's places."""
    return [line[at + 1] for at, word in enumerate(line) if word == option]


def test_a_usual_machine_reaches_the_host_and_gives_ssh_a_port() -> None:
    line = words(Hardware())
    (net,) = after(line, "-netdev")
    assert "host=10.0.2.2" in net
    assert "dhcpstart=10.0.2.15" in net
    assert "restrict" not in net
    assert "hostfwd=tcp:127.0.0.1:20022-:22" in net
    assert "hostfwd=tcp:127.0.0.1:28470-:8470" in net
    assert "-no-reboot" in line
    assert "-S" not in line
    assert "-rtc" not in line


def test_a_restricted_machine_is_reached_and_reaches_nobody() -> None:
    (net,) = after(words(Hardware(network="restricted")), "-netdev")
    assert "restrict=on" in net
    assert "hostfwd=tcp:127.0.0.1:20022-:22" in net


def test_a_machine_without_network_has_no_card_at_all() -> None:
    line = words(Hardware(network="none"))
    assert after(line, "-nic") == ["none"]
    assert not after(line, "-netdev")


def test_with_a_management_card_ssh_goes_by_it_and_other_ports_by_the_first() -> None:
    first, second = after(words(Hardware(management=True)), "-netdev")
    assert "-:22" not in first
    assert "-:8470" in first
    assert "-:22" in second
    assert "restrict=on" in second


def test_another_subnet_brings_its_own_host_and_guest() -> None:
    (net,) = after(words(Hardware(subnet="192.168.7.0/24")), "-netdev")
    assert "net=192.168.7.0/24,host=192.168.7.2,dhcpstart=192.168.7.15" in net
    (net,) = after(words(Hardware(address="10.0.2.99")), "-netdev")
    assert "dhcpstart=10.0.2.99" in net


def test_a_line_that_is_out_at_power_on_holds_the_processor_until_it_is() -> None:
    assert "-S" in words(Hardware(link=False))


def test_a_clock_of_1970_is_the_battery_clocks() -> None:
    assert after(words(Hardware(clock="1970-01-01T00:00:00")), "-rtc") == ["base=1970-01-01T00:00:00"]


def test_a_disk_that_boots_by_itself_gets_no_kernel() -> None:
    bare = replace(IMAGE, kernel=None, initrd=None)
    line = words(Hardware(firmware="/fw.fd", architecture="arm64"), bare)
    assert after(line, "-bios") == ["/fw.fd"]
    assert not after(line, "-kernel")
    assert "-bios" not in words(Hardware(firmware=""), bare)
    with pytest.raises(AssertionError, match="firmware="):
        words(Hardware(), bare)


def test_each_architecture_has_its_own_emulator_and_console() -> None:
    line = words(Hardware(architecture="arm64", memory=768, cores=1))
    assert "qemu-system-aarch64" in line
    assert after(line, "-m") == ["768"]
    assert after(line, "-smp") == ["1"]
    assert "console=ttyAMA0" in after(line, "-append")[0]


# ---------------------------------------------------------------- the witness


def test_a_witness_tells_when_each_pod_came_and_went() -> None:
    log = "a 10.0 .\na 11.0 x .\na 12.0 x y .\na 13.0 y .\na 14.0 y .\n"
    assert sorted(witness.stays(log)) == [Stay("a", "x", 11.0, 13.0), Stay("a", "y", 12.0, 14.0)]


def test_a_power_cut_ends_a_stay_at_its_last_word_and_a_torn_line_is_none() -> None:
    log = "a 10.0 x .\na 11.0 x .\na 12.0 x y\n\nb 50.0 .\nb 51.0 x .\nb 52.0 x .\n"
    assert witness.stays(log) == [Stay("a", "x", 10.0, 11.0), Stay("b", "x", 51.0, 52.0)]
    assert witness.stays("") == []


def test_who_ran_at_the_same_time_is_counted_and_for_how_long() -> None:
    assert witness.most_at_once([]) == (0, 0.0)
    assert witness.most_at_once([(1.0, 2.0), (2.0, 3.0)]) == (1, 2.0), "one after the other"
    assert witness.most_at_once([(0.0, 10.0), (4.0, 6.0), (8.0, 9.5)]) == (2, 3.5)
    assert witness.most_at_once([(0.0, 10.0), (4.0, 6.0), (5.0, 9.0)]) == (3, 1.0)


def test_a_witness_sees_pods_with_a_process_and_no_others(tmp_path: Path) -> None:
    for name, populated in (("uid-a", 1), ("uid-b", 0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    (tmp_path / "uid-c").mkdir()
    (tmp_path / "cgroup.procs").touch()
    assert witness.seen(os.fspath(tmp_path)) == ["uid-a"]
    assert witness.seen(os.fspath(tmp_path / "missing")) == []
