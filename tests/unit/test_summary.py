"""What people are told of a pod: phases and reasons in Kubernetes' words."""

from __future__ import annotations

from msgspec.structs import replace

from edged.decide import summary
from edged.decide.budget import Budget
from edged.model import Container, ContainerPhase, Desired, Phase, PodStatus, Port, RestartPolicy
from tests.fakes.world import World
from tests.unit.test_plan import BUDGET, MIB, a_pod, plan, settle, wanting


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


def containers_of(status: PodStatus) -> list[tuple[str, str, str]]:
    return [(c.name, c.state, c.reason) for c in (*status.init, *status.containers)]


def test_while_init_containers_run_the_rest_is_initializing_and_the_pod_pending() -> None:
    world, desired = World(), wanting(a_pod(init=(Container("i0", "demo"), Container("i1", "demo"))))
    settle(world, desired)
    status = told(world, desired)
    assert (status.phase, status.initialized) == (Phase.PENDING, False)
    assert containers_of(status) == [
        ("i0", "running", ""),
        ("i1", "waiting", "PodInitializing"),
        ("c0", "waiting", "PodInitializing"),
    ]
    world.exit("uid-web.i0.0", 1)
    settle_once(world, desired)
    world.exit("uid-web.i0.1", 1)
    assert containers_of(told(world, desired))[0] == ("i0", "waiting", "CrashLoopBackOff")


def settle_once(world: World, desired: Desired) -> None:
    for step in plan(world, desired).steps:
        world.apply(step)


def test_a_sidecars_end_does_not_decide_how_its_pod_ended() -> None:
    pod = a_pod(init=(Container("s", "demo", sidecar=True),), restart_policy=RestartPolicy.NEVER)
    world, desired = World(), wanting(pod)
    settle(world, desired)
    world.exit("uid-web.c0.0", 0)
    settle(world, desired)
    world.containers["uid-web.s.0"] = replace(world.containers["uid-web.s.0"], exit_code=137)
    status = told(world, desired)
    assert (status.phase, status.init[0].state) == (Phase.SUCCEEDED, "terminated")


def test_an_image_that_does_not_come_is_told_in_the_kubelets_words() -> None:
    pod = a_pod()
    pod = replace(pod, containers=(replace(pod.containers[0], image="x"),))
    world, desired = World(registry=frozenset()), wanting(pod)
    assert containers_of(told(world, desired)) == [("c0", "waiting", "ContainerCreating")]
    seen = []
    for _ in range(3):
        settle_once(world, desired)
        status = told(world, desired)
        seen.append((status.containers[0].reason, status.message))
        world.now = plan(world, desired).wake_at
    assert seen == [
        ("ErrImagePull", "no route to host"),
        ("ImagePullBackOff", 'back-off pulling image "x": ErrImagePull: no route to host'),
        ("ImagePullBackOff", 'back-off pulling image "x": ErrImagePull: no route to host'),
    ], "and each try says the same, so that nothing is sent for it"


def test_the_last_words_of_a_container_are_told() -> None:
    world, desired = World(), wanting(a_pod(restart_policy=RestartPolicy.NEVER))
    settle(world, desired)
    world.exit("uid-web.c0.0", 1)
    world.containers["uid-web.c0.0"] = replace(world.containers["uid-web.c0.0"], message="no database")
    assert told(world, desired).containers[0].message == "no database"


def test_an_evicted_pod_has_failed_with_the_reason_it_was_given() -> None:
    world, desired = World(), wanting(a_pod())
    settle(world, desired)
    sandbox = world.sandboxes["uid-web"]
    world.sandboxes["uid-web"] = replace(sandbox, evicted="Evicted", evicted_message="memory ran out")
    assert told(world, desired).phase is Phase.RUNNING, "until the last of it has ended"
    settle(world, desired)
    status = told(world, desired)
    assert (status.phase, status.reason, status.message, status.ready) == (
        Phase.FAILED,
        "Evicted",
        "memory ran out",
        False,
    )


def test_a_pod_whose_host_port_is_taken_waits_with_a_sentence() -> None:
    ports = (Port(80, host_port=8080),)
    one, two = (
        replace(a_pod(name), containers=(Container("c0", "demo", ports=ports),), uid=name) for name in ("one", "two")
    )
    world, desired = World(), wanting(one, two)
    settle(world, desired)
    status = summary.summarise(desired, world.observe(), BUDGET, world.now)[1]
    assert (status.phase, status.reason) == (Phase.PENDING, "OutOfports")
    assert status.message == "host port 8080/TCP is taken by default/one"
