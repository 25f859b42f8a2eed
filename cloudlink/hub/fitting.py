"""What to leave out of a document that is too large, so that one greedy pod doesn't starve its neighbours. Pure.

Nothing that runs is stopped for it: only pods that the node was never told of are left out, and of a config or secret
that has grown too large the node keeps what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from cloudlink.kube.compile import references
from edged.errors import PermanentError
from edged.model import Desired, Pod

LARGE = 64 << 10  # bytes of one config map or secret that is worth naming


@dataclass(frozen=True, slots=True)
class Fitted:
    """:ivar left_out: uid of each pod that isn't in the document -> why, a sentence.
    :ivar held_back: uid of each pod that runs on with an earlier config or secret -> why.
    :ivar kept: "namespace/name" of the secrets whose earlier content stays.
    """

    desired: Desired
    left_out: Mapping[str, str] = field(default_factory=dict)
    held_back: Mapping[str, str] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Something that the document can do without: a new pod (`uid`), or the news of a config or secret (`title`)."""

    size: int
    uid: str = ""
    title: str = ""


def fit(desired: Desired, before: Desired | None, problem: Callable[[Desired], str]) -> Fitted:
    """The document itself if it is small enough, else the largest part of it that is.

    :param before: what the node was told last.
    :param problem: "" for a document that can be sent, else why it can't; leaving out more never makes it worse.
    :raises PermanentError: not even what the node has already can be sent again.
    """
    why = problem(desired)
    if not why:
        return Fitted(desired)
    candidates = _candidates(desired, before)
    low, high = 1, len(candidates)
    if not candidates or problem(_without(desired, before, candidates).desired):
        raise PermanentError(f"{why}{largest_parts(desired)}")
    while low < high:  # the fewest, from the largest on
        middle = (low + high) // 2
        if problem(_without(desired, before, candidates[:middle]).desired):
            low = middle + 1
        else:
            high = middle
    return _without(desired, before, candidates[:low], why)


def _candidates(desired: Desired, before: Desired | None) -> list[_Candidate]:
    """The largest first. A new pod counts with all that it refers to."""
    old = before if before is not None else Desired(desired.fleet, desired.node, 0)
    told = {p.uid for p in old.pods}
    sizes = _sizes(desired)
    found = [
        _Candidate(len(msgspec.msgpack.encode(pod)) + sum(sizes.get(t, 0) for t in _titles([pod])), uid=pod.uid)
        for pod in desired.pods
        if pod.uid not in told
    ]
    news = [t for t, data in desired.configs.items() if t in old.configs and old.configs[t] != data]
    news += [t for t, box in desired.secrets.items() if t in old.secrets and old.secrets[t] != box]
    found += [_Candidate(sizes[t], title=t) for t in news]
    return sorted(found, key=lambda c: (-c.size, c.uid, c.title))


def _sizes(desired: Desired) -> dict[str, int]:
    sizes = {title: sum(map(len, data.values())) for title, data in desired.configs.items()}
    for title, box in desired.secrets.items():  # a config and a secret may share a name: together, then
        sizes[title] = sizes.get(title, 0) + len(box)
    return sizes


def _titles(pods: Sequence[Pod]) -> set[str]:
    configs, secrets = references(pods)
    return configs | secrets


def _without(desired: Desired, before: Desired | None, dropped: Sequence[_Candidate], why: str = "") -> Fitted:
    gone = {c.uid for c in dropped if c.uid}
    stale = {c.title for c in dropped if c.title}
    pods = tuple(p for p in desired.pods if p.uid not in gone)
    configs, secrets = references(pods)
    old = before if before is not None else Desired(desired.fleet, desired.node, 0)
    smaller = msgspec.structs.replace(
        desired,
        pods=pods,
        services=tuple(
            msgspec.structs.replace(s, pods=tuple(uid for uid in s.pods if uid not in gone)) for s in desired.services
        ),
        configs={t: old.configs.get(t, d) if t in stale else d for t, d in desired.configs.items() if t in configs},
        secrets={t: old.secrets.get(t, b) if t in stale else b for t, b in desired.secrets.items() if t in secrets},
    )
    if not why:
        return Fitted(smaller)
    left_out = {
        p.uid: f"the node isn't told of this pod: with it, {why}{largest_parts(desired, _titles([p]))}"
        for p in desired.pods
        if p.uid in gone
    }
    held_back = {
        p.uid: f"the pod keeps the earlier content of {', '.join(sorted(mine))}: with the new one, {why}"
        for p in pods
        if (mine := stale & _titles([p]))
    }
    return Fitted(smaller, left_out, held_back, frozenset(stale & old.secrets.keys()))


def largest_parts(desired: Desired, of: set[str] | None = None) -> str:
    """What to make smaller; "" where nothing is large. `of`: only these configs and secrets."""
    sizes = {f"config map {t}": sum(map(len, d.values())) for t, d in desired.configs.items() if of is None or t in of}
    sizes |= {f"secret {t}": len(box) for t, box in desired.secrets.items() if of is None or t in of}
    largest = sorted((size, title) for title, size in sizes.items() if size >= LARGE)[:-4:-1]
    told = ", ".join(f"{title} ({size >> 10} KiB)" for size, title in largest)
    return f"; make smaller: {told}" if told else ""
