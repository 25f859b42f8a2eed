"""The node's link against a real mosquitto: delivery, outages, garbage, presence, status."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudlink import certs, link, trust, wire
from edged.model import Desired, NodeStatus
from edged.uplink import Inbox
from tests.fakes.remote import FakeNode
from tests.wire_lab import (
    FLEET,
    QUICK,
    Lab,
    linked,
    next_message,
    open_lab,
    publish_desired,
    running,
    signed,
    status,
    until,
)


def test_a_document_reaches_the_node_and_the_status_the_hub(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            await hub.subscribe(wire.every_node(FLEET, wire.STATUS), qos=1)
            uplink = lab.uplink()
            async with linked(uplink) as inbox:
                await publish_desired(hub, signed(3))
                await until(lambda: inbox.generation == 3)
                assert inbox.take() == Desired(FLEET, "pi-1", 3)
                uplink.report(status("pi-1", 3))
                message = await next_message(hub)
                assert wire.parse_topic(str(message.topic)) == (FLEET, "pi-1", wire.STATUS)
                assert wire.decode_status(message.payload, "pi-1") == status("pi-1", 3)

    asyncio.run(scenario())


def test_a_node_that_was_away_gets_the_newest_document_on_its_return(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            uplink = lab.uplink()
            async with linked(uplink) as inbox:
                await publish_desired(hub, signed(1))
                await until(lambda: inbox.generation == 1)
            for generation in range(2, 8):
                await publish_desired(hub, signed(generation))
            async with linked(uplink, inbox):
                await until(lambda: inbox.generation == 7)
            assert inbox.take() == Desired(FLEET, "pi-1", 7)
            assert inbox.refusals == 0

    asyncio.run(scenario())


def test_documents_survive_a_killed_broker_and_nodes_come_back_by_themselves(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab:
            async with lab.client() as hub:
                await publish_desired(hub, signed(5))
            database = tmp_path / "broker" / "mosquitto.db"
            lab.broker.save()
            await until(lambda: database.exists() and database.stat().st_size > 100)
            early, late = lab.uplink("pi-1"), lab.uplink("pi-1")
            early.report(status("pi-1", 5))
            async with linked(early) as inbox:
                await until(lambda: inbox.generation == 5)
                killed = lab.broker.pid
                assert killed is not None
                os.kill(killed, signal.SIGKILL)
                await until(lambda: lab.broker.starts == 2 and lab.broker.ready.is_set())
                assert lab.broker.pid != killed
                await until(lambda: early.connected)
                async with lab.client() as hub:
                    # The status was never saved; the node sends it again.
                    await hub.subscribe(wire.status_topic(FLEET, "pi-1"), qos=1)
                    assert wire.decode_status((await next_message(hub)).payload) == status("pi-1", 5)
            async with linked(late) as fresh:
                await until(lambda: fresh.generation == 5)

    asyncio.run(scenario())


def _bad_documents() -> list[bytes]:
    good = bytearray(signed(9))
    good[-1] ^= 1
    return [
        b"garbage",
        os.urandom(5000),
        bytes(good),
        signed(9, node="pi-2"),
        signed(9, fleet="away"),
        trust.sign_desired(Desired(FLEET, "pi-1", 9), bytes(32), 0),
        b"\x91" * 100_000,
    ]


def test_garbage_on_the_topic_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            uplink = lab.uplink()
            async with linked(uplink) as inbox:
                await publish_desired(hub, signed(4))
                await until(lambda: inbox.generation == 4)
                for count, bad in enumerate(_bad_documents(), start=1):
                    await publish_desired(hub, bad)
                    await until(lambda count=count: inbox.refusals == count)
                    assert inbox.last_refusal
                await publish_desired(hub, b"")  # a removed document is no order to stop anything
                await publish_desired(hub, signed(3))
                await until(lambda: "older generation 3" in inbox.last_refusal)
                assert inbox.generation == 4
                await publish_desired(hub, signed(5))
                await until(lambda: inbox.generation == 5)
                assert uplink.connected

    asyncio.run(scenario())


def test_the_same_document_signed_again_is_neither_new_nor_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub, linked(lab.uplink()) as inbox:
            await publish_desired(hub, signed(4))
            await until(lambda: inbox.generation == 4)
            inbox.take()
            await publish_desired(hub, trust.sign_desired(Desired(FLEET, "pi-1", 4), bytes(range(32)), 1.8e9))
            await publish_desired(hub, signed(5))
            await until(lambda: inbox.generation == 5)
            assert inbox.refusals == 0

    asyncio.run(scenario())


def test_a_status_is_sent_only_when_it_differs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            await hub.subscribe(wire.status_topic(FLEET, "pi-1"), qos=1)
            uplink = lab.uplink()
            async with linked(uplink):
                for generation in (1, 1, 1, 2):
                    uplink.report(status("pi-1", generation))
                    await until(lambda: not uplink._news.is_set())  # the link has looked at it
                heard = [wire.decode_status((await next_message(hub)).payload).generation for _ in range(2)]
                assert heard == [1, 2]
                assert len(hub.messages) == 0

    asyncio.run(scenario())


def test_a_status_reported_while_away_is_sent_on_connection_and_only_the_newest(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            await hub.subscribe(wire.status_topic(FLEET, "pi-1"), qos=1)
            uplink = lab.uplink()
            for generation in range(1, 50):
                uplink.report(status("pi-1", generation))
            async with linked(uplink):
                assert wire.decode_status((await next_message(hub)).payload).generation == 49

    asyncio.run(scenario())


NODE = """
import asyncio, sys
from pathlib import Path
from cloudlink import link, trust
from edged.uplink import Inbox
from tests.fakes.remote import FakeNode
folder, port = Path(sys.argv[1]), int(sys.argv[2])
files = folder / "pi-1.pem", folder / "pi-1.key"
ca = (folder / "ca" / "ca.pem").read_text()
uplink = link.MqttUplink(
    link.Place("127.0.0.1", port, "lab", "pi-1"),
    lambda check: link.hub_context(ca, files, check),
    bytes(32), bytes(32), link.TimeFloor(folder / "floor"), timing=link.Timing(will_delay=0),
)
asyncio.run(uplink.run(Inbox(lambda: None), FakeNode({})))
"""


def test_the_broker_says_offline_for_a_node_that_was_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            lab.client_files("pi-1")
            await hub.subscribe(wire.every_node(FLEET, wire.PRESENCE), qos=1)
            node = await asyncio.create_subprocess_exec(sys.executable, "-c", NODE, str(tmp_path), str(lab.port))
            try:
                online = wire.decode_presence((await next_message(hub)).payload)
                assert online.online
            finally:
                node.kill()
                await node.wait()
            offline = wire.decode_presence((await next_message(hub)).payload)
            assert not offline.online
            assert offline.epoch == online.epoch

    asyncio.run(scenario())


def test_a_link_that_ends_in_order_leaves_the_word_offline_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            async with linked(lab.uplink()):
                pass
            await hub.subscribe(wire.presence_topic(FLEET, "pi-1"), qos=1)
            presence = wire.decode_presence((await next_message(hub)).payload)
            if presence.online:  # the broker was still at it
                presence = wire.decode_presence((await next_message(hub)).payload)
            assert not presence.online

    asyncio.run(scenario())


def test_a_daemon_that_restarts_within_the_wills_delay_was_never_offline(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            await hub.subscribe(wire.presence_topic(FLEET, "pi-1"), qos=1)
            timing = QUICK._replace(will_delay=30)
            epochs = []
            for _ in range(2):
                async with linked(lab.uplink(timing=timing)):
                    presence = wire.decode_presence((await next_message(hub)).payload)
                    assert presence.online
                    epochs.append(presence.epoch)
            assert len(set(epochs)) == 2

    asyncio.run(scenario())


def test_without_a_broker_the_link_keeps_trying_and_can_be_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        lab = Lab(tmp_path)
        uplink = lab.uplink()
        uplink.report(status("pi-1"))
        async with running(uplink.run(Inbox(lambda: None), FakeNode({})), "uplink") as task:
            await until(lambda: "no connection to 127.0.0.1" in uplink.trouble)
            async with running(lab.broker.run(), "broker"):
                await until(lambda: uplink.connected)
            await until(lambda: not uplink.connected)
            assert not task.done()

    asyncio.run(scenario())


def test_a_broker_of_another_ca_is_not_spoken_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab:
            other = certs.Authority(certs.make_authority("other"))
            uplink = lab.uplink(tls=lambda check: link.hub_context(other.pem.decode(), None, check))
            async with running(uplink.run(Inbox(lambda: None), FakeNode({})), "uplink"):
                await until(lambda: "CERTIFICATE_VERIFY_FAILED" in uplink.trouble)
                assert not uplink.connected

    asyncio.run(scenario())


def test_a_node_that_the_broker_will_not_have_says_so_at_once_and_keeps_trying(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab:
            files = lab.client_files("stranger", certs.Authority(certs.make_authority("other")))
            uplink = lab.uplink(tls=lambda check: link.hub_context(lab.authority.pem.decode(), files, check))
            async with running(uplink.run(Inbox(lambda: None), FakeNode({})), "uplink") as task:
                await until(lambda: "hung up" in uplink.trouble)
                assert not task.done()

    asyncio.run(scenario())


def test_a_nodes_certificate_does_not_pass_as_the_hubs(tmp_path: Path) -> None:
    async def scenario() -> None:
        lab = Lab(tmp_path)
        lab.client_files("pi-2")
        lab.identity = lab.identity._replace(certificate=tmp_path / "pi-2.pem", key=tmp_path / "pi-2.key")
        impostor = lab.make_broker()
        async with running(impostor.run(), "impostor"):
            await until(impostor.ready.is_set)
            uplink = lab.uplink()
            async with running(uplink.run(Inbox(lambda: None), FakeNode({})), "uplink"):
                await until(lambda: "CERTIFICATE_VERIFY_FAILED" in uplink.trouble)
                assert not uplink.connected

    asyncio.run(scenario())


def test_a_certificate_that_a_clock_takes_for_outdated_does_not_lock_the_node_out(tmp_path: Path) -> None:
    """The machine's clock can't be moved, so the broker's certificate is: it ended in 2009."""

    async def scenario() -> None:
        lab = Lab(tmp_path)
        pair = _ended_in_2009(lab.authority)
        trust.write_file(lab.identity.certificate, pair.certificate)
        trust.write_file(lab.identity.key, pair.key)
        async with running(lab.broker.run(), "broker"):
            await until(lab.broker.ready.is_set)
            async with linked(lab.uplink()):
                pass
            # With a clock that is known to be wrong, dates aren't looked at in the first place.
            floor = link.TimeFloor(tmp_path / "floor")
            floor.raise_to(4e9)
            asked = []

            def tls(check_time: bool) -> link.HubContext:
                asked.append(check_time)
                return link.hub_context(lab.authority.pem.decode(), lab.client_files("pi-1"), check_time)

            async with linked(lab.uplink(floor=floor, tls=tls, wall=lambda: 12.0)):
                assert asked == [False]

    asyncio.run(scenario())


