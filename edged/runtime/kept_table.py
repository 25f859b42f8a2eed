"""A table of nftables that stays as it was applied: somebody removes it, and it is put back."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from edged.errors import EdgedError, PermanentError
from edged.runtime import nftables

log = logging.getLogger(__name__)

AGAIN = 5.0  # seconds after which a table that could not be put back is tried again


class KeptTable:
    """One table of family ip. Methods are called from one loop."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._script = ""  # that is in force; "" = none of ours
        self._lock = asyncio.Lock()
        self._watch = nftables.TableWatch(table, self._lost)
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    async def apply(self, script: str) -> None:
        """All of it or nothing; what was in force before stays where it fails.

        :param script: replaces the table, see `nftables.removal_script`.
        :raises PermanentError: nft is not installed.
        :raises RetryError: the kernel or nft refused.
        """
        self._watch.open()
        async with self._lock:
            await nftables.apply(script)
            self._script = script

    async def remove(self) -> None:
        """No such table; nothing happens where none is."""
        self._watch.close()
        async with self._lock:
            with contextlib.suppress(PermanentError):  # no nft, so no table
                await nftables.apply(nftables.removal_script(self._table))
            self._script = ""

    async def close(self) -> None:
        """Let go, touching nothing."""
        self._watch.close()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def _lost(self) -> None:
        if self._script and self._script != nftables.removal_script(self._table):
            log.warning("somebody removed the nftables table %s, or a part of it; putting it back", self._table)
            self._put_back_soon()

    def _put_back_soon(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._put_back(), name=f"put-back-{self._table}")

    async def _put_back(self) -> None:
        async with self._lock:
            try:
                if self._script:
                    await nftables.apply(self._script)
            except EdgedError as e:
                log.warning("the nftables table %s can't be put back, trying again in %g s: %s", self._table, AGAIN, e)
                self._again = asyncio.get_running_loop().call_later(AGAIN, self._put_back_soon)
