"""A small board under memory pressure, with cgroup v2 and systemd: what each cgroup gets, and who gives way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edged.control.protocol import Snapshot
from edged.model import Limits, Phase, Pod
from tests.vm import installed
from tests.vm.hardware import Hardware
from tests.vm.lifetime import a_machine, notes_of
from tests.vm.node import IDLE, MIB, PARENT, PODS, Node, a_pod, status_of

SMALL = 512  # MB
ROOT = "/sys/fs/cgroup"

SURE = a_pod("sure", IDLE, Limits(24 * MIB, 24 * MIB, 100, 100))
# 16 MiB in a tmpfs, which is nobody's to reclaim, and 8 MiB of a file's cache, which is
FILL = "dd if=/dev/zero of=/dev/shm/ballast bs=1048576 count=16 2>/dev/null; "
CACHE = "dd if=/dev/zero of=/tmp/cache bs=1048576 count=8 2>/dev/null; sync; "
HUMBLE = a_pod("humble", FILL + CACHE + IDLE, Limits())
# Each dd holds a buffer of 8 MiB for good: nobody reads what it writes.
GREEDY = "while true; do dd if=/dev/zero bs=8388608 count=1 2>/dev/null | sleep 1d & sleep 0.3; done"
HOG = a_pod("hog", GREEDY, Limits(memory_request=8 * MIB))


@pytest.fixture(scope="module")
def board(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node with 512 MB."""
    with a_machine(request, installed.build(), hardware=Hardware(memory=SMALL), name="small") as machine:
        machine.boot()
        node = Node(machine, notes_of(request))
        node.install()
        yield node


@pytest.fixture
def calm(board: Node) -> Node:
    """With its five pods and nothing else, whatever the test before did."""
    board.desire(PODS)
    board.all_running()
    return board


def shown(node: Node, place: str, *files: str) -> dict[str, str]:
    return dict(zip(files, node.machine.read(*(f"{ROOT}{place}/{f}" for f in files)), strict=True))


def running(node: Node, *pods: Pod) -> Snapshot:
    uids = {p.uid for p in pods}
    return node.until(lambda s: uids <= {p.uid for p in s.status.pods if p.ready}, f"{sorted(uids)} to run")


def reasons(snapshot: Snapshot, pod: Pod) -> list[str]:
    return [e.reason for e in snapshot.status.events if e.pod == pod.uid]


# ---------------------------------------------------------------- the tree


def test_all_pods_together_leave_the_daemon_and_sshd_their_memory(calm: Node) -> None:
    capacity = calm.snapshot().status.capacity
    tree = shown(calm, PARENT, "memory.high", "memory.max", "pids.max")
    told = f"{capacity.memory >> 20} MiB in all, {capacity.memory_allocatable >> 20} MiB for pods"
    calm.notes.append(f"{SMALL} MB board: {told}; {tree}")
    assert 280 * MIB < capacity.memory_allocatable < capacity.memory - 110 * MIB
    assert int(tree["memory.high"]) == capacity.memory_allocatable
    assert 8 * MIB <= int(tree["memory.max"]) - int(tree["memory.high"]) <= 16 * MIB  # time to act
    assert int(tree["pids.max"]) > 1000


def test_the_daemon_comes_before_pods_where_there_is_too_little_processor(calm: Node) -> None:
    ours, pods = (shown(calm, place, "cpu.weight")["cpu.weight"] for place in ("/system.slice/edged.service", PARENT))
    assert int(ours) >= 10 * int(pods)


def test_what_a_pod_was_promised_is_promised_to_it_all_the_way_down(calm: Node) -> None:
    calm.desire((*PODS, SURE))
    running(calm, SURE)
    pod = shown(calm, f"{PARENT}/{SURE.uid}", "memory.min", "memory.low", "memory.max", "memory.swap.max", "pids.max")
    assert pod == {
        "memory.min": str(24 * MIB),
        "memory.low": "0",
        "memory.max": str(24 * MIB),
        "memory.swap.max": "0",
        "pids.max": "1024",
    }
    weights = shown(calm, f"{PARENT}/{SURE.uid}", "cpu.weight", "cpu.max")
    assert weights == {"cpu.weight": "4", "cpu.max": "10000 100000"}
    parent = shown(calm, PARENT, "memory.min", "memory.low")
    assert parent["memory.min"] == str(24 * MIB)
    assert parent["memory.low"] == str(sum(p.memory_request for p in PODS))
    above = shown(calm, "/system.slice", "memory.min", "memory.low")
    assert int(above["memory.min"]) == 24 * MIB + 40 * MIB  # and the daemon's own
    assert int(above["memory.low"]) >= int(parent["memory.low"])
    assert "memory_recursiveprot" in calm.machine.run("grep cgroup2 /proc/self/mountinfo")
    calm.machine.run("systemctl daemon-reload && systemd-run -q --wait -p CPUWeight=7 true")
    assert shown(calm, PARENT, "memory.min", "memory.low") == parent
    calm.until(lambda _: shown(calm, "/system.slice", "memory.min", "memory.low") == above, "the promise to be renewed")
    calm.desire(PODS)
    calm.all_running()
    assert shown(calm, PARENT, "memory.min")["memory.min"] == "0"


