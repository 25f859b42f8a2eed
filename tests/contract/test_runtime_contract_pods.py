"""What every runtime promises beyond single containers: hooks, files that follow, pods that are over, claims."""

from __future__ import annotations

import pytest

from edged.errors import EdgedError, PermanentError
from edged.model import (
    Claim,
    ConfigFiles,
    Container,
    ContainerPhase,
    ContainerState,
    ExecAction,
    Material,
    Mount,
    Pod,
    SleepAction,
    Volume,
)
from edged.runtime.api import Runtime
from tests.contract.test_runtime_contract import RUN, Lab, Run, busy, next_exit, only, pod_of, run, up

__all__ = ["run"]  # the fixture

YES, NO = ExecAction(("true",)), ExecAction(("false",))


def inspected(runtime: Runtime, container: str) -> ContainerState:
    state = runtime.inspect(container)
    assert state is not None
    return state


def test_with_a_pre_stop_hook_a_stop_is_only_a_decision_until_the_signal(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy(pre_stop=YES)))
        assert state.pre_stop == YES
        await runtime.stop_container(state.id, "not wanted")
        asked = only(runtime)
        assert (asked.phase, asked.signalled, asked.stop_reason) == (ContainerPhase.RUNNING, False, "not wanted")
        runtime, exits = await lab.daemon()
        assert only(runtime) == asked, "the next daemon knows"
        await runtime.run_hook(state.id, YES, "127.0.0.1", 20.0)
        assert only(runtime).phase is ContainerPhase.RUNNING
        await runtime.signal_container(state.id)
        assert await next_exit(exits) == state.id
        ended = only(runtime)
        assert ended.signalled
        assert ended.stop_requested_at == asked.stop_requested_at

    run(scenario)


def test_without_one_the_stop_is_the_signal(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, exits = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy()))
        await runtime.stop_container(state.id, "not wanted")
        assert await next_exit(exits) == state.id
        assert only(runtime).signalled

    run(scenario)


def test_a_hook_that_fails_is_a_sentence_and_touches_nothing(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy()))
        with pytest.raises(PermanentError, match="ended with 1"):
            await runtime.run_hook(state.id, NO, "127.0.0.1", 20.0)
        await runtime.run_hook(state.id, SleepAction(0.0), "127.0.0.1", 20.0)
        assert only(runtime) == state
        with pytest.raises(EdgedError):
            await runtime.run_hook("uid-9.main.0", YES, "127.0.0.1", 20.0)
        await runtime.signal_container("uid-9.main.0")

    run(scenario)


def test_a_post_start_hook_is_due_until_it_is_noted(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        state = await up(runtime, lab, pod_of(busy(post_start=YES)))
        assert not state.post_started
        runtime, _ = await lab.daemon()
        assert not only(runtime).post_started
        for _ in range(2):
            await runtime.note_post_started(state.id)
        runtime, _ = await lab.daemon()
        assert only(runtime).post_started

    run(scenario)


def test_a_sidecar_says_its_place(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        sidecars = (busy("one", sidecar=True), Container("between", "busybox:test"), busy("two", sidecar=True))
        pod = Pod("default", "app", "uid-1", (busy(),), init=sidecars)
        await runtime.prepare_sandbox(pod, Material())
        states = [
            await runtime.start_container(pod, c, lab.image, Material(), 0, 0)
            for c in (*pod.containers, *sidecars[::2])
        ]
        assert [s.sidecar for s in states] == [0, 1, 2]

    run(scenario)


def test_a_pod_that_is_ended_for_good_stays_so_until_its_sandbox_goes(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        pod = pod_of(busy())
        await runtime.prepare_sandbox(pod, Material())
        for _ in range(2):
            await runtime.end_pod(pod.uid, "Evicted", "memory ran out")
        runtime, _ = await lab.daemon()
        ((sandbox,), _) = runtime.observe()
        assert (sandbox.evicted, sandbox.evicted_message) == ("Evicted", "memory ran out")
        assert (await runtime.prepare_sandbox(pod, Material())).evicted == "Evicted"
        await runtime.remove_sandbox(pod.uid)
        assert not (await runtime.prepare_sandbox(pod, Material())).evicted

    run(scenario)


def test_a_sandbox_says_what_its_files_show_and_since_when_it_is_there(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        container = Container("main", "busybox:test", command=RUN, mounts=(Mount("files", "/files"),))
        pod = Pod("default", "app", "uid-1", (container,), volumes=(Volume("files", ConfigFiles("app")),))
        before = Material(configs={"app": {"key": b"1"}}, digest="first")
        state = await runtime.prepare_sandbox(pod, before)
        assert state.material == "first"
        assert state.created_at > 0
        after = Material(configs={"app": {"key": b"2"}}, digest="second")
        for _ in range(2):
            await runtime.refresh_volumes(pod, after)
        runtime, _ = await lab.daemon()
        ((sandbox,), _) = runtime.observe()
        assert (sandbox.material, sandbox.created_at) == ("second", state.created_at)

    run(scenario)


def test_what_is_not_there_can_be_asked_for_and_taken_away(run: Run) -> None:
    async def scenario(lab: Lab) -> None:
        runtime, _ = await lab.daemon()
        assert runtime.claims() == frozenset()
        await runtime.remove_claim("claim-1")
        await runtime.resize_claim(Claim("default", "data", "claim-1", 1 << 20))
        assert runtime.devices(["no-such-thing"]) == {}
        await runtime.give_devices("uid-9.main.0", ["no-such-thing"])
        await runtime.end_pod("uid-9", "Evicted", "never was")
        assert runtime.observe() == ((), ())

    run(scenario)
