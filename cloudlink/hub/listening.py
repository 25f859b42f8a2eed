"""Since when the hub hears its nodes: what it concludes from their silence can't be older than that."""

from __future__ import annotations

GRACE = 150.0  # seconds; longer than a node's longest wait between two attempts to connect (link.Timing)


class Listening:
    """Written by the exchange, read by whoever decides because nodes are silent.

    :ivar grace: seconds that nodes get to speak after the broker was reached.
    :ivar since: second since 1970 at which it was; None while the hub has no connection to it.
    """

    def __init__(self, grace: float = GRACE, since: float | None = None) -> None:
        self.grace, self.since = grace, since

    def settled_at(self, now: float) -> float:
        """From when on silence means something, as far as is known now: never before."""
        return (now if self.since is None else self.since) + self.grace


class Always(Listening):
    """For those who hear of nodes by other ways than a broker: every word in the store counts."""

    def settled_at(self, now: float) -> float:
        return 0.0
