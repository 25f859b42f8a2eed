"""Real kubectl, oldest and newest, with the hub's controllers: deletions of every sort, waiting, watching, draining."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.hub.store import Create, Delete, Store, UpdateStatus
from cloudlink.kube.core import Node, Pod
from tests.fakes import hub_brain
from tests.fakes.hub_objects import config
from tests.fakes.hub_server import HubServer
from tests.kubectl_lab import oldest_and_newest

pytestmark = pytest.mark.kubectl

BINARIES = oldest_and_newest()

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: "demo:1"}]}
"""
BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
"""


class Kubelet:
    """What two nodes would do: pods run at once, and those that were asked to end have ended at once."""

    def __init__(self, hub: HubServer) -> None:
        self._hub = hub
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet")
        hub.do(lambda store: [self._add(store, name) for name in ("n1", "n2")])

    @staticmethod
    def _add(store: Store, name: str) -> None:
        node = hub_brain.node(name)
        [made] = store.commit([Create(node)])
        assert isinstance(made, Node)
        store.commit([UpdateStatus(made.model_copy(update={"status": node.status}))])

    def _turn(self, store: Store) -> None:
        for pod in store.list("Pod"):
            if not isinstance(pod, Pod) or not pod.spec.node_name:
                continue
            if pod.metadata.deletion_timestamp:
                store.commit([Delete("Pod", pod.metadata.namespace, pod.metadata.name)])
            elif pod.status.phase != "Running":
                store.commit([UpdateStatus(hub_brain.reported(pod, 0.0))])

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self._hub.do(self._turn)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path, manager=True) as server, Kubelet(server).at_work():
        yield server


class Kubectl:
    def __init__(self, hub: HubServer, binary: str) -> None:
        if shutil.which(binary) is None:
            pytest.skip(f"no {binary} here")
        self._hub, self._binary = hub, binary

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = self._hub.kubectl(*arguments, stdin=stdin, binary=self._binary)
        print(f"$ {Path(self._binary).name} {' '.join(arguments)}\n{done.stdout}{done.stderr}", end="")
        return done

    def apply_and_wait(self, manifest: str) -> None:
        self("apply", "-f", "-", stdin=manifest)
        self("wait", "--for=condition=Available", "deployment/web", "--timeout=30s")


@pytest.fixture(params=BINARIES, ids=lambda b: Path(b).name)
def kubectl(hub: HubServer, request: pytest.FixtureRequest) -> Kubectl:
    return Kubectl(hub, request.param)


def test_each_cascade_takes_and_leaves_what_it_should(kubectl: Kubectl) -> None:
    for cascade, left in (("foreground", ""), ("background", ""), ("orphan", "replicaset")):
        kubectl.apply_and_wait(WEB)
        kubectl("delete", "deployment", "web", f"--cascade={cascade}", "--timeout=30s")
        if not left:
            kubectl.run("wait", "--for=delete", "pods", "-l", "app=web", "--timeout=30s")
            kubectl.run("wait", "--for=delete", "rs", "-l", "app=web", "--timeout=30s")
        names = kubectl("get", "rs,pods", "-l", "app=web", "-o", "name")
        assert ("replicaset" in names) is bool(left)
        assert names.count("pod/") == (2 if left else 0)
    kubectl("delete", "rs", "--all", "--wait=false")


def test_waiting_for_conditions_values_and_ends(kubectl: Kubectl, hub: HubServer) -> None:
    kubectl.apply_and_wait(WEB)
    kubectl("wait", "pods", "-l", "app=web", "--for=condition=Ready", "--timeout=30s")
    kubectl("wait", "deployment/web", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=30s")
    hub.do(lambda store: store.commit([Create(config("held", {}))]))
    kubectl("patch", "cm", "held", "--type=merge", "-p", '{"metadata":{"finalizers":["example.org/x"]}}')
    kubectl("delete", "cm", "held", "--wait=false")
    assert kubectl.run("wait", "--for=delete", "cm/held", "--timeout=1s").returncode != 0
    kubectl("patch", "cm", "held", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    kubectl("wait", "--for=delete", "cm/held", "--timeout=30s")
    kubectl("delete", "pods", "-l", "app=web", "--force", "--grace-period=0")


def test_lists_in_chunks_selected_sorted_and_shaped(kubectl: Kubectl, hub: HubServer) -> None:
    hub.do(lambda store: store.commit([Create(config(f"m{i}", {})) for i in range(7)]))
    kubectl("label", "cm", "m3", "m5", "pick=yes")
    assert kubectl("get", "cm", "--chunk-size=2", "-o", "name").count("configmap/m") == 7
    assert kubectl("get", "cm", "-l", "pick=yes", "--chunk-size=1", "-o", "name").split() == [
        "configmap/m3",
        "configmap/m5",
    ]
    assert kubectl("get", "cm", "--field-selector", "metadata.name=m6", "-o", "name").split() == ["configmap/m6"]
    table = kubectl(
        "get", "cm", "--sort-by=.metadata.name", "-o", "custom-columns=N:.metadata.name,L:.metadata.labels.pick"
    )
    assert table.splitlines()[0].split() == ["N", "L"]
    assert kubectl("get", "cm", "m3", "-o", "jsonpath={.metadata.labels.pick}") == "yes"


def test_a_node_is_cordoned_tainted_drained_and_comes_back(kubectl: Kubectl) -> None:
    kubectl.apply_and_wait(WEB)
    kubectl("cordon", "n1")
    assert "SchedulingDisabled" in kubectl("get", "node", "n1")
    kubectl("drain", "n1", "--ignore-daemonsets", "--timeout=30s")
    kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=30s")
    pods = kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}")
    assert set(pods.split()) == {"n2"}
    kubectl("uncordon", "n1")
    kubectl("taint", "node", "n1", "example.org/full=yes:NoSchedule")
    kubectl("taint", "node", "n1", "example.org/full-")


def test_a_budget_holds_a_drain_back_and_says_so(kubectl: Kubectl) -> None:
    kubectl.apply_and_wait(WEB)
    kubectl("apply", "-f", "-", stdin=BUDGET)
    kubectl("wait", "pdb/web", "--for=jsonpath={.status.currentHealthy}=2", "--timeout=30s")
    node = kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].spec.nodeName}")
    held = kubectl.run("drain", node, "--timeout=3s")
    assert held.returncode != 0
    assert "Cannot evict pod as it would violate the pod's disruption budget." in held.stderr
    kubectl("delete", "pdb", "web")
    kubectl("drain", node, "--timeout=30s")


def test_an_autoscaler_is_refused_clearly(kubectl: Kubectl) -> None:
    kubectl.apply_and_wait(WEB)
    refused = kubectl.run("autoscale", "deployment", "web", "--min=1", "--max=3")
    assert refused.returncode != 0
    assert "there is no autoscaler here" in refused.stderr


def test_warnings_are_shown_to_who_asks_to_be_warned(kubectl: Kubectl) -> None:
    typo = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndata: {a: "1"}\ncolour: red\n'
    assert kubectl.run("apply", "-f", "-", stdin=typo).returncode != 0
    warned = kubectl.run("apply", "--validate=warn", "-f", "-", stdin=typo)
    assert warned.returncode == 0
    assert 'Warning: unknown field "colour"' in warned.stderr


def test_a_watch_prints_its_columns_once(kubectl: Kubectl, hub: HubServer) -> None:
    hub.do(lambda store: store.commit([Create(config("first", {}))]))
    timer = threading.Timer(2.0, lambda: hub.do(lambda store: store.commit([Create(config("second", {}))])))
    timer.start()
    shown = kubectl("get", "cm", "-w", "--request-timeout=5s")
    timer.join()
    assert shown.count("NAME") == 1
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["first", "second"]
