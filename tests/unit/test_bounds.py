"""Everything that grows is bounded: a node that has seen hundreds of pods come, fail and go holds no more than one that
has seen a few."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edged.daemon import Daemon
from edged.errors import RetryError
from edged.model import Desired
from edged.telling import MAX_EVENTS, Teller
from tests.unit.test_daemon import Lab, in_the_lab, running, wanting

FEW, MANY = 12, 72


def weight(root: object) -> dict[str, int]:
    """How much is in every collection that an object of ours holds, by class and attribute."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", root)]
    while waiting:
        name, thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, str | bytes | int | float | asyncio.Future | type | msgspec.Struct):
            continue
        seen.add(id(thing))
        if isinstance(thing, Mapping):
            found[name] = found.get(name, 0) + len(thing)
            waiting += [(f"{name}[]", value) for value in list(thing.values())]
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            found[name] = found.get(name, 0) + len(thing)
            waiting += [(f"{name}[]", value) for value in thing]
        elif type(thing).__module__.startswith("edged."):
            kind = type(thing).__name__
            waiting += [(f"{kind}.{key}", value) for key, value in vars(thing).items()]
    return found


async def live(lab: Lab, lives: range) -> None:
    """Pods come, one of them fails to start at first, one crashes, one is killed; and all go."""
    for n in lives:
        names = [f"a{n}", f"b{n}", f"c{n}"]
        lab.runtime.fail_next("start_container", RetryError("not yet", 0.001))
        await lab.offer(wanting(*names, generation=2 * n + 1))
        await lab.daemon.refresh()
        await lab.until(lambda s: s.generation == 2 * n + 1 and s.pods != () and any(p.ready for p in s.pods))  # noqa: B023
        await lab.daemon.refresh()
        await lab.until(lambda s: running(3)(s) and s.generation == 2 * n + 1)  # noqa: B023
        lab.runtime.exit(f"uid-b{n}.main.0", 1)
        lab.runtime.exit(f"uid-c{n}.main.0", 137, oom=True)
        await lab.until(lambda s: running(3)(s) and sum(p.containers[0].restarts for p in s.pods) == 2)
        await lab.offer(Desired("fleet", "node", 2 * n + 2))
        await lab.until(lambda s: s.generation == 2 * n + 2 and not s.pods)  # noqa: B023
        lab.uplink.told[:-1] = []  # what the test remembers is not the daemon's
        lab.runtime.calls.clear()


def test_a_daemon_that_has_seen_many_pods_holds_no_more_than_one_that_has_seen_few(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        await live(lab, range(FEW))
        before = weight(held(lab.daemon))
        await live(lab, range(FEW, MANY))
        after = weight(held(lab.daemon))
        grown = {name: (before.get(name, 0), count) for name, count in after.items() if count > before.get(name, 0) + 3}
        assert grown.keys() <= {"Teller._events"}
        assert after["Teller._events"] <= MAX_EVENTS

    in_the_lab(tmp_path, story)


def held(daemon: Daemon) -> object:
    """What the daemon itself holds; the fakes around it remember for the test."""
    others = ("_runtime", "_images", "uplink", "_prober")
    return [value for key, value in vars(daemon).items() if key not in others]


def test_events_are_bounded_and_the_newest_stay() -> None:
    teller = Teller(lambda _: None, lambda _: "", lambda: 0.0)
    for n in range(10 * MAX_EVENTS):
        teller.event("Normal", "Test", f"number {n}")
    assert len(teller.events) == MAX_EVENTS
    assert teller.events[-1].message == f"number {10 * MAX_EVENTS - 1}"
