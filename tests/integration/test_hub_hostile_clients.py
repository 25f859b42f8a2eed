"""Clients that are slow, silent, endless or gone, over real sockets: refused or survived, and nothing is left."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cloudlink.hub.api.intake import Intake
from cloudlink.hub.api.protocol import HEAD, Protocol
from cloudlink.hub.store import Create, Store
from tests.fakes.hub_objects import config
from tests.fakes.hub_server import TOKEN, WAIT, HubServer

MAPS = "/api/v1/namespaces/default/configmaps"


class Impatient(Protocol):
    head_time = 0.3


@pytest.fixture
def intake() -> Intake:
    return Intake(most=3, seconds=1.0)


@pytest.fixture
def hub(tmp_path: Path, intake: Intake) -> Iterator[HubServer]:
    with HubServer(tmp_path, protocol=Impatient, intake=intake) as server:
        yield server


def connect(hub: HubServer) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(hub.certificate))
    plain = socket.create_connection(("127.0.0.1", hub.port), timeout=WAIT)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def head(method: str, path: str, *more: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "host: hub", f"authorization: Bearer {TOKEN}", *more)
    return "\r\n".join((*lines, "", "")).encode()


def post(*more: str, path: str = MAPS) -> bytes:
    return head("POST", path, "content-type: application/json", *more)


def answer(sock: ssl.SSLSocket) -> tuple[int, bytes]:
    """Status code, and what there is of the rest until the server closes or has said as much as it announced."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (part := sock.recv(65536)):
            break
        received += part
    top, _, rest = received.partition(b"\r\n\r\n")
    wanted = next((int(h.split(b":")[1]) for h in top.split(b"\r\n") if h.lower().startswith(b"content-length")), 0)
    while len(rest) < wanted and (part := sock.recv(65536)):
        rest += part
    return (int(top.split()[1]) if top else 0), top + b"\r\n\r\n" + rest


def closed(sock: ssl.SSLSocket) -> bool:
    try:
        return sock.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def ask(hub: HubServer, request: bytes) -> tuple[int, bytes]:
    with closing(connect(hub)) as sock:
        sock.sendall(request)
        return answer(sock)


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def tasks(hub: HubServer) -> int:
    def count(_: Store) -> int:
        return len(asyncio.all_tasks())

    return hub.do(count)


def readers(hub: HubServer) -> int:
    """Subscriptions to the store."""
    return hub.do(lambda store: len(store._memory.readers))


def is_well(hub: HubServer, intake: Intake) -> None:
    """It answers, and holds nothing of anybody's."""
    assert ask(hub, head("GET", MAPS, "connection: close"))[0] == 200
    eventually(lambda: (intake.requests, intake.bytes) == (0, 0))


