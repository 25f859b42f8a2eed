"""A SPDY session, the server's end: streams over anything that carries bytes.

A stream that nobody reads holds up the session once its buffer is full: there is no flow control (see `spdy`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from cloudlink.hub.doors import spdy
from cloudlink.hub.doors.pipes import LINGER, Pipe, end_all, linger
from cloudlink.hub.doors.spdy import Data, Framing, GoAway, Headers, Ping, RstStream, SpdyError, SynReply, SynStream

MAX_STREAMS = 512  # open at once; a forwarded connection takes two
HIGH_WATER = 64 << 10  # bytes received on a stream and not read


class Stream:
    """:ivar headers: of its SYN_STREAM, names in lower case."""

    def __init__(self, session: Session, number: int, headers: Headers, ended: bool) -> None:
        self.number, self.headers = number, headers
        self._session = session
        self._inbox = bytearray()
        self._changed = asyncio.Event()  # something to read, or nothing any more
        self._taken = asyncio.Event()  # room in the inbox
        self._ended = ended  # by the client
        self._finished = False  # by us
        self._dropping = False
        self.broken = False

    async def read(self) -> bytes:
        """What came since; waits. b"" at the end: the client's, or (`broken`) the stream's."""
        while not self._inbox and not self._ended and not self.broken:
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._inbox)
        self._inbox.clear()
        self._taken.set()
        return data

    async def broke(self) -> None:
        """Waits until the stream was reset or the client has left."""
        while not self.broken:
            self._changed.clear()
            await self._changed.wait()

    async def write(self, data: bytes) -> None:
        """Waits while the client is slow. Dropped when the stream has ended."""
        if data and not self._finished and not self.broken:
            await self._session.say(Data(self.number, data))

    async def finish(self) -> None:
        """No more from us."""
        if not self._finished and not self.broken:
            self._finished = True
            await self._session.say(Data(self.number, b"", fin=True))
            self._session.forget(self)

    def ignore(self) -> None:
        """Drop what comes from now on: nobody will read it."""
        self._dropping = True
        self._inbox.clear()
        self._taken.set()

    @property
    def over(self) -> bool:
        return self.broken or (self._ended and self._finished)

    # ------------------------------------------------------------ the session's side

    async def feed(self, data: bytes, fin: bool) -> None:
        if data and not self._dropping and not self._ended:
            while len(self._inbox) > HIGH_WATER and not self.broken:
                self._taken.clear()
                await self._taken.wait()
            if not self._dropping:
                self._inbox += data
        self._ended |= fin
        self._changed.set()

    def break_off(self) -> None:
        self.broken = True
        self._changed.set()
        self._taken.set()


class Session:
    """`run` it in a task of its own; it returns when the client has left or broken the rules."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._framing = Framing()
        self._streams: dict[int, Stream] = {}
        self._arrived: asyncio.Queue[Stream | None] = asyncio.Queue(MAX_STREAMS + 1)
        self._speaking = asyncio.Lock()  # headers are compressed in the order in which they are sent
        self._last = 0
        self._pings = 0

    async def accept(self) -> Stream | None:
        """The next stream that the client has opened; None once it has left."""
        return await self._arrived.get()

    async def run(self) -> None:
        reading = asyncio.create_task(self._read(), name="spdy: frames")
        leaving = asyncio.create_task(self._pipe.left(), name="spdy: client")
        try:
            await asyncio.wait([reading, leaving], return_when=asyncio.FIRST_COMPLETED)
            # It has left: its last words are taken, if anybody takes them.
            await asyncio.wait([reading], timeout=LINGER)
        finally:
            for stream in self._streams.values():
                stream.break_off()
            self._streams.clear()
            self._arrived.put_nowait(None)  # there is always room for it
            await end_all([reading, leaving])

    async def _read(self) -> None:
        try:
            while data := await self._pipe.read():
                for frame in self._framing.receive(data):
                    await self._handle(frame)
        except SpdyError:
            await self.say(GoAway(self._last, spdy.PROTOCOL_ERROR))

    async def _handle(self, frame: spdy.Frame) -> None:
        match frame:
            case SynStream():
                await self._open(frame)
            case Data(number, data, fin):
                if stream := self._streams.get(number):
                    await stream.feed(data, fin)
                    self.forget(stream)
            case RstStream(number):
                if stream := self._streams.get(number):
                    stream.break_off()
                    self.forget(stream)
            case Ping(number) if number % 2:  # an even one is the answer to ours
                await self.say(frame)
            case _:
                pass  # nothing that these protocols act upon

    async def _open(self, frame: SynStream) -> None:
        number = frame.stream
        if number % 2 == 0 or number <= self._last:
            raise SpdyError(f"stream {number} can't be opened after stream {self._last}")
        self._last = number
        if len(self._streams) >= MAX_STREAMS or self._arrived.qsize() >= MAX_STREAMS:
            await self.say(RstStream(number, spdy.REFUSED_STREAM))
            return
        stream = self._streams[number] = Stream(self, number, frame.headers, frame.fin)
        await self.say(SynReply(number, {}))
        self._arrived.put_nowait(stream)

    def forget(self, stream: Stream) -> None:
        if stream.over:
            self._streams.pop(stream.number, None)

    async def say(self, frame: spdy.Frame) -> None:
        async with self._speaking:
            await self._pipe.write(self._framing.encode(frame))

    async def ping(self) -> None:
        self._pings += 2
        await self.say(Ping(self._pings & 0x7FFFFFFE))

    async def left(self) -> None:
        await self._pipe.left()

    async def farewell(self) -> None:
        """After `run` was ended: say that this was all, and let the client hear it."""
        await self.say(GoAway(self._last))
        await linger(self._pipe.read)


@contextlib.asynccontextmanager
async def serving(session: Session) -> AsyncIterator[Session]:
    """Runs it inside, and says goodbye at the end."""
    running = asyncio.create_task(session.run(), name="spdy: session")
    try:
        yield session
    finally:
        await end_all([running])
    await session.farewell()
