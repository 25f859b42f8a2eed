"""Hooks, stop signals, last words, a runtime that hangs, and a daemon killed in the middle of any of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from edged.errors import EdgedError, PermanentError, RetryError
from edged.model import (
    Container,
    ContainerPhase,
    ContainerState,
    EmptyDir,
    Env,
    ExecAction,
    Hook,
    HttpAction,
    Limits,
    Material,
    Mount,
    NodeFacts,
    Pod,
    ResourceRef,
    SleepAction,
    TcpAction,
    Volume,
)
from edged.runtime.cgroup import Cgroups
from edged.runtime.crun import Crun
from edged.runtime.pods import PodRuntime
from tests.fakes.boards import Corner, StandInNetwork, StandInServices, corner
from tests.runtime_lab import WAIT, Node, run, until

pytestmark = pytest.mark.root
TRAPS = "for s in INT TERM QUIT USR1; do trap \"echo got $s; exit 7\" $s; done; trap 'echo got RT; exit 7' 37;"
WAITS = "echo ready; while :; do sleep 0.05; done"


def inspect(it: Node, state: ContainerState) -> ContainerState:
    found = it.runtime.inspect(state.id)
    assert found is not None
    return found


# ---------------------------------------------------------------- what it may know


def test_a_container_knows_its_pod_its_node_and_its_limits() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output(
            "/bin/sh",
            "-c",
            "echo $NAME $IP $NODE $HOST $TIER $MEM $URL",
            env=(
                Env("NAME", field="metadata.name"),
                Env("IP", field="status.podIP"),
                Env("NODE", field="spec.nodeName"),
                Env("HOST", field="status.hostIP"),
                Env("TIER", field="metadata.labels['tier']"),
                Env("MEM", resource=ResourceRef("limits.memory", divisor=1000 << 20)),
                Env("URL", "http://$(IP)/$(TIER)"),
            ),
            limits=Limits(memory_limit=32 << 20),
            material=Material(node=NodeFacts("pi-7", "192.0.2.7")),
            pod={"labels": {"tier": "$(NAME)"}},
        )
        assert said == "app 127.0.0.1 pi-7 192.0.2.7 $(NAME) 32 http://127.0.0.1/$(NAME)"

    run(scenario)


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize(
    ("image", "said"), [("", "got TERM"), ("SIGINT", "got INT"), ("3", "got QUIT"), ("SIGRTMIN+3", "got RT")]
)
def test_a_container_is_asked_to_end_by_the_signal_that_its_image_names(image: str, said: str) -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", TRAPS + WAITS, image=replace(it.place.image, stop_signal=image))
        await it.says(state, "ready")
        await it.runtime.stop_container(state.id, "rollout")
        ended = await it.ended(state)
        assert (ended.exit_code, ended.signalled, ended.stop_reason) == (7, True, "rollout")
        assert said in it.log(state)

    run(scenario)


def test_with_a_pre_stop_hook_the_signal_comes_only_when_it_is_done() -> None:
    async def scenario(it: Node) -> None:
        hook = ExecAction(("/bin/sh", "-c", "echo bye > /tmp/hooked"))
        state = await it.start("/bin/sh", "-c", TRAPS + WAITS, pre_stop=hook)
        await it.says(state, "ready")
        await it.runtime.stop_container(state.id, "scaled down")
        asked = inspect(it, state)
        assert (asked.pre_stop, asked.signalled, asked.stop_requested_at > 0) == (hook, False, True)
        await it.runtime.run_hook(state.id, hook, "", 30.0)
        assert "got" not in it.log(state)
        await it.restart()
        assert (inspect(it, state).pre_stop, inspect(it, state).signalled) == (hook, False)
        await it.runtime.signal_container(state.id)
        ended = await it.ended(state)
        assert (ended.exit_code, ended.signalled, ended.stop_reason) == (7, True, "scaled down")
        await it.runtime.signal_container(state.id)  # once more does nothing

    run(scenario)


def test_a_container_has_not_started_before_its_hook_is_done() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sleep", "600", post_start=ExecAction(("/bin/true",)))
        assert (state.phase, state.post_started) == (ContainerPhase.RUNNING, False)
        await it.restart()
        assert not inspect(it, state).post_started
        await it.runtime.note_post_started(state.id)
        await it.runtime.note_post_started(state.id)
        assert inspect(it, state).post_started
        await it.runtime.note_post_started("uid-1.other.0")  # not there: nothing
        assert len(it.runtime.observe()[1]) == 1

    run(scenario)


def test_a_hook_that_fails_says_how() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sleep", "600")

        async def failure(hook: Hook, timeout: float = 30.0, ip: str = "127.0.0.1") -> str:
            with pytest.raises(PermanentError) as caught:
                await it.runtime.run_hook(state.id, hook, ip, timeout)
            return str(caught.value)

        assert "/bin/sh ended with 3: oh no" in await failure(ExecAction(("/bin/sh", "-c", "echo oh no; exit 3")))
        assert "took longer than 0.2 s" in await failure(ExecAction(("/bin/sleep", "601")), 0.2)
        assert "cut off after 0.05 s" in await failure(SleepAction(600.0), 0.05)
        assert "Connect call failed" in await failure(HttpAction(1))
        assert "no address" in await failure(HttpAction(1), ip="")
        assert "tcpSocket" in await failure(TcpAction(1))
        await it.runtime.run_hook(state.id, SleepAction(0.0), "", 30.0)
        await until(lambda: it.runtime.usage(state.id).pids == 1)  # the late command is gone
        await it.runtime.kill_container(state.id, "done")
        await it.ended(state)
        assert "does not run" in await failure(ExecAction(("/bin/true",)))

    run(scenario)


def test_an_http_hook_asks_the_pod() -> None:
    async def scenario(it: Node) -> None:
        asked: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readline())
            writer.write(b"HTTP/1.1 %s\r\n\r\n" % (b"200 OK" if b"/ok" in asked[-1] else b"500 No"))
            await writer.drain()
            writer.close()

        state = await it.start("/bin/sleep", "600")
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await it.runtime.run_hook(state.id, HttpAction(port, "/ok"), "127.0.0.1", 30.0)
        assert asked == [b"GET /ok HTTP/1.1\r\n"]
        with pytest.raises(PermanentError, match="HTTP 500"):
            await it.runtime.run_hook(state.id, HttpAction(port, "/no"), "127.0.0.1", 30.0)
        server.close()

    run(scenario)


# ---------------------------------------------------------------- last words


def test_a_termination_message_is_told_with_the_end() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", "echo out of paper > /dev/termination-log; exit 4")
        ended = await it.ended(state)
        assert (ended.exit_code, ended.message) == (4, "out of paper\n")
        await it.restart()
        assert inspect(it, state).message == "out of paper\n"

    run(scenario)


def test_the_end_of_the_log_stands_in_for_a_message_where_that_is_wanted() -> None:
    async def scenario(it: Node) -> None:
        for name, fallback, code, said in (("a", True, 3, "oh no\n"), ("b", False, 3, ""), ("c", True, 0, "")):
            container = Container(
                name, "i", command=("/bin/sh", "-c", f"echo oh no; exit {code}"), termination_message_fallback=fallback
            )
            pod = Pod("default", name, name, (container,))
            await it.runtime.prepare_sandbox(pod, Material())
            state = await it.runtime.start_container(pod, container, it.place.image, Material(), 0, 0)
            assert (await it.ended(state)).message == said

    run(scenario)


def test_a_message_can_be_left_elsewhere_and_by_anybody_but_not_fill_the_node() -> None:
    async def scenario(it: Node) -> None:
        said = "dd if=/dev/zero of=/run/last/words bs=64k count=100 || echo full; exit 1"
        state = await it.start(
            "/bin/sh", "-c", said, termination_message_path="/run/last/words", image=replace(it.place.image, user="app")
        )
        ended = await it.ended(state)
        assert len(ended.message) == 4096
        assert "full" in it.log(state)
        room = os.statvfs(it.place.config.run)
        assert room.f_bavail * room.f_frsize > 1 << 20
        await it.runtime.remove_container(state.id)
        assert not list((it.place.config.run / "messages").iterdir())

    run(scenario)


# ---------------------------------------------------------------- a runtime that fails

HANGING = """#!/bin/sh
case "$*" in *"{verb}"*) echo $$ >> {folder}/hanging; exec sleep 3600;; esac
exec crun "$@"
"""
FAILING = """#!/bin/sh
case "$*" in *"{verb}"*) echo "crun is not well today" >&2; exit 1;; esac
exec crun "$@"
"""


@contextlib.asynccontextmanager
async def odd_runtime(script: str, verb: str) -> AsyncIterator[tuple[Corner, PodRuntime]]:
    async with corner() as place:
        program = place.folder / "odd-crun"
        program.write_text(script.format(verb=verb, folder=place.folder))
        program.chmod(0o755)
        crun = Crun(
            place.config.run / "crun",
            Cgroups(place.config.cgroup_parent).hidden,
            crun=os.fspath(program),
            create_timeout=2.0 if script == HANGING and verb == " create " else WAIT,
        )
        runtime = PodRuntime(place.config, StandInNetwork(place.config.run), StandInServices(), crun)
        await runtime.open(lambda name: None)
        try:
            yield place, runtime
        finally:
            await runtime.close()


@pytest.mark.parametrize("script", [HANGING, FAILING], ids=["hangs", "fails"])
def test_a_start_that_hangs_or_fails_is_given_up_and_leaves_nothing_behind(script: str) -> None:
    async def whole() -> None:
        async with odd_runtime(script, " create ") as (place, runtime):
            pod = Pod("default", "app", "uid-1", (Container("main", "i", command=("/bin/sleep", "600")),))
            await runtime.prepare_sandbox(pod, Material())
            with pytest.raises(RetryError, match=r"within 2 s|not well today"):
                await runtime.start_container(pod, pod.containers[0], place.image, Material(), 0, 0)
            assert runtime.observe()[1] == ()
            hanging = place.folder / "hanging"
            for pid in hanging.read_text().split() if hanging.exists() else ():
                await until(lambda pid=pid: is_gone(int(pid)))  # type: ignore[misc]

    asyncio.run(whole())


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_hook_whose_runtime_hangs_is_given_up() -> None:
    async def whole() -> None:
        async with odd_runtime(HANGING, " exec ") as (place, runtime):
            pod = Pod("default", "app", "uid-1", (Container("main", "i", command=("/bin/sleep", "600")),))
            await runtime.prepare_sandbox(pod, Material())
            state = await runtime.start_container(pod, pod.containers[0], place.image, Material(), 0, 0)
            with pytest.raises(PermanentError, match=r"longer than 1 s"):
                await runtime.run_hook(state.id, ExecAction(("/bin/true",)), "", 1.0)
            for pid in (place.folder / "hanging").read_text().split():
                await until(lambda pid=pid: is_gone(int(pid)))  # type: ignore[misc]
            found = runtime.inspect(state.id)
            assert found is not None
            assert found.phase is ContainerPhase.RUNNING

    asyncio.run(whole())


# ---------------------------------------------------------------- killed in the middle

DAEMON = """
import asyncio, sys
import msgspec
sys.path.insert(0, {root!r})
from edged.config import NodeConfig
from edged.model import Container, ExecAction, Image, Material, Pod
from edged.runtime.pods import PodRuntime
from tests.fakes.boards import StandInNetwork, StandInServices

