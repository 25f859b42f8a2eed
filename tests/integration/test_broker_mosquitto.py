"""The embedded broker: who may do what on it, and that it is there whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import sys
from pathlib import Path

import aiomqtt
import pytest

from cloudlink import certs, wire
from cloudlink.hub import broker as brokers
from tests.wire_lab import FLEET, Lab, next_message, open_lab, running, until

V5 = aiomqtt.ProtocolVersion.V5


def _own(node: str, leaf: str) -> str:
    return f"edge/v1/{FLEET}/{node}/{leaf}"


def test_a_node_hears_its_own_document_and_no_other_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub, lab.client("pi-1") as node:
            await hub.publish(_own("pi-2", "desired"), b"retained for pi-2", qos=1, retain=True)
            for pattern in (_own("pi-2", "desired"), "edge/v1/#", "#", f"edge/v1/{FLEET}/+/status", "$share/x/edge/#"):
                await node.subscribe(pattern, qos=1)
            for leaf in ("desired", "status", "presence", "req/1"):
                await hub.publish(_own("pi-2", leaf), b"for pi-2", qos=1)
            await hub.publish(_own("pi-1", "status"), b"its own, but not to read", qos=1)
            await hub.publish(_own("pi-1", "desired"), b"for pi-1", qos=1)
            heard = await next_message(node)
            assert (str(heard.topic), heard.payload) == (_own("pi-1", "desired"), b"for pi-1")

    asyncio.run(scenario())


def test_a_node_writes_its_own_status_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub, lab.client("pi-1") as node:
            await hub.subscribe("#", qos=1)
            forbidden = [
                _own("pi-1", "desired"),
                _own("pi-1", "req/1"),
                _own("pi-2", "desired"),
                _own("pi-2", "status"),
                _own("pi-2", "presence"),
                "edge/v1/away/pi-1/status",
                "anything",
            ]
            for topic in forbidden:
                await node.publish(topic, b"forged", qos=1, retain=True)
            allowed = [_own("pi-1", "status"), _own("pi-1", "presence"), _own("pi-1", "res/1/2")]
            for topic in allowed:
                await node.publish(topic, b"mine", qos=1)
            assert [str((await next_message(hub)).topic) for _ in allowed] == allowed

    asyncio.run(scenario())


def test_a_node_can_not_take_over_anothers_session_by_naming_its_id(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            open_lab(tmp_path) as lab,
            lab.client() as hub,
            lab.client("pi-1", identifier="pi-1") as victim,
            lab.client("pi-2", identifier="pi-1"),
        ):
            await victim.subscribe(_own("pi-1", "desired"), qos=1)
            await hub.publish(_own("pi-1", "desired"), b"still here", qos=1)
            assert (await next_message(victim)).payload == b"still here"

    asyncio.run(scenario())


def test_nobody_gets_in_without_a_certificate_of_this_fleet(tmp_path: Path) -> None:
    async def attempt(lab: Lab, context: ssl.SSLContext | None, port: int) -> None:
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", port, protocol=V5, tls_context=context, timeout=1):
                pass

    async def scenario() -> None:
        other = certs.Authority(certs.make_authority("other"))
        async with open_lab(tmp_path) as lab:
            for port in (lab.port, lab.hub_port):
                await attempt(lab, lab.context(None), port)
                await attempt(lab, lab.context("pi-1", other), port)
                await attempt(lab, None, port)

    asyncio.run(scenario())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_old_tls_is_not_spoken(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab:
            context = lab.context("pi-1")
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.raises(aiomqtt.MqttError):
                async with aiomqtt.Client("127.0.0.1", lab.port, protocol=V5, tls_context=context, timeout=1):
                    pass

    asyncio.run(scenario())


def test_several_clients_of_the_hub_live_side_by_side(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as one, lab.client() as two:
            await one.subscribe(_own("pi-1", "status"), qos=1)
            await two.publish(_own("pi-1", "status"), b"x", qos=1)
            assert (await next_message(one)).payload == b"x"

    asyncio.run(scenario())


def test_a_packet_beyond_the_limit_harms_only_its_sender(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            await hub.subscribe(_own("+", "status"), qos=1)
            with contextlib.suppress(aiomqtt.MqttError):
                async with lab.client("pi-1", timeout=1) as node:
                    await node.publish(_own("pi-1", "status"), bytes(wire.MAX_PACKET + (1 << 20)), qos=1)
            async with lab.client("pi-2") as other:
                await other.publish(_own("pi-2", "status"), b"fine", qos=1)
            assert (await next_message(hub)).payload == b"fine"

    asyncio.run(scenario())


def test_a_killed_broker_is_started_again_and_a_cancelled_one_leaves_no_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab:
            for number in (signal.SIGKILL, signal.SIGTERM):
                before = lab.broker.pid
                assert before is not None
                os.kill(before, number)
                await until(lambda before=before: lab.broker.pid not in (None, before) and lab.broker.ready.is_set())
        assert lab.broker.pid is None
        assert not list(brokers._processes_of(lab.broker.config_file))
        assert (tmp_path / "broker" / "mosquitto.db").exists()

    asyncio.run(scenario())


HUB = """
import asyncio, sys
from pathlib import Path
from cloudlink.hub.broker import Broker, Identity, Listener
folder, port, hub_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
identity = Identity(folder / "ca" / "ca.pem", folder / "tls" / "server.pem", folder / "tls" / "server.key")
asyncio.run(Broker(folder / "broker", "lab", Listener("127.0.0.1", port, hub_port), identity).run())
"""


def test_the_broker_of_a_killed_hub_serves_on_and_is_replaced_by_the_next_hubs(tmp_path: Path) -> None:
    async def scenario() -> None:
        lab = Lab(tmp_path)
        config = lab.broker.config_file
        arguments = [str(tmp_path), str(lab.port), str(lab.hub_port)]
        hub = await asyncio.create_subprocess_exec(sys.executable, "-c", HUB, *arguments)
        try:
            await until(lambda: list(brokers._processes_of(config)))
            (orphan,) = brokers._processes_of(config)
        finally:
            hub.kill()
            await hub.wait()
        while True:  # it may still be starting
            with contextlib.suppress(aiomqtt.MqttError):
                async with lab.client() as client:
                    await client.publish(_own("pi-1", "desired"), b"kept", qos=1, retain=True)
                break
        with contextlib.suppress(aiomqtt.MqttError):  # makes it complain into the pipe that nobody reads any more
            async with aiomqtt.Client("127.0.0.1", lab.port, protocol=V5, timeout=1):
                pass
        assert list(brokers._processes_of(config)) == [orphan]
        async with running(lab.broker.run(), "broker"):
            await until(lab.broker.ready.is_set)
            assert list(brokers._processes_of(config)) == [lab.broker.pid]
            assert lab.broker.pid != orphan
            async with lab.client() as client:
                await client.subscribe(_own("pi-1", "desired"), qos=1)
                assert (await next_message(client)).payload == b"kept"
        assert not list(brokers._processes_of(config))

    asyncio.run(scenario())


def test_a_broker_that_can_not_start_says_why_and_keeps_trying(tmp_path: Path) -> None:
    async def scenario() -> None:
        lab = Lab(tmp_path)
        good = lab.identity.certificate.read_bytes()
        lab.identity.certificate.write_bytes(b"not a certificate")
        async with running(lab.broker.run(), "broker"):
            await until(lambda: lab.broker.starts > 1)
            assert "server.pem" in lab.broker.trouble or "certificate" in lab.broker.trouble
            lab.identity.certificate.write_bytes(good)
            await until(lab.broker.ready.is_set)
            assert lab.broker.trouble == ""

    asyncio.run(scenario())


def test_the_port_for_the_hub_is_found_when_none_is_given(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    broker = brokers.Broker(tmp_path / "b", FLEET, brokers.Listener("127.0.0.1", lab.port), lab.identity)
    assert broker.hub_port > 0
