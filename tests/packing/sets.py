"""Sets to pack, and how few nodes could hold them.

Published ones by their published definitions:

- Falkenauer, A hybrid grouping genetic algorithm for bin packing, 1996: uniform and triplets (OR-Library, binpack1 to
  binpack8).
- Scholl, Klein and Juergens, BISON, 1997: sets 1 to 3.
- Weng and others, Beware of Fragmentation, ATC 2023: the pods and nodes of Alibaba's cluster-trace-gpu-v2023.
"""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudlink.kube.core import Node, Pod
from tests.fakes.hub_brain import MIB, node, with_meta
from tests.packing.mixed import replicas_of

Size = tuple[int, int]  # MiB of memory, thousandths of a core


@dataclass(frozen=True, slots=True)
class Set:
    """What is to be packed into which nodes.

    :ivar items: sizes, in the order in which they come.
    :ivar boards: of the nodes that may be used, which may be more than are needed.
    """

    name: str
    items: tuple[Size, ...]
    boards: tuple[Size, ...]

    def nodes(self) -> list[Node]:
        return [node(f"n{i:05d}", m * MIB, c, 100_000) for i, (m, c) in enumerate(self.boards)]

    def pods(self) -> list[Pod]:
        """One kind for each size; they came in one moment."""
        kinds: dict[Size, list[int]] = {}
        for number, item in enumerate(self.items):
            kinds.setdefault(item, []).append(number)
        made = []
        for (memory, cpu), numbers in kinds.items():
            requests = {"memory": f"{memory}Mi", "cpu": f"{cpu}m"}
            spec = {"containers": [{"name": "main", "image": "demo:1", "resources": {"requests": requests}}]}
            pods = replicas_of("item", spec, len(numbers))
            made += [with_meta(p, name=f"item-{n:05d}") for p, n in zip(pods, numbers, strict=True)]
        return sorted(made, key=lambda p: p.metadata.name)

    def bound(self) -> int:
        """Fewer nodes can't hold them: for each resource, as many of the largest nodes as its sum needs, and of equal
        nodes Martello and Toth's L2."""
        bounds = []
        for resource in (0, 1):
            sizes, room = [i[resource] for i in self.items], sorted((b[resource] for b in self.boards), reverse=True)
            bounds.append(l2(sizes, room[0]) if room[0] == room[-1] else _largest(sum(sizes), room))
        return max(bounds)


def _largest(total: int, room: Sequence[int]) -> int:
    for count, size in enumerate(room):
        if total <= 0:
            return count
        total -= size
    return len(room)


