"""Manifest -> hub -> MQTT -> node -> container -> status, and every process on the way killed in turn."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlink.cli import leftovers
from cloudlink.cli.house import House
from cloudlink.cli.resources import apply
from tests.houses import a_house, apply_and_wait, container_pids, container_status, deployment, pods_of

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


def find(house: House, words: str) -> list[int]:
    return [pid for pid, line in leftovers.processes(house.folder).items() if words in line]


def kill(house: House, words: str) -> None:
    for pid in find(house, words):
        os.kill(pid, signal.SIGKILL)
    house.wait(f"{words} to be gone", lambda: not any(leftovers.alive(p) for p in find(house, words)) or True)


def test_an_applied_deployment_runs_and_its_status_comes_back(house: House) -> None:
    pods = apply_and_wait(house, deployment("path", replicas=2))
    for pod in pods:
        assert pod["status"]["podIP"]
        assert container_pids(house, pod)


def test_a_killed_container_is_running_again_and_counted(house: House) -> None:
    (pod,) = apply_and_wait(house, deployment("killed"))
    before = container_pids(house, pod)
    os.kill(before[0], signal.SIGKILL)
    house.wait("the restart", lambda: container_status(pods_of(house, "killed")[0])["restartCount"] == 1)
    house.wait("the new process", lambda: bool(set(container_pids(house, pod)) - set(before)))
    last = container_status(pods_of(house, "killed")[0])["lastState"]["terminated"]
    assert last["exitCode"] == 137


def test_a_container_over_its_memory_limit_is_reported_as_oomkilled(house: House) -> None:
    hog = "sleep 0.3; tail /dev/zero"  # tail keeps the one endless line in memory
    apply(house.client, deployment("hog", command=hog))

    def told() -> bool:
        pods = pods_of(house, "hog")
        statuses = (pods[0].get("status") or {}).get("containerStatuses") if pods else None
        if not statuses:
            return False
        ended = [s.get("terminated") or {} for s in (statuses[0].get("state", {}), statuses[0].get("lastState", {}))]
        return any(e.get("reason") == "OOMKilled" for e in ended)

    house.wait("OOMKilled in the status", told, lambda: str([p.get("status") for p in pods_of(house, "hog")]))
    apply(house.client, deployment("hog", replicas=0, command=hog))


def test_killing_edged_touches_no_container_and_the_next_one_adopts_them(house: House) -> None:
    (pod,) = apply_and_wait(house, deployment("adopted"))
    before = container_pids(house, pod)
    kill(house, "edged run")
    assert container_pids(house, pod) == before
    house.start_node()
    apply_and_wait(house, deployment("later"))  # the new daemon works
    assert container_pids(house, pod) == before
    assert container_status(pods_of(house, "adopted")[0])["restartCount"] == 0


def test_killing_conmon_touches_no_container_and_its_end_is_still_seen(house: House) -> None:
    (pod,) = apply_and_wait(house, deployment("orphan", command="while :; do echo talking; sleep 0.1; done"))
    uid, before = pod["metadata"]["uid"], container_pids(house, pod)
    for pid in find(house, "conmon"):
        if uid in leftovers.processes(house.folder).get(pid, ""):
            os.kill(pid, signal.SIGKILL)
    apply_and_wait(house, deployment("after-conmon"))
    assert before[0] in container_pids(house, pod), "the container died with its monitor"
    os.kill(before[0], signal.SIGKILL)
    house.wait("the restart", lambda: container_status(pods_of(house, "orphan")[0])["restartCount"] == 1)


def test_killing_the_broker_touches_no_container_and_changes_arrive_again(house: House) -> None:
    (pod,) = apply_and_wait(house, deployment("brokerless"))
    before = container_pids(house, pod)
    kill(house, "mosquitto")
    apply_and_wait(house, deployment("after-broker"))
    assert container_pids(house, pod) == before


def test_killing_the_hub_touches_no_container_and_it_knows_everything_afterwards(house: House) -> None:
    (pod,) = apply_and_wait(house, deployment("hubless"))
    before = container_pids(house, pod)
    kill(house, "cloudlink.hub")
    assert container_pids(house, pod) == before
    house.start_hub()
    apply_and_wait(house, deployment("after-hub"))
    assert container_pids(house, pod) == before
    assert container_status(pods_of(house, "hubless")[0])["restartCount"] == 0


def test_a_deleted_deployment_leaves_no_process_and_no_pod(house: House) -> None:
    (pod,) = apply_and_wait(house, deployment("doomed"))
    house.client.call("DELETE", "/apis/apps/v1/namespaces/default/deployments/doomed")
    house.wait("its pods to go", lambda: not pods_of(house, "doomed"))
    assert not container_pids(house, pod)


def test_after_a_power_cut_the_node_starts_its_pods_with_no_hub_and_no_broker() -> None:
    with a_house() as house:
        apply_and_wait(house, deployment("offline", replicas=3))
        cut_the_power(house)
        assert not leftovers.processes(house.folder)
        house.start_node()
        pids: set[int] = set()

        def up() -> bool:
            nonlocal pids
            pids = {p for f in cgroup_files(house) for p in map(int, f.read_text().split())}
            return len(pids) >= 3

        house.wait("3 pods to run with no hub", up)
        assert not find(house, "cloudlink.hub")
        house.start_hub()
        house.wait("the hub to hear of them", lambda: sum(bool(p["status"].get("podIP")) for p in house.pods()) == 3)
        assert pids <= {p for f in cgroup_files(house) for p in map(int, f.read_text().split())}, "restarted"


def cgroup_files(house: House) -> list[Path]:
    roots = [r for r in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")) if (r / house.names.cgroup).is_dir()]
    return list((roots[0] / house.names.cgroup).rglob("cgroup.procs")) if roots else []


def cut_the_power(house: House) -> None:
    """Everything killed at once, all that lives in memory gone: mounts, namespaces, run_dir, cgroups, interfaces."""
    pids = [*leftovers.processes(house.folder), *(int(p) for f in cgroup_files(house) for p in f.read_text().split())]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    house.wait("everything to be dead", lambda: not any(leftovers.alive(p) for p in pids))
    leftovers.forget_memory(house.folder / "node" / "run", house.names.bridge, house.names.table, house.names.cgroup)