HOOK = ExecAction(("/bin/true",))
MAIN = Container("main", "x", command=("/bin/sleep", "600"), post_start=HOOK, pre_stop=HOOK)

async def main():
    config = msgspec.convert({config!r}, NodeConfig)
    runtime = PodRuntime(config, StandInNetwork(config.run), StandInServices())
    await runtime.open(lambda name: None)
    image = Image("busybox:test", "sha256:0", ({layer!r},))
    for n in range(1000):
        pod = Pod("default", "app", f"uid-{{n}}", (MAIN,), host_users=False)
        name = f"uid-{{n}}.main.0"
        steps = (
            ("prepare", lambda: runtime.prepare_sandbox(pod, Material())),
            ("start", lambda: runtime.start_container(pod, MAIN, image, Material(), 0, 0)),
            ("post", lambda: runtime.run_hook(name, HOOK, "", 60.0)),
            ("note", lambda: runtime.note_post_started(name)),
            ("stop", lambda: runtime.stop_container(name, "why")),
            ("pre", lambda: runtime.run_hook(name, HOOK, "", 60.0)),
            ("signal", lambda: runtime.signal_container(name)),
            ("end", lambda: runtime.end_pod(pod.uid, "Evicted", "too big")),
            ("kill", lambda: runtime.kill_container(name, "why")),
            ("remove", lambda: runtime.remove_container(name)),
            ("sandbox", lambda: runtime.remove_sandbox(pod.uid)),
        )
        for step, work in steps:
            print(n, step, flush=True)
            await work()

