"""What a simulated node is, and how it behaves: all of it drawn from a seed. Pure."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

from edged.model import Capacity

MIB, GIB = 1 << 20, 1 << 30
RESERVE = 8  # the share of memory that is kept for the system is one in so many


class Dice:
    """Numbers that replay: the n-th throw for a purpose depends on seed, node, purpose and n, and on nothing else.

    So what is thrown for one pod doesn't change what is thrown for another, in whatever order documents arrive.
    """

    def __init__(self, seed: int, node: str) -> None:
        self._salt = f"{seed}\0{node}\0"
        self._thrown: dict[str, int] = {}

    def throw(self, purpose: str) -> float:
        """Uniform in 0..1."""
        count = self._thrown[purpose] = self._thrown.get(purpose, 0) + 1
        digest = hashlib.blake2b(f"{self._salt}{purpose}\0{count}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2.0**64

    def between(self, purpose: str, bounds: tuple[float, float]) -> float:
        return bounds[0] + (bounds[1] - bounds[0]) * self.throw(purpose)

    def after(self, purpose: str, per_hour: float) -> float:
        """Seconds until something happens that happens so often; infinity for what never does."""
        thrown = self.throw(purpose)
        return -math.log(1.0 - thrown) * 3600.0 / per_hour if per_hour > 0 else math.inf


class Board(NamedTuple):
    """One type of single-board computer. `share` of a fleet, in parts of their sum."""

    model: str
    architecture: str
    memory: int
    cpus: int
    storage: int
    share: int
    slowness: float  # what takes a Raspberry Pi 5 a second takes it so many


BOARDS = (
    Board("Raspberry Pi Zero 2 W", "arm64", 416 * MIB, 4, 14 * GIB, 1, 4.0),
    Board("Raspberry Pi 3 Model B Plus", "arm64", 906 * MIB, 4, 29 * GIB, 2, 3.0),
    Board("Raspberry Pi 4 Model B 2 GB", "arm64", 1846 * MIB, 4, 29 * GIB, 4, 1.8),
    Board("Raspberry Pi 4 Model B 4 GB", "arm64", 3794 * MIB, 4, 58 * GIB, 4, 1.8),
    Board("Raspberry Pi 5 8 GB", "arm64", 8063 * MIB, 4, 116 * GIB, 3, 1.0),
    Board("Radxa ROCK 5B 16 GB", "arm64", 15900 * MIB, 8, 116 * GIB, 1, 0.8),
    Board("Intel N100 mini PC", "amd64", 7680 * MIB, 4, 234 * GIB, 1, 0.6),
)


def board_of(dice: Dice) -> Board:
    at = dice.throw("board") * sum(b.share for b in BOARDS)
    for board in BOARDS:
        at -= board.share
        if at < 0:
            return board
    return BOARDS[-1]


def capacity_of(board: Board) -> Capacity:
    """As edged.host.capacity tells it of such a board."""
    return Capacity(
        memory=board.memory,
        memory_allocatable=board.memory - board.memory // RESERVE,
        cpu=1000 * board.cpus,
        architecture=board.architecture,
        kernel="6.12.34+rpt-rpi-v8" if board.architecture == "arm64" else "6.12.34-amd64",
        os="Debian GNU/Linux 12 (bookworm)",
        runtime="simulated",
        storage=board.storage,
        storage_allocatable=board.storage - board.storage // 10,
    )


class Habits(NamedTuple):
    """How nodes and containers behave. Pairs are the bounds of a uniform draw, in seconds on a Raspberry Pi 5.

    :ivar pull: for an image that the node hasn't got yet.
    :ivar prepare: a pod's folders and network. `start`: a container.
    :ivar warm_up: from a container's start until its probes are content.
    :ivar stop: from the stop signal to the container's end.
    :ivar crashes, hangs: of a container, an hour. One that hangs answers no probe any more.
    :ivar killed: share of the crashes that are the kernel's, at the memory limit, where there is one.
    :ivar memory: share of its limit that a container uses; `without`: bytes, of one that has no limit.
    :ivar pull_failures: share of the pulls that the registry fails.
    :ivar vanishings: of a node, an hour; `cuts`: the share of them that is the power; `away`: how long.
    """

    pull: tuple[float, float] = (0.5, 4.0)
    prepare: tuple[float, float] = (0.03, 0.15)
    start: tuple[float, float] = (0.05, 0.3)
    warm_up: tuple[float, float] = (0.1, 1.0)
    stop: tuple[float, float] = (0.02, 0.4)
    crashes: float = 0.02
    hangs: float = 0.01
    killed: float = 0.3
    memory: tuple[float, float] = (0.2, 0.9)
    without: tuple[float, float] = (4.0 * MIB, 48.0 * MIB)
    pull_failures: float = 0.01
    vanishings: float = 0.0
    cuts: float = 0.3
    away: tuple[float, float] = (20.0, 120.0)
