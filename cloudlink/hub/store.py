"""The hub's memory: Kubernetes objects and small records, on disk before anybody is told, in RAM for reading.

Every commit is one transaction, all or nothing. With SQLite one process is at work. On PostgreSQL several may be: each
has everything in RAM, follows the log of commits, and catches up before it commits or answers (following.py keeps it
near while nobody asks).
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Container, Sequence
from typing import Self

import msgspec

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
from cloudlink.hub.database import Database
from cloudlink.hub.databases import open_database
from cloudlink.hub.entries import Commit, Seal, Stored
from cloudlink.hub.errors import AlreadyExists, Conflict, Gone, NotFound, NotLeader, StoreError, Terminating
from cloudlink.hub.memory import Memory, RecordTold, Step
from cloudlink.hub.revisions import EVENTS_KEPT, Draft, draft
from cloudlink.hub.shelves import key_of
from cloudlink.hub.watch import Subscription, WatchEvent
from cloudlink.kube.catalogue import Catalogue
from cloudlink.kube.core import Namespace
from cloudlink.kube.meta import KubeObject, ObjectMeta
from cloudlink.kube.parse import dump
from cloudlink.kube.scheduling import SYSTEM_CLASSES

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
    "NotLeader",
    "PutRecord",
    "Store",
    "StoreError",
    "Subscription",
    "Terminating",
    "Update",
    "UpdateStatus",
    "WatchEvent",
]

log = logging.getLogger(__name__)

FIRST_NAMESPACES = ("default", "kube-system")

Found = list[KubeObject]  # a name of its own, because Store.list shadows the type inside the class

_encode = msgspec.json.Encoder().encode


def random_uid() -> str:
    return str(uuid.uuid4())


class _Work:
    """A commit worked out against what is in memory now."""

    def __init__(self, work: Draft, results: Sequence[KubeObject | None], records: Sequence[RecordChange]) -> None:
        self.revision = work.revision
        self.results = [obj for obj in results if obj is not None]
        self.records = records
        self.steps = [Step(w.type, w.object, w.before, w.revision, _encode(dump(w.object))) for w in work.writes]

    def __bool__(self) -> bool:
        return bool(self.steps or self.records)

    def at(self, position: int) -> Commit:
        writes = [Stored(s.type, key_of(s.object), s.revision, s.raw) for s in self.steps]
        return Commit(position, self.revision, writes, self.records)


class Store:
    """Use from one thread at a time: the event loop's. See changes.py for what can be committed.

    :ivar term: of a handle that `for_leader` gave; its commits end with that term. None = anybody's.
    """

    def __init__(
        self,
        memory: Memory,
        database: Database,
        now: Callable[[], float],
        events_kept: int = EVENTS_KEPT,
        term: int | None = None,
        new_uid: Callable[[], str] = random_uid,
    ) -> None:
        self._memory = memory
        self._database = database
        self._now = now
        self._events_kept = events_kept
        self._new_uid = new_uid
        self.term = term

    @classmethod
    def open(
        cls,
        url: str,
        now: Callable[[], float] = time.time,
        secret_key: bytes | None = None,
        events_kept: int = EVENTS_KEPT,
        new_uid: Callable[[], str] = random_uid,
    ) -> Self:
        """Open or make the database at an SQLAlchemy URL ("sqlite:////var/lib/cloudlink/hub.db",
        "postgresql://user:password@host/name").

        :param now: wall clock, Unix seconds.
        :param secret_key: 32 bytes; Secrets are then encrypted at rest.
        :param new_uid: gives each new object its uid, which must be unique for ever.
        :raises PermanentError: wrong key, a newer schema, a row that can't be read.
        :raises RetryError: the database can't be reached.
        """
        store = cls(Memory(), open_database(url, Seal(secret_key)), now, events_kept, new_uid=new_uid)
        try:
            store.reload()
            store._make_first_objects()
        except BaseException:
            store._database.close()
            raise
        return store

    def _make_first_objects(self) -> None:
        """What every cluster has."""
        for obj in (*(Namespace(metadata=ObjectMeta(name=name)) for name in FIRST_NAMESPACES), *SYSTEM_CLASSES):
            if self.get(obj.kind, None, obj.metadata.name) is None:
                try:
                    self.commit([Create(obj)])
                except AlreadyExists:
                    continue  # another hub opens the same new database

    def for_leader(self, term: int) -> Store:
        """The same store; its commits fail with NotLeader once this hub's `term` as the leader is over."""
        return Store(self._memory, self._database, self._now, self._events_kept, term, self._new_uid)

    # ------------------------------------------------------------ reading

    @property
    def revision(self) -> int:
        """The newest resourceVersion."""
        return self._memory.revision

    @property
    def catalogue(self) -> Catalogue:
        """Which kinds there are now."""
        return self._memory.catalogue

    @property
    def database(self) -> Database:
        """For following.py, which keeps its session."""
        return self._database

    @property
    def memory(self) -> Memory:
        """For branch.py, which copies it."""
        return self._memory

    def get(self, kind: str, namespace: str | None, name: str) -> KubeObject | None:
        return self._memory.objects.get((kind, namespace or "", name))

    def list(self, kind: str, namespace: str | None = None) -> Found:
        """All of a kind, or those of one namespace, ordered by namespace and name."""
        return self._memory.objects.list(kind, namespace or None)

    def page(self, kind: str, namespace: str | None, after: tuple[str, str] | None, limit: int) -> tuple[Found, int]:
        """Up to `limit` objects in the order of `list`, from behind (namespace, name) on, and how many follow them."""
        objects = self._memory.objects
        found = objects.page(kind, namespace or None, after, limit)
        if len(found) < limit:
            return found, 0
        last = found[-1].metadata
        return found, objects.count_after(kind, namespace or None, (last.namespace, last.name))

    def count(self, kind: str) -> int:
        return self._memory.objects.count(kind)

    def past(self, kind: str, revision: int) -> dict[tuple[str, str], KubeObject | None]:
        """By namespace and name: the objects of a kind that have changed since a revision, as they were then (None: not
        there). Gone if that is no longer known."""
        past: dict[tuple[str, str], KubeObject | None] = {}
        for told in self._memory.history.since(revision, frozenset({kind})):
            meta = told.object.metadata
            past.setdefault((meta.namespace, meta.name), told.before)
        return past

    def kinds(self) -> frozenset[str]:
        """What there is at least one object of (Resource.key)."""
        return self._memory.objects.kinds()

    def within(self, namespace: str) -> Found:
        """Everything that lives in a namespace, of whatever kind."""
        return sorted(self._memory.objects.within(namespace), key=key_of)

    def raw(self, obj: KubeObject) -> bytes:
        """A stored object as JSON, encoded when it was written; encoded now if it is another revision."""
        return self._memory.raw(obj)

    def subscribe(self, kinds: Container[str] | None = None, since: int | None = None) -> Subscription:
        """Follow changes after revision `since` (None: from now on). Gone if that is no longer known."""
        return self._memory.subscribe(kinds, since)

    def refresh(self) -> None:
        """See to it that everything acknowledged by any hub until now is in memory; costs nothing on SQLite.

        :raises RetryError: the database can't be reached, so that nobody knows what is newest.
        """
        self._database.ensure(self.catch_up)
        if self._database.newest(self._memory.position) != self._memory.position:
            self.catch_up()

    # ------------------------------------------------------------ writing

    def commit(self, changes: Sequence[Change]) -> Found:
        """Do all changes in one transaction, or none.

        Returns what became of each object named by a change, in order; records (and Events whose namespace is
        gone) have no place in it. Readers hear of it only once it is on disk.

        :raises StoreError: NotFound, AlreadyExists, Conflict, Terminating; nothing has happened.
        :raises RetryError: the database failed; nothing has happened, unless the message says that it may have.
        """
        self._database.ensure(self.catch_up)
        while True:
            work = self._work(changes)
            if not work:
                return work.results
            try:
                return self._carry_out(work, changes)
            except _BehindError:
                self.reload()

    def preview(self, changes: Sequence[Change]) -> Found:
        """What commit() would return, and its errors; nothing is done."""
        return self._work(changes).results

    def _work(self, changes: Sequence[Change]) -> _Work:
        of_objects = [c for c in changes if not isinstance(c, RecordChange)]
        of_records = [c for c in changes if isinstance(c, RecordChange) and self._memory.differs(c)]
        done, results = draft(
            self._memory.objects,
            of_objects,
            self._memory.revision,
            self._now(),
            self._new_uid,
            self._events_kept,
            self._memory.catalogue,
        )
        return _Work(done, results, of_records)

    def _carry_out(self, work: _Work, changes: Sequence[Change]) -> Found:
        """Where another hub was faster, it is worked out again while nobody else can commit: nobody starves."""
        memory, database = self._memory, self._database
        with contextlib.suppress(_NothingLeftError), database.writing() as there:
            self._check_term()
            if there != memory.position:
                self._take(database.since(memory.position, there))
                work = self._work(changes)
                if not work:
                    raise _NothingLeftError
            commit = work.at(there + 1)
            database.write(commit)
        if work:
            memory.take(commit.position, commit.revision, work.steps, work.records)
        return work.results

    def _check_term(self) -> None:
        if self.term is not None and self._database.term != self.term:
            raise NotLeader("another hub leads now")

    # ------------------------------------------------------------ other hubs

    def catch_up(self) -> None:
        """Take in what other hubs have committed since.

        :raises RetryError: the database can't be reached.
        """
        try:
            self._take(self._database.since(self._memory.position))
        except _BehindError:
            self.reload()

    def _take(self, commits: Sequence[Commit] | None) -> None:
        if commits is None:
            log.warning("this hub has missed commits that are no longer in the log; reading everything anew")
            raise _BehindError
        for commit in commits:
            self._memory.take_foreign(commit)

    def reload(self) -> None:
        """Read everything."""
        with self._database.reading() as content:
            self._memory.fill(content.position, content.revision, content.objects, content.records)

    def trouble(self) -> str:
        """Why changes can't be saved, "" while all is well."""
        return self._database.trouble()

    # ------------------------------------------------------------ records

    def put_record(self, bucket: str, key: str, value: bytes) -> None:
        self.commit([PutRecord(bucket, key, value)])

    def get_record(self, bucket: str, key: str) -> bytes | None:
        return self._memory.records.get(bucket, key)

    def records(self, bucket: str) -> dict[str, bytes]:
        return self._memory.records.all(bucket)

    def delete_record(self, bucket: str, key: str) -> None:
        self.commit([DeleteRecord(bucket, key)])

    def on_record(self, bucket: str, told: RecordTold) -> Callable[[], None]:
        """Call `told` with the key of each record of a bucket that changes, whichever hub changed it; returns what
        ends that. It is called in the middle of a commit and must not commit anything itself."""
        return self._memory.on_record(bucket, told)

    def close(self) -> None:
        """End every subscription and let go of the database."""
        for reader in tuple(self._memory.readers):
            reader.close()
        self._database.close()


class _BehindError(Exception):
    """The log no longer has what this hub has missed."""


class _NothingLeftError(Exception):
    """What was to be done is done already: by another hub, as we see now."""