asyncio.run(main())
"""
STEPS = ("prepare", "start", "post", "note", "stop", "pre", "signal", "end", "kill", "remove", "sandbox")


def until_killed_in(code: str, line: str, delay: float) -> None:
    """Let a daemon run until it says this line, and `delay` seconds more."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stderr is not None
            said = iter(daemon.stdout.readline, b"")
            assert line.encode() in said, daemon.stderr.read().decode()
            time.sleep(delay)
        finally:
            daemon.kill()


@pytest.mark.parametrize("delay", [0.0, 0.006])
@pytest.mark.parametrize("step", STEPS)
def test_a_daemon_killed_in_any_step_of_a_pods_life_leaves_what_the_next_one_can_end(step: str, delay: float) -> None:
    async def scenario(it: Node) -> None:
        await it.runtime.close()
        code = DAEMON.format(
            root=os.fspath(Path(__file__).parents[2]),
            config=msgspec.to_builtins(it.place.config),
            layer=it.place.image.layers[0],
        )
        await asyncio.to_thread(until_killed_in, code, f"1 {step}\n", delay)
        await it.restart()
        for state in it.runtime.observe()[1]:
            hook = ExecAction(("/bin/true",))
            await it.runtime.note_post_started(state.id)
            await it.runtime.stop_container(state.id, "why")
            with contextlib.suppress(EdgedError):  # it may not run
                await it.runtime.run_hook(state.id, hook, "", 60.0)
            await it.runtime.signal_container(state.id)
            await it.runtime.kill_container(state.id, "why")
            await it.runtime.remove_container(state.id)
        for sandbox in it.runtime.observe()[0]:
            await it.runtime.end_pod(sandbox.pod_uid, "Evicted", "too big")
            assert [s.evicted for s in it.runtime.observe()[0] if s.pod_uid == sandbox.pod_uid] == ["Evicted"]
            await it.runtime.remove_sandbox(sandbox.pod_uid)
        assert it.runtime.observe() == ((), ())

    run(scenario)


