"""What goes wrong, and how often: Poisson processes drawn from the seed, per node and per fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from tests.simulation.broker import Broker
from tests.simulation.hub import SimulatedHub
from tests.simulation.loop import DAY, HOUR, MINUTE
from tests.simulation.node import SimulatedNode
from tests.simulation.stage import Stage

YEAR = 365 * DAY


@dataclass(frozen=True)
class Weather:
    """How often, per year: of each node, or of the whole fleet. Messages: probabilities.

    :ivar container_ends: of each container, by itself.
    :ivar spell: seconds that outages last on average; they are exponential, so some last for many hours.
    """

    power_cuts: float = 2.0
    torn_saves: float = 0.3
    daemon_kills: float = 1.0
    partitions: float = 1.5
    clock_jumps: float = 1.0
    replacements: float = 0.2
    registry_outages: float = 0.5
    container_ends: float = 1.0
    hub_cuts: float = 12.0
    hub_restores: float = 2.0
    hub_clock_jumps: float = 4.0
    broker_restarts: float = 6.0
    people: float = 80.0
    message_lost: float = 0.005
    message_twice: float = 0.01
    message_late: float = 0.003
    step_failed: float = 0.004
    spell: float = 2 * HOUR

    def times(self, factor: float) -> Weather:
        """So many times as bad; outages last as long."""
        return Weather(**{f.name: getattr(self, f.name) * factor for f in fields(self) if f.name != "spell"})


CALM = Weather().times(0.0)


class Faults:
    """Lets the weather loose on the actors until `stop`; then mends everything that is broken."""

    def __init__(
        self, stage: Stage, weather: Weather, hub: SimulatedHub, broker: Broker, nodes: list[SimulatedNode]
    ) -> None:
        self._stage, self._weather, self._hub, self._broker, self._nodes = stage, weather, hub, broker, nodes
        self._over = False
        self.rekeyed: Callable[[str], None] = lambda _: None

    def begin(self) -> None:
        w, n = self._weather, len(self._nodes)
        broker = self._broker
        broker.slow, broker.twice = w.message_late, w.message_twice
        for node in self._nodes:
            node.cable.flaky = w.message_lost
            node.hardware.failing = w.step_failed
            node.hardware.ends_per_second = w.container_ends / YEAR
        self._hub.cable.flaky = w.message_lost
        for rate, happen in (
            (n * w.power_cuts, self._power_cut),
            (n * w.torn_saves, self._tear),
            (n * w.daemon_kills, self._kill_daemon),
            (n * w.partitions, self._partition),
            (n * w.clock_jumps, self._clock_jump),
            (n * w.replacements, self._replace),
            (n * w.registry_outages, self._registry),
            (w.hub_cuts, self._hub_cut),
            (w.hub_restores, self._hub_restore),
            (w.hub_clock_jumps, self._hub_clock),
            (w.broker_restarts, self._broker_restart),
        ):
            self.recur(rate, happen)
        if w.hub_restores:
            self.recur(52.0, self._hub.back_up)

    def recur(self, per_year: float, happen: Callable[[], None]) -> None:
        if per_year > 0:
            self._stage.loop.call_later(self._stage.dice.expovariate(per_year / YEAR), self._again, per_year, happen)

    def _again(self, per_year: float, happen: Callable[[], None]) -> None:
        if not self._over:
            happen()
            self.recur(per_year, happen)

    def stop(self) -> None:
        """Everything works from now on, and stays so."""
        self._over = True
        stage, broker = self._stage, self._broker
        broker.slow = broker.twice = 0.0
        if not broker.up:
            broker.start("kept")
        self._hub.skew = 0.0
        self._hub.cable.flaky = 0.0
        if not self._hub.cable.up:
            self._hub.cable.mend()
        self._hub.hold_together()
        self._hub.start()
        for node in self._nodes:
            node.cable.flaky = node.hardware.failing = 0.0
            node.hardware.skew, node.hardware.registry = 0.0, True
            if not node.cable.up:
                node.cable.mend()
            node.boot()
        stage.tell("weather", "the faults end")

    # ------------------------------------------------------------ nodes

    def _pick(self) -> SimulatedNode:
        return self._stage.dice.choice(self._nodes)

    def _spell(self) -> float:
        return self._stage.dice.expovariate(1 / self._weather.spell)

    def _power_cut(self) -> None:
        node = self._pick()
        if node.on:
            self._stage.fault("power cut", node.name)
            node.cut()
            self._stage.loop.call_later(self._stage.dice.choice((2.0, 30.0, self._spell())), node.boot)

    def _tear(self) -> None:
        self._pick().cut(in_a_save=True)

    def _kill_daemon(self) -> None:
        node = self._pick()
        if node.on:
            self._stage.fault("daemon killed", node.name)
            node.kill_daemon()

    def _partition(self) -> None:
        node = self._stage.dice.choice([self._hub, *self._nodes])
        if node.cable.up:
            self._stage.fault("partition", node.cable.name)
            node.cable.cut()
            self._stage.loop.call_later(self._spell(), node.cable.mend)

    def _clock_jump(self) -> None:
        node = self._pick()
        self._stage.fault("clock jump", node.name)
        node.hardware.skew += self._stage.dice.uniform(-2 * DAY, 2 * DAY)

    def _replace(self) -> None:
        node = self._pick()
        self._stage.fault("node replaced", node.name)
        node.replace()
        self.rekeyed(node.name)
        self._stage.loop.call_later(self._stage.dice.uniform(10.0, 2 * HOUR), node.boot)

    def _registry(self) -> None:
        node = self._pick()
        if node.hardware.registry:
            self._stage.fault("registry away", node.name)
            node.hardware.registry = False
            self._stage.loop.call_later(self._spell(), setattr, node.hardware, "registry", True)

    # ------------------------------------------------------------ hub and broker

    def _hub_cut(self) -> None:
        self._stage.fault("hub cut at a commit", "hub")
        self._hub.cut_at_commit(self._stage.dice.randrange(12))

    def _hub_restore(self) -> None:
        if self._hub.backups:
            backup = self._stage.dice.choice(self._hub.backups)
            self._stage.fault("hub restored", "hub", backup.name)
            self._hub.restore(backup)

    def _hub_clock(self) -> None:
        jump = self._stage.dice.uniform(-6 * HOUR, 6 * HOUR)
        self._stage.fault("hub's clock jump", "hub", f"{jump:.0f} s")
        self._hub.skew = jump
        self._stage.loop.call_later(self._spell(), setattr, self._hub, "skew", 0.0)

    def _broker_restart(self) -> None:
        if not self._broker.up:
            return
        memory = self._stage.dice.choice(("kept", "lost", "old"))
        self._stage.fault(f"broker restarted, memory {memory}", "broker")
        self._broker.stop()
        self._stage.loop.call_later(
            self._stage.dice.choice((1.0, 5 * MINUTE, self._spell())), self._broker_start, memory
        )

    def _broker_start(self, memory: str) -> None:
        if not self._broker.up:
            self._broker.start(memory)
