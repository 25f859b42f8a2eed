"""A hub in one file: from either kind of database to either, whole or not at all, and revisions never go back."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudlink.hub import archive, upkeep
from cloudlink.hub.config import HubConfig
from cloudlink.hub.premises import Premises
from cloudlink.hub.store import Create, Gone, PutRecord, Store, Update
from edged.errors import PermanentError
from tests.fakes.hub_objects import config, deployment, node, pod, secret

KINDS = ("Namespace", "Node", "Deployment", "Pod", "Secret", "ConfigMap")


class House:
    """A hub's folder and database, without the hub."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.config = HubConfig(data_dir=str(folder), fleet="lab", database=url)

    def settle_in(self) -> None:
        premises = Premises.enter(self.config)
        os.close(premises.lock)

    def open(self) -> Store:
        premises = Premises.enter(self.config)
        os.close(premises.lock)
        store = Store.open(self.config.database_url, secret_key=premises.secrets_key)
        premises.check_identity(store)
        return store


def fill(store: Store) -> None:
    store.commit(
        [Create(node("pi-1")), Create(deployment("web", 2)), Create(pod("a")), Create(config("c", {"k": "v"}))]
    )
    store.commit([Create(secret("s", {"password": b"hunter2-hunter2"})), PutRecord("nodes", "pi-1", b"\x00\xff")])


@pytest.fixture
def house(tmp_path: Path, database: str) -> House:
    return House(tmp_path / "first", database)


@pytest.mark.parametrize("running", [True, False])
def test_a_backup_brings_everything_to_another_kind_of_database(
    house: House, tmp_path: Path, postgresql: object, running: bool
) -> None:
    store = house.open()
    fill(store)
    before = {kind: store.list(kind) for kind in KINDS}
    revision = store.revision
    if not running:
        store.close()
    file = tmp_path / "hub.backup"
    told = upkeep.back_up(house.config, file, with_keys=True)
    assert f"as of revision {revision}" in told
    assert file.stat().st_mode & 0o777 == 0o600
    if running:
        store.close()
    sqlite = house.config.database.startswith("postgresql")
    other = House(tmp_path / "second", "" if sqlite else postgresql.database())  # type: ignore[attr-defined]
    upkeep.restore(other.config, file)
    again = other.open()
    assert {kind: again.list(kind) for kind in KINDS} == before
    assert again.get_record("nodes", "pi-1") == b"\x00\xff"
    assert (tmp_path / "second/admin.token").read_bytes() == (tmp_path / "first/admin.token").read_bytes()
    again.close()


def test_after_a_restore_revisions_go_on_beyond_any_that_were_seen(house: House, tmp_path: Path) -> None:
    store = house.open()
    fill(store)
    file = tmp_path / "hub.backup"
    upkeep.back_up(house.config, file, with_keys=True)
    [later] = store.commit([Update(config("c", {"k": "later"}))])  # lost; somebody has seen it
    seen = store.revision
    store.close()
    other = House(tmp_path / "second")
    upkeep.restore(other.config, file)
    again = other.open()
    with pytest.raises(Gone):
        again.subscribe(since=seen)
    [made] = again.commit([Create(pod("new"))])
    assert int(made.metadata.resource_version) > seen + 1000
    assert again.get("ConfigMap", "default", "c") != later
    again.close()


def test_a_restore_never_writes_over_a_hub(house: House, tmp_path: Path) -> None:
    store = house.open()
    fill(store)
    file = tmp_path / "hub.backup"
    upkeep.back_up(house.config, file, with_keys=True)
    with pytest.raises(PermanentError, match="exists already"):
        upkeep.back_up(house.config, file, with_keys=True)
    with pytest.raises(PermanentError, match="a hub in that database already"):
        upkeep.restore(house.config, file)
    other = House(tmp_path / "second")
    other.settle_in()
    with pytest.raises(PermanentError, match="is another one"):
        upkeep.restore(other.config, file)
    assert len(store.list("Pod")) == 1
    store.close()


def test_without_its_keys_a_backup_tells_no_secret_and_wants_them_back(house: House, tmp_path: Path) -> None:
    store = house.open()
    fill(store)
    store.close()
    file, keys = tmp_path / "hub.backup", tmp_path / "hub.keys"
    upkeep.back_up(house.config, file, with_keys=False)
    upkeep.export_keys(house.config, keys)
    with tarfile.open(file) as tar:
        assert not [n for n in tar.getnames() if n.startswith("keys/")]
    other = House(tmp_path / "second")
    with pytest.raises(PermanentError, match="holds keys only"):
        upkeep.restore(other.config, keys)
    with pytest.raises(PermanentError, match="holds no keys"):
        upkeep.import_keys(other.config, file)
    upkeep.import_keys(other.config, keys)
    upkeep.restore(other.config, file)
    again = other.open()
    assert again.list("Secret") == [o for o in again.list("Secret") if o.metadata.name == "s"] != []
    again.close()
    third = House(tmp_path / "third")
    third.settle_in()
    with pytest.raises(PermanentError, match="not the ones that belong to it"):
        upkeep.restore(third.config, file)


def test_a_hub_with_other_keys_is_not_let_into_a_database(house: House, tmp_path: Path) -> None:
    store = house.open()
    stranger = House(tmp_path / "second", house.config.database_url)
    with pytest.raises(PermanentError, match="edgehub keys export"):
        stranger.open()
    store.close()


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flipped(raw: bytes) -> bytes:
    return raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]


def forged(raw: bytes) -> bytes:
    """Well-formed, but one object is another one."""
    new = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(raw)) as old, tarfile.open(fileobj=new, mode="w:gz") as tar:
        for member in old:
            stream = old.extractfile(member)
            assert stream is not None
            content = stream.read().replace(b"pi-1", b"pi-2")
            tar.addfile(member, io.BytesIO(content))
    return new.getvalue()


@pytest.mark.parametrize("harm", [cut, flipped, forged, lambda raw: b"no archive at all"])
def test_a_damaged_backup_is_refused_before_anything_is_written(
    house: House, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    store = house.open()
    fill(store)
    store.close()
    file = tmp_path / "hub.backup"
    upkeep.back_up(house.config, file, with_keys=True)
    file.write_bytes(harm(file.read_bytes()))
    other = House(tmp_path / "second")
    with pytest.raises(PermanentError, match=r"damaged|no backup"):
        upkeep.restore(other.config, file)
    assert not (tmp_path / "second").exists()


def test_an_archive_that_points_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil"
    with tarfile.open(file, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("keys/../../../etc/passwd"), io.BytesIO())
    with pytest.raises(PermanentError, match="no backup of a hub"):
        archive.Archive(file)


def test_there_is_nothing_to_back_up_where_no_hub_has_been(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="holds no hub's keys"):
        upkeep.back_up(House(tmp_path / "nowhere").config, tmp_path / "file", with_keys=True)
    assert not (tmp_path / "file").exists()


def test_every_file_of_a_hub_is_a_key_or_made_anew_or_left_out_knowingly(tmp_path: Path) -> None:
    house = House(tmp_path / "first")
    house.open().close()
    files = {str(f.relative_to(tmp_path / "first")) for f in (tmp_path / "first").rglob("*") if f.is_file()}
    kept = archive.keys_of(tmp_path / "first").keys()
    assert kept >= {"ca/ca.key", "users-ca/ca.key", "signing.key", "secrets.key", "accounts.key", "admin.token"}
    left = {f for f in files - kept if not f.startswith(("tls/", "hub.db"))}
    assert left == {"hub.lock"}