def test_the_daemon_is_the_last_that_the_kernel_would_kill(calm: Node) -> None:
    daemon = calm.daemon()
    monitors = [one.conmon for one in calm.processes().values()]
    found = calm.machine.read(*(f"/proc/{pid}/oom_score_adj" for pid in (daemon, *monitors)))
    assert found == ["-999", *["-1000"] * len(monitors)]
    inside = calm.machine.read(*(f"/proc/{one.pid}/oom_score_adj" for one in calm.processes().values()))
    assert all(0 < int(score) < 1000 for score in inside)
    own = calm.properties("MemoryMax", "MemoryMin", "OOMPolicy", "TasksMax")
    assert own == {
        "MemoryMax": str(192 * MIB), "MemoryMin": str(40 * MIB), "OOMPolicy": "continue", "TasksMax": "1024",
    }  # fmt: skip


# ---------------------------------------------------------------- the ladder


def test_a_hog_is_dealt_with_before_the_kernel_kills_anybody_else(calm: Node) -> None:
    calm.desire((*PODS, SURE))
    running(calm, SURE)
    neighbours = {uid: one.pid for uid, one in calm.processes().items()}
    daemon = calm.daemon()
    calm.desire((*PODS, SURE, HUMBLE))
    running(calm, HUMBLE)
    calm.desire((*PODS, SURE, HUMBLE, HOG))
    try:
        ended = calm.until(
            lambda s: any(p.uid == HOG.uid and p.reason == "Evicted" for p in s.status.pods), "the hog's eviction"
        )
        told = status_of(ended, HOG)
        calm.notes.append(f"evicted: {told.message}")
        began = ended.status.events[0].wall
        calm.notes += [f"  {e.wall - began:6.1f} s  {e.title or 'node'}: {e.message}" for e in ended.status.events]
        steps = [e.reason for e in ended.status.events if e.pod in (HOG.uid, HUMBLE.uid)]
        order = [r for r in dict.fromkeys(steps) if r in ("ReclaimedMemory", "SqueezedMemory", "Frozen", "Evicted")]
        assert order == ["ReclaimedMemory", "SqueezedMemory", "Frozen", "Evicted"]
        assert "short of memory" in told.message
        assert any(c.kind == "MemoryPressure" for c in ended.status.conditions)
        for pod in (*PODS, SURE):
            assert not {"SqueezedMemory", "Frozen", "Evicted"} & set(reasons(ended, pod))
        after = calm.until(lambda s: HOG.uid not in calm.processes(), "the hog to be gone")
        assert status_of(after, HOG).phase is Phase.FAILED
        assert calm.daemon() == daemon
        left = {uid: one.pid for uid, one in calm.processes().items()}
        assert {uid: left.get(uid) for uid in neighbours} == neighbours
        kernel = calm.machine.run("journalctl -k -b --no-pager -o cat | grep -i 'killed process\\|out of memory' ; :")
        calm.notes.append(f"the kernel's own kills meanwhile: {kernel.strip() or 'none'}")
        assert (
            "Out of memory: Killed" not in kernel
        )  # of the whole board; a cgroup's own limit says "Memory cgroup ..."
    finally:
        calm.desire(PODS)
    calm.until(lambda s: {p.uid for p in s.status.pods} == {p.uid for p in PODS}, "the others to be gone")


def test_when_pressure_is_over_nobody_is_held_and_the_condition_ends(board: Node) -> None:
    board.until(lambda s: not s.status.conditions, "the condition to end")
    held = board.machine.run(
        f"cd {ROOT}{PARENT} && for pod in uid-*; do echo $(cat $pod/cgroup.freeze $pod/memory.high); done"
    )
    assert held.split("\n")[:-1] == ["0 max"] * len(PODS)


def test_a_frozen_pod_stands_still_goes_on_and_is_let_go_by_a_new_daemon(calm: Node) -> None:
    victim = PODS[1].uid
    calm.machine.run(f"echo 1 > {ROOT}{PARENT}/{victim}/cgroup.freeze")
    calm.machine.run(f"until grep -q 'frozen 1' {ROOT}{PARENT}/{victim}/cgroup.events; do sleep 0.1; done")
    pid = calm.processes()[victim].pid
    calm.machine.run("systemctl kill -s KILL --kill-whom=main edged")
    calm.machine.run(f"until grep -q 'frozen 0' {ROOT}{PARENT}/{victim}/cgroup.events; do sleep 0.1; done")
    calm.all_running()
    assert calm.processes()[victim].pid == pid
