"""The database's schema: from every earlier one to today's, and a newer one is left alone."""

from __future__ import annotations

import base64
import re
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy

from cloudlink.hub import tables
from cloudlink.hub.migrate import schema_of
from cloudlink.hub.store import Create, Store
from cloudlink.kube.core import ConfigMap, Secret
from edged.errors import PermanentError
from tests.fakes.hub_objects import pod
from tests.postgres_lab import engine

DUMPS = sorted((Path(__file__).parent.parent / "cases/hub").glob("schema-*.sql"))
KEY = b"k" * 32  # what their Secrets are sealed with


def load(url: str, dump: str) -> None:
    """Into SQLite as it is, into PostgreSQL with its words for types and bytes."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.executescript(dump)
        connection.close()
        return
    dump = re.sub(r"X'([0-9A-F]*)'", r"'\\x\1'::bytea", dump.replace(" BLOB ", " BYTEA "))
    dump = re.sub(r"(INSERT INTO \"objects\".*,)([01])(,'\\x)", lambda m: f"{m[1]}{m[2] == '1'}{m[3]}", dump)
    with engine(url).connect() as db:
        for statement in dump.split(";\n"):
            if statement.strip() not in ("", "BEGIN TRANSACTION", "COMMIT"):
                db.exec_driver_sql(statement)


@pytest.mark.parametrize("dump", DUMPS, ids=lambda p: p.stem)
def test_a_database_of_an_earlier_hub_is_upgraded_and_everything_is_there(database: str, dump: Path) -> None:
    load(database, dump.read_text())
    for _ in range(2):  # the second time there is nothing to do
        store = Store.open(database, secret_key=KEY)
        titles = [o.title for kind in ("Namespace", "Node", "Deployment", "Pod", "Event") for o in store.list(kind)]
        assert titles == ["default", "kube-system", "pi-1", "default/web", "default/a", "default/e"]
        secret, config = store.get("Secret", "default", "s"), store.get("ConfigMap", "default", "c")
        assert isinstance(secret, Secret)
        assert base64.b64decode(secret.data["password"]) == b"hunter2"
        assert isinstance(config, ConfigMap)
        assert config.data == {"k": "w", "k2": "日本"}
        assert store.records("nodes") == {"pi-1": b"\x00\xff\x01"}
        assert store.records("desired") == {"pi-1": bytes(range(256))}
        assert store.revision >= 11
        store.close()
    store = Store.open(database, secret_key=KEY)
    before = store.revision
    [made] = store.commit([Create(pod("b"))])
    assert made.metadata.resource_version == str(before + 1)
    store.close()


def test_a_schema_whose_making_was_interrupted_is_finished(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hub.db"
    load(url, "\n".join(re.findall(r"CREATE TABLE[^;]*;", DUMPS[0].read_text())))
    store = Store.open(url)
    assert store.commit([Create(pod("a"))])
    store.close()


def test_a_new_database_gets_the_tables_that_the_models_describe(database: str) -> None:
    Store.open(database).close()
    bare = engine(database)
    found = sqlalchemy.inspect(bare)
    for table in (tables.OBJECTS, tables.RECORDS, tables.COUNTERS, tables.CHANGES):
        columns = {c["name"]: (c["nullable"], c["type"].python_type) for c in found.get_columns(table.name)}
        told = {c.name: (c.nullable, c.type.python_type) for c in table.columns}
        assert columns == {n: (nullable, str if kind is object else kind) for n, (nullable, kind) in told.items()}
        assert found.get_pk_constraint(table.name)["constrained_columns"] == [c.name for c in table.primary_key]
    with bare.connect() as connection:
        assert schema_of(connection) == tables.SCHEMA_VERSION


def test_every_schema_has_a_database_that_it_left_behind_to_be_tried() -> None:
    numbers = [int(p.stem.removeprefix("schema-")) for p in DUMPS]
    assert numbers == list(range(1, tables.SCHEMA_VERSION)), "write tests/cases/hub/schema-N.sql with the hub of then"


def test_a_database_of_a_newer_hub_is_not_touched(database: str) -> None:
    Store.open(database).close()
    with engine(database).connect() as connection:
        connection.exec_driver_sql("UPDATE counters SET value = 99 WHERE name = 'schema'")
    with pytest.raises(PermanentError, match="schema 99"):
        Store.open(database)
