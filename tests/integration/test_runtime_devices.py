"""Devices in real containers: claimed by name, enforced by the cgroup, given back when they come back."""

from __future__ import annotations

import asyncio
import os
import stat
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged.config import DevicesConfig
from edged.errors import PermanentError
from edged.model import Container, Material, Pod
from edged.runtime.device_nodes import ContainersDev, Inside
from edged.runtime.devices import Devices
from edged.runtime.pods import PodRuntime
from edged.runtime.uevents import Plugged, Uevents
from tests.fakes.boards import Corner, StandInNetwork, StandInServices, corner

pytestmark = pytest.mark.root
WAIT = 30.0
SLEEP = ("/bin/sleep", "600")


def openable() -> os.stat_result:
    """A character device that no container may open by itself, and that does no harm when opened."""
    for path in ("/dev/net/tun", "/dev/fuse", "/dev/loop-control", "/dev/hwrng", "/dev/kmsg"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        os.close(fd)
        return Path(path).stat()
    pytest.skip("this machine has none of the devices that can be opened here")


@pytest.fixture
def gadget() -> Iterator[Path]:
    """A path below /dev where something can be plugged in."""
    path = Path(f"/dev/edged-test-{uuid.uuid4().hex[:8]}")
    yield path
    path.unlink(missing_ok=True)


def plug(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, openable().st_rdev)


def number() -> str:
    device = openable().st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def node_with(place: Corner, gadget: Path) -> PodRuntime:
    config = msgspec.structs.replace(place.config, devices=DevicesConfig(aliases={"gadget": str(gadget)}))
    return PodRuntime(config, StandInNetwork(config.run), StandInServices())


def run(gadget: Path, scenario: Callable[[Corner, PodRuntime], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(120), corner() as place:
            runtime = node_with(place, gadget)
            await runtime.open(lambda name: None)
            try:
                await scenario(place, runtime)
            finally:
                await runtime.close()

    asyncio.run(whole())


async def start(place: Corner, runtime: PodRuntime, *devices: str, **options: Any) -> str:
    main = Container("main", "busybox:test", command=SLEEP, devices=devices)
    pod = Pod("default", "app", "uid-1", (main,), **options)
    await runtime.prepare_sandbox(pod, Material())
    return (await runtime.start_container(pod, main, place.image, Material(), 0, 0)).id


async def inside(runtime: PodRuntime, command: str) -> str:
    done = await runtime._containers.exec("uid-1.main.0", ("sh", "-c", command), WAIT)
    return (done.stdout + done.stderr).decode().strip()


OPEN = "dd if=/dev/gadget of=/dev/null count=0 2>/dev/null && echo opened || echo refused"


def given(runtime: PodRuntime, name: str) -> tuple[str, ...]:
    state = runtime.inspect(name)
    assert state is not None
    return state.devices


def test_a_claimed_device_is_usable_from_the_first_moment_on_by_any_user(gadget: Path) -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        plug(gadget)
        name = await start(place, runtime, "gadget")
        assert await inside(runtime, OPEN) == "opened"
        assert (await inside(runtime, "ls -l /dev/gadget")).startswith("crw-rw-rw-")
        assert given(runtime, name) == (f"gadget={gadget} {number()}",)
        assert given(runtime, name) == tuple(f"gadget={t}" for t in runtime.devices(["gadget"]).values())

    run(gadget, scenario)


def test_a_container_that_claims_nothing_can_not_open_the_device_even_by_making_its_file(gadget: Path) -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        plug(gadget)
        await start(place, runtime)
        assert "No such file" in await inside(runtime, "ls /dev/gadget")
        made = f"busybox mknod /dev/gadget c {number().replace(':', ' ')}; {OPEN}"
        assert (await inside(runtime, made)).endswith("refused")

    run(gadget, scenario)


def test_a_device_that_leaves_is_taken_away_and_given_back_when_it_comes_back(gadget: Path) -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        plug(gadget)
        name = await start(place, runtime, "gadget")
        gadget.unlink()
        await runtime.give_devices(name, ["gadget"])
        assert given(runtime, name) == ()
        assert "No such file" in await inside(runtime, "ls /dev/gadget")
        plug(gadget)
        await runtime.give_devices(name, ["gadget"])
        await runtime.give_devices(name, ["gadget"])
        assert given(runtime, name) == (f"gadget={gadget} {number()}",)
        assert await inside(runtime, OPEN) == "opened"

    run(gadget, scenario)


def test_a_device_that_was_not_there_at_the_start_is_given_later(gadget: Path) -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        name = await start(place, runtime, "gadget")
        assert given(runtime, name) == ()
        plug(gadget)
        await runtime.give_devices(name, ["gadget"])
        assert "/dev/gadget" in await inside(runtime, "ls /dev/gadget")
        again = node_with(place, gadget)
        await again.open(lambda name: None)
        assert given(again, name) == (f"gadget={gadget} {number()}",)  # a daemon that starts anew knows
        await again.close()

    run(gadget, scenario)


def test_giving_devices_to_a_container_that_has_ended_does_nothing(gadget: Path) -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        name = await start(place, runtime, "gadget")
        await runtime.kill_container(name, "test")
        async with asyncio.timeout(WAIT):
            while (state := runtime.inspect(name)) is not None and state.pid:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        plug(gadget)
        await runtime.give_devices(name, ["gadget"])
        assert given(runtime, name) == ()

    run(gadget, scenario)


def test_links_inside_a_container_can_not_lead_its_devices_elsewhere(gadget: Path) -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        name = await start(place, runtime)
        state = runtime.inspect(name)
        assert state is not None
        (place.folder / "victim").mkdir()
        await inside(runtime, f"busybox ln -s {place.folder}/victim /dev/serial; busybox ln -s /etc/passwd /dev/x")
        with ContainersDev(state.pid) as dev:
            with pytest.raises(PermanentError, match="/dev/serial/by-id is not a folder inside the container"):
                dev.make(Inside("/dev/serial/by-id/y", 1, 3))
            dev.make(Inside("/dev/x", 1, 3))  # the link goes, not what it leads to
            dev.make(Inside("/dev/usb/0403:6001", 1, 3))
            for bad in ("/etc/x", "/dev/../etc/x", "/dev/"):
                with pytest.raises(PermanentError, match="is not below /dev"):
                    dev.make(Inside(bad, 1, 3))
        assert list((place.folder / "victim").iterdir()) == []
        assert (await inside(runtime, "ls -l /dev/x /dev/usb/0403:6001")).count("crw-rw-rw-") == 2
        assert "root" in await inside(runtime, "cat /etc/passwd")

    run(gadget, scenario)


def test_a_pod_with_users_of_its_own_is_told_that_it_can_not_have_devices(gadget: Path) -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        place.folder.chmod(0o711)  # so that the pod's users could get as far as to its files
        with pytest.raises(PermanentError, match=r"claims devices \(gadget\).*hostUsers: false; remove one of the two"):
            await start(place, runtime, "gadget", host_users=False)

    run(gadget, scenario)


def test_the_daemon_is_woken_when_something_claimable_is_plugged_in(gadget: Path) -> None:
    """A message of the kernel's own, asked for by hand (sysfs' uevent files)."""
    sources = [p for p in Path("/sys/class/misc").glob("*/uevent") if os.access(p, os.W_OK)]
    if not sources:
        pytest.skip("this machine has no device to ask for a message")

    async def scenario() -> None:
        heard = asyncio.Event()
        uevents = Uevents(heard.set)
        uevents.open()
        try:
            sources[0].write_text("add")
            async with asyncio.timeout(WAIT):
                await heard.wait()
        finally:
            uevents.close()

    asyncio.run(scenario())


def test_only_what_changes_among_the_claimable_devices_wakes_the_daemon(gadget: Path) -> None:
    sources = [p for p in Path("/sys/class/misc").glob("*/uevent") if os.access(p, os.W_OK)]
    if not sources:
        pytest.skip("this machine has no device to ask for a message")

    async def scenario() -> None:
        told, heard = asyncio.Event(), asyncio.Event()
        plugged = Plugged(Devices(DevicesConfig(aliases={"gadget": str(gadget)})))
        plugged.open(told.set)
        second = Uevents(heard.set)  # hears what the first one hears, after it
        second.open()
        try:
            async with asyncio.timeout(WAIT):
                sources[0].write_text("change")
                await heard.wait()
                assert not told.is_set()
                plug(gadget)
                sources[0].write_text("add")
                await told.wait()
        finally:
            second.close()
            plugged.close()

    asyncio.run(scenario())
