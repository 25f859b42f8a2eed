"""One session at the hub's database: the only queries. This is SQLite; postgresql.py has what is different there.

Every commit is one transaction, on disk before it returns, all or nothing. It begins by counting up `position`, which
takes the lock that all writers need, and tells whether somebody else has written meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cloudlink.hub import entries, migrate
from cloudlink.hub.changes import DeleteRecord, RecordChange
from cloudlink.hub.entries import Commit, Seal, SealedWrite
from cloudlink.hub.shelves import Key
from cloudlink.hub.tables import COUNTERS, OBJECTS, RECORDS
from edged.errors import PermanentError, RetryError

BUSY_MS = 5000  # to wait for a backup's short lock, or for another hub that is about to be refused
ROOM = 2 << 20  # bytes: the largest object that is taken, and its index


class Content(NamedTuple):
    """Everything, as of one moment. `objects` and `records` are read as they are asked for, within `reading`."""

    position: int
    revision: int
    objects: Iterator[tuple[Key, bytes]]
    records: Iterator[tuple[str, str, bytes]]


class Database:
    """Use from one thread at a time.

    :cvar shared: whether other hubs may be at work in it.
    :ivar lost: why there is no session now, "" while there is one.
    :ivar refused: what the database said when it took nothing last.
    """

    shared = False

    def __init__(self, url: str, seal: Seal) -> None:
        self._url = url
        self.seal = seal
        self._only_reads = False
        self._engine = self._make_engine()
        self._db: Connection | None = None
        self.lost = "not opened yet"
        self.refused = ""

    def _make_engine(self) -> Engine:
        engine = create_engine(self._url, hide_parameters=True)  # errors are logged and answered; Secrets aren't

        @event.listens_for(engine, "connect")
        def _connected(connection: Any, _record: object) -> None:
            connection.isolation_level = None  # the driver would begin transactions by its own rules, and not for DDL
            # FULL: in WAL mode only this fsyncs each commit; NORMAL would lose acknowledged ones in a power cut.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN" if self._only_reads else "BEGIN IMMEDIATE")

        return engine

    # ------------------------------------------------------------ the session

    def open(self) -> None:
        """Bring the tables to today's schema and begin a session.

        :raises PermanentError: a newer hub has been here.
        :raises RetryError: it can't be reached.
        """
        try:
            self._make_private()
            with self._engine.begin() as connection:
                self._keep_others_out(connection)
                migrate.upgrade(connection)
            self.connect()
        except (SQLAlchemyError, OSError) as e:
            place = self._url.rpartition("@")[2]
            told = e.orig if isinstance(e, DBAPIError) else e
            raise RetryError(f"the hub's database can't be opened ({place}): {told}") from e

    def open_to_read(self) -> None:
        """For `reading` alone, beside a hub that may be at work.

        :raises PermanentError: there is no hub's database, or its schema isn't today's.
        :raises RetryError: it can't be reached.
        """
        place = self._url.rpartition("@")[2]
        self._only_reads = True
        if self._engine.dialect.name == "sqlite" and not Path(self._engine.url.database or "").is_file():
            raise PermanentError(f"there is no hub's database at {place}")
        try:
            with self._engine.connect() as connection:
                found = migrate.schema_of(connection)
            self.connect()
        except SQLAlchemyError as e:
            told = e.orig if isinstance(e, DBAPIError) else e
            raise RetryError(f"the hub's database can't be read ({place}): {told}") from e
        if found != migrate.TODAY:
            raise PermanentError(
                f"the hub's database ({place}) has schema {found}, not {migrate.TODAY}; use the edgehub that belongs"
                " to it, or start the hub once with this one"
            )

    def _make_private(self) -> None:
        if file := self._engine.url.database:
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # the journal beside it gets the same mode

    def _keep_others_out(self, connection: Connection) -> None:
        """BEGIN IMMEDIATE does."""

    def connect(self) -> None:
        self._db = self._engine.connect()
        self.lost = ""

    def lose(self, why: object) -> None:
        """This session is over; whatever it held is free."""
        self.lost = str(why).strip() or "the connection ended"
        if self._db is not None:
            with contextlib.suppress(SQLAlchemyError, OSError):
                self._db.invalidate()
                self._db.close()
            self._db = None

    def close(self) -> None:
        self.lost = "closed"
        if self._db is not None:
            self._db.close()
            self._db = None
        self._engine.dispose()

    @property
    def db(self) -> Connection:
        if self._db is None:
            raise RetryError(f"the hub's database can't be reached: {self.lost}")
        return self._db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """One, all or nothing; errors in our words, and a dead session let go."""
        db = self.db
        try:
            with db.begin():
                yield db
        except SQLAlchemyError as e:
            told = e.orig if isinstance(e, DBAPIError) else e  # without the statement and SQLAlchemy's own links
            self.refused = str(told).strip()
            if isinstance(e, DBAPIError) and e.connection_invalidated:
                self.lose(told)
                raise RetryError(f"the hub's database was lost, what was asked may not have been done: {told}") from e
            raise RetryError(f"the hub's database refused a commit, nothing of it was done: {told}") from e

    # ------------------------------------------------------------ other hubs

    @property
    def term(self) -> int:
        """Which time it is that this hub leads; 0 while it doesn't. The only hub always does."""
        return 1

    def ensure(self, caught_up: Callable[[], None]) -> None:
        """Have a session; after a new one had to be made, `caught_up` is called. RetryError if there can't be one."""
        self.db  # noqa: B018

    def newest(self, known: int) -> int:
        """The position of the last commit, of whatever hub."""
        return known

    def since(self, position: int, until: int | None = None) -> Sequence[Commit] | None:
        """Commits after a position, in order; None where some of them are no longer known.

        :param until: the position that the last of them must have; None = whatever is there.
        """
        raise PermanentError(
            "another process has written to this hub's database; only one hub may use it: stop one of them"
        )

    # ------------------------------------------------------------ reading

    @contextlib.contextmanager
    def reading(self) -> Iterator[Content]:
        """A view of everything that doesn't move while it is read."""
        with self._transaction() as db:
            self._freeze(db)
            rows = db.execute(select(COUNTERS.c.name, COUNTERS.c.value))
            counters: dict[str, int] = {row.name: row.value for row in rows}
            yield Content(counters["position"], counters["revision"], self._objects(db), self._records(db))

    def _freeze(self, db: Connection) -> None:
        """SQLite's transactions see one state."""

    def _objects(self, db: Connection) -> Iterator[tuple[Key, bytes]]:
        for row in db.execute(_ALL_OBJECTS):
            key = (row.kind, row.namespace, row.name)
            yield key, self.seal.open(key, row.sealed, row.data)

    def _records(self, db: Connection) -> Iterator[tuple[str, str, bytes]]:
        for row in db.execute(select(RECORDS)):
            yield row.bucket, row.key, bytes(row.value)

    # ------------------------------------------------------------ writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[int]:
        """A transaction in which nobody else can commit; gives the position that the last commit has.

        :raises RetryError: the database failed; nothing has happened, unless the message says that it may have.
        """
        with self._transaction() as db:
            position: int = db.execute(_NEXT).scalar_one()
            yield position - 1
        self.refused = ""

    def write(self, commit: Commit) -> None:
        """Within `writing`: everything that belongs to a commit."""
        db = self.db
        sealed = entries.seal(commit, self.seal)
        deletes, updates, inserts = _rows(sealed)
        for statement, batch in ((_DELETE, deletes), (_UPDATE, updates), (_INSERT, inserts)):
            if batch:
                db.execute(statement, batch)
        self._write_records(commit.records)
        self._log(commit, sealed)

    def _log(self, commit: Commit, sealed: Sequence[SealedWrite]) -> None:
        """Move the revision; nobody else follows an SQLite file."""
        if commit.writes:
            self.db.execute(_SET_REVISION, {"becomes": commit.revision})

    def _write_records(self, changes: Sequence[RecordChange]) -> None:
        """Two statements, whatever their number: a commit of a fleet's reports has one for each node."""
        last = {(c.bucket, c.key): c for c in changes}
        if not last:
            return
        self.db.execute(_DELETE_RECORD, [{"key_bucket": bucket, "key_key": key} for bucket, key in last])
        rows = [
            {"key_bucket": c.bucket, "key_key": c.key, "value": c.value}
            for c in last.values()
            if not isinstance(c, DeleteRecord)
        ]
        if rows:
            self.db.execute(_INSERT_RECORD, rows)

    def trouble(self) -> str:
        """Why changes can't be saved, "" while all is well.

        Looked at anew only after a refusal, by writing the revision that is there: a hub that is well writes nothing
        for being asked. On a disk without room for one large object the refusal stands.
        """
        if self.lost:
            return self.lost
        if self.refused:
            try:
                with self._transaction() as db:
                    db.execute(_TOUCH)
            except RetryError:
                return self.refused
            if self._room() >= ROOM:
                self.refused = ""
        return self.refused

    def _room(self) -> float:
        """Bytes free where the database's file is."""
        if not self._engine.url.database:
            return float("inf")
        stat = os.statvfs(self._engine.url.database)
        return stat.f_bavail * stat.f_frsize


