"""Who is let into the fleet, under which name, and how often: against a store in memory."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import certs, trust
from cloudlink.hub import enroll
from edged.errors import PermanentError, RetryError

AUTHORITY = certs.Authority(certs.make_authority("home"))
KEYS = [certs.make_key() for _ in range(2)]
PUBLIC = trust.public_key_of(bytes(range(32)))


class Memory:
    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}

    def put_record(self, bucket: str, key: str, value: bytes) -> None:
        self.buckets.setdefault(bucket, {})[key] = value

    def get_record(self, bucket: str, key: str) -> bytes | None:
        return self.buckets.get(bucket, {}).get(key)

    def records(self, bucket: str) -> Mapping[str, bytes]:
        return dict(self.buckets.get(bucket, {}))

    def delete_record(self, bucket: str, key: str) -> None:
        self.buckets.get(bucket, {}).pop(key, None)


class Hub:
    """An enrollment with its own clock and memory."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = Memory()
        self.joined: list[tuple[str, Mapping[str, str]]] = []
        self.enrollment = enroll.Enrollment(
            self.store,
            AUTHORITY,
            "home",
            bytes(32),
            "https://hub:7443",
            enroll.Broker("", 8883),
            lambda node, facts: self.joined.append((node, facts)),
            lambda: self.now,
        )

    def join(self, token: str, name: str = "", key: int = 0, **rest: Any) -> dict[str, object]:
        fields: dict[str, Any] = {
            "secret": base64.b64encode(trust.parse_token(token).secret).decode(),
            "name": name,
            "csr": certs.make_csr(KEYS[key], name or "x").decode(),
            "public_key": base64.b64encode(PUBLIC).decode(),
            "facts": {"model": "Pi 4"},
        }
        return self.enrollment.join(enroll.JoinRequest(**(fields | rest)))

    def denied(self, token: str, name: str = "", key: int = 0, **rest: Any) -> str:
        """The refusal's "status sentence"; nothing may have changed by it."""
        before = {b: dict(r) for b, r in self.store.buckets.items()}, list(self.joined)
        with pytest.raises(enroll._DeniedError) as caught:
            self.join(token, name, key, **rest)
        assert ({b: dict(r) for b, r in self.store.buckets.items()}, self.joined) == before
        return f"{caught.value.status} {caught.value}"


def test_a_token_buys_a_certificate_and_the_hub_remembers_the_node() -> None:
    hub = Hub()
    answer = hub.join(hub.enrollment.create_token(), "pi-1")
    assert (answer["node"], answer["fleet"], answer["broker_port"]) == ("pi-1", "home", 8883)
    record = enroll.node_record(hub.store, "pi-1")
    assert record is not None
    assert record.public_key == PUBLIC
    assert record.fingerprint == certs.fingerprint(str(answer["certificate"]).encode())
    assert hub.joined == [("pi-1", {"model": "Pi 4"})]


def test_the_store_never_holds_a_tokens_secret() -> None:
    hub = Hub()
    token = hub.enrollment.create_token()
    held = repr(hub.store.buckets).encode()
    secret = trust.parse_token(token).secret
    assert secret not in held
    assert secret.hex().encode() not in held
    assert base64.b64encode(secret) not in held


def test_a_used_token_is_no_good_for_another_key_but_its_own_may_ask_again() -> None:
    hub = Hub()
    token = hub.enrollment.create_token()
    hub.join(token, "pi-1")
    assert hub.denied(token, "pi-2", key=1).startswith("401 this join token has been used")
    assert hub.join(token, "pi-1")["node"] == "pi-1"
    assert hub.denied(token, "pi-2").startswith("403")


def test_a_token_expires() -> None:
    hub = Hub()
    token = hub.enrollment.create_token(ttl=60)
    hub.now += 60
    with pytest.raises(enroll._DeniedError, match="expired"):
        hub.join(token, "pi-1")
    assert not hub.store.records(enroll.TOKENS)


def test_a_token_of_another_hub_is_unknown() -> None:
    assert Hub().denied(Hub().enrollment.create_token(), "pi-1").startswith("401 unknown")


def test_a_token_for_one_name_gives_that_name_only() -> None:
    hub = Hub()
    token = hub.enrollment.create_token("pi-1")
    assert hub.denied(token, "pi-2").startswith("403")
    assert hub.join(token)["node"] == "pi-1"


