"""Three boards and a hub: pods are packed by memory; one board loses its power and its pods move; it comes back.

What runs is told by the guests' kernels, not by the hub: in each of them a witness (tests.vm.witness) writes down which
pods have processes, from before the daemon's start on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloudlink.kube.quantity import to_int
from tests.houses import deployment
from tests.kubectl_lab import Kubectl
from tests.vm import installed, witness
from tests.vm.fleet import Fleet, a_fleet
from tests.vm.hardware import Hardware
from tests.vm.lifetime import a_machine, notes_of
from tests.vm.machine import Machine
from tests.vm.node import ENABLE, Node, Running

pytestmark = [pytest.mark.kubectl, pytest.mark.vm_long]

NAMES = ("board-1", "board-2", "board-3")
MEMORY = 320  # MB each
MI = 1 << 20
PATIENCE = 10  # seconds for which pods tolerate a lost node
TOLERATIONS = [
    {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": PATIENCE}
    for what in ("unreachable", "not-ready")
]
LARGE, SMALL, VALVE = 4, 2, 1  # replicas
CLOCKS = 1.5  # seconds by which a guest's clock may differ from ours, after all


class Board(NamedTuple):
    name: str
    machine: Machine
    node: Node

    def clock(self) -> float:
        """What to add to the guest's time to have ours."""
        before = time.time()
        told = float(self.machine.run("date +%s.%N"))
        return (before + time.time()) / 2 - told

    def boot_id(self) -> str:
        return self.machine.read("/proc/sys/kernel/random/boot_id")[0]


class Stay(NamedTuple):
    """A pod's processes on one board, in seconds of our own clock."""

    board: str
    uid: str
    since: float
    until: float


class Boards:
    """:ivar apps: pod uid -> app, of all pods that the hub ever showed us."""

    def __init__(self, fleet: Fleet, boards: dict[str, Board], notes: list[str]) -> None:
        self.fleet, self.of, self.notes = fleet, boards, notes
        self.kubectl: Kubectl = fleet.kubectl(name="fleet")
        self.apps: dict[str, str] = {}
        self.offsets: dict[str, float] = {}  # boot -> what to add to that guest's clock
        for board in boards.values():
            self.note_clock(board)

    def note_clock(self, board: Board) -> None:
        self.offsets[board.boot_id()] = board.clock()

    def pods(self) -> list[dict[str, Any]]:
        found = list(self.kubectl.json("get", "pods")["items"])
        self.apps |= {p["metadata"]["uid"]: p["metadata"]["labels"]["app"] for p in found}
        return found

    def running(self) -> dict[str, str]:
        """Pod uid -> board, of those that the hub says are Running and Ready and not on their way out."""
        return {
            p["metadata"]["uid"]: p["spec"]["nodeName"]
            for p in self.pods()
            if not p["metadata"].get("deletionTimestamp") and _is_ready(p)
        }

    def until_running(self, wanted: dict[str, int], what: str) -> dict[str, str]:
        """App -> number of pods, exactly; returns `running`."""

        def holds() -> bool:
            return Counter(self.apps[uid] for uid in self.running()) == wanted

        self.fleet.wait(what, holds, lambda: self.kubectl.ok("get", "pods", "-o", "wide"))
        return self.running()

    def processes(self, *names: str) -> dict[str, Running]:
        """Pod uid -> its container's first process, as the guests have it."""
        found: dict[str, Running] = {}
        for name in names or NAMES:
            found |= self.of[name].node.processes()
        return found

    def stays(self) -> list[Stay]:
        """All that the witnesses have written."""
        found = []
        for name, board in self.of.items():
            for stay in witness.stays(board.machine.read(witness.LOG)[0]):
                shift = self.offsets[stay.boot]
                found.append(Stay(name, stay.uid, stay.since + shift, stay.until + shift))
        return found

    def show(self, title: str) -> None:
        self.notes.append(f"--- {title}\n{self.kubectl.ok('get', 'pods', '-o', 'wide', '--sort-by=.spec.nodeName')}")


@pytest.fixture(scope="module")
def boards(request: pytest.FixtureRequest) -> Iterator[Boards]:
    """Three boards that have joined a hub of their own, with nothing to do yet."""
    notes = notes_of(request)
    with ExitStack() as stack:
        fleet = stack.enter_context(a_fleet())
        made = {}
        for number, name in enumerate(NAMES, 1):
            hardware = Hardware(memory=MEMORY, cores=1, append=f"systemd.machine_id={number:032x}")
            machine = stack.enter_context(a_machine(request, installed.build(), hardware, name))
            machine.power_on()
            made[name] = Board(name, machine, Node(machine, notes))
        for board in made.values():
            board.machine.until_ssh()
            settle_in(fleet, board)
        fleet.until_ready(*NAMES)
        yield Boards(fleet, made, notes)


def settle_in(fleet: Fleet, board: Board) -> None:
    board.machine.run(f"hostnamectl hostname {board.name} || hostname {board.name}")
    board.machine.write("/usr/local/sbin/witness.py", Path(witness.__file__).read_bytes())
    board.machine.write("/etc/systemd/system/witness.service", witness.UNIT)
    board.machine.run("systemctl daemon-reload && systemctl enable -q --now witness")
    fleet.join_machine(board.machine, board.name)
    board.machine.run(ENABLE)


