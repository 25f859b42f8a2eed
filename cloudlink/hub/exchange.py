"""The hub's side of MQTT: documents out, statuses in. Decides nothing: `documents` and `reports` do.

Both directions keep only the newest per node, so a burst costs what its last word costs, and nothing here grows
beyond the number of nodes.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple

import aiomqtt

from cloudlink import wire
from cloudlink.hub.controllers.claims import uses
from cloudlink.hub.documents import Document, Documents
from cloudlink.hub.errors import Gone
from cloudlink.hub.listening import Listening
from cloudlink.hub.objects import is_deleted
from cloudlink.hub.reports import Reports
from cloudlink.hub.store import Store, WatchEvent
from cloudlink.hub.world import FOLLOWED, World
from cloudlink.kube.core import ConfigMap, Node, PersistentVolumeClaim, Pod, Secret, Service
from cloudlink.link import heed_cancellation
from edged.errors import EdgedError

log = logging.getLogger(__name__)

KEEPALIVE = 15  # seconds; after one and a half of them without a word, each side gives the other up
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds between attempts to reach the broker
TIMEOUT = 10.0  # seconds for the broker to acknowledge anything
COMPILED_AT_ONCE = 50  # documents made before others get their turn: some milliseconds of work
AT_ONCE = 16  # documents in flight; mosquitto's own default is 20
COMPLAIN_EVERY = 60.0  # seconds between log lines about garbage of one node
COMPLAINTS_KEPT = 1024


class Link(NamedTuple):
    """How to reach the broker; `tls` gives a context with the hub's own client certificate, for one connection."""

    host: str
    port: int
    tls: Callable[[], ssl.SSLContext]


class NewestPerTopic(asyncio.Queue[aiomqtt.Message]):
    """A queue in which a message takes the place of an unread one of the same topic."""

    def _init(self, maxsize: int) -> None:
        self._queue: collections.OrderedDict[str, aiomqtt.Message] = collections.OrderedDict()

    def _get(self) -> aiomqtt.Message:
        return self._queue.popitem(last=False)[1]

    def _put(self, item: aiomqtt.Message) -> None:
        self._queue.pop(str(item.topic), None)  # to the end: what arrived last is read last
        self._queue[str(item.topic)] = item


