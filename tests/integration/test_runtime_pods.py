"""The whole runtime on its real network: probes over it, restarts under it, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from edged.model import Container, ContainerPhase, ExecAction, HttpAction, Material, Pod, Probe, TcpAction
from edged.runtime import probes, process
from edged.runtime.api import ProbeResult, Verdict
from edged.runtime.pods import PodRuntime
from tests.fakes.boards import Corner, corner

WAIT = 20.0


@contextlib.asynccontextmanager
async def opened(place: Corner) -> AsyncIterator[tuple[PodRuntime, asyncio.Queue[str]]]:
    runtime, exits = place.runtime(real_network=True), asyncio.Queue[str]()
    await runtime.open(exits.put_nowait)
    try:
        yield runtime, exits
    finally:
        await runtime.close()


def web(name: str = "app", uid: str = "uid-1") -> Pod:
    """Serves its own name on port 8080."""
    command = ("/bin/sh", "-c", "mkdir /www; echo $HOSTNAME > /www/index.html; exec httpd -f -p 8080 -h /www")
    return Pod("default", name, uid, (Container("main", "busybox:test", command=command),))


async def until_yes(ask: Callable[[], Awaitable[ProbeResult]]) -> ProbeResult:
    async with asyncio.timeout(WAIT):
        while True:
            result = await ask()
            if result.verdict is Verdict.SUCCESS:
                return result
            await asyncio.sleep(0.02)


@pytest.mark.root
def test_pods_answer_on_their_addresses_and_reach_each_other() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), corner() as place, opened(place) as (runtime, _):
            pods = [web("one", "uid-1"), web("two", "uid-2")]
            ips = {}
            for pod in pods:
                ips[pod.uid] = (await runtime.prepare_sandbox(pod, Material())).ip
                await runtime.start_container(pod, pod.containers[0], place.image, Material(), 0, 0)
            for pod in pods:
                probe = Probe(HttpAction(8080), timeout=5.0)
                await until_yes(lambda p=probe, u=pod.uid: runtime.probe(f"{u}.main.0", p, ips[u]))  # type: ignore[misc]
                assert (
                    await runtime.probe(f"{pod.uid}.main.0", Probe(TcpAction(8080)), ips[pod.uid])
                ).verdict is Verdict.SUCCESS
                missing = await runtime.probe(
                    f"{pod.uid}.main.0", Probe(HttpAction(8080, "/nothing"), timeout=5.0), ips[pod.uid]
                )
                assert missing == ProbeResult(
                    Verdict.FAILURE, f"http://{ips[pod.uid]}:8080/nothing answered with HTTP 404"
                )
            fetch = f"wget -q -O - http://{ips['uid-2']}:8080/"
            seen = await runtime.probe("uid-1.main.0", Probe(ExecAction(("sh", "-c", fetch)), timeout=5.0), "")
            assert "two" in seen.message
            assert os.path.lexists(place.config.run / "netns" / ips["uid-1"])
            await runtime.remove_sandbox("uid-1")
            (left,), _containers = runtime.observe()
            assert (left.pod_uid, left.ready) == ("uid-2", True)

    asyncio.run(scenario())


@pytest.mark.root
def test_a_restarted_daemon_finds_sandboxes_and_containers_as_they_were() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), corner() as place:
            pod = web()
            async with opened(place) as (runtime, _):
                await runtime.prepare_sandbox(pod, Material())
                await runtime.start_container(pod, pod.containers[0], place.image, Material(), 0, 0)
                before = runtime.observe()
            assert PodRuntime(place.config).observe() == before  # as `edged plan` looks, without opening
            async with opened(place) as (runtime, exits):
                assert runtime.observe() == before
                assert (await runtime.prepare_sandbox(pod, Material())) == before[0][0]
                os.kill(before[1][0].pid, signal.SIGKILL)
                async with asyncio.timeout(WAIT):
                    assert await exits.get() == "uid-1.main.0"

    asyncio.run(scenario())


@pytest.mark.root
def test_a_namespace_that_is_gone_makes_the_sandbox_not_ready_until_it_is_made_again() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), corner() as place, opened(place) as (runtime, _):
            pod = web()
            first = await runtime.prepare_sandbox(pod, Material())
            await process.run(["umount", os.fspath(place.config.run / "netns" / first.ip)])
            (lost,), _containers = runtime.observe()
            assert not lost.ready
            again = await runtime.prepare_sandbox(pod, Material())
            assert again.ready
            assert runtime.observe()[0] == (again,)

    asyncio.run(scenario())


KILLED = """
import asyncio, sys
sys.path.insert(0, {root!r})
import msgspec
from edged.config import NodeConfig
from edged.model import Container, Image, Material, Pod
from edged.runtime.pods import PodRuntime

