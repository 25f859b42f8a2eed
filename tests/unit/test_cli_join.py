"""`edgectl join`: what becomes of the settings that somebody gives."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import node
from cloudlink.cli import join
from edged.errors import PermanentError

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
TABLES = st.dictionaries(
    TEXT,
    st.recursive(TEXT | st.booleans() | st.integers(-(2**53), 2**53), lambda v: st.dictionaries(TEXT, v), max_leaves=8),
)


@given(TABLES)
def test_whatever_is_written_as_toml_reads_back_the_same(settings: dict[str, object]) -> None:
    assert tomllib.loads(join.toml(settings)) == settings


def test_tables_are_merged_and_the_command_line_wins() -> None:
    base = {"labels": {"place": "roof", "example.com/kind": "relay"}, "swap": "none"}
    assert join.merged(base, join.nested(["labels.place=cellar", "network.egress=false"])) == {
        "labels": {"place": "cellar", "example.com/kind": "relay"},
        "swap": "none",
        "network": {"egress": False},
    }


def test_a_settings_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("labels = {\n")
    with pytest.raises(PermanentError, match=r"settings\.toml: .*line"):
        join.from_file(file)
    with pytest.raises(PermanentError, match="No such file"):
        join.from_file(tmp_path / "missing.toml")


def edgectl(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "cloudlink.cli", *words]
    return subprocess.run(argv, input=given, capture_output=True, text=True, check=False)


def test_a_check_says_what_is_wrong_and_joins_nothing(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[labels]\n"example.com/kind" = "relay"\n')
    words = ("join", "-", "--check", "--name", "board", "--settings", str(file), "--state-dir", str(tmp_path / "state"))
    assert edgectl(*words).returncode == 0
    damaged = edgectl(*words, given="edged1.damaged")
    assert damaged.returncode == 1
    assert "token" in damaged.stderr
    file.write_text("log_bytez = 1\n")
    wrong = edgectl(*words)
    assert wrong.returncode == 1
    assert "log_bytez" in wrong.stderr
    assert not (tmp_path / "state").exists()


def test_a_hub_that_is_not_there_is_told_apart_from_a_refusal(tmp_path: Path) -> None:
    from cloudlink import trust

    token = trust.format_token(trust.JoinToken("https://127.0.0.1:1", b"f" * 32, b"s" * 32))
    config = tmp_path / "node.toml"
    done = edgectl(
        *("join", "-", "--name", "board", "--state-dir", str(tmp_path / "state"), "--config", str(config)), given=token
    )
    assert done.returncode == 75
    assert "can't reach the hub" in done.stderr
    assert not config.exists()


MEMBER = node.Membership("pi-1", "garden", "hub", 8883, "ca", "certificate", b"key")


def test_what_a_node_was_told_at_joining_goes_before_its_settings() -> None:
    settings = join.of_member({"name": "other", "uplink": {"options": {"host": "10.0.0.1"}}}, MEMBER)
    assert settings["name"] == "pi-1"
    assert settings["fleet"] == "garden"
    assert settings["uplink"] == {"options": {"host": "10.0.0.1"}, "factory": node.FACTORY}


def test_a_setting_that_does_not_exist_is_refused_with_its_name() -> None:
    with pytest.raises(PermanentError, match="bridgee"):
        join.of_member({"network": {"bridgee": "br0"}}, MEMBER)


def test_settings_may_come_as_json_which_tools_write(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"labels": {"edged.io/site": "roof"}}')
    assert join.from_file(file) == {"labels": {"edged.io/site": "roof"}}
    file.write_text("[1]")
    with pytest.raises(PermanentError, match="table of settings"):
        join.from_file(file)
