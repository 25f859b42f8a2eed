"""How much may be under way in one direction: credit, in bytes. Pure; no frames, no time.

Invariants: what one side has sent and the other has not taken never costs more than the window that the receiver told;
so a receiver keeps at most that much, whatever the sender does. Small frames count as LEAST, so their number is bounded
too: window / LEAST.
"""

from __future__ import annotations

from cloudlink.wire import Refused
from edged.model.remote import MAX_FRAME

LEAST = 4096  # what the smallest frame costs
WINDOW = 256 << 10  # bytes under way at most: 2.5 MB/s over a link with 100 ms there and back
MAX_WINDOW = 16 << 20


def cost(body: bytes) -> int:
    return max(len(body), LEAST)


class Sending:
    """The sender's account. :param window: what the receiver told."""

    __slots__ = ("_left", "_window")

    def __init__(self, window: int) -> None:
        """:raises Refused: a window in which no frame would fit, or that nobody could mean."""
        if not MAX_FRAME <= window <= MAX_WINDOW:
            raise Refused(f"a window of {window} bytes was told; {MAX_FRAME} to {MAX_WINDOW} make sense")
        self._window = self._left = window

    def may(self, amount: int) -> bool:
        return amount <= self._left

    def spend(self, amount: int) -> None:
        assert amount <= self._left
        self._left -= amount

    def credited(self, amount: int) -> None:
        """:raises Refused: more was credited than was ever sent."""
        if amount <= 0 or self._left + amount > self._window:
            raise Refused(f"a credit of {amount} bytes for {self._window - self._left} under way")
        self._left += amount


class Receiving:
    """The receiver's account.

    :ivar held: what has come and was not taken yet.
    """

    __slots__ = ("_owed", "_window", "held")

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._owed = 0
        self.held = 0

    def came(self, amount: int) -> None:
        """:raises Refused: the other side sends more than it may."""
        if self.held + self._owed + amount > self._window:
            raise Refused(f"more than {self._window} bytes were sent without waiting")
        self.held += amount

    def taken(self, amount: int) -> int:
        """What to credit now: rarely, so that credits are few; 0 = not yet."""
        self.held -= amount
        self._owed += amount
        if self._owed < self._window // 4 and self._owed + self.held < self._window - MAX_FRAME:
            return 0
        owed, self._owed = self._owed, 0
        return owed
