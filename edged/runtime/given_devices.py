"""What containers have of the board's devices: from the start, and as things are plugged in and out.

The record (ContainerState.devices) says what a container has; it is written last, so that whoever is cut off in the
middle leaves a difference behind, and the next one does it again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from edged.errors import PermanentError, RetryError
from edged.model import Container
from edged.runtime import bundle
from edged.runtime.device_nodes import MODE, ContainersDev, Inside, character_majors, files_inside, majors_of
from edged.runtime.devices import Devices, parse, record
from edged.runtime.records import Places

DRIVERS = Path("/proc/devices")


class DeviceCgroups(Protocol):
    """What is needed of edged.runtime.cgroup.Cgroups."""

    def owns(self, path: str, pid: int) -> bool: ...
    def permit_device(self, path: str, major: int, minor: int, allow: bool) -> None: ...


class GivenDevices:
    """The claimed devices of all containers of one node. Owned by PodRuntime."""

    def __init__(self, devices: Devices, places: Places, cgroups: DeviceCgroups) -> None:
        self._devices = devices
        self._places = places
        self._cgroups = cgroups

    # ------------------------------------------------------------ from the start

    def claimed(self, container: Container, users: int, where: str) -> tuple[str, ...]:
        """What is there now of what it claims, as ContainerState.devices wants it.

        :param users: of the sandbox. :raises PermanentError: it has users of its own, for whom no device file works.
        """
        if container.devices and users:
            raise PermanentError(
                f"{where} claims devices ({', '.join(container.devices)}), which the kernel gives to no pod with"
                " hostUsers: false; remove one of the two"
            )
        return record(self._devices.resolve(container.devices))

    def at_start(
        self, container: Container, given: Sequence[str], unified: bool
    ) -> tuple[tuple[bundle.Device, ...], tuple[bundle.DeviceRule, ...]]:
        """Its device files, and what its cgroup lets it open.

        :param given: see `claimed`.
        """
        files = self._files(given)
        rules = {bundle.DeviceRule(f.major, f.minor) for f in files}
        if unified and container.devices:
            targets = [self._devices.target(name) for name in container.devices]
            rules |= {bundle.DeviceRule(major) for major in majors_of(targets, character_majors(DRIVERS.read_text()))}
        made = tuple(bundle.Device(f.path, "c", f.major, f.minor, MODE) for f in files)
        return made, tuple(sorted(rules, key=lambda r: (r.major, -1 if r.minor is None else r.minor)))

    # ------------------------------------------------------------ as they come and go

    def give(self, container_id: str, names: Collection[str]) -> None:
        """See api.Runtime.give_devices. Nothing happens to a container that doesn't run."""
        known = self._places.record(container_id)
        if not self._cgroups.owns(known.cgroup, known.pid):
            return
        now = record(self._devices.resolve(names))
        old, new = self._files(known.devices), self._files(now)
        try:
            with ContainersDev(known.pid) as dev:
                if not self._cgroups.owns(known.cgroup, known.pid):  # its pid may have become somebody else's
                    return
                self._permit(known.cgroup, {(f.major, f.minor) for f in new}, allow=True)
                for file in old:
                    if file not in new:
                        dev.remove(file)
                for file in new:
                    dev.make(file)
                gone = {(f.major, f.minor) for f in old} - {(f.major, f.minor) for f in new}
                self._permit(known.cgroup, gone, allow=False)
        except OSError as e:
            raise RetryError(f"{container_id} can't be given its devices: {e}") from e
        self._places.write(msgspec.structs.replace(self._places.record(container_id), devices=now))

    def _permit(self, cgroup: str, numbers: Iterable[tuple[int, int]], allow: bool) -> None:
        for major, minor in numbers:
            self._cgroups.permit_device(cgroup, major, minor, allow)

    def _files(self, given: Collection[str]) -> tuple[Inside, ...]:
        found: dict[str, Inside] = {}
        for name, nodes in parse(given).items():
            for file in files_inside(name, self._devices.target(name), nodes):
                found[os.path.normpath(file.path)] = file
        return tuple(found.values())
