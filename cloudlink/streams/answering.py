"""The node's end of all conversations over one connection to the broker: openings -> lines -> what the daemon does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from cloudlink import trust, wire
from cloudlink.streams import flow, frames, keys
from cloudlink.streams.line import Line, Timing
from cloudlink.wire import Refused
from edged.errors import EdgedError, RetryError
from edged.model.remote import End
from edged.uplink import Asked

log = logging.getLogger(__name__)

MOST = 16  # conversations at once: each may hold flow.WINDOW bytes of this process's memory
EXPIRY = 30  # seconds after which the broker needn't deliver a message any more: nobody waits for it then
Post = Callable[[str, bytes], None]
"""(topic, message): hand it to the broker; see line.Post."""


class Trusted(NamedTuple):
    """:ivar verify_key: the hub's Ed25519 key. `private_key`: the node's own X25519 key."""

    fleet: str
    node: str
    verify_key: bytes
    private_key: bytes


class Answering:
    """Lives as long as one connection: when that is lost, so is every conversation, and its task group ends what was
    started for them.

    :param tasks: owns what is under way.
    """

    def __init__(
        self,
        trusted: Trusted,
        asked: Asked,
        tasks: asyncio.TaskGroup,
        post: Post,
        roomy: Callable[[], Awaitable[None]],
        timing: Timing | None = None,
        most: int = MOST,
    ) -> None:
        self._trusted = trusted
        self._asked = asked
        self._tasks = tasks
        self._post = post
        self._roomy = roomy
        self._timing = timing or Timing()
        self._most = most
        self._lines: dict[str, Line] = {}
        self.refused = 0

    def hear(self, topic: str, message: bytes) -> None:
        """What came on one of the node's own request topics. Never raises, whatever it is."""
        try:
            conversation = wire.parse_request(topic).conversation
            line = self._lines.get(conversation)
            if line is not None:
                line.feed(message)
            elif not is_frame(message):
                self._open(conversation, message)
        except Refused as e:
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:  # powers of two: a flood of them makes no flood
                log.warning("refused (%d so far): %s", self.refused, e.reason)

    def _open(self, conversation: str, message: bytes) -> None:
        """Answer an opening that is the hub's. :raises Refused: it isn't."""
        mine = self._trusted
        party = keys.Party(mine.fleet, mine.node, conversation)
        opening = keys.read_opening(message, party, mine.verify_key)
        topic = wire.response_topic(mine.fleet, mine.node, opening.hub, conversation)
        ephemeral = trust.generate_key()
        pair = keys.node_keys(party, opening, ephemeral, mine.private_key)
        if len(self._lines) >= self._most:
            said = f"node {mine.node} holds {self._most} conversations already; try again when one has ended"
            first = frames.Sealer(pair.to_hub).seal(frames.Finish(End(reason="Unavailable", message=said)))
            self._post(topic, keys.make_answer(ephemeral, first))
            return

        def post(raw: bytes) -> None:
            self._post(topic, raw)

        task: asyncio.Task[None] | None = None

        def over(line: Line) -> None:
            self._lines.pop(conversation, None)
            if task is not None and task is not asyncio.current_task():
                task.cancel()

        line = Line(pair.to_hub, pair.to_node, post, self._roomy, over, self._timing)
        self._lines[conversation] = line
        first = line.sealer.seal(frames.Accept(flow.WINDOW))
        self._post(topic, keys.make_answer(ephemeral, first))
        task = self._tasks.create_task(self._answer(line), name=f"conversation {conversation}")

    async def _answer(self, line: Line) -> None:
        try:
            try:
                async with asyncio.timeout(self._timing.answer):
                    ask = await line.asked
            except TimeoutError:  # an opening that somebody repeats gets no further than here
                line.let_go()
                return
            line.finish(await self._end_of(ask, line))
        finally:
            line.end(End(reason="Gone", message="the connection to the hub was lost"))

    async def _end_of(self, ask: frames.Ask, line: Line) -> End:
        try:
            return await self._asked.answer(ask.request, Talk(line))
        except RetryError as e:
            return End(reason="Unavailable", message=str(e))
        except EdgedError as e:
            return End(reason="Refused", message=str(e))
        except Exception:  # the outermost loop: one question must not end the others
            log.exception("%s can't be answered", type(ask.request).__name__)
            return End(reason="Unavailable", message="the node could not do this; its journal says why")


class Talk:
    """Implements edged.uplink.Talk."""

    __slots__ = ("_line", "send")

    def __init__(self, line: Line) -> None:
        self._line = line
        self.send = line.send

    async def receive(self) -> tuple[int, bytes]:
        got = await self._line.receive()
        if isinstance(got, End):
            await asyncio.Event().wait()  # cancelled any moment now
            raise AssertionError
        return got.channel, got.body


def is_frame(message: bytes) -> bool:
    """A frame of a conversation that has ended (they overtake the news of the end), rather than an opening: its count
    is below 2^56, where an opening begins with the head of a msgpack array."""
    return message[:1] == b"\0"
