"""What a whole pod needs: init containers, sidecars, hooks, images, files, deadlines, devices, claims, host ports."""

from __future__ import annotations

from msgspec.structs import replace

from edged.decide import plan as planning
from edged.decide import pulls
from edged.decide.admission import admission
from edged.decide.steps import GiveDevices, Plan, PullImage, RefreshVolumes, RunHook, StartContainer
from edged.model import (
    Claim,
    ClaimFiles,
    ConfigFiles,
    Container,
    Desired,
    Env,
    ExecAction,
    Health,
    Pod,
    Port,
    Probe,
    PullPolicy,
    RestartPolicy,
    Service,
    ServicePort,
    Setback,
    TcpAction,
    Volume,
)
from tests.fakes.world import World
from tests.unit.test_plan import BUDGET, a_pod, plan, settle, texts, wanting

HOOK = ExecAction(("true",))


def begin(world: World, desired: Desired) -> None:
    """One round."""
    world.wanted = desired
    for step in plan(world, desired).steps:
        world.apply(step)


def running(world: World) -> list[str]:
    return sorted(c.name for c in world.live())


def with_init(*init: Container, **more: object) -> Pod:
    return replace(a_pod(), init=init, **more)


# ---------------------------------------------------------------- init containers and sidecars


def test_init_containers_run_one_after_the_other_and_then_the_rest() -> None:
    world, desired = World(), wanting(with_init(Container("i0", "demo"), Container("i1", "demo")))
    seen = []
    for _ in range(3):
        begin(world, desired)
        seen.append(running(world))
        begin(world, desired)
        assert running(world) == seen[-1], "the next one waits for its end"
        world.exit(world.live()[0].id, 0)
    assert seen == [["i0"], ["i1"], ["c0"]]


def test_a_failed_init_container_is_tried_again_with_growing_delay() -> None:
    world, desired = World(), wanting(with_init(Container("i0", "demo")))
    begin(world, desired)
    world.exit("uid-web.i0.0", 1)
    begin(world, desired)
    assert running(world) == ["i0"]
    world.exit("uid-web.i0.1", 1)
    waits = plan(world, desired)
    assert waits.steps == ()
    assert 2.0 <= waits.wake_at - world.now <= 2.2


def test_with_restart_policy_never_a_failed_init_container_ends_the_pod_and_its_sidecars() -> None:
    pod = with_init(Container("s", "demo", sidecar=True), Container("i0", "demo"), restart_policy=RestartPolicy.NEVER)
    world, desired = World(), wanting(pod)
    begin(world, desired)
    begin(world, desired)
    assert running(world) == ["i0", "s"]
    world.exit("uid-web.i0.0", 1)
    settle(world, desired)
    assert running(world) == []


def test_what_comes_after_a_sidecar_waits_until_it_has_started() -> None:
    probe = Probe(TcpAction(80))
    world = World()
    desired = wanting(with_init(Container("s", "demo", sidecar=True, startup=probe), Container("i0", "demo")))
    settle(world, desired)
    assert running(world) == ["s"]
    world.health["uid-web.s.0"] = Health(started=True, ready=True)
    settle(world, desired)
    assert running(world) == ["i0", "s"]


def test_a_sidecar_comes_back_whatever_the_policy_and_does_not_keep_the_pod_from_its_end() -> None:
    pod = with_init(Container("s", "demo", sidecar=True), restart_policy=RestartPolicy.NEVER)
    world, desired = World(), wanting(pod)
    settle(world, desired)
    assert running(world) == ["c0", "s"]
    world.exit("uid-web.s.0", 0)
    settle(world, desired)
    assert running(world) == ["c0", "s"]
    world.exit("uid-web.c0.0", 0)
    settle(world, desired)
    assert running(world) == []


