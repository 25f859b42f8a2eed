"""From whatever schema a database has to today's. Alembic is loaded only where there is something to do."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select

from cloudlink.hub.tables import COUNTERS, SCHEMA_VERSION
from edged.errors import PermanentError

log = logging.getLogger(__name__)

TODAY = SCHEMA_VERSION


def upgrade(connection: Connection) -> None:
    """Make or change the tables, in the caller's transaction; the caller holds a lock that keeps others out.

    :raises PermanentError: a newer hub has been here; nothing was changed.
    """
    found = schema_of(connection)
    if found > SCHEMA_VERSION:
        raise PermanentError(
            f"the hub's database has schema {found}, this hub knows up to {SCHEMA_VERSION}; start the newer hub"
        )
    if found == SCHEMA_VERSION:
        return
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    if found and not inspect(connection).has_table("alembic_version"):
        command.stamp(config, f"{found:04d}")  # made before there were migrations
        if connection.execute(select(COUNTERS.c.name)).first() is None:  # its making was interrupted
            first = [{"name": "revision", "value": 0}, {"name": "schema", "value": found}]
            connection.execute(insert(COUNTERS), first)
    command.upgrade(config, "head")
    if found:
        log.info("the database went from schema %d to %d", found, SCHEMA_VERSION)


def schema_of(connection: Connection) -> int:
    """The number that the database has; 0 where nothing was made yet."""
    if not inspect(connection).has_table("counters"):
        return 0
    found = connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == "schema")).scalar_one_or_none()
    return 1 if found is None else int(found)  # the first schema was made before its number was written
