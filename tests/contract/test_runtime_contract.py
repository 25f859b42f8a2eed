"""What every runtime promises: the same sentences for the fake and for conmon and crun on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

import pytest

from edged.errors import PermanentError, RetryError
from edged.model import (
    Container,
    ContainerPhase,
    ContainerState,
    Env,
    ExecAction,
    Image,
    Limits,
    Material,
    Pod,
    Probe,
    SandboxState,
    ServicePort,
    ServiceRules,
    container_identity,
)
from edged.runtime.api import Runtime, Verdict
from tests.fakes.boards import Corner, corner
from tests.fakes.runtime import Board, FakeRuntime

WAIT = 20.0  # seconds until a test gives up
RUN = ("/bin/sh", "-c", "trap 'exit 0' USR1; trap 'exit 143' TERM; while :; do sleep 0.05; done")
# proc(5): SigCgt is a mask in hexadecimal, SIGTERM its bit 14
HEARS_TERM = "while read -r line; do case $line in SigCgt:*[4-7c-f]???) exit 0;; esac; done < /proc/1/status; exit 1"


class Lab(Protocol):
    """One node, whose daemon may be started anew; and the hand of fate."""

    image: Image

    async def daemon(self) -> tuple[Runtime, asyncio.Queue[str]]:
        """A new daemon on the same node; the one before is gone. Exits arrive in the queue."""

    async def end(self, runtime: Runtime, state: ContainerState, code: int) -> None:
        """Make the container end with that code (0 or 137)."""

    async def kill_monitor(self, runtime: Runtime, state: ContainerState) -> None: ...


class FakeLab:
    def __init__(self) -> None:
        self.board = Board()
        self.image = Image("busybox:test", "sha256:0", ("/layer",), cmd=("/bin/sh",))

    async def daemon(self) -> tuple[Runtime, asyncio.Queue[str]]:
        runtime, exits = FakeRuntime(self.board), asyncio.Queue[str]()
        await runtime.open(exits.put_nowait)
        return runtime, exits

    async def end(self, runtime: Runtime, state: ContainerState, code: int) -> None:
        assert isinstance(runtime, FakeRuntime)
        runtime.exit(state.id, code)

    async def kill_monitor(self, runtime: Runtime, state: ContainerState) -> None:
        assert isinstance(runtime, FakeRuntime)
        runtime.kill_monitor(state.id)


class RealLab:
    def __init__(self, place: Corner) -> None:
        self.place = place
        self.image = place.image
        self._runtime: Runtime | None = None

    async def daemon(self) -> tuple[Runtime, asyncio.Queue[str]]:
        if self._runtime is not None:
            await self._runtime.close()
        self._runtime, exits = self.place.runtime(), asyncio.Queue[str]()
        await self._runtime.open(exits.put_nowait)
        return self._runtime, exits

    async def end(self, runtime: Runtime, state: ContainerState, code: int) -> None:
        os.kill(state.pid, {0: signal.SIGUSR1, 137: signal.SIGKILL}[code])

    async def kill_monitor(self, runtime: Runtime, state: ContainerState) -> None:
        folder = self.place.config.run / "pods" / state.pod_uid / "containers" / state.name / str(state.attempt)
        os.kill(int((folder / "conmon").read_text()), signal.SIGKILL)

    async def close(self) -> None:
        if self._runtime is not None:
            await self._runtime.close()


@contextlib.asynccontextmanager
async def open_lab(kind: str) -> AsyncIterator[Lab]:
    if kind == "fake":
        yield FakeLab()
        return
    async with corner() as place:
        lab = RealLab(place)
        try:
            yield lab
        finally:
            await lab.close()


Scenario = Callable[[Lab], Coroutine[Any, Any, None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def run(request: pytest.FixtureRequest) -> Run:
    def go(scenario: Scenario) -> None:
        async def whole() -> None:
            async with asyncio.timeout(60), open_lab(request.param) as lab:
                await scenario(lab)

        asyncio.run(whole())

    return go


def pod_of(*containers: Container, uid: str = "uid-1", name: str = "app") -> Pod:
    return Pod("default", name, uid, containers, termination_grace=7.0)


def busy(name: str = "main", **options: Any) -> Container:
    """Runs until it is told: USR1 ends it with 0, TERM with 143."""
    return Container(name, "busybox:test", command=RUN, **options)


async def up(runtime: Runtime, lab: Lab, pod: Pod, attempt: int = 0, crashes: int = 0) -> ContainerState:
    await runtime.prepare_sandbox(pod, Material())
    state = await runtime.start_container(pod, pod.containers[0], lab.image, Material(), attempt, crashes)
    await settled(runtime, pod, state)
    return state


async def settled(runtime: Runtime, pod: Pod, state: ContainerState) -> None:
    """Until the shell has set its traps: before, the first process of a pid namespace doesn't hear signals."""
    probe = Probe(ExecAction(("sh", "-c", HEARS_TERM)), timeout=10.0)
    async with asyncio.timeout(WAIT):
        while (await runtime.probe(state.id, probe, "127.0.0.1")).verdict is not Verdict.SUCCESS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def next_exit(exits: asyncio.Queue[str]) -> str:
    async with asyncio.timeout(WAIT):
        return await exits.get()


