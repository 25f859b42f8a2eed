"""Which images are fetched now: (wanted pods, observed, now) -> PullImage steps; and what a container waits for.

A few at a time, in the document's order, and never in the way of pods whose images are here. A registry that says no is
asked again, ever more seldom: images appear, and rights are given.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from edged.decide.attempts import Found
from edged.decide.steps import PullImage, image_owner
from edged.model import Container, Observed, Pod, PullPolicy, Setback

AT_ONCE = 2  # a slow link gives the first image sooner when it is not shared; a second one hides a slow registry
FIRST_BACKOFF, LAST_BACKOFF = 10.0, 300.0  # seconds; kubelet's (imageBackOffPeriod, MaxContainerBackOff)
JITTER = 0.1  # of the backoff at most, so that a fleet doesn't come back to its registry in step
LONGEST_ORDER = 3600.0  # seconds that a registry may tell us to stay away
ERR_PULL, BACKOFF = "ErrImagePull", "ImagePullBackOff"
INVALID_NAME, NEVER_PULL = "InvalidImageName", "ErrImageNeverPull"


def asked_key(pod_uid: str, reference: str) -> str:
    """Entry of Observed.asked for one image of one pod."""
    return f"{pod_uid} {reference}"


def must_ask(pod: Pod, container: Container, observed: Observed) -> bool:
    """Is its registry to be asked before it starts, though the image may be here?"""
    return (
        container.pull_policy is PullPolicy.ALWAYS
        and pod.uid not in observed.asked
        and asked_key(pod.uid, container.image) not in observed.asked
    )


def is_here(pod: Pod, container: Container, observed: Observed) -> bool:
    """Can it start, as far as its image goes?"""
    return container.image in observed.images and not must_ask(pod, container, observed)


def pull(pods: Sequence[Pod], observed: Observed, now: float) -> Found:
    """:param pods: those that may run and still have something to start, in the document's order."""
    users: dict[str, list[tuple[Pod, Container]]] = {}
    for pod in pods:
        for container in pod.all_containers:
            if container.pull_policy is not PullPolicy.NEVER and not is_here(pod, container, observed):
                users.setdefault(container.image, []).append((pod, container))
    free = AT_ONCE - sum(owner.startswith("image ") for owner in observed.busy)
    for reference, asking in users.items():
        owner = image_owner(reference)
        setback = observed.setbacks.get(owner)
        if owner in observed.busy:
            continue
        if setback is not None and setback.retry_at > now:
            yield setback.retry_at
        elif free > 0:
            free -= 1
            who = asking[0][0].title
            here = reference in observed.images
            reason = f"pod {who} is new here and its pull policy is Always" if here else f"pod {who} needs it"
            yield PullImage(reference, tuple({pod.uid: pod for pod, _ in asking}.values()), reason)


def backoff(reference: str, count: int, after: float) -> float:
    """Seconds until the pull that failed for the `count`-th time in a row is tried again.

    :param after: what the failure itself asks for; infinity where it can't help to try, which time may still heal.
    """
    dice = zlib.crc32(reference.encode()) / 2**32
    base: float = min(FIRST_BACKOFF * 2 ** min(count - 1, 10), LAST_BACKOFF)
    if after == float("inf"):
        base = after = LAST_BACKOFF
    return max(base * (1 - JITTER * dice), min(after, LONGEST_ORDER))


def waiting_for(pod: Pod, container: Container, observed: Observed) -> tuple[str, str]:
    """(reason, message) of a container that can't start for want of its image, in the kubelet's words."""
    image = container.image
    if container.pull_policy is PullPolicy.NEVER:
        return NEVER_PULL, (
            f'image "{image}" is not on this node and the pull policy is Never; bring it with'
            " `edgectl image import FILE`"
        )
    setback = observed.setbacks.get(image_owner(image))
    if setback is None:
        return "", ""
    return _words(image, setback)


def _words(image: str, setback: Setback) -> tuple[str, str]:
    if setback.reason == INVALID_NAME:
        return INVALID_NAME, setback.message
    if setback.count == 1:
        return ERR_PULL, setback.message
    return BACKOFF, f'back-off pulling image "{image}": {ERR_PULL}: {setback.message}'  # as kubelet since 1.31
