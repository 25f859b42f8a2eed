"""The way in, in memory: who is refused with which words, as whom somebody may act, and what is written down."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlink.hub.api.paths import target_of
from cloudlink.hub.api.server import create_app
from cloudlink.hub.auth.audit import WAITING, AuditLog, Entry, document, without_secrets
from cloudlink.hub.auth.authority import bootstrap
from cloudlink.hub.auth.requests import Request, request_of
from cloudlink.hub.auth.users import User
from cloudlink.hub.store import Create, Store
from tests.fakes.hub_client import TOKEN, Client, OpenWatch
from tests.unit.test_rbac_rules import binding, role, rule

NAMES = {TOKEN: "root"}
API = "rbac.authorization.k8s.io"


class Told:
    """An audit log that remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def tell(self, entry: Entry, stage: str) -> None:
        self.events.append(document(entry, stage, entry.received + 1))

    def close(self) -> None:
        pass


class Hub:
    """An API with the bootstrap policy; `ann` may read pods in the namespace default, and acts by impersonation."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(f"sqlite:///{folder}/hub.db")
        self.told = Told()
        bootstrap(self.store)
        self.store.commit(
            [
                Create(role("reader", rule("get list watch", "pods pods/log"), namespace="default")),
                Create(binding("readers", "Role/reader", "User/ann", namespace="default")),
            ]
        )
        self.app = create_app(self.store, NAMES.get, audit=self.told)
        self.client = Client(self.app)

    def ask(self, method: str, path: str, body: object = None, user: str = "", **headers: str) -> tuple[int, Any]:
        shown = {"impersonate-user": user} if user else {}
        content = b"" if body is None else json.dumps(body).encode()
        every = {"content-type": "application/json", **shown, **{k.replace("_", "-"): v for k, v in headers.items()}}
        answer = self.client.raw(method, path, content, headers=every)
        return answer.status_code, json.loads(answer.content)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path)
    yield made
    made.store.close()


PODS = "/api/v1/namespaces/default/pods"


def test_who_may_not_is_told_what_and_where(hub: Hub) -> None:
    assert hub.ask("GET", PODS, user="ann")[0] == 200
    code, told = hub.ask("GET", "/api/v1/namespaces/default/secrets", user="ann")
    assert (code, told["reason"], told["code"]) == (403, "Forbidden", 403)
    assert told["message"] == (
        'secrets is forbidden: User "ann" cannot list resource "secrets" in API group "" in the namespace "default"'
    )
    for method, path in (
        ("POST", PODS),
        ("DELETE", PODS),
        ("DELETE", f"{PODS}/p"),
        ("GET", "/api/v1/pods"),
        ("GET", "/apis/none.example.org/v1/ships"),
        ("GET", "/nothing"),
        ("POST", "/enroll/v1/tokens"),
        ("GET", "/auth/v1/tokens"),
        ("POST", "/auth/v1/certificates"),
    ):
        assert hub.ask(method, path, user="ann")[0] == 403, (method, path)
    for path in ("/api", "/apis", "/apis/apps/v1", "/version", "/openapi/v3"):
        assert hub.ask("GET", path, user="ann")[0] == 200, path


def test_without_credentials_nothing_is_said_but_that_they_are_missing(hub: Hub) -> None:
    for token in ("", "wrong", "edged-x-y", "a.b.c"):
        answer = hub.client.raw("GET", PODS, token=token)
        told = json.loads(answer.content)
        assert (answer.status_code, told["reason"]) == (401, "Unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert hub.client.raw("GET", PODS, token="", headers={"authorization": "Basic cm9vdDo="}).status_code == 401
    assert hub.client.raw("GET", "/readyz", token="").status_code == 200


def test_a_path_with_a_coded_question_mark_means_the_same_to_the_gate_and_to_who_answers(hub: Hub) -> None:
    everything_s_log = binding("logs", "ClusterRole/logs", "User/ann")
    hub.store.commit([Create(role("logs", rule("get", "*/log"))), Create(everything_s_log)])
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
    assert hub.ask("POST", "/api/v1/namespaces/default/secrets", secret)[0] == 201
    code, told = hub.ask("GET", "/api/v1/namespaces/default/secrets/s%3F/log", user="ann")
    assert (code, "data" in told) == (404, False)


segments = st.sampled_from(
    ["api", "apis", "v1", "apps", "watch", "namespaces", "pods", "deployments", "default", "status", "log", "", "nodes"]
)


@given(st.lists(segments, max_size=9), st.sampled_from(["GET", "POST", "DELETE"]))
def test_the_gate_asks_about_the_very_resource_that_is_then_answered(parts: list[str], method: str) -> None:
    path = "/" + "/".join(parts)
    target = target_of(path)
    if target is None:
        return
    asked = request_of(method, path, {})
    assert (asked.group, asked.resource, asked.name, asked.subresource) == (
        target.resource.group,
        target.resource.plural,
        target.name,
        target.subresource,
    )
    if target.resource.namespaced:
        assert asked.namespace == target.namespace


# ---------------------------------------------------------------- impersonation


def test_only_who_may_impersonate_does(hub: Hub) -> None:
    hub.store.commit(
        [
            Create(role("as-bob", rule("impersonate", "users", names="bob"), rule("impersonate", "groups", names="g"))),
            Create(binding("as-bob", "ClusterRole/as-bob", "User/ann")),
        ]
    )
    tokens = {"user": "ann"}
    code, made = hub.ask("POST", "/auth/v1/tokens", tokens)
    assert code == 201
    ann = {"authorization": f"Bearer {made['token']}"}
    assert hub.ask("GET", "/api", user="bob", **ann)[0] == 200
    assert hub.ask("GET", "/api", user="bob", impersonate_group="g", **ann)[0] == 200
    for headers in (
        {"impersonate_user": "root"},
        {"impersonate_user": "bob", "impersonate_group": "system:masters"},
        {"impersonate_user": "bob", "impersonate_uid": "1"},
        {"impersonate_user": "bob", "impersonate_extra_x": "1"},
        {"impersonate_user": "system:serviceaccount:default:default"},
    ):
        code, told = hub.ask("GET", "/api", **ann, **headers)
        assert (code, "cannot impersonate resource" in told["message"]) == (403, True), headers
    assert hub.ask("GET", "/api", impersonate_group="g", **ann)[0] == 400


def test_a_service_account_that_is_impersonated_has_its_groups(hub: Hub) -> None:
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    code, told = hub.ask("POST", path, body, user="system:serviceaccount:red:robot")
    assert code == 201
    groups = ["system:serviceaccounts", "system:serviceaccounts:red", "system:authenticated"]
    assert told["status"]["userInfo"]["groups"] == groups
    code, told = hub.ask("POST", path, body, user="zoe", impersonate_extra_scopes="a", impersonate_uid="7")
    assert told["status"]["userInfo"] == {
        "username": "zoe",
        "uid": "7",
        "groups": ["system:authenticated"],
        "extra": {"scopes": ["a"]},
    }


# ---------------------------------------------------------------- what is given away, reviews, credentials


def test_a_credential_is_made_only_by_who_may_be_that_user(hub: Hub) -> None:
    hub.store.commit(
        [
            Create(role("maker", rule("create list delete", "usertokens usercertificates", "edged.dev"))),
            Create(binding("maker", "ClusterRole/maker", "User/ann")),
        ]
    )
    code, told = hub.ask("POST", "/auth/v1/tokens", {"user": "root", "groups": ["system:masters"]}, user="ann")
    assert (code, "cannot impersonate" in told["message"]) == (403, True)
    assert hub.ask("GET", "/auth/v1/tokens", user="ann") == (200, {"tokens": []})
    for wrong in ({}, {"user": ""}, {"user": "x", "ttl": -1}, {"user": "x", "more": 1}, {"user": "system:x"}, []):
        assert hub.ask("POST", "/auth/v1/tokens", wrong)[0] == 400, wrong


def test_roles_are_given_away_through_every_way_of_writing_only_by_who_has_what_they_give(hub: Hub) -> None:
    hub.store.commit(
        [
            Create(role("roles", rule("create update patch get", "roles", API), namespace="default")),
            Create(binding("roles", "Role/roles", "User/ann", namespace="default")),
        ]
    )
    place = f"/apis/{API}/v1/namespaces/default/roles"
    mine = {"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
    more = {"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}
    assert hub.ask("POST", place, more, user="ann")[0] == 403
    assert hub.ask("POST", place, mine, user="ann")[0] == 201
    code, told = hub.ask("PUT", f"{place}/r", more, user="ann")
    assert code == 403
    assert told["message"].startswith(f'roles.{API} "r" is forbidden: user "ann" (groups=["system:authenticated"])')
    for kind in ("merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"):
        headers = {"impersonate-user": "ann", "content-type": f"application/{kind}"}
        body = json.dumps(more | {"apiVersion": f"{API}/v1", "kind": "Role"}).encode()
        query = "?fieldManager=t&force=true" if "apply" in kind else ""
        assert hub.client.raw("PATCH", f"{place}/r{query}", body, headers=headers).status_code == 403, kind
    assert hub.ask("POST", f"{place}?dryRun=All", more, user="ann")[0] == 403
    assert hub.ask("PUT", f"{place}/r", more)[0] == 200  # an administrator


def test_access_reviews_say_what_the_gate_would_say(hub: Hub) -> None:
    def review(kind: str, spec: object, user: str = "", place: str = "") -> dict[str, Any]:
        path = f"/apis/authorization.k8s.io/v1/{place}{kind.lower()}s"
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        code, told = hub.ask("POST", path, body, user=user)
        assert code == 201, told
        return dict(told["status"])

    pods = {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}
    mine = review("SelfSubjectAccessReview", pods, "ann")
    assert mine == {
        "allowed": True,
        "reason": 'RBAC: allowed by RoleBinding "readers/default" of Role "reader" to User "ann"',
    }
    assert review("SelfSubjectAccessReview", pods, "bob") == {"allowed": False}
    path = {"nonResourceAttributes": {"verb": "get", "path": "/api/v1"}}
    assert review("SelfSubjectAccessReview", path, "bob")["allowed"] is True
    assert review("SubjectAccessReview", pods | {"user": "ann"})["allowed"] is True
    assert review("SubjectAccessReview", pods | {"groups": ["system:masters"]})["allowed"] is True
    local = review("LocalSubjectAccessReview", pods | {"user": "ann"}, place="namespaces/default/")
    assert local["allowed"] is True
    rules = review("SelfSubjectRulesReview", {"namespace": "default"}, "ann")
    assert {"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods", "pods/log"]} in rules[
        "resourceRules"
    ]
    assert rules["incomplete"] is False
    refused = hub.ask(
        "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": pods | {"user": "x"}}, user="ann"
    )
    assert refused[0] == 403
    for wrong in ({}, {"spec": {}}, {"spec": pods | path}, {"spec": pods, "kind": "Pod"}):
        assert hub.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", wrong)[0] in (400, 422), wrong
    assert hub.ask("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")[0] == 405


# ---------------------------------------------------------------- the audit log


def test_each_request_is_one_event_that_says_who_what_and_whether(hub: Hub) -> None:
    hub.ask("GET", f"{PODS}?limit=5", user="ann")
    hub.ask("DELETE", f"{PODS}/p", user="ann")
    hub.client.raw("GET", PODS, token="wrong")
    hub.client.raw("GET", "/healthz", token="")
    listed, deleted, unknown = hub.told.events
    assert (listed["verb"], listed["responseStatus"]["code"], listed["requestURI"]) == ("list", 200, f"{PODS}?limit=5")
    assert (listed["user"]["username"], listed["impersonatedUser"]["username"]) == ("root", "ann")
    assert listed["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert deleted["objectRef"] == {"resource": "pods", "namespace": "default", "name": "p", "apiVersion": "v1"}
    assert deleted["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert (deleted["responseStatus"]["code"], deleted["stage"]) == (403, "ResponseComplete")
    assert (unknown["user"], unknown["responseStatus"]["code"]) == ({}, 401)
    assert len({e["auditID"] for e in hub.told.events}) == 3


def test_bodies_tokens_and_secret_values_are_in_no_event(hub: Hub) -> None:
    word = "a-word-nobody-may-read"
    place = "/api/v1/namespaces/default/secrets"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": word}}
    hub.ask("POST", place, secret)
    hub.ask("GET", f"{place}/s")
    hub.ask("PUT", f"{place}/s", secret)
    hub.ask("POST", place, {"kind": "Secret", "data": {"a": word}})  # not base64: refused
    hub.ask("GET", f"{place}?token={word}&labelSelector=a")
    made = hub.ask("POST", "/auth/v1/tokens", {"user": "ann"})[1]["token"]
    hub.client.raw("GET", place, token=word)
    text = json.dumps(hub.told.events)
    for hidden in (word, made, TOKEN):
        assert hidden not in text
    assert hub.told.events[0]["objectRef"]["name"] == "s"


def test_a_watch_is_told_of_when_it_begins_and_when_it_ends(hub: Hub) -> None:
    async def scenario() -> None:
        watch = OpenWatch(hub.app, PODS, "watch=true&timeoutSeconds=1")
        await watch.run()
        assert watch.status == 200

    asyncio.run(scenario())
    assert [(e["verb"], e["stage"], e["responseStatus"]["code"]) for e in hub.told.events] == [
        ("watch", "ResponseStarted", 200),
        ("watch", "ResponseComplete", 200),
    ]


@pytest.mark.parametrize(
    ("uri", "written"),
    [
        ("/x?token=abc&a=b", "/x?token=***&a=b"),
        ("/x?a=b&access_token=abc", "/x?a=b&access_token=***"),
        ("/x?X-Signature=abc", "/x?X-Signature=***"),
        ("/x?PASSWORD=a&secretKey=b", "/x?PASSWORD=***&secretKey=***"),
        ("/api/v1/secrets/s?watch=true", "/api/v1/secrets/s?watch=true"),
        ("/x?command=sh&command=-c", "/x?command=sh&command=-c"),
    ],
)
def test_parameters_that_sound_secret_are_not_written_down(uri: str, written: str) -> None:
    assert without_secrets(uri) == written


def an_entry(n: int = 0) -> Entry:
    uri = f"/api/v1/pods?n={n}&{urllib.parse.quote('x' * 5000)}"
    return Entry(f"id-{n}", 1e9, "GET", uri, "127.0.0.1", "agent" * 1000, Request("list", resource="pods"), User("ann"))


def test_the_log_is_bounded_and_its_lines_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "audit" / "audit.log"
    log = AuditLog(file, 20_000, 3)
    for n in range(300):
        log.tell(an_entry(n), "ResponseComplete")
    log.close()
    files = sorted(p.name for p in file.parent.iterdir())
    assert files == ["audit.log", "audit.log.1", "audit.log.2"]
    for part in file.parent.iterdir():
        assert part.stat().st_mode & 0o777 == 0o600
        assert part.stat().st_size <= 20_000
        events = [json.loads(line) for line in part.read_text().splitlines()]
        assert events
        assert all(len(e["requestURI"]) <= 2048 for e in events)
    assert json.loads(file.read_text().splitlines()[-1])["auditID"] == "id-299"
    assert log.lost == 0


def test_a_log_that_can_t_be_written_counts_what_is_lost_and_goes_on_when_it_can(tmp_path: Path) -> None:
    blocked = tmp_path / "audit"
    blocked.write_text("a file where the folder should be")
    log = AuditLog(blocked / "audit.log", 10_000, 2)
    log.tell(an_entry(1), "ResponseComplete")
    while log.lost == 0:
        os.sched_yield()
    blocked.unlink()
    log.tell(an_entry(2), "ResponseComplete")
    log.close()
    assert log.lost == 1
    assert json.loads((blocked / "audit.log").read_text())["auditID"] == "id-2"


FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
from cloudlink.hub.auth.audit import AuditLog
from tests.unit.test_auth_gate import an_entry
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
log = AuditLog(Path(sys.argv[1]), 1 << 20, 2)
for n in range(10):
    log.tell(an_entry(n), "ResponseComplete")
    while not Path(sys.argv[1]).exists():
        os.sched_yield()
log.close()
print(log.lost)
"""


def test_a_disk_without_room_leaves_no_half_line(tmp_path: Path) -> None:
    """A limit on a file's size stands for the full disk: a write beyond it is cut short, then refused."""
    file = tmp_path / "audit.log"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(file)], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
    assert "the hub goes on" in done.stderr
    lines = file.read_text().splitlines()
    assert lines
    assert [json.loads(line)["kind"] for line in lines] == ["Event"] * len(lines)


def test_nothing_waits_for_the_disk_and_what_waits_is_bounded(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", 1 << 30, 2)
    log.close()  # the thread has gone: nobody takes anything from the queue
    for _ in range(WAITING):
        log._waiting.put_nowait(b"")
    for n in range(10):
        log.tell(an_entry(n), "ResponseComplete")
    assert log._overrun == 10
