"""Who may do what at a whole hub, over TLS: people by token and by certificate, service accounts, nodes; with kubectl
of several versions and with the Python client; and what the audit log says of it all."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml

from cloudlink import certs
from cloudlink.cli.leftovers import processes
from tests.e2e.test_hub_brain_process import HubProcess
from tests.kubectl_lab import Kubectl, versions

pytestmark = pytest.mark.kubectl

PROGRAMS = versions() or {"none": "kubectl"}
ENDS = sorted({min(PROGRAMS, key=lambda v: v.split(".")), max(PROGRAMS, key=lambda v: v.split("."))})


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("access")
    made = HubProcess(folder)
    try:
        made.start()
        yield made
    finally:
        made.close()
    assert processes(folder) == {}


def kubectl(hub: HubProcess, kubeconfig: Path, version: str, namespace: str) -> Kubectl:
    return Kubectl(PROGRAMS[version], kubeconfig, namespace)


def a_user(hub: HubProcess, name: str, *words: str) -> Path:
    """A kubeconfig for somebody new."""
    file = hub.folder / f"{name}.kubeconfig"
    done = hub.call("user", "create", name, "--output", str(file), *words)
    assert done.returncode == 0, done.stderr
    return file


def audit(hub: HubProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (hub.folder / "hub" / "audit" / "audit.log").read_text().splitlines()]


def get(hub: HubProcess, path: str, token: str = "", certificate: tuple[bytes, bytes] | None = None) -> tuple[int, Any]:
    """One GET over TLS, with whatever is shown."""
    context = ssl.create_default_context(cafile=str(hub.folder / "hub" / "ca" / "ca.pem"))
    if certificate is not None:
        files = hub.folder / "shown.pem"
        files.write_bytes(certificate[0] + certificate[1])
        context.load_cert_chain(files)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"https://127.0.0.1:{hub.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.loads(e.read())


@pytest.mark.parametrize("version", ENDS)
@pytest.mark.parametrize("how", ["token", "certificate"])
def test_a_user_may_do_what_a_binding_says_and_nothing_else(hub: HubProcess, version: str, how: str) -> None:
    room = f"room-{how}-{version.replace('.', '-')}"
    name = f"ann-{how}-{version}"
    admin = kubectl(hub, hub.kubeconfig, version, room)
    ann = kubectl(
        hub, a_user(hub, name, "--group", "team", *(["--certificate"] if how == "certificate" else [])), version, room
    )
    assert name in ann.ok("auth", "whoami")
    assert 'cannot list resource "pods"' in ann.refused("get", "pods")
    admin.ok("create", "namespace", room)
    admin.ok("create", "role", "reader", "--verb=get,list,watch", "--resource=pods,configmaps")
    admin.ok("create", "rolebinding", "readers", "--role=reader", "--group=team")
    assert "No resources found" in ann.ok("get", "pods")
    assert ann.ok("auth", "can-i", "list", "pods").strip() == "yes"
    assert ann.refused("auth", "can-i", "delete", "pods").strip().startswith("no")
    assert "configmaps" in ann.ok("auth", "can-i", "--list")
    told = ann.refused("create", "configmap", "c", "--from-literal=a=b")
    assert f'User "{name}" cannot create resource "configmaps" in API group "" in the namespace "{room}"' in told
    assert "forbidden" in ann.refused("get", "pods", "-n", "default")
    assert "forbidden" in ann.refused("get", "nodes")
    assert "cannot impersonate" in ann.refused("get", "pods", "--as", "admin")
    assert "yes" in admin.ok("auth", "can-i", "list", "pods", "--as", name, "--as-group", "team")


@pytest.mark.parametrize("version", ENDS)
def test_roles_and_accounts_are_made_with_kubectl_and_nobody_gives_away_more_than_they_have(
    hub: HubProcess, version: str
) -> None:
    room = f"team-{version.replace('.', '-')}"
    admin = kubectl(hub, hub.kubeconfig, version, room)
    admin.ok("create", "namespace", room)
    bob = kubectl(hub, a_user(hub, f"bob-{version}"), version, room)
    admin.ok("create", "rolebinding", "bob", "--clusterrole=admin", f"--user=bob-{version}")
    bob.ok("create", "serviceaccount", "robot")
    bob.ok("create", "role", "r", "--verb=get", "--resource=pods")
    bob.ok("create", "rolebinding", "r", "--role=r", f"--serviceaccount={room}:robot")
    bob.ok("create", "rolebinding", "e", "--clusterrole=edit", f"--serviceaccount={room}:robot")
    told = bob.refused("create", "rolebinding", "x", "--clusterrole=cluster-admin", f"--user=bob-{version}")
    assert "attempting to grant RBAC permissions not currently held" in told
    told = bob.refused("create", "role", "x", "--verb=list", "--resource=nodes")
    assert '{APIGroups:[""], Resources:["nodes"], Verbs:["list"]}' in told
    manifest = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "r", "namespace": room},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}],
    }
    assert "reconciled" in bob.ok("auth", "reconcile", "-f", "-", stdin=manifest)
    assert {r["resources"][0] for r in bob.json("get", "role", "r")["rules"]} == {"pods", "configmaps"}
    changed = {"roleRef": {"name": "other"}}
    assert "cannot change roleRef" in bob.refused(
        "patch", "rolebinding", "r", "--type=merge", "-p", json.dumps(changed)
    )
    table = bob.ok("get", "rolebinding", "r", "-o", "wide")
    assert "ROLE" in table
    assert "Role/r" in table
    assert f"{room}/robot" in table
    assert "default" in bob.ok("get", "serviceaccounts")  # made with the namespace
    for kind in ("role/r", "rolebinding/r", "serviceaccount/robot"):
        assert "Name:" in bob.ok("describe", kind)


@pytest.mark.parametrize("version", ENDS)
def test_a_service_account_acts_by_its_token_until_it_is_gone(hub: HubProcess, version: str) -> None:
    room = f"robots-{version.replace('.', '-')}"
    admin = kubectl(hub, hub.kubeconfig, version, room)
    admin.ok("create", "namespace", room)
    admin.ok("create", "serviceaccount", "robot")
    admin.ok("create", "rolebinding", "robot", "--clusterrole=edit", f"--serviceaccount={room}:robot")
    token = admin.ok("create", "token", "robot", "--duration=10m").strip()
    config = yaml.safe_load(hub.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    file = hub.folder / f"robot-{version}.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    robot = kubectl(hub, file, version, room)
    assert f"system:serviceaccount:{room}:robot" in robot.ok("auth", "whoami")
    robot.ok("create", "configmap", "c", "--from-literal=a=b")
    robot.ok("create", "secret", "generic", "s", "--from-literal=password=a-very-secret-word")
    assert "forbidden" in robot.refused("get", "configmaps", "-n", "default")
    other = admin.ok("create", "token", "robot", "--audience=somebody-else").strip()
    assert get(hub, "/api", other)[0] == 401
    admin.ok("delete", "serviceaccount", "robot")
    admin.ok("create", "serviceaccount", "robot")  # of the same name, but somebody else
    code, told = get(hub, "/api", token)
    assert code == 401
    assert "is gone" in told["message"]


def test_tokens_are_listed_and_revoked_and_end(hub: HubProcess) -> None:
    token = hub.call("user", "create", "carol", "--token", "--group", "team").stdout.strip()
    assert get(hub, "/api", token)[0] == 200
    rows = [line.split() for line in hub.call("user", "list").stdout.splitlines()]
    [row] = [r for r in rows if r[1] == "carol"]
    assert token not in str(rows)
    assert hub.call("user", "revoke", row[0]).stdout == f"revoked {row[0]}\n"
    code, told = get(hub, "/api", token)
    assert (code, "was revoked" in told["message"]) == (401, True)
    assert "no token" in hub.call("user", "revoke", "--user", "carol").stderr
    for wrong in (["system:node:pi"], ["eve", "--group", "system:nodes"], ["eve", "--certificate", "--ttl", "0"]):
        assert hub.call("user", "create", *wrong).returncode == 1


def test_nothing_is_answered_to_who_shows_nothing_or_something_wrong(hub: HubProcess) -> None:
    for path in ("/", "/api", "/version", "/openapi/v3", "/enroll/v1/tokens", "/auth/v1/tokens"):
        assert get(hub, path)[0] == 401, path
    assert get(hub, "/api", "edged-0123456789-guess")[0] == 401
    foreign = certs.Authority(certs.make_authority("lab")).issue_client("admin")  # of the same name as ours
    with pytest.raises((OSError, http.client.HTTPException)):  # the TLS library hangs up
        get(hub, "/api", certificate=(foreign.certificate, foreign.key))


def test_a_node_s_certificate_is_a_node_and_may_next_to_nothing(hub: HubProcess) -> None:
    fleet = certs.load_or_create_authority(hub.folder / "hub" / "ca", "lab")
    pair = fleet.issue_client("pi-1")
    code, told = get(hub, "/api/v1/secrets", certificate=(pair.certificate, pair.key))
    assert code == 403
    assert 'User "system:node:pi-1" cannot list resource "secrets"' in told["message"]
    hub_s_own = fleet.issue_client(certs.HUB_USER)
    assert get(hub, "/api", certificate=(hub_s_own.certificate, hub_s_own.key))[0] == 401


def test_an_expired_certificate_is_told_so(hub: HubProcess) -> None:
    users = certs.load_or_create_authority(hub.folder / "hub" / "users-ca", "lab, users")
    key = certs.make_key()
    begin, end = certs.ALWAYS_FROM, certs.ALWAYS_FROM.replace(year=2001)
    certificate = users.sign_user(certs.make_csr(key, "old"), "old", [], begin, end)
    code, told = get(hub, "/api", certificate=(certificate, key))
    assert (code, "has expired at 2001-01-01" in told["message"]) == (401, True)


def test_the_python_client_works_with_a_token_and_is_told_what_it_may_not(hub: HubProcess) -> None:
    file = a_user(hub, "snake")
    client = kubernetes.config.new_client_from_config(str(file))
    core = kubernetes.client.CoreV1Api(client)
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.list_namespaced_config_map("default")
    assert caught.value.status == 403
    root = kubernetes.config.new_client_from_config(str(hub.kubeconfig))
    rbac = kubernetes.client.RbacAuthorizationV1Api(root)
    body = {
        "metadata": {"name": "snake"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "name": "snake", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    rbac.create_namespaced_role_binding("default", body)
    core.create_namespaced_config_map("default", {"metadata": {"name": "snake"}, "data": {"a": "b"}})
    assert [m.metadata.name for m in core.list_namespaced_config_map("default").items] == ["snake"]
    accounts = kubernetes.client.CoreV1Api(root)
    made = accounts.create_namespaced_service_account_token("default", "default", {"spec": {"audiences": []}})
    review = kubernetes.client.AuthenticationV1Api(root).create_token_review({"spec": {"token": made.status.token}})
    assert review.status.user.username == "system:serviceaccount:default:default"
    review = kubernetes.client.AuthorizationV1Api(client).create_self_subject_access_review(
        {"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}}
    )
    assert review.status.allowed is False


def test_the_audit_log_says_who_did_what_and_knows_no_secret(hub: HubProcess) -> None:
    word = "a-word-that-nobody-may-read"
    encoded = base64.b64encode(word.encode()).decode()
    version = ENDS[-1]
    admin = kubectl(hub, hub.kubeconfig, version, "default")
    admin.ok("create", "secret", "generic", "quiet", f"--from-literal=password={word}")
    admin.ok("get", "secret", "quiet", "-o", "yaml")
    admin.ok("patch", "secret", "quiet", "-p", json.dumps({"stringData": {"more": word}}))
    admin.ok("get", "secret", "quiet", "--as", "dave", "--as-group", "system:masters")
    admin.refused("get", "secret", "quiet", "--as", "dave")
    admin.ok("delete", "secret", "quiet")
    token = yaml.safe_load(hub.kubeconfig.read_text())["users"][0]["user"]["token"]
    get(hub, f"/api/v1/pods?token={token}", token)

    def events() -> list[dict[str, Any]]:
        return [e for e in audit(hub) if e.get("objectRef", {}).get("name") == "quiet"]

    hub.wait(lambda: any(e["verb"] == "delete" for e in events()))
    hub.wait(lambda: any(e["requestURI"] == "/api/v1/pods?token=***" for e in audit(hub)))
    text = (hub.folder / "hub" / "audit" / "audit.log").read_text()
    for secret in (word, encoded, token, "a-very-secret-word"):
        assert secret not in text
    first = next(e for e in events() if e["verb"] == "create")
    assert first["user"]["username"] == "admin"
    assert first["responseStatus"]["code"] == 201
    assert first["sourceIPs"] == ["127.0.0.1"]
    assert first["userAgent"].startswith("kubectl")
    assert first["objectRef"] == {"resource": "secrets", "namespace": "default", "name": "quiet", "apiVersion": "v1"}
    assert {"create", "get", "patch", "delete"} <= {e["verb"] for e in events()}
    allowed, forbidden = (
        next(e for e in events() if "impersonatedUser" in e and e["responseStatus"]["code"] == code)
        for code in (200, 403)
    )
    assert allowed["impersonatedUser"]["username"] == "dave"
    assert forbidden["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert allowed["stage"] == "ResponseComplete"