def l2(sizes: Sequence[int], room: int) -> int:
    """Martello and Toth, Knapsack Problems, 1990, 8.3.2: what is larger than half a bin is in a bin of its own; which
    of those have room for items of at least `small`, and how much."""
    best = math.ceil(sum(sizes) / room)
    for small in {0, *(s for s in sizes if s <= room // 2)}:
        alone = sum(s > room - small for s in sizes)
        large = [s for s in sizes if room - small >= s > room / 2]
        rest = sum(s for s in sizes if room / 2 >= s >= small)
        more = math.ceil((rest - (len(large) * room - sum(large))) / room)
        best = max(best, alone + len(large) + max(0, more))
    return best


# ---------------------------------------------------------------- published


def _equal(name: str, sizes: Sequence[int], room: int) -> Set:
    """One resource, as the classic sets have: memory, of which as many nodes as could ever be needed have as much."""
    return Set(name, tuple((s, 0) for s in sizes), ((room, 1000),) * len(sizes))


def falkenauer_uniform(count: int, seed: int) -> Set:
    """20 to 100 into 150."""
    dice = random.Random(seed)
    return _equal(f"Falkenauer u{count}", [dice.randint(20, 100) for _ in range(count)], 150)


def falkenauer_triplets(count: int, seed: int) -> Set:
    """Three fill a bin exactly, and no two or four do; 1,000 (the originals' tenths as whole numbers)."""
    dice = random.Random(seed)
    sizes = []
    for _ in range(count // 3):
        first = dice.randint(380, 490)
        second = dice.randint(250, (1000 - first) // 2)
        sizes += [first, second, 1000 - first - second]
    dice.shuffle(sizes)
    return _equal(f"Falkenauer t{count}", sizes, 1000)


def scholl_1(count: int, seed: int) -> Set:
    """1, 20 or 30 to 100 into 100, 120 or 150."""
    dice = random.Random(seed)
    room, least = dice.choice((100, 120, 150)), dice.choice((1, 20, 30))
    return _equal("Scholl 1", [dice.randint(least, 100) for _ in range(count)], room)


def scholl_2(count: int, seed: int) -> Set:
    """A mean of 1/3, 1/5, 1/7 or 1/9 of 1,000, and 20, 50 or 90 % more or less."""
    dice = random.Random(seed)
    mean, off = 1000 / dice.choice((3, 5, 7, 9)), dice.choice((0.2, 0.5, 0.9))
    low, high = math.ceil(mean * (1 - off)), math.floor(mean * (1 + off))
    return _equal("Scholl 2", [dice.randint(low, high) for _ in range(count)], 1000)


def scholl_3(count: int, seed: int) -> Set:
    """20,000 to 35,000 into 100,000."""
    dice = random.Random(seed)
    return _equal("Scholl 3", [dice.randint(20_000, 35_000) for _ in range(count)], 100_000)


def alibaba(seed: int, equal: bool) -> Set:
    """All pods of the trace at once, in any order, into the trace's nodes or into as many as it takes of its most
    frequent kind."""
    pods: list[Size] = []
    nodes: list[Size] = []
    text = (Path(__file__).parent / "data/openb.csv").read_text().splitlines()
    for row in csv.DictReader(line for line in text if not line.startswith("#")):
        size = int(row["memory_mib"]), int(row["cpu_milli"])
        (pods if row["kind"] == "pod" else nodes).extend([size] * int(row["count"]))
    most = max(set(nodes), key=nodes.count)
    if equal:
        pods = [p for p in pods if p[0] <= most[0] and p[1] <= most[1]]
    random.Random(seed).shuffle(pods)
    return Set(
        f"Alibaba, {'equal' if equal else 'its own'} nodes", tuple(pods), (most,) * 2000 if equal else tuple(nodes)
    )


# ---------------------------------------------------------------- generated


def exact(boards: Sequence[Size], fewest: int, most: int, seed: int, spare: float = 0.2) -> Set:
    """Every node is filled to the last byte and the last thousandth, by `fewest` to `most` pods; then all is shuffled.

    :param spare: nodes more than that, of the same kinds.
    """
    dice = random.Random(seed)
    items: list[Size] = []
    for memory, cpu in boards:
        count = dice.randint(fewest, most)
        items += zip(_cut(memory, count, dice), _cut(cpu, count, dice), strict=True)
    dice.shuffle(items)
    more = [dice.choice(boards) for _ in range(math.ceil(len(boards) * spare))]
    return Set(f"exact, {fewest} to {most} a node", tuple(items), (*boards, *more))


def _cut(whole: int, parts: int, dice: random.Random) -> list[int]:
    """Whole numbers from about half to twice the mean, that sum up to it."""
    weights = [dice.uniform(0.5, 1.5) for _ in range(parts)]
    bounds = [0, *(round(whole * sum(weights[: n + 1]) / sum(weights)) for n in range(parts))]
    return [b - a for a, b in itertools.pairwise(bounds)]


Maker = Callable[[int], Set]
BOARDS: tuple[Size, ...] = ((448, 1000), (960, 4000), (1984, 4000), (4032, 4000), (8128, 8000))

# Name -> how to make one of it from a seed.
MAKERS: dict[str, Maker] = {
    **{f"Falkenauer u{n}": lambda seed, n=n: falkenauer_uniform(n, seed) for n in (120, 250, 500, 1000)},  # type: ignore[misc]
    **{f"Falkenauer t{n}": lambda seed, n=n: falkenauer_triplets(n, seed) for n in (60, 120, 249, 501)},  # type: ignore[misc]
    "Scholl 1": lambda seed: scholl_1(500, seed),
    "Scholl 2": lambda seed: scholl_2(500, seed),
    "Scholl 3": lambda seed: scholl_3(200, seed),
    "exact, 2 to 4 a node": lambda seed: exact(((1984, 4000),) * 200, 2, 4, seed),
    "exact, 5 to 10 a node": lambda seed: exact(((1984, 4000),) * 200, 5, 10, seed),
    "exact, 10 to 30 a node": lambda seed: exact(((1984, 4000),) * 100, 10, 30, seed),
    "exact, boards that differ": lambda seed: exact(BOARDS * 40, 4, 12, seed, 0.0),
}
