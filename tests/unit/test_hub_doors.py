"""The hub's doors in memory: SPDY sessions, forwarding, what is refused, and that little is held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloudlink.hub.api.answers import ApiError
from cloudlink.hub.api.logs import log_request
from cloudlink.hub.api.pods import check_log, container_of, node_of
from cloudlink.hub.api.usage import ask
from cloudlink.hub.doors import spdy
from cloudlink.hub.doors.forwards import forward_session
from cloudlink.hub.doors.sessions import MAX_STREAMS, Session, serving
from cloudlink.hub.doors.spdy import Data, Frame, Framing, GoAway, Ping, RstStream, SynReply, SynStream
from cloudlink.hub.doors.terminals import over_spdy, resize_of, status_of
from cloudlink.hub.doors.ways import Ways
from cloudlink.kube.core import Pod
from cloudlink.kube.parse import parse
from edged.errors import RetryError
from edged.model.remote import AnyRequest, ConnectRequest, End, ExecRequest, Usage, UsageRequest
from edged.uplink import Talk
from tests.fakes.remote import FakeNode, FakeRemote

WAIT = 20.0


class Memory:
    """A pipe, and at its other end a client that speaks SPDY."""

    def __init__(self) -> None:
        self._to_us: asyncio.Queue[bytes] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._client = Framing()
        self.heard: list[Frame] = []
        self._more = asyncio.Event()

    async def read(self) -> bytes:
        return b"" if self._gone.is_set() and self._to_us.empty() else await self._to_us.get()

    async def write(self, data: bytes) -> None:
        self.heard += self._client.receive(data)
        self._more.set()

    async def left(self) -> None:
        await self._gone.wait()

    def close(self) -> None:
        pass

    def say(self, *frames: Frame) -> None:
        self.send(b"".join(map(self._client.encode, frames)))

    def send(self, data: bytes) -> None:
        self._to_us.put_nowait(data)

    def leave(self) -> None:
        self._gone.set()
        self._to_us.put_nowait(b"")

    async def hear(self, what: Callable[[Frame], bool]) -> Frame:
        async with asyncio.timeout(WAIT):
            while (found := next((f for f in self.heard if what(f)), None)) is None:
                self._more.clear()
                await self._more.wait()
        return found

    def said_on(self, stream: int) -> bytes:
        return b"".join(f.data for f in self.heard if isinstance(f, Data) and f.stream == stream)


def run(deed: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT):
            await deed()

    asyncio.run(bounded())


def test_a_session_answers_streams_and_pings() -> None:
    async def deed() -> None:
        pipe = Memory()
        async with serving(Session(pipe)) as session:
            pipe.say(SynStream(1, {"streamtype": "error"}), Ping(7), Ping(2))
            stream = await session.accept()
            assert stream is not None
            assert stream.headers == {"streamtype": "error"}
            assert await pipe.hear(lambda f: isinstance(f, Ping)) == Ping(7)
            assert SynReply(1, {}) in pipe.heard
            pipe.say(Data(1, b"word"), Data(1, b"", True))
            told = b""
            while data := await stream.read():
                told += data
            assert told == b"word"
            pipe.leave()
            assert await session.accept() is None
        assert Ping(2) not in pipe.heard
        assert GoAway(1) in pipe.heard

    run(deed)


@pytest.mark.parametrize(
    "frames", [[SynStream(2, {})], [SynStream(3, {}), SynStream(1, {})], [SynStream(1, {}), SynStream(1, {})]]
)
def test_streams_with_numbers_that_cant_be_end_the_session(frames: list[Frame]) -> None:
    async def deed() -> None:
        pipe = Memory()
        session = Session(pipe)
        pipe.say(*frames)
        await session.run()
        assert any(isinstance(f, GoAway) and f.status == spdy.PROTOCOL_ERROR for f in pipe.heard)

    run(deed)


def test_what_is_no_spdy_ends_the_session() -> None:
    async def deed() -> None:
        pipe = Memory()
        pipe.send(b"GET / HTTP/1.1\r\n" * 5 + b"\x80\x02" * 20)
        pipe.leave()
        await Session(pipe).run()

    run(deed)


def test_more_streams_than_there_may_be_are_refused() -> None:
    async def deed() -> None:
        pipe = Memory()
        async with serving(Session(pipe)):
            pipe.say(*(SynStream(2 * n + 1, {}) for n in range(MAX_STREAMS + 1)))
            refused = await pipe.hear(lambda f: isinstance(f, RstStream))
            assert refused == RstStream(2 * MAX_STREAMS + 1, spdy.REFUSED_STREAM)
            pipe.leave()

    run(deed)


def forwarding(remote: FakeRemote) -> tuple[Memory, Awaitable[None]]:
    pipe, ways = Memory(), Ways(remote)
    connect = lambda port: ways.conversation("pi-1", ConnectRequest("u1", port))  # noqa: E731
    return pipe, forward_session(pipe, connect, "web")


def pair(number: int, port: int = 80) -> list[Frame]:
    common = {"port": str(port), "requestid": str(number)}
    error = SynStream(number, {**common, "streamtype": "error"}, fin=True)
    return [error, SynStream(number + 2, {**common, "streamtype": "data"})]


def test_each_pair_of_streams_is_a_connection_of_its_own() -> None:
    async def deed() -> None:
        remote = FakeRemote({"pi-1": FakeNode({"u1": ["main"]})})
        pipe, forward = forwarding(remote)
        task = asyncio.ensure_future(forward)
        pipe.say(*pair(1), *pair(5))
        pipe.say(Data(3, b"one"), Data(7, b"two"), Data(3, b"", True))
        await pipe.hear(lambda f: isinstance(f, Data) and f.stream == 3 and f.fin)
        await pipe.hear(lambda f: isinstance(f, Data) and f.stream == 7)
        assert (pipe.said_on(3), pipe.said_on(7), pipe.said_on(1)) == (b"one", b"two", b"")
        assert remote.live == 1
        pipe.leave()
        await task
        assert remote.live == 0

    run(deed)


def test_a_connection_that_fails_is_told_on_its_error_stream_and_the_others_go_on() -> None:
    async def deed() -> None:
        pipe, forward = forwarding(FakeRemote({"pi-1": FakeNode({"u1": ["main"]})}))
        task = asyncio.ensure_future(forward)
        pipe.say(*pair(1, 81), SynStream(5, {"streamtype": "data", "port": "none"}), SynStream(7, {}))
        pipe.say(*pair(9), Data(11, b"still here"))
        await pipe.hear(lambda f: isinstance(f, Data) and f.stream == 1 and f.fin)
        assert b"error forwarding port 81 to pod web: nothing listens on port 81" in pipe.said_on(1)
        await pipe.hear(lambda f: isinstance(f, Data) and f.stream == 11)
        assert [f.stream for f in pipe.heard if isinstance(f, RstStream)] == [5, 7]
        pipe.leave()
        await task

    run(deed)


def test_a_command_over_spdy_ends_with_its_status_on_the_error_stream() -> None:
    async def deed() -> None:
        remote = FakeRemote({"pi-1": FakeNode({"u1": ["main"]})})
        asked = ExecRequest("u1", "main", ("exit", "3"), stderr=False)
        for protocol, told in (("v4.channel.k8s.io", '"message":"3"'), ("channel.k8s.io", "exit status 3")):
            pipe = Memory()
            async with Ways(remote).conversation("pi-1", asked) as conversation:
                pipe.say(SynStream(1, {"streamtype": "error"}), SynStream(3, {"streamtype": "stdout"}))
                task = asyncio.ensure_future(over_spdy(pipe, protocol, conversation, asked))
                await pipe.hear(lambda f: isinstance(f, Data) and f.stream == 1 and f.fin)
                await pipe.hear(lambda f: isinstance(f, GoAway))
                pipe.leave()
                await task
            assert told in pipe.said_on(1).decode()
        assert remote.live == 0

    run(deed)


def test_a_client_that_opens_other_streams_than_it_asked_for_gets_nothing() -> None:
    async def deed() -> None:
        remote = FakeRemote({"pi-1": FakeNode({"u1": ["main"]})})
        asked = ExecRequest("u1", "main", ("sleep", "100"), stderr=False)
        pipe = Memory()
        pipe.say(SynStream(1, {"streamtype": "colour"}))
        async with Ways(remote).conversation("pi-1", asked) as conversation:
            task = asyncio.ensure_future(over_spdy(pipe, "v4.channel.k8s.io", conversation, asked))
            await pipe.hear(lambda f: isinstance(f, GoAway))
            pipe.leave()
            await task
        assert remote.live == 0

    run(deed)


def test_no_more_conversations_are_opened_than_there_may_be() -> None:
    async def deed() -> None:
        remote = FakeRemote({"pi-1": FakeNode({"u1": ["main"]})})
        ways, asked = Ways(remote, most=1), ExecRequest("u1", "main", ("sleep", "100"))
        async with ways.conversation("pi-1", asked):
            with pytest.raises(RetryError, match="1 conversations with nodes are under way"):
                async with ways.conversation("pi-1", asked):
                    pass
        async with ways.conversation("pi-1", asked):
            pass
        assert remote.live == 0

    run(deed)


class Silent:
    """A node that never answers."""

    async def answer(self, request: AnyRequest, talk: Talk) -> End:
        await asyncio.sleep(1000)
        return End()


class Babbler:
    """A node that answers what nobody understands."""

    async def answer(self, request: AnyRequest, talk: Talk) -> End:
        assert isinstance(request, UsageRequest)
        await talk.send(1, b"\xc1nonsense")
        return End()


def test_nodes_that_say_nothing_of_use_are_left_out() -> None:
    async def deed() -> None:
        good = FakeNode({})
        good.usage = Usage(cpu=1.5, memory=2, window=3.0)
        remote = FakeRemote({"good": good, "silent": Silent(), "babbler": Babbler(), "offline": good})
        remote.offline.add("offline")
        told = await ask(Ways(remote), ["good", "silent", "babbler", "offline"], within=0.5)
        assert told == {"good": good.usage}
        assert remote.live == 0

    run(deed)


def pod(*containers: str, node: str = "pi-1", **state: Any) -> Pod:
    spec = {"nodeName": node, "containers": [{"name": c, "image": "demo:1"} for c in containers]}
    status = {"name": "main", "image": "demo:1", "ready": False, "restartCount": 0, **state}
    made = parse(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}
        | {"status": {"containerStatuses": [status] if state else []}}
    )
    assert isinstance(made, Pod)
    return made


ENDED = {"terminated": {"exitCode": 1}}


@pytest.mark.parametrize(
    ("about", "previous", "message"),
    [
        (pod("main"), False, 'container "main" in pod "web" is not available'),
        (pod("main", state={"waiting": {"reason": "ErrImagePull"}}), False, "waiting to start: image can't be pulled"),
        (pod("main", state={"waiting": {"reason": "ImagePullBackOff"}}), False, "trying and failing to pull image"),
        (pod("main", state={"waiting": {"reason": "ContainerCreating"}}), False, "waiting to start: ContainerCreating"),
        (pod("main", state={}), False, "is waiting to start - no logs yet"),
        (pod("main", state={"running": {}}), True, 'previous terminated container "main" in pod "web" not found'),
        (pod("main", state={"running": {}}), False, ""),
        (pod("main", state=ENDED), False, ""),
        (pod("main", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ENDED), False, ""),
        (pod("main", state={"running": {}}, lastState=ENDED), True, ""),
    ],
)
def test_a_log_that_cant_be_there_is_refused_in_kubelets_words(about: Pod, previous: bool, message: str) -> None:
    if not message:
        check_log(about, "main", previous)
        return
    with pytest.raises(ApiError) as refused:
        check_log(about, "main", previous)
    assert (refused.value.code, refused.value.reason) == (400, "BadRequest")
    assert message in refused.value.message


def test_the_container_that_is_meant_is_named_or_the_only_one() -> None:
    assert container_of(pod("main"), "") == "main"
    assert container_of(pod("main", "side"), "side") == "side"
    for about, wanted, message in (
        (pod("main", "side"), "", "choose one of: [main side]"),
        (pod("main"), "other", "container other is not valid for pod web"),
    ):
        with pytest.raises(ApiError) as refused:
            container_of(about, wanted)
        assert message in refused.value.message
    with pytest.raises(ApiError) as homeless:
        node_of(pod("main", node=""))
    assert homeless.value.message == "pod web does not have a host assigned"


def test_options_of_a_log_become_the_nodes_request() -> None:
    asked = log_request("u1", "main", {"follow": "", "tailLines": "0", "sinceTime": "1970-01-01T00:01:00Z"})
    assert (asked.follow, asked.tail, asked.since_wall, asked.limit) == (True, 0, 60.0, 0)
    with pytest.raises(ApiError) as both:
        log_request("u1", "main", {"sinceSeconds": "5", "sinceTime": "1970-01-01T00:01:00Z"})
    assert "at most one of `sinceTime` or `sinceSeconds` may be specified" in both.value.message


def test_how_a_command_ended_is_told_as_kubelet_does() -> None:
    assert status_of(End()) == {"metadata": {}, "status": "Success"}
    failed = status_of(End(code=137))
    assert (failed["reason"], failed["details"]["causes"]) == (
        "NonZeroExitCode",
        [{"reason": "ExitCode", "message": "137"}],
    )
    lost = status_of(End(code=1, reason="Gone", message="the node went away"))
    assert (lost["reason"], lost["message"]) == ("InternalError", "Internal error occurred: the node went away")


@pytest.mark.parametrize("document", ["", "{}", "[1]", '{"Width":0,"Height":5}', '{"Width":99999,"Height":5}', "\xff"])
def test_what_is_no_size_of_a_terminal_is_ignored(document: str) -> None:
    assert resize_of(document.encode("latin-1")) is None
    assert resize_of(json.dumps({"Width": 80, "Height": 24}).encode()) is not None
