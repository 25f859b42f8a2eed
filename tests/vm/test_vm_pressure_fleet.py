"""A board of 512 MB in a fleet, with four kinds of hogs at once: who answers, who gives way, and what the hub sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudlink.cli.resources import apply
from tests.houses import pods_of
from tests.vm import installed
from tests.vm.fleet import Fleet
from tests.vm.hardware import Hardware
from tests.vm.lifetime import a_machine, notes_of
from tests.vm.node import ENABLE, MIB, PARENT, Node, Running
from tests.vm.prober import Prober
from tests.vm.witness import NO_PODS

NAME = "small"
HARDWARE = Hardware(memory=512, cores=1)  # why one core: README.md
PODS = "/api/v1/namespaces/default/pods"
IDLE = "trap 'exit 0' TERM; sleep 1d & wait"
HOGS = {
    # 8 MiB more three times a second, held by dd for good: nobody reads what it writes
    "memory": "while true; do dd if=/dev/zero bs=8388608 count=1 2>/dev/null | sleep 1d & sleep 0.3; done",
    "pages": "while true; do dd if=/dev/zero of=/tmp/f bs=1048576 count=96 2>/dev/null; done",
    "fork": "bomb() { bomb | bomb & }; bomb; sleep 1d & wait",
    "cpu": "while true; do :; done & while true; do :; done",
}
LADDER = ("ReclaimedMemory", "SqueezedMemory", "Frozen", "Evicted")


def pod(name: str, command: str, **resources: dict[str, str]) -> dict[str, Any]:
    """A pod of one container; `resources` are its requests and limits."""
    main = {
        "name": "main",
        "image": "localhost/probe:latest",
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", command],
        "resources": resources,
    }
    spec = {"nodeName": NAME, "terminationGracePeriodSeconds": 2, "restartPolicy": "Always", "containers": [main]}
    group = "hog" if name in HOGS else "innocent"
    meta = {"name": name, "labels": {"app": group}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


INNOCENT = [
    *(pod(f"plain-{n}", IDLE, requests={"memory": "8Mi"}) for n in range(3)),
    pod("sure", IDLE, requests={"memory": "24Mi", "cpu": "100m"}, limits={"memory": "24Mi", "cpu": "100m"}),
]


@pytest.fixture(scope="module")
def board(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Node]:
    """Joined to the hub on the host, with its innocent pods running."""
    with a_machine(request, installed.build(), HARDWARE, "pressure") as machine:
        machine.boot()
        fleet.join_machine(machine, NAME)
        machine.run(ENABLE)
        fleet.until_ready(NAME)
        for one in INNOCENT:
            apply(fleet.client, one)
        fleet.wait("the innocent to run", lambda: len(ready(fleet)) == len(INNOCENT))
        yield Node(machine, notes_of(request))
        fleet.client.call("DELETE", PODS)
        fleet.client.call("DELETE", f"/api/v1/nodes/{NAME}")


def ready(fleet: Fleet) -> set[str]:
    """Names of innocent pods that are."""
    return {
        p["metadata"]["name"]
        for p in pods_of(fleet, "innocent")
        if any(c["type"] == "Ready" and c["status"] == "True" for c in p.get("status", {}).get("conditions", ()))
    }


def numbers(node: Node) -> dict[str, str]:
    """What the kernel and we say about memory: the files of the board and of all its pods."""
    root = f"/sys/fs/cgroup{PARENT}"
    files = ("memory.high", "memory.max", "memory.current", "memory.events", "memory.pressure")
    told = node.machine.read("/proc/pressure/memory", *(f"{root}/{f}" for f in files))
    return {name: " ".join(text.split()) for name, text in zip(("PSI of the board", *files), told, strict=True)}


def stalled(pressure: str) -> int:
    """Microseconds for which somebody waited for memory, from a PSI file."""
    return int(next(word for word in pressure.split() if word.startswith("total=")).removeprefix("total="))


def evicted(fleet: Fleet) -> set[str]:
    return {p["metadata"]["name"] for p in pods_of(fleet, "hog") if p.get("status", {}).get("reason") == "Evicted"}


def untouched(node: Node, before: dict[str, Running]) -> None:
    after = node.processes()
    for uid, one in before.items():
        assert (after[uid].pid, after[uid].started) == (one.pid, one.started), f"{uid}: another process than before"


def pressed(board: Node, fleet: Fleet) -> dict[str, str]:
    """Let the hogs loose, the one for memory last, and wait until it is evicted; what the kernel says then."""
    for name in ("cpu", "pages", "fork"):
        apply(fleet.client, pod(name, HOGS[name]))
    fleet.wait("the hogs to be at it", lambda: len(board.processes()) >= len(INNOCENT) + 2)
    apply(fleet.client, pod("memory", HOGS["memory"], requests={"memory": "8Mi"}))
    fleet.wait("the hub to see MemoryPressure", lambda: fleet.node_is(NAME, "MemoryPressure"), lambda: told(board))
    board.notes.append(fleet.shown("get", "nodes", NAME))
    fleet.wait("the memory hog to be evicted", lambda: "memory" in evicted(fleet), lambda: told(board))
    during = numbers(board)
    board.notes.append("during: " + "; ".join(f"{k}: {v}" for k, v in during.items()))
    board.notes.append(fleet.shown("get", "pods", "-o", "wide"))
    return during


@pytest.mark.vm_ci
def test_sshd_and_the_daemon_answer_while_hogs_are_dealt_with_and_the_hub_knows(board: Node, fleet: Fleet) -> None:
    before, was, daemon = numbers(board), board.processes(), board.daemon()
    board.notes.append("--- 512 MB, before the hogs: " + "; ".join(f"{k}: {v}" for k, v in before.items()))
    prober = Prober(board.machine)
    try:
        with prober:
            during = pressed(board, fleet)
    finally:
        board.notes += prober.table()
        board.notes.append(told(board))

    asked, ssh, answers = prober.missed()
    assert asked > 3
    assert (ssh, answers) == (0, 0), (
        f"of {asked} questions {ssh} were not answered by sshd, {answers} not by the daemon"
    )
    assert board.daemon() == daemon
    untouched(board, was)
    assert stalled(during["PSI of the board"]) > stalled(before["PSI of the board"])
    limit = board.snapshot().status.capacity.memory_allocatable
    assert int(during["memory.high"]) == limit, "all pods together keep to what the board has for them"
    assert int(during["memory.max"]) - limit <= 16 * MIB
    steps = [e.reason for e in board.snapshot().status.events if e.reason in LADDER]
    assert [s for s in LADDER if s in steps] == list(dict.fromkeys(steps)), f"another order: {steps}"
    assert "Evicted" in steps
    seen = {e["reason"] for e in fleet.client.call("GET", "/api/v1/namespaces/default/events")["items"]}
    assert "Evicted" in seen, f"the hub's events: {sorted(seen)}"
    assert {c["type"] for c in fleet.nodes()[NAME]["status"]["conditions"]} >= {"Ready", "MemoryPressure"}
    assert "Out of memory: Killed" not in board.machine.run("journalctl -k -b --no-pager -o cat")


def test_when_the_hogs_are_gone_the_board_is_as_before(board: Node, fleet: Fleet) -> None:
    was = {uid: one for uid, one in board.processes().items() if uid in innocent_uids(fleet)}
    fleet.client.call("DELETE", f"{PODS}?labelSelector=app%3Dhog")
    fleet.wait("the hogs to be gone", lambda: set(board.processes()) == set(was) and not pods_of(fleet, "hog"))
    fleet.wait("MemoryPressure to end", lambda: fleet.node_is(NAME, "MemoryPressure", "False"))
    untouched(board, was)
    assert ready(fleet) == {p["metadata"]["name"] for p in INNOCENT}
    fleet.wait("the hogs' cgroups to be gone", lambda: len(held(board)) == len(INNOCENT), lambda: str(held(board)))
    assert set(held(board).values()) == {("0", "max")}, "neither frozen nor squeezed"


def held(board: Node) -> dict[str, tuple[str, str]]:
    """Cgroup of each pod -> its cgroup.freeze and memory.high."""
    show = 'for pod in */; do echo "$pod $(cat "$pod/cgroup.freeze" "$pod/memory.high" | xargs)"; done'
    lines = board.machine.run(f"cd /sys/fs/cgroup{PARENT} && {show}").splitlines()
    return {name: (frozen, high) for name, frozen, high in map(str.split, lines) if name.strip("/") not in NO_PODS}


def innocent_uids(fleet: Fleet) -> set[str]:
    return {p["metadata"]["uid"] for p in pods_of(fleet, "innocent")}


def told(board: Node) -> str:
    """The ladder's steps as the board tells them."""
    events = board.snapshot().status.events
    began = events[0].wall if events else 0.0
    return "\n".join(f"{e.wall - began:6.1f} s  {e.title or 'node'}: {e.reason}: {e.message}" for e in events)
