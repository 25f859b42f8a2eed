"""Bytes of a command on their way out: slow readers lose nothing, whenever the command ends."""

from __future__ import annotations

import asyncio
import os

from edged.model.remote import MAX_FRAME, STDOUT
from edged.remote.pumps import Outward


class SlowTalk:
    """A Talk that has no room until `open` is called."""

    def __init__(self) -> None:
        self.got = b""
        self._room = asyncio.Event()

    def open(self) -> None:
        self._room.set()

    async def send(self, channel: int, data: bytes) -> None:
        await self._room.wait()
        self.got += data

    async def receive(self) -> tuple[int, bytes]:
        raise AssertionError("nobody talks to it")


def test_what_was_read_before_the_command_ended_is_sent_after_it() -> None:
    async def scene() -> bytes:
        read, write = os.pipe()
        os.set_blocking(read, False)
        said = os.urandom(2 * MAX_FRAME + 100)
        os.write(write, said)
        talk = SlowTalk()
        end = Outward(read, STDOUT, talk)
        pumping = asyncio.get_running_loop().create_task(end.pump(), name="pump")
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it has read its first frame, and waits for room
        pumping.cancel()
        await asyncio.wait((pumping,))
        talk.open()
        await end.rest()
        os.close(read)
        os.close(write)
        return said if talk.got == said else talk.got

    assert len(asyncio.run(scene())) == 2 * MAX_FRAME + 100
