"""Which images may go when the disk fills up. Pure: what is here, what is needed, how full it is -> what to remove.

Invariants, whatever comes in:
- Nothing that is `needed` goes: what the last accepted desired state names, what a container here was started from,
  what is being pulled, what is pinned. Needed is a name or an image id: if one name of an image is needed, all stay.
- Nothing that was imported goes: there may be nowhere to get it again (an air-gapped node loses its pre-loaded images
  to other systems' collection). A person may prune it.
- Nothing goes below the high watermark; above it, no more than leads below the low one.
- While nothing was ever accepted nobody knows what is needed, so nothing goes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edged.decide.budget import format_bytes
from edged.model import Value


class Kept(Value, frozen=True):
    """An image in the store.

    :ivar layers: (name, bytes on the disk).
    :ivar last_used: CLOCK_BOOTTIME second at which it was last needed in this boot; 0 = not in this boot.
    :ivar stored: when it came, by the wall clock; only ever compared among images that are otherwise alike.
    """

    reference: str
    id: str
    layers: tuple[tuple[str, int], ...] = ()
    last_used: float = 0.0
    stored: float = 0.0
    imported: bool = False


class Disk(Value, frozen=True):
    """Bytes of the file system that has the images, as df(1) counts: `total` = used and free together."""

    total: int
    free: int

    @property
    def used_percent(self) -> float:
        return 100.0 * (self.total - self.free) / self.total if self.total else 0.0


class Marks(Value, frozen=True):
    """:ivar start: percent used at which collection begins; it ends at `target`.
    :ivar min_free: bytes; it also begins where less is free, and ends where a quarter more is.
    """

    start: int = 85
    target: int = 80
    min_free: int = 256 << 20


class Garbage(Value, frozen=True):
    """:ivar references: to remove, in this order.
    :ivar half_fetched: what is half-fetched of images that nobody wants goes, before them.
    :ivar pressure: the disk is above the high watermark, and will be when all of that is gone.
    """

    references: tuple[str, ...] = ()
    half_fetched: bool = False
    reason: str = ""
    pressure: str = ""


def collect(
    images: Sequence[Kept],
    half_fetched: int,
    needed: Collection[str] | None,
    disk: Disk,
    marks: Marks,
    urgent: bool = False,
) -> Garbage:
    """:param half_fetched: bytes of layers that were begun for images that nobody wants any more.
    :param needed: references and image ids; None while nothing was ever accepted.
    :param urgent: a needed image finds no room: everything that may go goes, whatever the marks say.
    """
    if not (urgent or is_above(disk, marks)):
        return Garbage()
    reason = f"{disk.used_percent:.0f} % of the disk is used, {format_bytes(disk.free)} free"
    missing = disk.total if urgent else _missing(disk, marks)
    if needed is None:
        return Garbage(pressure=f"{reason}; no image is removed, since nothing was ever accepted to compare with")
    freed = half_fetched
    chosen: list[Kept] = []
    for image in _candidates(images, needed):
        if freed >= missing:
            break
        chosen.append(image)
        freed = half_fetched + _freed_by(chosen, images)
    chosen = _without_idle(chosen, images)
    still = Disk(disk.total, disk.free + freed)
    pressure = "" if not is_above(still, marks) else f"{reason}; no image that may go is left"
    return Garbage(tuple(i.reference for i in chosen), half_fetched > 0, reason, pressure)


def is_above(disk: Disk, marks: Marks) -> bool:
    """Whether the high watermark is passed."""
    return disk.total > 0 and (disk.used_percent >= marks.start or disk.free < _min_free(disk, marks))


def _min_free(disk: Disk, marks: Marks) -> float:
    """On a disk so small that the minimum is most of it, half of it is as much as can be asked for."""
    return min(marks.min_free, disk.total / 2)


def _missing(disk: Disk, marks: Marks) -> float:
    """Bytes to free until the low watermark is reached."""
    by_percent = disk.total * (100 - marks.target) / 100 - disk.free
    return max(by_percent, 1.25 * _min_free(disk, marks) - disk.free)


def _candidates(images: Sequence[Kept], needed: Collection[str]) -> list[Kept]:
    """What may go, what was needed longest ago first; of equals the one that is here longest."""
    ids = {i.id for i in images if i.reference in needed or i.id in needed or i.imported}
    free = [i for i in images if i.id not in ids]
    return sorted(free, key=lambda i: (i.last_used, i.stored, i.reference))


def _without_idle(chosen: list[Kept], images: Sequence[Kept]) -> list[Kept]:
    """Leave out those whose going frees nothing, since others that stay have all of their layers."""
    total = _freed_by(chosen, images)
    for image in tuple(chosen):
        fewer = [i for i in chosen if i is not image]
        if _freed_by(fewer, images) == total:
            chosen = fewer
    return chosen


def _freed_by(chosen: Sequence[Kept], images: Sequence[Kept]) -> int:
    """Bytes of the layers that only they have."""
    gone = {i.reference for i in chosen}
    stay = {layer for i in images if i.reference not in gone for layer, _ in i.layers}
    return sum(size for layer, size in {(x, n) for i in chosen for x, n in i.layers} if layer not in stay)
