"""A session at a PostgreSQL that several hubs share: the log of commits, who leads, and how both are heard of.

One connection does everything. So a hub whose connection is gone has lost the lead with it and can commit nothing as
the leader, whatever it believes; and the server gives the lead to the next as soon as it has noticed, which keepalives
and timeouts see to where a machine vanished or a process was stopped.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, bindparam, create_engine, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from cloudlink.hub import entries
from cloudlink.hub.database import Content, Database
from cloudlink.hub.entries import Commit, SealedWrite
from cloudlink.hub.tables import CHANGES, COUNTERS
from edged.errors import PermanentError, RetryError

try:
    import psycopg
except ImportError as e:  # an extra of its own
    raise PermanentError("PostgreSQL needs its driver: pip install 'edged[postgresql]'") from e

log = logging.getLogger(__name__)

CHANNEL = "edgehub"
LEADER, MIGRATION = 0x656467656875_6201, 0x656467656875_6202  # advisory locks; one database is one fleet
COMMITS_KEPT = 4096  # in the log; who is further behind reads everything anew
BYTES_KEPT = 64 << 20  # likewise, whichever is met first
TRIM_EVERY = 64  # commits

# Seconds after which a silent peer is given up, on either side; a stopped leader is replaced after IDLE. The server is
# to give up first (LOCK, STATEMENT); ANSWER is for one that stands still, whose kernel goes on answering for it.
CONNECT, IDLE, LOCK, STATEMENT, ANSWER = 3, 10, 5, 6, 8
WHOLE = 600  # seconds for reading everything, or waiting for another hub that changes the schema
_CLIENT = {
    "connect_timeout": CONNECT,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "application_name": "edgehub",
}
_SERVER = (
    "SET tcp_keepalives_idle = 3",
    "SET tcp_keepalives_interval = 1",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 6000",
    f"SET lock_timeout = '{LOCK}s'",
    f"SET statement_timeout = '{STATEMENT}s'",
    f"SET idle_in_transaction_session_timeout = '{IDLE}s'",  # a stopped hub must not hold the lock that all need
)


class _Connection(psycopg.Connection[Any]):
    """:ivar patience: seconds to wait for anything; then the session is over. The driver would wait for ever."""

    patience: float = ANSWER

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as e:
            self.pgconn.finish()  # in the middle of something: nothing more can be said on it
            raise psycopg.OperationalError(f"the server has not answered for {self.patience:g} s") from e


class PostgreSQL(Database):
    """:ivar noticed: called when the server has said something: another hub has committed, or the session is over.
    :ivar ending: called before the session's socket is closed; its number may be another's right after that.
    """

    shared = True

    def __init__(self, url: str, seal: entries.Seal) -> None:
        super().__init__(url, seal)
        self.noticed: Callable[[], None] = lambda: None
        self.ending: Callable[[], None] = lambda: None
        self.followed = False  # somebody keeps the session: then nobody else waits for a new one
        self._pid = 0
        self._terms = 0
        self._leads = False

    def _make_engine(self) -> Engine:
        url = make_url(self._url).set(drivername="postgresql+psycopg")
        _, options = url.get_dialect()().create_connect_args(url)
        return create_engine(
            url,
            hide_parameters=True,
            poolclass=NullPool,
            creator=lambda: _Connection.connect(**{**_CLIENT, **options}),
        )

    # ------------------------------------------------------------ the session

    def _make_private(self) -> None:
        """Who may read it is the server's business."""

    def _keep_others_out(self, connection: Connection) -> None:
        _driver(connection).patience = WHOLE
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION})

    def connect(self) -> None:
        self.adopt(self.new_session())

    def new_session(self) -> Connection:
        """A connection that is set up, not yet used; may be called in a thread, and blocks for up to CONNECT seconds.

        :raises RetryError: it can't be reached.
        """
        try:
            connection = self._engine.connect()
            try:
                raw = _driver(connection)
                raw.autocommit = True
                for words in _SERVER:
                    raw.execute(words)
                _be_honest(raw)
                raw.execute(f"LISTEN {CHANNEL}")
                raw.autocommit = False
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
        except (SQLAlchemyError, psycopg.Error) as e:
            raise RetryError(f"the hub's database can't be reached: {str(getattr(e, 'orig', e)).strip()}") from e
        return connection

    def adopt(self, session: Connection) -> None:
        """From now on everything is done with this one."""
        self._db = session
        self.lost = ""
        with self._raw() as raw:
            self._pid = raw.info.backend_pid
            raw.add_notify_handler(lambda notify: self._notice(notify.pid))

    def _notice(self, pid: int) -> None:
        """A hub has committed, or given up the lead; what this one did is known here already."""
        if pid != self._pid:
            self.noticed()

    def lose(self, why: object) -> None:
        if self._leads:
            log.warning("this hub no longer leads: %s", why)
        self._leads = False
        self.ending()
        super().lose(why)
        self.noticed()

    def close(self) -> None:
        self.resign()
        self.ending()
        super().close()

    def ensure(self, caught_up: Callable[[], None]) -> None:
        if self.lost and not self.followed and self.lost != "closed":
            self.connect()
            caught_up()
        super().ensure(caught_up)

    @contextlib.contextmanager
    def _raw(self) -> Iterator[psycopg.Connection[Any]]:
        """The driver's own connection, for single statements outside of any transaction: one round trip each."""
        db = self.db
        try:
            raw = _driver(db)
            raw.autocommit = True
            try:
                yield raw
            finally:
                if not raw.closed:
                    raw.autocommit = False
        except (psycopg.Error, SQLAlchemyError) as e:
            self.lose(e)
            raise RetryError(f"the hub's database can't be reached: {str(e).strip()}") from e

    def fileno(self) -> int:
        """To wait on: readable when the server says something."""
        with self._raw() as raw:
            return raw.fileno()

    def hear(self) -> None:
        """Take in what the server has said by itself, without waiting for anything."""
        with contextlib.suppress(RetryError), self._raw() as raw:
            raw.pgconn.consume_input()
            while (notify := raw.pgconn.notifies()) is not None:
                self._notice(notify.be_pid)

    def heartbeat(self, wants_to_lead: bool) -> None:
        """Say that this hub is alive; become the leader if it wants to and nobody is.

        :raises RetryError: the session is over.
        """
        with self._raw() as raw:
            if wants_to_lead and not self._leads:
                row = raw.execute("SELECT pg_try_advisory_lock(%s)", (LEADER,)).fetchone()
                if row is not None and row[0]:
                    self._leads = True
                    self._terms += 1
                    log.info("this hub leads")
            else:
                raw.execute("SELECT 1")

    def expect_heartbeats(self) -> None:
        """From now on the server ends this session when it hears nothing for IDLE seconds."""
        with self._raw() as raw:
            if raw.info.server_version >= 140000:
                raw.execute(f"SET idle_session_timeout = '{IDLE}s'")

    def resign(self) -> None:
        """Let another hub lead, and tell it so."""
        if self._leads and not self.lost:
            self._leads = False
            with contextlib.suppress(RetryError), self._raw() as raw:
                raw.execute("SELECT pg_advisory_unlock(%s)", (LEADER,))
                raw.execute(f"NOTIFY {CHANNEL}")

    @property
    def term(self) -> int:
        return self._terms if self._leads and not self.lost else 0

    # ------------------------------------------------------------ the log

    def newest(self, known: int) -> int:
        with self._raw() as raw:
            row = raw.execute("SELECT value FROM counters WHERE name = 'position'").fetchone()
            assert row is not None
            return int(row[0])

    def since(self, position: int, until: int | None = None) -> Sequence[Commit] | None:
        if self.db.in_transaction():
            rows = self.db.execute(_SINCE, {"known": position}).all()
        else:
            with self._transaction() as db:
                self._freeze(db)
                until = db.execute(_POSITION).scalar_one()
                rows = db.execute(_SINCE, {"known": position}).all()
        if [row.position for row in rows] != list(range(position + 1, (until or position) + 1)):
            return None
        return [entries.decode(row.position, row.data, self.seal) for row in rows]

    def _log(self, commit: Commit, sealed: Sequence[SealedWrite]) -> None:
        data = entries.encode(commit, sealed)
        row = {"revision": commit.revision, "position": commit.position, "size": len(data), "data": data}
        self.db.execute(_APPEND, row)
        if commit.position % TRIM_EVERY == 0:
            self.db.execute(_TRIM, {"oldest": commit.position - COMMITS_KEPT, "most": BYTES_KEPT})

    @contextlib.contextmanager
    def reading(self) -> Iterator[Content]:
        raw = _driver(self.db)
        raw.patience = WHOLE
        try:
            with super().reading() as content:
                self.db.execute(text("SET LOCAL statement_timeout = 0"))
                yield content
        finally:
            raw.patience = ANSWER

    def _freeze(self, db: Connection) -> None:
        db.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))

    def _room(self) -> float:
        return float("inf")  # the server's business


