"""The planner alone: facts in, steps out. No patches, no clock."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edged.decide import plan as planning
from edged.decide.attempts import NEVER
from edged.decide.budget import Budget
from edged.decide.steps import Plan, StartContainer
from edged.model import (
    Container,
    ContainerPhase,
    Desired,
    Health,
    Limits,
    Pod,
    RestartPolicy,
    Service,
    ServicePort,
    Setback,
)
from tests.fakes.world import World

MIB = 1 << 20
BUDGET = Budget(memory=256 * MIB)


def a_pod(name: str = "web", containers: int = 1, memory: int = 16 * MIB, **more: object) -> Pod:
    return Pod(
        "default",
        name,
        f"uid-{name}" if memory == 16 * MIB else f"uid-{name}-{containers * memory}",  # one uid, one request
        tuple(Container(f"c{n}", "demo", limits=Limits(memory_request=memory)) for n in range(containers)),
        **more,  # type: ignore[arg-type]
    )


def wanting(*pods: Pod, generation: int = 1, services: tuple[Service, ...] = ()) -> Desired:
    return Desired("fleet", "node", generation, pods, services)


def plan(world: World, desired: Desired | None) -> Plan:
    return planning.plan(desired, world.observe(), BUDGET, world.now)


def settle(world: World, desired: Desired | None, rounds: int = 40) -> None:
    """Plan and apply until nothing is left to do, letting time pass where the plan waits."""
    for _ in range(rounds):
        planned = plan(world, desired)
        for step in planned.steps:
            world.apply(step)
        world.check_invariants(desired, BUDGET.memory)
        if not planned.steps:
            if planned.wake_at == NEVER:
                return
            world.now = max(world.now, planned.wake_at)
    raise AssertionError("the plan never came to rest")


def texts(planned: Plan) -> list[str]:
    return [s.describe() for s in planned.steps]


def test_nothing_is_touched_before_anything_was_ever_accepted() -> None:
    world = World()
    settle(world, wanting(a_pod()))
    assert plan(world, None) == Plan()


def test_a_wanted_pod_gets_its_sandbox_and_its_containers_in_one_plan() -> None:
    assert texts(plan(World(), wanting(a_pod(containers=2)))) == [
        "prepare sandbox of default/web: it is wanted here",
        "start c0 of default/web (attempt 0): it is wanted here",
        "start c1 of default/web (attempt 0): it is wanted here",
    ]


def test_the_same_document_twice_gives_an_empty_plan() -> None:
    world, desired = World(), wanting(a_pod(), a_pod("db", 2))
    settle(world, desired)
    assert plan(world, replace(desired, generation=2)) == Plan()


def test_a_killed_container_is_started_again_at_once_and_then_with_growing_delay() -> None:
    world, desired = World(), wanting(a_pod())
    settle(world, desired)
    delays = []
    for attempt in range(6):
        world.now += 1
        world.exit(f"uid-web.c0.{attempt}", 137)
        ended = world.now
        settle_until_running(world, desired)
        delays.append(round(world.now - ended))
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert [2 <= delays[1] <= 3, 4 <= delays[2] <= 5, 8 <= delays[3] <= 9] == [True] * 3  # up to 10 % jitter


def settle_until_running(world: World, desired: Desired) -> None:
    for _ in range(10):
        planned = plan(world, desired)
        for step in planned.steps:
            world.apply(step)
        if world.live():
            return
        world.now = max(world.now, planned.wake_at)


def test_a_container_that_ran_for_long_is_forgiven_its_earlier_crashes() -> None:
    world, desired = World(), wanting(a_pod())
    settle(world, desired)
    world.exit("uid-web.c0.0", 1)
    settle(world, desired)
    world.now += 3600
    world.exit("uid-web.c0.1", 1)
    assert [s.describe() for s in plan(world, desired).steps if isinstance(s, StartContainer)]


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        (RestartPolicy.ALWAYS, 0, True),
        (RestartPolicy.ALWAYS, 1, True),
        (RestartPolicy.ON_FAILURE, 0, False),
        (RestartPolicy.ON_FAILURE, 1, True),
        (RestartPolicy.NEVER, 0, False),
        (RestartPolicy.NEVER, 1, False),
    ],
)
def test_the_restart_policy_decides_whether_an_ended_container_comes_back(
    policy: RestartPolicy, code: int, again: bool
) -> None:
    world, desired = World(), wanting(a_pod(restart_policy=policy))
    settle(world, desired)
    world.exit("uid-web.c0.0", code)
    settle(world, desired)
    assert bool(world.live()) is again


def test_an_unwanted_pod_is_asked_to_end_then_killed_then_removed() -> None:
    world = World()
    settle(world, wanting(a_pod(termination_grace=30.0)))
    world.deaf = True
    gone = wanting(generation=2)
    first = plan(world, gone)
    assert texts(first) == ["stop uid-web.c0.0: its pod is not wanted here any more"]
    assert first.wake_at == world.now + 30
    for step in first.steps:
        world.apply(step)
    assert plan(world, gone).steps == ()
    world.now += 30
    assert texts(plan(world, gone))[0].startswith("kill uid-web.c0.0: it did not end within 30 s")
    settle(world, gone)
    assert not world.containers
    assert not world.sandboxes


def test_a_changed_spec_restarts_only_that_container() -> None:
    world, pod = World(), a_pod(containers=2)
    settle(world, wanting(pod))
    changed = replace(pod, containers=(pod.containers[0], replace(pod.containers[1], args=("x",))))
    assert texts(plan(world, wanting(changed, generation=2))) == ["stop uid-web.c1.0: its spec has changed"]


def test_a_failed_liveness_stops_the_container_with_the_probes_own_words() -> None:
    world, desired = World(), wanting(a_pod())
    settle(world, desired)
    world.health["uid-web.c0.0"] = Health(
        started=True, ready=False, live=False, reason="liveness probe failed: HTTP 500"
    )
    assert texts(plan(world, desired)) == ["stop uid-web.c0.0: liveness probe failed: HTTP 500"]


def test_a_pod_that_does_not_fit_is_not_started_and_the_rest_is() -> None:
    world = World()
    desired = wanting(a_pod("big", memory=400 * MIB), a_pod("small"))
    settle(world, desired)
    assert {c.pod_uid for c in world.live()} == {"uid-small"}


def test_a_newcomer_never_pushes_out_a_running_pod() -> None:
    world = World()
    settle(world, wanting(a_pod("old", memory=200 * MIB)))
    settle(world, wanting(a_pod("new", memory=200 * MIB), a_pod("old", memory=200 * MIB), generation=2))
    assert {c.pod_uid for c in world.live()} == {f"uid-old-{200 * MIB}"}


def test_a_pod_with_steps_under_way_is_left_alone() -> None:
    world, desired = World(), wanting(a_pod())
    busy = replace(world.observe(), busy=frozenset({"uid-web"}))
    assert planning.plan(desired, busy, BUDGET, world.now) == Plan()


def test_a_setback_delays_the_pod_until_its_time() -> None:
    world, desired = World(), wanting(a_pod())
    held = replace(world.observe(), setbacks={"uid-web": Setback("X", "y", 1, world.now + 5)})
    assert planning.plan(desired, held, BUDGET, world.now) == Plan(wake_at=world.now + 5)
    assert planning.plan(desired, held, BUDGET, world.now + 5).steps


def test_a_failed_removal_is_not_tried_again_before_its_time() -> None:
    world = World()
    settle(world, wanting(a_pod(termination_grace=0.0)))
    gone = wanting(generation=2)
    held = replace(world.observe(), setbacks={"uid-web": Setback("X", "y", 1, world.now + 5, clearing=True)})
    assert planning.plan(gone, held, BUDGET, world.now) == Plan(wake_at=world.now + 5)


def test_a_missing_image_holds_only_its_own_container() -> None:
    pod = a_pod(containers=2)
    pod = replace(pod, containers=(pod.containers[0], replace(pod.containers[1], image="absent")))
    world = World(registry=frozenset())
    for step in plan(world, wanting(pod)).steps:
        world.apply(step)
    assert [c.name for c in world.live()] == ["c0"]


def test_a_half_made_container_is_killed_and_started_anew() -> None:
    world, desired = World(), wanting(a_pod())
    settle(world, desired)
    half = replace(world.containers["uid-web.c0.0"], phase=ContainerPhase.STARTING)
    world.containers[half.id] = half
    settle(world, desired)
    assert [c.attempt for c in world.live()] == [1]


def test_a_lost_network_namespace_is_made_again_and_the_containers_with_it() -> None:
    world, desired = World(), wanting(a_pod())
    settle(world, desired)
    world.lose_network("uid-web")
    settle(world, desired)
    assert world.sandboxes["uid-web"].ready
    assert len(world.live()) == 1


def test_a_service_follows_the_readiness_of_its_pods() -> None:
    service = Service("default", "web", "10.96.0.5", (ServicePort(80, 8080),), ("uid-web",))
    world, desired = World(), wanting(a_pod(), services=(service,))
    settle(world, desired)
    assert world.services[0].addresses == (world.sandboxes["uid-web"].ip,)
    world.health["uid-web.c0.0"] = Health(started=True, ready=False)
    settle(world, desired)
    assert not world.services[0].addresses


def test_a_pod_that_leaves_gets_the_grace_that_somebody_asked_for() -> None:
    world, pod = World(), a_pod(termination_grace=300.0)
    settle(world, wanting(pod))
    world.deaf = True
    asked = replace(wanting(generation=2), leaving={pod.uid: 2.0})
    for step in plan(world, asked).steps:
        world.apply(step)
    assert plan(world, asked).wake_at == world.now + 2.0
    assert plan(world, wanting(generation=2)).wake_at == world.now + 300.0
