"""Whatever befalls a board, and wherever a plan is cut: the planner converges and keeps its invariants.

The invariants of single steps (order of init containers, grace before a kill, a hook before its signal, sidecars last)
are asserted by the world itself, as it carries the steps out.

The same examples each time, so that a delivery isn't refused by the dice; EXPLORE=5000 in the environment throws them.
"""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edged.decide import plan as planning
from edged.decide.admission import admission
from edged.decide.attempts import ENDED, NEVER
from edged.decide.budget import Budget
from edged.decide.steps import EndPod, Plan, PullImage, RunHook, StartContainer, Step, StopContainer
from edged.model import (
    Container,
    Desired,
    ExecAction,
    Health,
    Limits,
    Pod,
    Port,
    Probe,
    PullPolicy,
    RestartPolicy,
    TcpAction,
)
from tests.fakes.world import OVER, World

MIB = 1 << 20
EXPLORE = int(os.environ.get("EXPLORE", "0"))  # examples
BUDGET = Budget(memory=256 * MIB)
HOOK = ExecAction(("true",))
PROBE = Probe(TcpAction(80))


def some_container(name: str, memory: int, kind: str, hook: str, image: str) -> Container:
    return Container(
        name,
        image,
        limits=Limits(memory_request=memory),
        sidecar=kind == "sidecar",
        startup=PROBE if kind == "sidecar" and hook != "none" else None,
        post_start=HOOK if hook in ("post", "both") and kind != "init" else None,
        pre_stop=HOOK if hook in ("pre", "both") and kind != "init" else None,
        pull_policy=PullPolicy.ALWAYS if image == "fresh" else PullPolicy.IF_NOT_PRESENT,
        devices=("camera",) if image == "seeing" else (),
        ports=(Port(80, host_port=8080),) if image == "facing" else (),
    )


HOOKS = st.sampled_from(["none", "none", "post", "pre", "both"])
IMAGES = st.sampled_from(["demo", "demo", "demo", "fresh", "seeing", "facing"])
INIT = st.lists(st.tuples(st.sampled_from(["init", "sidecar"]), HOOKS), max_size=3)
MAIN = st.lists(st.tuples(HOOKS, IMAGES), min_size=1, max_size=2)


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    memory = draw(st.sampled_from([16 * MIB, 40 * MIB, 120 * MIB]))
    main = [some_container(f"c{n}", memory, "main", *one) for n, one in enumerate(draw(MAIN))]
    init = [some_container(f"i{n}", 8 * MIB, kind, hook, "demo") for n, (kind, hook) in enumerate(draw(INIT))]
    pod = Pod(
        "default",
        draw(st.sampled_from(["a", "b", "c", "d"])),
        "",
        tuple(main),
        init=tuple(init),
        restart_policy=draw(st.sampled_from(RestartPolicy)),
        termination_grace=draw(st.sampled_from([0.0, 5.0, 30.0])),
        active_deadline=draw(st.sampled_from([None, None, 60.0])),
    )
    shape = "".join("s" if c.sidecar else "i" for c in pod.init)
    return replace(pod, uid=f"uid-{pod.name}-{pod.memory_request}{shape}")  # as Kubernetes: these never change


DOCUMENTS = st.lists(pods(), max_size=4, unique_by=lambda p: p.name).map(
    lambda p: Desired("fleet", "node", 1, tuple(p))
)


