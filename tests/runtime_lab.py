"""A node in a corner of this machine with one pod of one container, for tests of what a container is and does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edged.config import PolicyConfig
from edged.model import Container, ContainerPhase, ContainerState, Image, Material, Pod
from tests.fakes.boards import Corner, corner

WAIT = 60.0  # seconds; the machine may be busy
NOTHING = Material()


class Node:
    """A corner of the machine with one daemon at a time."""

    def __init__(self, place: Corner, real_network: bool = False) -> None:
        self.place = place
        self.real_network = real_network
        self.exits = asyncio.Queue[str](maxsize=1000)
        self.runtime = place.runtime(real_network)

    async def restart(self) -> None:
        await self.runtime.close()
        self.runtime, self.exits = self.place.runtime(self.real_network), asyncio.Queue(maxsize=1000)
        await self.runtime.open(self.exits.put_nowait)

    async def start(
        self,
        *command: str,
        image: Image | None = None,
        material: Material = NOTHING,
        pod: Mapping[str, Any] = {},
        **options: Any,
    ) -> ContainerState:
        """One pod with one container that runs `command`. :param pod: other fields of the pod."""
        made = Pod("default", "app", "uid-1", (Container("main", "busybox:test", command=command, **options),), **pod)
        await self.runtime.prepare_sandbox(made, material)
        return await self.runtime.start_container(made, made.containers[0], image or self.place.image, material, 0, 0)

    async def ended(self, state: ContainerState) -> ContainerState:
        await until(lambda: (self.runtime.inspect(state.id) or state).phase is not ContainerPhase.RUNNING)
        found = self.runtime.inspect(state.id)
        assert found is not None
        return found

    async def output(self, *command: str, **options: Any) -> str:
        """What a short-lived container says."""
        state = await self.start(*command, **options)
        await self.ended(state)
        return self.log(state)

    async def says(self, state: ContainerState, text: str) -> None:
        """Until it has said so."""
        await until(lambda: text in self.log(state))

    def log(self, state: ContainerState) -> str:
        file = self.runtime.log_file(state.id)
        lines = file.read_text().splitlines() if file.exists() else []
        parts = [line.split(" ", 3) for line in lines]
        text = "".join(part[3] + ("\n" if part[2] == "F" else "") for part in parts)  # P: more of that line follows
        return text.removesuffix("\n")

    def folder(self, state: ContainerState) -> Path:
        return self.place.config.run / "pods" / state.pod_uid / "containers" / state.name / str(state.attempt)

    def conmon(self, state: ContainerState) -> int:
        return int((self.folder(state) / "conmon").read_text())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 (the machine sends no event for it)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def node(policy: PolicyConfig | None = None, real_network: bool = False) -> AsyncIterator[Node]:
    async with corner() as place:
        place.folder.chmod(0o711)  # pods with users of their own pass through it
        if policy is not None:
            place.config = replace(place.config, policy=policy)
        it = Node(place, real_network)
        try:
            await it.runtime.open(it.exits.put_nowait)
            yield it
        finally:
            await it.runtime.close()


def run(
    scenario: Callable[[Node], Coroutine[Any, Any, None]],
    policy: PolicyConfig | None = None,
    real_network: bool = False,
) -> None:
    async def whole() -> None:
        async with asyncio.timeout(2 * WAIT), node(policy, real_network) as it:
            await scenario(it)

    asyncio.run(whole())
