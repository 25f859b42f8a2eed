"""The hub's doors and clients other than kubectl: the Python client's helpers, and WebSockets made by hand."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import kubernetes
import pytest
import websockets
from kubernetes.stream import portforward, stream

from tests.fakes.hub_server import TOKEN
from tests.fakes.place import Place, listening

WAIT = 30.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"))
    with made.hub:
        made.furnish()
        yield made


@pytest.fixture
def core(place: Place) -> Iterator[Any]:
    client = kubernetes.config.new_client_from_config(str(place.hub.kubeconfig))
    yield kubernetes.client.CoreV1Api(client)
    client.rest_client.pool_manager.clear()


@asynccontextmanager
async def websocket(place: Place, path: str, query: str, *protocols: str) -> AsyncIterator[websockets.ClientConnection]:
    context = ssl.create_default_context(cafile=str(place.hub.certificate))
    url = f"wss://127.0.0.1:{place.hub.port}/api/v1/namespaces/default/pods/{path}?{query}"
    headers = {"authorization": f"Bearer {TOKEN}"}
    offered = [websockets.Subprotocol(p) for p in protocols]
    async with websockets.connect(
        url, ssl=context, additional_headers=headers, subprotocols=offered, proxy=None, max_size=None
    ) as connection:
        yield connection


async def everything(connection: websockets.ClientConnection) -> dict[int, bytes]:
    """What comes on each channel until the server says goodbye."""
    told: dict[int, bytes] = {}
    async for message in connection:
        assert isinstance(message, bytes)
        told[message[0]] = told.get(message[0], b"") + message[1:]
    assert connection.close_code == 1000
    return told


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_the_python_client_runs_commands_and_hears_their_exit_code(core: Any) -> None:
    shell = stream(
        core.connect_get_namespaced_pod_exec,
        "web",
        "default",
        command=["sh", "-c", "read line; echo got $line; echo err >&2; exit 4"],
        stderr=True,
        stdin=True,
        stdout=True,
        tty=False,
        _preload_content=False,
    )
    shell.write_stdin("a word\n")
    shell.run_forever(timeout=WAIT)
    assert shell.read_stdout() == "got a word\n"
    assert shell.read_stderr() == "err\n"
    assert shell.returncode == 4
    shell.close()


def test_the_python_client_forwards_ports(core: Any, place: Place) -> None:
    with listening() as port:
        place.node.ports = {80: port}
        forward = portforward(core.connect_get_namespaced_pod_portforward, "web", "default", ports="80,81")
        connection = forward.socket(80)
        connection.settimeout(WAIT)
        connection.sendall(b"POST / HTTP/1.0\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello")
        told = b""
        while not told.endswith(b"hello"):
            received = connection.recv(65536)
            assert received, told
            told += received
        eventually(lambda: forward.error(81) is not None, "nobody said that port 81 is closed")
        assert "error forwarding port 81 to pod web" in forward.error(81)
        forward.close()
    eventually(lambda: place.node.running == 0, "a connection outlived its client")


def test_the_python_client_reads_logs(core: Any, place: Place) -> None:
    place.node.log().write_text("1 one\n2 two\n")
    assert core.read_namespaced_pod_log("web", "default", tail_lines=1) == "two\n"
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.read_namespaced_pod_log("pair", "default")
    assert refused.value.status == 400
    message = "a container name must be specified for pod pair, choose one of: [main side]"
    assert json.loads(refused.value.body)["message"] == message
    with pytest.raises(kubernetes.client.ApiException) as invalid:
        core.read_namespaced_pod_log("web", "default", since_seconds=0, limit_bytes=0)
    assert invalid.value.status == 422
    causes = json.loads(invalid.value.body)["details"]["causes"]
    assert [c["field"] for c in causes] == ["limitBytes", "sinceSeconds"]


def test_closing_a_channel_ends_the_commands_input(place: Place) -> None:
    async def run() -> None:
        query = "command=cat&stdin=true&stdout=true"
        async with websocket(place, "web/exec", query, "v5.channel.k8s.io", "v4.channel.k8s.io") as connection:
            assert connection.subprotocol == "v5.channel.k8s.io"
            await connection.send(b"\0one ")
            await connection.send([b"\0tw", b"o ", b"three"])  # a message in fragments
            await connection.send(b"\xff\0")
            told = await everything(connection)
        assert told[1] == b"one two three"
        assert json.loads(told[3]) == {"metadata": {}, "status": "Success"}

    asyncio.run(run())


def test_text_channels_carry_base64_for_browsers(place: Place) -> None:
    async def run() -> None:
        query = "command=sh&command=-c&command=head+-c3&stdin=true&stdout=true"
        async with websocket(place, "web/exec", query, "v4.base64.channel.k8s.io") as connection:
            await connection.send("0" + base64.b64encode(b"\0\xff\x01").decode())
            told = {0: b""}
            async for message in connection:
                assert isinstance(message, str)
                told[int(message[0])] = told.get(int(message[0]), b"") + base64.b64decode(message[1:])
        assert told[1] == b"\0\xff\x01"
        assert json.loads(told[3])["status"] == "Success"

    asyncio.run(run())


@pytest.mark.parametrize("nonsense", [b"", b"\x04{", b"\x04" + b"9" * 5000, b"\x63channel", b"\xff", b"\xff\x09", "\0"])
def test_nonsense_on_a_channel_ends_nothing(place: Place, nonsense: bytes | str) -> None:
    async def run() -> None:
        query = "command=cat&stdin=true&stdout=true&stderr=true"
        async with websocket(place, "web/exec", query, "v5.channel.k8s.io") as connection:
            await connection.send(nonsense)
            await connection.send(b"\0still here")
            await connection.send(b"\xff\0")
            assert (await everything(connection))[1].endswith(b"still here")

    asyncio.run(run())


def test_who_reads_nothing_makes_the_node_wait_and_the_hub_hold_little(place: Place) -> None:
    async def run() -> None:
        context = ssl.create_default_context(cafile=str(place.hub.certificate))
        reader, writer = await asyncio.open_connection("127.0.0.1", place.hub.port, ssl=context, limit=4096)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            "GET /api/v1/namespaces/default/pods/web/exec?command=sh&command=-c"
            "&command=while+head+-c100000+/dev/zero;do+echo+x>>count;done&stdout=true HTTP/1.1\r\nhost: hub\r\n"
            f"authorization: Bearer {TOKEN}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-key: {key}\r\nsec-websocket-protocol: v4.channel.k8s.io\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head.splitlines()[0]
        count = place.node.folder / "count"
        seen = -1
        async with asyncio.timeout(WAIT):
            while (now := count.stat().st_size if count.exists() else 0) != seen or not now:  # until it stands still
                seen = now
                await asyncio.sleep(0.5)
        assert seen // 2 * 100_000 < 20 << 20  # sockets' buffers are the most of it
        writer.transport.abort()

    asyncio.run(run())
    eventually(lambda: place.node.running == 0, "the command outlived its client")


@pytest.mark.parametrize(
    ("path", "headers", "code", "message"),
    [
        ("web/exec?command=true&stdout=1", {}, 400, "Upgrade request required"),
        ("web/exec?command=true", {}, 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("web/exec?stdout=true", {}, 400, "you must specify at least one command"),
        ("pair/exec?command=true&stdout=1", {}, 400, "choose one of: [main side]"),
        ("none/exec?command=true&stdout=1", {}, 404, 'pods "none" not found'),
        ("web/exec?command=true&stdout=1", {"upgrade": "h2c"}, 400, "Upgrade request required"),
        ("web/exec?command=true&stdout=1", {"upgrade": "SPDY/3.1"}, 403, "unable to negotiate protocol"),
        ("web/exec?command=true&stdout=1", {"upgrade": "websocket"}, 400, "Sec-WebSocket-Key must be 16 bytes"),
        (
            "web/exec?command=true&stdout=1",
            {"upgrade": "websocket", "sec-websocket-version": "12"},
            400,
            "Sec-WebSocket-Version must be 13",
        ),
        (
            "web/portforward?ports=0",
            {"upgrade": "SPDY/3.1", "x-stream-protocol-version": "portforward.k8s.io"},
            400,
            "",
        ),
        (
            "web/portforward",
            {
                "upgrade": "websocket",
                "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "sec-websocket-protocol": "v4.channel.k8s.io",
            },
            400,
            'query parameter "ports" is required',
        ),
        ("web/log?tailLines=-1", {}, 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ("web/log?tailLines=many", {}, 400, "tailLines must be a whole number"),
        ("web/log?sinceTime=now", {}, 400, "sinceTime must be a time"),
    ],
)
def test_requests_that_make_no_sense_are_refused_with_a_status(
    place: Place, path: str, headers: dict[str, str], code: int, message: str
) -> None:
    context = ssl.create_default_context(cafile=str(place.hub.certificate))
    upgrade = {"connection": "Upgrade"} if "upgrade" in headers else {}
    sent = {"host": "hub", "authorization": f"Bearer {TOKEN}", **upgrade, **headers}
    with (
        socket.create_connection(("127.0.0.1", place.hub.port), WAIT) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        connection.sendall(f"GET /api/v1/namespaces/default/pods/{path} HTTP/1.1\r\n{lines}\r\n".encode())
        answer = b""
        while not answer.rstrip().endswith(b"}"):
            received = connection.recv(65536)
            assert received, answer
            answer += received
    assert int(answer.split()[1]) == code
    status = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert status["kind"] == "Status"
    assert message in status["message"]


def test_nobody_comes_in_without_a_token(place: Place) -> None:
    context = ssl.create_default_context(cafile=str(place.hub.certificate))

    async def run() -> None:
        url = f"wss://127.0.0.1:{place.hub.port}/api/v1/namespaces/default/pods/web/exec?command=true&stdout=1"
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(url, ssl=context, proxy=None):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["reason"] == "Unauthorized"

    asyncio.run(run())
    assert place.node.running == 0
