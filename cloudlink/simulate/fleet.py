"""All nodes of a simulated fleet in one loop: each machine behind the real link, its own connection and certificate.

    link -> inbox -> wake --+
    agenda, wake_at --------+--> the drive: whose turn it is cycles, a few at a time --> status -> link

A node vanishes as real ones do: its connection goes (the broker then tells its last will), for a while it isn't there,
and it comes back with what it had, or after a power cut with its disk alone.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from cloudlink import link, trust
from cloudlink.node import Membership
from cloudlink.simulate.boards import Board, Dice, Habits
from cloudlink.simulate.machine import Machine, Place
from edged import __version__
from edged.model import NodeStatus, Phase
from edged.uplink import Inbox, Silent

_log = logging.getLogger(__name__)

TICK = 0.1  # seconds: nodes whose turn comes within one are driven together, and no node more often
AT_ONCE = 16  # nodes driven before everything else gets its turn
CONNECTING = 8  # connections that are made at the same time
LONGEST = 15.0  # seconds that one may take before the next gets its place

Clock = Callable[[], float]


class Counts(NamedTuple):
    """How a fleet is doing. `running` are pods, `documents` and `statuses` are counted since its start."""

    nodes: int
    connected: int
    away: int
    documents: int
    statuses: int
    refused: int
    pods: int
    running: int


class Node:
    """A machine and its link.

    :param wake: called with this node when there is a document for it.
    """

    def __init__(
        self,
        place: Place,
        dice: Dice,
        habits: Habits,
        member: Membership,
        identity: Path,
        broker: tuple[str, int],
        wake: Callable[[Node], None],
        clock: Clock,
    ) -> None:
        self.place, self._dice, self._habits, self._clock = place, dice, habits, clock
        self._member, self._identity, self._broker, self._wake = member, identity, broker, wake
        self.documents = self.statuses = self.refused = 0
        self.alive = True  # False while its power is cut
        self.last: NodeStatus | None = None
        self._refusals = 0
        self.machine = Machine(place, dice, habits, self._report, clock(), time.time() - clock())
        self.inbox = Inbox(self._woken)
        self.uplink = self._new_uplink()

    def _new_uplink(self) -> link.MqttUplink:
        member, folder = self._member, self._identity
        return link.MqttUplink(
            link.Place(*self._broker, member.fleet, member.node),
            tls=functools.partial(link.hub_context, member.ca, (folder / "node.pem", folder / "tls.key")),
            verify_key=member.verify_key,
            private_key=trust.load_key(folder / "seal.key"),
            floor=link.TimeFloor(folder / "floor"),
            dice=functools.partial(self._dice.throw, "retry"),
        )

    def _woken(self) -> None:
        self._wake(self)

    def _report(self, status: NodeStatus) -> None:
        self.last = status
        self.statuses += 1
        self.uplink.report(status)

    def cycle(self, now: float) -> float:
        """:returns: when it wants its next turn."""
        if not self.alive:
            return math.inf
        if self.inbox.refusals != self._refusals:
            self._refusals = self.inbox.refusals
            self.refused += 1
            self.machine.refuse(self.inbox.refusals, self.inbox.last_refusal)
        desired = self.inbox.take()
        if desired is not None:
            self.documents += 1
            self.machine.take(desired)
        return self.machine.cycle(now)

    async def live(self, ready: Callable[[], None]) -> None:
        """Be there and vanish, by the dice, until cancelled. `ready` is called once."""
        while True:
            up = self._dice.after("vanish", self._habits.vanishings)
            try:
                async with asyncio.timeout(up if up < math.inf else None):
                    await self.uplink.run(self.inbox, Silent())
            except TimeoutError:
                pass
            ready()
            cut = self._dice.throw("cut") < self._habits.cuts
            away = self._dice.between("away", self._habits.away)
            _log.info("%s %s for %.0f s", self.place.name, "has no power" if cut else "is out of reach", away)
            self.alive = not cut
            await asyncio.sleep(away)
            if cut:
                self._power_on()

    def _power_on(self) -> None:
        """What is on the disk is there: identity, and the document that was in force."""
        generation, digest = self.inbox.generation, self.inbox.digest
        if (left := self.inbox.take()) is not None:
            self.machine.take(left)
        self.inbox = Inbox(self._woken, generation, digest)
        self._refusals = 0
        self.uplink = self._new_uplink()
        self.machine.power_cut(self._clock())
        self.alive = True
        self._wake(self)


class Fleet:
    """Run it as a task; `counts` tells how it is doing.

    :param members: as joining gave them; `folder` has their identities.
    :param boards: of the nodes, in the same order.
    :param broker: where the broker is, if not where the hub said.
    :param labels: of every node.
    """

    def __init__(
        self,
        members: list[Membership],
        boards: list[Board],
        folder: Path,
        seed: int,
        habits: Habits,
        broker: tuple[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._clock: Clock = asyncio.get_running_loop().time
        self._turns: list[tuple[float, int, Node]] = []
        self._numbers = itertools.count()
        self._next: dict[str, float] = {}  # node -> the turn that counts; entries of other times are stale
        self._awake = asyncio.Event()
        self.nodes = [
            Node(
                Place(m.node, f"10.64.{n // 250}.{n % 250 + 1}", __version__, board, dict(labels or {})),
                Dice(seed, m.node),
                habits,
                m,
                folder / m.node,
                broker or (m.broker_host, m.broker_port),
                self._wake,
                self._clock,
            )
            for n, (m, board) in enumerate(zip(members, boards, strict=True))
        ]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._drive(), name="drive of the fleet")
            slots = asyncio.Semaphore(CONNECTING)
            for node in self.nodes:
                self._wake(node)
                await slots.acquire()
                done = _once(slots.release)
                tasks.create_task(node.live(done), name=f"life of {node.place.name}")
                tasks.create_task(_connected(node, done), name=f"connecting {node.place.name}")

    def counts(self) -> Counts:
        pods = [p for node in self.nodes if node.last is not None for p in node.last.pods]
        return Counts(
            nodes=len(self.nodes),
            connected=sum(node.uplink.connected for node in self.nodes),
            away=sum(not node.alive for node in self.nodes),
            documents=sum(node.documents for node in self.nodes),
            statuses=sum(node.statuses for node in self.nodes),
            refused=sum(node.refused for node in self.nodes),
            pods=len(pods),
            running=sum(p.phase is Phase.RUNNING for p in pods),
        )

    # ------------------------------------------------------------ the drive

    def _wake(self, node: Node) -> None:
        self._turn(node, self._clock())

    def _turn(self, node: Node, at: float) -> None:
        name = node.place.name
        if at < self._next.get(name, math.inf):
            self._next[name] = at
            heapq.heappush(self._turns, (at, next(self._numbers), node))
            self._awake.set()

    async def _drive(self) -> None:
        while True:
            self._awake.clear()
            due = self._due(self._clock())
            for n, node in enumerate(due):
                self._turn(node, node.cycle(self._clock()))
                if n % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
            await asyncio.sleep(TICK)
            pause = self._turns[0][0] - self._clock() if self._turns else math.inf
            try:
                async with asyncio.timeout(max(pause, 0.0) if pause < math.inf else None):
                    await self._awake.wait()
            except TimeoutError:
                pass

    def _due(self, now: float) -> list[Node]:
        due: list[Node] = []
        while self._turns and self._turns[0][0] <= now:
            at, _, node = heapq.heappop(self._turns)
            if self._next.get(node.place.name) == at:
                del self._next[node.place.name]
                due.append(node)
        return due


def _once(call: Callable[[], None]) -> Callable[[], None]:
    """The same, without effect from the second time on."""
    called = False

    def wrapper() -> None:
        nonlocal called
        if not called:
            called = True
            call()

    return wrapper


async def _connected(node: Node, done: Callable[[], None]) -> None:
    """Call `done` when it is connected, or has taken so long that the next one may begin."""
    begun = time.monotonic()
    while not node.uplink.connected and time.monotonic() - begun < LONGEST:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    done()
