"""A node on the real wire that runs nothing: it says that whatever it is told to run is running."""

from __future__ import annotations

import asyncio

from cloudlink.link import MqttUplink
from edged.model import Capacity, ContainerStatus, Desired, Event, NodeStatus, Phase, PodStatus
from edged.uplink import Inbox
from tests.fakes.remote import FakeNode

MIB = 1 << 20


class PretendNode:
    """Owns an uplink and answers each document with a status.

    :ivar frozen: uids of pods that are reported for ever, as if they would not end.
    """

    def __init__(self, name: str, uplink: MqttUplink, memory: int = 900 * MIB, epoch: str = "e1") -> None:
        self.name, self.uplink, self.memory, self.epoch = name, uplink, memory, epoch
        self.desired: Desired | None = None
        self.events: tuple[Event, ...] = ()
        self.frozen: dict[str, PodStatus] = {}
        self.ready = True
        self.generation = 0
        self._wake = asyncio.Event()
        self.inbox = Inbox(self._wake.set)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.uplink.run(self.inbox, FakeNode({})), name=f"uplink of {self.name}")
            self.report()
            while True:
                await self._wake.wait()
                self._wake.clear()
                if (newest := self.inbox.take()) is not None:
                    self.desired, self.generation = newest, newest.generation
                self.report()

    def say(self, kind: str, reason: str, message: str, pod: str = "", container: str = "") -> None:
        seq = len(self.events) + 1
        self.events = (*self.events, Event(seq, 0.0, kind, reason, message, pod, container=container))
        self.report()

    def report(self) -> None:
        pods = {p.uid: self._running(p.uid, p.namespace, p.name, [c.name for c in p.containers]) for p in self._pods()}
        self.uplink.report(
            NodeStatus(
                node=self.name,
                generation=self.generation,
                epoch=self.epoch,
                capacity=Capacity(self.memory, self.memory, 4000, architecture="arm64", runtime="pretend"),
                pods=tuple((pods | self.frozen).values()),
                events=self.events,
                address="127.0.0.1",
            )
        )

    def _pods(self) -> tuple:  # type: ignore[type-arg]
        return self.desired.pods if self.desired is not None else ()

    def _running(self, uid: str, namespace: str, name: str, containers: list[str]) -> PodStatus:
        told = tuple(
            ContainerStatus(c, "demo:1", "running", ready=self.ready, started=True, started_wall=1.75e9)
            for c in containers
        )
        return PodStatus(uid, namespace, name, Phase.RUNNING, self.ready, "10.88.0.2", containers=told)
