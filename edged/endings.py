"""How pods have ended that are not to run again: on the disk, for what a pod has done must not be done again after a
power cut.

One file in state_dir, written (and flushed) once for each pod that ends for good; pods that the document doesn't name
any more are forgotten with the next one. What their containers said is not kept: logs live in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from edged.errors import EdgedError
from edged.model import Phase, Pod, PodStatus
from edged.store import write_whole

log = logging.getLogger("edged.endings")

NAME = "ended"
LARGEST = 4 << 20  # bytes of a file that is read back
FINAL = (Phase.SUCCEEDED, Phase.FAILED)


class Endings:
    """Owned by the daemon. :ivar known: uid -> the last that was told of it."""

    def __init__(self, state: Path) -> None:
        self._file = state / NAME
        self.known: Mapping[str, PodStatus] = {}
        self._unsaved = False

    def load(self) -> None:
        """What can't be read is begun anew; the pods concerned may then run once more."""
        try:
            with self._file.open("rb") as f:
                self.known = msgspec.msgpack.decode(f.read(LARGEST), type=dict[str, PodStatus])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError, ValueError) as e:
            log.warning("%s can't be read, pods that have ended may run once more: %s", self._file, e)

    def note(self, told: Iterable[PodStatus], wanted: Iterable[Pod]) -> None:
        """Remember those that have ended for good, before anybody is told."""
        uids = {p.uid for p in wanted}
        fresh = {s.uid: s for s in told if s.phase in FINAL and s.uid in uids and s.uid not in self.known}
        if not fresh and not self._unsaved:
            return
        self.known = {uid: s for uid, s in self.known.items() if uid in uids} | fresh
        try:
            write_whole(self._file, msgspec.msgpack.encode(self.known), durable=True)
        except EdgedError as e:
            if not self._unsaved:
                log.warning("%s; what ended now may run once more after a power cut", e)
            self._unsaved = True
            return
        self._unsaved = False
