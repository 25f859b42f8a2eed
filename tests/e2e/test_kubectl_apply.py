"""Server-side apply and every kind of patch by kubectl, the oldest and the newest that we promise, against the API.

`EDGED_TRANSCRIPTS=<folder>` keeps what was typed and what came back.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.hub_server import HubServer
from tests.kubectl_lab import NEWEST, OLDEST, Kubectl, versions

pytestmark = pytest.mark.kubectl

ROOMS = (f"room-{n}" for n in itertools.count())

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: demo:1
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
        ports: [{containerPort: 80}]
        resources: {requests: {memory: 32Mi}, limits: {memory: 64Mi}}
"""
SIDE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      containers:
      - name: side
        image: side:1
"""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as it:
        yield it


@pytest.fixture(params=[v for v in (OLDEST, NEWEST) if v in versions()] or sorted(versions()) or ["none"])
def kubectl(hub: HubServer, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    version, room = str(request.param), next(ROOMS)
    it = Kubectl(versions()[version], hub.kubeconfig, room, f"{request.function.__name__}-{version}")
    it.ok("create", "namespace", room)
    yield it
    it.ok("delete", "namespace", room, "--wait=false")


def owners(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    entries = document["metadata"].get("managedFields", [])
    return [(e["manager"], e["operation"], e.get("subresource", "")) for e in entries]


def web(kubectl: Kubectl) -> dict[str, Any]:
    found: dict[str, Any] = kubectl.json("get", "deployment", "web", "--show-managed-fields")
    return found


def container(kubectl: Kubectl, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = web(kubectl)["spec"]["template"]["spec"]["containers"][number]
    return found


def test_two_managers_apply_their_parts_of_one_object(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=WEB)
    kubectl.ok("apply", "--server-side", "--field-manager=mesh", "-f", "-", stdin=SIDE)
    assert [c["name"] for c in web(kubectl)["spec"]["template"]["spec"]["containers"]] == ["main", "side"]
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=WEB.replace("demo:1", "demo:2"))
    assert (container(kubectl)["image"], container(kubectl, 1)["image"]) == ("demo:2", "side:1")
    lean = WEB.replace(', {name: B, value: "2"}', "").replace("        ports: [{containerPort: 80}]\n", "")
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=lean)
    assert container(kubectl)["env"] == [{"name": "A", "value": "1"}]
    assert "ports" not in container(kubectl)
    assert sorted(owners(web(kubectl))) == [("kubectl", "Apply", ""), ("mesh", "Apply", "")]


def test_a_conflict_names_field_and_owner_and_can_be_forced(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=WEB)
    kubectl.ok("set", "image", "deployment/web", "main=demo:7")
    kubectl.ok("scale", "deployment/web", "--replicas=5")
    told = kubectl.refused("apply", "--server-side", "-f", "-", stdin=WEB)
    assert "error: Apply failed with 2 conflicts:" in told
    assert 'conflicts with "kubectl-set" using apps/v1:\n- .spec.template.spec.containers[name="main"].image' in told
    assert 'with subresource "scale" using apps/v1:\n- .spec.replicas' in told
    assert "--force-conflicts" in told
    assert web(kubectl)["spec"]["replicas"] == 5
    kubectl.ok("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=WEB)
    assert (web(kubectl)["spec"]["replicas"], container(kubectl)["image"]) == (2, "demo:1")
    assert owners(web(kubectl)) == [("kubectl", "Apply", "")]
    kubectl.ok("scale", "deployment/web", "--replicas=5")
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=WEB.replace("  replicas: 2\n", ""))
    assert web(kubectl)["spec"]["replicas"] == 5  # left to whoever scales


def test_kubectl_changes_from_client_side_to_server_side_apply_and_back(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "-f", "-", stdin=WEB)
    assert owners(web(kubectl)) == [("kubectl-client-side-apply", "Update", "")]
    assert '"demo:1"' in kubectl.ok("apply", "view-last-applied", "deployment/web", "-o", "json")
    other = WEB.replace("demo:1", "demo:2").replace(', {name: B, value: "2"}', "")
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=other)
    assert container(kubectl)["env"] == [{"name": "A", "value": "1"}]  # B was kubectl's own, and is gone
    assert "kubectl-client-side-apply" not in [manager for manager, *_ in owners(web(kubectl))]
    assert '"demo:2"' in web(kubectl)["metadata"]["annotations"][LAST_APPLIED]
    kubectl.ok("apply", "-f", "-", stdin=WEB.replace("demo:1", "demo:3"))
    assert (container(kubectl)["image"], len(container(kubectl)["env"])) == ("demo:3", 2)
    assert "unchanged" in kubectl.ok("apply", "-f", "-", stdin=WEB.replace("demo:1", "demo:3"))


def test_last_applied_can_be_shown_edited_and_set(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl.ok("apply", "-f", "-", stdin=WEB)
    editor = script(tmp_path, "sed -i 's/replicas: 2$/replicas: 3/' $1")
    assert "edited" in kubectl.ok("apply", "edit-last-applied", "deployment/web", env={"KUBE_EDITOR": editor})
    assert "replicas: 3" in kubectl.ok("apply", "view-last-applied", "deployment/web")
    file = tmp_path / "web.yaml"
    file.write_text(WEB)
    kubectl.ok("apply", "set-last-applied", "-f", str(file))
    assert "replicas: 2" in kubectl.ok("apply", "view-last-applied", "deployment/web")


def script(folder: Path, text: str) -> str:
    file = folder / "editor"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.skipif(shutil.which("diff") is None, reason="kubectl diff needs diff")
def test_diff_says_by_its_exit_code_what_an_apply_would_do(kubectl: Kubectl) -> None:
    for side in ("--server-side=true", "--server-side=false"):
        code, _ = kubectl.run("diff", side, "-f", "-", stdin=WEB)
        assert code == 1
        kubectl.ok("apply", side, "-f", "-", stdin=WEB)
        assert kubectl.ok("diff", side, "-f", "-", stdin=WEB) == ""
        told = kubectl.refused("diff", side, "-f", "-", stdin=WEB.replace("demo:1", "demo:2"))
        assert ("-        image: demo:1" in told, "+        image: demo:2" in told) == (True, True)
        changed = [line for line in told.splitlines() if line[:1] in "+-" and "resourceVersion" in line]
        assert not changed
        assert kubectl.run("diff", side, "-f", "-", stdin=WEB.replace("replicas: 2", "replicas: -2"))[0] > 1
        kubectl.ok("delete", "deployment", "web")


def test_a_server_side_dry_run_changes_nothing(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=WEB)
    before = web(kubectl)
    changed = WEB.replace("replicas: 2", "replicas: 9")
    for words in (
        ("apply", "--server-side", "--dry-run=server", "-f", "-"),
        ("apply", "--dry-run=server", "-f", "-"),
        ("replace", "--dry-run=server", "-f", "-"),
    ):
        assert "(server dry run)" in kubectl.ok(*words, stdin=changed)
    kubectl.ok("patch", "deployment", "web", "--dry-run=server", "-p", '{"spec":{"replicas":9}}')
    kubectl.ok("scale", "deployment/web", "--replicas=9", "--dry-run=server")
    kubectl.ok("label", "deployment/web", "x=y", "--dry-run=server")
    kubectl.ok("set", "image", "deployment/web", "main=demo:9", "--dry-run=server")
    kubectl.ok("delete", "deployment", "web", "--dry-run=server")
    kubectl.ok("create", "configmap", "none", "--from-literal=a=b", "--dry-run=server")
    assert web(kubectl) == before
    assert "NotFound" in kubectl.refused("get", "configmap", "none")


def test_every_kind_of_patch_does_what_it_says(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "-f", "-", stdin=WEB)

    def patch(kind: str, document: object) -> str:
        return kubectl.ok("patch", "deployment", "web", f"--type={kind}", "-p", json.dumps(document))

    def of_containers(*containers: object, **order: object) -> object:
        return {"spec": {"template": {"spec": {"containers": list(containers), **order}}}}

    patch("strategic", of_containers({"name": "main", "env": [{"name": "B", "value": "3"}]}))
    assert container(kubectl)["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}]
    patch("strategic", of_containers({"name": "main", "env": [{"$patch": "delete", "name": "A"}]}))
    assert container(kubectl)["env"] == [{"name": "B", "value": "3"}]
    patch("strategic", of_containers({"name": "side", "image": "side:1"}))
    order = {"$setElementOrder/containers": [{"name": "side"}, {"name": "main"}]}
    patch("strategic", of_containers(**order))
    assert container(kubectl)["name"] == "side"
    patch("strategic", {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}})
    assert web(kubectl)["spec"]["strategy"] == {"type": "Recreate"}
    patch("merge", of_containers({"name": "main", "image": "only:1"}))  # a list is replaced
    assert len(web(kubectl)["spec"]["template"]["spec"]["containers"]) == 1
    image = "/spec/template/spec/containers/0/image"
    patch("json", [{"op": "test", "path": image, "value": "only:1"}, {"op": "replace", "path": image, "value": "x:1"}])
    assert container(kubectl)["image"] == "x:1"
    assert "no change" in patch("json", [{"op": "replace", "path": image, "value": "x:1"}])
    told = kubectl.refused(
        "patch", "deployment", "web", "--type=json", "-p", '[{"op":"test","path":"/spec/replicas","value":7}]'
    )
    assert "test failed" in told
    told = kubectl.refused("patch", "deployment", "web", "-p", '{"spec":{"replicas":"many"}}')
    assert "spec.replicas" in told
    kubectl.ok("patch", "deployment", "web", "--subresource=scale", "--type=merge", "-p", '{"spec":{"replicas":6}}')
    kubectl.ok("patch", "deployment", "web", "--subresource=status", "--type=merge", "-p", '{"status":{"replicas":4}}')
    assert (web(kubectl)["spec"]["replicas"], web(kubectl)["status"]) == (6, {"replicas": 4})


def test_set_label_annotate_edit_and_replace_leave_their_names(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl.ok("create", "-f", "-", stdin=WEB)
    kubectl.ok("set", "env", "deployment/web", "C=3")
    kubectl.ok("set", "resources", "deployment/web", "--limits=memory=96Mi")
    kubectl.ok("label", "deployment/web", "tier=front")
    assert "--overwrite" in kubectl.refused("label", "deployment/web", "tier=back")
    kubectl.ok("label", "--overwrite", "deployment/web", "tier=back")
    kubectl.ok("annotate", "deployment/web", "note=x")
    kubectl.ok("annotate", "--overwrite", "deployment/web", "note=y")
    editor = script(tmp_path, "sed -i 's/replicas: 2$/replicas: 4/' $1")
    assert "edited" in kubectl.ok("edit", "deployment/web", env={"KUBE_EDITOR": editor})
    document = web(kubectl)
    assert {manager for manager, *_ in owners(document)} == {
        *("kubectl-create", "kubectl-set", "kubectl-label", "kubectl-annotate", "kubectl-edit")
    }
    assert document["metadata"]["labels"] == {"app": "web", "tier": "back"}
    assert (document["metadata"]["annotations"], document["spec"]["replicas"]) == ({"note": "y"}, 4)
    assert container(kubectl)["resources"]["limits"] == {"memory": "96Mi"}
    uid = document["metadata"]["uid"]
    kubectl.ok("replace", "-f", "-", stdin=WEB)
    assert (web(kubectl)["metadata"]["uid"], web(kubectl)["spec"]["replicas"]) == (uid, 2)
    kubectl.ok("replace", "--force", "-f", "-", stdin=WEB)
    assert web(kubectl)["metadata"]["uid"] != uid
    assert "NotFound" in kubectl.refused("replace", "-f", "-", stdin=WEB.replace("name: web,", "name: none,"))
