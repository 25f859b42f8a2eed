"""What is to be seen of a container: the record, and what crun, conmon and the kernel add to it since.

Where a start was cut short they may have got further than the record; an end that nobody was told of stands in conmon's
exit file. Nothing is changed here but the record of an end, and that only by a daemon.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path

from msgspec.structs import replace

from edged.errors import EdgedError
from edged.model import ContainerPhase, ContainerState
from edged.runtime import last_words
from edged.runtime.cgroup import Cgroups
from edged.runtime.crun import Crun
from edged.runtime.records import ContainerRecord, Places, read_number


class Sight:
    """:param starting: ids of containers that are being started this moment.

    :ivar writes: ends that are seen are written down (the daemon does; `edged plan` only looks).
    """

    def __init__(self, places: Places, cgroups: Cgroups, crun: Crun, starting: Collection[str]) -> None:
        self._places = places
        self._cgroups = cgroups
        self._crun = crun
        self._starting = starting
        self.writes = False

    def look(self, record: ContainerRecord) -> ContainerState:
        """One container, read afresh. An end that is seen for the first time is written down."""
        if record.finished_at:
            return _ended_state(record)
        record = self.with_pids(record)
        monitored = self.is_conmon(record)
        if self._cgroups.owns(record.cgroup, record.pid):
            waiting = not record.started_at or self._crun.waits_for_start(record.id)
            return record.state(ContainerPhase.STARTING if waiting else ContainerPhase.RUNNING, monitored)
        if record.id in self._starting or (monitored and not record.pid):
            return record.state(ContainerPhase.STARTING, monitored)
        if monitored and not self.exit_file(record).exists():  # it is about to be written
            return record.state(ContainerPhase.RUNNING, monitored)
        return _ended_state(self.settle(record, None))

    def with_pids(self, record: ContainerRecord) -> ContainerRecord:
        """Where a start was cut short, crun and conmon may have got further than the record."""
        if record.pid and record.conmon:
            return record
        folder = self._places.container(record.id)
        return replace(
            record,
            cgroup=record.cgroup or self._cgroups.path(record.pod_uid, record.name, record.attempt),
            pid=record.pid or read_number(folder / "pid") or 0,
            conmon=record.conmon or read_number(folder / "conmon") or 0,
        )

    def is_conmon(self, record: ContainerRecord) -> bool:
        """By its command line, which names the bundle: pids are reused."""
        try:
            with open(f"/proc/{record.conmon}/cmdline", "rb", buffering=0) as f:  # noqa: PTH123 (a hot path)
                return b"\0%b\0" % os.fsencode(self._places.folder_of(record)) in f.read()
        except OSError:
            return False

    def exit_file(self, record: ContainerRecord) -> Path:
        return Path(self._places.folder_of(record), record.id)

    def settle(self, record: ContainerRecord, code: int | None, seen: bool = False) -> ContainerRecord:
        """The end, as conmon wrote it down or as `code` says; while cgroup and exit file are still there.

        :param seen: it has ended just now; else the exit file's age tells when.
        """
        file = self.exit_file(record)
        told = read_number(file)
        now, wall = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        finished_wall = wall
        if told is not None:
            code = told
            with contextlib.suppress(OSError):
                finished_wall = wall if seen else file.stat().st_mtime
        oom = self._cgroups.oom_kills(record.cgroup) > 0 and code != 0
        log = self._places.log(record.id)
        fallback = (log.with_name(f"{log.name}.1"), log) if record.message_fallback and code != 0 else ()
        ended = replace(
            record,
            exit_code=137 if oom and code is None else code,
            oom_killed=oom,
            finished_at=min(max(now - (wall - finished_wall), record.started_at), now),
            finished_wall=finished_wall,
            message=last_words.message(self._places.message(record.id), fallback),
        )
        if self.writes:
            with contextlib.suppress(EdgedError):
                self._places.write(ended)
        return ended


def _ended_state(record: ContainerRecord) -> ContainerState:
    known = record.exit_code is not None
    return record.state(ContainerPhase.EXITED if known else ContainerPhase.UNKNOWN, monitored=True)
