"""What a person does with kubectl all day, with every version of it, against a hub, a broker and a node with crun.

`EDGED_TRANSCRIPTS=<folder>` keeps what was typed and what came back.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.cli.house import House, free_port
from tests.houses import a_house, deployment
from tests.kubectl_lab import Kubectl, versions

pytestmark = [pytest.mark.root, pytest.mark.kubectl]

ROOMS = (f"room-{n}" for n in itertools.count())
TALK = "echo hello from $HOSTNAME; echo complaint >&2; trap 'exit 0' TERM; while :; do sleep 0.2; done"


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


@pytest.fixture(params=sorted(versions()) or ["none"])
def kubectl(house: House, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """One version, in a namespace of its own."""
    version, room = str(request.param), next(ROOMS)
    it = Kubectl(versions()[version], house.kubeconfig, room, f"{request.function.__name__}-{version}")
    it.ok("version")
    it.ok("create", "namespace", room)
    yield it
    it.ok("delete", "namespace", room, "--wait=false")


def write(folder: Path, *documents: object) -> str:
    import yaml

    file = folder / "app.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    return str(file)


def web(replicas: int = 2, command: str = TALK) -> dict[str, object]:
    return deployment("web", replicas, command, ports=[{"containerPort": 80}])


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
}


def running(kubectl: Kubectl, tmp_path: Path, replicas: int = 1, command: str = TALK) -> str:
    """A Deployment `web` whose pods run; the first one's name."""
    kubectl.ok("apply", "-f", write(tmp_path, web(replicas, command)))
    kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    return str(kubectl.json("get", "pods", "-l", "app=web")["items"][0]["metadata"]["name"])


def test_apply_diff_get_and_describe_as_a_person_does_them(kubectl: Kubectl, tmp_path: Path) -> None:
    file = write(tmp_path, web(), SERVICE)
    assert kubectl.run("diff", "-f", file)[0] == 1  # there is a difference: everything
    assert "deployment.apps/web created" in kubectl.ok("apply", "-f", file)
    assert "deployment.apps/web unchanged" in kubectl.ok("apply", "-f", file)
    assert kubectl.ok("diff", "-f", file) == ""
    kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    assert "2/2" in kubectl.ok("get", "deployment", "web")
    assert "localhost/probe:latest" in kubectl.ok("get", "deployments", "-o", "wide")
    assert "IP" in kubectl.ok("get", "pods", "-o", "wide", "--sort-by=.metadata.name")
    assert "kind: Deployment" in kubectl.ok("get", "deployment", "web", "-o", "yaml")
    assert kubectl.ok("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}") == "2"
    columns = "custom-columns=NAME:.metadata.name,IMAGE:.spec.template.spec.containers[*].image"
    assert "localhost/probe" in kubectl.ok("get", "deployment", "-o", columns)
    assert kubectl.ok("get", "pods", "-l", "app=web,pod-template-hash", "-o", "name").count("pod/web-") == 2
    assert "web-" in kubectl.ok("get", "pods", "--field-selector", "status.phase=Running")
    assert "No resources found" in kubectl.ok("get", "pods", "-l", "app notin (web)")
    assert "service/web" in kubectl.ok("get", "all")
    assert "ScalingReplicaSet" in kubectl.ok("describe", "deployment", "web")
    assert "Scheduled" in kubectl.ok("describe", "pods", "-l", "app=web")
    assert re.search(r"Endpoints: +10\.[0-9.]+:80", kubectl.ok("describe", "service", "web"))
    assert "Allocated resources" in kubectl.ok("describe", "nodes")
    assert "web" in kubectl.ok("get", "endpoints,endpointslices")
    kubectl.ok("delete", "-f", file, "--wait=false")


