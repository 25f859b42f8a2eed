"""Bytes between the descriptors of a process and a conversation. Nothing is kept: who can't take more is waited for."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

import msgspec

from edged.errors import PermanentError
from edged.model.remote import MAX_FRAME, RESIZE, STDIN, Size
from edged.runtime import process
from edged.uplink import Talk

TURNS = 16  # frames after which others get their turn too


class Outward:
    """What comes out of a descriptor goes to one channel. `pump` may be cancelled anywhere, `rest` goes on from there:
    what was read and could not be sent yet is kept."""

    def __init__(self, fd: int, channel: int, talk: Talk) -> None:
        self._fd, self._channel, self._talk = fd, channel, talk
        self._unsent = b""

    async def pump(self) -> None:
        """Everything until its end, or until we are cancelled."""
        turns = 0
        while (data := read_some(self._fd)) != b"":
            if data is None:
                await process.readable(self._fd)
                continue
            await self._send(data)
            turns += 1
            if turns % TURNS == 0:
                await asyncio.sleep(0)

    async def rest(self) -> None:
        """What is there now; who goes on writing isn't waited for."""
        if self._unsent:
            await self._send(self._unsent)
        for _ in range(1 << 16):
            data = read_some(self._fd)
            if not data:
                return
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        """No larger than a frame, so that it is sent whole or, where we are cancelled while waiting, not at all."""
        self._unsent = data
        await self._talk.send(self._channel, data)
        self._unsent = b""


async def outward(fd: int, channel: int, talk: Talk) -> None:
    """Everything until its end, or until we are cancelled."""
    await Outward(fd, channel, talk).pump()


def read_some(fd: int) -> bytes | None:
    """What is there now; None = nothing yet, b"" = there will be no more."""
    try:
        return os.read(fd, MAX_FRAME)
    except BlockingIOError:
        return None
    except OSError as e:
        if e.errno in (errno.EIO, errno.ECONNRESET):  # a terminal that nobody has open any more; a peer that left
            return b""
        raise


async def inward(talk: Talk, fd: int, closed: Callable[[], None], resized: Callable[[Size], None]) -> None:
    """What comes on STDIN goes to `fd` (-1: nowhere), sizes to `resized`. For ever: cancel it.

    :param closed: called once when there will be no more input, or nobody reads it any more.
    """
    open_still = fd >= 0
    while True:
        channel, data = await talk.receive()
        if channel == RESIZE:
            resized(size_of(data))
        elif channel == STDIN and open_still and not (data and await written(fd, data)):
            open_still = False
            closed()


async def written(fd: int, data: bytes) -> bool:
    """False where nobody reads any more."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            await writable(fd)
        except OSError:
            return False
    return True


async def writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, lambda: None if done.done() else done.set_result(None))
    try:
        await done
    finally:
        loop.remove_writer(fd)


def size_of(data: bytes) -> Size:
    """:raises PermanentError: it is none."""
    try:
        return msgspec.msgpack.decode(data, type=Size)
    except (msgspec.MsgspecError, ValueError) as e:
        raise PermanentError(f"a terminal's size can't be read: {e}") from e
