"""A PostgreSQL of one's own: Debian's package, a cluster in a temporary folder, as an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy

from tests.ports import free_port

WAIT = 60


def programs() -> Path | None:
    """Where Debian keeps the server's programs; None where it isn't installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    return found[-1] if found and (found[-1] / "initdb").exists() else None


def engine(url: str) -> sqlalchemy.Engine:
    """Past the hub, at a database of either kind; each statement for itself, no connection kept."""
    url = url.replace("postgresql:", "postgresql+psycopg:")
    return sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)


class Cluster:
    """:ivar url: SQLAlchemy URL of a database; `database()` makes a new one beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        found = programs()
        assert found is not None
        self._bin = found
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    def _run(self, *words: str) -> None:
        account = self._account
        who = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        done = subprocess.run(
            [self._bin / words[0], *words[1:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WAIT,
            **who,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}{self.log()}"

    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text() if file.exists() else ""

    def make(self) -> None:
        if self._account is not None:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self._run("initdb", "-D", "data", "-U", "hub", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        settings = [
            "listen_addresses = '127.0.0.1'",
            f"port = {self.port}",
            f"unix_socket_directories = '{self.folder}'",
        ]
        with (self.folder / "data/postgresql.conf").open("a") as conf:
            conf.write("\n".join([*settings, "shared_buffers = 16MB", "max_connections = 40", ""]))

    def start(self) -> None:
        # Output must not be a pipe: the server keeps it, and nobody would see its end.
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", str(WAIT), "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", "data", "-m", mode, "-w", "-t", str(WAIT), "stop")

    @property
    def alive(self) -> bool:
        return (self.folder / "data/postmaster.pid").exists()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://hub@127.0.0.1:{self.port}/{database}"

    def execute(self, words: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with engine(self.url(database)).connect() as connection:
            found = connection.exec_driver_sql(words)
            return [tuple(row) for row in found] if found.returns_rows else []

    def database(self) -> str:
        """A new, empty database; its URL."""
        name = f"hub_{secrets.token_hex(4)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextlib.contextmanager
def a_cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="edged-pg-"))
    cluster = Cluster(folder)
    try:
        cluster.make()
        cluster.start()
        yield cluster
    finally:
        if cluster.alive:
            cluster.stop()
        shutil.rmtree(folder)