def _driver(connection: Connection) -> _Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, _Connection)
    return raw


def _be_honest(raw: psycopg.Connection[Any]) -> None:
    """An acknowledged commit is on disk: raise what the server was set to, where it was set lower."""
    rows = raw.execute("SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit')").fetchall()
    settings = dict(rows)
    if settings.get("synchronous_commit") == "off":
        raw.execute("SET synchronous_commit = on")
    if settings.get("fsync") == "off":
        log.warning("the PostgreSQL server has fsync = off: a power cut there can lose or spoil everything")


_POSITION = select(COUNTERS.c.value).where(COUNTERS.c.name == "position")
_SINCE = (
    select(CHANGES.c.position, CHANGES.c.data)
    .where(CHANGES.c.position > bindparam("known"))
    .order_by(CHANGES.c.position)
)
_APPEND = text(  # in one round trip: log it, move the revision, tell the others
    "WITH logged AS (INSERT INTO changes (position, size, data) VALUES (:position, :size, :data)),"
    " moved AS (UPDATE counters SET value = :revision WHERE name = 'revision')"
    f" SELECT pg_notify('{CHANNEL}', '')"
)
_TRIM = text(
    "DELETE FROM changes WHERE position <= :oldest OR position <= (SELECT max(position) FROM (SELECT position,"
    " sum(size) OVER (ORDER BY position DESC) AS total FROM changes) AS sizes WHERE total > :most)"
)
