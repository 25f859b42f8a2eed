"""Which kind of database a URL means. PostgreSQL's driver is loaded only where it is used."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from cloudlink.hub.database import Database
from cloudlink.hub.entries import Seal
from edged.errors import PermanentError


def open_database(url: str, seal: Seal) -> Database:
    """The right kind of Database for an SQLAlchemy URL, opened."""
    database = database_for(url, seal)
    try:
        database.open()
    except BaseException:
        database.close()
        raise
    return database


def database_for(url: str, seal: Seal) -> Database:
    """The same, not opened yet."""
    try:
        name = make_url(url).get_backend_name()
    except ArgumentError as e:
        raise PermanentError('`database` is no URL; write "postgresql://user:password@host/name"') from e
    if name == "sqlite":
        database = Database(url, seal)
    elif name == "postgresql":
        from cloudlink.hub.postgresql import PostgreSQL

        database = PostgreSQL(url, seal)
    else:
        raise PermanentError(f"the hub keeps its objects in SQLite or PostgreSQL, not in {url.partition(':')[0]!r}")
    return database
