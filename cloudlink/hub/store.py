"""The hub's memory: Kubernetes objects and small records, on disk before anybody is told, in RAM for reading.

One process writes; every commit is one transaction and one fsync, all or nothing. Reads never touch the
database. What SQLite needs beyond SQL that every database speaks is in `_engine`, nowhere else.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from sqlalchemy import Connection, Engine, bindparam, create_engine, delete, event, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cloudlink.hub.changes import (
    Change,
    Create,
    Delete,
    DeleteRecord,
    MarkDeleted,
    PutRecord,
    RecordChange,
    Update,
    UpdateStatus,
)
from cloudlink.hub.errors import AlreadyExists, Conflict, Gone, NotFound, StoreError, Terminating
from cloudlink.hub.revisions import EVENTS_KEPT, Draft, draft
from cloudlink.hub.shelves import Key, Objects, key_of
from cloudlink.hub.tables import COUNTERS, OBJECTS, RECORDS, SCHEMA_VERSION, create_tables
from cloudlink.hub.watch import HISTORY_EVENTS, READER_EVENTS, History, Subscription, WatchEvent
from cloudlink.kube.core import Namespace
from cloudlink.kube.errors import Invalid
from cloudlink.kube.meta import KubeObject, ObjectMeta
from cloudlink.kube.parse import dump, revive
from edged.errors import PermanentError, RetryError

__all__ = [
    "AlreadyExists",
    "Change",
    "Conflict",
    "Create",
    "Delete",
    "DeleteRecord",
    "Gone",
    "MarkDeleted",
    "NotFound",
    "PutRecord",
    "Store",
    "StoreError",
    "Subscription",
    "Terminating",
    "Update",
    "UpdateStatus",
    "WatchEvent",
]

FIRST_NAMESPACES = ("default", "kube-system")

Stored = list[KubeObject]  # a name of its own, because Store.list shadows the type inside the class

_encode = msgspec.json.Encoder().encode


def _engine(url: str) -> Engine:
    """The one place that knows which database it is."""
    engine = create_engine(url, hide_parameters=True)  # errors are logged and answered; Secrets aren't
    if make_url(url).get_backend_name() == "sqlite":
        if file := make_url(url).database:
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # the journal beside it gets the same mode

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: object) -> None:
            # FULL: in WAL mode only this fsyncs each commit; NORMAL would lose acknowledged ones in a power cut.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
                connection.execute(f"PRAGMA {pragma}")

    return engine


class _Seal:
    """Secrets at rest: encrypted with the hub's key where there is one."""

    def __init__(self, key: bytes | None) -> None:
        self._box = SecretBox(key) if key is not None else None

    def close(self, kind: str, raw: bytes) -> tuple[bytes, bool]:
        if kind == "Secret" and self._box is not None:
            return bytes(self._box.encrypt(raw)), True
        return raw, False

    def open(self, row: Any) -> bytes:
        if not row.sealed:
            return bytes(row.data)
        if self._box is None:
            raise PermanentError("the hub's database holds encrypted Secrets; start the hub with its secret key file")
        try:
            return bytes(self._box.decrypt(row.data))
        except CryptoError as e:
            raise PermanentError(
                f'Secret "{row.namespace}/{row.name}" was encrypted with another key than the one given;'
                " start the hub with the key file that belongs to this database"
            ) from e