def test_edit_patch_replace_set_label_annotate_and_scale_change_what_they_say(kubectl: Kubectl, tmp_path: Path) -> None:
    running(kubectl, tmp_path)

    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/replicas: 1$/replicas: 2/' $1\n")
    editor.chmod(0o755)
    assert "edited" in kubectl.ok("edit", "deployment", "web", env={"KUBE_EDITOR": str(editor)})
    assert kubectl.json("get", "deployment", "web")["spec"]["replicas"] == 2
    kubectl.ok("patch", "deployment", "web", "-p", '{"spec":{"replicas":1}}')
    kubectl.ok("patch", "deployment", "web", "--type=merge", "-p", '{"metadata":{"labels":{"tier":"front"}}}')
    kubectl.ok("patch", "deployment", "web", "--type=json", "-p", '[{"op":"remove","path":"/metadata/labels/tier"}]')
    kubectl.ok("scale", "deployment", "web", "--replicas=3")
    kubectl.refused("scale", "deployment", "web", "--current-replicas=7", "--replicas=1")
    kubectl.ok("scale", "deployment", "web", "--replicas=1")
    kubectl.ok("set", "env", "deployment/web", "COLOUR=green")
    kubectl.ok("set", "resources", "deployment/web", "--limits=memory=24Mi", "--requests=memory=6Mi")
    kubectl.ok("set", "image", "deployment/web", "main=localhost/probe:1")
    found = kubectl.json("get", "deployment", "web")["spec"]["template"]["spec"]["containers"][0]
    assert (found["image"], found["env"], found["resources"]["limits"]["memory"]) == (
        "localhost/probe:1",
        [{"name": "COLOUR", "value": "green"}],
        "24Mi",
    )
    kubectl.ok("label", "deployment", "web", "tier=back")
    kubectl.refused("label", "deployment", "web", "tier=front")
    kubectl.ok("label", "deployment", "web", "tier=front", "--overwrite")
    kubectl.ok("annotate", "deployment", "web", "owner=me")
    kubectl.ok("annotate", "deployment", "web", "owner-")
    assert "owner" not in kubectl.json("get", "deployment", "web")["metadata"].get("annotations", {})
    manifest = kubectl.json("get", "deployment", "web")
    manifest["spec"]["replicas"] = 0
    assert "replaced" in kubectl.ok("replace", "-f", "-", stdin=manifest)
    manifest["metadata"] = {"name": "web", "labels": {"app": "web"}}
    assert "replaced" in kubectl.ok("replace", "--force", "-f", "-", stdin=manifest)
    said = kubectl.refused("autoscale", "deployment", "web", "--max=5")
    assert "autoscal" in said
    kubectl.ok("delete", "deployment", "web")


