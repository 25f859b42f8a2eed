"""Conversations with a real node, long, slow, or cut: nothing is lost unseen, nothing grows, nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cloudlink.cli import leftovers
from cloudlink.cli.house import House
from cloudlink.hub.remote import Conversation, Frame
from cloudlink.hub.streams import Streams
from edged import host
from edged.model.remote import STDIN, STDOUT, End, ExecRequest
from tests.houses import a_house, apply_and_wait, asking, container_pids, container_status, deployment, pods_of

pytestmark = pytest.mark.root

MIB = 1 << 20
PATIENCE = 20.0


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


class Asked:
    """One pod of a house, and the way to it."""

    def __init__(self, house: House, streams: Streams) -> None:
        self.house, self.streams = house, streams
        (self.pod,) = pods_of(house, "asked")
        self.before = container_pids(house, self.pod)

    async def exec(self, *command: str, **how: bool) -> Conversation:
        request = ExecRequest(self.pod["metadata"]["uid"], "main", command, **how)
        return await self.streams.open(self.house.names.node, request)

    async def begun(self, *command: str, **how: bool) -> Conversation:
        """A command that says something once it runs."""
        conversation = await self.exec(*command, **how)
        frame = await conversation.receive()
        assert isinstance(frame, Frame), frame
        return conversation

    def pids(self) -> set[int]:
        """Of what runs in the container beside its own process."""
        return set(container_pids(self.house, self.pod)) - set(self.before)

    async def alone(self) -> None:
        """Until nothing runs there but the container itself, and no helper of ours is left."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while (left := self.pids()) or self.guards() or self.files():
            now = asyncio.get_running_loop().time()
            assert now < deadline, f"left: {described(left)} {self.guards()} {self.files()}"
            await asyncio.sleep(0.05)
        assert container_pids(self.house, self.pod) == self.before, "the container was touched"

    def guards(self) -> list[str]:
        return [line for line in leftovers.processes(self.house.folder).values() if "edged-guard" in line]

    def files(self) -> list[str]:
        return [p.name for p in (self.house.folder / "node" / "run" / "pods").rglob("exec-*")]


def run(house: House, scenario: Callable[[Asked], Awaitable[None]]) -> None:
    apply_and_wait(house, deployment("asked"))

    async def whole() -> None:
        async with asyncio.timeout(2 * PATIENCE), asking(house) as streams:
            await scenario(Asked(house, streams))

    asyncio.run(whole())


def test_a_hundred_megabytes_go_through_cat_and_come_back_intact(house: House) -> None:
    async def scenario(it: Asked) -> None:
        conversation = await it.exec("cat", stdin=True)
        block = os.urandom(MIB)

        async def feed() -> None:
            for n in range(100):
                await conversation.send(Frame(STDIN, block[n:] + block[:n]))
            await conversation.send(Frame(STDIN, b""))

        feeding = asyncio.create_task(feed(), name="feeding")
        heard = hashlib.sha256()
        while not isinstance(frame := await conversation.receive(), End):
            assert frame.channel == STDOUT
            heard.update(frame.data)
        assert frame == End()
        await feeding
        await conversation.close()
        sent = hashlib.sha256()
        for n in range(100):
            sent.update(block[n:] + block[:n])
        assert heard.digest() == sent.digest()
        await it.alone()

    run(house, scenario)


def test_a_reader_that_stops_reading_makes_nobody_grow(house: House) -> None:
    async def scenario(it: Asked) -> None:
        daemon, broker = it.house.pids["node"], leftovers_pid(it.house, "mosquitto")
        for conversation in [await it.begun("yes") for _ in range(2)]:  # warm
            await conversation.close()
        before = host.pss(daemon), host.pss(broker)
        flooding = [await it.begun("yes") for _ in range(8)]
        await asyncio.sleep(3.0)
        after = host.pss(daemon), host.pss(broker)
        for conversation in flooding:
            await conversation.close()
        assert after[0] - before[0] < 6 * MIB
        assert after[1] - before[1] < 6 * MIB
        await it.alone()

    run(house, scenario)


@pytest.mark.parametrize("tty", [False, True])
def test_letting_go_kills_what_was_started_and_what_that_has_started(house: House, tty: bool) -> None:
    async def scenario(it: Asked) -> None:
        conversation = await it.begun("sh", "-c", "echo x; sleep 3600 & sleep 3601; true", tty=tty, stdin=tty)
        assert it.pids()
        await conversation.close()
        await it.alone()

    run(house, scenario)


def test_more_conversations_than_a_node_takes_are_refused_with_a_sentence(house: House) -> None:
    async def scenario(it: Asked) -> None:
        held = [await it.begun("sh", "-c", "echo x; sleep 3600") for _ in range(16)]
        with pytest.raises(Exception, match="holds 16 conversations already"):
            await it.exec("true")
        for conversation in held:
            await conversation.close()
        await it.alone()
        last = await it.exec("true")
        assert await last.receive() == End()
        await last.close()

    run(house, scenario)


@pytest.mark.parametrize("tty", [False, True])
def test_a_killed_daemon_takes_the_commands_with_it_and_leaves_the_container(house: House, tty: bool) -> None:
    async def scenario(it: Asked) -> None:
        conversation = await it.begun("sh", "-c", "echo x; sleep 3600; true", tty=tty, stdin=tty)
        kill(it.house.pids["node"])
        await it.alone()
        it.house.start_node()
        end = await ended(conversation)
        assert end.reason == "Gone"
        again = await it.begun("echo", "back")
        await again.close()
        await it.alone()
        assert container_status(pods_of(it.house, "asked")[0])["restartCount"] == 0

    run(house, scenario)


def test_a_killed_broker_ends_conversations_on_both_sides_and_new_ones_work(house: House) -> None:
    async def scenario(it: Asked) -> None:
        conversation = await it.begun("sh", "-c", "echo x; sleep 3600; true")
        kill(leftovers_pid(it.house, "mosquitto"))
        end = await ended(conversation)
        assert end.reason == "Gone"
        await it.alone()
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(Exception):
                    again = await it.begun("echo", "back")
                    break
        await again.close()
        await it.alone()

    run(house, scenario)


async def ended(conversation: Conversation) -> End:
    async with asyncio.timeout(PATIENCE):
        while not isinstance(frame := await conversation.receive(), End):
            pass
    await conversation.close()
    return frame


def leftovers_pid(house: House, word: str) -> int:
    return next(pid for pid, line in leftovers.processes(house.folder).items() if word in line.split(" ", 1)[0])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def described(pids: set[int]) -> list[str]:
    """For the person who reads why a test failed."""
    found = []
    for pid in sorted(pids):
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/stat").read_text()[:60])
    return found
