"""What a pull tells while it works, one line of JSON each. Seldom enough to read, often enough to be believed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edged.model import Value

LONGEST_SILENCE = 5.0  # seconds between two words of progress, as long as there is any: silence means being stuck


class Event(Value, frozen=True, omit_defaults=True):
    """One line of progress. Bytes are of compressed layers.

    :ivar event: "verifying" and "broken" (edged.images.verify), "resolved" (what there is to do), "progress", "retry",
        "unpacking", "unpacked" (one layer each), "done".
    :ivar fetched: bytes that are here, those of earlier runs included; `total`: bytes that this pull needs.
    :ivar received: bytes that came over the network in this run (only in "done").
    :ivar present: the image was already here, nothing was fetched.
    """

    event: str
    reference: str = ""
    digest: str = ""
    layers: int = 0
    fetched: int = 0
    total: int = 0
    received: int = 0
    present: bool = False
    reason: str = ""
    after: float = 0.0
    image: str = ""


class Teller:
    """Passes events on, from any thread, one at a time.

    :ivar total: bytes to fetch.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self.total = 0
        self._fetched = self._told = 0
        self._told_at = time.monotonic()

    def say(self, event: Event) -> None:
        with self._lock:
            self._say(event)

    def _say(self, event: Event) -> None:
        self._told_at = time.monotonic()
        self._tell(event)

    def begin(self, total: int) -> None:
        self.total = total
        self._fetched = self._told = 0

    def fetched(self, size: int) -> None:
        """Some fifty lines, however large the image, and more only on a link so slow that it needs them."""
        with self._lock:
            self._fetched += size
            news = self._fetched - self._told
            enough = news >= max(self.total // 50, 1 << 20) or self._fetched == self.total > self._told
            if enough or (news and self._is_late()):
                self._told = self._fetched
                self._say(Event("progress", fetched=self._fetched, total=self.total))

    def unpacking(self, digest: str) -> None:
        """Called for every piece of a layer that is being unpacked."""
        if self._is_late():
            self.say(Event("unpacking", digest=digest, total=self.total))

    def _is_late(self) -> bool:
        return time.monotonic() - self._told_at >= LONGEST_SILENCE
