"""A broker that keeps MQTT's promises and no others: retained messages, sessions with an expiry, last wills, QoS 1.

What MQTT 5 allows, happens: messages come late and twice, those of two topics in another order than they were sent.
Messages of one topic stay in their order (4.6, Message ordering); what was on its way when a connection broke comes
again if the session lives on (4.4), and is lost with it otherwise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.loop import DAY, HOUR
from tests.simulation.stage import Stage

if TYPE_CHECKING:
    from tests.simulation.client import SimulatedClient

QUEUED = 1000  # messages that a session keeps for an absent client; mosquitto's own default
BEHIND = 1e-4  # seconds between two messages of one topic: timers of one moment have no order
UNSURE = 1.0  # seconds: a message delivered so shortly before a break may not have been acknowledged


@dataclass(slots=True)
class Post:
    """One message on its way to one client."""

    topic: str
    payload: bytes
    retained: bool = False
    arrived: float = -1.0


@dataclass
class Session:
    """What the broker knows of one client.

    :ivar waiting: in order; what is on its way to a connected client, and what waits for an absent one.
    :ivar recent: delivered lately, perhaps not acknowledged.
    """

    name: str
    expiry: float
    client: SimulatedClient | None = None
    patterns: tuple[str, ...] = ()
    waiting: deque[Post] = field(default_factory=lambda: deque(maxlen=QUEUED))
    recent: deque[Post] = field(default_factory=lambda: deque(maxlen=4))
    due: dict[str, float] = field(default_factory=dict)  # topic -> when its newest message is due
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def disarm(self) -> None:
        """The client is back: neither its will nor the session's end."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class Broker:
    """:ivar up: whether anybody can connect.
    :ivar slow: the probability that a message is held up for minutes to hours.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.up = True
        self.slow = 0.0
        self.twice = 0.0
        self.retained: dict[str, bytes] = {}
        self.sessions: dict[str, Session] = {}
        self.told: Callable[[str, bytes], None] = lambda topic, payload: None  # of each message, before anybody else
        self._remembered: dict[str, bytes] = {}  # what was on its disk a while ago
        self._noted = 0.0

    # ------------------------------------------------------------ clients

    def connect(self, client: SimulatedClient) -> Session:
        there = self.sessions.get(client.name)
        if there is not None and there.client is not None:
            old = there.client
            there.client = None
            old.lose("another connection has this name")
        if there is None or client.clean_start:
            if there is not None:
                there.disarm()
            there = self.sessions[client.name] = Session(client.name, client.expiry)
        there.disarm()
        there.client, there.expiry = client, client.expiry
        again = [p for p in there.recent if p.arrived > self._stage.now - UNSURE and self._stage.chance(0.5)]
        there.recent.clear()
        if again:
            self._stage.fault("message doubled", client.name, f"{len(again)} redelivered")
        waiting = [*again, *there.waiting]
        there.waiting.clear()
        for post in waiting:
            self._send(there, Post(post.topic, post.payload))
        return there

    def subscribe(self, session: Session, patterns: list[str]) -> None:
        session.patterns = tuple(patterns)
        for topic in sorted(self.retained):
            if any(_matches(p, topic) for p in patterns):
                self._send(session, Post(topic, self.retained[topic], retained=True))

    def lose(self, client: SimulatedClient, clean: bool = False) -> None:
        """A connection is over, as far as the broker knows. :param clean: it need not wait to find out."""
        session = self.sessions.get(client.name)
        if session is None or session.client is not client:
            return
        session.client = None
        session.due.clear()
        later = self._stage.loop.call_later
        if client.will is not None:
            delay = min(client.will_delay, session.expiry)
            session.timers.append(later(delay, self._speak_will, client))
        session.timers.append(later(session.expiry, self._forget, session))

    def _speak_will(self, client: SimulatedClient) -> None:
        if client.will is not None and self.up:
            self._stage.tell("broker", f"will of {client.name}")
            self.publish(client.will.topic, client.will.payload, True)

    def _forget(self, session: Session) -> None:
        if self.sessions.get(session.name) is session and session.client is None:
            del self.sessions[session.name]

    # ------------------------------------------------------------ messages

    def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        self.told(topic, payload)
        if retain:
            self._note()
            self.retained[topic] = payload
        for session in tuple(self.sessions.values()):
            if any(_matches(p, topic) for p in session.patterns):
                self._send(session, Post(topic, payload))

    def _send(self, session: Session, post: Post) -> None:
        """Into the session's queue; on its way if the client is there."""
        session.waiting.append(post)
        if session.client is None:
            return
        stage = self._stage
        delay = stage.dice.uniform(0.002, 0.2)
        if stage.chance(self.slow):
            delay = stage.dice.uniform(10.0, 4 * HOUR)
            stage.fault("message late", session.name, f"{_leaf(post.topic)} by {delay:.0f} s")
        due = max(stage.now + delay, session.due.get(post.topic, 0.0) + BEHIND)
        session.due[post.topic] = due
        stage.loop.call_at(due, self._arrive, session, session.client, post)

    def _arrive(self, session: Session, client: SimulatedClient, post: Post) -> None:
        if session.client is not client or post not in session.waiting:
            return  # that connection is over; it waits for the next one
        if not client.cable.up:
            client.stalled.append((session, post))
            return
        self.hand_over(session, client, post)

    def hand_over(self, session: Session, client: SimulatedClient, post: Post) -> None:
        if session.client is not client or post not in session.waiting:
            return
        session.waiting.remove(post)
        post.arrived = self._stage.now
        session.recent.append(post)
        client.receive(post)
        if self._stage.chance(self.twice):
            self._stage.fault("message doubled", session.name, _leaf(post.topic))
            client.receive(post)

    # ------------------------------------------------------------ what befalls it

    def stop(self) -> None:
        """Every connection breaks at once."""
        self.up = False
        for session in tuple(self.sessions.values()):
            session.disarm()
            if session.client is not None:
                client, session.client = session.client, None
                client.lose("the broker hung up")

    def start(self, memory: str) -> None:
        """:param memory: "kept", "lost", or "old": what was on its disk some time ago."""
        self.up = True
        if memory == "kept":
            for session in self.sessions.values():
                timer = self._stage.loop.call_later(session.expiry, self._forget, session)
                session.timers.append(timer)
            return
        self.sessions.clear()
        self.retained = dict(self._remembered) if memory == "old" else {}

    def _note(self) -> None:
        """Now and then, what a broker that saves seldom would have on its disk."""
        if self._stage.now > self._noted + DAY:
            self._noted = self._stage.now
            self._remembered = dict(self.retained)


def _leaf(topic: str) -> str:
    return topic.split("/", 2)[-1]


def _matches(pattern: str, topic: str) -> bool:
    """MQTT 5, 4.7: `+` stands for one level."""
    if "+" not in pattern:
        return pattern == topic
    mine, its = pattern.split("/"), topic.split("/")
    return len(mine) == len(its) and all(a in ("+", b) for a, b in zip(mine, its, strict=True))