def test_a_name_that_another_key_holds_is_only_given_away_on_purpose() -> None:
    hub = Hub()
    hub.join(hub.enrollment.create_token(), "pi-1", key=0)
    assert "create --node pi-1" in hub.denied(hub.enrollment.create_token(), "pi-1", key=1)
    hub.join(hub.enrollment.create_token(), "pi-1", key=0)  # the same machine with a new token
    hub.join(hub.enrollment.create_token("pi-1"), key=1)  # flashed anew: an admin said so
    record = enroll.node_record(hub.store, "pi-1")
    assert record is not None
    assert record.key_id == certs.key_id_of_csr(certs.make_csr(KEYS[1], "x"))


def test_a_spent_token_does_not_take_a_name_back() -> None:
    hub = Hub()
    early = hub.enrollment.create_token()
    hub.join(early, "pi-1", key=0)
    hub.join(hub.enrollment.create_token("pi-1"), key=1)
    assert hub.denied(early, "pi-1", key=0).startswith("409")


@pytest.mark.parametrize("name", ["", "Pi", "a/b", "+", "#", "_hub", "x" * 62 + "-"])
def test_a_name_that_is_none_is_refused_and_the_token_kept(name: str) -> None:
    hub = Hub()
    token = hub.enrollment.create_token()
    assert hub.denied(token, name).startswith("400 name")
    assert hub.join(token, "pi-1")["node"] == "pi-1"


@pytest.mark.parametrize(
    "broken",
    [
        {"csr": "no"},
        {"csr": "ä"},
        {"csr": certs.make_key().decode()},
        {"public_key": "no"},
        {"public_key": base64.b64encode(b"short").decode()},
        {"public_key": base64.b64encode(bytes(32)).decode()},
    ],
)
def test_a_broken_request_does_not_spend_the_token(broken: dict[str, str]) -> None:
    hub = Hub()
    token = hub.enrollment.create_token()
    assert hub.denied(token, "pi-1", **broken).startswith("400 csr or public_key")
    assert hub.join(token, "pi-1")["node"] == "pi-1"


@given(st.text(max_size=60))
def test_a_made_up_secret_is_refused(secret: str) -> None:
    hub = Hub()
    token = hub.enrollment.create_token()
    assert hub.denied(token, "pi-1", secret=secret)[:3] in ("400", "401")


def test_a_hub_that_fails_after_spending_the_token_can_be_asked_again() -> None:
    hub = Hub()
    token = hub.enrollment.create_token()

    def fail(node: str, facts: Mapping[str, str]) -> None:
        raise RetryError("the database is busy", 2.0)

    working, hub.enrollment._on_join = hub.enrollment._on_join, fail
    with pytest.raises(RetryError):
        hub.join(token, "pi-1")
    hub.enrollment._on_join = working
    assert hub.join(token, "pi-1")["node"] == "pi-1"


def test_tokens_are_bounded_and_expired_ones_make_room() -> None:
    hub = Hub()
    for _ in range(enroll.MAX_PENDING):
        hub.store.put_record(enroll.TOKENS, str(_), enroll.msgspec.msgpack.encode(enroll._Pending("", 2000.0)))
    with pytest.raises(PermanentError, match="expire"):
        hub.enrollment.create_token()
    hub.now = 2000.0
    hub.enrollment.create_token()
    assert len(hub.store.records(enroll.TOKENS)) == 1


def test_wrong_attempts_are_slowed_down_by_address_and_forgotten_after_a_minute() -> None:
    now = [0.0]
    attempts = enroll.Attempts(lambda: now[0])
    for _ in range(enroll.FAILURES):
        attempts.check("thief")
        attempts.failed("thief")
    with pytest.raises(enroll._DeniedError, match="60 s"):
        attempts.check("thief")
    attempts.check("friend")
    now[0] += enroll.WINDOW
    attempts.check("thief")


def test_a_thousand_addresses_share_one_bounded_memory() -> None:
    attempts = enroll.Attempts(lambda: 0.0)
    for n in range(10 * enroll.ALL_FAILURES):
        attempts.failed(f"10.0.{n >> 8}.{n & 255}")
    assert len(attempts._failures) == enroll.ALL_FAILURES
    with pytest.raises(enroll._DeniedError, match="too many"):
        attempts.check("10.9.9.9")
