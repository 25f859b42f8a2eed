"""What containers really use: a small histogram per kind of container, kept up with one number a minute.

A kind is what outlives a pod: namespace, container name, and the image's repository. So a Deployment's next pod, or the
next version of its image, starts with what the last one taught; replicas on one node teach the same entry.

The numbers told are rounded up to steps of 12 % and follow only when the new step has stayed for a while, for each new
number is a new status on the wire.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec.structs import replace

from edged.model import Container, Pod, Value

LEAST = 64 << 10  # bytes: the first step; below it nothing is told apart
STEPS = 6  # in a doubling: 12.2 % each
REMEMBERED = 2880  # samples, two days at one a minute; then the old ones count half
FIRST = 5  # samples before anything is told: a start looks like nothing that comes later
STAYED = 10  # samples for which a new step must hold before it is told
KINDS = 256  # at most; who was seen least recently is forgotten. About 200 bytes each


class Learned(Value, frozen=True):
    """What is known of one kind of container.

    :ivar steps: (step, samples in it), ascending.
    :ivar peak, peak_before: bytes at most, in this period of REMEMBERED samples and in the one before it.
    :ivar p95_told, peak_told: steps; -1 = nothing yet.
    :ivar apart: samples for which what is told has been another step than what is known.
    :ivar seen: when it was last sampled, in any growing number.
    """

    steps: tuple[tuple[int, int], ...] = ()
    samples: int = 0
    peak: int = 0
    peak_before: int = 0
    p95_told: int = -1
    peak_told: int = -1
    apart: int = 0
    seen: int = 0


def kind_of(pod: Pod, container: Container) -> str:
    """The key."""
    return f"{pod.namespace}/{container.name}/{repository(container.image)}"


def repository(image: str) -> str:
    """An image reference without tag and digest."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def step_of(count: int) -> int:
    """The step that a number of bytes is rounded up to."""
    step = math.floor(math.log2(max(count, LEAST) / LEAST) * STEPS)
    while size_of(step) < count:  # once at most: a logarithm is not exact
        step += 1
    return step


def size_of(step: int) -> int:
    """Bytes of a step, whole KiB; 0 for none."""
    return 0 if step < 0 else math.ceil(LEAST * 2 ** (step / STEPS) / 1024) * 1024


def learn(known: Learned, used: int, peak: int, seen: int) -> Learned:
    """One more sample: bytes used now, and at most so far in this container's life."""
    counts = dict(known.steps)
    step = step_of(used)
    counts[step] = counts.get(step, 0) + 1
    samples, top, before = known.samples + 1, max(known.peak, used, peak), known.peak_before
    if samples >= REMEMBERED:
        counts = {s: c // 2 for s, c in counts.items() if c > 1}
        samples = sum(counts.values())
        top, before = max(used, peak), top
    known = replace(
        known, steps=tuple(sorted(counts.items())), samples=samples, peak=top, peak_before=before, seen=seen
    )
    return _tell(known)


def _tell(known: Learned) -> Learned:
    p95, peak = percentile(known, 0.95), step_of(max(known.peak, known.peak_before))
    if known.samples < FIRST or not (_differs(p95, known.p95_told) or _differs(peak, known.peak_told)):
        return replace(known, apart=0)
    if known.p95_told >= 0 and known.apart + 1 < STAYED:
        return replace(known, apart=known.apart + 1)
    return replace(known, p95_told=p95, peak_told=peak, apart=0)


def _differs(step: int, told: int) -> bool:
    """Down only by two steps: a container that breathes across a border would be told anew all the time."""
    return step > told or step < told - 1


def percentile(known: Learned, share: float) -> int:
    """The step that this share of all samples is at or below; -1 where there is none."""
    total = sum(count for _, count in known.steps)
    seen = 0
    for step, count in known.steps:
        seen += count
        if seen >= share * total:
            return step
    return -1


def told(known: Learned | None) -> tuple[int, int]:
    """(p95, peak) in bytes, 0 where not known yet."""
    return (size_of(known.p95_told), size_of(known.peak_told)) if known is not None else (0, 0)


def bounded(known: Mapping[str, Learned]) -> dict[str, Learned]:
    """At most KINDS of them."""
    newest = sorted(known.items(), key=lambda item: item[1].seen, reverse=True)[:KINDS]
    return dict(newest)
