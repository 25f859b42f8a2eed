"""Tokens and certificates, good and hostile: against a store in memory and a clock of the test's own."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink import certs
from cloudlink.hub.auth import certificates
from cloudlink.hub.auth.accounts import ISSUER, Accounts
from cloudlink.hub.auth.authenticate import Authenticator, Credentials, Unauthorized
from cloudlink.hub.auth.certificates import Certificates
from cloudlink.hub.auth.tokens import MAX_TOKENS, TOKENS, UserTokens
from cloudlink.hub.auth.users import AUTHENTICATED, MASTERS, NODES
from cloudlink.hub.store import Create, Delete, Store
from cloudlink.kube.accounts import ServiceAccount
from cloudlink.kube.meta import ObjectMeta
from edged.errors import PermanentError
from tests.fakes.hub_objects import pod
from tests.unit.test_enroll_tokens import Memory

KEY = certs.make_key()
OTHER_KEY = certs.make_key()
FLEET = certs.Authority(certs.make_authority("home"))
USERS = certs.Authority(certs.make_authority("home, users"))
FOREIGN = certs.Authority(certs.make_authority("home, users"))


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Iterator[Store]:
    opened = Store.open("sqlite://")
    yield opened
    opened.close()


def robot(store: Store, name: str = "robot") -> ServiceAccount:
    [made] = store.commit([Create(ServiceAccount(metadata=ObjectMeta(name=name, namespace="default")))])
    assert isinstance(made, ServiceAccount)
    return made


# ---------------------------------------------------------------- people's tokens


def test_a_user_s_token_is_stored_as_a_hash_and_tells_who_it_is(clock: Clock) -> None:
    memory = Memory()
    tokens = UserTokens(memory, clock)
    made = tokens.create("ann", ("team",), ttl=60)
    assert made.token.encode() not in b"".join(memory.buckets[TOKENS].values())
    user = tokens.user_of(made.token)
    assert user is not None
    assert (user.name, user.groups) == ("ann", ("team", AUTHENTICATED))
    assert [(h.user, h.expires_at - h.made_at) for h in tokens.all().values()] == [("ann", 60)]


def test_a_token_ends_with_its_time_and_with_its_revocation(clock: Clock) -> None:
    tokens = UserTokens(Memory(), clock)
    short, long, ever = (tokens.create("ann", ttl=ttl).token for ttl in (60, 600, 0))
    clock.now += 61
    with pytest.raises(Unauthorized, match="has expired"):
        tokens.user_of(short)
    assert tokens.user_of(long) is not None
    assert len(tokens.revoke_user("ann")) == 2  # the expired one is no longer told of
    for token in (long, ever):
        with pytest.raises(Unauthorized, match="was revoked"):
            tokens.user_of(token)


@pytest.mark.parametrize(
    ("user", "groups"),
    [
        ("", ()),
        ("system:node:pi-1", ()),
        ("system:admin", ()),
        (" ann", ()),
        ("a\nb", ()),
        ("x" * 254, ()),
        ("ann", ("system:nodes",)),
        ("ann", ("system:serviceaccounts:red",)),
        ("ann", ("system:authenticated",)),
        ("ann", ("",)),
    ],
)
def test_names_that_the_hub_itself_gives_can_t_be_had(user: str, groups: tuple[str, ...], clock: Clock) -> None:
    with pytest.raises(PermanentError):
        UserTokens(Memory(), clock).create(user, groups)


def test_there_is_an_end_to_the_number_of_tokens_and_expired_ones_make_room(clock: Clock) -> None:
    memory = Memory()
    tokens = UserTokens(memory, clock)
    first = tokens.create("ann", ttl=60)
    raw = memory.buckets[TOKENS][first.id]
    memory.buckets[TOKENS] |= {str(n): raw for n in range(MAX_TOKENS)}
    with pytest.raises(PermanentError, match="revoke some"):
        tokens.create("bob")
    clock.now += 61
    assert tokens.create("bob").token
    assert len(memory.buckets[TOKENS]) == 1


@given(st.text(max_size=80))
def test_no_token_that_somebody_makes_up_is_good(text: str) -> None:
    tokens = UserTokens(Memory(), lambda: 0.0)
    tokens.create("ann")
    with contextlib.suppress(Unauthorized):
        assert tokens.user_of(f"edged-{text}") is None
    assert tokens.user_of(f"x{text}") is None


# ---------------------------------------------------------------- service accounts


def test_an_account_s_token_tells_who_it_is_for_as_long_as_it_is_good(store: Store, clock: Clock) -> None:
    accounts = Accounts(store, KEY, clock)
    account = robot(store)
    token, end = accounts.token(account, (), 600)
    user = accounts.user_of(token)
    assert user is not None
    assert user.name == "system:serviceaccount:default:robot"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:default", AUTHENTICATED)
    assert user.uid == account.metadata.uid
    clock.now = end - 1
    assert accounts.user_of(token) == user
    clock.now = end
    with pytest.raises(Unauthorized, match="has expired"):
        accounts.user_of(token)


def test_a_token_ends_with_its_account_even_if_another_of_that_name_comes(store: Store, clock: Clock) -> None:
    accounts = Accounts(store, KEY, clock)
    token, _ = accounts.token(robot(store), (), 600)
    assert accounts.user_of(token) is not None
    store.commit([Delete("ServiceAccount", "default", "robot")])
    with pytest.raises(Unauthorized, match="is gone"):
        accounts.user_of(token)
    robot(store)
    with pytest.raises(Unauthorized, match="is gone"):
        accounts.user_of(token)


def test_a_token_that_is_bound_to_a_pod_ends_with_it(store: Store, clock: Clock) -> None:
    accounts = Accounts(store, KEY, clock)
    [there] = store.commit([Create(pod("p"))])
    token, _ = accounts.token(robot(store), (), 600, ("Pod", "p", there.metadata.uid))
    user = accounts.user_of(token)
    assert user is not None
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("p",)
    store.commit([Delete("Pod", "default", "p")])
    with pytest.raises(Unauthorized, match="pod p is gone"):
        accounts.user_of(token)


def test_a_token_for_somebody_else_is_not_for_the_hub(store: Store, clock: Clock) -> None:
    accounts = Accounts(store, KEY, clock)
    token, _ = accounts.token(robot(store), ("vault",), 600)
    with pytest.raises(Unauthorized, match="another audience"):
        accounts.user_of(token)
    assert accounts.review(token, ("vault", "x")) is not None


def claims(store: Store, clock: Clock, **changed: Any) -> dict[str, Any]:
    uid = store.get("ServiceAccount", "default", "robot") or robot(store)
    return {
        "iss": ISSUER,
        "sub": "system:serviceaccount:default:robot",
        "aud": [ISSUER],
        "exp": clock.now + 600,
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "robot", "uid": uid.metadata.uid}},
    } | changed


def unsigned(payload: dict[str, Any], **head: Any) -> str:
    def part(document: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'} | head)}.{part(payload)}."


def test_a_token_made_as_ours_are_made_is_good_so_that_the_ones_below_fail_for_their_own_reason(
    store: Store, clock: Clock
) -> None:
    assert Accounts(store, KEY, clock).user_of(jwt.encode(claims(store, clock), KEY, "ES256")) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://elsewhere"},
        {"exp": "soon"},
        {"exp": None},
        {"nbf": 4_000_000_000},
        {"sub": "system:serviceaccount:default:other"},
        {"sub": "admin"},
        {"sub": ["x"]},
        {"aud": []},
        {"aud": {"a": 1}},
        {"aud": 5},
        {"kubernetes.io": None},
        {"kubernetes.io": []},
        {"kubernetes.io": {"serviceaccount": "robot"}},
        {"kubernetes.io": {"serviceaccount": {"uid": None}}},
        {"kubernetes.io": {}},
    ],
    ids=str,
)
def test_a_signed_token_with_a_wrong_claim_is_refused(store: Store, clock: Clock, change: dict[str, Any]) -> None:
    accounts = Accounts(store, KEY, clock)
    with pytest.raises(Unauthorized):
        accounts.user_of(jwt.encode(claims(store, clock, **change), KEY, "ES256"))


def test_a_token_that_somebody_else_signed_or_nobody_is_refused(store: Store, clock: Clock) -> None:
    accounts = Accounts(store, KEY, clock)
    good = claims(store, clock)
    public = accounts._public.public_bytes(
        certs.serialization.Encoding.PEM, certs.serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signature_of_another = jwt.encode(good, KEY, "ES256").rsplit(".", 1)[1]
    body = unsigned(good, alg="ES256")
    hostile = [
        jwt.encode(good, OTHER_KEY, "ES256"),
        unsigned(good),
        unsigned(good, alg="HS256"),
        jwt.encode(good, base64.b64encode(public).decode(), "HS256"),  # our public key as a shared secret
        body + signature_of_another,
        body + "AAAA",
        unsigned(good, alg="ES256", crit=["exp"]) + signature_of_another,
        "..",
        "a.b.c",
        "\0.\0.\0",
        "e30.e30.e30",
    ]
    for token in hostile:
        with pytest.raises(Unauthorized):
            accounts.user_of(token)


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_text_with_two_dots_passes_or_breaks_anything(a: str, b: str, c: str) -> None:
    store = Store.open("sqlite://")
    try:
        with pytest.raises(Unauthorized):
            Authenticator(lambda _: None, (Accounts(store, KEY),), None).of_token(f"{a}.{b}.{c}")
    finally:
        store.close()


def test_an_account_s_key_that_is_none_is_told_at_the_start(store: Store) -> None:
    for wrong in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(PermanentError, match="service accounts' key"):
            Accounts(store, wrong)


# ---------------------------------------------------------------- certificates


def a_certificate(
    authority: certs.Authority, clock: Clock, user: str = "ann", groups: tuple[str, ...] = ("team",)
) -> bytes:
    csr = certs.make_csr(certs.make_key(), "whatever the request says")
    return certificates.issue(authority, csr, user, groups, clock.now, clock.now + 600)


def test_a_person_s_certificate_names_them_and_their_groups(clock: Clock) -> None:
    known = Certificates(FLEET.pem, USERS.pem, clock)
    user = known.user_of(a_certificate(USERS, clock))
    assert (user.name, user.groups) == ("ann", ("team", AUTHENTICATED))
    clock.now += 601
    with pytest.raises(Unauthorized, match="has expired"):
        known.user_of(a_certificate(USERS, Clock()))
    early = Clock()
    early.now += 10_000
    with pytest.raises(Unauthorized, match="is good from"):
        known.user_of(a_certificate(USERS, early))


def test_a_node_s_certificate_is_a_node_whatever_else_it_says(clock: Clock) -> None:
    known = Certificates(FLEET.pem, USERS.pem, clock)
    user = known.user_of(FLEET.issue_client("pi-1").certificate)
    assert (user.name, user.groups) == ("system:node:pi-1", (NODES, AUTHENTICATED))
    masters = a_certificate(FLEET, clock, "pi-1", (MASTERS,))  # the fleet's authority never signs this; but if it did
    assert known.user_of(masters).groups == (NODES, AUTHENTICATED)


def test_certificates_of_others_and_of_the_hub_itself_are_refused(clock: Clock) -> None:
    known = Certificates(FLEET.pem, USERS.pem, clock)
    for wrong in (
        a_certificate(FOREIGN, clock),  # of the same name as our authority
        FLEET.issue_client(certs.HUB_USER).certificate,
        b"junk",
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ):
        with pytest.raises(Unauthorized):
            known.user_of(wrong)


def test_a_name_that_does_not_fit_into_a_certificate_is_told_so(clock: Clock) -> None:
    with pytest.raises(PermanentError, match="64 characters"):
        a_certificate(USERS, clock, "x" * 65)


# ---------------------------------------------------------------- all of them


def test_the_administrator_s_token_is_one_of_the_masters_and_nothing_at_all_is_refused(store: Store) -> None:
    keeper = Authenticator({"t": "admin"}.get, (UserTokens(store), Accounts(store, KEY)), None)
    user = keeper.authenticate(Credentials("t"))
    assert (user.name, MASTERS in user.groups) == ("admin", True)
    for shown in (Credentials(), Credentials("T"), Credentials("ä"), Credentials("t" * 20_000)):
        with pytest.raises(Unauthorized):
            keeper.authenticate(shown)


def test_a_certificate_speaks_before_the_token_as_kubernetes_has_it(store: Store, clock: Clock) -> None:
    known = Certificates(FLEET.pem, USERS.pem, clock)
    keeper = Authenticator({"t": "admin"}.get, (), known)
    assert keeper.authenticate(Credentials("t", a_certificate(USERS, clock))).name == "ann"
    with pytest.raises(Unauthorized):
        keeper.authenticate(Credentials("t", a_certificate(FOREIGN, clock)))
