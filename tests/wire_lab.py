"""A real mosquitto with the hub's own configuration, clients with real certificates, and a node's link, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt

from cloudlink import certs, link, trust, wire
from cloudlink.hub.broker import Backoff, Broker, Identity, Listener
from cloudlink.hub.exchange import Link
from cloudlink.hub.streams import Streams
from edged.model import Capacity, Desired, NodeStatus
from edged.uplink import Asked, Inbox
from tests.fakes.remote import FakeNode
from tests.ports import free_port

FLEET = "lab"
PATIENCE = 30.0  # seconds; only ever reached when something is broken
SIGNING_KEY = bytes(range(32))
QUICK = link.Timing(will_delay=0, first_retry=0.05, last_retry=0.2)


async def until(true: Callable[[], Any], what: str = "the condition") -> None:
    """Poll with a deadline."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 (processes and files don't set events)
            await asyncio.sleep(0.01)
    assert true(), what


def status(node: str, generation: int = 1, **rest: Any) -> NodeStatus:
    return NodeStatus(node, generation, "epoch", Capacity(1 << 30, 1 << 29, 4000), **rest)


class Lab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = certs.load_or_create_authority(folder / "ca", FLEET)
        certs.ensure_server(self.authority, folder / "tls", ["127.0.0.1"])
        self.identity = Identity(folder / "ca" / "ca.pem", folder / "tls" / "server.pem", folder / "tls" / "server.key")
        self.port, self.hub_port = free_port(), free_port()
        self.broker = self.make_broker()
        self.public_keys: dict[str, bytes] = {}  # of nodes that have an uplink, to seal for them

    def make_broker(self) -> Broker:
        listener = Listener("127.0.0.1", self.port, self.hub_port)
        return Broker(self.folder / "broker", FLEET, listener, self.identity, Backoff(first=0.05, longest=0.2))

    def client_files(self, name: str, authority: certs.Authority | None = None) -> tuple[Path, Path]:
        pair = (authority or self.authority).issue_client(name)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        trust.write_file(certificate, pair.certificate)
        trust.write_file(key, pair.key)
        return certificate, key

    def context(self, name: str | None, authority: certs.Authority | None = None) -> ssl.SSLContext:
        files = self.client_files(name, authority) if name is not None else None
        return link.hub_context(self.authority.pem.decode(), files)

    def client(self, name: str = certs.HUB_USER, **more: Any) -> aiomqtt.Client:
        """A bare MQTT client; the hub's by default, on the hub's listener."""
        port = self.hub_port if name == certs.HUB_USER else self.port
        settings: dict[str, Any] = {"protocol": aiomqtt.ProtocolVersion.V5, "tls_context": self.context(name)}
        return aiomqtt.Client("127.0.0.1", port, **(settings | more))

    def streams(self, **more: Any) -> Streams:
        """The hub's end of conversations."""
        way = Link("127.0.0.1", self.hub_port, lambda: self.context(certs.HUB_USER))
        return Streams(FLEET, way, SIGNING_KEY, self.public_keys.get, **more)

    def uplink(self, node: str = "pi-1", **more: Any) -> link.MqttUplink:
        files = self.client_files(node)
        private_key = more.get("private_key") or trust.generate_key()
        self.public_keys[node] = trust.public_key_of(private_key)
        settings: dict[str, Any] = {
            "tls": lambda check_time: link.hub_context(self.authority.pem.decode(), files, check_time),
            "verify_key": trust.verify_key_of(SIGNING_KEY),
            "private_key": private_key,
            "floor": link.TimeFloor(self.folder / f"{node}.floor"),
            "timing": QUICK,
        }
        return link.MqttUplink(link.Place("127.0.0.1", self.port, FLEET, node), **(settings | more))


@contextlib.asynccontextmanager
async def running(work: Any, name: str) -> AsyncIterator[asyncio.Task[Any]]:
    """A coroutine as a task that is cancelled, and waited for, at the end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def open_lab(folder: Path) -> AsyncIterator[Lab]:
    lab = Lab(folder)
    async with running(lab.broker.run(), "broker"):
        async with asyncio.timeout(PATIENCE):
            await lab.broker.ready.wait()
        yield lab


@contextlib.asynccontextmanager
async def linked(
    uplink: link.MqttUplink, inbox: Inbox | None = None, asked: Asked | None = None
) -> AsyncIterator[Inbox]:
    """A link that runs and is connected."""
    inbox = inbox or Inbox(lambda: None)
    async with running(uplink.run(inbox, asked or FakeNode({})), "uplink"):
        await until(lambda: uplink.connected, uplink.trouble)
        yield inbox


@contextlib.asynccontextmanager
async def talking(lab: Lab, asked: Asked, **more: Any) -> AsyncIterator[Streams]:
    """A hub that can ask the node pi-1."""
    async with linked(lab.uplink(), asked=asked):
        streams = lab.streams(**more)
        async with running(streams.run(), "streams"):
            await until(streams.connected.is_set)
            yield streams


def signed(generation: int, node: str = "pi-1", fleet: str = FLEET, **rest: Any) -> bytes:
    return trust.sign_desired(Desired(fleet, node, generation, **rest), SIGNING_KEY, 1.75e9)


async def publish_desired(hub: aiomqtt.Client, body: bytes, node: str = "pi-1") -> None:
    await hub.publish(wire.desired_topic(FLEET, node), body, qos=1, retain=True)


async def next_message(client: aiomqtt.Client) -> aiomqtt.Message:
    async with asyncio.timeout(PATIENCE):
        return await anext(client.messages)
