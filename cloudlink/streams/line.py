"""One end of an open conversation in a running loop; hub and node have the same. Knows no MQTT: it is handed what came
(`feed`), and hands out what goes (`Post`)."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from cloudlink.streams import flow, frames
from cloudlink.streams.frames import AnyFrame, Ask, Beat, Credit, Data, Finish, LetGo
from cloudlink.wire import Refused
from edged.model.remote import MAX_FRAME, End

CLOSED = End(reason="Gone", message="the conversation was closed")


class Timing(NamedTuple):
    """Seconds.

    :ivar answer: how long an opening waits for its answer, and an answer for what is asked.
    :ivar beat: who has said nothing for so long says that he is still there.
    :ivar silence: who has heard nothing for so long takes the other side for gone.
    """

    answer: float = 10.0
    beat: float = 10.0
    silence: float = 30.0


Post = Callable[[bytes], None]
"""Hands a message on; never waits, never raises. What can't be sent is lost, and the other side will notice."""


class Line:
    """:param key_out, key_in: of the two directions.
    :param roomy: waits while too much is waiting to be sent over the connection that all conversations share.
    :param over: called once, when it has ended, by whomever.

    :ivar ended: how; None while it goes on.
    :ivar asked: what the hub has asked, once it has.
    """

    def __init__(
        self,
        key_out: bytes,
        key_in: bytes,
        post: Post,
        roomy: Callable[[], Awaitable[None]],
        over: Callable[[Line], None],
        timing: Timing,
        window: int = flow.WINDOW,
    ) -> None:
        self.sealer = frames.Sealer(key_out)
        self.opener = frames.Opener(key_in)
        self.ended: End | None = None
        self.asked: asyncio.Future[Ask] = asyncio.get_running_loop().create_future()
        self._post = post
        self._roomy = roomy
        self._over = over
        self._timing = timing
        self._sending: flow.Sending | None = None
        self._receiving = flow.Receiving(window)
        self._inbox: collections.deque[Data] = collections.deque(maxlen=flow.MAX_WINDOW // flow.LEAST)
        self._news = asyncio.Event()
        self._credit = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard = self._said = self._loop.time()
        self._timer = self._loop.call_later(timing.beat, self._tick)

    # ------------------------------------------------------------ in

    def feed(self, message: bytes) -> None:
        """What the broker brought for this conversation. Never raises, whatever it is."""
        if self.ended is not None:
            return
        try:
            frame = self.opener.open(message)
            if frame is not None:
                self._heard = self._loop.time()
                self._take(frame)
        except Refused as e:
            self._say(LetGo())
            self.end(End(reason="Gone", message=e.reason))

    def _take(self, frame: AnyFrame) -> None:
        match frame:
            case Data():
                self._receiving.came(flow.cost(frame.body))
                self._inbox.append(frame)
                self._news.set()
            case Credit(amount):
                if self._sending is None:
                    raise Refused("a credit came before anything was sent")
                self._sending.credited(amount)
                self._credit.set()
            case Finish(end):
                self.end(end)
            case LetGo():
                self.end(CLOSED)
            case Ask():
                if self.asked.done():
                    raise Refused("something was asked twice")
                self.allow(frame.window)
                self.asked.set_result(frame)
            case frames.Accept():
                raise Refused("an opening was answered twice")

    def allow(self, window: int) -> None:
        """The other side has told how much may be under way to it. :raises Refused: it can't mean that."""
        self._sending = flow.Sending(window)
        self._credit.set()

    async def receive(self) -> Data | End:
        """The next frame; what came before the end comes before it."""
        while not self._inbox:
            if self.ended is not None:
                return self.ended
            self._news.clear()
            await self._news.wait()
        data = self._inbox.popleft()
        owed = self._receiving.taken(flow.cost(data.body))
        if owed and self.ended is None:
            self._say(Credit(owed))
        return data

    # ------------------------------------------------------------ out

    async def send(self, channel: int, body: bytes) -> None:
        """In pieces that fit; each waits until the other side has room. Nothing happens once it has ended."""
        for at in range(0, len(body) or 1, MAX_FRAME):
            piece = body[at : at + MAX_FRAME]
            amount = flow.cost(piece)
            await self._roomy()
            while self.ended is None and (self._sending is None or not self._sending.may(amount)):
                self._credit.clear()
                await self._credit.wait()
            if self.ended is not None or self._sending is None:
                return
            self._sending.spend(amount)
            self._say(Data(channel, piece))

    def say(self, frame: AnyFrame) -> None:
        """A frame that costs nothing. :raises Refused: it is too large."""
        if self.ended is None:
            self._say(frame)

    def _say(self, frame: AnyFrame) -> None:
        self._said = self._loop.time()
        self._post(self.sealer.seal(frame))

    # ------------------------------------------------------------ the end

    def finish(self, end: End) -> None:
        """Tell the hub how it ended."""
        if self.ended is None:
            self._say(Finish(end))
            self.end(end)

    def let_go(self) -> None:
        """Nobody here is interested any more."""
        if self.ended is None:
            self._say(LetGo())
            self.end(CLOSED)
        self._inbox.clear()

    def end(self, end: End) -> None:
        """It is over, and the other side knows or can't be told."""
        if self.ended is not None:
            return
        self.ended = end
        self._timer.cancel()
        self.asked.cancel()
        self._news.set()
        self._credit.set()
        self._over(self)

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._heard >= self._timing.silence:
            self._say(LetGo())
            self.end(End(reason="Gone", message=f"nothing was heard of the other side for {now - self._heard:.0f} s"))
            return
        if now - self._said >= self._timing.beat * 0.9:
            self._say(Beat())
        self._timer = self._loop.call_later(self._timing.beat, self._tick)
