"""Looks after the images that are here: collects what nothing needs when the disk fills up, and has files compared
after a power cut. A source of steps (edged.sources); what it decides by is edged.decide.images_gc.

It never wakes up by itself but once after a boot, and while there is pressure, whose end nobody tells: the disk is
looked at (one statvfs(2)) whenever the loop has other reasons to turn, and every pull and every document is one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence

from edged.apply import Outcome
from edged.config import NodeConfig
from edged.decide import images_gc
from edged.decide.attempts import NEVER
from edged.decide.plan import wanted_images
from edged.decide.steps import Plan, RemoveImages, image_owner
from edged.errors import PermanentError, RetryError
from edged.images.boots import BootMark
from edged.images.reference import normalise
from edged.images.store import ImageStore
from edged.model import Desired, NodeCondition, Observed
from edged.puller import ImageWorker

log = logging.getLogger("edged.images")

LOOK_AGAIN = 30.0  # seconds between two looks at a disk that is too full: whoever makes room tells nobody
COMPARE_AFTER = 60.0  # seconds after the daemon's start; pods come up first, and what they need is compared for them
COMPARE_AGAIN = 600.0  # seconds until a comparison that could not be done is tried again
HALF_FETCHED_AGAIN = 600.0  # seconds; what is still there after a removal is in somebody's hands


class ImageKeeper:
    """Implements edged.sources.StepSource.

    :param compare_after: seconds after the start at which files are compared, where that is due.
    """

    def __init__(
        self, config: NodeConfig, images: ImageStore, worker: ImageWorker, compare_after: float = COMPARE_AFTER
    ) -> None:
        settings = config.images
        self._state = os.fspath(config.state)
        self._images, self._worker = images, worker
        self._marks = images_gc.Marks(settings.gc_start_percent, settings.gc_target_percent, settings.gc_min_free)
        self._pinned = frozenset(map(_canonical, settings.pinned))
        self._compare_after = compare_after
        self._boot = BootMark(images.root, images.boot)
        self._desired: Desired | None = None
        self._wanted: frozenset[str] = frozenset()
        self._needed: frozenset[str] | None = None
        self._last_used: dict[str, float] = {}
        self._half_fetched_at = float("-inf")
        self._conditions: tuple[NodeCondition, ...] = ()
        self._broken: tuple[str, ...] = ()
        worker.make_room = self.make_room

    # ------------------------------------------------------------ what the loop asks

    def steps(self, desired: Desired | None, observed: Observed, now: float) -> Plan:
        self._learn(desired, observed, now)
        disk = self._disk()
        if not images_gc.is_above(disk, self._marks):
            self._conditions = ()
            return Plan()
        half = self._half_fetched() if now >= self._half_fetched_at + HALF_FETCHED_AGAIN else 0
        garbage = images_gc.collect(self._kept(), half, self._needed, disk, self._marks)
        self._press(garbage.pressure)
        wake_at = now + LOOK_AGAIN if garbage.pressure else NEVER
        if not garbage.references and not garbage.half_fetched:
            return Plan((), wake_at)
        return Plan((RemoveImages(garbage.references, garbage.reason),), wake_at)

    @property
    def conditions(self) -> Sequence[NodeCondition]:
        return self._conditions

    @property
    def degraded(self) -> Sequence[str]:
        return (*self._worker.degraded, *self._broken)

    def remember(self, outcome: Outcome) -> None:
        if isinstance(outcome.step, RemoveImages) and not outcome.error:
            self._half_fetched_at = time.clock_gettime(time.CLOCK_BOOTTIME)

    async def run(self, wake: Callable[[], None]) -> None:
        """Have files compared once where the last boot did not end cleanly, then only wait for the end. Young layers at
        once: a pod that may not pull waits for them; all others when the pods are up."""
        due = self._boot.begin()
        try:
            if self._images.all_doubtful:
                await self._compare(young=True)
                wake()
            if due:
                await asyncio.sleep(self._compare_after)
                await self._compare(young=False)
                wake()
            await asyncio.Event().wait()
        finally:
            self._boot.end()

    async def make_room(self, sentence: str) -> bool:
        """A pull found the disk full: take away all that may go, wherever the marks are."""
        half = self._half_fetched()
        garbage = images_gc.collect(self._kept(), half, self._needed, self._disk(), self._marks, urgent=True)
        if not garbage.references and not garbage.half_fetched:
            return False
        log.info(
            "%s; removing what nothing needs: %s", sentence, ", ".join(garbage.references) or "half-fetched layers"
        )
        await self._worker.remove(garbage.references)
        return True

    # ------------------------------------------------------------ inside

    async def _compare(self, young: bool) -> None:
        """Try until it could be done."""
        while True:
            try:
                broken = await self._worker.verify(young)
                break
            except (RetryError, PermanentError) as e:
                log.warning("the files of images could not be compared: %s", e)
            await asyncio.sleep(COMPARE_AGAIN)
        if broken:
            self._broken = tuple(f"{one}; it is fetched again (is the card dying?)" for one in broken[:3])
        if not young:
            self._boot.compared()

    def _learn(self, desired: Desired | None, observed: Observed, now: float) -> None:
        if desired is not self._desired:
            self._last_used |= dict.fromkeys(self._wanted, now)
            self._desired = desired
            names = wanted_images(desired) if desired is not None else ()
            self._wanted = frozenset(map(_canonical, names))
            there = self._images.references()
            self._last_used = {name: used for name, used in self._last_used.items() if name in there}
        self._worker.wanted = self._wanted | self._pinned
        if desired is None:
            self._needed = None
            return
        owner = image_owner("")
        pulled = {_canonical(busy.removeprefix(owner)) for busy in observed.busy if busy.startswith(owner)}
        ids = {container.image_id for container in observed.containers if container.image_id}
        self._needed = self._wanted | self._pinned | pulled | ids

    def _kept(self) -> list[images_gc.Kept]:
        return [
            images_gc.Kept(
                one.image.reference,
                one.image.id,
                one.layers,
                self._last_used.get(one.image.reference, 0.0),
                one.since,
                one.imported,
            )
            for one in self._images.stored()
        ]

    def _half_fetched(self) -> int:
        from edged.images import partial  # only where the disk is full

        wanted = self._worker.wanted
        return partial.unwanted_bytes(self._images.root / "partial", wanted) + self._images.unwanted_pending(wanted)

    def _disk(self) -> images_gc.Disk:
        try:
            s = os.statvfs(self._state)
        except OSError:
            return images_gc.Disk(0, 0)
        return images_gc.Disk((s.f_blocks - s.f_bfree + s.f_bavail) * s.f_frsize, s.f_bavail * s.f_frsize)

    def _press(self, sentence: str) -> None:
        """One condition as long as it lasts: its numbers stay those of its beginning, for each word is a new status."""
        if not sentence:
            self._conditions = ()
        elif not self._conditions:
            self._conditions = (NodeCondition("DiskPressure", "NodeHasDiskPressure", sentence, time.time()),)


def _canonical(reference: str) -> str:
    try:
        return normalise(reference)
    except PermanentError:
        return reference  # there is no such image, here or anywhere