def test_sidecars_end_after_the_rest_the_last_one_first_also_when_the_document_forgot_them() -> None:
    pod = with_init(Container("s0", "demo", sidecar=True), Container("s1", "demo", sidecar=True))
    world = World()
    settle(world, wanting(pod))
    gone = wanting(generation=2)
    order = []
    while world.live():
        order.append(texts(plan(world, gone)))
        begin(world, gone)
    stop = "stop uid-web.{}.0: its pod is not wanted here any more"
    assert order == [[stop.format("c0")], [stop.format("s1")], [stop.format("s0")]]


def test_a_sidecar_that_was_being_ended_for_another_reason_is_still_killed_in_time() -> None:
    world = World()
    settle(world, wanting(with_init(Container("s", "demo", sidecar=True))))
    world.deaf = True
    world.lose_network("uid-web")
    begin(world, wanting(a_pod()))
    for state in world.live():
        if state.name == "c0":
            world.exit(state.id, 137)
    gone = wanting(generation=2)
    assert plan(world, gone).wake_at == world.now + 30
    world.now += 30
    assert texts(plan(world, gone))[0].startswith("kill uid-web.s.0")


def test_a_network_made_again_has_its_init_containers_run_again() -> None:
    world, desired = World(), wanting(with_init(Container("i0", "demo")))
    begin(world, desired)
    world.exit("uid-web.i0.0", 0)
    settle(world, desired)
    world.log.clear()
    world.lose_network("uid-web")
    for _ in range(4):
        begin(world, desired)
        if running(world) == ["i0"]:
            break
        world.now += 1
    assert running(world) == ["i0"]
    world.exit("uid-web.i0.0", 0)
    settle(world, desired)
    assert running(world) == ["c0"]


def test_a_sidecar_that_is_not_ready_keeps_its_pod_out_of_services() -> None:
    service = Service("default", "web", "10.96.0.5", (ServicePort(80, 8080),), ("uid-web",))
    pod = with_init(Container("s", "demo", sidecar=True, readiness=Probe(TcpAction(80))))
    world, desired = World(), wanting(pod, services=(service,))
    settle(world, desired)
    assert not world.services[0].addresses
    world.health["uid-web.s.0"] = Health(started=True, ready=True)
    settle(world, desired)
    assert world.services[0].addresses == (world.sandboxes["uid-web"].ip,)


# ---------------------------------------------------------------- hooks


def hooked(**hooks: object) -> Pod:
    pod = a_pod()
    return replace(pod, containers=(replace(pod.containers[0], **hooks),))


def test_a_container_is_not_ready_before_its_post_start_hook_is_done() -> None:
    service = Service("default", "web", "10.96.0.5", (ServicePort(80, 8080),), ("uid-web",))
    world, desired = World(), wanting(hooked(post_start=HOOK), services=(service,))
    begin(world, desired)
    planned = plan(world, desired)
    assert texts(planned) == ["run postStart hook of uid-web.c0.0"]
    assert not world.services[0].addresses
    settle(world, desired)
    assert len(world.services[0].addresses) == 1


def test_a_pre_stop_hook_comes_before_the_signal_and_gets_what_is_left_of_the_grace() -> None:
    world = World()
    settle(world, wanting(hooked(pre_stop=HOOK)))
    gone = wanting(generation=2)
    begin(world, gone)
    world.now += 20
    (hook,) = plan(world, gone).steps
    assert isinstance(hook, RunHook)
    assert hook.timeout == 10.0
    world.busy.add(hook.owner)
    waits = plan(world, gone)
    assert (waits.steps, waits.wake_at) == ((), world.now + 10)
    world.now += 10
    assert texts(plan(world, gone))[0].startswith("kill uid-web.c0.0: it did not end within 30 s")


def test_after_a_daemons_restart_in_the_middle_of_a_pre_stop_hook_it_is_run_again() -> None:
    world = World()
    settle(world, wanting(hooked(pre_stop=HOOK)))
    begin(world, wanting(generation=2))
    world.restart_daemon()
    assert texts(plan(world, wanting(generation=2))) == ["run preStop hook of uid-web.c0.0"]
    settle(world, wanting(generation=2))
    assert not world.sandboxes


