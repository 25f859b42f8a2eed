"""Following the machine's network while the daemon runs: it moves to another address, cables and bridges come and go.

Nothing here polls: the kernel tells (rtnetlink.Watch), and what depends on it is brought up to date, which costs
nothing where nothing of ours is concerned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from edged.addresses import own_address
from edged.errors import EdgedError
from edged.runtime import rtnetlink

log = logging.getLogger(__name__)

AGAIN = 5.0  # seconds after which what could not be put back is tried again
SETTLED = 5.0  # seconds after which a DHCP client has also written the name servers that came with an address


class Healed(NamedTuple):
    """What `heal` found.

    :ivar mended: something had to be put back.
    :ivar lost: a pod has lost its network for good and must be made again.
    """

    mended: bool = False
    lost: bool = False


class PodNetwork(Protocol):
    def concerned(self, links: set[str]) -> bool:
        """The bridge or a pod's cable is among them."""

    async def heal(self) -> Healed:
        """Put back what somebody took away."""


class Services(Protocol):
    async def network_changed(self) -> None: ...


class Follower:
    """:param refresh_names: the machine may ask other name servers now.
    :param wake: something that is told or decided depends on what has changed.
    :ivar problem: a sentence while something can't be put back, else "".
    """

    def __init__(
        self, network: PodNetwork, services: Services, refresh_names: Callable[[], None], wake: Callable[[], None]
    ) -> None:
        self.problem = ""
        self._network = network
        self._services = services
        self._refresh_names = refresh_names
        self._wake = wake
        self._watch = rtnetlink.Watch(self._changed)
        self._address = ""
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._settled: asyncio.TimerHandle | None = None
        self._pending = False
        self._moved = False  # more has happened than cables of pods that come and go

    def open(self) -> None:
        self._address = own_address()
        self._watch.open()

    async def close(self) -> None:
        self._watch.close()
        for due in (self._again, self._settled):
            if due is not None:
                due.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _changed(self, change: rtnetlink.Change) -> None:
        if change.addresses or change.forwarding or change.lost:
            self._moved_soon()
        elif self._network.concerned(change.links):
            self._follow_soon()
        if change.addresses:
            if self._settled is not None:
                self._settled.cancel()
            self._settled = asyncio.get_running_loop().call_later(SETTLED, self._moved_soon)

    def _moved_soon(self) -> None:
        self._moved = True
        self._follow_soon()

    def _follow_soon(self) -> None:
        self._pending = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow(), name="network-follow")

    async def _follow(self) -> None:
        while self._pending:
            moved, self._pending, self._moved = self._moved, False, False
            problem, lost = "", True
            try:
                mended, lost = await self._network.heal()
                if moved or mended:
                    await self._services.network_changed()
            except EdgedError as e:
                problem = f"the network of pods can't be put back yet: {e}"
                self._again = asyncio.get_running_loop().call_later(AGAIN, self._moved_soon)
            if problem and problem != self.problem:
                log.warning("%s", problem)
            lost, self.problem = lost or problem != self.problem, problem
            if moved:
                self._refresh_names()
            address = own_address()
            if address != self._address:
                log.info("this machine's address is %s now (was %s)", address or "none", self._address or "none")
            if lost or address != self._address:
                self._address = address
                self._wake()
