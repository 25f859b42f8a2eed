"""One simulation: the actors put together, let loose for so many days, and looked at when the faults have ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloudlink import link, trust, wire
from cloudlink.hub.store import Store
from edged.sources import StepSource
from tests.simulation.broker import Broker
from tests.simulation.ending import disagreements
from tests.simulation.faults import Faults, Weather
from tests.simulation.hub import FragileDatabase, SimulatedHub
from tests.simulation.invariants import HubWatch, Invariants
from tests.simulation.loop import DAY, HOUR, MINUTE, VirtualLoop, run
from tests.simulation.node import SimulatedNode
from tests.simulation.people import People
from tests.simulation.stage import Stage

MIB = 1 << 20
SIZES = (128, 192, 256, 384)  # MiB that boards have for pods
PATIENCE = 2 * DAY  # of virtual time in which everything must have come to rest after the faults
QUIETED = logging.CRITICAL
QUIET = 30 * MINUTE  # between two looks then


@dataclass(frozen=True)
class Bugs:
    """What can be planted, to see that the simulation finds it. Everything by arguments; nothing here is patched."""

    database: Callable[[str, Stage], FragileDatabase] = FragileDatabase
    uplink: Callable[..., link.MqttUplink] = link.MqttUplink
    extra: Callable[[], Sequence[StepSource]] = tuple
    claimed_memory: Callable[[int], int] = lambda size: size


@dataclass(frozen=True)
class Plan:
    seed: int
    nodes: int = 20
    days: float = 365.0
    storm: float = 1.0  # how many times as much goes wrong as faults.Weather says
    bugs: Bugs = field(default_factory=Bugs)


@dataclass(frozen=True)
class Report:
    """What one run was, as far as it went. Everything but `seconds` depends on the plan alone."""

    plan: Plan
    days: float
    seconds: float
    events: int
    checks: int
    faults: dict[str, int]
    deeds: dict[str, int]
    settled_after: float
    violations: list[str]
    digest: str
    story: list[str]

    @property
    def node_years(self) -> float:
        return self.plan.nodes * self.days / 365

    def replay(self) -> str:
        plan = self.plan
        storm = f" --storm {plan.storm:g}" if plan.storm != 1 else ""
        return f"python -m tests.simulation --seed {plan.seed} --nodes {plan.nodes} --days {plan.days:g}{storm}"

    def text(self, lines: int = 0) -> str:
        faults = sum(self.faults.values())
        speed = self.node_years / self.seconds if self.seconds else 0.0
        told = [
            f"seed {self.plan.seed}: {self.plan.nodes} nodes, {self.days:.0f} days = {self.node_years:.1f} node-years"
            f" in {self.seconds:.1f} s ({speed:.2f} node-years/s)",
            f"  {self.events} events, {self.checks} checks, {faults} faults"
            f" ({faults / max(self.node_years, 1e-9):.0f} a node-year);"
            f" at rest {self.settled_after / HOUR:.1f} h after the last",
            "  faults: " + ", ".join(f"{k} {n}" for k, n in sorted(self.faults.items())),
            "  deeds: " + ", ".join(f"{k} {n}" for k, n in sorted(self.deeds.items())),
            f"  digest {self.digest}",
        ]
        if self.violations:
            told += ["  BROKEN:", *(f"    {v}" for v in self.violations), "  last events:"]
            told += [f"    {line}" for line in self.story[-lines:]] if lines else []
            told.append(f"  replay: {self.replay()}")
        return "\n".join(told)


class Simulation:
    """Use once."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.loop = VirtualLoop()
        self.stage = stage = Stage(plan.seed, self.loop)
        (folder / "hub").mkdir()
        self.broker = Broker(stage)
        self.nodes: dict[str, SimulatedNode] = {}
        self.invariants = Invariants(stage, self.nodes)
        self.watch = HubWatch(stage)
        self.hub = SimulatedHub(stage, self.broker, folder / "hub", self._node_key, plan.bugs.database)
        self.hub.on_start = self._follow
        self._restored = 0
        verify_key = trust.verify_key_of(self.hub.signing_key)
        for number in range(plan.nodes):
            name = f"pi-{number:02d}"
            self.nodes[name] = SimulatedNode(
                stage,
                self.broker,
                name,
                folder,
                self.invariants,
                verify_key,
                stage.dice.choice(SIZES) * MIB,
                plan.bugs.uplink,
                plan.bugs.extra,
                plan.bugs.claimed_memory,
            )
        self.people = People(stage, self.hub, self.watch, plan.nodes)
        weather = Weather().times(plan.storm)
        self.faults = Faults(stage, weather, self.hub, self.broker, list(self.nodes.values()))
        self.faults.rekeyed = self._rekeyed
        self.broker.told = self._told
        self.settled_after = 0.0

    def _node_key(self, name: str) -> bytes | None:
        node = self.nodes.get(name)
        return node.public_key if node is not None else None

    def _rekeyed(self, name: str) -> None:
        if self.hub.exchange is not None:
            self.hub.exchange.rekeyed(name)

    def _follow(self, store: Store) -> None:
        self.watch.follow(store, restored=self.hub.restored > self._restored)
        self._restored = self.hub.restored

    def _told(self, topic: str, payload: bytes) -> None:
        """Somebody has said something: the moment at which everything is looked at."""
        at = wire.parse_topic(topic)
        if at.leaf == wire.DESIRED:
            self.stage.tell("hub", f"tells {at.node} its document")
            self.invariants.published(self.hub.restored, at.node, payload)
        elif at.leaf == wire.STATUS:
            node = self.nodes[at.node]
            generation = node.desired.generation if node.desired is not None else 0
            self.stage.tell(at.node, f"says how it is, generation {generation}, {len(node.hardware.live())} run")
            self.invariants.changed(node)
        self.watch.look()

    # ------------------------------------------------------------ the run

    async def play(self) -> None:
        stage, plan = self.stage, self.plan
        self.hub.start()
        for node in self.nodes.values():
            stage.loop.call_later(stage.dice.uniform(0.0, 60.0), node.boot)
        await asyncio.sleep(5 * MINUTE)
        self.people.furnish()
        self.people.look_after()
        self.faults.begin()
        self.faults.recur(Weather().people, self.people.act)
        end = plan.days * DAY
        while stage.now < end and not stage.violations and not self.loop.bugs:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(min(HOUR, max(end - stage.now, 0.0)))
        if not stage.violations:
            await self._come_to_rest()
        self._count_bugs()
        self.end()

    def end(self) -> None:
        """Everybody's power goes."""
        self.hub.end()
        for node in self.nodes.values():
            node.cut()

    async def _come_to_rest(self) -> None:
        began = self.stage.now
        self.faults.stop()
        left: Sequence[str] = ()
        await asyncio.sleep(MINUTE)
        self.people.repair()
        while self.stage.now < began + PATIENCE and not self.stage.violations:
            await asyncio.sleep(QUIET)
            left = disagreements(self.hub, list(self.nodes.values()))
            if not left:
                self.settled_after = self.stage.now - began
                break
        for sentence in left[:10]:
            self.stage.check(False, f"{PATIENCE / HOUR:.0f} h after the last fault: {sentence}")
        self.stage.check(True, "everything has converged")

    def _count_bugs(self) -> None:
        for context in self.loop.bugs[:5]:
            self.stage.check(False, f"nobody caught {context.get('message')}: {context.get('exception')!r}")


def simulate(plan: Plan, folder: Path | None = None) -> Report:
    """Run one plan, in a folder of its own on tmpfs where there is one."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=folder or place) as name:
        began = time.process_time()
        simulation = Simulation(plan, Path(name))
        before = logging.root.manager.disable
        logging.disable(QUIETED)
        gc.collect()
        gc.freeze()
        thresholds = gc.get_threshold()
        gc.set_threshold(50_000, 20, 100)  # little garbage is in cycles; looking for it took a tenth of the time
        try:
            run(simulation.loop, simulation.play())
        finally:
            logging.disable(before)
            gc.set_threshold(*thresholds)
            gc.unfreeze()
        stage = simulation.stage
        return Report(
            plan=plan,
            days=stage.now / DAY,
            seconds=time.process_time() - began,
            events=stage.events,
            checks=stage.checks,
            faults=dict(stage.faults),
            deeds=dict(stage.deeds),
            settled_after=simulation.settled_after,
            violations=stage.violations,
            digest=stage.digest,
            story=stage.story(400),
        )
