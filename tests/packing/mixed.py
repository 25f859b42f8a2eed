"""A fleet of boards that differ, and workloads with every kind of constraint, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cloudlink.kube.core import Node, NodeCondition, NodeStatus, Pod
from cloudlink.kube.parse import parse
from cloudlink.kube.quantity import format_bytes, format_milli

MIB = 1 << 20
ZONE, HOST, ARCH = "topology.kubernetes.io/zone", "kubernetes.io/hostname", "kubernetes.io/arch"
ZONES = 20


@dataclass(frozen=True, slots=True)
class Board:
    """:ivar share: of the fleet, in percent."""

    arch: str
    memory: int
    cpu: int
    disk: int
    share: int


BOARDS = (
    Board("armv7", 512, 1000, 8, 10),
    Board("armv7", 1024, 4000, 16, 10),
    Board("arm64", 1024, 4000, 16, 15),
    Board("arm64", 2048, 4000, 32, 25),
    Board("arm64", 4096, 4000, 32, 20),
    Board("arm64", 8192, 4000, 64, 12),
    Board("amd64", 8192, 8000, 128, 8),
)


def nodes(count: int, seed: int = 1) -> list[Node]:
    dice = random.Random(seed)
    kinds = [b for b in BOARDS for _ in range(b.share)]
    return [_node(f"node-{n:05d}", dice.choice(kinds), dice) for n in range(count)]


def _node(name: str, board: Board, dice: random.Random) -> Node:
    labels = {
        HOST: name,
        ARCH: board.arch,
        ZONE: f"zone-{dice.randrange(ZONES):02d}",
        "disk": dice.choice(("sd", "sd", "ssd")),
        "model": f"{board.arch}-{board.memory}",
    }
    taints = []
    if dice.random() < 0.06:
        labels["camera"] = "yes"
        taints.append({"key": "dedicated", "value": "camera", "effect": "NoSchedule"})
    if dice.random() < 0.04:
        taints.append({"key": "slow", "effect": "PreferNoSchedule"})
    size = {
        "memory": format_bytes((board.memory - 64) * MIB),
        "cpu": format_milli(board.cpu),
        "pods": "110",
        "ephemeral-storage": f"{board.disk}Gi",
    }
    if dice.random() < 0.1:
        size["edged.dev/i2c-1"] = "1"
    document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    made = parse({**document, "spec": {"taints": taints}})
    assert isinstance(made, Node)
    status = NodeStatus(capacity=size, allocatable=size, conditions=(NodeCondition(type="Ready", status="True"),))
    return made.model_copy(update={"status": status})


# ---------------------------------------------------------------- workloads


def _plain(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    """No constraint but its size."""


def _selector(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    spec["nodeSelector"] = dice.choice(({ARCH: "arm64"}, {ARCH: "arm64", "disk": "ssd"}, {"disk": "sd"}))


def _affinity(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    zones = [f"zone-{z:02d}" for z in dice.sample(range(ZONES), 8)]
    expressions = [
        {"key": ZONE, "operator": dice.choice(("In", "NotIn")), "values": zones},
        {"key": ARCH, "operator": "NotIn", "values": ["amd64"]},
    ]
    wish = {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}
    spec["affinity"] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": expressions}]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": [wish],
        }
    }


def _camera(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    spec["tolerations"] = [{"key": "dedicated", "operator": "Equal", "value": "camera", "effect": "NoSchedule"}]
    spec["nodeSelector"] = {"camera": "yes"}


def _apart(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    term = {"labelSelector": {"matchLabels": {"app": name}}, "topologyKey": HOST}
    spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _even(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": ZONE,
            "whenUnsatisfiable": dice.choice(("DoNotSchedule", "ScheduleAnyway")),
            "labelSelector": {"matchLabels": {"app": name}},
        }
    ]


def _even_hosts(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    _even(spec, name, dice)
    spec["topologySpreadConstraints"].append(
        {
            "maxSkew": 2,
            "topologyKey": HOST,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": name}},
        }
    )


def _port(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    spec["containers"][0]["ports"] = [{"containerPort": 9100, "hostPort": 9100 + dice.randrange(50)}]


def _storage(spec: dict[str, Any], name: str, dice: random.Random) -> None:
    spec["containers"][0]["resources"]["requests"]["ephemeral-storage"] = f"{dice.choice((100, 500, 1000))}Mi"


Kinds = tuple[tuple[Callable[[dict[str, Any], str, random.Random], None], int], ...]

# What a workload asks for, and how many in a hundred do.
KINDS: Kinds = (
    (_plain, 30),
    (_selector, 18),
    (_affinity, 12),
    (_camera, 2),
    (_apart, 12),
    (_even, 8),
    (_even_hosts, 2),
    (_port, 6),
    (_storage, 10),
)


def workloads(
    count: int,
    seed: int = 2,
    most: int = 100,
    memory: tuple[int, ...] = (16, 24, 32, 48, 64, 96, 128, 192, 256, 400),
    kinds: Kinds = KINDS,
) -> Iterator[list[Pod]]:
    """The pods of `count` Deployments of 1 to `most` replicas, as a ReplicaSet would make them.

    :param memory: requests to choose from, MiB.
    """
    dice = random.Random(seed)
    weighted = [kind for kind, share in kinds for _ in range(share)]
    for n in range(count):
        name, replicas = f"app-{n:05d}", dice.randint(1, most)
        if (kind := dice.choice(weighted)) is _camera:
            replicas = min(replicas, 40)
        requests = {"memory": f"{dice.choice(memory)}Mi", "cpu": f"{dice.choice((10, 20, 50, 100, 200))}m"}
        spec: dict[str, Any] = {
            "containers": [{"name": "main", "image": f"{name}:1", "resources": {"requests": requests}}],
            "priority": dice.choice((0, 0, 0, 0, 100, 1000)),
        }
        kind(spec, name, dice)
        yield replicas_of(name, spec, replicas)


def replicas_of(name: str, spec: dict[str, Any], replicas: int) -> list[Pod]:
    """Equal pods; they share one specification, as those of one template do."""
    meta = {"name": name, "namespace": "default", "labels": {"app": name}}
    first = parse({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    assert isinstance(first, Pod)
    return [
        first.model_copy(
            update={"metadata": first.metadata.model_copy(update={"name": f"{name}-{n:03d}", "uid": f"{name}-{n:03d}"})}
        )
        for n in range(replicas)
    ]


def all_different(count: int, seed: int = 3) -> list[Pod]:
    """No two ask for the same: what placing equal pods together doesn't help."""
    dice = random.Random(seed)
    kinds = [kind for kind, share in KINDS for _ in range(share)]
    made = []
    for n in range(count):
        requests = {"memory": f"{dice.randint(16 << 10, 300 << 10)}Ki", "cpu": f"{dice.randint(10, 200)}m"}
        spec: dict[str, Any] = {
            "containers": [{"name": "main", "image": f"one-{n}:1", "resources": {"requests": requests}}]
        }
        dice.choice(kinds)(spec, f"one-{n}", dice)
        made += replicas_of(f"one-{n:05d}", spec, 1)
    return made