def _room(engine: Engine) -> float:
    """Bytes free where the database's file is; infinite where it is a server's business."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return float("inf")
    stat = os.statvfs(engine.url.database)
    return stat.f_bavail * stat.f_frsize


class Store:
    """Use from one thread at a time: the event loop's. See changes.py for what can be committed."""

    def __init__(self, engine: Engine, now: Callable[[], float], secret_key: bytes | None, events_kept: int) -> None:
        self._now = now
        self._events_kept = events_kept
        self._seal = _Seal(secret_key)
        self._objects = Objects()
        self._raw: dict[Key, bytes] = {}
        self._records: dict[str, dict[str, bytes]] = {}
        self._readers: set[Subscription] = set()
        self._engine = engine
        self._db: Connection = engine.connect()
        self.revision = 0
        self._refused = ""  # what the database said when it took nothing last
        try:
            self._load()
        except BaseException:
            self._db.close()
            raise
        self._history = History(self.revision, HISTORY_EVENTS)

    @classmethod
    def open(
        cls,
        url: str,
        now: Callable[[], float] = time.time,
        secret_key: bytes | None = None,
        events_kept: int = EVENTS_KEPT,
    ) -> Self:
        """Open or make the database at an SQLAlchemy URL ("sqlite:////var/lib/cloudlink/hub.db").

        :param now: wall clock, Unix seconds.
        :param secret_key: 32 bytes; Secrets are then encrypted at rest.
        :raises PermanentError: wrong key, a newer schema, a row that can't be read.
        :raises RetryError: the database can't be reached.
        """
        try:
            engine = _engine(url)
            try:
                create_tables(engine)
                store = cls(engine, now, secret_key, events_kept)
            except BaseException:
                engine.dispose()
                raise
        except (SQLAlchemyError, OSError) as e:
            raise RetryError(f"the hub's database can't be opened ({url.rpartition('@')[2]}): {e}") from e
        missing = [n for n in FIRST_NAMESPACES if store.get("Namespace", None, n) is None]
        store.commit([Create(Namespace(metadata=ObjectMeta(name=n))) for n in missing])
        return store

    def _load(self) -> None:
        with self._db.begin():
            counters = {row.name: row.value for row in self._db.execute(select(COUNTERS.c.name, COUNTERS.c.value))}
            if not counters:
                fresh = [{"name": "revision", "value": 0}, {"name": "schema", "value": SCHEMA_VERSION}]
                self._db.execute(insert(COUNTERS), fresh)
                return
            if counters["schema"] > SCHEMA_VERSION:
                raise PermanentError(
                    f"the hub's database has schema {counters['schema']}, this hub knows up to {SCHEMA_VERSION};"
                    " start the newer hub"
                )
            self.revision = counters["revision"]
            for row in self._db.execute(select(OBJECTS)):
                self._take(self._seal.open(row), f'{row.kind} "{row.namespace}/{row.name}"')
            for row in self._db.execute(select(RECORDS)):
                self._records.setdefault(row.bucket, {})[row.key] = bytes(row.value)

    def _take(self, raw: bytes, title: str) -> None:
        try:
            obj = revive(msgspec.json.decode(raw))
        except (Invalid, msgspec.DecodeError) as e:
            raise PermanentError(f"the hub's database holds {title}, which this hub can't read: {e}") from e
        self._objects.put(obj)
        self._raw[key_of(obj)] = raw

    # ------------------------------------------------------------ reading

    def get(self, kind: str, namespace: str | None, name: str) -> KubeObject | None:
        return self._objects.get((kind, namespace or "", name))

    def list(self, kind: str, namespace: str | None = None) -> Stored:
        """All of a kind, or those of one namespace, ordered by namespace and name."""
        return self._objects.list(kind, namespace or None)

    def page(self, kind: str, namespace: str | None, after: tuple[str, str] | None, limit: int) -> tuple[Stored, int]:
        """Up to `limit` objects in the order of `list`, from behind (namespace, name) on, and how many follow them."""
        found = self._objects.page(kind, namespace or None, after, limit)
        if len(found) < limit:
            return found, 0
        last = found[-1].metadata
        return found, self._objects.count_after(kind, namespace or None, (last.namespace, last.name))

    def raw(self, obj: KubeObject) -> bytes:
        """A stored object as JSON, encoded when it was written; encoded now if it is another revision."""
        there = self._objects.get(key_of(obj))
        return self._raw[key_of(obj)] if there is obj else _encode(dump(obj))

    def subscribe(self, kinds: frozenset[str] | None = None, since: int | None = None) -> Subscription:
        """Follow changes after revision `since` (None: from now on). Gone if that is no longer known."""
        past: Sequence[WatchEvent] = ()
        if since is not None:
            if since > self.revision:
                raise Gone(f"resource version {since} is in the future ({self.revision}); list again")
            past = self._history.since(since, kinds)
        return Subscription(self._readers, kinds, past, READER_EVENTS)

    # ------------------------------------------------------------ writing

    def commit(self, changes: Sequence[Change]) -> Stored:
        """Do all changes in one transaction, or none.

        Returns what became of each object named by a change, in order; records (and Events whose namespace is
        gone) have no place in it. Readers hear of it only once it is on disk.

        :raises StoreError: NotFound, AlreadyExists, Conflict, Terminating; nothing has happened.
        :raises RetryError: the database failed; nothing has happened.
        """
        of_records = [c for c in changes if isinstance(c, RecordChange) and self._differs(c)]
        work, results = self._draft(changes)
        if work.writes or of_records:
            encoded = [_encode(dump(w.object)) for w in work.writes]
            self._persist(work, encoded, of_records)
            self._publish(work, encoded, of_records)
        return [obj for obj in results if obj is not None]

    def preview(self, changes: Sequence[Change]) -> Stored:
        """What commit() would return, and its errors; nothing is done."""
        return [obj for obj in self._draft(changes)[1] if obj is not None]

    def _draft(self, changes: Sequence[Change]) -> tuple[Draft, Sequence[KubeObject | None]]:
        of_objects = [c for c in changes if not isinstance(c, RecordChange)]
        return draft(
            self._objects, of_objects, self.revision, self._now(), lambda: str(uuid.uuid4()), self._events_kept
        )

    def _differs(self, change: RecordChange) -> bool:
        there = self._records.get(change.bucket, {}).get(change.key)
        return there != change.value if isinstance(change, PutRecord) else there is not None

    def _persist(self, work: Draft, encoded: Sequence[bytes], records: Sequence[RecordChange]) -> None:
        rows: dict[Key, dict[str, Any] | None] = {}
        for write, raw in zip(work.writes, encoded, strict=True):
            key = key_of(write.object)
            data, sealed = self._seal.close(key[0], raw)
            row = {"key_kind": key[0], "key_namespace": key[1], "key_name": key[2]}
            row |= {"revision": write.revision, "sealed": sealed, "data": data}  # type: ignore[dict-item]
            rows[key] = None if write.type == "DELETED" else row
        there = {key for key in rows if self._objects.get(key) is not None}
        updates = [row for key, row in rows.items() if row and key in there]
        inserts = [row for key, row in rows.items() if row and key not in there]
        deletes = [
            dict(zip(("key_kind", "key_namespace", "key_name"), key, strict=True))
            for key, row in rows.items()
            if row is None and key in there
        ]
        db = self._db
        try:
            with db.begin():
                moved = db.execute(_MOVE_REVISION, {"was": self.revision, "becomes": work.revision})
                if moved.rowcount != 1:
                    raise PermanentError(
                        "another process has written to this hub's database; only one hub may use it: stop one of them"
                    )
                for statement, batch in ((_DELETE, deletes), (_UPDATE, updates), (_INSERT, inserts)):
                    if batch:
                        db.execute(statement, batch)
                for change in records:
                    self._persist_record(change)
        except SQLAlchemyError as e:
            told = e.orig if isinstance(e, DBAPIError) else e  # without the statement and SQLAlchemy's own links
            self._refused = str(told)
            raise RetryError(f"the hub's database refused a commit, nothing of it was done: {told}") from e
        self._refused = ""

    def trouble(self) -> str:
        """Why changes can't be saved, "" while all is well.

        Looked at anew only after a refusal, by writing the revision that is there: a hub that is well writes nothing
        for being asked. On a disk without room for one large object the refusal stands.
        """
        if self._refused:
            try:
                with self._db.begin():
                    self._db.execute(_MOVE_REVISION, {"was": self.revision, "becomes": self.revision})
            except SQLAlchemyError as e:
                self._refused = str(e.orig if isinstance(e, DBAPIError) else e)
            else:
                if _room(self._engine) >= ROOM:
                    self._refused = ""
        return self._refused

    def _persist_record(self, change: RecordChange) -> None:
        where = {"key_bucket": change.bucket, "key_key": change.key}
        if isinstance(change, DeleteRecord):
            self._db.execute(_DELETE_RECORD, where)
        elif self._db.execute(_UPDATE_RECORD, where | {"value": change.value}).rowcount == 0:
            self._db.execute(_INSERT_RECORD, where | {"value": change.value})

    def _publish(self, work: Draft, encoded: Sequence[bytes], records: Sequence[RecordChange]) -> None:
        self.revision = work.revision
        for record in records:
            bucket = self._records.setdefault(record.bucket, {})
            if isinstance(record, PutRecord):
                bucket[record.key] = record.value
            else:
                bucket.pop(record.key, None)
        for write, raw in zip(work.writes, encoded, strict=True):
            key = key_of(write.object)
            if write.type == "DELETED":
                self._objects.remove(key)
                self._raw.pop(key, None)
            else:
                self._objects.put(write.object)
                self._raw[key] = raw
            told = WatchEvent(write.type, key[0], write.object, write.revision, write.before, raw)
            self._history.add(told)
            for reader in tuple(self._readers):
                reader.offer(told)

    # ------------------------------------------------------------ records

    def put_record(self, bucket: str, key: str, value: bytes) -> None:
        self.commit([PutRecord(bucket, key, value)])

    def get_record(self, bucket: str, key: str) -> bytes | None:
        return self._records.get(bucket, {}).get(key)

    def records(self, bucket: str) -> dict[str, bytes]:
        return dict(self._records.get(bucket, {}))

    def delete_record(self, bucket: str, key: str) -> None:
        self.commit([DeleteRecord(bucket, key)])

    def close(self) -> None:
        """End every subscription and let go of the database."""
        for reader in tuple(self._readers):
            reader.close()
        self._db.close()
        self._engine.dispose()


# Compiled once. Parameters are named apart from the columns, because an UPDATE would take those as new values.
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
_UPDATE_RECORD = update(RECORDS).where(*_THIS_RECORD).values(value=bindparam("value"))
_DELETE_RECORD = delete(RECORDS).where(*_THIS_RECORD)
ROOM = 2 << 20  # bytes: the largest object that is taken, and its index
_MOVE_REVISION = (
    update(COUNTERS)
    .where(COUNTERS.c.name == "revision", COUNTERS.c.value == bindparam("was"))
    .values(value=bindparam("becomes"))
)
