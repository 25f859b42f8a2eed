"""One node: the real daemon and the real link on simulated hardware; its disk is a folder on tmpfs.

A power cut ends the process between two of its steps, or in the middle of a save (which leaves a torn slot behind):
what was flushed is there afterwards, nothing else is.
"""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from cloudlink import link, trust
from edged.config import NodeConfig
from edged.daemon import Daemon
from edged.machine import Machine
from edged.model import Capacity, Desired
from edged.sources import StepSource
from edged.store import Saved, StateStore
from tests.simulation.board import Hardware, SimulatedImages, SimulatedRuntime, Watch
from tests.simulation.broker import Broker
from tests.simulation.client import Cable, SimulatedClient
from tests.simulation.loop import HOUR
from tests.simulation.stage import BEGINNING, PowerCut, Stage

FLEET = "fleet"
RESTART = 1.0  # seconds until systemd starts a daemon that has ended

Uplink = Callable[..., link.MqttUplink]


class Disk(StateStore):
    """The daemon's store on a disk that can lose its power in the middle of a write."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.attached = True
        self.tear_next = False

    def save(self, saved: Saved) -> None:
        if not self.attached:
            raise PowerCut
        if not self.tear_next:
            super().save(saved)
            return
        before = {f: f.read_bytes() for f in self._folder.glob("desired.?")}
        super().save(saved)
        for file in self._folder.glob("desired.?"):
            old, new = before.get(file, b""), file.read_bytes()
            if new != old:
                file.write_bytes(new[: len(new.rstrip(bytes(1))) // 2] + old[len(new.rstrip(bytes(1))) // 2 :])
        raise PowerCut


class SimulatedNode:
    """:ivar on: whether it has power.
    :ivar daemon: of this boot, or the last.
    :ivar disk_life: grows when it gets an empty disk.
    """

    def __init__(
        self,
        stage: Stage,
        broker: Broker,
        name: str,
        folder: Path,
        watch: Watch,
        verify_key: bytes,
        memory: int,
        uplink: Uplink = link.MqttUplink,
        extra: Callable[[], Sequence[StepSource]] = tuple,
        claimed_memory: Callable[[int], int] = lambda size: size,
    ) -> None:
        self.stage, self.name, self.memory = stage, name, memory
        self.hardware = Hardware(stage, name, watch)
        self.cable = Cable(stage, broker, name)
        self._folder, self._verify_key, self._uplink, self._extra = folder / name, verify_key, uplink, extra
        self._broker, self._watch = broker, watch
        self._capacity = Capacity(memory * 5 // 4, claimed_memory(memory), 4000, architecture="arm64", runtime="sim")
        self.private_key = trust.generate_key()
        self.disk_life = 0
        self.on = False
        self.daemon: Daemon | None = None
        self.on_change: Callable[[SimulatedNode], None] = lambda _: None
        self._runtime: SimulatedRuntime | None = None
        self._disk: Disk | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def public_key(self) -> bytes:
        return trust.public_key_of(self.private_key)

    @property
    def desired(self) -> Desired | None:
        """What it works by now, or did when it had power."""
        return self.daemon.desired if self.daemon is not None else None

    # ------------------------------------------------------------ its life

    def boot(self) -> None:
        if self.on:
            return
        self.on = True
        self.hardware.boot()
        if self.stage.chance(0.3):  # no clock of its own; the network tells the time a while later
            self.hardware.skew = -BEGINNING - self.stage.now
            self.stage.fault("clock of 1970", self.name)
            self.stage.loop.call_later(self.stage.dice.uniform(5.0, HOUR), self._learn_the_time, self.hardware.life)
        self.stage.tell(self.name, "boots")
        self._start_daemon()

    def _learn_the_time(self, life: int) -> None:
        if life == self.hardware.life:
            self.hardware.skew = 0.0

    def cut(self, in_a_save: bool = False) -> None:
        """The power goes: now, or as soon as something is saved."""
        if not self.on:
            return
        if in_a_save and self._disk is not None:
            self._disk.tear_next = True
            return
        self.on = False
        self._let_go(half_made=False)
        self.cable.unplug()
        self.hardware.power_cut()

    def kill_daemon(self) -> None:
        """kill -9: the containers run on, and systemd starts another one."""
        if not self.on:
            return
        self._let_go(half_made=True)
        if self.cable.client is not None:  # the kernel closes its connections
            client, self.cable.client = self.cable.client, None
            if self.cable.up:
                self._broker.lose(client)
            else:
                self.stage.loop.call_later(1.5 * client.keepalive, self._broker.lose, client)
            client.lose("the process ended")
        self.stage.loop.call_later(RESTART, self._start_again, self.hardware.life)

    def _start_again(self, life: int) -> None:
        if self.on and life == self.hardware.life and self._task is None:
            self._start_daemon()

    def replace(self) -> None:
        """Another board under the same name: it has joined anew, and its disk is empty."""
        self.cut()
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self.hardware.images.clear()
        self.hardware.claimed.clear()
        self.private_key = trust.generate_key()
        self.disk_life += 1
        self.daemon = None

    def _let_go(self, half_made: bool) -> None:
        if self._runtime is not None:
            self._runtime.detach(half_made)
        if self._disk is not None:
            self._disk.attached = False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    # ------------------------------------------------------------ the process

    def _start_daemon(self) -> None:
        hardware, stage = self.hardware, self.stage
        self.cable.plugged = True
        self._folder.mkdir(exist_ok=True)
        self._runtime, self._disk = SimulatedRuntime(hardware), Disk(self._folder)
        images = SimulatedImages(hardware)
        config = NodeConfig(self.name, FLEET, state_dir=str(self._folder), run_dir=str(self._folder / "run"))
        uplink = self._uplink(
            link.Place("broker", 8883, FLEET, self.name),
            lambda _: None,
            self._verify_key,
            self.private_key,
            link.TimeFloor(self._folder / "floor"),
            wall=hardware.wall_now,
            dice=stage.dice.random,
            client=functools.partial(SimulatedClient, self.cable),
        )
        life = hardware.life
        machine = Machine(
            hardware.boottime,
            hardware.wall_now,
            lambda _: self._capacity,
            lambda: f"{self.name}-{self.disk_life}-{life}",
            lambda: "10.1.0.1",
            watch_clock=lambda _: lambda: None,  # no pod has a time here
        )
        daemon = Daemon(config, self._runtime, images, images, self._disk, uplink, self._extra(), machine=machine)
        self.daemon = daemon
        self._task = stage.loop.create_task(self._live(daemon, self._disk), name=f"node {self.name}")

    async def _live(self, daemon: Daemon, disk: Disk) -> None:
        me = asyncio.current_task()
        try:
            await daemon.run()
        except BaseException as e:
            if self._task is not me:
                return  # it has no power any more
            if is_cut(e):
                self.stage.fault("power cut in a save", self.name)
                disk.tear_next = False
                self.cut()
                self.stage.loop.call_later(self.stage.dice.uniform(5.0, HOUR), self.boot)
                return
            self.stage.check(False, f"the daemon of {self.name} fell over: {told(e)}")
            raise


def is_cut(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(is_cut(e) for e in error.exceptions)
    return isinstance(error, PowerCut)


def told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
