"""How pods have ended that are not to run again, and which have begun that may run only once: on the disk, for what a
pod has done must not be done again after a power cut.

One file in state_dir, written and flushed when a pod ends for good, and when one begins whose restart policy is Never.
One of those that a power cut has taken counts as failed then, as it does in Kubernetes: how far it had come is not
known, and whoever made it decides. What containers said is not kept: logs live in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from edged.errors import EdgedError
from edged.model import ContainerStatus, Phase, Pod, PodStatus, RestartPolicy, Value
from edged.store import write_whole

log = logging.getLogger("edged.endings")

NAME = "ended"
LARGEST = 4 << 20  # bytes of a file that is read back
FINAL = (Phase.SUCCEEDED, Phase.FAILED)
LOST = "NodeLostPower"


class Record(Value, frozen=True):
    ended: dict[str, PodStatus]
    begun: tuple[str, ...]


class Endings:
    """Owned by the daemon; bounded by its document. :ivar known: uid -> the last that was told of it."""

    def __init__(self, state: Path) -> None:
        self._file = state / NAME
        self.known: Mapping[str, PodStatus] = {}
        self._begun: set[str] = set()
        self._before: set[str] = set()  # begun before this daemon, and not yet looked for
        self._unsaved = False

    def load(self) -> None:
        """What can't be read is begun anew; the pods concerned may then run once more."""
        try:
            with self._file.open("rb") as f:
                record = msgspec.msgpack.decode(f.read(LARGEST), type=Record)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, ValueError) as e:
            log.warning("%s can't be read, pods that have ended may run once more: %s", self._file, e)
            return
        self.known, self._begun = record.ended, set(record.begun)
        self._before = set(self._begun)

    def look_for(self, wanted: Iterable[Pod], present: Collection[str]) -> None:
        """The first look at the machine: what of those that had begun is there? :param present: uids of pods."""
        lost = [p for p in wanted if p.uid in self._before and p.uid not in present and p.uid not in self.known]
        self._before.clear()
        if lost:
            self._keep({**self.known, **{p.uid: _lost(p) for p in lost}}, self._begun)

    def begin(self, pods: Iterable[Pod]) -> None:
        """Pods that are about to begin."""
        fresh = {p.uid for p in pods if p.restart_policy is RestartPolicy.NEVER} - self._begun
        if fresh:
            self._keep(self.known, self._begun | fresh)

    def note(self, told: Iterable[PodStatus], wanted: Iterable[Pod]) -> None:
        """Remember those that have ended for good, before anybody is told."""
        uids = {p.uid for p in wanted}
        fresh = {s.uid: s for s in told if s.phase in FINAL and s.uid in uids and s.uid not in self.known}
        if fresh or self._unsaved:
            known = {uid: s for uid, s in self.known.items() if uid in uids} | fresh
            self._keep(known, (self._begun & uids) - known.keys())

    def _keep(self, known: Mapping[str, PodStatus], begun: set[str]) -> None:
        self.known, self._begun = known, begun
        try:
            record = Record(dict(known), tuple(sorted(begun)))
            write_whole(self._file, msgspec.msgpack.encode(record), durable=True)
        except EdgedError as e:
            if not self._unsaved:
                log.warning("%s; what ended or began now may run once more after a power cut", e)
            self._unsaved = True
            return
        self._unsaved = False


def _lost(pod: Pod) -> PodStatus:
    message = "the node lost power while it ran, and its restart policy is Never"
    plain = tuple(ContainerStatus(c.name, c.image, "terminated", "ContainerStatusUnknown") for c in pod.containers)
    return PodStatus(pod.uid, pod.namespace, pod.name, Phase.FAILED, reason=LOST, message=message, containers=plain)
