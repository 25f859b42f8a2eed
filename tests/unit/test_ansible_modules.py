"""What the role's modules decide: packages, cards, versions, joining and taking away."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_ansible_board import load

absent, card, join = load("edged_absent"), load("edged_card"), load("edged_join")
packages, release = load("edged_packages"), load("edged_release")

# ---------------------------------------------------------------- sparing the card

FSTAB = """\
# a comment about / ext4
proc            /proc           proc    defaults          0       0
PARTUUID=1-01  /boot/firmware  vfat    defaults          0       2
PARTUUID=1-02  /               ext4    defaults,relatime,commit=5  0       1
/swap          none            swap    sw                0       0
/dev/zram0     none            swap    sw                0       0
"""


def test_only_the_roots_options_change_and_every_column_stays_where_it_was() -> None:
    before, after = FSTAB.splitlines(), card.spared(FSTAB, 60).splitlines()
    assert [n for n, line in enumerate(before) if after[n] != line] == [3]
    assert after[3] == "PARTUUID=1-02  /               ext4    defaults,noatime,commit=60  0       1"


def test_a_root_that_has_no_journal_gets_no_commit() -> None:
    assert card.spared("LABEL=x / btrfs compress=zstd 0 0\n", 60) == "LABEL=x / btrfs compress=zstd,noatime 0 0\n"


@given(st.lists(st.sampled_from(["defaults", "ro", "relatime", "atime", "commit=5", "errors=remount-ro"]), min_size=1))
def test_sparing_twice_is_sparing_once_and_drops_nothing_but_what_it_replaces(options: list[str]) -> None:
    once = card.spared(f"UUID=1 / ext4 {','.join(options)} 0 1\n", 60)
    assert card.spared(once, 60) == once
    kept = [o for o in options if o not in ("relatime", "atime", "commit=5")]
    assert once.split()[3].split(",") == [*kept, "noatime", "commit=60"]


def test_swap_on_the_card_becomes_a_comment_and_zram_stays() -> None:
    after = card.without_swap(FSTAB)
    assert "#edged# /swap " in after
    assert "\n/dev/zram0 " in after
    assert card.without_swap(after) == after


def test_zram_is_no_swap_on_a_disk() -> None:
    swaps = "Filename\tType\tSize\n/var/swap file 1 2 3\n/dev/zram0 partition 1 2 3\n"
    assert card.on_disk(swaps) == ["/var/swap"]


# ---------------------------------------------------------------- packages


def test_of_a_bundle_only_what_is_missing_is_installed() -> None:
    files = ["crun_1.8_amd64.deb", "libglib2.0-0_2.74_amd64.deb", "SHA256SUMS", "conmon_2.1_amd64.deb"]
    assert packages.to_install(files, {"libglib2.0-0"}) == ["conmon_2.1_amd64.deb", "crun_1.8_amd64.deb"]


def test_what_dpkg_calls_half_installed_is_not_there() -> None:
    half = "Package: a\nStatus: install ok half-installed\nVersion: 1\n\n"
    status = f"{half}Package: b\nStatus: hold ok installed\nVersion: 2\n"
    assert packages.installed(status) == {"b": "2"}


def test_packages_that_others_have_come_to_need_are_seen_before_they_are_removed() -> None:
    said = "Purg podman [4.3]\nPurg crun [1.8] []\nPurg conmon:armhf [2.1]\nInst other\n"
    assert absent.dragged(said, ["crun", "conmon"]) == ["podman"]
    assert absent.dragged("Purg crun [1.8]\n", ["crun"]) == []


# ---------------------------------------------------------------- versions

OLD, NEW = "0.1.0-aaaaaaaaaaaa", "0.1.0-bbbbbbbbbbbb"
TRIAL = {"version": NEW, "previous": OLD, "attempts": 1, "last": ""}
FAILED = {"version": NEW, "whole": True, "failed": {"why": f"{NEW} was not ready after 3 starts", "when": "now"}}


@pytest.mark.parametrize(
    ("current", "trial", "active", "verdict"),
    [
        (NEW, TRIAL, "activating", "waiting"),
        (NEW, TRIAL, "active", "waiting"),
        (NEW, None, "active", "good"),
        (NEW, None, "failed", "waiting"),
        (OLD, None, "active", "failed"),
        (OLD, TRIAL, "activating", "failed"),
    ],
)
def test_a_version_is_good_once_its_trial_is_over_and_its_unit_is_up(
    current: str, trial: Any, active: str, verdict: str
) -> None:
    assert release.verdict({"current": current, "trial": trial, "versions": []}, active, NEW) == verdict


def test_a_version_that_did_not_stay_is_told_with_the_reason_and_what_runs_instead() -> None:
    sentence = release.failure({"current": OLD, "trial": None, "versions": [FAILED]}, NEW)
    assert (
        sentence == f"version {NEW} did not come up and the board is back on {OLD}: {NEW} was not ready after 3 starts"
    )
    first = release.failure({"current": NEW, "trial": TRIAL, "versions": []}, NEW)
    assert "there was no version to go back to" in first


def test_the_last_words_are_those_before_the_end_and_not_of_the_version_after_it() -> None:
    journal = [*(f"line {n}" for n in range(20)), "edged.service: Main process exited", "back to old", "connected"]
    assert release.last_words(journal)[-2:] == ["line 19", "edged.service: Main process exited"]
    assert release.last_words(["only", "two"]) == ["only", "two"]


# ---------------------------------------------------------------- joining


def test_a_board_that_is_another_node_is_refused_with_both_names() -> None:
    why = join.refusal("pi-2", "token", {"node": "pi-1", "fleet": "garden"}, False)
    assert "is node 'pi-1' of fleet 'garden' and can't become 'pi-2'" in why


def test_a_board_without_token_is_refused_unless_it_has_joined_or_is_only_checked() -> None:
    assert "set node_join_token" in join.refusal("pi-1", "", None, False)
    assert not join.refusal("pi-1", "", None, True)
    assert not join.refusal("pi-1", "", {"node": "pi-1"}, False)
