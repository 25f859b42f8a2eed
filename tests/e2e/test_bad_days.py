"""The bad day: processes killed in the middle of a rollout, full disks, a broker away, an old backup, no leaks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlink.cli import leftovers
from cloudlink.cli.house import House, is_ready
from cloudlink.cli.resources import apply
from edged.errors import EdgedError
from tests.houses import (
    a_house,
    apply_and_wait,
    container_pids,
    container_status,
    deployment,
    pods_of,
    unique_names,
)
from tests.local_node import files

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


def kubectl(house: House, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "--kubeconfig", str(house.kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def find(house: House, words: str) -> list[int]:
    return [pid for pid, line in leftovers.processes(house.folder).items() if words in line]


def kill(house: House, words: str) -> list[int]:
    """SIGKILL, and wait until they are dead: what is started again must not meet them."""
    found = find(house, words)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    house.wait(f"{words} to be dead", lambda: not any(leftovers.alive(pid) for pid in found))
    return found


def attempts(house: House, name: str) -> dict[str, str]:
    """Pod name -> the id of its newest attempt: equal before and after means that nothing was restarted."""
    return {p["metadata"]["name"]: container_status(p)["containerID"] for p in pods_of(house, name)}


def delete(house: House, *names: str) -> None:
    for name in names:
        house.client.call("DELETE", f"/apis/apps/v1/namespaces/default/deployments/{name}")


def remove(house: House, *names: str) -> None:
    delete(house, *names)
    house.wait("the pods to go", lambda: not any(pods_of(house, n) for n in names))


# ---------------------------------------------------------------- killed in the middle of a rollout


def release(number: int, replicas: int) -> dict[str, Any]:
    manifest = deployment("rolling", replicas=replicas, env=[{"name": "RELEASE", "value": str(number)}])
    manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 0
    return manifest


def is_released(house: House, number: int, replicas: int) -> bool:
    pods = pods_of(house, "rolling")
    values = [p["spec"]["containers"][0]["env"][0]["value"] for p in pods]
    return values == [str(number)] * replicas and all(map(is_ready, pods))


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "rolling"},
    "spec": {"selector": {"app": "rolling"}, "ports": [{"port": 80}]},
}


def test_a_rollout_ends_whatever_is_killed_on_its_way_and_bystanders_run_on(house: House) -> None:
    victims = ("edged run", "conmon", "mosquitto", "cloudlink.hub", "dnsmasq", "edged.runtime.networker")
    dice = random.Random(7)
    apply(house.client, SERVICE)
    apply_and_wait(house, deployment("bystander", replicas=2))
    before = attempts(house, "bystander")
    apply_and_wait(house, release(0, 10))
    house.wait("the name server", lambda: bool(find(house, "dnsmasq")))
    for number, victim in enumerate(victims, 1):
        apply(house.client, release(number, 10))
        goal = dice.randrange(10)  # how far the rollout gets before the blow
        house.wait(f"{goal} new pods", lambda n=number, goal=goal: new_pods(house, n) >= goal)  # type: ignore[misc]
        assert kill(house, victim), f"no {victim} runs"
        if victim == "edged run":
            house.start_node()
        if victim == "cloudlink.hub":
            house.start_hub()
        house.wait(f"release {number} after {victim}", lambda n=number: is_released(house, n, 10))  # type: ignore[misc]
        assert attempts(house, "bystander") == before
    house.wait("the name server to be back", lambda: bool(find(house, "dnsmasq")))
    remove(house, "rolling", "bystander")
    house.client.call("DELETE", "/api/v1/namespaces/default/services/rolling")


def new_pods(house: House, number: int) -> int:
    return sum(p["spec"]["containers"][0]["env"][0]["value"] == str(number) for p in pods_of(house, "rolling"))


# ---------------------------------------------------------------- away, and back


def test_what_changed_while_the_broker_hung_arrives_at_once_and_nothing_else_is_touched(house: House) -> None:
    for name, replicas in (("stay", 2), ("grow", 1), ("leave", 1)):
        apply_and_wait(house, deployment(name, replicas=replicas))
    before = attempts(house, "stay") | attempts(house, "grow")
    (broker,) = find(house, "mosquitto")
    os.kill(broker, signal.SIGSTOP)  # worse than dead: connections stay open
    apply(house.client, deployment("grow", replicas=3))
    apply(house.client, deployment("new"))
    delete(house, "leave")
    os.kill(broker, signal.SIGKILL)
    apply_and_wait(house, deployment("grow", replicas=3))
    apply_and_wait(house, deployment("new"))
    house.wait("what was deleted to go", lambda: not pods_of(house, "leave"))
    assert before.items() <= (attempts(house, "stay") | attempts(house, "grow")).items()
    remove(house, "stay", "grow", "new")


def test_a_hub_restored_from_an_older_copy_goes_on_beyond_what_the_node_has(house: House) -> None:
    apply_and_wait(house, deployment("old", replicas=2))
    before = attempts(house, "old")
    database, copy = house.folder / "hub" / "hub.db", house.folder / "backup.db"
    with contextlib.closing(sqlite3.connect(database)) as live, contextlib.closing(sqlite3.connect(copy)) as backup:
        live.backup(backup)
    apply_and_wait(house, deployment("lost"))
    apply_and_wait(house, deployment("lost", replicas=2))
    kill(house, "cloudlink.hub")
    kill(house, "mosquitto")
    for rest in database.parent.glob("hub.db-*"):
        rest.unlink()
    copy.replace(database)
    house.start_hub()
    apply_and_wait(house, deployment("after-restore"))
    assert attempts(house, "old") == before
    assert not pods_of(house, "lost")
    remove(house, "old", "after-restore")


# ---------------------------------------------------------------- full disks


@contextlib.contextmanager
def small_disks(hub: str, node: str) -> Iterator[House]:
    """A house whose hub and node have a disk of their own each, of these sizes."""
    house = House(Path(tempfile.mkdtemp(prefix="edged-house-")), unique_names())
    try:
        for folder, size in ((house.folder / "hub", hub), (house.folder / "node" / "state", node)):
            folder.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
        house.prepare_hub()
        house.start_hub()
        house.build_image("probe")
        house.join()
        house.start_node()
        yield house
    finally:
        house.down()
        left = {kind: items for kind, items in house.left().items() if items}
        assert not left, f"left behind: {left}"


def fill(folder: Path) -> Path:
    file = folder / "filler"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, b"x" * 4096)
    os.close(descriptor)
    return file


@pytest.mark.kubectl
def test_full_disks_are_told_stop_no_pod_and_are_over_when_there_is_room_again() -> None:
    with small_disks(hub="24m", node="24m") as house:
        apply_and_wait(house, deployment("a", replicas=2))
        before = attempts(house, "a")

        filler = fill(house.folder / "hub")
        large = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "x" * 50_000}}
        with pytest.raises(EdgedError, match="nothing of it was done: database or disk is full"):
            apply(house.client, large)
        assert kubectl(house, "get", "pods").returncode == 0
        with pytest.raises(EdgedError, match="takes nothing now: database or disk is full"):
            house.client.call("GET", "/readyz")
        filler.unlink()
        assert house.client.call("GET", "/readyz") == "ok"
        apply_and_wait(house, deployment("a", replicas=3))

        filler = fill(house.folder / "node" / "state")
        long = [{"name": "LONG", "value": "x" * 100_000}]  # more than the blocks that the state has already
        apply(house.client, deployment("b", env=long))
        told = "can't save desired state"
        house.wait(
            "a word about it",
            lambda: told in kubectl(house, "describe", "node").stdout,
            lambda: kubectl(house, "describe", "node").stdout,
        )
        assert before.items() <= attempts(house, "a").items()
        filler.unlink()
        apply_and_wait(house, deployment("b", env=long))
        apply_and_wait(house, deployment("c"))
        house.wait("it to be over", lambda: told not in degraded(house))
        assert before.items() <= attempts(house, "a").items()


def degraded(house: House) -> str:
    (node,) = house.client.call("GET", "/api/v1/nodes")["items"]
    return json.dumps([c for c in node["status"]["conditions"] if c["type"] == "Degraded"])


# ---------------------------------------------------------------- leaks


def belongings(house: House) -> dict[str, int]:
    """Everything that must not grow with the number of pods that came and went."""
    daemon, node, names = house.pids["node"], house.folder / "node", house.names
    parents = (*Path("/sys/fs/cgroup").glob(f"*/{names.cgroup}"), Path("/sys/fs/cgroup", names.cgroup))
    return {
        "descriptors": sum(1 for _ in Path(f"/proc/{daemon}/fd").iterdir()),
        "threads": sum(1 for _ in Path(f"/proc/{daemon}/task").iterdir()),
        "mounts": Path(f"/proc/{daemon}/mountinfo").read_text().count(str(house.folder)),
        "files in run_dir": files(node / "run"),
        "files in state_dir": files(node / "state"),
        "cgroups": sum(1 for p in parents if p.is_dir() for _ in p.rglob("cgroup.procs")),
        "interfaces": sum(names.bridge in n for _, n in socket.if_nameindex()),
        "processes": len(leftovers.processes(house.folder)),
    }


def test_pods_that_come_die_and_go_leave_nothing_behind() -> None:
    with a_house() as house:
        apply(house.client, deployment("first"))  # what is made once, such as the bridge, is there after this
        come_die_and_go(house)
        remove(house, "first")
        house.wait("quiet", lambda: edged_is_idle(house))
        before = belongings(house)
        for _ in range(5):
            come_die_and_go(house)
        house.wait(
            "nothing to be left",
            lambda: belongings(house) == before,
            lambda: f"before {before}\nafter  {belongings(house)}",
        )


def come_die_and_go(house: House) -> None:
    manifest = deployment("mayfly")
    manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 0
    (pod,) = apply_and_wait(house, manifest)
    os.kill(container_pids(house, pod)[0], signal.SIGKILL)
    house.wait("the restart", lambda: container_status(pods_of(house, "mayfly")[0])["restartCount"] == 1)
    remove(house, "mayfly")


def edged_is_idle(house: House) -> bool:
    return house.python("-m", "edged", "plan", "--config", str(house.node_toml)).stdout.strip() == "nothing to do"