def only(runtime: Runtime) -> ContainerState:
    _, containers = runtime.observe()
    assert len(containers) == 1
    return containers[0]


def test_a_prepared_sandbox_is_seen_and_preparing_it_again_changes_nothing(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        pod = pod_of(busy())
        first = await runtime.prepare_sandbox(pod, Material())
        assert first == await runtime.prepare_sandbox(pod, Material())
        assert runtime.observe() == ((first,), ())
        assert first == SandboxState("uid-1", "default/app", first.ip, True, 7.0, created_at=first.created_at)

    run(scenario)


def test_a_started_container_runs_and_carries_what_it_was_started_with(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        pod = pod_of(busy())
        state = await up(runtime, lab, pod, attempt=3, crashes=2)
        assert (state.id, state.phase) == ("uid-1.main.3", ContainerPhase.RUNNING)
        assert (state.attempt, state.crashes, state.image_id) == (3, 2, lab.image.id)
        assert state.identity == container_identity(pod, pod.containers[0])
        assert state.pid > 0
        assert state.monitored
        assert state.started_at > 0
        assert runtime.inspect(state.id) == state == only(runtime)

    run(scenario)


def test_a_new_daemon_sees_the_same_and_hears_of_later_ends(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy()), crashes=1)
        before = runtime.observe()
        runtime, exits = await lab.daemon()
        assert runtime.observe() == before
        await lab.end(runtime, state, 0)
        assert await next_exit(exits) == state.id
        ended = only(runtime)
        assert (ended.phase, ended.exit_code, ended.crashes) == (ContainerPhase.EXITED, 0, 1)

    run(scenario)


@pytest.mark.parametrize("code", [0, 137])
def test_the_exit_code_is_told_and_a_signal_is_128_more(run: Run, code: int) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy()))
        await lab.end(runtime, state, code)
        assert await next_exit(exits) == state.id
        ended = runtime.inspect(state.id)
        assert ended is not None
        assert (ended.phase, ended.exit_code, ended.pid) == (ContainerPhase.EXITED, code, 0)
        assert ended.finished_at >= ended.started_at
        assert not ended.stop_requested_at
        assert not ended.oom_killed

    run(scenario)


def test_a_stop_is_recorded_with_its_reason_and_asks_the_process(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy()))
        await runtime.stop_container(state.id, "its spec has changed")
        assert await next_exit(exits) == state.id
        runtime, _ = await lab.daemon()
        ended = only(runtime)
        assert ended.phase is ContainerPhase.EXITED
        assert ended.stop_reason == "its spec has changed"
        assert ended.started_at <= ended.stop_requested_at <= ended.finished_at

    run(scenario)


