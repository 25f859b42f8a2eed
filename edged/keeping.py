"""The document that is in force: taken from the uplink's inbox, saved, and only then acted on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from edged.config import NodeConfig
from edged.decide import material
from edged.decide.attempts import NEVER
from edged.errors import EdgedError
from edged.model import Desired, Pod, Refusal
from edged.store import Saved, StateStore
from edged.uplink import Inbox

log = logging.getLogger("edged")

SAVE_AGAIN = 60.0  # seconds until a full or failing disk is tried again


class Keeper:
    """Owns what is wanted.

    :ivar desired: None while nothing was ever accepted.
    :ivar not_saved: why it is not on the disk; "" while it is.
    :ivar save_at: CLOCK_BOOTTIME second at which to try that again; infinity = not.
    :param event: told (kind, reason, message).
    :param wall: seconds since 1970.
    """

    def __init__(
        self,
        config: NodeConfig,
        store: StateStore,
        event: Callable[[str, str, str], None],
        wake: Callable[[], None],
        boottime: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._config = config
        self._store = store
        self._event = event
        self._wake = wake
        self._boottime = boottime
        self._wall = wall
        self.desired: Desired | None = None
        self.inbox = Inbox(wake)
        self.refusal: Refusal | None = None
        self.not_saved = ""
        self.save_at = NEVER
        self._refusals = 0  # that were told
        self._unsaved: Saved | None = None
        self._digests: Mapping[str, str] = {}

    @property
    def generation(self) -> int:
        return self.desired.generation if self.desired else 0

    @property
    def pods(self) -> tuple[Pod, ...]:
        return self.desired.pods if self.desired else ()

    @property
    def digests(self) -> Mapping[str, str]:
        """material.digests of the document."""
        return self._digests

    def load(self) -> None:
        """Take up the stored document."""
        saved = self._store.load()
        for sentence in self._store.damaged:
            log.warning("stored state: %s", sentence)
            self._event("Warning", "StateDamaged", sentence)
        own = (self._config.fleet, self._config.name)
        if saved is not None and (saved.desired.fleet, saved.desired.node) != own:
            # Generations of two fleets can't be compared; what runs is left alone until the new hub has spoken.
            log.warning("the stored state is of node %s in fleet %s", saved.desired.node, saved.desired.fleet)
            saved = None
        if saved is not None:
            self._put(saved.desired)
            self.inbox = Inbox(self._wake, saved.desired.generation, saved.digest)

    def accept(self) -> bool:
        """Take the newest document, save it, then put it in force: in this order, so a power cut can't undo it.

        :returns: is there a new one?
        """
        refused = self.inbox.refusals != self._refusals
        if refused:
            self._refusals = self.inbox.refusals
            inbox = self.inbox
            self.refusal = Refusal(inbox.refusals, inbox.last_refusal, self._wall(), inbox.refused_generation)
            self._event("Warning", "DesiredRefused", self.inbox.last_refusal)
        desired = self.inbox.take()
        if desired is not None:
            self._unsaved = Saved(desired, self.inbox.digest)
            self.refusal = self.refusal if refused else None  # what came before is over
        if self._unsaved is not None and (desired is not None or self._boottime() >= self.save_at):
            self._save(self._unsaved)
        if desired is not None:
            self._put(desired)
        return desired is not None

    def _put(self, desired: Desired) -> None:
        self.desired = desired
        self._digests = material.digests(desired)

    def _save(self, wanted: Saved) -> None:
        """A disk that won't take it doesn't stop the pods; it is said, and tried again until it works."""
        try:
            self._store.save(wanted)
        except EdgedError as e:
            if self.not_saved != str(e):
                log.error("%s", e)
                self._event("Warning", "StateNotSaved", str(e))
            self.not_saved, self.save_at = str(e), self._boottime() + SAVE_AGAIN
            return
        self._unsaved, self.not_saved, self.save_at = None, "", NEVER
