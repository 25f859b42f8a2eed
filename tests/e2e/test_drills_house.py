"""Self-healing with a hub that is away: what the broker retains is enough, and so is what the disk holds."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from cloudlink.cli import leftovers
from cloudlink.cli.house import House
from tests.houses import a_house, apply_and_wait, container_pids, container_status, deployment, pods_of

pytestmark = pytest.mark.root


@pytest.fixture
def house() -> Iterator[House]:
    with a_house() as it:
        yield it


def kill(house: House, words: str) -> None:
    found = [pid for pid, line in leftovers.processes(house.folder).items() if words in line]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    house.wait(f"{words} to be dead", lambda: not any(leftovers.alive(pid) for pid in found))


def edged(house: House, *words: str) -> str:
    return house.python("-m", "edged", *words, "--config", str(house.node_toml), check=False).stdout


def test_a_node_with_broken_state_and_a_dead_hub_goes_on_with_what_the_broker_retains(house: House) -> None:
    pods = apply_and_wait(house, deployment("kept", replicas=3))
    pids = [container_pids(house, pod) for pod in pods]
    kill(house, "cloudlink.hub")
    kill(house, "edged run")
    for slot in (house.folder / "node" / "state").glob("desired.[ab]"):
        slot.write_bytes(slot.read_bytes()[:40] + b"\xff" * 500)
    house.start_node()
    house.wait("the retained document", lambda: edged(house, "status").count(" 1/1 ") == 3)
    assert [container_pids(house, pod) for pod in pods] == pids
    os.kill(pids[0][0], signal.SIGKILL)
    house.wait("a pod that was killed since", lambda: " restarts 1 " in edged(house, "status"))
    house.start_hub()
    house.wait(
        "the hub to know of it",
        lambda: sorted(container_status(p)["restartCount"] for p in pods_of(house, "kept")) == [0, 0, 1],
    )


def test_after_a_power_cut_without_any_network_every_pod_runs_again(house: House) -> None:
    apply_and_wait(house, deployment("alone", replicas=3))
    for process in ("cloudlink.hub", "mosquitto", "edged run"):
        kill(house, process)
    edged(house, "teardown", "--yes")  # what a power cut takes: processes, namespaces, everything in memory
    house.start_node()
    house.wait("the pods", lambda: edged(house, "status").count(" 1/1 ") == 3)
    assert "hub away" in edged(house, "status")
