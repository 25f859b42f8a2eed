"""What the role's check says of boards, most of which stand on nobody's table here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

MODULES = Path(__file__).parents[2] / "ansible" / "plugins" / "modules"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, MODULES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


board, cmdline, files = load("edged_board"), load("edged_cmdline"), load("edged_files")
MIB = 1 << 20
NEED = {"memory_mib": 200, "disk_mib": 500}
DISK = {
    "mount": "/",
    "type": "ext4",
    "free": 20000 * MIB,
    "size": 29000 * MIB,
    "inodes": 10**6,
    "inodes_free": 9 * 10**5,
}
# What the firmware of a Pi 5 with Linux 6.12 hands over (raspberrypi/linux issue 6980), shortened.
FROM_DTB = "reboot=w coherent_pool=1M 8250.nr_uarts=1 cgroup_disable=memory numa_policy=interleave "
LINE = "console=serial0,115200 console=tty1 root=PARTUUID=4d8097e2-02 rootfstype=ext4 fsck.repair=yes rootwait"
PI: dict[str, Any] = {
    "arch": "arm64",
    "machine": "aarch64",
    "model": "Raspberry Pi 4 Model B Rev 1.4",
    "os": "Debian GNU/Linux 12 (bookworm)",
    "release": "bookworm",
    "python": "3.11",
    "systemd": True,
    "kernel": "6.12.34+rpt-rpi-v8",
    "modules_of_kernel": True,
    "missing_modules": [],
    "cgroup2": True,
    "controllers": ["cpuset", "cpu", "io", "memory", "pids"],
    "cmdline": FROM_DTB + LINE + " cgroup_enable=memory",
    "cmdline_file": "/boot/firmware/cmdline.txt",
    "cmdline_text": LINE + " cgroup_enable=memory\n",
    "memory": 3800 * MIB,
    "disk": DISK,
    "year": 2026,
    "clocksource": "arch_sys_counter",
    "rtc": True,
    "ntp": True,
    "throttled": 0,
    "undervoltage": "",
    "cards": [{"device": "mmcblk0", "name": "SD SC32G", "life": [], "pre_eol": 0}],
    "ext4_errors": {},
    "read_only": [],
    "missing_packages": [],
    "versions": [],
    "current": "",
    "joined": False,
}


def told(**changes: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = board.findings({**PI, **changes}, NEED)
    return found


def test_a_board_that_is_well_is_told_nothing() -> None:
    assert told() == {"errors": [], "concerns": [], "notes": []}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "riscv64"}, "its architecture is riscv64; edged comes for amd64"),
        ({"arch": "armhf", "machine": "armv6l"}, "ARMv6 (Pi 1, Pi Zero)"),
        ({"python": "3.9", "os": "Debian 11 (bullseye)"}, "(bullseye) has Python 3.9; use a release with 3.11"),
        ({"systemd": False}, "not booted with systemd"),
        ({"kernel": "5.10.63-v7l+"}, "kernel 5.10.63-v7l+ is older than 5.15"),
        ({"missing_modules": ["overlay"]}, "has no overlay, needed for containers' file systems"),
        ({"missing_modules": ["veth", "bridge"], "modules_of_kernel": False}, "it was upgraded; reboot"),
        ({"memory": 110 * MIB}, "it has 110 MiB of memory; 200 MiB are the least"),
        ({"disk": {**DISK, "free": 300 * MIB}}, "/ has 300 MiB free of 29000; 500 MiB are needed"),
        ({"year": 1970}, "its clock says 1970"),
        ({"read_only": ["/"]}, "/ should be writable by /etc/fstab but is mounted read-only"),
        ({"cards": [{"device": "mmcblk0", "name": "MMC 032G", "life": [0x0B, 1], "pre_eol": 1}]}, "outlived its rated"),
        ({"cards": [{"device": "mmcblk0", "name": "MMC 032G", "life": [1, 1], "pre_eol": 3}]}, "90 % of its reserved"),
    ],
)  # fmt: skip
def test_what_makes_a_node_impossible_is_an_error_that_says_what_to_do(changes: dict[str, Any], words: str) -> None:
    (sentence,) = told(**changes)["errors"]
    assert words in sentence
    assert not told(**changes)["concerns"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"throttled": 0x50005}, "short right now (under-voltage, throttled); use the official power supply"),
        ({"throttled": 0x10000}, "short since the boot (under-voltage)"),
        ({"throttled": None, "undervoltage": "the kernel's rpi_volt alarm"}, "voltage is too low"),
        ({"ext4_errors": {"mmcblk0p2": 7}}, "ext4 counted 7 errors on mmcblk0p2"),
        ({"cards": [{"device": "mmcblk0", "name": "MMC", "life": [0x0A], "pre_eol": 1}]}, "90 to 100 % of its rated"),
        ({"cards": [{"device": "mmcblk0", "name": "MMC", "life": [1], "pre_eol": 2}]}, "80 % of its reserved blocks"),
        ({"cgroup2": False}, "cgroup v1"),
        ({"rtc": False, "ntp": False}, "nothing that sets it from the network"),
        ({"clocksource": "jiffies"}, "counts time by jiffies"),
        ({"disk": {**DISK, "free": 700 * MIB}}, "only 700 MiB free"),
        ({"disk": {**DISK, "inodes_free": 100}}, "only 100 inodes free"),
        ({"disk": {**DISK, "type": "vfat"}}, "/ is vfat"),
    ],
)  # fmt: skip
def test_what_makes_a_node_worse_is_a_concern_and_no_error(changes: dict[str, Any], words: str) -> None:
    assert any(words in sentence for sentence in told(**changes)["concerns"])
    assert not told(**changes)["errors"]


def test_a_board_that_is_a_node_already_needs_less_room_for_the_next_version() -> None:
    assert not told(versions=["0.1.0-aaaaaaaaaaaa"], disk={**DISK, "free": 300 * MIB})["errors"]


# ---------------------------------------------------------------- the memory cgroup

WITHOUT = ["cpuset", "cpu", "io", "pids"]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "on"),
        ({"controllers": WITHOUT, "cmdline_text": LINE, "cmdline": FROM_DTB + LINE}, "off"),
        ({"controllers": WITHOUT, "cmdline": FROM_DTB + LINE}, "pending"),
        ({"controllers": WITHOUT}, "refused"),
        ({"controllers": WITHOUT, "cmdline_file": "", "cmdline_text": ""}, "foreign"),
    ],
)
def test_why_the_memory_cgroup_is_off_decides_what_can_be_done(changes: dict[str, Any], state: str) -> None:
    assert board.memory_cgroup({**PI, **changes}) == state


def test_only_a_memory_cgroup_that_the_role_cannot_turn_on_is_an_error() -> None:
    assert not told(controllers=WITHOUT, cmdline_text=LINE)["errors"]
    assert "only Raspberry Pi's kernel knows that setting" in told(controllers=WITHOUT)["errors"][0]


@pytest.mark.parametrize(
    ("line", "on"),
    [
        ("cgroup_disable=memory cgroup_enable=memory", True),
        ("cgroup_enable=memory cgroup_disable=memory", False),
        ("cgroup_enable=cpuset,memory", True),
        ("cgroup_memory=1", False),
        ("cgroup_enable=memory cgroup_disable=rdma", True),
    ],
)
def test_the_last_word_about_memory_on_a_command_line_counts(line: str, on: bool) -> None:
    assert board.enables_memory(line) is on


WORDS = st.sampled_from(
    (
        *("root=PARTUUID=1-02", "rootwait", "quiet", "init=/x", "cgroup_disable=memory", "cgroup_disable=rdma,memory"),
        *("cgroup_memory=1", "cgroup_enable=memory", "cgroup_enable=cpuset,memory", "cgroup_disable=cpu"),
    )
)
TEXTS = st.tuples(
    st.lists(WORDS, min_size=1), st.sampled_from(["", "\n", "\r\n", "\n\n# a comment\n", "\nquiet\n"])
).map(lambda parts: " ".join(parts[0]) + parts[1])


@given(TEXTS)
def test_every_command_line_gets_the_memory_cgroup_on_its_one_line_and_keeps_its_other_words(text: str) -> None:
    after = cmdline.with_memory_cgroup(text)
    first, *rest = after.split("\n")
    assert board.enables_memory(FROM_DTB + first)
    assert rest == text.split("\n")[1:] or (rest == [""] and "\n" not in text)
    others = [w for w in text.split("\n")[0].split() if not w.startswith("cgroup_")]
    assert [w for w in first.split() if not w.startswith("cgroup_")] == others
    assert "cpu" not in [w for w in text.split() if w == "cgroup_disable=cpu"] or "cgroup_disable=cpu" in first
    assert cmdline.with_memory_cgroup(after) == after


def test_a_line_that_is_right_already_is_left_to_the_byte() -> None:
    text = f"{LINE}  cgroup_enable=memory cgroup_memory=1 \n"
    assert cmdline.with_memory_cgroup(text) == text


def test_replacing_the_command_line_keeps_the_first_original(tmp_path: Path) -> None:
    path = tmp_path / "cmdline.txt"
    path.write_text("one\n")
    cmdline.replace(path, "two\n")
    cmdline.replace(path, "three\n")
    assert path.read_text() == "three\n"
    assert (tmp_path / "cmdline.txt.before-edged").read_text() == "one\n"
    assert len(list(tmp_path.iterdir())) == 2


# ---------------------------------------------------------------- small things


def test_a_package_that_was_removed_but_left_its_settings_is_not_installed() -> None:
    status = (
        "Package: crun\nStatus: install ok installed\nVersion: 1\n\n"
        "Package: nftables\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: conmon\nStatus: install ok installed\n"
    )
    assert board.installed(status) == {"crun", "conmon"}


def test_a_disk_that_was_remounted_read_only_is_found_and_one_that_should_be_is_not() -> None:
    fstab = "# a comment\nPARTUUID=1-02 / ext4 defaults,noatime 0 1\nLABEL=x /ro ext4 ro 0 0\nproc /proc proc rw 0 0\n"
    mounts = "/dev/mmcblk0p2 / ext4 ro,noatime 0 0\n/dev/sda1 /ro ext4 ro 0 0\nproc /proc proc rw 0 0\n"
    assert board.read_only(fstab, mounts) == ["/"]


def test_only_files_that_differ_in_content_or_mode_are_written_and_only_those_that_are_there_removed() -> None:
    wanted = {"/a": ("x", 0o644), "/b": ("y", 0o755), "/c": ("z", 0o644)}
    seen = {"/a": ("x", 0o644), "/b": ("y", 0o644), "/c": None, "/d": ("old", 0o644), "/e": None}
    assert files.differences(wanted, ["/d", "/e"], seen) == ["/b", "/c", "/d"]


def test_a_unit_ends_when_its_file_goes_and_not_when_it_is_written() -> None:
    units, there = "/etc/systemd/system", "/etc/systemd/system/edged.service"
    changes = [
        "/etc/systemd/journald.conf.d/50-edged.conf",
        there,
        f"{units}/edged-zram.service",
        f"{units}/x.d/y.conf",
    ]
    assert files.units_to_end(changes, {there: ("[Unit]", 0o644)}) == ["edged-zram.service"]
