"""Single scenes under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from cloudlink.kube.core import Node
from tests.simulation.loop import HOUR, MINUTE, run
from tests.simulation.simulation import Plan, Simulation

Scene = Callable[[Simulation], Awaitable[None]]


def play(folder: Path, nodes: int, scene: Scene) -> None:
    """A fleet that has come up, nothing going wrong by itself; then the scene."""
    simulation = Simulation(Plan(1, nodes), folder)

    async def main() -> None:
        simulation.hub.start()
        for node in simulation.nodes.values():
            node.boot()
        await asyncio.sleep(5 * MINUTE)
        simulation.people.furnish()
        await asyncio.sleep(HOUR)
        await scene(simulation)
        simulation.end()

    run(simulation.loop, main())
    assert not simulation.stage.violations
    assert not simulation.loop.bugs


def readiness(simulation: Simulation) -> set[str]:
    store = simulation.hub.store
    assert store is not None
    nodes = [n for n in store.list("Node") if isinstance(n, Node)]
    return {c.status for n in nodes for c in n.status.conditions if c.type == "Ready"}


def test_a_hub_that_loses_its_broker_while_it_ends_does_end(tmp_path: Path) -> None:
    async def scene(simulation: Simulation) -> None:
        task = simulation.hub._task
        assert task is not None
        simulation.hub.end()  # connection and cancellation in the same moment
        await asyncio.sleep(MINUTE)
        assert task.done()

    play(tmp_path, 2, scene)


def test_a_node_that_loses_its_broker_while_it_ends_does_end(tmp_path: Path) -> None:
    async def scene(simulation: Simulation) -> None:
        node = simulation.nodes["pi-00"]
        task = node._task
        assert task is not None
        node.cut()
        await asyncio.sleep(MINUTE)
        assert task.done()

    play(tmp_path, 2, scene)


def test_nodes_that_say_nothing_new_count_as_there_when_the_hub_was_away(tmp_path: Path) -> None:
    async def scene(simulation: Simulation) -> None:
        assert readiness(simulation) == {"True"}
        simulation.hub.cable.cut()
        await asyncio.sleep(2 * HOUR)
        simulation.hub.cable.mend()
        await asyncio.sleep(HOUR)
        assert readiness(simulation) == {"True"}

    play(tmp_path, 3, scene)


def test_a_hub_that_was_killed_finds_everything_as_it_left_it(tmp_path: Path) -> None:
    async def scene(simulation: Simulation) -> None:
        started = simulation.stage.deeds["containers started"]
        simulation.hub.die(back_after=10.0)
        await asyncio.sleep(HOUR)
        assert simulation.hub.store is not None
        assert readiness(simulation) == {"True"}
        assert simulation.stage.deeds["containers started"] == started

    play(tmp_path, 3, scene)
