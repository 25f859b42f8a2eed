"""The hub: the real store (SQLite), manager and exchange as one process that can be cut off at any commit, started
again, and restored from a backup."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cloudlink import trust
from cloudlink.hub import archive
from cloudlink.hub.changes import Change
from cloudlink.hub.database import Database
from cloudlink.hub.entries import Seal
from cloudlink.hub.exchange import Exchange, Link
from cloudlink.hub.listening import Listening
from cloudlink.hub.lives import Lives
from cloudlink.hub.manager import Manager
from cloudlink.hub.memory import Memory
from cloudlink.hub.store import Store
from cloudlink.kube.meta import KubeObject
from tests.simulation.broker import Broker
from tests.simulation.client import Cable, SimulatedClient
from tests.simulation.node import FLEET, is_cut, told
from tests.simulation.stage import BEGINNING, PowerCut, Stage

SUFFIXES = "bcdfghjklmnpqrstvwxz2456789"


class FragileDatabase(Database):
    """SQLite, and the power that goes at a commit: before it is on the disk, or right after.

    :ivar cut_in: commits until then; None = it holds.
    :ivar acknowledged: the newest revision that somebody was told of.
    """

    def __init__(self, url: str, stage: Stage) -> None:
        super().__init__(url, Seal(None))
        self._stage = stage
        self.cut_in: int | None = None
        self.dead = False
        self.commits = 0

    @contextmanager
    def writing(self) -> Iterator[int]:
        if self.dead:
            raise PowerCut
        now = self.cut_in == 0
        after = now and self._stage.chance(0.5)
        self.cut_in = self.cut_in - 1 if self.cut_in else self.cut_in
        with super().writing() as position:
            yield position
            if now and not after:
                self.dead = True
                raise PowerCut
        self.commits += 1
        if after:
            self.dead = True
            raise PowerCut


class SimulatedHub:
    """:ivar store: None while it is down."""

    def __init__(
        self,
        stage: Stage,
        broker: Broker,
        folder: Path,
        node_key: Callable[[str], bytes | None],
        open_database: Callable[[str, Stage], FragileDatabase] = FragileDatabase,
    ) -> None:
        self.stage, self._folder, self._node_key, self._open = stage, folder, node_key, open_database
        self.cable = Cable(stage, broker, "hub")
        self.signing_key = trust.generate_key()
        self.skew = 0.0
        self.store: Store | None = None
        self.manager: Manager | None = None
        self.exchange: Exchange | None = None
        self.lives = 0
        self.restored = 0
        self.on_start: Callable[[Store], None] = lambda _: None
        self._database: FragileDatabase | None = None
        self._task: asyncio.Task[None] | None = None
        self._uids = random.Random(stage.dice.random())
        self._names = random.Random(stage.dice.random())
        self._backups = itertools.count()
        self.backups: list[Path] = []
        self._file = folder / "hub.db"
        Store.open(self._url, self.now, new_uid=self._new_uid).close()

    @property
    def _url(self) -> str:
        return f"sqlite:///{self._file}"

    def now(self) -> float:
        """The hub's own clock."""
        return BEGINNING + self.stage.now + self.skew

    def _new_uid(self) -> str:
        return str(uuid.UUID(int=self._uids.getrandbits(128), version=4))

    def _suffix(self) -> str:
        return "".join(self._names.choices(SUFFIXES, k=5))

    # ------------------------------------------------------------ its life

    def start(self) -> None:
        if self.store is not None:
            return
        self.lives += 1
        self.cable.plugged = True
        database = self._database = self._open(self._url, self.stage)
        database.open()
        store = self.store = Store(Memory(), database, self.now, new_uid=self._new_uid)
        store.reload()
        self.on_start(store)
        listening = Listening()
        self.manager = Manager(store, self.now, self._suffix, Lives(listening=listening))
        self.exchange = Exchange(
            store,
            FLEET,
            Link("broker", 8884, lambda: None),  # type: ignore[arg-type,return-value]
            self.signing_key,
            self._node_key,
            self.now,
            listening=listening,
            client=functools.partial(SimulatedClient, self.cable),
        )
        self._task = self.stage.loop.create_task(self._live(self.manager, self.exchange), name="hub")

    async def _live(self, manager: Manager, exchange: Exchange) -> None:
        me = asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(exchange.run(), name="exchange")
                tasks.create_task(manager.run(), name="manager")
        except BaseException as e:
            if self._task is not me:
                return  # it has no power any more
            if is_cut(e):
                self.die()
                return
            self.stage.check(False, f"the hub fell over: {told(e)}")
            raise

    def cut_at_commit(self, number: int) -> None:
        if self._database is not None:
            self._database.cut_in = number

    def hold_together(self) -> None:
        """No commit is cut off any more."""
        if self._database is not None:
            self._database.cut_in = None

    def die(self, back_after: float | None = None) -> None:
        """At once. It comes back by itself."""
        if self.store is None:
            return
        self.stage.fault("hub killed", "hub")
        self.end()
        self.stage.loop.call_later(back_after or self.stage.dice.uniform(1.0, 600.0), self.start)

    def end(self) -> None:
        task, self._task = self._task, None
        database, store = self._database, self.store
        self.store = self.manager = self.exchange = self._database = None
        self.cable.unplug()
        if database is not None and store is not None:
            database.dead = True
            if task is not None and task is not asyncio.current_task():
                task.cancel()
            database.close()

    # ------------------------------------------------------------ people

    def commit(self, changes: Sequence[Change]) -> list[KubeObject]:
        """What somebody asks over the API; nothing where the hub is down, or dies of it."""
        if self.store is None:
            return []
        try:
            return self.store.commit(changes)
        except PowerCut:
            self.die()
            return []

    # ------------------------------------------------------------ backups

    def back_up(self) -> None:
        if self._database is None:
            return
        file = self._folder / f"backup-{next(self._backups)}.tgz"
        archive.backup(file, self._database, FLEET, {}, self.now())
        self.backups.append(file)
        while len(self.backups) > 3:
            self.backups.pop(0).unlink()

    def restore(self, backup: Path) -> None:
        """The disk is gone; what the last backups know is all there is."""
        self.end()
        for file in self._folder.glob("hub.db*"):
            file.unlink()
        database = Database(self._url, Seal(None))
        database.open()
        archive.restore(archive.Archive(backup), database)
        database.close()
        self.restored += 1
        self.start()