class Exchange:
    """Runs the two directions until cancelled; outages of the broker are waited out.

    :param node_key: X25519 public key of a node, from when it joined; None for strangers.
    :param on_change: called after a document was published (the broker may want to save).
    :param client: makes the client for one connection, from aiomqtt's own arguments.
    :param listening: is told since when nodes are heard.
    """

    def __init__(
        self,
        store: Store,
        fleet: str,
        link: Link,
        signing_key: bytes,
        node_key: Callable[[str], bytes | None],
        now: Callable[[], float] = time.time,
        on_change: Callable[[], None] = lambda: None,
        listening: Listening | None = None,
        client: Callable[..., aiomqtt.Client] = aiomqtt.Client,
    ) -> None:
        self._store, self._fleet, self._link, self._now = store, fleet, link, now
        self._on_change, self._make_client = on_change, client
        self._listening = listening or Listening()
        self._watch = store.subscribe(FOLLOWED)
        self._world = World(store)
        self._documents = Documents(store, self._world, fleet, signing_key, node_key, now)
        self._reports = Reports(store, self._world, self._documents, now)
        self._outbox: dict[str, Document] = {}
        self._posted = asyncio.Event()
        self._doubted = asyncio.Event()  # a node's absence may be due for belief earlier than was thought
        self._dirty: dict[str, None] = {}  # nodes whose documents may no longer be right, the longest first
        self._dirtied = asyncio.Event()
        self._complaints: dict[str, float] = {}
        self.garbage = 0  # messages that could not be believed
        self.published = 0
        self.connected = asyncio.Event()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(), name="exchange changes")
                tasks.create_task(self._keep_documents(), name="exchange documents")
                tasks.create_task(self._stay_connected(), name="exchange broker")
        finally:
            self._watch.close()

    # ------------------------------------------------------------ what nodes must be told

    async def _follow(self) -> None:
        """Find out whose documents a change is about."""
        self._doubt(self._everybody())
        while True:
            try:
                news = await self._watch.batch()
                if not news:
                    return  # the store was closed
                self._notice(news)
            except Gone:
                self._watch = self._store.subscribe(FOLLOWED)
                self._world.reload()
                self._doubt(self._everybody())

    async def _keep_documents(self) -> None:
        """Recompile those documents, some at a time, and leave them in the outbox.

        A thousand pods are made in many rounds, and each is about most nodes. While a node waits for its turn, all
        that changes for it is one change; and nobody else waits for a thousand documents.
        """
        while True:
            await self._dirtied.wait()
            try:
                self._refresh()
            except EdgedError as e:
                log.error("documents wait for the database: %s", e)
                await asyncio.sleep(1.0)
            if not self._dirty:
                self._dirtied.clear()
            await asyncio.sleep(0)

    def _doubt(self, nodes: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(nodes))
        if self._dirty:
            self._dirtied.set()

    def rekeyed(self, node: str) -> None:
        """A node has joined, maybe anew with another key: what was sealed for the old one must be sealed again."""
        self._doubt([node])
        try:
            self._notice(self._watch.drain())
            self._refresh()
        except (Gone, EdgedError) as e:
            log.warning("node %s is told later: %s", node, e)  # by _keep_documents, which meets the same trouble

    def _refresh(self) -> None:
        """Compile, record, and post what has changed of some nodes; then let go of the pods that nobody waits for."""
        if not self._dirty:
            return
        turn = tuple(itertools.islice(self._dirty, COMPILED_AT_ONCE))
        nodes = sorted(filter(self._can_be_told, turn))
        for document in self._documents.refresh(nodes):
            self._outbox[document.node] = document
        if self._outbox:
            self._posted.set()
        changes = [c for node in nodes for c in self._reports.farewells(node)]
        self._store.commit([*changes, *self._reports.complaints(self._documents.problems, self._documents.fitted)])
        for node in turn:
            self._dirty.pop(node, None)

    def _can_be_told(self, node: str) -> bool:
        """A name that is no part of a topic belongs to no node of ours."""
        known = self._world.get(Node, "", node) is not None or self._documents.generation(node)
        return bool(known) and wire.valid_name(node)

    def _everybody(self) -> set[str]:
        return {n.metadata.name for n in self._world.all(Node)} | set(self._documents.nodes)

    def _notice(self, news: Sequence[WatchEvent]) -> None:
        """Keep the index, and remember whose documents may look different now."""
        for event in news:
            self._world.notice(event)
            if event.type == "DELETED":
                self._documents.forget(event.object.metadata.uid)
                self._reports.forget(event.object.metadata.uid)
        for event in news:
            self._doubt(self._concerned(event))

    def _concerned(self, event: WatchEvent) -> Iterable[str]:
        obj, before = event.object, event.before
        match obj:
            case Pod():
                if event.type == "MODIFIED" and isinstance(before, Pod) and _same_work(before, obj):
                    return ()
                return (obj.spec.node_name,)
            case ConfigMap() | Secret():
                pods = self._world.all(Pod, obj.metadata.namespace)
                return {p.spec.node_name for p in pods}
            case PersistentVolumeClaim():
                # Where its data is, and where pods are that name it: the first one's node has it before it is bound.
                pods = self._world.all(Pod, obj.metadata.namespace)
                return {obj.node, *(p.spec.node_name for p in pods if uses(p, obj))}
            case Service():
                return self._everybody()
            case Node() if event.type != "MODIFIED":
                return (obj.metadata.name,)
        return ()

    # ------------------------------------------------------------ the broker

    async def _stay_connected(self) -> None:
        delay = FIRST_DELAY
        complained = False
        while True:
            try:
                async with self._client() as client:
                    delay, complained = FIRST_DELAY, False
                    await self._converse(client)
            except* aiomqtt.MqttError as problems:
                if not complained:
                    log.warning("broker %s:%d: %s", self._link.host, self._link.port, problems.exceptions[0])
                complained = True
            except* (OSError, ssl.SSLError) as problems:
                if not complained:
                    log.warning("broker %s:%d: %s", self._link.host, self._link.port, problems.exceptions[0])
                complained = True
            self.connected.clear()
            self._listening.since = None
            heed_cancellation()  # TaskGroup swallows one that comes while it ends for another reason (before 3.13)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[aiomqtt.Client]:
        client = self._make_client(
            self._link.host,
            self._link.port,
            identifier=f"hub-{self._fleet}",
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,  # everything is retained: a session would only repeat what is read again anyway
            keepalive=KEEPALIVE,
            timeout=TIMEOUT,
            tls_context=self._link.tls(),
            queue_type=NewestPerTopic,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        client.pending_calls_threshold = 2 * AT_ONCE
        async with client:
            heed_cancellation()
            yield client

    async def _converse(self, client: aiomqtt.Client) -> None:
        """One connection, from subscribing to its loss."""
        self._reports.listening_anew()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._speak(client), name="exchange speaking")
            tasks.create_task(self._give_up_the_silent(), name="exchange silence")
            tasks.create_task(self._believe_losses(), name="exchange losses")
            # In the body, not a task: Python 3.11 leaves a task counted as cancelled when one of its group's tasks
            # fails while it only waits for them, and heed_cancellation would then end the next connection.
            await self._listen(client)

    async def _speak(self, client: aiomqtt.Client) -> None:
        """Publish the outbox for ever. First everything again: the broker may have lost what it retained."""
        for document in self._documents.again():
            self._outbox.setdefault(document.node, document)
        self._posted.set()
        while True:
            await self._posted.wait()
            self._posted.clear()
            while self._outbox:
                batch = [self._outbox.pop(node) for node in tuple(itertools.islice(self._outbox, AT_ONCE))]
                async with asyncio.TaskGroup() as tasks:
                    for document in batch:
                        tasks.create_task(self._publish(client, document), name=f"exchange publishing {document.node}")
                self._on_change()

    async def _publish(self, client: aiomqtt.Client, document: Document) -> None:
        topic = wire.desired_topic(self._fleet, document.node)
        await client.publish(topic, document.signed, qos=1, retain=True)
        heed_cancellation()
        self.published += 1
        log.info("told node %s generation %d", document.node, document.generation)

    async def _give_up_the_silent(self) -> None:
        await asyncio.sleep(self._listening.grace)
        if silent := self._reports.silent(self._listening.grace):
            log.warning("not heard since the broker was reached: %s", ", ".join(silent))
            self._commit(silent)

    async def _believe_losses(self) -> None:
        """Nodes that lose their connection often are believed to be away a while later; see hub.attendance."""
        while True:
            self._doubted.clear()
            due = self._reports.next_loss()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(due - self._now(), 0.0) if due < float("inf") else None):
                    await self._doubted.wait()
            if lost := self._reports.lost():
                self._commit(lost)

    # ------------------------------------------------------------ what nodes say

    async def _listen(self, client: aiomqtt.Client) -> None:
        wanted = [(wire.every_node(self._fleet, leaf), 1) for leaf in (wire.PRESENCE, wire.STATUS)]
        await client.subscribe(wanted)
        heed_cancellation()
        self.connected.set()
        self._listening.since = self._now()
        async for message in client.messages:
            batch = [message]
            while len(client.messages):
                batch.append(await anext(client.messages))
            self.hear(batch)
            await asyncio.sleep(0)  # a flood of messages must not keep everybody else from their turn

    def hear(self, batch: Sequence[aiomqtt.Message]) -> None:
        """Take in what has arrived: one commit, whatever its number."""
        heard: dict[str, None] = {}
        for message in batch:
            name = str(message.topic)
            try:
                topic = wire.parse_topic(name)
                if topic.fleet == self._fleet and self._take(topic, message):
                    heard[topic.node] = None
            except wire.Refused as e:
                self._complain(name, str(e))
            except Exception:  # the outermost loop: one message must not end the others
                log.exception("a message on %s can't be handled", name[:200])
        if heard:
            self._commit(heard)

    def _take(self, topic: wire.Topic, message: aiomqtt.Message) -> bool:
        payload = message.payload
        if not isinstance(payload, bytes | bytearray):
            raise wire.Refused("the payload is not bytes")
        if not payload:
            return False  # somebody cleared what was retained
        if topic.leaf == wire.PRESENCE:
            presence = wire.decode_presence(bytes(payload))
            news = self._reports.hear_presence(topic.node, presence, live=not message.retain)
            if not news and not presence.online:
                self._doubted.set()
            return news
        if topic.leaf != wire.STATUS:
            return False
        status = wire.decode_status(bytes(payload), topic.node)
        if not self._reports.hear_status(status, live=not message.retain):
            return False
        if self._documents.learn(topic.node, status):
            log.warning(
                "node %s has a generation %d that this hub never gave: its database is older than the node's memory;"
                " going on beyond it",
                topic.node,
                status.generation,
            )
            self._doubt([topic.node])
        return True

    def _commit(self, nodes: Iterable[str]) -> None:
        try:
            with contextlib.suppress(Gone):  # _keep_documents meets it as well, and starts anew
                self._notice(self._watch.drain())  # decide on what is, not on what was
            if len(self._dirty) <= COMPILED_AT_ONCE:
                self._refresh()
            self._store.commit(self._reports.changes(nodes))
        except EdgedError as e:
            log.error("what %s said is lost: %s", ", ".join(nodes), e)
        except Exception:  # the outermost loop
            log.exception("what %s said can't be handled", ", ".join(nodes))

    def _complain(self, topic: str, why: str) -> None:
        """Count garbage; at most one line a minute for each topic."""
        self.garbage += 1
        now = time.monotonic()
        if now - self._complaints.get(topic, -COMPLAIN_EVERY) >= COMPLAIN_EVERY:
            if len(self._complaints) >= COMPLAINTS_KEPT:
                self._complaints.clear()
            self._complaints[topic] = now
            log.warning("ignored a message on %s: %s", topic[:200], why)


def _same_work(before: Pod, after: Pod) -> bool:
    """Whether two states of a pod look the same to its node: only the status, or things it isn't told, differ."""
    return (
        before.spec == after.spec
        and before.metadata.labels == after.metadata.labels
        and before.metadata.annotations == after.metadata.annotations
        and is_deleted(before) == is_deleted(after)
        and before.metadata.deletion_grace_period_seconds == after.metadata.deletion_grace_period_seconds
    )