def test_a_pod_whose_sandbox_was_cut_off_half_made_can_be_ended_for_good() -> None:
    async def scenario(it: Node) -> None:
        (it.place.config.run / "pods" / "uid-1").mkdir()
        await it.runtime.end_pod("uid-1", "Evicted", "too big")
        (sandbox,) = it.runtime.observe()[0]
        assert (sandbox.evicted, sandbox.evicted_message) == ("Evicted", "too big")
        await it.restart()
        assert it.runtime.observe()[0] == (sandbox,)

    run(scenario)


def test_nothing_is_left_where_run_dir_is_a_folder_of_a_larger_memory_file_system() -> None:
    memory = Path("/dev/shm", f"edged-{uuid.uuid4().hex}")

    async def whole() -> None:
        async with corner() as place:
            place.config = replace(place.config, run_dir=os.fspath(memory))
            runtime = PodRuntime(place.config, StandInNetwork(place.config.run), StandInServices())
            await runtime.open(lambda name: None)
            pod = Pod("default", "app", "uid-1", (Container("main", "i", command=("/bin/sleep", "600")),))
            await runtime.prepare_sandbox(pod, Material())
            await runtime.start_container(pod, pod.containers[0], place.image, Material(), 0, 0)
            await runtime.close()
            await runtime.teardown()
            assert list(memory.iterdir()) == []

    try:
        asyncio.run(whole())
    finally:
        shutil.rmtree(memory, ignore_errors=True)


def test_the_pods_own_files_and_the_message_are_seen_inside_its_volumes() -> None:
    async def scenario(it: Node) -> None:
        volumes = (Volume("etc", EmptyDir()), Volume("out", EmptyDir()))
        state = await it.start(
            "/bin/sh",
            "-c",
            "cat /etc/hostname; ls /etc; echo bye > /out/message",
            mounts=(Mount("etc", "/etc"), Mount("out", "/out")),
            termination_message_path="/out/message",
            pod={"volumes": volumes},
        )
        assert (await it.ended(state)).message == "bye\n"
        assert it.log(state).splitlines() == ["app", "hostname", "hosts", "resolv.conf"]

    run(scenario)
