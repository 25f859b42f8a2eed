"""HTTP and gRPC probes against servers that say one thing, byte for byte.

The gRPC answers were recorded from grpcio's server (C core 1.85, with grpcio-health-checking); it asks its client to
answer pings in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from edged.model import GrpcAction, HttpAction, Probe
from edged.runtime import probes, process
from edged.runtime.api import ProbeResult, Verdict

SETTINGS = (
    "000018040000000000000400400000000500400000000600004000fe0300000001000004080000000000003f0001000000040100000000"
)
OPENING = (
    "00004f0104000000012088400c636f6e74656e742d74797065106170706c69636174696f6e2f677270634014677270632d6163636570742d65"
    "6e636f64696e67176964656e746974792c206465666c6174652c20677a6970"
)
CLOSING = "00001e010500000001400b677270632d737461747573013{}000c677270632d6d65737361676500"
SERVING = SETTINGS + "000004080000000000000000050000080600000000009a728cf6145c27e3" + OPENING
SERVING += "000007000000000001000000000208{:02x}" + CLOSING.format(0)
NOBODY_KNOWN = (
    SETTINGS + "0000080600000000009ba602a213e4ab61" + OPENING + "0000050000000000010000000000" + CLOSING.format(5)
)
UNIMPLEMENTED = SETTINGS + (
    "00000806000000000071f8b03d7eb71e770000510105000000012088400c636f6e74656e742d74797065106170706c69636174696f6e2f6772"
    "7063400b677270632d737461747573023132000c677270632d6d657373616765114d6574686f64206e6f7420666f756e6421"
)


@contextlib.asynccontextmanager
async def server(answers: Sequence[bytes], stay: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Says the next answer to each who has begun to ask. (its port, what it heard)

    :param stay: keep the connection open afterwards, as HTTP/2 does.
    """
    heard: list[bytes] = []
    talking: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking.add(asyncio.current_task())  # type: ignore[arg-type]
        number = len(heard)
        heard.append(await reader.read(65536))
        writer.write(answers[min(number, len(answers) - 1)])
        with contextlib.suppress(OSError):
            while stay and (more := await reader.read(65536)):
                heard[number] += more
        writer.transport.abort()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], heard
    finally:
        listener.close()
        await asyncio.gather(*talking, return_exceptions=True)
        await listener.wait_closed()


async def never(*_: object) -> process.Completed:
    raise AssertionError("no command should be run")


def asked_grpc(answer: str, service: str = "") -> tuple[ProbeResult, bytes]:
    async def scenario() -> tuple[ProbeResult, bytes]:
        async with server([bytes.fromhex(answer)], stay=True) as (port, heard):
            result = await probes.ask(Probe(GrpcAction(port, service), timeout=60.0), "127.0.0.1", never)
        return result, b"".join(heard)

    return asyncio.run(scenario())


def test_a_server_that_serves_is_healthy_and_hears_a_proper_question() -> None:
    result, heard = asked_grpc(SERVING.format(1), "shop")
    assert result == ProbeResult(Verdict.SUCCESS, "SERVING")
    assert heard.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b"/grpc.health.v1.Health/Check" in heard
    assert b"\0\0\0\0\x06\n\x04shop" in heard


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (SERVING.format(2), "it says NOT_SERVING"),
        (NOBODY_KNOWN, "it knows no service 'shop'"),
        (UNIMPLEMENTED, "it does not implement grpc.health.v1.Health"),
        (SETTINGS + "00000803000000000100000007".replace("000008", "000004"), "it broke the call off (HTTP/2 error 7)"),
        (SETTINGS + "00000c0700000000000000000000000000" + b"busy".hex(), "it closed the connection: busy"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".hex(), "it does not speak HTTP/2 without TLS"),
    ],
)
def test_any_other_answer_is_a_no_with_its_reason(answer: str, said: str) -> None:
    result, _ = asked_grpc(answer, "shop")
    assert result.verdict is Verdict.FAILURE
    assert said in result.message


