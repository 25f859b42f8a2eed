"""One board: what runs on it, what is on its disk, and how its containers behave. The daemon on it is the real one.

Everything takes time here (a sandbox, a start, a pull, an end), and every step can fail or be cut off in its middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from edged.errors import PermanentError, RetryError
from edged.model import (
    Container,
    ContainerPhase,
    ContainerState,
    Image,
    Material,
    Pod,
    Probe,
    SandboxState,
    container_identity,
)
from edged.runtime.api import ProbeResult, Verdict
from edged.runtime.records import container_id
from tests.fakes.runtime import Board, FakeRuntime
from tests.simulation.stage import BEGINNING, PowerCut, Stage

FIRST_LOOK = 4.0  # seconds of CLOCK_BOOTTIME at which a daemon comes up


class Watch(Protocol):
    """Who looks on and knows what must not happen: tests.simulation.invariants."""

    def starting(self, node: str, pod: Pod, container: Container) -> None: ...
    def started(self, node: str, state: ContainerState) -> None: ...
    def gave_up(self, node: str, pod: Pod) -> None: ...
    def stopping(self, node: str, state: ContainerState, reason: str) -> None: ...
    def ended(self, node: str, state: ContainerState) -> None: ...


class Hardware(Board):
    """The machine. A power cut takes everything but `images`; a daemon's end takes nothing."""

    def __init__(self, stage: Stage, name: str, watch: Watch) -> None:
        super().__init__()
        self.stage, self.name, self.watch = stage, name, watch
        self.images: set[str] = set()
        self.skew = 0.0  # seconds that its wall clock is wrong
        self.registry = True  # whether it answers
        self.failing = 0.0  # of all steps at the machine
        self.ends_per_second = 0.0  # of a good container, by itself
        self.booted = stage.now
        self._boots = 0
        self.noticed: Callable[[str], None] = lambda _: None  # told of ends by whoever looks at the board now

    @property
    def life(self) -> int:
        """Grows with every boot; what was begun in an earlier one doesn't end in this one."""
        return self._boots

    def boottime(self) -> float:
        return self.stage.now - self.booted + FIRST_LOOK

    def wall_now(self) -> float:
        return BEGINNING + self.stage.now + self.skew

    def look_at_clocks(self) -> None:
        self.now, self.wall = self.boottime(), self.wall_now()

    def boot(self) -> None:
        self._boots += 1
        self.booted = self.stage.now

    def power_cut(self) -> None:
        for state in self.live():
            self.watch.ended(self.name, state)
        super().power_cut()

    def live(self) -> list[ContainerState]:
        return [c for c in self.containers.values() if c.phase in (ContainerPhase.STARTING, ContainerPhase.RUNNING)]