def test_a_body_of_twenty_megabytes_is_refused_by_its_length_or_as_it_comes(hub: HubServer, intake: Intake) -> None:
    code, told = ask(hub, post(f"content-length: {20 << 20}"))
    assert (code, b"RequestEntityTooLarge" in told) == (413, True)
    with closing(connect(hub)) as sock:
        sock.sendall(post("transfer-encoding: chunked"))
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range((4 << 20) // 0x10000):
            sock.sendall(chunk)
        assert answer(sock)[0] == 413
    is_well(hub, intake)


def test_who_sends_a_body_byte_by_byte_is_hung_up_on(hub: HubServer, intake: Intake) -> None:
    with closing(connect(hub)) as sock:
        sock.sendall(post("content-length: 1000") + b"{")
        code, told = answer(sock)
        assert (code, b"did not arrive within" in told) == (408, True)
        assert closed(sock)
    is_well(hub, intake)


def test_who_says_nothing_or_never_ends_its_request_is_let_go(hub: HubServer, intake: Intake) -> None:
    silent, slow = connect(hub), connect(hub)
    with closing(silent), closing(slow):
        slow.sendall(b"GET /api HTTP/1.1\r\nhost: h")
        assert closed(silent)
        assert closed(slow)
    is_well(hub, intake)


def test_headers_without_end_are_refused(hub: HubServer, intake: Intake) -> None:
    line = b"x-more: " + b"y" * 1000 + b"\r\n"
    with closing(connect(hub)) as sock:
        sock.sendall(b"GET /api HTTP/1.1\r\n" + line * (HEAD // len(line) + 2))
        assert answer(sock)[0] == 431
    is_well(hub, intake)


def test_beyond_so_many_requests_at_once_there_is_a_time_to_try_again(hub: HubServer, intake: Intake) -> None:
    waiting = [connect(hub) for _ in range(3)]
    for sock in waiting:
        sock.sendall(post("content-length: 10"))
    eventually(lambda: intake.requests == 3)
    code, told = ask(hub, head("GET", MAPS))
    assert (code, b"retry-after: 1" in told.lower(), b"TooManyRequests" in told) == (429, True, True)
    assert ask(hub, head("GET", "/readyz"))[0] == 200
    for sock in waiting:
        sock.close()
    is_well(hub, intake)


DEEP = b'{"data":' + b"[" * 200_000
HOSTILE = {
    "not UTF-8": b'{"metadata":{"name":"\xff\xfe"}}',
    "not a number": b'{"metadata":{"generation":NaN}}',
    "twice": b'{"metadata":{"name":"a","name":"b"}}',
    "deep": DEEP,
    "a million items": b'{"metadata":{"name":"m","finalizers":[' + b"1," * 1_000_000 + b"1]}}",
    "a long string": b'{"metadata":{"name":"' + b"n" * (2 << 20) + b'"}}',
    "a number without end": b'{"metadata":{"generation":' + b"9" * 100_000 + b"}}",
    "a lone surrogate": b'{"metadata":{"name":"m"},"data":{"a":"\\ud800"}}',
    "half of it": b'{"metadata":{"name":',
    "a list": b"[]",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", ["application/json", "application/yaml", "text/plain", "application/octet-stream"])
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_body_that_makes_no_sense_is_a_client_error(hub: HubServer, intake: Intake, body: bytes, kind: str) -> None:
    request = head("POST", MAPS, f"content-type: {kind}", f"content-length: {len(body)}")
    code, told = ask(hub, request + body)
    assert 400 <= code < 500
    assert b'"kind":"Status"' in told
    is_well(hub, intake)


def test_queries_of_any_kind_are_answered(hub: HubServer, intake: Intake) -> None:
    for query in ("pretty=true&unknown=1", "limit=99999999999999", "labelSelector=" + "a," * 5000 + "a"):
        assert ask(hub, head("GET", f"{MAPS}?{query}"))[0] == 200
    for query in (
        "limit=-1",
        "limit=%00",
        "continue=%ff",
        "fieldSelector=%zz",
        "resourceVersion=1e9",
        "watch=1&resourceVersion=x",
    ):
        assert 400 <= ask(hub, head("GET", f"{MAPS}?{query}"))[0] < 500
    is_well(hub, intake)


def test_clients_that_leave_in_the_middle_of_a_watch_leave_nothing_behind(hub: HubServer) -> None:
    ask(hub, head("GET", MAPS, "connection: close"))
    before, others = tasks(hub), readers(hub)
    watching = [connect(hub) for _ in range(20)]
    for sock in watching:
        sock.sendall(head("GET", f"{MAPS}?watch=1"))
    eventually(lambda: readers(hub) == others + 20)
    hub.do(lambda store: store.commit([Create(config("news", {}))]))
    for sock in watching[:10]:
        assert answer(sock)[0] == 200
    for sock in watching:
        sock.close()
    eventually(lambda: readers(hub) == others)
    eventually(lambda: tasks(hub) <= before)


def test_who_leaves_in_the_middle_of_a_large_list_leaves_nothing_behind(hub: HubServer, intake: Intake) -> None:
    hub.do(lambda store: store.commit([Create(config(f"m{i}", {"a": "x" * 20_000})) for i in range(100)]))
    before = tasks(hub)
    for _ in range(5):
        with closing(connect(hub)) as sock:
            sock.sendall(head("GET", MAPS))
            assert sock.recv(1000)
    eventually(lambda: tasks(hub) <= before)
    is_well(hub, intake)


def test_a_large_list_comes_compressed_for_who_takes_that(hub: HubServer) -> None:
    import gzip
    import urllib.request

    hub.do(lambda store: store.commit([Create(config(f"m{i}", {"a": "x" * 20_000})) for i in range(20)]))
    headers = {"authorization": f"Bearer {TOKEN}", "accept-encoding": "gzip"}
    context = ssl.create_default_context(cafile=str(hub.certificate))
    for path, packed in ((MAPS, True), (f"{MAPS}?limit=1", False)):
        request = urllib.request.Request(hub.url + path, headers=headers)
        with urllib.request.urlopen(request, context=context, timeout=WAIT) as response:
            raw = response.read()
            assert (response.headers["content-encoding"] == "gzip") is packed
        listed = json.loads(gzip.decompress(raw) if packed else raw)
        assert len(listed["items"]) == (20 if packed else 1)