async def main():
    runtime = PodRuntime(msgspec.convert({config!r}, NodeConfig))
    await runtime.open(lambda name: None)
    image = Image("busybox:test", "sha256:0", ({layer!r},))
    for n in range(3):
        pod = Pod("default", f"app-{{n}}", f"uid-{{n}}", (Container("main", "x", command=("/bin/sleep", "600")),))
        await runtime.prepare_sandbox(pod, Material())
        await runtime.start_container(pod, pod.containers[0], image, Material(), 0, 0)
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.root
def test_containers_outlive_a_killed_daemon_and_teardown_finds_everything() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), corner() as place:
            code = KILLED.format(
                root=os.fspath(Path(__file__).parents[2]),
                config=msgspec.to_builtins(place.config),
                layer=place.image.layers[0],
            )
            daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)  # noqa: ASYNC220
            try:
                assert daemon.stdout is not None
                assert await asyncio.to_thread(daemon.stdout.readline) == b"up\n"
            finally:
                daemon.kill()
                await asyncio.to_thread(daemon.wait)
                daemon.stdout.close()  # type: ignore[union-attr]
            _, containers = PodRuntime(place.config).observe()
            assert [c.phase for c in containers] == [ContainerPhase.RUNNING] * 3
            assert place.traces() != []
            await PodRuntime(place.config).teardown()
            assert place.traces() == []

    asyncio.run(scenario())


# ---------------------------------------------------------------- probes against servers of our own


@contextlib.asynccontextmanager
async def server(answer: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    heard: list[bytes] = []
    over: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done = asyncio.Event()
        over.append(done)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        done.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1], heard
    finally:
        for done in over:
            await done.wait()
        listener.close()
        await listener.wait_closed()


async def never(*_: object) -> process.Completed:
    raise AssertionError("no command should be run")


@pytest.mark.parametrize(
    ("answer", "verdict", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", Verdict.SUCCESS, "HTTP 200"),
        (b"HTTP/1.0 204\r\n\r\n", Verdict.SUCCESS, "HTTP 204"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", Verdict.SUCCESS, "HTTP 302"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", Verdict.FAILURE, "answered with HTTP 404"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", Verdict.FAILURE, "answered with HTTP 503"),
        (b"SSH-2.0-OpenSSH\r\n", Verdict.FAILURE, "does not speak HTTP"),
        (b"", Verdict.FAILURE, "127.0.0.1"),
        (b"x" * 100_000, Verdict.FAILURE, "127.0.0.1"),
    ],
)
def test_an_http_answer_counts_as_in_kubernetes(answer: bytes, verdict: Verdict, message: str) -> None:
    async def scenario() -> None:
        async with server(answer) as (port, heard):
            probe = Probe(
                HttpAction(port, "/healthz?x=1", headers=(("X-Check", "yes"), ("host", "app.test"))), timeout=5.0
            )
            result = await probes.ask(probe, "127.0.0.1", never)
            assert result.verdict is verdict
            assert message in result.message
            lines = heard[0].decode().split("\r\n")
            assert lines[0] == "GET /healthz?x=1 HTTP/1.1"
            assert "X-Check: yes" in lines
            assert [line for line in lines if line.lower().startswith("host:")] == ["host: app.test"]

    asyncio.run(scenario())


def test_a_server_that_never_answers_is_given_up_on_in_time() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(WAIT):
            reader_done = asyncio.Event()

            async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.close()
                reader_done.set()

            listener = await asyncio.start_server(silent, "127.0.0.1", 0)
            port = listener.sockets[0].getsockname()[1]
            result = await probes.ask(Probe(HttpAction(port), timeout=0.1), "127.0.0.1", never)
            assert result == ProbeResult(Verdict.FAILURE, f"no answer from http://127.0.0.1:{port}/ within 0.1 s")
            await reader_done.wait()
            listener.close()
            await listener.wait_closed()

    asyncio.run(scenario())


def test_a_closed_port_is_a_plain_no() -> None:
    async def scenario() -> None:
        async with server(b"") as (port, _):
            pass
        for action in (HttpAction(port), TcpAction(port)):
            result = await probes.ask(Probe(action, timeout=5.0), "127.0.0.1", never)
            assert result.verdict is Verdict.FAILURE
            assert "Connect call failed" in result.message or "refused" in result.message

    asyncio.run(scenario())


def test_a_pod_without_address_is_not_taken_for_this_machine() -> None:
    async def scenario() -> None:
        async with server(b"HTTP/1.1 200 OK\r\n\r\n") as (port, heard):
            for action in (HttpAction(port), TcpAction(port)):
                result = await probes.ask(Probe(action, timeout=5.0), "", never)
                assert result == ProbeResult(Verdict.FAILURE, "the pod has no address")
            assert heard == []

    asyncio.run(scenario())


def test_a_header_that_would_break_out_of_its_line_is_refused() -> None:
    async def scenario() -> None:
        async with server(b"HTTP/1.1 200 OK\r\n\r\n") as (port, heard):
            probe = Probe(HttpAction(port, headers=(("X", "a\r\nEvil: yes"),)), timeout=5.0)
            assert (await probes.ask(probe, "127.0.0.1", never)).verdict is Verdict.FAILURE
            assert heard == []

    asyncio.run(scenario())


def test_a_certificate_is_not_verified() -> None:
    cryptography = pytest.importorskip("cryptography")
    assert cryptography

    async def scenario(folder: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        async with server(b"HTTP/1.1 200 OK\r\n\r\n", context) as (port, _):
            probe = Probe(HttpAction(port, scheme="HTTPS"), timeout=5.0)
            assert await probes.ask(probe, "127.0.0.1", never) == ProbeResult(Verdict.SUCCESS, "HTTP 200")

    import tempfile

    with tempfile.TemporaryDirectory() as name:
        self_signed(Path(name))
        asyncio.run(scenario(Path(name)))


def self_signed(folder: Path) -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    start = datetime.datetime(2001, 1, 1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
