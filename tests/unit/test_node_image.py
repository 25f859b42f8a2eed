"""What the builder of node images decides before it touches a disk: partitions, names, the kernel's words, sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import foreign
from images.node import layout as plans
from images.node import settings
from images.node.boards import BOARDS, packages
from images.node.build import options
from images.node.layout import ALIGNMENT, LARGEST, MIB, SECTOR, LayoutError, layout, names, parse_size
from images.node.programs import BuildError
from images.node.tree import cache_key, newest

RPI, ARM64, AMD64 = BOARDS["rpi"], BOARDS["qemu-arm64"], BOARDS["qemu-amd64"]
GIB = 1 << 30
contents = st.integers(0, 8 * GIB)


@given(contents, contents)
def test_partitions_lie_one_after_the_other_on_erase_blocks_and_hold_what_they_must(root: int, data: int) -> None:
    plan = layout(RPI, "0x12345678", root, data)
    parts = (plan.boot, plan.root, plan.data)
    assert all(p.start % ALIGNMENT == 0 and p.size % SECTOR == 0 for p in parts)
    assert plan.boot.start > 0
    assert [p.start + p.size for p in parts] == [plan.root.start, plan.data.start, plan.size]
    assert plan.root.size >= root + plans.ROOT_FREE
    assert plan.data.size >= data + plans.DATA_FREE


@given(contents, contents, st.integers(1, 64 * GIB // SECTOR))
def test_a_size_that_was_asked_for_is_met_exactly_or_refused(root: int, data: int, sectors: int) -> None:
    least = layout(RPI, "0x1", root, data).size
    if sectors * SECTOR < least:
        with pytest.raises(LayoutError, match=str(least)):  # it says how much is needed
            layout(RPI, "0x1", root, data, sectors * SECTOR)
        return
    plan = layout(RPI, "0x1", root, data, sectors * SECTOR)
    assert plan.size == sectors * SECTOR
    assert plan.data.start + plan.data.size == plan.size


@pytest.mark.parametrize("size", [4 * GIB + 1, LARGEST + SECTOR])
def test_a_size_that_no_partition_table_can_name_is_refused(size: int) -> None:
    with pytest.raises(LayoutError, match="multiple of 512"):
        layout(RPI, "0x1", 0, 0, size)


def test_the_script_for_sfdisk_names_every_partition_in_sectors() -> None:
    lines = layout(AMD64, "0xdeadbeef", 0, 0).script().splitlines()
    assert lines[:4] == ["label: dos", "label-id: 0xdeadbeef", "unit: sectors", "sector-size: 512"]
    assert lines[5:] == [
        "start=8192, size=524288, type=ef, bootable",
        "start=532480, size=4194304, type=83",
        "start=4726784, size=524288, type=83",
    ]


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4 * GIB), ("3500M", 3500 * MIB), ("512K", 512 << 10), ("4294967296", 4 * GIB)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "4.5G", "4 G", "4GB", "²G", "four"])
def test_what_is_no_size_is_refused_with_what_it_should_be(text: str) -> None:
    with pytest.raises(LayoutError, match="K, M or G"):
        parse_size(text)


def test_the_same_inputs_have_the_same_names_and_others_have_others() -> None:
    same = names(RPI, "bookworm", "1 rw")
    assert same == names(RPI, "bookworm", "1 rw")
    others = {names(RPI, "bookworm", "1 ro"), names(RPI, "trixie", "1 rw"), names(ARM64, "bookworm", "1 rw")}
    assert len({same, *others}) == 4
    assert same.root != same.data
    assert len(same.disk) == 10
    assert len(same.boot) == 8


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda b: b.name)
def test_the_kernel_finds_its_root_by_label_and_a_board_that_panics_starts_again(board: object) -> None:
    assert isinstance(board, type(RPI))
    for read_only in (True, False):
        words = settings.kernel_arguments(board, read_only).split()
        assert {"root=LABEL=edged-root", "rootwait", "fsck.repair=yes", "net.ifnames=0"} <= set(words)
        assert any(word.startswith("panic=") for word in words)
        assert ("ro" in words, "rw" in words) == (read_only, not read_only)


def test_a_raspberry_pi_has_the_memory_cgroup_whichever_kernel_it_gets() -> None:
    files = settings.raspi_firmware(RPI, read_only_root=False)
    assert "cgroup_enable=memory" in files["etc/default/raspi-extra-cmdline"].split()
    assert files["etc/default/raspi-extra-cmdline"].count("\n") == 1, "it goes into one line of cmdline.txt"


def test_the_last_word_on_a_raspberry_pi_says_whether_the_root_is_written_to() -> None:
    """Debian's hook writes "rw" itself, and ours come after it."""
    assert settings.raspi_firmware(RPI, read_only_root=True)["etc/default/raspi-extra-cmdline"].split()[0] == "ro"


def test_uefi_boards_have_a_loader_entry_with_all_the_words() -> None:
    entry = settings.uefi(ARM64, read_only_root=True)["boot/firmware/loader/entries/edged.conf"]
    assert f"options {settings.kernel_arguments(ARM64, True)}\n" in entry
    assert "linux /vmlinuz\n" in entry
    assert "initrd /initrd.img\n" in entry


def test_what_is_installed_is_sorted_and_has_what_the_first_boot_relies_on() -> None:
    script = (Path(settings.__file__).parent / "lay-out.sh").read_text()
    relied_on = script.partition('PACKAGES="')[2].partition('"')[0].split()
    for board in BOARDS.values():
        assert list(packages(board)) == sorted(packages(board))
        assert set(relied_on) <= set(packages(board))


def test_debians_tree_is_made_anew_for_every_release_and_board() -> None:
    keys = {cache_key(board, release) for board in BOARDS.values() for release in ("bookworm", "trixie")}
    assert len(keys) == 6


def test_the_date_of_a_tree_is_the_newest_that_the_archive_signed() -> None:
    dates = "Date: Wed, 25 Nov 2026 22:33:12 UTC\nDate: Thu, 26 Nov 2026 02:14:46 UTC\n"
    assert newest(dates) == 1795659286
    with pytest.raises(BuildError, match="InRelease"):
        newest("")


def test_an_output_that_is_no_img_is_refused_before_anything_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(["--board", "rpi", "--output", "node.iso"])
    assert "must end with .img" in capsys.readouterr().err


def test_a_release_without_its_updates_is_left_of_either_kind_of_sources() -> None:
    new = "Types: deb\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
    security = "Types: deb\nURIs: http://a/sec\nSuites: bookworm-security\nComponents: main\n"
    assert foreign.without_updates(f"{new}\n{security}") == new.replace(" bookworm-updates", "") + (
        "" if new.endswith("\n") else "\n"
    )
    old = "deb http://a/debian bookworm main\ndeb http://a/sec bookworm-security main\n# deb x y-z main\n"
    assert foreign.without_updates(old) == "deb http://a/debian bookworm main\n# deb x y-z main\n"


def test_apt_refuses_what_is_not_signed_and_leaves_the_machines_own_state_alone() -> None:
    words = foreign.options("armhf", Path("/there"))
    assert "-oAcquire::AllowInsecureRepositories=false" in words
    assert "-oAPT::Get::AllowUnauthenticated=false" in words
    assert "-oAPT::Update::Error-Mode=any" in words
    assert all("=/there/" in w or "=/dev/null" in w for w in words if w.startswith("-oDir::"))


def test_an_architecture_that_debian_has_no_busybox_for_is_named() -> None:
    with pytest.raises(foreign.FetchError, match="riscv64"):
        foreign.busybox("riscv64")