def _ended_in_2009(authority: certs.Authority) -> certs.Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = authority._builder("hub", key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH)
    end = datetime.datetime(2009, 1, 1, tzinfo=datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(trust.HUB_TLS_NAME)])
    return certs.Pair(authority._sign(builder.add_extension(names, critical=False), end=end), certs._pem(key))


def test_the_time_floor_only_moves_forward_and_survives(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub, linked(lab.uplink()) as inbox:
            await publish_desired(hub, signed(1))
            await until(lambda: inbox.generation == 1)
        assert link.TimeFloor(tmp_path / "pi-1.floor").value == 1.75e9

    asyncio.run(scenario())


def test_a_secret_sealed_for_the_node_is_opened_by_its_link(tmp_path: Path) -> None:
    async def scenario() -> None:
        key = trust.generate_key()
        uplink = Lab(tmp_path).uplink(private_key=key)
        sealed = trust.seal(trust.public_key_of(key), "pi-1", "default/db", {"password": b"x"})
        assert uplink.unseal("default/db", sealed) == {"password": b"x"}
        with pytest.raises(wire.Refused):
            uplink.unseal("default/other", sealed)

    asyncio.run(scenario())


def test_a_status_too_large_to_travel_does_not_stop_the_ones_after_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, lab.client() as hub:
            await hub.subscribe(wire.status_topic(FLEET, "pi-1"), qos=1)
            uplink = lab.uplink()
            async with linked(uplink):
                huge: NodeStatus = status("pi-1", 1, degraded=("x" * (wire.MAX_DOCUMENT + 1),))
                uplink.report(huge)
                await asyncio.sleep(0)
                uplink.report(status("pi-1", 2))
                assert wire.decode_status((await next_message(hub)).payload).generation == 2

    asyncio.run(scenario())