class SimulatedRuntime(FakeRuntime):
    """One daemon's view of the hardware. `detach` it, and whoever still calls finds that there is no power."""

    def __init__(self, hardware: Hardware) -> None:
        super().__init__(hardware)
        self.hardware, self.stage = hardware, hardware.stage
        self._attached = True
        self._starting: dict[str, ContainerState] = {}

    def detach(self, half_made: bool) -> None:
        """:param half_made: only the daemon ends: what it was about to start is left half made."""
        self._attached = False
        self.hardware.noticed = lambda _: None
        if half_made:
            for state in self._starting.values():
                self.hardware.containers.setdefault(state.id, state)
                self.hardware.watch.started(self.hardware.name, state)

    async def open(self, on_exit: Callable[[str], None]) -> None:
        self._called("", "")
        self.hardware.noticed = on_exit

    async def close(self) -> None:
        """A dead daemon's, too: nothing to do."""

    def _called(self, method: str, subject: str) -> None:
        if not self._attached:
            raise PowerCut
        self.hardware.look_at_clocks()

    async def _take(self, least: float, most: float, may_fail: str = "") -> None:
        """Time passes. Nothing has happened yet when it fails, or when the power goes meanwhile."""
        self._called("", "")
        stage = self.stage
        fails = bool(may_fail) and stage.chance(self.hardware.failing)
        await asyncio.sleep(stage.dice.uniform(least, most))
        self._called("", "")
        if fails:
            stage.fault("step failed", self.hardware.name, may_fail)
            raise RetryError(f"{may_fail}: input/output error")

    # ------------------------------------------------------------ sandboxes

    async def prepare_sandbox(self, pod: Pod, material: Material) -> SandboxState:
        await self._take(0.02, 0.5, "prepare sandbox")
        return await super().prepare_sandbox(pod, material)

    async def remove_sandbox(self, pod_uid: str) -> None:
        await self._take(0.01, 0.3, "remove sandbox")
        for state in self.hardware.live():
            if state.pod_uid == pod_uid:
                self.hardware.watch.stopping(self.hardware.name, state, "its sandbox is removed")
                self.hardware.watch.ended(self.hardware.name, state)
        await super().remove_sandbox(pod_uid)

    # ------------------------------------------------------------ containers

    async def start_container(
        self, pod: Pod, container: Container, image: Image, material: Material, attempt: int, crashes: int
    ) -> ContainerState:
        hardware = self.hardware
        name = container_id(pod.uid, container.name, attempt)
        self._called("", "")
        hardware.watch.starting(hardware.name, pod, container)
        half = ContainerState(
            name, pod.uid, container.name, attempt, container_identity(pod, container), ContainerPhase.STARTING
        )
        self._starting[name] = half
        try:
            await self._take(0.03, 2.0, "start container")
            state = await super().start_container(pod, container, image, material, attempt, crashes)
        except BaseException:
            hardware.watch.gave_up(hardware.name, pod)
            raise
        finally:
            self._starting.pop(name, None)
        hardware.watch.started(hardware.name, state)
        self.stage.deeds["containers started"] += 1
        self.stage.tell(hardware.name, f"started {pod.title} {container.name} attempt {attempt}")
        self._settle_fate(container, state)
        return state

    def _settle_fate(self, container: Container, state: ContainerState) -> None:
        """When and how it will end by itself."""
        dice, later = self.stage.dice, self.stage.loop.call_later
        life = self.hardware.life
        often = self.hardware.ends_per_second
        lasts, code, oom = dice.expovariate(often) if often else 0.0, dice.choice((1, 139, 0)), False
        if container.image.endswith("-crash"):
            lasts, code = dice.uniform(0.0, 20.0), 1
        elif container.image.endswith("-greedy"):
            lasts, code, oom = dice.uniform(1.0, 60.0), 137, True
        elif container.limits.memory_limit is not None and dice.random() < 0.1:
            code, oom = 137, True  # its working set has outgrown the limit by then
        if lasts:
            later(lasts, self._end_by_itself, state.id, code, oom, life)

    def _end_by_itself(self, container: str, code: int, oom: bool, life: int) -> None:
        state = self.hardware.containers.get(container)
        if life != self.hardware.life or state is None or state.phase is not ContainerPhase.RUNNING:
            return
        self.stage.fault("container killed for memory" if oom else "container crashed", self.hardware.name, state.name)
        self.exit(container, code, oom=oom)

    def exit(self, container: str, code: int, *, oom: bool = False) -> None:
        """Happens to the machine, whichever daemon looks at it now."""
        hardware = self.hardware
        hardware.look_at_clocks()
        state = hardware.containers.get(container)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            return
        hardware.watch.ended(hardware.name, state)
        super().exit(container, code, oom=oom)
        hardware.noticed(container)

    async def stop_container(self, container_id: str, reason: str) -> None:
        self._called("", "")
        self._ask_the_watch(container_id, reason)
        await super().stop_container(container_id, reason)

    async def kill_container(self, container_id: str, reason: str) -> None:
        self._called("", "")
        self._ask_the_watch(container_id, reason)
        state = self.hardware.containers.get(container_id)
        if state is not None and state.phase is ContainerPhase.STARTING:  # nothing but traces: they go with the kill
            self.hardware.watch.ended(self.hardware.name, state)
            self.hardware.containers[container_id] = replace(state, phase=ContainerPhase.UNKNOWN)
            return
        await super().kill_container(container_id, reason)

    def _ask_the_watch(self, container: str, reason: str) -> None:
        state = self.hardware.containers.get(container)
        if state is not None and state.phase is ContainerPhase.RUNNING:
            self.hardware.watch.stopping(self.hardware.name, state, reason)

    def _signal(self, container_id: str) -> None:
        """It ends when it likes: mostly at once, sometimes late, and some need the kill."""
        state = self.hardware.containers[container_id]
        if state.phase is not ContainerPhase.RUNNING:
            return
        self.hardware.containers[container_id] = replace(state, signalled=True)
        dice = self.stage.dice
        if dice.random() > 0.05:
            lasts = dice.choice((0.05, 0.5, 3.0, 12.0))
            self.stage.loop.call_later(lasts, self._end_when_told, container_id, self.hardware.life)

    def _end_when_told(self, container: str, life: int) -> None:
        if life == self.hardware.life:
            self.exit(container, 143)

    async def probe(self, container_id: str, probe: Probe, ip: str) -> ProbeResult:
        await self._take(0.01, 0.2)
        state = self.hardware.containers.get(container_id)
        if state is None or state.phase is not ContainerPhase.RUNNING:
            return ProbeResult(Verdict.FAILURE, f"{container_id} does not run")
        if self.hardware.boottime() - state.started_at < 5.0:
            return ProbeResult(Verdict.FAILURE, "still warming up")
        return ProbeResult(Verdict.SUCCESS)


class SimulatedImages:
    """Implements apply.Images and apply.Puller on the hardware's disk."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware

    def resolve(self, reference: str) -> Image | None:
        if reference not in self._hardware.images:
            return None
        return Image(reference, f"sha256:{reference}", (), cmd=("app",))

    def list(self) -> tuple[Image, ...]:
        return tuple(Image(name, f"sha256:{name}", ()) for name in sorted(self._hardware.images))

    async def pull(self, reference: str, logins: Sequence[Mapping[str, bytes]]) -> None:
        hardware, dice = self._hardware, self._hardware.stage.dice
        life = hardware.life
        await asyncio.sleep(dice.uniform(1.0, 90.0))
        if life != hardware.life:
            raise PowerCut
        if reference.endswith("-absent"):
            raise PermanentError(f"manifest of {reference} unknown")
        if not hardware.registry or dice.random() < 0.02:
            hardware.stage.fault("pull failed", hardware.name, reference)
            raise RetryError("the registry doesn't answer")
        hardware.images.add(reference)
        hardware.stage.deeds["images pulled"] += 1

    async def remove(self, references: Sequence[str]) -> None:
        self._hardware.images.difference_update(references)
