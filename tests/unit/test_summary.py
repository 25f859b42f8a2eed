"""What people are told of a pod: phases and reasons in Kubernetes' words."""

from __future__ import annotations

from msgspec.structs import replace

from edged.decide import summary
from edged.decide.budget import Budget
from edged.model import ContainerPhase, Phase, PodStatus, RestartPolicy
from tests.fakes.world import World
from tests.unit.test_plan import BUDGET, MIB, a_pod, settle, wanting


def told(world: World, desired: object, budget: Budget = BUDGET) -> PodStatus:
    (status,) = summary.summarise(desired, world.observe(), budget, world.now)  # type: ignore[arg-type]
    return status


def test_a_container_that_is_only_being_created_does_not_make_its_pod_running() -> None:
    world, desired = World(), wanting(a_pod())
    settle(world, desired)
    (state,) = world.containers.values()
    world.containers[state.id] = replace(state, phase=ContainerPhase.STARTING)
    assert told(world, desired).phase is Phase.PENDING
    world.containers[state.id] = state
    assert told(world, desired).phase is Phase.RUNNING


def test_a_crash_looping_pod_is_running_and_says_what_it_waits_for() -> None:
    world, desired = World(), wanting(a_pod())
    settle(world, desired)
    world.exit("uid-web.c0.0", 3)
    settle(world, desired)
    world.exit("uid-web.c0.1", 3)
    status = told(world, desired)
    assert status.phase is Phase.RUNNING
    assert status.containers[0].reason == "CrashLoopBackOff"
    assert status.containers[0].message == "it ended with exit code 3; next start after 2 s"
    assert status.containers[0].last_exit_code == 3


def test_a_pod_that_ends_for_good_succeeds_or_fails_by_its_exit_code() -> None:
    for code, phase in ((0, Phase.SUCCEEDED), (1, Phase.FAILED)):
        world, desired = World(), wanting(a_pod(restart_policy=RestartPolicy.NEVER))
        settle(world, desired)
        world.exit("uid-web.c0.0", code)
        assert told(world, desired).phase is phase


def test_a_pod_that_does_not_fit_waits_with_a_sentence() -> None:
    status = told(World(), wanting(a_pod(memory=64 * MIB)), Budget(memory=40 * MIB))
    assert (status.phase, status.message) == (Phase.PENDING, "needs 64 MiB of memory, 40 MiB free")