def test_an_answer_cut_at_any_byte_is_a_no() -> None:
    whole = bytes.fromhex(SERVING.format(1))

    async def scenario() -> None:
        for end in range(0, len(whole), 3):
            async with server([whole[:end]]) as (port, _):
                result = await probes.ask(Probe(GrpcAction(port), timeout=60.0), "127.0.0.1", never)
                assert result.verdict is Verdict.FAILURE, end

    asyncio.run(scenario())


def test_a_server_that_never_stops_talking_is_given_up() -> None:
    result, _ = asked_grpc(SETTINGS + "0000080600000000000000000000000000" * 1000)
    assert result.verdict is Verdict.FAILURE
    assert "no end" in result.message


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async def scenario() -> ProbeResult:
        async with server([b""], stay=True) as (port, _):
            return await probes.ask(Probe(GrpcAction(port), timeout=0.2), "127.0.0.1", never)

    assert "within 0.2 s" in asyncio.run(scenario()).message


def asked_http(*answers: bytes) -> tuple[ProbeResult, list[bytes]]:
    async def scenario() -> tuple[ProbeResult, list[bytes]]:
        async with server(answers) as (port, heard):
            probe = Probe(HttpAction(port, "/health", headers=(("X-Check", "yes"),)), timeout=60.0)
            return await probes.ask(probe, "127.0.0.1", never), heard

    return asyncio.run(scenario())


def redirect(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n".encode()


def test_a_redirect_on_the_same_host_is_followed_and_its_end_counts() -> None:
    result, heard = asked_http(redirect("/login?to=health"), b"HTTP/1.1 200 OK\r\n\r\n")
    assert result == ProbeResult(Verdict.SUCCESS, "HTTP 200")
    assert heard[1].startswith(b"GET /login?to=health HTTP/1.1\r\n")
    assert b"X-Check: yes\r\n" in heard[1]
    result, _ = asked_http(redirect("broken"), b"HTTP/1.1 500 Oops\r\n\r\n")
    assert result.verdict is Verdict.FAILURE
    assert "/broken answered with HTTP 500" in result.message


def test_a_redirect_to_another_host_is_a_yes_and_nobody_goes_there() -> None:
    result, heard = asked_http(redirect("https://login.example/"))
    assert result == ProbeResult(Verdict.SUCCESS, "HTTP 302")
    assert len(heard) == 1


def test_a_circle_of_redirects_is_a_no() -> None:
    result, heard = asked_http(redirect("/health"))
    assert result.verdict is Verdict.FAILURE
    assert "stopped after 10 redirects" in result.message
    assert len(heard) == 10


@pytest.mark.parametrize("location", ["http://127.0.0.1:99999/", "http://[::1", "/a b", "\x01"])
def test_a_redirect_that_leads_nowhere_is_no_crash(location: str) -> None:
    result, _ = asked_http(redirect(location), b"HTTP/1.1 200 OK\r\n\r\n")
    assert isinstance(result, ProbeResult)


def test_what_a_server_needs_to_know_of_a_probe_is_in_its_headers() -> None:
    _, (heard,) = asked_http(b"HTTP/1.1 200 OK\r\n\r\n")
    lines = heard.decode().split("\r\n")
    assert lines[0] == "GET /health HTTP/1.1"
    assert any(line.startswith("Host: 127.0.0.1:") for line in lines)
    assert any(line.startswith("User-Agent: kube-probe/") for line in lines)


def test_an_ipv6_address_is_written_in_brackets() -> None:
    async def scenario() -> bytes:
        heard: list[bytes] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(talk, "::1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            assert (await probes.ask(Probe(HttpAction(port), timeout=60.0), "::1", never)).verdict is Verdict.SUCCESS
        return heard[0]

    assert b"Host: [::1]:" in asyncio.run(scenario())
