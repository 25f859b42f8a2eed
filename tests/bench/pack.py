"""The scheduler: placements a second, how few nodes are used, preemption, and the manager's path around it.

python -m tests.bench.pack [speed] [preemption] [quality] [manager]

One thread, no I/O in the first three: what is told is by CPU time, the best of three; `wall` is by the clock on the
wall, which other work on the machine makes longer.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cloudlink.hub.changes import Change, Create, UpdateStatus
from cloudlink.hub.manager import Manager
from cloudlink.hub.schedule import filling
from cloudlink.hub.schedule.fleet import Fleet, fleet_with
from cloudlink.hub.schedule.place import Binding, Unplaced, Verdict, place
from cloudlink.hub.schedule.preempt import Preemption
from cloudlink.hub.schedule.wants import plain_size
from cloudlink.hub.store import Store
from cloudlink.kube.core import Node, Pod
from tests.bench.measure import tell
from tests.fakes.hub_brain import Clock, names
from tests.packing import mixed, sets
from tests.packing.sets import Set

NODES, DEPLOYMENTS = 5000, 1000
FIRST_FIT = "numpy: first node with enough memory and CPU, no constraints"
SEEDS = 5


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds; and what came out."""

    cpu: float
    wall: float
    verdicts: tuple[Verdict, ...]

    @property
    def placed(self) -> int:
        return sum(isinstance(v, Binding) for v in self.verdicts)


def timed(decide: Callable[[], tuple[Verdict, ...]], times: int = 3) -> Took:
    best: Took | None = None
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        verdicts = decide()
        took = Took(time.process_time() - cpu, time.perf_counter() - wall, verdicts)
        best = took if best is None or took.cpu < best.cpu else best
    assert best is not None
    return best


def first_fit(pods: Sequence[Pod], fleet: Fleet) -> float:
    """Pods a second of CPU time, one by one onto the first node that has room."""
    memory, cpu, room = (fleet.free[r].copy() for r in ("memory", "cpu", "pods"))
    begun = time.process_time()
    for pod in pods:
        size = plain_size(pod)
        row = int(np.argmax((memory >= size.memory) & (cpu >= size.cpu) & (room >= 1)))
        memory[row] -= size.memory
        cpu[row] -= size.cpu
        room[row] -= 1
    return len(pods) / (time.process_time() - begun)


def bound(verdicts: Sequence[Verdict]) -> list[Pod]:
    """The pods as they are on their nodes."""
    return [
        v.pod.model_copy(update={"spec": v.pod.spec.model_copy(update={"node_name": v.node})})
        for v in verdicts
        if isinstance(v, Binding)
    ]


def full(nodes: Sequence[Node], deployments: int) -> Fleet:
    """About 20 pods a node, as many as fit."""
    pods = [p for ps in mixed.workloads(deployments, memory=(32, 48, 64, 96, 128, 192, 256)) for p in ps]
    return fleet_with(nodes, bound(place(pods, fleet_with(nodes, []))))


# ---------------------------------------------------------------- the parts


def speed() -> None:
    nodes = mixed.nodes(NODES)
    fleet = fleet_with(nodes, [])
    pods = [p for ps in mixed.workloads(DEPLOYMENTS) for p in ps]
    _placements(f"{DEPLOYMENTS} Deployments, mixed constraints", pods, fleet, goal=50_000)
    some = [p for ps in mixed.workloads(200) for p in ps][: filling.MOST_PODS]
    _placements("as many as are chosen together, mixed constraints", some, fleet)
    _placements("all pods differ, mixed constraints", mixed.all_different(5000), fleet)
    for kind, _ in mixed.KINDS:
        pods = [p for ps in mixed.workloads(100, kinds=((kind, 1),)) for p in ps]
        _placements(f"100 Deployments, all {kind.__name__.strip('_')}", pods, fleet)
    crowded = full(nodes, DEPLOYMENTS * 3)
    requests = {"memory": "16Mi", "cpu": "10m"}
    spec = {"containers": [{"name": "m", "image": "i", "resources": {"requests": requests}}]}
    one = mixed.replicas_of("one", spec, 1)
    begun = time.process_time()
    rounds = [timed(lambda: place(one, crowded), 1).cpu for _ in range(20)]
    assert time.process_time() > begun
    tell(
        f"one pod into {NODES} nodes with {len(crowded.tenants)} pods",
        statistics.median(rounds) * 1000,
        "ms",
        1000 / first_fit(one * 100, crowded),
        floor_is=FIRST_FIT,
    )


def _placements(name: str, pods: Sequence[Pod], fleet: Fleet, **more: object) -> None:
    took = timed(lambda: place(pods, fleet))
    tell(
        f"placements, {name}",
        took.placed / took.cpu,
        "pods/s",
        first_fit(pods, fleet),
        wall=round(took.placed / took.wall),
        pods=len(pods),
        placed=took.placed,
        nodes=len(fleet),
        floor_is=FIRST_FIT,
        peers="published: kube-scheduler's thresholds 680 to 810, Nomad 1500 to 3750",
        **more,
    )


