"""Real kubectl against the hub's API alone, over HTTPS: no controller, no node, only what the API itself promises."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.hub.store import Create, Delete, Store, Update, UpdateStatus
from cloudlink.kube.core import Pod
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import dump, parse
from tests.fakes.hub_objects import deployment, event, node, pod
from tests.fakes.hub_server import HubServer

pytestmark = pytest.mark.kubectl

WAIT = 30.0
NAMES = (f"room-{i}" for i in itertools.count())

MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {interval: "5"}
---
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
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
"""


def all_versions() -> list[str]:
    """The kubectl on PATH, and whichever others lie beside it (kubectl.1.27 and so on)."""
    found = shutil.which("kubectl")
    return [found, *map(str, sorted(Path(found).resolve().parent.glob("kubectl.1.*")))] if found else ["kubectl"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


class Room:
    """One namespace of the hub for one test, and kubectl in it."""

    def __init__(self, hub: HubServer, name: str, binary: str = "kubectl") -> None:
        self.hub, self.name, self.binary = hub, name, binary

    def run(self, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return self.hub.kubectl("-n", self.name, *arguments, stdin=stdin, binary=self.binary, env=env)

    def ok(self, *arguments: str, stdin: str = "", **env: str) -> str:
        done = self.run(*arguments, stdin=stdin, **env)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def refused(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "-o", "json"))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.binary, "-n", self.name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(self.hub.environment()),
        )

    def make(self, *objects: KubeObject) -> list[KubeObject]:
        return self.hub.do(lambda store: store.commit([Create(o) for o in objects]))

    def run_on_node(self, name: str, **status: Any) -> None:
        """What scheduler and node would do: bind a pod and report it running."""

        def deed(store: Store) -> None:
            there = store.get("Pod", self.name, name)
            assert isinstance(there, Pod)
            store.commit(
                [Update(there.model_copy(update={"spec": there.spec.model_copy(update={"node_name": "pi-1"})}))]
            )
            running = {
                "phase": "Running",
                "podIP": "10.88.0.7",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [
                    {"name": "main", "image": "demo:1", "ready": True, "restartCount": 0}
                    | {"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
                ],
            }
            store.commit([UpdateStatus(parse(dump(there) | {"status": running | status}))])

        self.hub.do(deed)


@pytest.fixture
def room(hub: HubServer) -> Room:
    return new_room(hub)


def new_room(hub: HubServer, binary: str = "kubectl") -> Room:
    name = next(NAMES)
    made = Room(hub, name, binary)
    made.ok("create", "namespace", name)
    return made


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Lines:
    """The output of a running kubectl, as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._seen: list[str] = []
        self._reader = threading.Thread(target=self._read, name="kubectl output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._seen.append(line)

    def wait_for(self, *words: str) -> None:
        def there() -> bool:
            return any(all(w in line for w in words) for line in self._seen)

        eventually(there, f"no line with {words} in {self._seen}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait(WAIT)
        self._reader.join(WAIT)
        assert self.process.stdout is not None
        self.process.stdout.close()


# ---------------------------------------------------------------- every version that is here


@pytest.mark.parametrize("binary", all_versions(), ids=lambda b: Path(b).name)
def test_each_version_applies_shows_changes_and_deletes(hub: HubServer, binary: str) -> None:
    room = new_room(hub, binary)
    made = room.ok("apply", "-f", "-", stdin=MANIFEST).splitlines()
    assert made == ["configmap/settings created", "deployment.apps/web created", "service/web created"]
    again = room.ok("apply", "-f", "-", stdin=MANIFEST).splitlines()
    assert all(line.endswith("unchanged") for line in again)
    changed = MANIFEST.replace("demo:1", "demo:2").replace(', {name: B, value: "2"}', "")
    assert "deployment.apps/web configured" in room.ok("apply", "-f", "-", stdin=changed)
    container = room.json("get", "deployment", "web")["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["env"]) == ("demo:2", [{"name": "A", "value": "1"}])
    assert "web" in room.ok("get", "all")
    assert room.run("diff", "-f", "-", stdin=changed).returncode == 0
    difference = room.run("diff", "-f", "-", stdin=MANIFEST)
    assert difference.returncode == 1
    assert "demo:1" in difference.stdout
    room.ok("scale", "deployment/web", "--replicas=5")
    assert room.json("get", "deployment", "web")["spec"]["replicas"] == 5
    told = room.refused("apply", "-f", "-", stdin=MANIFEST.replace("replicas:", "replica:"))
    assert "spec.replica: unknown field" in told
    room.ok("create", "deployment", "typed", "--image=demo:1")
    assert "<[]Container>" in room.ok("explain", "pod.spec.containers")
    room.ok("delete", "-f", "-", stdin=MANIFEST)
    room.ok("delete", "namespace", room.name)


# ---------------------------------------------------------------- reading


def test_get_shows_the_columns_that_people_know(room: Room) -> None:
    room.ok("apply", "-f", "-", stdin=MANIFEST)
    room.make(pod("p", namespace=room.name))
    room.run_on_node("p")
    assert room.ok("get", "pod", "p").split()[:5] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert room.ok("get", "pod", "p", "--no-headers").split()[:4] == ["p", "1/1", "Running", "0"]
    wide = room.ok("get", "pod", "p", "-o", "wide", "--no-headers").split()
    assert wide[5:7] == ["10.88.0.7", "pi-1"]
    assert room.ok("get", "deploy", "--no-headers").split()[:4] == ["web", "0/2", "0", "0"]
    assert "app=web" in room.ok("get", "deploy", "web", "-o", "wide")
    service = room.ok("get", "svc", "--no-headers").split()
    assert (service[1], service[4]) == ("ClusterIP", "80/TCP")
    assert service[2].startswith("10.96.")
    assert "app=web" in room.ok("get", "deploy", "--show-labels")


def test_get_gives_yaml_json_names_and_paths(room: Room) -> None:
    room.ok("apply", "-f", "-", stdin=MANIFEST)
    assert "kind: Deployment" in room.ok("get", "deploy", "web", "-o", "yaml")
    assert room.json("get", "deploy")["items"][0]["metadata"]["name"] == "web"
    assert room.ok("get", "deploy,svc", "-o", "name").split() == ["deployment.apps/web", "service/web"]
    assert room.ok("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "2"
    custom = room.ok("get", "cm", "settings", "-o", "custom-columns=N:.metadata.name,I:.data.interval", "--no-headers")
    assert custom.split() == ["settings", "5"]
    assert room.ok("get", "deploy", "-l", "app=web", "-o", "name").strip() == "deployment.apps/web"
    assert room.ok("get", "deploy", "-l", "app!=web", "-o", "name") == ""


def test_get_from_all_namespaces_in_parts_and_sorted(room: Room) -> None:
    room.make(*(pod(f"p{i}", namespace=room.name) for i in range(7)))
    listed = room.ok("get", "pods", "-A", "--chunk-size=3", "--no-headers")
    assert [line.split()[1] for line in listed.splitlines() if line.startswith(room.name)] == [
        f"p{i}" for i in range(7)
    ]
    assert "p0" in room.ok("get", "pods", "--sort-by=.metadata.creationTimestamp")


def test_get_watch_follows_what_happens(room: Room) -> None:
    room.make(pod("first", namespace=room.name))
    lines = Lines(room.start("get", "pods", "-w", "--output-watch-events"))
    try:
        lines.wait_for("ADDED", "first", "Pending")
        room.make(pod("second", namespace=room.name))
        lines.wait_for("ADDED", "second")
        room.run_on_node("second")
        lines.wait_for("MODIFIED", "second", "1/1", "Running")
        room.hub.do(lambda store: store.commit([Delete("Pod", room.name, "first")]))
        lines.wait_for("DELETED", "first")
    finally:
        lines.end()


def test_describe_tells_the_whole_story(room: Room) -> None:
    room.ok("apply", "-f", "-", stdin=MANIFEST)
    room.make(pod("p", namespace=room.name, labels={"app": "web"}))
    room.run_on_node("p")
    [there] = room.hub.do(lambda store: [store.get("Pod", room.name, "p")])
    assert there is not None
    told = event("p.1", "p", namespace=room.name)
    about = {"involvedObject": {"kind": "Pod", "namespace": room.name, "name": "p", "uid": there.metadata.uid}}
    room.make(parse(dump(told) | about))
    described = room.ok("describe", "pod", "p")
    assert re.search(r"Status: +Running", described)
    assert "it was" in described  # the event's message
    described = room.ok("describe", "deployment", "web")
    assert "2 desired" in described
    assert "25% max unavailable" in described
    assert "app=web" in room.ok("describe", "service", "web")
    assert "interval" in room.ok("describe", "configmap", "settings")
    assert "Active" in room.ok("describe", "namespace", room.name)


def test_describe_node_shows_its_pods_and_when_it_was_heard_of(room: Room) -> None:
    name = f"node-of-{room.name}"
    room.make(node(name))
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
    status = {"conditions": [ready], "capacity": {"memory": "512Mi", "cpu": "4"}, "allocatable": {"memory": "400Mi"}}
    room.hub.do(lambda store: store.commit([UpdateStatus(parse(dump(node(name)) | {"status": status}))]))
    described = room.ok("describe", "node", name)
    assert "HolderIdentity:  " + name in described
    assert "Non-terminated Pods" in described
    assert room.ok("get", "node", name, "--no-headers").split()[1] == "Ready"
    room.ok("cordon", name)
    assert "Ready,SchedulingDisabled" in room.ok("get", "node", name)
    room.ok("drain", name, "--force")
    room.ok("taint", "node", name, "dedicated=x:NoSchedule")
    room.ok("uncordon", name)


# ---------------------------------------------------------------- writing


def test_create_and_run_write_every_kind(room: Room) -> None:
    room.ok("create", "configmap", "c", "--from-literal=a=b")
    room.ok("create", "secret", "generic", "s", "--from-literal=password=hunter2")
    room.ok("create", "deployment", "d", "--image=demo:1", "--replicas=0", "--port=80")
    room.ok("create", "service", "clusterip", "d", "--tcp=80:8080")
    room.ok("run", "r", "--image=demo:1", "--restart=Never", "--", "sleep", "1")
    room.ok("expose", "deployment", "d", "--name=e", "--port=80")
    assert room.json("get", "cm", "c")["data"] == {"a": "b"}
    assert room.json("get", "secret", "s")["data"] == {"password": "aHVudGVyMg=="}
    assert room.json("get", "deploy", "d")["spec"]["replicas"] == 0
    assert room.json("get", "svc", "d")["spec"]["ports"][0]["targetPort"] == 8080
    assert room.json("get", "pod", "r")["spec"]["containers"][0]["args"] == ["sleep", "1"]
    assert room.json("get", "svc", "e")["spec"]["selector"] == {"app": "d"}


def test_label_annotate_patch_set_and_edit_change_what_they_say(room: Room, tmp_path: Path) -> None:
    room.ok("apply", "-f", "-", stdin=MANIFEST)
    room.ok("label", "deploy", "web", "tier=front")
    room.ok("annotate", "deploy", "web", "note=hello there")
    room.ok("set", "image", "deploy/web", "main=demo:7")
    room.ok("set", "env", "deploy/web", "C=3")
    room.ok("patch", "deploy", "web", "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":4}]')
    room.ok("patch", "deploy", "web", "--type=merge", "-p", '{"spec":{"minReadySeconds":3}}')
    strategic = {"spec": {"template": {"spec": {"containers": [{"name": "main", "workingDir": "/srv"}]}}}}
    room.ok("patch", "deploy", "web", "-p", json.dumps(strategic))
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/revisionHistoryLimit: 10/revisionHistoryLimit: 2/' \"$1\"\n")
    editor.chmod(0o755)
    assert "edited" in room.ok("edit", "deploy", "web", KUBE_EDITOR=str(editor))
    made = room.json("get", "deploy", "web")
    spec, container = made["spec"], made["spec"]["template"]["spec"]["containers"][0]
    assert made["metadata"]["labels"]["tier"] == "front"
    assert made["metadata"]["annotations"]["note"] == "hello there"
    assert (spec["replicas"], spec["minReadySeconds"], spec["revisionHistoryLimit"]) == (4, 3, 2)
    assert (container["image"], container["workingDir"]) == ("demo:7", "/srv")
    assert [e["name"] for e in container["env"]] == ["A", "B", "C"]


def test_rollout_restart_and_status_work_on_what_controllers_report(room: Room) -> None:
    room.make(deployment("web", 1, namespace=room.name))
    room.ok("rollout", "restart", "deploy/web")
    annotations = room.json("get", "deploy", "web")["spec"]["template"]["metadata"]["annotations"]
    assert "kubectl.kubernetes.io/restartedAt" in annotations

    def report(store: Store) -> None:
        there = store.get("Deployment", room.name, "web")
        assert there is not None
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
        status = counts | {"observedGeneration": there.metadata.generation}
        store.commit([UpdateStatus(parse(dump(there) | {"status": status}))])

    room.hub.do(report)
    assert "successfully rolled out" in room.ok("rollout", "status", "deploy/web", "--timeout=20s")


def test_wait_sees_a_pod_become_ready(room: Room) -> None:
    room.make(pod("p", namespace=room.name))
    lines = Lines(room.start("wait", "--for=condition=Ready", "pod/p", "--timeout=25s"))
    try:
        room.run_on_node("p")
        lines.wait_for("pod/p condition met")
    finally:
        lines.end()


def test_delete_waits_until_the_node_says_that_the_pod_is_gone(room: Room) -> None:
    room.make(pod("p", namespace=room.name))
    room.run_on_node("p")
    lines = Lines(room.start("delete", "pod", "p"))
    try:

        def marked(store: Store) -> bool:
            there = store.get("Pod", room.name, "p")
            return there is not None and there.metadata.deletion_grace_period_seconds == 30

        eventually(lambda: room.hub.do(marked), "the pod was not marked")
        assert "Terminating" in room.ok("get", "pod", "p")
        assert lines.process.poll() is None
        room.hub.do(lambda store: store.commit([Delete("Pod", room.name, "p")]))
        assert lines.process.wait(WAIT) == 0
    finally:
        lines.end()


def test_delete_at_once_and_by_selector(room: Room) -> None:
    room.make(*(pod(f"p{i}", namespace=room.name, labels={"n": str(i)}) for i in range(3)))
    room.run_on_node("p0")
    room.ok("delete", "pod", "p0", "--force", "--grace-period=0")
    room.ok("delete", "pods", "-l", "n=1")
    assert room.ok("get", "pods", "-o", "name").split() == ["pod/p2"]
    room.ok("delete", "pods", "--all")
    assert room.ok("get", "pods", "-o", "name") == ""


def test_server_side_apply_and_replace(room: Room) -> None:
    room.ok("apply", "--server-side", "-f", "-", stdin=MANIFEST)
    address = room.json("get", "svc", "web")["spec"]["clusterIP"]
    room.ok("apply", "--server-side", "-f", "-", stdin=MANIFEST.replace("demo:1", "demo:2"))
    room.ok("replace", "-f", "-", stdin=MANIFEST)
    assert room.json("get", "svc", "web")["spec"]["clusterIP"] == address


# ---------------------------------------------------------------- what goes wrong


def test_every_mistake_is_told_with_its_path_and_nothing_is_stored(room: Room) -> None:
    bad = MANIFEST.replace("image: demo:1", "imagee: demo:1").replace("64Mi", "64Mx").replace("port: 80}", "port: 0}")
    told = room.refused("apply", "-f", "-", stdin=bad)
    for path in (
        'spec.template.spec.containers[0].imagee: unknown field (did you mean "image"?)',
        "spec.template.spec.containers[0].resources.limits[memory]",
        "spec.ports[0].port",
    ):
        assert path in told
    assert room.ok("get", "deploy,svc", "-o", "name") == ""
    assert room.ok("get", "cm", "settings", "-o", "name")  # the document that was right


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ("apiVersion: v1\nkind: Pood\nmetadata: {name: x}\n", 'no matches for kind "Pood"'),
        ("apiVersion: batch/v2\nkind: Job\nmetadata: {name: x}\n", 'no matches for kind "Job"'),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x\n", "yaml"),
        (f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {'x' * 254}}}\n", "metadata.name"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: elsewhere}\n", "namespace"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: 1}\n", "data[a]"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n", "spec.containers"),
    ],
)
def test_what_cannot_be_accepted_is_refused_with_a_reason(room: Room, manifest: str, told: str) -> None:
    assert told in room.refused("apply", "-f", "-", stdin=manifest)


def test_what_is_not_there_or_there_already_is_said_so(room: Room) -> None:
    assert 'pods "none" not found' in room.refused("get", "pod", "none")
    room.ok("create", "configmap", "c")
    assert 'configmaps "c" already exists' in room.refused("create", "configmap", "c")
    assert 'namespaces "nowhere" not found' in room.refused("-n", "nowhere", "create", "configmap", "c")
    assert "may not be deleted" in room.refused("delete", "namespace", "default")


def test_a_pod_without_a_node_has_no_logs_and_runs_no_command(room: Room) -> None:
    room.make(pod("p", namespace=room.name))
    assert room.ok("logs", "p") == ""
    assert "does not have a host assigned" in room.refused("exec", "p", "--", "true")


def test_a_stale_replace_is_a_conflict(room: Room) -> None:
    room.ok("create", "configmap", "c", "--from-literal=a=1")
    stale = room.ok("get", "cm", "c", "-o", "yaml")
    room.ok("patch", "cm", "c", "--type=merge", "-p", '{"data":{"a":"2"}}')
    assert "the object has been modified" in room.refused("replace", "-f", "-", stdin=stale)


def test_a_wrong_token_is_told_to_log_in(room: Room) -> None:
    assert "You must be logged in" in room.refused("--token=wrong", "get", "pods")


def test_who_am_i_and_what_can_i_do(room: Room) -> None:
    assert "tester" in room.ok("auth", "whoami")
    assert room.ok("auth", "can-i", "create", "pods").strip() == "yes"
