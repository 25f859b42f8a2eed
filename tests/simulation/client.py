"""aiomqtt's Client as the hub's exchange and the node's link use it, on a simulated cable to a simulated broker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import aiomqtt

from tests.simulation.broker import Broker, Post, Session
from tests.simulation.stage import Stage

CONNECT = 10.0  # seconds until somebody who can't be reached is given up


class Cable:
    """How one machine reaches the broker.

    :ivar up: False: nothing passes, and nobody is told.
    :ivar plugged: False: the machine has no power. Whatever its process still does, nobody hears.
    :ivar flaky: the probability that a connection breaks under a message.
    """

    def __init__(self, stage: Stage, broker: Broker, name: str) -> None:
        self.stage, self.broker, self.name = stage, broker, name
        self.up = True
        self.plugged = True
        self.flaky = 0.0
        self.client: SimulatedClient | None = None
        self.stuck: list[asyncio.Future[None]] = []  # who waits for it to be mended

    def cut(self) -> None:
        """Both ends find out by themselves, when their patience ends."""
        self.up = False
        client = self.client
        if client is not None:
            later, dice = self.stage.loop.call_later, self.stage.dice
            later(dice.uniform(0.5, 1.5) * client.keepalive, self._given_up, client)
            later(dice.uniform(1.0, 1.5) * client.keepalive, self._missed, client)

    def _given_up(self, client: SimulatedClient) -> None:
        if not self.up and self.plugged:
            client.lose("keepalive timeout")

    def _missed(self, client: SimulatedClient) -> None:
        if not self.up or not self.plugged:
            self.broker.lose(client)

    def mend(self) -> None:
        self.up = True
        if self.client is not None:
            self.client.resume()
        stuck, self.stuck = self.stuck, []
        for waiter in stuck:
            _set(waiter)

    def unplug(self) -> None:
        """The machine is dead at once; the broker finds out later."""
        self.plugged = False
        client, self.client = self.client, None
        if client is not None:
            delay = self.stage.dice.uniform(1.0, 1.5) * client.keepalive
            self.stage.loop.call_later(delay, self.broker.lose, client)
            client.lose("no power")


class _Messages:
    """What `async for message in client.messages` goes through."""

    def __init__(self, client: SimulatedClient, queue: asyncio.Queue[aiomqtt.Message]) -> None:
        self._client, self.queue = client, queue

    def __aiter__(self) -> Self:
        return self

    def __len__(self) -> int:
        return self.queue.qsize()

    async def __anext__(self) -> aiomqtt.Message:
        while True:
            if self.queue.qsize():
                return self.queue.get_nowait()
            await self._client.news()


class SimulatedClient:
    """One connection. Takes aiomqtt.Client's arguments, behind a cable."""

    def __init__(
        self,
        cable: Cable,
        hostname: str,
        port: int,
        *,
        identifier: str,
        clean_start: bool,
        keepalive: int,
        queue_type: Callable[..., asyncio.Queue[aiomqtt.Message]],
        max_queued_incoming_messages: int = 0,
        will: aiomqtt.Will | None = None,
        properties: Any = None,
        timeout: float = 30.0,
        **_: object,
    ) -> None:
        self.cable, self.name, self.clean_start, self.keepalive = cable, identifier, clean_start, keepalive
        self.expiry = float(getattr(properties, "SessionExpiryInterval", 0))
        self.will = will
        self.will_delay = float(getattr(will.properties, "WillDelayInterval", 0)) if will is not None else 0.0
        self.timeout = timeout
        self.stalled: deque[tuple[Session, Post]] = deque()
        self.lost = "not connected yet"
        self._loop = cable.stage.loop
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._news: asyncio.Future[None] | None = None
        self._session: Session | None = None
        self.messages = _Messages(self, queue_type(maxsize=max_queued_incoming_messages))
        # What the two ends set on their clients.
        self.pending_calls_threshold = 0
        self.misc_seconds = 0.0
        self.mark = ""
        self.aside: object = None

    # ------------------------------------------------------------ the connection

    async def __aenter__(self) -> Self:
        cable = self.cable
        await asyncio.sleep(cable.stage.dice.uniform(0.01, 0.3))
        if not (cable.up and cable.plugged and cable.broker.up):
            await asyncio.sleep(CONNECT)
            raise aiomqtt.MqttError("Operation timed out")
        cable.client, self.lost = self, ""
        self._session = cable.broker.connect(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves with its will, as mqtt.Client does: only nodes have one."""
        if self.cable.client is self:
            self.cable.client = None
        if self.cable.plugged and not self.lost:
            self.lost = "left"
            self.cable.broker.lose(self)

    def lose(self, why: str) -> None:
        """This end learns that the connection is over."""
        if self.lost:
            return
        self.lost = why
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(aiomqtt.MqttError(why))
        self._wake()

    def resume(self) -> None:
        """The cable is whole again: what was stuck in it comes through."""
        while self.stalled:
            session, post = self.stalled.popleft()
            self.cable.broker.hand_over(session, self, post)

    # ------------------------------------------------------------ what its owner does

    async def subscribe(self, topics: Sequence[tuple[str, int]]) -> None:
        await self._travel()
        if self._session is not None:
            self.cable.broker.subscribe(self._session, [pattern for pattern, _ in topics])
        await self._travel()

    async def publish(
        self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, timeout: float | None = None
    ) -> None:
        try:
            async with asyncio.timeout(timeout or self.timeout):
                await self._publish(topic, payload, retain)
        except TimeoutError:
            raise aiomqtt.MqttError("Operation timed out") from None

    async def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        cable, stage = self.cable, self.cable.stage
        await self._travel()
        if stage.chance(cable.flaky):
            stage.fault("message lost", cable.name, topic.rsplit("/", 1)[-1])
            self._break()
            raise aiomqtt.MqttError(self.lost)
        cable.broker.publish(topic, payload, retain)
        if stage.chance(cable.flaky):
            stage.fault("acknowledgement lost", cable.name, topic.rsplit("/", 1)[-1])
            self._break()
        await self._travel()

    def _break(self) -> None:
        self.cable.broker.lose(self)
        self.lose("Connection reset by peer")

    async def _travel(self) -> None:
        """From one end to the other."""
        await self._wait(self.cable.stage.dice.uniform(0.002, 0.2))
        while not self.cable.up:
            await self._wait(None)

    async def _wait(self, seconds: float | None) -> None:
        """So long, or until the cable is whole again; MqttError if the connection is lost meanwhile."""
        if self.lost:
            raise aiomqtt.MqttError(self.lost)
        waiter = self._loop.create_future()
        self._waiters[waiter] = None
        timer = None
        if seconds is None:
            self.cable.stuck.append(waiter)
        else:
            timer = self._loop.call_later(seconds, _set, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters.pop(waiter, None)

    # ------------------------------------------------------------ what it hears

    def receive(self, post: Post) -> None:
        if self.lost or not self.cable.plugged:
            return
        self.messages.queue.put_nowait(aiomqtt.Message(post.topic, post.payload, 1, post.retained, 0, None))
        self._wake()

    async def news(self) -> None:
        if self.lost:
            raise aiomqtt.MqttError(self.lost)
        self._news = self._loop.create_future()
        await self._news

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def post(self, topic: str, body: bytes, properties: Any = None) -> None:
        """QoS 0: it gets there, or it doesn't."""
        self._loop.call_later(self.cable.stage.dice.uniform(0.002, 0.2), self._posted, topic, body)

    def _posted(self, topic: str, body: bytes) -> None:
        if not self.lost and self.cable.up and self.cable.plugged:
            self.cable.broker.publish(topic, body, False)

    async def roomy(self) -> None:
        """Conversations, which wait for this, aren't simulated."""


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
