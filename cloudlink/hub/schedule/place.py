"""Pods x nodes -> bindings, or a sentence that says why there is none. Pure.

Invariants: a pod is bound at most once and never moved; the requests on a node never exceed what it can allocate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloudlink.hub.schedule.rooms import NO_PLACES, Room, host_ports, obstacle, untolerated
from cloudlink.hub.schedule.sizes import Size, size_of
from cloudlink.hub.schedule.storage import Places, hindrance, taken, to_be_made
from cloudlink.kube.core import Pod
from cloudlink.kube.quantity import format_milli


@dataclass(frozen=True, slots=True)
class Binding:
    """This pod runs on that node, for ever."""

    pod: Pod
    node: str

    def describe(self) -> str:
        return f"bind {self.pod.title} to {self.node}"


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No node takes this pod now; `why` is for its owner to act on."""

    pod: Pod
    why: str

    def describe(self) -> str:
        return f"leave {self.pod.title} pending: {self.why}"


Verdict = Binding | Unplaced


def place(pending: Iterable[Pod], rooms: Sequence[Room], places: Places = NO_PLACES) -> tuple[Verdict, ...]:
    """One verdict for each pod, by priority, then oldest first; of the same second, the largest first, because it is
    the hardest.

    Every binding takes its room before the next pod is looked at, and decides where the pod's claims will be.
    """
    left = {r.name: r for r in rooms}
    claims = dict(places)
    verdicts: list[Verdict] = []
    for pod in sorted(pending, key=_turn):
        if why := hindrance(pod, claims):
            verdicts.append(Unplaced(pod, why))
            continue
        size = size_of(pod.spec, pod.metadata.annotations) + Size(storage=to_be_made(pod, claims))
        obstacles = {name: obstacle(pod, size, room, claims) for name, room in left.items()}
        able = [left[name] for name, (kind, _) in obstacles.items() if not kind]
        if not able:
            verdicts.append(Unplaced(pod, sentence(size, list(obstacles.values()), list(left.values()))))
            continue
        best = min(able, key=lambda r: _looseness(pod, size, r))
        left[best.name] = best.without(size, host_ports(pod.spec))
        taken(claims, pod, best.name)
        verdicts.append(Binding(pod, best.name))
    return tuple(verdicts)


def _turn(pod: Pod) -> tuple[int, str, int, int, str, str]:
    size, meta = size_of(pod.spec), pod.metadata
    created = meta.creation_timestamp or "~"
    return -(pod.spec.priority or 0), created, -size.memory, -size.cpu, meta.namespace, meta.name


def _looseness(pod: Pod, size: Size, room: Room) -> tuple[int, float, float, int, str]:
    """Sort key: the tightest fit first, so that large holes stay for large pods.

    A taint that says "rather not" outweighs tightness. Memory decides before CPU: CPU can be shared, memory can't.
    Nodes equally tight (pods that ask for nothing) share the pods out.
    """
    unwanted = len(untolerated(room.node.spec.taints, pod.spec.tolerations, ("PreferNoSchedule",)))
    after = room.free - size
    memory = after.memory / room.whole.memory if room.whole.memory else 0.0
    cpu = after.cpu / room.whole.cpu if room.whole.cpu else 0.0
    return unwanted, round(memory, 9), round(cpu, 9), -after.pods, room.name


# ---------------------------------------------------------------- in words


def sentence(size: Size, obstacles: Sequence[tuple[str, str]], rooms: Sequence[Room]) -> str:
    """Such as `0/2 nodes: 1 is offline, 1 lacks 4 GiB memory (largest free 900 MiB)`."""
    if not rooms:
        return "0/0 nodes: no node has joined this fleet yet"
    counts: dict[tuple[str, str], int] = {}
    for each in obstacles:
        counts[each] = counts.get(each, 0) + 1
    parts = [_part(kind, detail, n, size, _largest(kind, obstacles, rooms)) for (kind, detail), n in counts.items()]
    return f"0/{len(rooms)} nodes: {', '.join(parts)}"


def _largest(kind: str, obstacles: Sequence[tuple[str, str]], rooms: Sequence[Room]) -> Size:
    """The most that any node with this obstacle has free."""
    free = [r.free for r, (k, _) in zip(rooms, obstacles, strict=True) if k == kind]
    return Size(max(f.memory for f in free), max(f.cpu for f in free), storage=max(f.storage for f in free))


def _part(kind: str, detail: str, count: int, size: Size, largest: Size) -> str:
    one = count == 1
    lacks = "lacks" if one else "lack"
    match kind:
        case "ready":
            text = "is not ready" if one else "are not ready"
        case "cordoned":
            text = "is cordoned" if one else "are cordoned"
        case "selector":
            text = f"{'does not' if one else 'do not'} match nodeSelector {detail}"
        case "taint":
            text = f"{'has' if one else 'have'} taint {detail} that the pod does not tolerate"
        case "pods":
            text = f"{'has' if one else 'have'} no room for another pod (limit {detail})"
        case "memory":
            text = f"{lacks} {in_bytes(size.memory)} memory (largest free {in_bytes(max(largest.memory, 0))})"
        case "storage":
            text = f"{lacks} {in_bytes(size.storage)} storage (largest free {in_bytes(max(largest.storage, 0))})"
        case "claim":
            text = f"{'does not' if one else 'do not'} have the volume of claim {detail}"
        case "pressure":
            text = f"{'has' if one else 'have'} {detail}"
        case "port":
            text = f"{'has' if one else 'have'} host port {detail} taken"
        case "device":
            text = f"{'has' if one else 'have'} no device {detail} free"
        case _:
            free = format_milli(max(largest.cpu, 0))
            text = f"{lacks} {format_milli(size.cpu)} cpu (largest free {free})"
    return f"{count} {text}"


def in_bytes(number: int) -> str:
    """For people: 4294967296 -> "4 GiB", 943718400 -> "900 MiB", 966367641 -> "922 MiB"."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 1 << power:
            value = number / (1 << power)
            return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"
    return f"{number} bytes"