def test_a_rollout_is_watched_paused_resumed_restarted_and_undone(kubectl: Kubectl, tmp_path: Path) -> None:
    running(kubectl, tmp_path)
    kubectl.ok("rollout", "pause", "deployment/web")
    kubectl.ok("set", "env", "deployment/web", "COLOUR=green")
    assert len(kubectl.json("get", "replicasets")["items"]) == 1
    kubectl.ok("rollout", "resume", "deployment/web")
    kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    kubectl.ok("annotate", "deployment", "web", "kubernetes.io/change-cause=green")
    assert "green" in kubectl.ok("rollout", "history", "deployment/web")
    assert "COLOUR" in kubectl.ok("rollout", "history", "deployment/web", "--revision=2")
    kubectl.ok("rollout", "undo", "deployment/web")
    kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    template = kubectl.json("get", "deployment", "web")["spec"]["template"]
    assert "env" not in template["spec"]["containers"][0]
    kubectl.ok("rollout", "restart", "deployment/web")
    kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")
    template = kubectl.json("get", "deployment", "web")["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


def test_a_watch_shows_what_comes_and_goes_and_wait_ends_when_it_is_so(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl.ok("create", "configmap", "before", "--from-literal=a=b")
    watch = kubectl.start("get", "configmaps", "-w", "--output-watch-events")
    try:
        assert watch.stdout is not None
        assert "EVENT" in watch.stdout.readline()
        assert "before" in watch.stdout.readline()
        kubectl.ok("create", "configmap", "after", "--from-literal=a=b")
        assert "ADDED" in watch.stdout.readline()
        kubectl.ok("delete", "configmap", "after")
        assert "DELETED" in watch.stdout.readline()
    finally:
        watch.terminate()
        watch.wait()
    pod = running(kubectl, tmp_path)
    assert "condition met" in kubectl.ok("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s")
    kubectl.ok("wait", "--for=jsonpath={.status.phase}=Running", f"pod/{pod}", "--timeout=60s")
    kubectl.ok("delete", "deployment", "web", "--wait=false")
    kubectl.ok("wait", "--for=delete", f"pod/{pod}", "--timeout=60s")
    assert "timed out" in kubectl.refused("wait", "--for=delete", "configmap/before", "--timeout=1s")


def test_configs_secrets_jobs_and_accounts_are_created_from_the_command_line(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "colour").write_text("green")
    kubectl.ok("create", "configmap", "settings", f"--from-file={tmp_path / 'colour'}", "--from-literal=a=b")
    kubectl.ok("create", "secret", "generic", "login", "--from-literal=password=hunter2")
    assert "password:  7 bytes" in kubectl.ok("describe", "secret", "login")
    registry = ("--docker-server=r.example", "--docker-username=u", "--docker-password=p")
    kubectl.ok("create", "secret", "docker-registry", "pull", *registry)
    kubectl.ok("create", "job", "once", "--image=localhost/probe:latest", "--", "true")
    kubectl.ok("create", "cronjob", "often", "--image=localhost/probe:latest", "--schedule=*/5 * * * *", "--", "true")
    assert "*/5 * * * *" in kubectl.ok("get", "cronjobs")
    kubectl.ok("create", "job", "now", "--from=cronjob/often")
    assert "now" in kubectl.ok("get", "jobs")
    kubectl.ok("create", "serviceaccount", "robot")
    assert len(kubectl.ok("create", "token", "robot").split(".")) == 3
    kubectl.ok("create", "role", "reader", "--verb=get,list", "--resource=pods")
    kubectl.ok("create", "rolebinding", "robot-reads", "--role=reader", f"--serviceaccount={kubectl.namespace}:robot")
    who = f"--as=system:serviceaccount:{kubectl.namespace}:robot"
    assert kubectl.ok("auth", "can-i", "list", "pods", who).strip() == "yes"
    assert kubectl.refused("auth", "can-i", "delete", "pods", who).strip() == "no"
    assert "pods" in kubectl.ok("auth", "can-i", "--list", who)
    assert "forbidden" in kubectl.refused("delete", "pod", "x", who)


def test_the_api_tells_what_it_has_and_explains_it(kubectl: Kubectl) -> None:
    resources = kubectl.ok("api-resources")
    for word in ("pods", "statefulsets", "cronjobs", "networkpolicies", "customresourcedefinitions", "leases"):
        assert word in resources
    assert "apps/v1" in kubectl.ok("api-versions")
    assert "replicas" in kubectl.ok("explain", "deployment.spec")
    assert "livenessProbe" in kubectl.ok("explain", "pods.spec.containers")
    assert kubectl.ok("auth", "can-i", "create", "deployments").strip() == "yes"
    assert "client" in kubectl.ok("version").lower()
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dat": {"a": "b"}}
    assert "dat" in kubectl.refused("apply", "-f", "-", stdin=wrong)


def test_logs_are_read_followed_and_chosen(kubectl: Kubectl, tmp_path: Path) -> None:
    pod = running(kubectl, tmp_path, 2)
    assert "hello from" in kubectl.ok("logs", pod)
    assert "complaint" in kubectl.ok("logs", pod, "--tail=1")
    assert kubectl.ok("logs", "-l", "app=web", "--prefix").count("hello from") == 2
    assert "hello" in kubectl.ok("logs", "deployment/web", "--timestamps", "--since=1h")
    follow = kubectl.start("logs", "-f", pod)
    try:
        assert follow.stdout is not None
        assert "hello from" in follow.stdout.readline()
    finally:
        follow.terminate()
        follow.wait()
    kubectl.run("exec", pod, "--", "kill", "1")
    kubectl.until(
        "a restart", lambda: kubectl.json("get", "pod", pod)["status"]["containerStatuses"][0]["restartCount"] > 0
    )
    assert "hello from" in kubectl.ok("logs", pod, "--previous")
    assert "not found" in kubectl.refused("logs", "nobody")


def test_exec_cp_and_port_forward_reach_the_container(kubectl: Kubectl, tmp_path: Path) -> None:
    serve = "mkdir -p /srv; echo served > /srv/index.html; exec httpd -f -p 80 -h /srv"
    pod = running(kubectl, tmp_path, 1, serve)
    assert kubectl.ok("exec", pod, "--", "cat", "/srv/index.html") == "served\n"
    assert "exit code 3" in kubectl.refused("exec", pod, "--", "sh", "-c", "exit 3", code=3)
    assert kubectl.ok("exec", "-i", pod, "--", "wc", "-c", stdin="12345").strip() == "5"
    terminal = subprocess.run(
        [
            "script",
            "-qec",
            f"{kubectl.program} --kubeconfig {kubectl.kubeconfig} -n {kubectl.namespace} exec -it {pod} -- tty",
            "/dev/null",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    kubectl.transcript.append(terminal.stdout)
    assert "/dev/pts/" in terminal.stdout, terminal
    there = tmp_path / "there.bin"
    there.write_bytes(bytes(range(256)) * 4096)
    kubectl.ok("cp", str(there), f"{pod}:/srv/there.bin")
    back = tmp_path / "back.bin"
    kubectl.ok("cp", f"{pod}:/srv/there.bin", str(back))
    assert back.read_bytes() == there.read_bytes()
    port = free_port()
    forward = kubectl.start("port-forward", f"pod/{pod}", f"{port}:80")
    try:
        assert forward.stdout is not None
        assert "Forwarding from" in forward.stdout.readline()
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/there.bin", timeout=30) as answer:
                assert answer.read() == there.read_bytes()
    finally:
        forward.terminate()
        forward.wait()


def test_top_shows_what_the_node_and_its_pods_use(kubectl: Kubectl, tmp_path: Path) -> None:
    pod = running(kubectl, tmp_path)
    assert "Mi" in kubectl.ok("top", "nodes")
    assert pod in kubectl.ok("top", "pods")
    assert "main" in kubectl.ok("top", "pods", "--containers")


def test_a_node_is_cordoned_tainted_and_drained(kubectl: Kubectl, house: House, tmp_path: Path) -> None:
    node = house.names.node
    pod = running(kubectl, tmp_path)
    try:
        assert "cordoned" in kubectl.ok("cordon", node)
        assert "SchedulingDisabled" in kubectl.ok("get", "nodes")
        assert "evicted" in kubectl.ok("drain", node, "--timeout=60s", "--pod-selector=app=web", "--force")
        kubectl.until("the pod to go", lambda: pod not in kubectl.ok("get", "pods"))
        kubectl.until("a new pod to wait", lambda: "Pending" in kubectl.ok("get", "pods"))
        assert "cordoned" in kubectl.ok("describe", "pods", "-l", "app=web")
        kubectl.ok("taint", "nodes", node, "dedicated=cam:NoSchedule")
        assert "uncordoned" in kubectl.ok("uncordon", node)
        assert "dedicated=cam:NoSchedule" in kubectl.ok("describe", "node", node)
    finally:
        kubectl.run("uncordon", node)
        kubectl.run("taint", "nodes", node, "dedicated-")
    kubectl.ok("rollout", "status", "deployment/web", "--timeout=60s")


def test_bad_manifests_are_told_with_what_to_do(kubectl: Kubectl, tmp_path: Path) -> None:
    wrong = web()
    wrong["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Mb"}}  # type: ignore[index]
    wrong["spec"]["template"]["metadata"]["labels"] = {"app": "other"}  # type: ignore[index]
    said = kubectl.refused("apply", "-f", write(tmp_path, wrong))
    assert "64Mb" in said
    assert "no matches for kind" in kubectl.refused("apply", "-f", "-", stdin={**web(), "kind": "Deploiment"})
    assert "not found" in kubectl.refused("get", "pod", "nobody")
    assert "doesn't have a resource type" in kubectl.refused("get", "podz")


def test_what_was_started_here_is_ended_with_its_namespace(kubectl: Kubectl, tmp_path: Path) -> None:
    running(kubectl, tmp_path, 2)
    kubectl.ok("delete", "namespace", kubectl.namespace, "--timeout=60s")
    assert "not found" in kubectl.refused("get", "namespace", kubectl.namespace)
    kubectl.ok("create", "namespace", kubectl.namespace)


def test_a_command_that_waits_for_a_dead_port_says_so(kubectl: Kubectl, tmp_path: Path) -> None:
    pod, port = running(kubectl, tmp_path), free_port()
    forward = kubectl.start("port-forward", f"pod/{pod}", f"{port}:9")
    try:
        assert forward.stdout is not None
        assert "Forwarding from" in forward.stdout.readline()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as client:
            client.recv(1)
        end = time.monotonic() + 30
        said = ""
        while "refused" not in said and time.monotonic() < end:
            said += forward.stdout.readline()
        assert "refused" in said
    finally:
        forward.terminate()
        forward.wait()
