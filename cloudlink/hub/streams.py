"""The hub's end of all conversations with nodes: `Remote` over MQTT.

One connection to the broker for each of the hub's processes, with a name of its own in the topics of what nodes answer;
so several hubs don't hear each other's conversations. What a conversation is made of: cloudlink.streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable

from cloudlink import mqtt, trust, wire
from cloudlink.hub.exchange import KEEPALIVE, TIMEOUT, Link
from cloudlink.hub.remote import Conversation, Frame
from cloudlink.link import heed_cancellation
from cloudlink.streams import flow, frames, keys
from cloudlink.streams.answering import EXPIRY
from cloudlink.streams.line import Line, Timing
from edged.errors import EdgedError, PermanentError, RetryError
from edged.model.remote import AnyRequest, End

log = logging.getLogger(__name__)

MOST = 256  # conversations at once: each may hold flow.WINDOW bytes of this process's memory
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds between attempts to reach the broker
AGAIN = 1.0  # seconds after which an opening is sent once more
HINTED = 2.0  # seconds for an answer from a node that is said to be offline: the word may be older than its return


class Streams:
    """Implements hub.remote.Remote. `run` it; `open` works while it runs and is connected.

    :param node_key: X25519 public key of a node, from when it joined; None for strangers.
    """

    def __init__(
        self,
        fleet: str,
        link: Link,
        signing_key: bytes,
        node_key: Callable[[str], bytes | None],
        timing: Timing | None = None,
        most: int = MOST,
    ) -> None:
        self._fleet = fleet
        self._link = link
        self._signing_key = signing_key
        self._node_key = node_key
        self._timing = timing or Timing()
        self._most = most
        self._name = secrets.token_hex(6)
        self._client: mqtt.Client | None = None
        self._opening: dict[str, asyncio.Future[keys.Answer]] = {}
        self._lines: dict[str, tuple[str, Line]] = {}  # conversation -> node and line
        self._presence: dict[str, wire.Presence] = {}
        self.connected = asyncio.Event()
        self.garbage = 0  # messages that could not be believed

    @property
    def live(self) -> int:
        """How many conversations are under way."""
        return len(self._opening) + len(self._lines)

    # ------------------------------------------------------------ opening

    async def open(self, node: str, request: AnyRequest) -> Conversation:
        """See hub.remote.Remote.

        :raises PermanentError: no such node has joined, or what is asked is too large to be sent.
        """
        public_key = self._node_key(node) if wire.valid_name(node) else None
        if public_key is None:
            raise PermanentError(f"node {node[:80]} has not joined this fleet")
        if self.live >= self._most:
            raise RetryError(f"this hub holds {self._most} conversations already; try again when one has ended", 10.0)
        await self._broker(node)
        return await self._converse(node, public_key, request)

    async def _broker(self, node: str) -> mqtt.Client:
        try:
            async with asyncio.timeout(self._timing.answer):
                await self.connected.wait()
        except TimeoutError:
            raise RetryError(f"node {node} can't be reached: the hub has no connection to its broker", 5.0) from None
        assert self._client is not None
        return self._client

    async def _converse(self, node: str, public_key: bytes, request: AnyRequest) -> Conversation:
        conversation, ephemeral = secrets.token_hex(8), trust.generate_key()
        party = keys.Party(self._fleet, node, conversation)
        answer = await self._answer(party, ephemeral)
        client = self._client
        if client is None:
            raise RetryError(f"node {node} can't be reached: the hub has just lost its broker", 1.0)
        topic = wire.request_topic(self._fleet, node, conversation)
        expiry = _properties(EXPIRY)
        try:
            pair = keys.hub_keys(party, self._name, ephemeral, answer, public_key)
            line = Line(
                pair.to_node,
                pair.to_hub,
                lambda raw: client.post(topic, raw, expiry),
                client.roomy,
                lambda _: self._forget(conversation),
                self._timing,
            )
        except wire.Refused as e:
            raise RetryError(f"node {node} can't be reached: {e.reason}") from e
        self._lines[conversation] = node, line
        try:
            self._believe(node, line, line.opener.open(answer.first))
            line.say(frames.Ask(request, flow.WINDOW))
        except EdgedError:
            line.let_go()
            raise
        return _Held(line)

    async def _answer(self, party: keys.Party, ephemeral: bytes) -> keys.Answer:
        """Open, and wait for what the node says."""
        client = await self._broker(party.node)
        body = keys.make_opening(party, self._name, ephemeral, self._signing_key)
        wanted: asyncio.Future[keys.Answer] = asyncio.get_running_loop().create_future()
        offline = (known := self._presence.get(party.node)) is not None and not known.online
        patience = min(self._timing.answer, HINTED) if offline else self._timing.answer
        properties = _properties(int(patience) + 1)
        properties.ResponseTopic = wire.response_topic(self._fleet, party.node, self._name, party.conversation)
        properties.CorrelationData = bytes.fromhex(party.conversation)
        self._opening[party.conversation] = wanted
        try:
            async with asyncio.timeout(patience):
                while not wanted.done():  # again and again: the node may be about to come back
                    client.post(wire.request_topic(*party), body, properties)
                    await asyncio.wait((wanted,), timeout=AGAIN)
            return wanted.result()
        except TimeoutError:
            why = "it is not connected to the broker" if offline else f"it did not answer within {patience:g} s"
            raise RetryError(f"node {party.node} can't be reached now: {why}", 5.0) from None
        finally:
            del self._opening[party.conversation]

    @staticmethod
    def _believe(node: str, line: Line, first: frames.AnyFrame | None) -> None:
        """The node's first frame proves who it is. :raises EdgedError: it isn't, or can't now."""
        match first:
            case frames.Accept(window):
                line.allow(window)
            case frames.Finish(end):
                raise RetryError(end.message, 10.0)
            case _:
                raise RetryError(f"who answered is not node {node}: has it joined again with another key?")

    def _forget(self, conversation: str) -> None:
        self._lines.pop(conversation, None)

    # ------------------------------------------------------------ the broker

    async def run(self) -> None:
        """Stay connected until cancelled."""
        delay, complained = FIRST_DELAY, False
        while True:
            try:
                async with self._connection() as client:
                    delay, complained = FIRST_DELAY, False
                    await self._listen(client)
            except (mqtt.MqttError, OSError, ssl.SSLError) as e:
                if not complained:
                    log.warning("broker %s:%d: %s", self._link.host, self._link.port, e)
                complained = True
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[mqtt.Client]:
        client = mqtt.Client(
            self._link.host,
            self._link.port,
            identifier=f"hub-{self._fleet}-{self._name}",
            protocol=mqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=KEEPALIVE,
            timeout=TIMEOUT,
            tls_context=self._link.tls(),
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        )
        client.mark, client.aside = "/", self._hear
        async with client:
            heed_cancellation()
            try:
                yield client
            finally:
                self._lost()

    async def _listen(self, client: mqtt.Client) -> None:
        presence, responses = wire.every_node(self._fleet, wire.PRESENCE), wire.responses_to(self._fleet, self._name)
        await client.subscribe([(presence, 1), (responses, 0)])
        heed_cancellation()
        self._client = client
        self.connected.set()
        async for _ in client.messages:  # none: all are taken aside
            pass

    def _lost(self) -> None:
        """The connection is gone, and with it every conversation: what was under way can't be known."""
        self.connected.clear()
        self._client = None
        for node, line in list(self._lines.values()):
            line.end(End(reason="Gone", message=f"the connection to node {node} was lost: the broker is gone"))

    # ------------------------------------------------------------ what nodes say

    def _hear(self, topic: str, message: bytes) -> None:
        """Never raises, whatever it is."""
        try:
            if topic.endswith(f"/{wire.PRESENCE}"):
                self._hear_presence(wire.parse_topic(topic).node, message)
                return
            stream = wire.parse_response(topic)
            waiting = self._opening.get(stream.conversation)
            if waiting is not None and not waiting.done():
                waiting.set_result(keys.read_answer(message))
            elif (known := self._lines.get(stream.conversation)) is not None and known[0] == stream.node:
                known[1].feed(message)
        except wire.Refused as e:
            self.garbage += 1
            if self.garbage & (self.garbage - 1) == 0:
                log.warning("ignored (%d so far) a message on %s: %s", self.garbage, topic[:200], e.reason)

    def _hear_presence(self, node: str, message: bytes) -> None:
        """A node that went away, or came again, has forgotten its conversations."""
        if not message:
            self._presence.pop(node, None)
            return
        news, before = wire.decode_presence(message), self._presence.get(node)
        if not news.online and before is not None and before.epoch != news.epoch:
            return  # the last will of a connection before the present one
        self._presence[node] = news
        if before is not None and (not news.online or news.epoch != before.epoch):
            for there, line in list(self._lines.values()):
                if there == node:
                    line.end(End(reason="Gone", message=f"node {node} has lost its connection"))


class _Held:
    """Implements hub.remote.Conversation."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def send(self, frame: Frame) -> None:
        await self._line.send(frame.channel, frame.data)

    async def receive(self) -> Frame | End:
        got = await self._line.receive()
        return got if isinstance(got, End) else Frame(got.channel, got.body)

    async def close(self) -> None:
        self._line.let_go()


def _properties(expiry: int) -> mqtt.Properties:
    made = mqtt.Properties(mqtt.PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    made.MessageExpiryInterval = expiry
    return made
