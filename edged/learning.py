"""Learned working sets: samples every minute, kept in memory, and on disk as seldom as that is of use.

A copy in run_dir (memory) outlives the daemon. The one in state_dir outlives a power cut; it is written at most once a
day and only if it would tell something else: 2 to 4 KB with 20 containers, a megabyte of flash a year.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from edged.decide import working_sets
from edged.decide.working_sets import Learned
from edged.errors import EdgedError
from edged.model import Container, ContainerPhase, Desired, Observed, Pod
from edged.store import write_whole

log = logging.getLogger("edged.learning")

COPY_EVERY = 10  # samples between two copies to run_dir
DAY = 86_400.0
LARGEST = 1 << 20  # bytes of a file that is read back
NAME = "working-sets"
Usage = Callable[[str], tuple[int, int]]
"""container id -> bytes used now without cache that can be dropped at once, and at most so far."""


class WorkingSets:
    """Call it with (pod, container) for what is known: see sources.WorkingSets."""

    def __init__(self, state: Path, run: Path, usage: Usage, clock: Callable[[], float]) -> None:
        self._state, self._run = state / NAME, run / NAME
        self._usage = usage
        self._clock = clock
        self._known: dict[str, Learned] = {}
        self._samples = 0
        self._on_disk: dict[str, tuple[int, int]] = {}
        self._saved_at = clock()

    def __call__(self, pod: Pod, container: Container) -> tuple[int, int]:
        return working_sets.told(self._known.get(working_sets.kind_of(pod, container)))

    def load(self) -> None:
        """The newer copy is the one in memory. What can't be read is learned anew."""
        stored = _read(self._state)
        self._on_disk = _numbers(stored)
        self._known = _read(self._run) or stored
        self._samples = max((one.seen for one in self._known.values()), default=0)

    def sample(self, desired: Desired | None, observed: Observed) -> bool:
        """One number for every running container; True if something else is told now."""
        pods = {p.uid: p for p in desired.pods} if desired is not None else {}
        before = dict(self._known)
        self._samples += 1
        for state in observed.containers:
            pod = pods.get(state.pod_uid)
            container = next((c for c in pod.all_containers if c.name == state.name), None) if pod else None
            if pod is None or container is None or state.phase is not ContainerPhase.RUNNING:
                continue
            used, peak = self._usage(state.id)
            if used:
                kind = working_sets.kind_of(pod, container)
                known = self._known.get(kind, Learned())
                self._known[kind] = working_sets.learn(known, used, peak, self._samples)
        if len(self._known) > working_sets.KINDS:
            self._known = working_sets.bounded(self._known)
        if self._samples % COPY_EVERY == 0:
            self._write(self._run, durable=False)
        if self._clock() - self._saved_at >= DAY:
            self.save()
        return _numbers(before) != _numbers(self._known)

    def save(self) -> None:
        """To both places; to the disk only what would tell something else there."""
        self._write(self._run, durable=False)
        numbers = _numbers(self._known)
        self._saved_at = self._clock()
        if numbers != self._on_disk and self._write(self._state, durable=True):
            self._on_disk = numbers

    def _write(self, file: Path, durable: bool) -> bool:
        try:
            write_whole(file, msgspec.msgpack.encode(self._known), durable)
        except EdgedError as e:
            log.warning("what was learned of working sets is not saved: %s", e)
            return False
        return True


def _numbers(known: dict[str, Learned]) -> dict[str, tuple[int, int]]:
    return {kind: working_sets.told(one) for kind, one in known.items() if one.p95_told >= 0}


def _read(file: Path) -> dict[str, Learned]:
    try:
        with file.open("rb") as f:
            return working_sets.bounded(msgspec.msgpack.decode(f.read(LARGEST), type=dict[str, Learned]))
    except (OSError, msgspec.DecodeError):
        return {}
