"""StatefulSets, DaemonSets and ReplicationControllers on a hub, a broker and two nodes with crun, by kubectl.

`EDGED_TRANSCRIPTS=<folder>` keeps what was typed and what came back.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli import leftovers
from cloudlink.cli.house import House
from tests.houses import a_further_node, a_house, deployment
from tests.kubectl_lab import Kubectl, oldest_and_newest

pytestmark = [pytest.mark.root, pytest.mark.kubectl]

ROOMS = (f"room-{n}" for n in itertools.count())
# Every start of a pod leaves its name in the pod's claim.
DIARY = "echo $HOSTNAME >> /data/starts; trap 'exit 0' TERM; while :; do sleep 0.1; done"
IDLE = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}},
}
PEERS = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "peers"},
    "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80}]},
}


@pytest.fixture(scope="module")
def houses() -> Iterator[list[House]]:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(a_house())
        yield [first, stack.enter_context(a_further_node(first))]


@pytest.fixture(params=oldest_and_newest(), ids=lambda p: Path(p).name)
def kubectl(houses: list[House], request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """In a namespace of its own."""
    room, program = next(ROOMS), request.param
    it = Kubectl(program, houses[0].kubeconfig, room, f"{request.node.originalname}-{Path(program).name}")
    it.ok("create", "namespace", room)
    yield it
    it.ok("delete", "namespace", room, "--timeout=60s")


def workload(kind: str, name: str, command: str, **spec: Any) -> dict[str, Any]:
    made = deployment(name, 1, command)
    del made["spec"]["replicas"]
    made |= {"kind": kind}
    made["spec"] |= spec
    return made


def database(replicas: int = 2, **spec: Any) -> dict[str, Any]:
    """A StatefulSet with a claim for each pod, where every start is written down."""
    made = workload("StatefulSet", "db", DIARY, replicas=replicas, serviceName="peers", volumeClaimTemplates=[CLAIM])
    main = made["spec"]["template"]["spec"]["containers"][0]
    main["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    main["readinessProbe"] = {"exec": {"command": ["test", "-s", "/data/starts"]}, "periodSeconds": 1}
    made["spec"] |= spec
    return made


def column(kubectl: Kubectl, what: str, path: str) -> list[str]:
    return kubectl.ok("get", what, "-o", f"jsonpath={{range .items[*]}}{{{path}}}{{'\\n'}}{{end}}").split()


def row(kubectl: Kubectl, *what: str) -> list[str]:
    [line] = kubectl.ok("get", *what, "--no-headers").splitlines()
    return line.split()


def words(kubectl: Kubectl) -> list[str]:
    """What the environment of each pod says of its revision, in order of their names."""
    pods = kubectl.json("get", "pods", "--sort-by=.metadata.name")["items"]
    env = [p["spec"]["containers"][0].get("env", []) for p in pods if "deletionTimestamp" not in p["metadata"]]
    return [next((e["value"] for e in it if e["name"] == "WORD"), "") for it in env]


def rolled_out(kubectl: Kubectl, what: str) -> str:
    return kubectl.ok("rollout", "status", what, "--timeout=60s").splitlines()[-1]


def revisions(kubectl: Kubectl, what: str) -> list[str]:
    lines = kubectl.ok("rollout", "history", what).splitlines()
    return [line.split()[0] for line in lines if line[:1].isdigit()]


def diary(kubectl: Kubectl, pod: str) -> list[str]:
    return kubectl.ok("exec", pod, "--", "cat", "/data/starts").split()


# ---------------------------------------------------------------- StatefulSet


def test_a_stateful_set_has_names_in_order_and_data_that_outlives_its_pods(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "-f", "-", stdin=PEERS)
    kubectl.ok("apply", "-f", "-", stdin=database())
    assert "partitioned roll out complete: 2 new pods" in rolled_out(kubectl, "statefulset/db")
    assert row(kubectl, "sts", "db")[:2] == ["db", "2/2"]
    assert kubectl.ok("get", "sts,ds").splitlines()[0].split() == ["NAME", "READY", "AGE"]
    assert column(kubectl, "pods", ".metadata.name") == ["db-0", "db-1"]
    assert column(kubectl, "pvc", ".metadata.name") == ["data-db-0", "data-db-1"]
    pod = kubectl.json("get", "pod", "db-1")
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-1", "peers")
    assert pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "1"
    assert diary(kubectl, "db-1") == ["db-1"]

    full = f"db-1.peers.{kubectl.namespace}.svc"
    kubectl.ok("exec", "db-1", "--", "grep", full, "/etc/hosts")
    kubectl.until(
        "the pod's name to be answered",
        lambda: kubectl.run("exec", "db-1", "--", "nslookup", f"{full}.cluster.local")[0] == 0,
    )

    kubectl.ok("delete", "pod", "db-1", "--timeout=60s")
    rolled_out(kubectl, "statefulset/db")
    again = kubectl.json("get", "pod", "db-1")
    assert again["metadata"]["uid"] != pod["metadata"]["uid"]
    assert again["spec"]["nodeName"] == pod["spec"]["nodeName"], "its data is there"
    assert diary(kubectl, "db-1") == ["db-1", "db-1"]

    kubectl.ok("scale", "statefulset/db", "--replicas=1")
    kubectl.ok("wait", "--for=delete", "pod/db-1", "--timeout=60s")
    assert column(kubectl, "pvc", ".metadata.name") == ["data-db-0", "data-db-1"]
    kubectl.ok("scale", "statefulset/db", "--replicas=2")
    rolled_out(kubectl, "statefulset/db")
    assert diary(kubectl, "db-1") == ["db-1"] * 3
    assert diary(kubectl, "db-0") == ["db-0"], "nobody touched it"

    described = kubectl.ok("describe", "statefulset", "db")
    for said in (
        "create Claim data-db-0 Pod db-0 in StatefulSet db success",
        "create Pod db-1 in StatefulSet db successful",
        "delete Pod db-1 in StatefulSet db successful",
    ):
        assert said in described
    assert "updates to statefulset spec for fields other than 'replicas'" in kubectl.refused(
        "patch", "statefulset", "db", "-p", json.dumps({"spec": {"serviceName": "others"}})
    )


def test_claims_go_with_the_set_or_with_pods_that_are_scaled_away_where_that_is_asked_for(kubectl: Kubectl) -> None:
    policy = {"whenDeleted": "Delete", "whenScaled": "Delete"}
    kubectl.ok("apply", "-f", "-", stdin=database(persistentVolumeClaimRetentionPolicy=policy))
    rolled_out(kubectl, "statefulset/db")
    kubectl.ok("scale", "statefulset/db", "--replicas=1")
    kubectl.ok("wait", "--for=delete", "pvc/data-db-1", "--timeout=60s")
    assert column(kubectl, "pvc", ".metadata.name") == ["data-db-0"]
    kubectl.ok("delete", "statefulset", "db", "--timeout=60s")
    kubectl.ok("wait", "--for=delete", "pvc/data-db-0", "--timeout=60s")


def test_a_partitioned_rollout_is_held_goes_on_is_undone_and_done_again(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "-f", "-", stdin=workload("StatefulSet", "db", IDLE, replicas=3, serviceName="peers"))
    rolled_out(kubectl, "statefulset/db")
    partition = '{{"spec":{{"updateStrategy":{{"rollingUpdate":{{"partition":{}}}}}}}}}'
    kubectl.ok("patch", "statefulset", "db", "-p", partition.format(2))
    kubectl.ok("set", "env", "statefulset/db", "WORD=two")
    assert "partitioned roll out complete: 1 new pods have been updated..." in rolled_out(kubectl, "statefulset/db")
    kubectl.ok("delete", "pod", "db-0", "--timeout=60s")
    kubectl.until("all three to be ready", lambda: row(kubectl, "sts", "db")[1] == "3/3")
    assert words(kubectl) == ["", "", "two"], "what was made anew below the partition has the old template"
    status = kubectl.json("get", "statefulset", "db")["status"]
    assert (status["currentReplicas"], status["updatedReplicas"]) == (2, 1)
    assert status["currentRevision"] != status["updateRevision"]

    kubectl.ok("patch", "statefulset", "db", "-p", partition.format(0))
    kubectl.until("the rest", lambda: words(kubectl) == ["two"] * 3)
    rolled_out(kubectl, "statefulset/db")
    assert revisions(kubectl, "statefulset/db") == ["1", "2"]
    assert "WORD:\ttwo" in kubectl.ok("rollout", "history", "statefulset/db", "--revision=2")
    kubectl.ok("rollout", "undo", "statefulset/db")
    kubectl.until("the first template", lambda: words(kubectl) == [""] * 3)
    rolled_out(kubectl, "statefulset/db")
    assert revisions(kubectl, "statefulset/db") == ["2", "3"]
    before = column(kubectl, "pods", ".metadata.uid")
    kubectl.ok("rollout", "restart", "statefulset/db")
    rolled_out(kubectl, "statefulset/db")
    kubectl.until("new pods", lambda: not set(before) & set(column(kubectl, "pods", ".metadata.uid")))
    rolled_out(kubectl, "statefulset/db")


def test_a_broken_template_stops_at_one_pod_and_undoing_it_needs_no_hand(kubectl: Kubectl) -> None:
    kubectl.ok("apply", "-f", "-", stdin=database(3))
    rolled_out(kubectl, "statefulset/db")
    kept = column(kubectl, "pods", ".metadata.uid")[:2]
    kubectl.ok("set", "image", "statefulset/db", "main=localhost/nobody:1")
    kubectl.until(
        "the last pod to fail", lambda: row(kubectl, "pod", "db-2")[2] in ("ImagePullBackOff", "ErrImagePull")
    )
    assert kubectl.run("rollout", "status", "statefulset/db", "--timeout=1s")[0] == 1
    kubectl.ok("rollout", "undo", "statefulset/db")
    rolled_out(kubectl, "statefulset/db")
    kubectl.until("all three to be ready", lambda: row(kubectl, "sts", "db")[1] == "3/3")
    assert column(kubectl, "pods", ".metadata.uid")[:2] == kept
    assert diary(kubectl, "db-2") == ["db-2", "db-2"]


def test_a_pod_on_a_lost_node_is_not_doubled(kubectl: Kubectl, houses: list[House]) -> None:
    away = houses[1]
    apart = {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}
    apart["requiredDuringSchedulingIgnoredDuringExecution"][0]["labelSelector"] = {"matchLabels": {"app": "db"}}  # type: ignore[assignment]
    manifest = workload("StatefulSet", "db", IDLE, replicas=2, podManagementPolicy="Parallel")
    manifest["spec"]["template"]["spec"]["affinity"] = {"podAntiAffinity": apart}
    kubectl.ok("apply", "-f", "-", stdin=manifest)
    rolled_out(kubectl, "statefulset/db")
    [lost] = [p for p in kubectl.json("get", "pods")["items"] if p["spec"]["nodeName"] == away.names.node]
    name, uid = lost["metadata"]["name"], lost["metadata"]["uid"]
    pid = away.pids["node"]
    os.kill(pid, signal.SIGKILL)
    away.wait("the node's daemon to be dead", lambda: not leftovers.alive(pid))
    kubectl.ok("delete", "pod", name, "--wait=false")
    kubectl.ok("scale", "statefulset/db", "--replicas=3")  # the controller has looked again once this is there

    def numbers() -> list[str]:
        return column(kubectl, "pods", ".metadata.name")

    kubectl.until("the next pod", lambda: numbers() == ["db-0", "db-1", "db-2"])
    there = kubectl.json("get", "pod", name)
    assert (there["metadata"]["uid"], "deletionTimestamp" in there["metadata"]) == (uid, True)
    kubectl.ok("scale", "statefulset/db", "--replicas=2")
    kubectl.until("the surplus to go", lambda: "db-2" not in numbers())
    away.start_node()
    kubectl.until("a new one", lambda: kubectl.json("get", "pod", name)["metadata"]["uid"] != uid)
    rolled_out(kubectl, "statefulset/db")


# ---------------------------------------------------------------- DaemonSet


def test_a_daemon_set_is_rolled_and_undone_node_by_node(kubectl: Kubectl, houses: list[House]) -> None:
    kubectl.ok("apply", "-f", "-", stdin=workload("DaemonSet", "agent", IDLE))
    assert rolled_out(kubectl, "daemonset/agent") == 'daemon set "agent" successfully rolled out'
    assert row(kubectl, "ds", "agent")[:6] == ["agent", *["2"] * 5]
    assert sorted(column(kubectl, "pods", ".spec.nodeName")) == sorted(h.names.node for h in houses)
    kubectl.ok("set", "env", "daemonset/agent", "WORD=two")
    rolled_out(kubectl, "daemonset/agent")
    kubectl.until("the second template", lambda: words(kubectl) == ["two", "two"])
    assert revisions(kubectl, "daemonset/agent") == ["1", "2"]
    kubectl.ok("rollout", "undo", "daemonset/agent")
    rolled_out(kubectl, "daemonset/agent")
    kubectl.until("the first template", lambda: words(kubectl) == ["", ""])
    before = column(kubectl, "pods", ".metadata.uid")
    kubectl.ok("rollout", "restart", "daemonset/agent")
    kubectl.until("new pods", lambda: not set(before) & set(column(kubectl, "pods", ".metadata.uid")))
    rolled_out(kubectl, "daemonset/agent")
    described = kubectl.ok("describe", "daemonset", "agent")
    assert "Desired Number of Nodes Scheduled: 2" in described
    assert "SuccessfulCreate" in described
    assert "Successfully assigned" in kubectl.ok("get", "events"), "the scheduler binds daemon pods, too"
    kept = kubectl.ok("get", "controllerrevisions")
    assert "daemonset.apps/agent" in kept


def test_a_daemon_on_a_cordoned_node_stays_and_is_made_again_there(kubectl: Kubectl, houses: list[House]) -> None:
    node = houses[1].names.node
    kubectl.ok("apply", "-f", "-", stdin=workload("DaemonSet", "agent", IDLE))
    rolled_out(kubectl, "daemonset/agent")

    def there() -> list[dict[str, Any]]:
        return [p for p in kubectl.json("get", "pods")["items"] if p["spec"].get("nodeName") == node]

    [pod] = there()
    kubectl.ok("cordon", node)
    try:
        kubectl.ok("rollout", "status", "daemonset/agent", "--timeout=60s")
        assert [p["metadata"]["uid"] for p in there()] == [pod["metadata"]["uid"]]
        assert row(kubectl, "ds", "agent")[1:4] == ["2", "2", "2"]
        kubectl.ok("delete", "pod", pod["metadata"]["name"], "--timeout=60s")
        kubectl.until("another one there", lambda: row(kubectl, "ds", "agent")[1:4] == ["2", "2", "2"])
        [again] = there()
        assert again["metadata"]["uid"] != pod["metadata"]["uid"]
        rolled_out(kubectl, "daemonset/agent")
        kubectl.ok("drain", node, "--ignore-daemonsets", "--force", "--timeout=60s")
        assert [p["metadata"]["uid"] for p in there()] == [again["metadata"]["uid"]]
    finally:
        kubectl.ok("uncordon", node)


def test_a_daemon_that_no_node_can_hold_is_refused_and_one_that_must_wait_says_why(kubectl: Kubectl) -> None:
    greedy = workload("DaemonSet", "greedy", IDLE)
    main = greedy["spec"]["template"]["spec"]["containers"][0]
    main["resources"] = {"requests": {"memory": "4Ti"}}
    said = kubectl.refused("apply", "-f", "-", stdin=greedy)
    assert "spec.template.spec.containers[0].resources.requests.memory: needs 4096 GiB, the largest node has" in said
    main["resources"] = {"requests": {"memory": "4Mi"}}
    main["ports"] = [{"containerPort": 1, "hostPort": 45123}]
    kubectl.ok("apply", "-f", "-", stdin=greedy)
    rolled_out(kubectl, "daemonset/greedy")
    greedy["metadata"]["name"] = "late"
    kubectl.ok("apply", "-f", "-", stdin=greedy)
    kubectl.until("the sentence", lambda: "host port 45123/TCP taken" in kubectl.ok("describe", "pods"))
    assert row(kubectl, "ds", "late")[1:4] == ["2", "2", "0"]
    kubectl.ok("delete", "daemonset", "greedy", "--timeout=60s")
    rolled_out(kubectl, "daemonset/late")


# ---------------------------------------------------------------- ReplicationController


def test_a_replication_controller_is_made_scaled_and_described(kubectl: Kubectl) -> None:
    made = workload("ReplicationController", "old", IDLE, replicas=2)
    made |= {"apiVersion": "v1"}
    made["spec"]["selector"] = {"app": "old"}
    kubectl.ok("apply", "-f", "-", stdin=made)
    kubectl.until("two pods", lambda: row(kubectl, "rc", "old")[1:4] == ["2", "2", "2"])
    kubectl.ok("scale", "rc/old", "--replicas=1")
    kubectl.until("one pod", lambda: row(kubectl, "rc", "old")[1:4] == ["1", "1", "1"])
    assert "SuccessfulDelete" in kubectl.ok("describe", "rc", "old")


def test_two_controllers_of_one_pod_are_refused_with_the_fields_path(kubectl: Kubectl) -> None:
    pod = deployment("torn")["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] = {
        "name": "torn",
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": kind, "controller": True}
            for kind in ("ReplicaSet", "StatefulSet")
        ],
    }
    said = kubectl.refused("create", "-f", "-", stdin=pod)
    assert 'The Pod "torn" is invalid: metadata.ownerReferences: Invalid value' in said
    assert 'Only one reference can have Controller set to true. Found "true" in references for' in said