def test_a_kill_ends_it_at_once_and_keeps_the_first_reason(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        pod = pod_of(
            Container("main", "busybox:test", command=("/bin/sh", "-c", "trap : TERM; while :; do sleep 1; done"))
        )
        state = await up(runtime, lab, pod)
        if isinstance(runtime, FakeRuntime):
            runtime.deaf.add(state.id)
        await runtime.stop_container(state.id, "first")
        asked = only(runtime)
        assert asked.phase is ContainerPhase.RUNNING
        await runtime.kill_container(state.id, "second")
        assert await next_exit(exits) == state.id
        ended = only(runtime)
        assert (ended.exit_code, ended.stop_reason) == (137, "first")
        assert ended.stop_requested_at == asked.stop_requested_at

    run(scenario)


def test_stopping_and_killing_what_has_ended_or_never_was_does_nothing(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy()))
        await lab.end(runtime, state, 0)
        await next_exit(exits)
        ended = only(runtime)
        await runtime.stop_container(state.id, "late")
        await runtime.kill_container(state.id, "late")
        assert only(runtime) == ended
        await runtime.stop_container("uid-9.main.0", "never was")
        await runtime.kill_container("uid-9.main.0", "never was")

    run(scenario)


def test_starting_the_same_attempt_again_does_not_start_it_twice(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        pod = pod_of(busy())
        state = await up(runtime, lab, pod)
        assert state == await up(runtime, lab, pod)
        assert only(runtime) == state

    run(scenario)


def test_a_new_attempt_lives_beside_the_ended_one_until_that_is_removed(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        pod = pod_of(busy())
        first = await up(runtime, lab, pod)
        await lab.end(runtime, first, 137)
        await next_exit(exits)
        second = await up(runtime, lab, pod, attempt=1, crashes=1)
        assert {c.id: c.phase for c in runtime.observe()[1]} == {
            first.id: ContainerPhase.EXITED,
            second.id: ContainerPhase.RUNNING,
        }
        await runtime.remove_container(first.id)
        assert only(runtime) == second

    run(scenario)


def test_removing_is_repeatable_and_leaves_no_trace(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        pod = pod_of(busy())
        state = await up(runtime, lab, pod)
        await lab.end(runtime, state, 0)
        await next_exit(exits)
        for _ in range(2):
            await runtime.remove_container(state.id)
            assert runtime.inspect(state.id) is None
        for _ in range(2):
            await runtime.remove_sandbox(pod.uid)
            assert runtime.observe() == ((), ())

    run(scenario)


def test_containers_of_one_pod_live_and_end_apart(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        pod = pod_of(busy("one"), busy("two"))
        await runtime.prepare_sandbox(pod, Material())
        states = [await runtime.start_container(pod, c, lab.image, Material(), 0, 0) for c in pod.containers]
        for state in states:
            await settled(runtime, pod, state)
        await lab.end(runtime, states[0], 137)
        assert await next_exit(exits) == states[0].id
        assert {c.name: c.phase for c in runtime.observe()[1]} == {
            "one": ContainerPhase.EXITED,
            "two": ContainerPhase.RUNNING,
        }

    run(scenario)


def test_a_container_whose_monitor_was_killed_runs_on_and_its_end_is_still_told(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy()))
        await lab.kill_monitor(runtime, state)
        assert await next_exit(exits) == state.id
        orphan = only(runtime)
        assert (orphan.phase, orphan.monitored, orphan.pid) == (ContainerPhase.RUNNING, False, state.pid)
        await lab.end(runtime, state, 137)
        assert await next_exit(exits) == state.id
        ended = only(runtime)
        assert (ended.phase, ended.exit_code) == (ContainerPhase.EXITED, 137)

    run(scenario)


def test_a_missing_config_is_told_with_its_name_and_leaves_nothing_behind(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        pod = pod_of(busy(env=(Env("MODE", config="app", key="mode"),)))
        await runtime.prepare_sandbox(pod, Material())
        with pytest.raises(RetryError, match="config map default/app does not exist; env 'MODE' of container 'main'"):
            await runtime.start_container(pod, pod.containers[0], lab.image, Material(), 0, 0)
        with pytest.raises(RetryError, match="config map default/app has no key 'mode'"):
            await runtime.start_container(
                pod, pod.containers[0], lab.image, Material(configs={"app": {"other": b""}}), 0, 0
            )
        assert runtime.observe()[1] == ()

    run(scenario)


def test_a_container_needs_its_sandbox(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        pod = pod_of(busy())
        with pytest.raises(RetryError, match="sandbox of pod default/app is not ready"):
            await runtime.start_container(pod, pod.containers[0], lab.image, Material(), 0, 0)
        assert runtime.observe() == ((), ())

    run(scenario)


def test_an_exec_probe_says_yes_no_and_that_nothing_runs(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy()))
        no = await runtime.probe(state.id, Probe(ExecAction(("false",)), timeout=10.0), "127.0.0.1")
        assert no.verdict is Verdict.FAILURE
        assert "ended with 1" in no.message
        await lab.end(runtime, state, 0)
        await next_exit(exits)
        gone = await runtime.probe(state.id, Probe(ExecAction(("true",)), timeout=10.0), "127.0.0.1")
        assert gone.verdict is Verdict.FAILURE
        assert "does not run" in gone.message

    run(scenario)


def test_a_pre_stop_hook_comes_before_the_stop_signal_and_both_are_recorded(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        hook = ExecAction(("true",))
        runtime, _ = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy(pre_stop=hook)))
        await runtime.stop_container(state.id, "rollout")
        assert (only(runtime).pre_stop, only(runtime).signalled, only(runtime).stop_reason) == (hook, False, "rollout")
        await runtime.run_hook(state.id, hook, "127.0.0.1", WAIT)
        runtime, exits = await lab.daemon()
        assert (only(runtime).phase, only(runtime).signalled) == (ContainerPhase.RUNNING, False)
        await runtime.signal_container(state.id)
        assert await next_exit(exits) == state.id
        assert (only(runtime).signalled, only(runtime).exit_code) == (True, 143)
        await runtime.signal_container(state.id)
        await runtime.signal_container("uid-9.main.0")

    run(scenario)


def test_a_post_start_hook_counts_once_it_is_noted(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy(post_start=ExecAction(("true",)))))
        assert not state.post_started
        with pytest.raises(PermanentError, match="ended with 1"):
            await runtime.run_hook(state.id, ExecAction(("false",)), "127.0.0.1", WAIT)
        await runtime.note_post_started(state.id)
        await runtime.note_post_started(state.id)
        runtime, _ = await lab.daemon()
        assert only(runtime).post_started
        await runtime.note_post_started("uid-9.main.0")
        with pytest.raises(PermanentError, match="does not run"):
            await runtime.run_hook("uid-9.main.0", ExecAction(("true",)), "127.0.0.1", WAIT)

    run(scenario)


def test_a_pod_that_is_ended_for_good_stays_so_until_it_is_removed(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        pod = pod_of(busy())
        await up(runtime, lab, pod)
        await runtime.end_pod(pod.uid, "Evicted", "the node needs its memory")
        await runtime.prepare_sandbox(pod, Material())
        runtime, _ = await lab.daemon()
        (sandbox,) = runtime.observe()[0]
        assert (sandbox.evicted, sandbox.evicted_message) == ("Evicted", "the node needs its memory")
        await runtime.remove_sandbox(pod.uid)
        assert runtime.observe() == ((), ())

    run(scenario)


def test_usage_of_a_running_container_is_told(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy(limits=Limits(memory_limit=32 << 20))))
        usage = runtime.usage(state.id)
        assert usage.memory > 0
        assert usage.pids >= 1
        assert usage.cpu_seconds > 0

    run(scenario)


def test_services_can_be_synced_and_cleared(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        await runtime.prepare_sandbox(pod_of(busy()), Material())
        await runtime.sync_services(
            [ServiceRules("default", "app", "10.96.0.1", (ServicePort(80, 80),), ("10.0.0.2",))]
        )
        await runtime.sync_services([])

    run(scenario)


def test_teardown_ends_everything_and_can_be_repeated(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        await up(runtime, lab, pod_of(busy()))
        for _ in range(2):
            await runtime.teardown()
            assert runtime.observe() == ((), ())

    run(scenario)