def test_without_any_grace_no_hook_is_run() -> None:
    world = World()
    settle(world, wanting(replace(hooked(pre_stop=HOOK), termination_grace=0.0)))
    settle(world, wanting(generation=2))
    assert not [s for s in world.log if isinstance(s, RunHook)]
    assert not world.containers


def test_a_probe_that_condemns_says_how_long_its_container_gets() -> None:
    probe = Probe(TcpAction(80), termination_grace=3.0)
    world, desired = World(), wanting(hooked(liveness=probe))
    settle(world, desired)
    world.deaf = True
    world.health["uid-web.c0.0"] = Health(started=True, ready=True, live=False, reason="liveness probe failed: no")
    begin(world, desired)
    world.restart_daemon()  # who restarts forgets what the probe said, the container doesn't
    assert plan(world, desired).wake_at == world.now + 3.0
    world.now += 3
    assert texts(plan(world, desired)) == ["kill uid-web.c0.0: it did not end within 3 s: liveness probe failed: no"]


def test_a_kill_that_hangs_is_repeated_each_second_and_not_more() -> None:
    world = World()
    settle(world, wanting(a_pod(termination_grace=0.0)))
    world.deaf = True
    gone = wanting(generation=2)
    begin(world, gone)
    seen = replace(world.observe(), killed={"uid-web.c0.0": world.now})
    assert planning.plan(gone, seen, BUDGET, world.now) == Plan((), world.now + 1.0)
    assert planning.plan(gone, seen, BUDGET, world.now + 1.0).steps


# ---------------------------------------------------------------- images


def of_image(name: str, image: str, **more: object) -> Pod:
    return Pod("default", name, f"uid-{name}", (Container("c0", image, **more),))  # type: ignore[arg-type]


def test_missing_images_are_pulled_two_at_a_time_in_the_documents_order() -> None:
    world = World()
    desired = wanting(of_image("a", "x"), of_image("b", "y"), of_image("c", "z"), of_image("d", "x"))
    asked = [s for s in plan(world, desired).steps if isinstance(s, PullImage)]
    assert [(s.reference, [p.name for p in s.pods]) for s in asked] == [("x", ["a", "d"]), ("y", ["b"])]
    world.busy.add("image x")
    world.busy.add("image y")
    assert not [s for s in plan(world, desired).steps if isinstance(s, PullImage)]
    world.busy.remove("image y")
    assert [s.reference for s in plan(world, desired).steps if isinstance(s, PullImage)] == ["y"]


def test_a_pull_that_fails_comes_back_ever_more_seldom() -> None:
    world, desired = World(registry=frozenset()), wanting(of_image("a", "x"))
    pauses = []
    for _ in range(7):
        begin(world, desired)
        wake_at = plan(world, desired).wake_at
        pauses.append(wake_at - world.now)
        world.now = wake_at
    assert [round(p, -1) for p in pauses[:3]] == [10.0, 20.0, 40.0]
    assert 270.0 <= pauses[-1] <= 300.0
    world.registry = frozenset({"x"})
    settle(world, desired)
    assert running(world) == ["c0"]


def test_what_a_registry_refuses_for_good_is_asked_for_again_all_the_same() -> None:
    assert pulls.backoff("x", 1, float("inf")) == pulls.LAST_BACKOFF
    assert pulls.backoff("x", 1, 120.0) == 120.0, "a registry that names a time is heard"


def test_always_asks_the_registry_once_for_each_new_pod() -> None:
    world = World(frozenset({"demo"}))
    desired = wanting(of_image("a", "demo", pull_policy=PullPolicy.ALWAYS))
    settle(world, desired)
    assert sum(isinstance(s, PullImage) for s in world.log) == 1
    world.exit("uid-a.c0.0", 1)
    settle(world, desired)
    assert sum(isinstance(s, PullImage) for s in world.log) == 1, "not for a restart"