def workload(app: str, replicas: int, memory: int, kind: str = "Deployment") -> dict[str, Any]:
    """Asks for that many bytes of memory."""
    manifest = deployment(
        app, replicas, "trap 'exit 0' TERM; sleep 1d & wait", resources={"requests": {"memory": str(memory)}}
    )
    manifest["kind"] = kind
    manifest["spec"]["template"]["spec"]["tolerations"] = TOLERATIONS
    if kind == "StatefulSet":
        manifest["spec"]["serviceName"] = app
    return manifest


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def same(before: dict[str, Running], after: dict[str, Running], uids: set[str]) -> None:
    """The very same processes."""
    assert uids, "there is something to compare"
    for uid in uids:
        assert (after[uid].pid, after[uid].started) == (before[uid].pid, before[uid].started), uid


def test_a_board_that_dies_and_returns_moves_its_pods_and_nothing_else(boards: Boards) -> None:
    room = min(allocatable(boards.fleet, name) for name in NAMES)
    wanted = {"large": LARGE, "small": SMALL, "valve": VALVE}
    # Two large ones and a small one fill a board but for a rest: only the small ones' memory tells where they fit.
    for app, memory, kind in (
        ("large", room * 40 // 100, "Deployment"),
        ("small", room * 14 // 100, "Deployment"),
        ("valve", room * 4 // 100, "StatefulSet"),
    ):
        boards.kubectl.ok("apply", "-f", "-", stdin=workload(app, wanted[app], memory, kind))
        boards.until_running(
            {a: n for a, n in wanted.items() if a in boards.apps.values() or a == app}, f"{app} to run"
        )
    first = boards.until_running(wanted, "all pods to run")
    boards.show(f"packed by memory: {room // MI} MiB allocatable on each of three boards with {MEMORY} MB")
    for name in NAMES:
        described = boards.kubectl.ok("describe", "node", name)
        boards.notes.append(
            f"{name}: " + " ".join(line for line in described.splitlines() if line.startswith("  memory "))
        )

    # packed: as few boards as can hold them
    full = {name: Counter(boards.apps[uid] for uid, where in first.items() if where == name) for name in NAMES}
    assert sorted(sum(c.values()) for c in full.values()) == [0, 3, 4], full
    assert sorted(c["large"] for c in full.values()) == [0, 2, 2], full
    victim = next(name for name in NAMES if full[name]["valve"])
    others = [name for name in NAMES if name != victim]
    (empty,) = (name for name in NAMES if not full[name])
    before = boards.processes()
    assert set(before) == set(first)

    # the power goes
    boards.of[victim].machine.cut_power()
    cut_at = time.time()
    moving = {"large": LARGE, "small": SMALL}
    moved = boards.until_running(moving, f"what was on {victim} to run elsewhere")
    boards.notes.append(f"{time.time() - cut_at:.0f} s after {victim} lost its power its pods run on {empty}")
    boards.show(f"{victim} is off")
    new = set(moved) - set(first)
    assert {moved[uid] for uid in new} == {empty}
    assert Counter(boards.apps[uid] for uid in new) == {"large": 2, "small": full[victim]["small"]}
    meanwhile = boards.processes(*others)
    assert set(meanwhile) == set(moved), "what the hub says is what runs there"
    same(before, meanwhile, {uid for uid, where in first.items() if where in others})

    # it returns
    boards.of[victim].machine.boot()
    boards.note_clock(boards.of[victim])
    boards.fleet.until_ready(victim)
    last = boards.until_running(wanted, "the valve to be back")
    boards.fleet.wait("the evicted pods to be gone", lambda: len(boards.pods()) == len(last))
    boards.show(f"{victim} is back")
    assert {uid for uid in last if boards.apps[uid] != "valve"} == set(moved), "nothing moves back"
    after = boards.processes()
    assert set(after) == set(last), "every pod runs once, and nothing else does"
    same(meanwhile, after, set(moved))

    # what the kernels saw
    stays = boards.stays()
    assert {s.uid for s in stays} >= {*first, *last}, "the witnesses saw them all"
    assert {s.uid for s in stays} <= set(boards.apps), "nothing ran that the hub didn't know"
    before_cut = [s for s in stays if s.until <= cut_at + CLOCKS]
    elsewhere = [s for s in stays if s.board != victim]
    again = [s for s in stays if s.board == victim and s.since > cut_at]
    for app, replicas in wanted.items():
        of_app = [s for s in stays if boards.apps[s.uid] == app]
        most, seconds = witness.most_at_once((s.since, s.until) for s in of_app)
        boards.notes.append(f"{app}: {replicas} wanted; by the guests' kernels {most} at most ran at once")
        assert most <= replicas, f"{app} ran too often, for {seconds:.1f} s"
    assert max(Counter(s.uid for s in elsewhere).values()) == 1, "started twice on a board that was never away"
    assert {s.board for s in before_cut} == {victim}, "its witness saw its pods end"
    assert not again, f"{victim} started what the hub had moved, instead of asking first"


def allocatable(fleet: Fleet, name: str) -> int:
    return to_int(fleet.nodes()[name]["status"]["allocatable"]["memory"])
