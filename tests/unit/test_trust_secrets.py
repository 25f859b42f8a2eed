"""A sealed secret opens for one node under one name; keys are small private files that survive power cuts."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import trust
from cloudlink.wire import Refused
from edged.errors import PermanentError

PRIVATE = bytes(range(32))
PUBLIC = trust.public_key_of(PRIVATE)
DATA = {"password": b"hunter2", "empty": b""}
SEALED = trust.seal(PUBLIC, "pi-1", "default/db", DATA)


@given(st.dictionaries(st.text(max_size=20), st.binary(max_size=200), max_size=5))
def test_what_was_sealed_is_opened(data: dict[str, bytes]) -> None:
    assert trust.unseal(PRIVATE, "pi-1", "a/b", trust.seal(PUBLIC, "pi-1", "a/b", data)) == data


def test_the_content_can_not_be_seen_in_the_box() -> None:
    assert b"hunter2" not in SEALED
    assert b"password" not in SEALED


@pytest.mark.parametrize(
    ("key", "node", "name"),
    [(bytes(31) + b"x", "pi-1", "default/db"), (PRIVATE, "pi-2", "default/db"), (PRIVATE, "pi-1", "default/other")],
)
def test_a_box_opens_for_no_other_key_node_or_name(key: bytes, node: str, name: str) -> None:
    with pytest.raises(Refused) as caught:
        trust.unseal(key, node, name, SEALED)
    assert "hunter2" not in caught.value.reason


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_box_is_refused(at: int, flip: int) -> None:
    damaged = bytearray(SEALED)
    damaged[at] ^= flip
    with pytest.raises(Refused):
        trust.unseal(PRIVATE, "pi-1", "default/db", bytes(damaged))


@given(st.binary(max_size=200))
def test_garbage_is_refused_as_a_box_and_inside_one(garbage: bytes) -> None:
    inside = trust.nacl.bindings.crypto_box_seal(garbage, PUBLIC)
    for sealed in (garbage, inside):
        with pytest.raises(Refused):
            trust.unseal(PRIVATE, "pi-1", "default/db", sealed)


def test_a_key_is_made_once_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "hub.key"
    key = trust.load_or_create_key(path)
    assert len(key) == trust.KEY_BYTES
    assert trust.load_or_create_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["hub.key"]


def test_a_write_that_was_cut_off_earlier_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".hub.key.part").write_bytes(b"half")
    assert len(trust.load_or_create_key(tmp_path / "hub.key")) == trust.KEY_BYTES


def test_a_damaged_or_missing_key_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hub.key"
    with pytest.raises(PermanentError, match=r"hub\.key"):
        trust.load_key(path)
    path.write_bytes(b"short")
    with pytest.raises(PermanentError, match="5 bytes"):
        trust.load_or_create_key(path)
    assert path.read_bytes() == b"short"


def test_keys_of_the_wrong_length_are_refused_before_use() -> None:
    with pytest.raises(PermanentError):
        trust.seal(b"x", "pi-1", "a/b", {})
    with pytest.raises(PermanentError):
        trust.public_key_of(b"x" * 33)


def test_a_key_that_anybody_could_compute_with_is_refused() -> None:
    with pytest.raises(PermanentError, match="X25519"):
        trust.seal(bytes(32), "pi-1", "a/b", {})