def preemption() -> None:
    crowded = full(mixed.nodes(NODES), DEPLOYMENTS * 3)
    requests = {"memory": "300Mi", "cpu": "900m"}
    spec = {"containers": [{"name": "m", "image": "i", "resources": {"requests": requests}}], "priority": 100_000}
    pods = mixed.replicas_of("vip", spec, 1000)
    took = timed(lambda: place(pods, crowded, preemption=Preemption()), 1)
    waiting = [v for v in took.verdicts if isinstance(v, Unplaced)]
    tell(
        f"preemption, 1000 pods into {NODES} full nodes with {len(crowded.tenants)} pods",
        took.cpu,
        "s",
        timed(lambda: place(pods, crowded), 1).cpu,
        floor_is="the same without preemption",
        placed=took.placed,
        nominated=sum(bool(v.nominated) for v in waiting),
        victims=sum(len(v.victims) for v in waiting),
    )


def quality() -> None:
    for name, make in sets.MAKERS.items():
        _nodes_used(name, [make(seed) for seed in range(SEEDS)])
    _nodes_used("Alibaba's pods, equal nodes", [sets.alibaba(seed, equal=True) for seed in range(2)])
    _nodes_used("Alibaba's pods, its own nodes", [sets.alibaba(seed, equal=False) for seed in range(2)])


def _nodes_used(name: str, made: Sequence[Set]) -> None:
    """Nodes used by the lower bound; where not everything found room, what share of it did."""
    used = least = 0
    worst = share = 0.0
    cpu = 0.0
    for a_set in made:
        fleet = fleet_with(a_set.nodes(), [])
        took = timed(lambda a_set=a_set, fleet=fleet: place(a_set.pods(), fleet), 1)  # type: ignore[misc]
        here = len({v.node for v in took.verdicts if isinstance(v, Binding)})
        used, least, cpu = used + here, least + a_set.bound(), cpu + took.cpu
        worst = max(worst, here / a_set.bound())
        share += sum(plain_size(v.pod).memory for v in took.verdicts if isinstance(v, Binding)) / sum(
            plain_size(v.pod).memory for v in took.verdicts
        )
    tell(
        f"nodes used, {name}",
        used,
        "nodes",
        least,
        goal=1.02,
        worst=round(worst, 4),
        percent_of_memory_placed=round(100 * share / len(made), 2),
        sets=len(made),
        pods=sum(len(s.items) for s in made),
        seconds=round(cpu, 2),
        floor_is="lower bound: L2 of equal nodes, else the largest nodes by volume",
    )


def manager() -> None:
    """Pods from the store to their nodes in the store (SQLite in memory), and what it costs that nothing happens."""
    store = Store.open("sqlite://", Clock())
    nodes = mixed.nodes(1000)
    _commit(store, [c for n in nodes for c in (Create(n), UpdateStatus(n))])
    hub = Manager(store, Clock(), names())
    hub.settle()
    pods = [p for ps in mixed.workloads(600) for p in ps][:20_000]
    cpu = time.process_time()
    for start in range(0, len(pods), 1000):
        _commit(store, [Create(p) for p in pods[start : start + 1000]])
    stored = time.process_time() - cpu
    _settled(hub, f"settle, {len(pods)} pods onto 1000 nodes", len(pods), stored)
    spec = {"resources": {"requests": {"memory": "900Gi"}}}
    large = [
        p
        for n in range(500)
        for p in mixed.replicas_of(f"large-{n}", {"containers": [{"name": "m", "image": f"i:{n}", **spec}]}, 10)
    ]
    cpu = time.process_time()
    _commit(store, [Create(p) for p in large])
    stored = time.process_time() - cpu
    _settled(hub, "settle, 5000 pods that fit nowhere", len(large), stored)
    seen = nodes[0].model_copy(update={"metadata": nodes[0].metadata.model_copy(update={"annotations": {"at": "now"}})})
    _commit(store, [UpdateStatus(seen)])
    _settled(hub, "settle after a heartbeat, 5000 pods wait", 1, 0.0)
    store.close()


def _commit(store: Store, changes: Sequence[Change]) -> None:
    for start in range(0, len(changes), 1000):
        store.commit(changes[start : start + 1000])


def _settled(hub: Manager, name: str, pods: int, stored: float) -> None:
    cpu = time.process_time()
    hub.settle()
    took = time.process_time() - cpu
    tell(name, took, "s", stored, pods_a_second=round(pods / took), floor_is="storing the pods")


PARTS = {"speed": speed, "preemption": preemption, "quality": quality, "manager": manager}


def main() -> None:
    for name in sys.argv[1:] or list(PARTS):
        PARTS[name]()


if __name__ == "__main__":
    main()