def _rows(sealed: Sequence[SealedWrite]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """What to delete, update and insert: each object once, however often the commit changed it."""
    last: dict[Key, SealedWrite] = {}
    there: set[Key] = set()
    for write in sealed:
        key = write.stored.key
        if key not in last and write.stored.type != "ADDED":
            there.add(key)
        last[key] = write
    deletes: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    inserts: list[dict[str, Any]] = []
    for key, write in last.items():
        where = dict(zip(("key_kind", "key_namespace", "key_name"), key, strict=True))
        row = where | {"revision": write.stored.revision, "sealed": write.sealed, "data": write.data}
        if write.stored.type != "DELETED":
            (updates if key in there else inserts).append(row)
        elif key in there:
            deletes.append(where)
    return deletes, updates, inserts


# Compiled once. Parameters are named apart from the columns, because an UPDATE would take those as new values.
# Definitions of kinds come first: the objects of such a kind can't be read without them.
_ALL_OBJECTS = select(OBJECTS).order_by(OBJECTS.c.kind != "CustomResourceDefinition").execution_options(yield_per=500)
_THIS_OBJECT = (
    OBJECTS.c.kind == bindparam("key_kind"),
    OBJECTS.c.namespace == bindparam("key_namespace"),
    OBJECTS.c.name == bindparam("key_name"),
)
_CONTENT: dict[str, Any] = {"revision": bindparam("revision"), "sealed": bindparam("sealed"), "data": bindparam("data")}
_INSERT = insert(OBJECTS).values(
    kind=bindparam("key_kind"), namespace=bindparam("key_namespace"), name=bindparam("key_name"), **_CONTENT
)
_UPDATE = update(OBJECTS).where(*_THIS_OBJECT).values(**_CONTENT)
_DELETE = delete(OBJECTS).where(*_THIS_OBJECT)
_THIS_RECORD = (RECORDS.c.bucket == bindparam("key_bucket"), RECORDS.c.key == bindparam("key_key"))
_INSERT_RECORD = insert(RECORDS).values(
    bucket=bindparam("key_bucket"), key=bindparam("key_key"), value=bindparam("value")
)
_DELETE_RECORD = delete(RECORDS).where(*_THIS_RECORD)
_NEXT = (
    update(COUNTERS)
    .where(COUNTERS.c.name == "position")
    .values(value=COUNTERS.c.value + literal_column("1"))
    .returning(COUNTERS.c.value)
)
_SET_REVISION = update(COUNTERS).where(COUNTERS.c.name == "revision").values(value=bindparam("becomes"))
_TOUCH = update(COUNTERS).where(COUNTERS.c.name == "revision").values(value=COUNTERS.c.value + literal_column("0"))