def test_with_no_network_a_pod_that_always_asks_goes_on_with_what_is_here() -> None:
    world = World(frozenset({"demo"}), registry=frozenset())
    settle(world, wanting(of_image("a", "demo", pull_policy=PullPolicy.ALWAYS)))
    assert running(world) == ["c0"]


def test_never_pulls_nothing() -> None:
    world, desired = World(), wanting(of_image("a", "x", pull_policy=PullPolicy.NEVER))
    settle(world, desired)
    assert not [s for s in world.log if isinstance(s, PullImage)]
    assert running(world) == []


def test_a_pod_that_is_not_admitted_has_nothing_pulled() -> None:
    big = replace(a_pod("big", memory=400 << 20))
    big = replace(big, containers=(replace(big.containers[0], image="x"),))
    assert not [s for s in plan(World(), wanting(big)).steps if isinstance(s, PullImage)]


# ---------------------------------------------------------------- files


def showing(config: str) -> Pod:
    return replace(a_pod(), volumes=(Volume("v", ConfigFiles(config)),))


def test_a_changed_config_is_shown_to_a_running_pod_and_restarts_nothing() -> None:
    world = World()
    first = replace(wanting(showing("app")), configs={"default/app": {"k": b"1"}})
    world.wanted = first
    settle(world, first)
    world.log.clear()
    second = replace(first, generation=2, configs={"default/app": {"k": b"2"}})
    world.wanted = second
    settle(world, second)
    assert [type(s) for s in world.log] == [RefreshVolumes]


def test_a_config_that_only_variables_use_refreshes_nothing() -> None:
    pod = hooked(env=(Env("K", config="app", key="k"),))
    world = World()
    first = replace(wanting(pod), configs={"default/app": {"k": b"1"}})
    settle(world, first)
    assert texts(plan(world, replace(first, configs={"default/app": {"k": b"2"}}))) == []


def test_files_that_can_not_be_refreshed_keep_no_container_from_coming_back() -> None:
    world = World()
    first = replace(wanting(showing("app")), configs={"default/app": {"k": b"1"}})
    world.wanted = first
    settle(world, first)
    world.exit("uid-web.c0.0", 1)
    world.setbacks["uid-web"] = Setback("FailedMount", "config map default/app does not exist", 3, world.now + 60)
    planned = plan(world, replace(first, generation=2, configs={}))
    assert [type(s) for s in planned.steps] == [StartContainer]


# ---------------------------------------------------------------- deadlines and evictions


def test_a_pod_past_its_deadline_is_ended_and_never_started_again() -> None:
    world, desired = World(), wanting(a_pod(active_deadline=60.0))
    begin(world, desired)
    assert plan(world, desired).wake_at == world.now + 60
    world.now += 60
    settle(world, desired)
    assert world.sandboxes["uid-web"].evicted == "DeadlineExceeded"
    assert running(world) == []
    settle(world, replace(desired, generation=2))
    assert running(world) == []
    settle(world, wanting(generation=3))
    assert not world.sandboxes


def test_an_evicted_pod_makes_room_for_the_next() -> None:
    world = World()
    old, new = a_pod("old", memory=200 << 20), a_pod("new", memory=200 << 20)
    settle(world, wanting(old))
    world.sandboxes[old.uid] = replace(world.sandboxes[old.uid], evicted="Evicted", evicted_message="memory ran out")
    settle(world, wanting(old, new))
    assert {c.pod_uid for c in world.live()} == {new.uid}


def test_a_pod_that_is_over_has_no_part_in_the_budget() -> None:
    world = World()
    job = a_pod("job", memory=200 << 20, restart_policy=RestartPolicy.NEVER)
    settle(world, wanting(job))
    world.exit(f"{job.uid}.c0.0", 0)
    settle(world, wanting(job, a_pod("next", memory=200 << 20)))
    assert len(world.live()) == 1


