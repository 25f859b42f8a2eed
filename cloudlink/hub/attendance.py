"""Whether one node is there, by what was heard of it. Pure: `now` is an argument, in seconds.

A lost connection is believed at once, so that Services leave the node's pods out, until it happens too often: then
later and later, as routers damp routes that flap (RFC 2439). A board whose line comes and goes would otherwise have the
hub write all its pods' statuses each time. Bound: after FREE losses in a row an absence shorter than the delay changes
nothing, so a node that flaps for ever makes two changes in LONGEST seconds at most.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER = float("inf")
HALF_LIFE = 600.0  # seconds in which half of the losses are forgotten
FREE = 2.5  # losses, lately, that are believed at once: three in a row
FIRST, LONGEST = 10.0, 300.0  # seconds that a further one waits; doubled with each


@dataclass(slots=True)
class Attendance:
    """What was heard of one node since this hub started.

    :ivar present: None until anything was heard; what the store says then counts.
    :ivar online_epoch: of the presence message that last said online.
    :ivar due: when an absence that was heard of is to be believed; NEVER while there is none.
    """

    present: bool | None = None
    online_epoch: str = ""
    due: float = NEVER
    _losses: float = 0.0
    _last: float = 0.0

    def came(self, epoch: str = "") -> bool:
        """It spoke, or its connection was made; True if that is news. `epoch`: of its presence, if it was one."""
        self.online_epoch = epoch or self.online_epoch
        self.due = NEVER
        news = self.present is not True
        self.present = True
        return news

    def left(self, epoch: str, now: float) -> bool:
        """Its connection was lost; True if that is news, and to be believed now. The will of a connection that another
        one has followed is stale."""
        if (self.online_epoch and epoch != self.online_epoch) or self.present is False:
            return False
        losses = self._losses * 0.5 ** (max(now - self._last, 0.0) / HALF_LIFE)
        self._losses, self._last = losses + 1.0, now
        if losses < FREE:
            self.gone()
            return True
        self.due = min(self.due, now + min(FIRST * 2.0 ** min(losses - FREE, 32.0), LONGEST))
        return False

    def gone(self) -> None:
        self.present, self.due = False, NEVER

    def overdue(self, now: float) -> bool:
        return self.due <= now
