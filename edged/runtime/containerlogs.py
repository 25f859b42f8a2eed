"""The logs of all containers of a node, in one hand: where they are, their bounds, and their copies."""

from __future__ import annotations

import functools
from pathlib import Path

from edged.config import NodeConfig
from edged.model import LogTarget
from edged.runtime.logcopy import DiskLogs, JournalSink, LogCopy, Sink
from edged.runtime.logs import LEAST_HALF, LogFile, LogKeeper
from edged.runtime.records import ContainerRecord, Places


class ContainerLogs:
    """What edged.runtime.containers needs of logs: their bounds, their writer, and their copies.

    :param places: of this node. :param settings: log_bytes and its companions.
    """

    def __init__(self, places: Places, settings: NodeConfig) -> None:
        self._places = places
        self._half = max(settings.log_bytes // 2, LEAST_HALF)
        self._keeper = LogKeeper(places.logs, self._half, settings.log_node_bytes, self._turned)
        self._disk = DiskLogs(places.disk_logs, settings.log_disk_bytes, settings.log_disk_node_bytes)
        self._copies: dict[str, LogCopy] = {}
        self._troubles: dict[str, str] = {}

    @property
    def degraded(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._troubles.values())))

    def open(self) -> None:
        self._keeper.open()

    def close(self) -> None:
        for copy in self._copies.values():
            copy.close()
        self._copies.clear()
        self._troubles.clear()
        self._disk.close()
        self._keeper.close()

    def next_half(self) -> int:
        """Bytes after which the next log to be begun is turned over."""
        return self._keeper.next_half()

    def begin(self, record: ContainerRecord) -> None:
        """Before conmon opens it."""
        self._keeper.begin(self._places.log(record.id), record.log_half)
        self._follow(record)

    def adopt(self, record: ContainerRecord, runs: bool) -> None:
        """What was begun by a daemon before this one."""
        if runs:
            self._keeper.adopt(self._places.log(record.id), record.log_half)
        self._follow(record)
        if not runs:
            self._let_go(record.id)

    def end(self, container: str) -> None:
        """It writes no more."""
        self._let_go(container)
        self._keeper.end(self._places.log(container))

    def remove(self, container: str) -> None:
        self._let_go(container)
        self._keeper.remove(self._places.log(container))

    def writer(self, record: ContainerRecord) -> LogFile:
        """For the time when conmon is gone."""
        return LogFile(self._places.log(record.id), record.log_half or self._half)

    def _follow(self, record: ContainerRecord) -> None:
        namespace, _, pod = record.pod.partition("/")
        sink: Sink
        if record.log_target == LogTarget.DISK:
            sink = self._disk.sink(namespace, pod, record.pod_uid, record.name, record.attempt)
        elif record.log_target == LogTarget.JOURNALD:
            sink = JournalSink(namespace, pod, record.pod_uid, record.name)
        else:
            return
        told = functools.partial(self._told, record.id)
        self._copies[record.id] = copy = LogCopy(self._places.log(record.id), sink, self._keeper, told)
        copy.advance()

    def _let_go(self, container: str) -> None:
        copy = self._copies.pop(container, None)
        if copy is not None:
            copy.close()
        self._troubles.pop(container, None)

    def _turned(self, log: Path) -> None:
        copy = self._copies.get(log.name.removesuffix(".log"))
        if copy is not None:
            copy.advance()

    def _told(self, container: str, trouble: str) -> None:
        if trouble:
            self._troubles[container] = trouble
        else:
            self._troubles.pop(container, None)
