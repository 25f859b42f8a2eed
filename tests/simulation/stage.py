"""What all actors share: the clock, the dice, and the record of what happened."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from dataclasses import dataclass, field

from tests.simulation.loop import VirtualLoop

BEGINNING = 1_767_225_600.0  # 2026-01-01T00:00:00Z, when every simulation begins
REMEMBERED = 400  # events that a failing run prints


class PowerCut(BaseException):
    """Whoever does something now loses its power instead. Nothing after this line happens."""


class Violation(AssertionError):  # noqa: N818 (what was found, as people call it)
    """An invariant doesn't hold."""


@dataclass
class Stage:
    """:ivar dice: the only source of chance; drawn from in one order, so that a seed replays.
    :ivar faults, deeds: how often what has befallen them, and what was done.
    """

    seed: int
    loop: VirtualLoop
    dice: random.Random = field(init=False)
    faults: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    events: int = 0
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self._story: deque[str] = deque(maxlen=REMEMBERED)
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def now(self) -> float:
        """Seconds since the simulation began."""
        return self.loop.time()

    def tell(self, who: str, what: str) -> None:
        """One event. Its text must say nothing that isn't drawn from the seed: no keys, no sealed bytes."""
        line = f"{self.now:.3f} {who}: {what}"
        self.events += 1
        self._digest.update(line.encode())
        self._story.append(line)

    def fault(self, kind: str, who: str, what: str = "") -> None:
        self.faults[kind] += 1
        self.tell(who, f"FAULT {kind} {what}".rstrip())

    def check(self, holds: bool, sentence: str) -> None:
        """One invariant, once. A run ends with the first that doesn't hold: what follows would only confuse."""
        self.checks += 1
        if not holds and len(self.violations) < 20:
            self.violations.append(f"at {when(self.now)}: {sentence}")
            self.tell("INVARIANT", sentence)

    def chance(self, probability: float) -> bool:
        return self.dice.random() < probability

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def story(self, lines: int) -> list[str]:
        return list(self._story)[-lines:]


def when(seconds: float) -> str:
    """Virtual time for people: "day 12 03:04:05.678"."""
    day, rest = divmod(seconds, 86400)
    hour, rest = divmod(rest, 3600)
    minute, second = divmod(rest, 60)
    return f"day {day:.0f} {hour:02.0f}:{minute:02.0f}:{second:06.3f}"
