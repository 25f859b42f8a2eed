"""Who has to go when the disk is full, or when there are no processes left to be had.

Limits come first and hold always: a pod above its ephemeral-storage limit, or with an emptyDir above its sizeLimit, is
evicted as in Kubernetes. Pressure comes after images were collected: one pod at a look, those above their request
first, then by class, priority and how much is to be won.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edged.decide.budget import format_bytes
from edged.decide.ladder import CRITICAL_PRIORITY
from edged.decide.steps import EndPod
from edged.model import EmptyDir, Pod, Qos, Value, qos_of

ENOUGH = 0.9  # share of all processes that may be there until the node says PIDPressure
TOO_MANY = 0.95  # from which on a pod goes
WORTH = 1 << 20  # bytes on the disk below which the end of a pod is no help


class Use(Value, frozen=True):
    """What one pod takes. Storage in bytes, as measured.

    :ivar storage: writable layers and emptyDirs on disk together.
    :ivar volumes: (name, bytes) of its emptyDirs on disk. `layers`: (container, bytes) of its writable layers.
    """

    pod: Pod
    storage: int = 0
    volumes: tuple[tuple[str, int], ...] = ()
    layers: tuple[tuple[str, int], ...] = ()
    processes: int = 0


def has_storage_limits(pod: Pod) -> bool:
    """Whether its storage has to be measured at all."""
    sized = (isinstance(v.source, EmptyDir) and not v.source.memory and v.source.size_limit for v in pod.volumes)
    return any(sized) or any(c.limits.storage_limit is not None for c in pod.all_containers)


def over_limits(uses: Sequence[Use]) -> list[EndPod]:
    """Pods above a limit of their own."""
    found = ((use.pod, excess(use)) for use in uses)
    return [_end(pod, sentence) for pod, sentence in found if sentence]


def excess(use: Use) -> str:
    """How a pod is above its own limits, as a sentence; "" where it is not. Kubernetes' rules: each emptyDir, each
    container, and the pod as a whole against the sum of its containers' limits."""
    sizes = {v.name: v.source.size_limit for v in use.pod.volumes if isinstance(v.source, EmptyDir)}
    for name, used in use.volumes:
        most = sizes.get(name)
        if most is not None and used > most:
            return f'emptyDir "{name}" uses {_of(used)}, its sizeLimit is {format_bytes(most)}'
    limits = {c.name: c.limits.storage_limit for c in use.pod.all_containers}
    for name, used in use.layers:
        most = limits.get(name)
        if most is not None and used > most:
            return f"container {name} has written {_of(used)}, its ephemeral-storage limit is {format_bytes(most)}"
    given = [limit for limit in (c.limits.storage_limit for c in use.pod.containers) if limit is not None]
    if given and use.storage > sum(given):
        return f"the pod uses {_of(use.storage)} of storage, its limit is {format_bytes(sum(given))}"
    return ""


def for_disk(free: int, mark: int, uses: Sequence[Use]) -> list[EndPod]:
    """The pod to end next, if any. A disk that somebody else has filled gets no emptier by ending pods that have
    nothing on it: that would cost the board all of them.

    :param free: bytes of the disk. :param mark: below it there is pressure.
    """
    if free >= mark:
        return []
    worth = [use for use in uses if use.storage >= WORTH]
    for pod, used in _ranked(worth, lambda use: use.storage, _storage_request):
        return [_end(pod, f"the node was short of storage ({_of(free)} left); the pod used {_of(used)}")]
    return []


def for_processes(there: int, most: int, uses: Sequence[Use]) -> list[EndPod]:
    if most <= 0 or there < TOO_MANY * most:
        return []
    for pod, used in _ranked(uses, lambda use: use.processes, lambda _: 0):
        return [_end(pod, f"the node was short of processes ({there} of {most}); the pod had {used}")]
    return []


def _ranked(uses: Sequence[Use], amount: Callable[[Use], int], request: Callable[[Pod], int]) -> list[tuple[Pod, int]]:
    able = [(u.pod, amount(u)) for u in uses if amount(u) > 0 and u.pod.priority < CRITICAL_PRIORITY]
    order = {Qos.BEST_EFFORT: 0, Qos.BURSTABLE: 1, Qos.GUARANTEED: 2}

    def key(item: tuple[Pod, int]) -> tuple[bool, int, int, int, str]:
        pod, used = item
        above = used - request(pod)
        return above <= 0, order[qos_of(pod)], pod.priority, -above, pod.uid

    # who has next to nothing goes last: his end would free next to nothing
    most = max((used for _, used in able), default=0)
    return sorted(able, key=lambda item: (item[1] * 20 < most, *key(item)))


def _storage_request(pod: Pod) -> int:
    return sum(c.limits.storage_request for c in pod.containers)


def _end(pod: Pod, sentence: str) -> EndPod:
    return EndPod(pod.uid, pod.title, "Evicted", sentence)


def _of(count: int) -> str:
    return format_bytes(count >> 10 << 10 if count >= 1024 else count)
