"""Real kubectl, a real node: a pod with nearly everything that a pod can have, from apply to the end of its claim."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli.house import House
from tests.houses import a_house

pytestmark = [pytest.mark.root, pytest.mark.kubectl]

IMAGE = "localhost/probe:latest"


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        it.folder.chmod(0o711)  # pods with users of their own pass through it
        yield it


@pytest.fixture
def notes() -> Iterator[Path]:
    """A folder of the machine that containers write into what they see."""
    folder = Path(tempfile.mkdtemp(prefix="edged-notes-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def kubectl(house: House, *arguments: str, stdin: object = None, check: bool = True) -> str:
    command = ["kubectl", "--kubeconfig", str(house.kubeconfig), *arguments]
    text = "" if stdin is None else json.dumps(stdin)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=150, check=False)
    assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout if done.returncode == 0 else done.stderr


def get(house: House, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl(house, "get", kind, name, "-o", "json"))
    return found


def said(folder: Path, name: str) -> str:
    file = folder / name
    return file.read_text().strip() if file.exists() else ""


def until(house: House, what: str, folder: Path, name: str, text: str) -> None:
    def why() -> str:
        told = {f.name: f.read_text() for f in folder.iterdir() if f.is_file()}
        return f"{told}\n{kubectl(house, 'describe', 'pods', check=False)}"

    house.wait(what, lambda: said(folder, name) == text, why)


def container(name: str, script: str, **parts: Any) -> dict[str, Any]:
    """One of the probe image that runs a script, with the notes at /notes."""
    mounts = [{"name": "notes", "mountPath": "/notes"}, *parts.pop("volumeMounts", [])]
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-ec", script],
        "volumeMounts": mounts,
        **parts,
    }


def a_pod(name: str, notes: Path, **spec: Any) -> dict[str, Any]:
    volumes = [{"name": "notes", "hostPath": {"path": str(notes), "type": "Directory"}}, *spec.pop("volumes", [])]
    metadata = {"name": name, "labels": {"app": name}, "annotations": {"colour": "green"}}
    spec = {"terminationGracePeriodSeconds": 5, **spec, "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data"},
    "spec": {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "resources": {"requests": {"storage": "8Mi"}},
    },
}
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"colour": "red"}}
FIELDS = {"IP": "status.podIP", "NODE": "spec.nodeName", "NAME": "metadata.name", "APP": "metadata.labels['app']"}
FOLLOW = (
    "id -u > /notes/user; echo $NAME $APP $NODE > /notes/self; test -n $IP; touch /notes/main;"
    " if touch /forbidden 2>/dev/null; then echo writable > /notes/root; else echo read-only > /notes/root; fi;"
    " echo once >> /data/visits; wc -l < /data/visits > /notes/visits; trap 'exit 0' TERM;"
    " while :; do cat /settings/colour > /notes/colour; cat /me/colour > /notes/annotation;"
    " stat -f -c '%b %S' /data > /notes/size; sleep 0.1; done"
)


def everything(notes: Path) -> dict[str, Any]:
    """Init container, sidecar, hooks, downward API, security context, a config as files, a claim."""
    env = [{"name": n, "valueFrom": {"fieldRef": {"fieldPath": f}}} for n, f in FIELDS.items()]
    mounts = [{"name": n, "mountPath": f"/{n}"} for n in ("data", "settings", "me")]
    main = container(
        "main",
        FOLLOW,
        env=env,
        volumeMounts=mounts,
        securityContext={"runAsUser": 1234, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        lifecycle={
            "postStart": {"exec": {"command": ["/bin/sh", "-c", "echo started > /notes/post-start"]}},
            "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo stopping > /notes/pre-stop"]}},
        },
        readinessProbe={"exec": {"command": ["test", "-f", "/notes/main"]}, "periodSeconds": 1},
    )
    side = "test -f /notes/first; echo ready > /notes/side; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    return a_pod(
        "all",
        notes,
        initContainers=[
            container("first", "test ! -e /notes/main; echo first > /notes/first"),
            container(
                "side",
                side,
                restartPolicy="Always",
                startupProbe={"exec": {"command": ["test", "-f", "/notes/side"]}, "periodSeconds": 1},
            ),
            container("second", "test -f /notes/side; echo $(cat /notes/first) second > /notes/second"),
        ],
        containers=[main],
        securityContext={"fsGroup": 4321},
        volumes=[
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "settings", "configMap": {"name": "settings"}},
            {
                "name": "me",
                "downwardAPI": {
                    "items": [
                        {
                            "path": "colour",
                            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations['colour']"},
                        }
                    ]
                },
            },
        ],
    )


def bytes_of(blocks: str) -> int:
    """ "<number of blocks> <size of one>", as stat(1) tells it; 0 while it is being written."""
    parts = blocks.split()
    return int(parts[0]) * int(parts[1]) if len(parts) == 2 else 0


def test_a_pod_with_everything_lives_follows_its_config_and_leaves_its_data_behind(house: House, notes: Path) -> None:
    for manifest in (CLAIM, CONFIG):
        kubectl(house, "apply", "-f", "-", stdin=manifest)
    pod = everything(notes)
    kubectl(house, "apply", "-f", "-", stdin=pod)
    until(house, "the config as a file", notes, "colour", "red")
    kubectl(house, "wait", "--for=condition=Ready", "pod/all", "--timeout=120s")
    assert said(notes, "second") == "first second"
    assert said(notes, "user") == "1234"
    assert said(notes, "root") == "read-only"
    assert said(notes, "self") == f"all all {get(house, 'pod', 'all')['spec']['nodeName']}"
    assert said(notes, "post-start") == "started"
    assert said(notes, "visits") == "1"
    (row,) = kubectl(house, "get", "pod", "all", "--no-headers").splitlines()
    assert row.split()[1:4] == ["2/2", "Running", "0"]
    for manifest in (CLAIM, CONFIG, pod):
        again = kubectl(house, "apply", "-f", "-", stdin=manifest)
        assert again.endswith("unchanged\n"), again
    claim = get(house, "pvc", "data")
    assert (claim["status"]["phase"], claim["status"]["capacity"]) == ("Bound", {"storage": "8Mi"})

    told = kubectl(house, "describe", "pvc", "data")
    assert re.search(r"Used By: +all\n", told), told
    assert "WaitForFirstConsumer" in told

    changed = CONFIG | {"data": {"colour": "blue"}}
    kubectl(house, "apply", "-f", "-", stdin=changed)
    until(house, "the changed config in the running pod", notes, "colour", "blue")
    kubectl(house, "annotate", "--overwrite", "pod", "all", "colour=yellow")
    until(house, "the changed annotation in the running pod", notes, "annotation", "yellow")
    before = bytes_of(said(notes, "size"))
    grow = json.dumps({"spec": {"resources": {"requests": {"storage": "16Mi"}}}})
    kubectl(house, "patch", "pvc", "data", "-p", grow)
    (row,) = kubectl(house, "get", "pod", "all", "--no-headers").splitlines()
    assert row.split()[3] == "0", "it was restarted for it"

    kubectl(house, "delete", "pod", "all", "--timeout=120s")
    assert said(notes, "pre-stop") == "stopping"
    (notes / "main").unlink()
    kubectl(house, "apply", "-f", "-", stdin=pod)
    until(house, "the data of the pod before", notes, "visits", "2")
    # At the latest now: without CAP_SYS_RESOURCE a node can't let it grow while a pod uses it.
    house.wait("the volume to have grown", lambda: bytes_of(said(notes, "size")) > before)
    assert get(house, "pvc", "data")["status"]["capacity"] == {"storage": "16Mi"}

    kubectl(house, "delete", "pvc", "data", "--wait=false")
    assert "Terminating" in kubectl(house, "get", "pvc", "data", "--no-headers")
    kubectl(house, "delete", "pod", "all", "--timeout=120s")
    kubectl(house, "wait", "--for=delete", "pvc/data", "--timeout=120s")


LOOK = "; ".join(
    (
        "hostname > /notes/hostname",
        "grep -c '10.9.9.9.*printer' /etc/hosts > /notes/hosts",
        "grep -c 'ndots:3' /etc/resolv.conf > /notes/resolver",
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start > /notes/port",
        "id -G > /notes/groups",
        "grep CapEff /proc/self/status > /notes/capabilities",
        "cat /all/etc/colour > /notes/projected",
        "cat /all/labels > /notes/labels",
        "echo $MEMORY > /notes/memory",
        "echo here > /mine/file",
        "test -f /scratch/look/file && echo yes > /notes/expanded",
        "grep -c '/scratch tmpfs' /proc/mounts > /notes/tmpfs",
        "echo $FROM_colour > /notes/prefixed",
        "echo last words > /dev/termination-log",
    )
)


def test_what_a_pod_asks_for_is_what_its_processes_find(house: House, notes: Path) -> None:
    kubectl(house, "apply", "-f", "-", stdin=CONFIG)
    mounts: list[dict[str, Any]] = [
        {"name": "all", "mountPath": "/all", "readOnly": True},
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "scratch", "mountPath": "/mine", "subPathExpr": "$(NAME)"},
    ]
    env = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
    ]
    sources = [
        {"configMap": {"name": "settings", "items": [{"key": "colour", "path": "etc/colour"}]}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    look = container(
        "look",
        LOOK,
        env=env,
        envFrom=[{"prefix": "FROM_", "configMapRef": {"name": "settings"}}],
        volumeMounts=mounts,
        resources={"limits": {"memory": "24Mi"}},
        securityContext={"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
    )
    pod = a_pod(
        "look",
        notes,
        containers=[look],
        restartPolicy="Never",
        hostname="box",
        subdomain="boxes",
        hostAliases=[{"ip": "10.9.9.9", "hostnames": ["printer"]}],
        dnsConfig={"options": [{"name": "ndots", "value": "3"}]},
        securityContext={
            "supplementalGroups": [3333],
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "77"}],
        },
        volumes=[
            {"name": "all", "projected": {"sources": sources}},
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    )
    kubectl(house, "apply", "-f", "-", stdin=pod)
    kubectl(house, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/look", "--timeout=120s")
    found = {f.name: f.read_text().strip() for f in notes.iterdir()}
    assert "3333" in found.pop("groups").split()
    assert found == {
        "hostname": "box",
        "hosts": "1",
        "resolver": "1",
        "port": "77",
        "capabilities": f"CapEff:\t{1 << 10:016x}",
        "projected": "red",
        "labels": 'app="look"',
        "memory": "24",
        "expanded": "yes",
        "tmpfs": "1",
        "prefixed": "red",
    }
    status = get(house, "pod", "look")["status"]
    assert status["containerStatuses"][0]["state"]["terminated"]["message"].strip() == "last words"
    assert (status["qosClass"], status["conditions"][-1]["reason"]) == ("Burstable", "PodCompleted")
    kubectl(house, "delete", "pod", "look", "--timeout=120s")


def test_the_hosts_network_is_the_hosts_and_users_of_their_own_are_not(house: House, notes: Path) -> None:
    net = "readlink /proc/self/ns/net > /notes/net"
    on_the_host = a_pod("host", notes, containers=[container("main", net)], hostNetwork=True, restartPolicy="Never")
    own = a_pod(
        "own",
        notes,
        containers=[container("main", "cat /proc/self/uid_map > /notes/users; id -u > /notes/root")],
        hostUsers=False,
        restartPolicy="Never",
    )
    for pod in (on_the_host, own):
        name = pod["metadata"]["name"]
        kubectl(house, "apply", "-f", "-", stdin=pod)
        house.wait(
            f"pod {name} to end",
            lambda name=name: get(house, "pod", name)["status"]["phase"] == "Succeeded",  # type: ignore[misc]
            lambda name=name: kubectl(house, "describe", "pod", name),  # type: ignore[misc]
        )
        kubectl(house, "delete", "pod", name, "--timeout=120s")
    assert said(notes, "net") == str(Path("/proc/self/ns/net").readlink())
    inside, outside, _ = said(notes, "users").split()
    assert (inside, said(notes, "root")) == ("0", "0")
    assert outside != "0"


def test_a_pod_whose_claim_is_missing_says_so(house: House, notes: Path) -> None:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "nowhere"}}]
    kubectl(house, "apply", "-f", "-", stdin=a_pod("lost", notes, containers=[container("main", ":")], volumes=volumes))
    house.wait("the sentence", lambda: 'claim "nowhere" not found' in kubectl(house, "describe", "pod", "lost"))
    kubectl(house, "delete", "pod", "lost")


def test_an_init_container_that_fails_is_what_get_shows(house: House, notes: Path) -> None:
    broken = a_pod(
        "broken",
        notes,
        restartPolicy="Never",
        initContainers=[container("check", "echo the disk is missing > /dev/termination-log; exit 3")],
        containers=[container("main", "touch /notes/never")],
    )
    kubectl(house, "apply", "-f", "-", stdin=broken)

    def row() -> str:
        return kubectl(house, "get", "pod", "broken", "--no-headers")

    house.wait("the failure", lambda: row().split()[2] == "Init:Error", row)
    ended = get(house, "pod", "broken")["status"]["initContainerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["message"].strip()) == (3, "the disk is missing")
    assert not (notes / "never").exists()
    kubectl(house, "delete", "pod", "broken", "--timeout=120s")


def test_a_shorter_grace_period_than_the_pods_own_reaches_the_node(house: House, notes: Path) -> None:
    deaf = container("main", "trap '' TERM; touch /notes/up; while :; do sleep 1; done")
    patient = a_pod("patient", notes, containers=[deaf], terminationGracePeriodSeconds=3600)
    kubectl(house, "apply", "-f", "-", stdin=patient)
    house.wait("the pod to run", lambda: (notes / "up").exists())
    kubectl(house, "delete", "pod", "patient", "--grace-period=1", "--timeout=120s")


def test_many_slips_are_told_at_once_with_their_paths(house: House, notes: Path) -> None:
    wrong = everything(notes)
    wrong["metadata"]["name"] = "wrong"
    spec = wrong["spec"]
    spec["hostPID"] = True
    spec["initContainers"][0]["livenessProbe"] = {"tcpSocket": {"port": 1}}
    spec["containers"][0]["securityContext"]["runAsUsr"] = 5
    spec["containers"][0]["lifecycle"]["preStop"] = {"sleep": {"seconds": 60}}
    spec["volumes"][1]["persistentVolumeClaim"]["claimNam"] = "x"
    told = kubectl(house, "apply", "-f", "-", stdin=wrong, check=False)
    for words in (
        "spec.hostPID: not supported",
        "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without",
        'spec.containers[0].securityContext.runAsUsr: unknown field (did you mean "runAsUser"?)',
        "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than",
        'spec.volumes[1].persistentVolumeClaim.claimNam: unknown field (did you mean "claimName"?)',
    ):
        assert words in told, told
