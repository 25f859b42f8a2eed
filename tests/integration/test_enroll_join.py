"""Joining over real HTTPS, and what it is for: the joined node's link on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fastapi
import msgspec
import pytest
import uvicorn

from cloudlink import certs, link, node, trust
from cloudlink.hub import enroll
from cloudlink.hub.api import create_app
from cloudlink.hub.store import Store
from edged.config import NodeConfig, UplinkConfig
from edged.errors import PermanentError, RetryError
from edged.model import Desired
from tests.unit.test_enroll_tokens import Memory
from tests.wire_lab import FLEET, SIGNING_KEY, Lab, linked, open_lab, publish_desired, running, signed, until

ADMIN = "admin-secret"


class Door:
    """The enrollment routes behind TLS on loopback."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.store = Memory()
        self.joined: list[str] = []
        listening = uvicorn.Config(fastapi.FastAPI(), port=0, lifespan="off")
        self.socket = listening.bind_socket()
        self.port: int = self.socket.getsockname()[1]
        self.enrollment = enroll.Enrollment(
            self.store,
            lab.authority,
            FLEET,
            trust.verify_key_of(SIGNING_KEY),
            f"https://127.0.0.1:{self.port}",
            enroll.Broker("", lab.port),
            lambda name, facts: self.joined.append(name),
        )
        self.api = Store.open("sqlite://")
        app = create_app(self.api, {ADMIN: "admin"}.get, [enroll.make_router(self.enrollment)])
        self.config = uvicorn.Config(
            app,
            lifespan="off",
            log_level="error",
            ssl_certfile=str(lab.identity.certificate),
            ssl_keyfile=str(lab.identity.key),
        )

    async def post(self, path: str, body: Any, admin: str = "") -> tuple[int, dict[str, Any]]:
        return await asyncio.to_thread(self._post, path, body, admin)

    def _post(self, path: str, body: Any, admin: str) -> tuple[int, dict[str, Any]]:
        context = link.hub_context(self.lab.authority.pem.decode())
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, raw, {"Authorization": f"Bearer {admin}"} if admin else {})
        response = connection.getresponse()
        answer = response.status, json.loads(response.read())
        connection.close()
        return answer


@contextlib.asynccontextmanager
async def open_door(lab: Lab) -> AsyncIterator[Door]:
    door = Door(lab)
    server = uvicorn.Server(door.config)
    async with running(server.serve([door.socket]), "hub"):
        await until(lambda: server.started)
        yield door
        server.should_exit = True
        await until(lambda: not server.server_state.connections)
    door.socket.close()
    door.api.close()