# ---------------------------------------------------------------- devices, claims, host ports


def test_a_container_waits_for_its_device_and_gets_it_back_when_it_returns() -> None:
    world, desired = World(), wanting(hooked(devices=("camera",)))
    settle(world, desired)
    assert running(world) == []
    world.devices = {"camera": "/dev/video0 81:0"}
    settle(world, desired)
    assert running(world) == ["c0"]
    for there in ({}, {"camera": "/dev/video1 81:1"}):
        world.devices = there
        world.log.clear()
        settle(world, desired)
        assert [type(s) for s in world.log] == [GiveDevices], "it runs on"
    assert world.containers["uid-web.c0.0"].devices == ("camera=/dev/video1 81:1",)


def test_a_claim_nobody_lists_is_deleted_only_when_nobody_can_use_it() -> None:
    world = World()
    claim = Claim("default", "data", "claim-1", 1 << 20)
    pod = replace(a_pod(), volumes=(Volume("v", ClaimFiles("data", "claim-1", 1 << 20)),))
    world.claims = {"claim-1": 1 << 20, "claim-2": 1 << 20}
    with_claim = replace(wanting(pod), claims=(claim,))
    settle(world, with_claim)
    assert set(world.claims) == {"claim-1"}
    assert plan(world, None).steps == ()
    settle(world, replace(with_claim, claims=(replace(claim, size=4 << 20),)))
    assert world.claims == {"claim-1": 4 << 20}
    gone = wanting(generation=2)
    world.deaf = True
    begin(world, gone)
    assert set(world.claims) == {"claim-1"}, "its pod is still leaving"
    settle(world, gone)
    assert not world.claims


def facing(name: str, ip: str = "") -> Pod:
    ports = (Port(80, host_port=8080, host_ip=ip),)
    return Pod("default", name, f"uid-{name}", (Container("c0", "demo", ports=ports),))


def test_a_host_port_leads_to_its_pod_and_a_second_one_is_told_who_has_it() -> None:
    world, desired = World(), wanting(facing("x"), facing("y"))
    settle(world, desired)
    (port,) = world.host_ports
    assert (port.port, port.address, port.target_port) == (8080, world.sandboxes["uid-x"].ip, 80)
    told = admission(desired, world.observe(), BUDGET)
    assert told.refused == {"uid-y": "host port 8080/TCP is taken by default/x"}
    settle(world, wanting(facing("y"), facing("x"), generation=2))
    assert world.host_ports == (port,), "who has it keeps it"
    settle(world, wanting(facing("y"), generation=3))
    assert [p.address for p in world.host_ports] == [world.sandboxes["uid-y"].ip]


def test_the_same_port_on_two_addresses_is_no_conflict() -> None:
    world = World()
    settle(world, wanting(facing("x", "192.0.2.1"), facing("y", "192.0.2.2")))
    assert len(world.host_ports) == 2


def test_a_service_may_lead_to_pods_that_are_not_ready_yet() -> None:
    slow = replace(a_pod(), containers=(Container("c0", "demo", readiness=Probe(HOOK, initial_delay=1e9)),))
    for unready in (False, True):
        service = Service("default", "db", "", (ServicePort(1, 1),), ("uid-web",), unready=unready)
        world = World()
        settle(world, wanting(slow, services=(service,)))
        assert world.services[0].addresses == ((world.sandboxes["uid-web"].ip,) if unready else ())


def test_a_headless_service_names_its_pods() -> None:
    service = Service("default", "db", "", (ServicePort(5432, 5432),), ("uid-web",))
    world, desired = World(), wanting(a_pod(hostname="db-0", subdomain="db"), services=(service,))
    settle(world, desired)
    ip = world.sandboxes["uid-web"].ip
    assert (world.services[0].addresses, world.services[0].hosts) == ((ip,), (("db-0", ip),))
