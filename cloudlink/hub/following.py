"""Stays near to what other hubs on the same database do: hears of their commits, keeps the session, and sees whose
turn it is to lead. With SQLite there is nobody else: this hub leads for as long as it lives.

    session lost  ->  API says 503, no more leading  ->  a new session  ->  catch up  ->  watches go on where they were

Nothing here blocks the loop but single statements at a database that answers; waiting for one that doesn't is done in
a thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING

from cloudlink.hub.store import Store
from edged.errors import RetryError

if TYPE_CHECKING:
    from cloudlink.hub.postgresql import PostgreSQL

log = logging.getLogger(__name__)

HEARTBEAT = 1.0  # seconds; how late a free lead is noticed, and how often the server hears that this hub is alive
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between attempts to reach the database


class Following:
    """Run exactly one for each store, for as long as the store is used by a loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wake = asyncio.Event()  # the server has said something, or the session is over
        self._turned = asyncio.Event()  # the lead has changed; replaced each time
        self._known_term = 0

    async def run(self) -> None:
        """Until cancelled; then another hub may lead at once.

        :raises PermanentError: what another hub has written can't be read here.
        """
        database = self._store.database
        if not database.shared:
            await asyncio.Event().wait()
        from cloudlink.hub.postgresql import PostgreSQL

        assert isinstance(database, PostgreSQL)
        database.noticed = self._wake.set
        database.followed = True
        try:
            while True:
                try:
                    await self._session(database)
                except RetryError as e:
                    log.warning("%s; trying again", e)
                    self._note_term()
                    await self._find(database)
        finally:
            database.resign()
            database.followed = False
            database.noticed = lambda: None

    async def _session(self, database: PostgreSQL) -> None:
        """From a session to its loss, which is a RetryError."""
        database.expect_heartbeats()
        loop = asyncio.get_running_loop()
        file = database.fileno()
        loop.add_reader(file, database.hear)
        database.ending = functools.partial(_forget, loop, file)
        try:
            while True:
                self._wake.clear()
                database.heartbeat(wants_to_lead=True)
                self._store.refresh()
                self._note_term()
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            if not database.lost:
                database.ending()
            database.ending = lambda: None

    async def _find(self, database: PostgreSQL) -> None:
        """Wait for a database that answers, and be up to date with it."""
        delay = FIRST_DELAY
        while True:
            try:
                database.adopt(await asyncio.to_thread(database.new_session))
                self._store.catch_up()
            except RetryError as e:
                log.debug("%s; next try in %g s", e, delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                log.info("the hub's database is back")
                return

    # ------------------------------------------------------------ leading

    def _note_term(self) -> None:
        term = self._store.database.term
        if term != self._known_term:
            self._known_term = term
            self._turned.set()
            self._turned = asyncio.Event()

    async def term(self) -> int:
        """Wait until this hub leads; the number of its term, for Store.for_leader."""
        while not (term := self._store.database.term):
            await self._turned.wait()
        return term

    async def over(self, term: int) -> None:
        """Wait until that term is over."""
        while self._store.database.term == term:
            await self._turned.wait()


def _forget(loop: asyncio.AbstractEventLoop, file: int) -> None:
    loop.remove_reader(file)
