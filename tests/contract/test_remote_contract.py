"""What every `Remote` promises, in memory and over a real broker to a real node with real containers alike."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from cloudlink.cli.house import House
from cloudlink.hub.remote import Conversation, Frame, Remote
from edged.errors import EdgedError
from edged.model.remote import (
    STDIN,
    STDOUT,
    ConnectRequest,
    End,
    ExecRequest,
    LogsRequest,
    Usage,
    UsageRequest,
)
from tests import wire_lab
from tests.fakes.remote import FakeNode, FakeRemote
from tests.houses import a_house, apply_and_wait, asking, deployment

PATIENCE = 60.0


Where = Callable[[], AbstractAsyncContextManager["Place"]]


class Place(NamedTuple):
    """A remote with one node, one pod on it, and one container in that; its log has the lines one, two, three."""

    remote: Remote
    node: str
    pod: str
    container: str
    port: int  # of the pod; who connects gets back what he sends

    def exec(self, *command: str, stdin: bool = False, tty: bool = False) -> ExecRequest:
        return ExecRequest(self.pod, self.container, command, stdin=stdin, tty=tty)


@asynccontextmanager
async def in_memory() -> AsyncIterator[Place]:
    node = FakeNode({"uid-1": ("main",)})
    node.logs["uid-1", "main"] = ["one", "two", "three"]
    remote = FakeRemote({"pi-1": node})
    yield Place(remote, "pi-1", "uid-1", "main", 80)
    assert remote.live == 0, "somebody did not let go"


@asynccontextmanager
async def over_the_wire() -> AsyncIterator[Place]:
    """A real broker, a real link, the same pretended node behind it."""
    node = FakeNode({"uid-1": ("main",)})
    node.logs["uid-1", "main"] = ["one", "two", "three"]
    with tempfile.TemporaryDirectory() as folder:
        async with wire_lab.open_lab(Path(folder)) as lab, wire_lab.talking(lab, node) as streams:
            yield Place(streams, "pi-1", "uid-1", "main", 80)
            assert streams.live == 0, "somebody did not let go"


SERVER = "(while :; do nc -l -p 7000 -e cat; done) & echo one; echo two; echo three; wait"


@pytest.fixture(scope="module")
def real_house() -> Iterator[tuple[House, str]]:
    """A real node, and the uid of its pod."""
    with a_house() as house:
        (pod,) = apply_and_wait(house, deployment("asked", command=SERVER))
        yield house, pod["metadata"]["uid"]


@pytest.fixture(params=["fake", "wire", pytest.param("real", marks=pytest.mark.root)])
def place(request: pytest.FixtureRequest) -> Where:
    if request.param == "fake":
        return in_memory
    if request.param == "wire":
        return over_the_wire
    house, uid = request.getfixturevalue("real_house")

    @asynccontextmanager
    async def to_a_house() -> AsyncIterator[Place]:
        async with asking(house) as streams:
            yield Place(streams, house.names.node, uid, "main", 7000)
            assert streams.live == 0, "somebody did not let go"

    return to_a_house


def run(place: Where, scenario: Callable[[Place], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(PATIENCE), place() as it:
            await scenario(it)

    asyncio.run(whole())


async def heard(conversation: Conversation) -> tuple[dict[int, bytes], End]:
    """Everything until its end, by channel."""
    said: dict[int, bytes] = {}
    while not isinstance(frame := await conversation.receive(), End):
        said[frame.channel] = said.get(frame.channel, b"") + frame.data
    await conversation.close()
    return said, frame


async def asked(place: Place, request: ExecRequest | LogsRequest | UsageRequest) -> tuple[dict[int, bytes], End]:
    return await heard(await place.remote.open(place.node, request))


def test_a_commands_output_comes_by_channel_and_then_its_exit_code(place: Where) -> None:
    async def scenario(it: Place) -> None:
        assert await asked(it, it.exec("echo", "hello", "there")) == ({STDOUT: b"hello there\n"}, End())
        assert await asked(it, it.exec("true")) == ({}, End())
        assert await asked(it, it.exec("false")) == ({}, End(code=1))

    run(place, scenario)


def test_a_command_that_is_not_there_is_refused_with_its_name(place: Where) -> None:
    async def scenario(it: Place) -> None:
        said, end = await asked(it, it.exec("no-such-program"))
        assert end.reason == "Refused"
        assert "no-such-program" in end.message
        assert not said

    run(place, scenario)


def test_what_goes_in_comes_out_whole_and_an_empty_frame_is_the_end_of_it(place: Where) -> None:
    async def scenario(it: Place) -> None:
        conversation = await it.remote.open(it.node, it.exec("cat", stdin=True))
        sent = bytes(range(256)) * 1024  # larger than a frame, and than all that may be under way

        async def feed() -> None:
            await conversation.send(Frame(STDIN, sent))
            await conversation.send(Frame(STDIN, b""))

        feeding = asyncio.create_task(feed(), name="feeding")
        assert await heard(conversation) == ({STDOUT: sent}, End())
        await feeding

    run(place, scenario)


def test_letting_go_ends_what_was_started_and_is_harmless_twice(place: Where) -> None:
    async def scenario(it: Place) -> None:
        conversation = await it.remote.open(it.node, it.exec("sleep", "3600"))
        await conversation.close()
        await conversation.close()
        assert isinstance(await conversation.receive(), End)
        assert isinstance(await conversation.receive(), End)
        await conversation.send(Frame(STDIN, b"dropped"))

    run(place, scenario)


def test_who_only_sends_and_never_reads_is_held_back(place: Where) -> None:
    async def scenario(it: Place) -> None:
        conversation = await it.remote.open(it.node, it.exec("cat", stdin=True))
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await conversation.send(Frame(STDIN, bytes(16 << 10)))
                sent += 16 << 10

        flooding = asyncio.create_task(flood(), name="flooding")
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.5)
        assert sent <= 2 << 20
        flooding.cancel()
        await conversation.close()

    run(place, scenario)


def test_a_log_is_whole_or_its_tail_and_a_followed_one_goes_on(place: Where) -> None:
    async def scenario(it: Place) -> None:
        whole = LogsRequest(it.pod, it.container)
        assert await asked(it, whole) == ({STDOUT: b"one\ntwo\nthree\n"}, End())
        assert await asked(it, msgspec.structs.replace(whole, tail=1)) == ({STDOUT: b"three\n"}, End())
        assert await asked(it, msgspec.structs.replace(whole, limit=6)) == ({STDOUT: b"one\ntw"}, End())
        following = await it.remote.open(it.node, msgspec.structs.replace(whole, follow=True))
        text = b""
        while text != b"one\ntwo\nthree\n":
            frame = await following.receive()
            assert isinstance(frame, Frame)
            text += frame.data
        await following.close()

    run(place, scenario)


def test_a_log_that_there_is_not_is_refused_with_kubernetes_words(place: Where) -> None:
    async def scenario(it: Place) -> None:
        _, end = await asked(it, LogsRequest(it.pod, it.container, previous=True))
        assert end.reason == "Refused"
        assert end.message.startswith('previous terminated container "main" in pod ')
        assert (await asked(it, LogsRequest(it.pod, "other")))[1].reason == "NotFound"
        assert (await asked(it, LogsRequest("no-such-uid", "main")))[1].reason == "NotFound"

    run(place, scenario)


def test_a_port_of_the_pod_is_reached_and_a_closed_one_is_refused(place: Where) -> None:
    async def scenario(it: Place) -> None:
        conversation = await it.remote.open(it.node, ConnectRequest(it.pod, it.port))
        await conversation.send(Frame(STDIN, b"there and back\n"))
        await conversation.send(Frame(STDIN, b""))
        said, end = await heard(conversation)
        assert said == {STDOUT: b"there and back\n"}
        assert not end.reason
        _, end = await heard(await it.remote.open(it.node, ConnectRequest(it.pod, 9)))
        assert end.reason == "Refused"

    run(place, scenario)


def test_usage_is_one_frame_with_numbers_of_the_node(place: Where) -> None:
    async def scenario(it: Place) -> None:
        said, end = await asked(it, UsageRequest())
        assert end == End()
        usage = msgspec.msgpack.decode(said[STDOUT], type=Usage)
        assert usage.memory > 0
        assert usage.window > 0

    run(place, scenario)


def test_a_node_that_never_joined_is_told_by_an_error(place: Where) -> None:
    async def scenario(it: Place) -> None:
        with pytest.raises(EdgedError, match="nobody"):
            await it.remote.open("nobody", UsageRequest())

    run(place, scenario)