class Daemon:
    """Plans and applies, and may be cut off anywhere; what takes long is under way until it is finished."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.under_way: dict[str, Step] = {}

    def plan(self, desired: Desired) -> Plan:
        self.world.wanted = desired
        return planning.plan(desired, self.world.observe(), BUDGET, self.world.now)

    def apply(self, step: Step, at_once: bool = True) -> None:
        if not at_once and isinstance(step, RunHook | PullImage):
            self.under_way[step.owner] = step
            self.world.busy.add(step.owner)
        else:
            self.world.apply(step)

    def finish(self) -> None:
        for owner, step in tuple(self.under_way.items()):
            del self.under_way[owner]
            self.world.busy.discard(owner)
            if isinstance(step, PullImage) or step_container_lives(self.world, step):
                self.world.apply(step)

    def restart(self) -> None:
        self.under_way.clear()
        self.world.restart_daemon()

    def settle(self, desired: Desired, rounds: int = 300) -> None:
        """Until nothing is left to do; what runs behaves, and time passes where the plan waits."""
        world = self.world
        for _ in range(rounds):
            self.finish()
            planned = self.plan(desired)
            for step in planned.steps:
                self.apply(step)
            world.check_invariants(desired, BUDGET.memory)
            if planned.steps or behave(world, desired):
                continue
            if planned.wake_at == NEVER:
                return
            world.now = max(world.now, planned.wake_at)
        raise AssertionError(f"the plan never came to rest: {self.plan(desired).describe()}")


def step_container_lives(world: World, step: Step) -> bool:
    state = world.containers.get(step.container.id) if isinstance(step, RunHook) else None
    return state is not None and state.phase not in ENDED


def behave(world: World, desired: Desired) -> bool:
    """Probes succeed and init containers come to an end. :returns: has anything changed?"""
    specs = {(p.uid, c.name): c for p in desired.pods for c in p.all_containers}
    init = {(p.uid, c.name) for p in desired.pods for c in p.init if not c.sidecar}
    changed = False
    for state in world.live():
        container = specs.get((state.pod_uid, state.name))
        if (state.pod_uid, state.name) in init:
            world.exit(state.id, 0)
            changed = True
        elif container is not None and container.startup is not None and state.id not in world.health:
            world.health[state.id] = Health(started=True, ready=True)
            changed = True
    return changed


@given(st.data())
@settings(max_examples=EXPLORE or 300, deadline=None, derandomize=not EXPLORE)
def test_any_plan_cut_anywhere_converges_and_keeps_the_invariants(data: st.DataObject) -> None:
    world = World(frozenset({"demo", "seeing", "facing"}))
    world.devices = {"camera": "/dev/video0 81:0"}
    daemon = Daemon(world)
    desired = data.draw(DOCUMENTS)
    for _ in range(data.draw(st.integers(1, 12))):
        planned = daemon.plan(desired)
        for step in planned.steps[: data.draw(st.integers(0, len(planned.steps)))]:
            daemon.apply(step, at_once=data.draw(st.booleans()))
        world.check_invariants(desired, BUDGET.memory)
        befall(daemon, desired, data)
        if data.draw(st.booleans()):
            desired = replace(data.draw(DOCUMENTS), generation=desired.generation + 1)
    world.health.clear()
    world.deaf = False
    world.devices = {"camera": "/dev/video0 81:0"}
    daemon.settle(desired)
    assert set(world.sandboxes) <= {p.uid for p in desired.pods}
    assert_all_runs_that_should(world, desired)
    world.log.clear()
    daemon.settle(replace(desired, generation=desired.generation + 1))
    assert not [s for s in world.log if isinstance(s, StartContainer | StopContainer)], "something was restarted"


def assert_all_runs_that_should(world: World, desired: Desired) -> None:
    refused = admission(desired, world.observe(), BUDGET).refused
    for pod in desired.pods:
        sandbox = world.sandboxes.get(pod.uid)
        if pod.uid in refused or (sandbox is not None and sandbox.evicted):
            continue
        if pod.restart_policy is not RestartPolicy.ALWAYS:
            continue  # they may be over
        running = {c.name for c in world.live() if c.pod_uid == pod.uid}
        wanted = {c.name for c in (*pod.containers, *(c for c in pod.init if c.sidecar))}
        assert running == wanted, f"of {pod.title} {running} run, not {wanted}"


def befall(daemon: Daemon, desired: Desired, data: st.DataObject) -> None:
    world = daemon.world
    mishaps = ["nothing", "exit", "lose", "network", "power", "time", "daemon", "deaf", "evict", "behave", "unplug"]
    mishap = data.draw(st.sampled_from([*mishaps, "finish", "finish", "behave"]))
    live = sorted(c.id for c in world.live())
    if mishap == "power":
        daemon.under_way.clear()
        world.power_cut()
    elif mishap == "time":
        world.now += data.draw(st.sampled_from([0.5, 4.0, 20.0, 400.0]))
    elif mishap == "daemon":
        daemon.restart()
    elif mishap == "finish":
        daemon.finish()
    elif mishap == "behave":
        behave(world, desired)
    elif mishap == "deaf":
        world.deaf = not world.deaf
    elif mishap == "unplug":
        world.devices = {} if world.devices else {"camera": "/dev/video0 81:0"}
    elif mishap == "network" and world.sandboxes:
        world.lose_network(data.draw(st.sampled_from(sorted(world.sandboxes))))
    elif mishap == "evict" and world.sandboxes:
        uid = data.draw(st.sampled_from(sorted(world.sandboxes)))
        world.apply(EndPod(uid, uid, "Evicted", OVER))
    elif mishap in ("exit", "lose") and live:
        target = data.draw(st.sampled_from(live))
        if mishap == "exit":
            world.exit(target, data.draw(st.sampled_from([0, 1, 137])))
        else:
            world.lose_trace(target)