def test_a_machine_joins_and_gets_its_documents(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_lab(tmp_path) as lab, open_door(lab) as door, lab.client() as hub:
            status, made = await door.post("/enroll/v1/tokens", {"node": "pi-7", "ttl": 600}, ADMIN)
            assert status == 200
            identity = tmp_path / "state" / "identity"
            member = await asyncio.to_thread(node.join, made["token"], identity)
            assert (member.node, member.fleet, member.broker_host) == ("pi-7", FLEET, "127.0.0.1")
            assert door.joined == ["pi-7"]
            assert stat.S_IMODE(identity.stat().st_mode) == 0o700
            assert {stat.S_IMODE(p.stat().st_mode) for p in identity.glob("*.key")} == {0o600}

            told = node.settings(member, identity) | {"state_dir": str(tmp_path / "state")}
            config = msgspec.convert(told, NodeConfig)
            uplink = node.connect(config)
            async with linked(uplink) as inbox:
                await publish_desired(hub, signed(2, node="pi-7"), node="pi-7")
                await until(lambda: inbox.generation == 2)
                assert inbox.take() == Desired(FLEET, "pi-7", 2)
            record = enroll.node_record(door.store, "pi-7")
            assert record is not None
            sealed = trust.seal(record.public_key, "pi-7", "default/db", {"k": b"v"})
            assert uplink.unseal("default/db", sealed) == {"k": b"v"}

    asyncio.run(scenario())


def test_joining_again_is_the_same_node_and_a_lost_answer_can_be_asked_for_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        lab = Lab(tmp_path)
        async with open_door(lab) as door:
            identity = tmp_path / "identity"
            token = door.enrollment.create_token()
            await asyncio.to_thread(node.join, token, identity, "pi-1")
            keys = {p.name: p.read_bytes() for p in identity.glob("*.key")}
            (identity / "node.json").unlink()  # as if the answer had been lost
            await asyncio.to_thread(node.join, token, identity, "pi-1")
            await asyncio.to_thread(node.join, door.enrollment.create_token(), identity, "pi-1")
            assert {p.name: p.read_bytes() for p in identity.glob("*.key")} == keys
            assert list(door.store.records(enroll.NODES)) == ["pi-1"]

    asyncio.run(scenario())


def test_a_refused_machine_has_not_joined_and_is_told_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        lab = Lab(tmp_path)
        async with open_door(lab) as door:
            token = door.enrollment.create_token("pi-1")
            with pytest.raises(PermanentError, match="for node 'pi-1'"):
                await asyncio.to_thread(node.join, token, tmp_path / "a", "pi-2")
            await asyncio.to_thread(node.join, token, tmp_path / "b", "pi-1")
            with pytest.raises(PermanentError, match="used already"):
                await asyncio.to_thread(node.join, token, tmp_path / "a")
            assert not (tmp_path / "a" / "node.json").exists()
            with pytest.raises(PermanentError, match="has joined no fleet"):
                node.load_membership(tmp_path / "a")

    asyncio.run(scenario())


def test_a_hub_with_another_ca_gets_neither_secret_nor_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        lab = Lab(tmp_path)
        async with open_door(lab) as door:
            real = trust.parse_token(door.enrollment.create_token())
            other = certs.make_authority("other").certificate
            forged = trust.format_token(trust.JoinToken(real.url, certs.fingerprint(other), real.secret))
            with pytest.raises(PermanentError, match="another fingerprint"):
                await asyncio.to_thread(node.join, forged, tmp_path / "identity", "pi-1")
            assert not door.joined

    asyncio.run(scenario())


def test_somebody_in_between_who_shows_the_right_ca_but_lacks_its_key_is_found_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        lab = Lab(tmp_path / "real")
        thief = Lab(tmp_path / "thief")
        async with open_door(thief) as door:
            door.enrollment.authority = lab.authority  # it hands out the real CA certificate
            token = trust.JoinToken(f"https://127.0.0.1:{door.port}", lab.authority.fingerprint, b"s" * 32)
            with pytest.raises(PermanentError, match="can't prove"):
                await asyncio.to_thread(node.join, trust.format_token(token), tmp_path / "identity", "pi-1")

    asyncio.run(scenario())


def test_a_hub_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    token = trust.JoinToken(f"https://127.0.0.1:{lab.port}", lab.authority.fingerprint, b"s" * 32)
    with pytest.raises(RetryError, match="can't reach the hub"):
        node.join(trust.format_token(token), tmp_path / "identity", "pi-1")


BAD_BODIES = [
    (b"", "body"),
    (b"{", "body"),
    (b"[1]", "body"),
    (b"\xff\xfe", "body"),
    ({"name": "pi-1"}, "secret: Field required"),
    ({"secret": 5, "csr": "", "public_key": ""}, "secret: Input should be a valid string"),
    ({"secret": "AA==", "csr": "", "public_key": "", "extra": 1}, "extra: Extra inputs are not permitted"),
    ({"secret": "AA==", "csr": "", "public_key": "", "facts": {str(n): "" for n in range(33)}}, "facts"),
    (b'{"secret": "' + b"A" * (70 << 10) + b'"}', "more than"),
]


def test_bad_requests_are_answered_in_json_with_the_place_and_never_echo_the_input(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_door(Lab(tmp_path)) as door:
            for body, reason in BAD_BODIES:
                status, answer = await door.post("/enroll/v1/join", body)
                assert status in (400, 413)
                assert reason in answer["detail"]
                assert "AAAA" not in answer["detail"]

    asyncio.run(scenario())


def test_only_an_administrator_makes_tokens_and_guessing_one_is_slowed_down(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_door(Lab(tmp_path)) as door:
            for wrong in ("", "wrong", "ädmin"):
                status, answer = await door.post("/enroll/v1/tokens", {}, wrong.encode().decode("latin-1"))
                assert (status, "bearer token" in answer["message"]) == (401, True)
            for bad in ({"ttl": 5}, {"ttl": 10**9}, {"node": "x" * 64}, {"who": 1}):
                status, _ = await door.post("/enroll/v1/tokens", bad, ADMIN)
                assert status == 400
            guess = {"secret": "AA==", "csr": "", "public_key": ""}
            statuses = [(await door.post("/enroll/v1/join", guess))[0] for _ in range(enroll.FAILURES)]
            assert statuses[-1] == 429

    asyncio.run(scenario())


def test_the_daemon_is_told_what_is_wrong_with_its_identity(tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    config = NodeConfig("pi-1", FLEET, state_dir=str(tmp_path))
    with pytest.raises(PermanentError, match="edgectl join"):
        node.connect(config)
    folder.mkdir()
    member = node.Membership("pi-1", FLEET, "hub", 8883, "ca", "certificate", bytes(32))
    (folder / "node.json").write_bytes(msgspec.json.encode(member))
    with pytest.raises(PermanentError, match=r"seal\.key"):
        node.connect(config)
    trust.load_or_create_key(folder / "seal.key")
    for wrong in (NodeConfig("pi-2", FLEET, state_dir=str(tmp_path)), NodeConfig("pi-1", "x", state_dir=str(tmp_path))):
        with pytest.raises(PermanentError, match="belongs to node 'pi-1'"):
            node.connect(wrong)
    with pytest.raises(PermanentError, match="port"):
        node.connect(NodeConfig("pi-1", FLEET, str(tmp_path), uplink=UplinkConfig(options={"port": "x"})))
    (folder / "node.json").write_bytes(b"{half")
    with pytest.raises(PermanentError, match="new token"):
        node.connect(config)


def test_a_name_that_is_none_is_refused_before_anything_is_made_or_asked(tmp_path: Path) -> None:
    token = trust.format_token(trust.JoinToken("https://127.0.0.1:1", bytes(32), bytes(32)))
    for name in ("Raspberry Pi", "x" * 64, "_hub"):
        with pytest.raises(PermanentError, match="DNS-1123"):
            node.join(token, tmp_path / "identity", name)
    assert not (tmp_path / "identity").exists()


def test_the_facts_of_this_board_are_such_as_the_hub_takes() -> None:
    assert node.board_facts()["architecture"]
    assert all(len(k) <= 63 and len(v) <= 256 for k, v in node.board_facts().items())
