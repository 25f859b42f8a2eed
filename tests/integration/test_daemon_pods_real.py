"""The daemon with whole pods on this machine: what the planner decides, containers really do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from edged.daemon import Daemon
from edged.model import (
    ConfigFiles,
    Container,
    Desired,
    EmptyDir,
    ExecAction,
    Image,
    Mount,
    NodeStatus,
    Phase,
    Pod,
    Probe,
    RestartPolicy,
    Volume,
)
from edged.store import StateStore
from tests.fakes.boards import Corner, corner
from tests.fakes.runtime import FakePuller
from tests.unit.test_daemon import FakeUplink

pytestmark = pytest.mark.root

WAIT = 60.0  # seconds until a test gives up
STAY = ("/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
SHARED = (Mount("shared", "/shared"),)


def note(words: str) -> tuple[str, ...]:
    """Adds a line to the diary that all containers of the pod share."""
    return ("/bin/sh", "-c", f"echo {words} >> /shared/diary")


def staying(words: str) -> tuple[str, ...]:
    """Notes its beginning and its end."""
    script = f"trap 'echo {words}-ends >> /shared/diary; exit 0' TERM; echo {words}-begins >> /shared/diary; "
    return ("/bin/sh", "-c", script + "while :; do sleep 0.05; done")


class OneImage:
    def __init__(self, image: Image) -> None:
        self._image = image

    def resolve(self, reference: str) -> Image | None:
        return replace(self._image, reference=reference) if reference == "busybox:test" else None

    def list(self) -> tuple[Image, ...]:
        return (self._image,)


class Node:
    def __init__(self, place: Corner) -> None:
        self.place = place
        self.uplink = FakeUplink()
        self.runtime = place.runtime()
        store = StateStore(place.config.state)
        self.daemon = Daemon(place.config, self.runtime, OneImage(place.image), FakePuller(), store, self.uplink)

    async def offer(self, desired: Desired) -> None:
        async with asyncio.timeout(WAIT):
            (await self.uplink.inbox).offer(desired)

    async def until(self, true: Callable[[NodeStatus], bool]) -> NodeStatus:
        async with asyncio.timeout(WAIT):
            while not (self.uplink.told and true(self.uplink.told[-1])):
                await self.daemon.changed()
        return self.uplink.told[-1]


@asynccontextmanager
async def running(place: Corner) -> AsyncIterator[Node]:
    node = Node(place)
    task = asyncio.create_task(node.daemon.run(), name="node under test")
    try:
        yield node
    finally:
        node.daemon.stop()
        await task


def wanting(place: Corner, *pods: Pod, generation: int = 1, **more: object) -> Desired:
    return Desired("default", place.config.name, generation, pods, **more)  # type: ignore[arg-type]


def test_init_containers_sidecars_and_hooks_come_and_go_in_their_order() -> None:
    """All of them write to one diary on the disk, which outlives their ends until the pod is taken away."""
    hook = ExecAction(note("hook-begins"))
    parting = ExecAction(note("hook-ends"))
    pod = Pod(
        "default",
        "whole",
        "uid-whole",
        (Container("main", "busybox:test", command=staying("main"), mounts=SHARED, post_start=hook, pre_stop=parting),),
        volumes=(Volume("shared", EmptyDir()),),
        init=(
            Container("first", "busybox:test", command=note("first"), mounts=SHARED),
            Container(
                "mesh",
                "busybox:test",
                command=staying("mesh"),
                mounts=SHARED,
                sidecar=True,
                startup=Probe(ExecAction(("grep", "-q", "mesh-begins", "/shared/diary")), period=0.1, timeout=20.0),
            ),
            Container("second", "busybox:test", command=note("second"), mounts=SHARED),
        ),
    )

    async def story() -> None:
        async with corner() as place:
            diary = Path(place.config.state, "rw", pod.uid, "volumes", "shared", "diary")
            async with running(place) as node:
                await node.offer(wanting(place, pod))
                status = await node.until(lambda s: bool(s.pods and s.pods[0].ready))
                assert [c.state for c in status.pods[0].init] == ["terminated", "running", "terminated"]
                written = diary.read_text().split()
                assert written[:3] == ["first", "mesh-begins", "second"]
                assert sorted(written[3:]) == ["hook-begins", "main-begins"]
                ended = replace(pod, active_deadline=0.001)
                await node.offer(wanting(place, ended, generation=2))
                status = await node.until(lambda s: s.pods[0].phase is Phase.FAILED)
                assert status.pods[0].reason == "DeadlineExceeded"
                assert diary.read_text().split()[5:] == ["hook-ends", "main-ends", "mesh-ends"]
            async with running(place) as node:  # the next daemon knows that it is over
                status = await node.until(lambda s: bool(s.pods))
                assert status.pods[0].phase is Phase.FAILED
                await node.offer(wanting(place, generation=3))
                await node.until(lambda s: not s.pods)

    asyncio.run(story())


def test_a_job_with_a_sidecar_succeeds() -> None:
    pod = Pod(
        "default",
        "job",
        "uid-job",
        (Container("main", "busybox:test", command=("true",)),),
        restart_policy=RestartPolicy.NEVER,
        init=(Container("mesh", "busybox:test", command=STAY, sidecar=True),),
    )

    async def story() -> None:
        async with corner() as place, running(place) as node:
            await node.offer(wanting(place, pod))
            status = await node.until(lambda s: bool(s.pods) and s.pods[0].phase is Phase.SUCCEEDED)
            assert status.pods[0].containers[0].reason == "Completed"
            await node.until(lambda s: s.pods[0].init[0].state == "terminated")

    asyncio.run(story())


def test_a_changed_config_is_seen_inside_without_a_restart() -> None:
    container = Container("main", "busybox:test", command=STAY, mounts=(Mount("files", "/files"),))
    asks = Probe(ExecAction(("grep", "-q", "new", "/files/key")), period=0.2, timeout=20.0)
    pod = Pod(
        "default",
        "live",
        "uid-live",
        (replace(container, readiness=asks),),
        volumes=(Volume("files", ConfigFiles("app")),),
    )

    async def story() -> None:
        async with corner() as place, running(place) as node:
            await node.offer(wanting(place, pod, configs={"default/app": {"key": b"old"}}))
            await node.until(lambda s: bool(s.pods) and s.pods[0].containers[0].state == "running")
            await node.offer(wanting(place, pod, generation=2, configs={"default/app": {"key": b"new"}}))
            status = await node.until(lambda s: s.generation == 2 and s.pods[0].ready)
            assert status.pods[0].containers[0].restarts == 0

    asyncio.run(story())


def test_a_failing_post_start_hook_ends_the_container_and_is_told() -> None:
    container = Container("main", "busybox:test", command=STAY, post_start=ExecAction(("false",)))
    pod = Pod("default", "hooked", "uid-hooked", (container,))

    async def story() -> None:
        async with corner() as place, running(place) as node:
            await node.offer(wanting(place, pod))
            status = await node.until(lambda s: any(e.reason == "FailedPostStartHook" for e in s.events))
            assert not status.pods[0].ready
            await node.until(lambda s: s.pods[0].containers[0].last_reason == "PostStartHookError")

    asyncio.run(story())
