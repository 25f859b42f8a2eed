"""One side vanishes without a word: the other lets go within the bound, and what it started ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cloudlink.streams.line import Timing
from edged.model.remote import STDOUT, AttachRequest, End, ExecRequest
from edged.uplink import Talk
from tests.fakes.remote import FakeNode
from tests.wire_lab import PATIENCE, linked, open_lab, running, until

SOON = Timing(answer=5.0, beat=0.1, silence=0.6)


class Watched(FakeNode):
    """:ivar under_way: commands that were begun and have not been ended."""

    def __init__(self) -> None:
        super().__init__({"uid-1": ("main",)})
        self.under_way = 0
        self.programs["forever"] = self._forever

    async def _forever(self, request: ExecRequest | AttachRequest, talk: Talk) -> End:
        self.under_way += 1
        try:
            await talk.send(STDOUT, b"begun")
            await asyncio.Event().wait()
        finally:
            self.under_way -= 1
        return End()


def test_a_hub_that_falls_silent_is_given_up_and_its_command_is_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Watched()
        async with open_lab(tmp_path) as lab, linked(lab.uplink(talk_timing=SOON), asked=node):
            streams = lab.streams(timing=SOON)
            async with running(streams.run(), "streams"):
                await until(streams.connected.is_set)
                conversation = await streams.open("pi-1", ExecRequest("uid-1", "main", ("forever",)))
                await conversation.receive()
                await asyncio.sleep(2 * SOON.silence)
                assert node.under_way == 1, "a quiet conversation is kept by its beats"
                (client,) = [streams._client]
                client.post = lambda *_: None  # type: ignore[union-attr, method-assign, assignment]
                await until(lambda: node.under_way == 0)
                async with asyncio.timeout(PATIENCE):
                    assert isinstance(await conversation.receive(), End)
                assert streams.live == 0

    asyncio.run(scenario())


def test_a_node_whose_link_is_lost_ends_what_it_does_and_the_hub_hears_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Watched()
        async with open_lab(tmp_path) as lab:
            streams = lab.streams(timing=SOON)
            async with running(streams.run(), "streams"):
                await until(streams.connected.is_set)
                async with linked(lab.uplink(), asked=node):
                    conversation = await streams.open("pi-1", ExecRequest("uid-1", "main", ("forever",)))
                    await conversation.receive()
                assert node.under_way == 0
                async with asyncio.timeout(PATIENCE):
                    end = await conversation.receive()
                assert isinstance(end, End)
                assert end.reason == "Gone"
                assert streams.live == 0

    asyncio.run(scenario())
