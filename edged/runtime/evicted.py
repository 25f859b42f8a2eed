"""What an evicted pod still holds is given back once its last container has ended: that is what it was evicted for.

As the kubelet does, the volumes go and what containers wrote goes; the records stay, so that people can see how it
ended. Persistent volumes are only let go of. Whoever is killed meanwhile begins anew when a daemon starts.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from edged.errors import EdgedError
from edged.runtime import mounts
from edged.runtime.containers import remove_tree
from edged.runtime.records import Places, SandboxRecord, read

log = logging.getLogger("edged.evicted")

EVICTED = "Evicted"  # and not DeadlineExceeded: that pod had its time, and its files may be what it was for


class Evicted:
    """Owned by PodRuntime; one loop.

    :param alive: whether a pod has a container that has not ended.
    """

    def __init__(self, places: Places, alive: Callable[[str], bool]) -> None:
        self._places = places
        self._alive = alive
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self) -> None:
        for record in self._places.sandboxes():
            self.look(record.pod_uid)

    def look(self, pod_uid: str) -> None:
        """A container of that pod may have ended just now."""
        record = read(self._places.pod(pod_uid) / "sandbox", SandboxRecord)
        if record is None or record.evicted != EVICTED or pod_uid in self._tasks or self._alive(pod_uid):
            return
        task = asyncio.get_running_loop().create_task(self._give_back(pod_uid), name=f"give back {pod_uid}")
        self._tasks[pod_uid] = task
        task.add_done_callback(lambda _: self._tasks.pop(pod_uid, None))

    async def settled(self, pod_uid: str) -> None:
        """Wait until nobody is at work in that pod's folders."""
        task = self._tasks.get(pod_uid)
        if task is not None:
            await asyncio.wait([task])

    async def close(self) -> None:
        for task in tuple(self._tasks.values()):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _give_back(self, pod_uid: str) -> None:
        try:
            mounts.unmount_below(os.fspath(self._places.pod(pod_uid) / "volumes"))  # memory goes with its mount
            scratch = self._places.scratch(pod_uid)
            for entry in sorted(scratch.iterdir()) if scratch.is_dir() else ():
                if entry.name != "sandbox":
                    await remove_tree(entry)
        except (EdgedError, OSError) as e:
            log.warning("not all that the evicted pod %s had could be given back: %s", pod_uid, e)
