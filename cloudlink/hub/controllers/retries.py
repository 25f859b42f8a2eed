"""Pods that end and are made again in the same place: later and later, so that a board doesn't wear itself out. Pure.

How many in a row have failed before it stands in an annotation of the pod itself, so it outlives the hub.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudlink.hub.objects import ended_at, seconds
from cloudlink.kube.core import Pod

TRIES = "edged.dev/tries"  # annotation of a pod: how many in a row have failed in its place before it
FIRST_DELAY, LONGEST_DELAY = 1.0, 900.0  # seconds until a failed pod is replaced; doubled each time


def due(last: Pod) -> float:
    """When a pod that has ended may be replaced, in seconds since 1970."""
    return ended_at(last) + min(FIRST_DELAY * 2.0 ** min(_tries(last), 32), LONGEST_DELAY)


def mark(last: Pod | None) -> Mapping[str, str]:
    """The annotation of the pod that comes after `last`, which has ended; none for the first one."""
    return {TRIES: str(_tries(last) + 1)} if last is not None else {}


def _tries(pod: Pod) -> int:
    """A pod that did its work for long begins anew."""
    if ended_at(pod) - seconds(pod.metadata.creation_timestamp) > LONGEST_DELAY:
        return 0
    text = pod.metadata.annotations.get(TRIES, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
