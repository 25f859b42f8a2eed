"""Containers on this machine: limits, users, walls, logs, and every process killed in turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from edged.errors import EdgedError, RetryError
from edged.model import (
    Container,
    ContainerPhase,
    ContainerState,
    Env,
    EnvFrom,
    ExecAction,
    Limits,
    Material,
    Pod,
    Probe,
)
from edged.runtime import process
from edged.runtime.api import Verdict
from edged.runtime.mounts import become_subreaper
from tests.fakes.boards import CGROUPS
from tests.runtime_lab import Node, run, until

pytestmark = pytest.mark.root


# ---------------------------------------------------------------- what a container sees


def test_environment_and_arguments_follow_the_manifest() -> None:
    async def scenario(it: Node) -> None:
        material = Material(configs={"app": {"MODE": b"dry", "UNIT": b"celsius"}}, secrets={"key": {"token": b"s3"}})
        said = await it.output(
            "/bin/sh",
            "-c",
            "echo $0 $GREETING $APP_UNIT $TOKEN $HOSTNAME $IMAGE; pwd; cat /etc/hostname",
            args=("$(GREETING)-$(NOBODY)-$$(GREETING)",),
            env=(Env("NAME", "world"), Env("GREETING", "hello-$(NAME)"), Env("TOKEN", secret="key", key="token")),
            env_from=(EnvFrom(config="app", prefix="APP_"),),
            working_dir="/tmp",
            image=replace(it.place.image, env=("IMAGE=yes",)),
            material=material,
        )
        assert said.splitlines() == [
            "hello-world-$(NOBODY)-$(GREETING) hello-world celsius s3 app yes",
            "/tmp",
            "app",
        ]

    run(scenario)


def test_an_image_user_is_looked_up_in_the_image_itself() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output("/bin/id", image=replace(it.place.image, user="app"))
        assert "uid=1000(app) gid=1001" in said
        assert "1002(web)" in said

    run(scenario)


def test_a_container_can_write_to_its_root_but_not_to_its_image_or_to_the_kernel() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output(
            "/bin/sh",
            "-c",
            "echo x > /written && cat /written; echo 1 > /proc/sys/kernel/hostname; mount -t tmpfs x /tmp;"
            " cat /proc/kcore; touch /sys/x; echo done",
        )
        assert said.startswith("x\n")
        assert "done" in said.splitlines()
        assert "can't create /proc/sys/kernel/hostname: Read-only file system" in said
        assert "mount: permission denied" in said
        assert "/sys/x" in said
        assert not (Path(it.place.image.layers[0]) / "written").exists()

    run(scenario)


def test_seccomp_and_no_new_privileges_hold() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output("/bin/cat", "/proc/self/status")
        status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert int(status["CapEff"], 16) == int("00000000a80425fb", 16)  # Docker's well-known default

    run(scenario)


def test_limits_reach_the_kernel() -> None:
    async def scenario(it: Node) -> None:
        limits = Limits(memory_limit=32 << 20, cpu_request=250, cpu_limit=500, pids_limit=50)
        state = await it.start("/bin/sleep", "600", limits=limits)
        path = f"{it.place.config.cgroup_parent}/uid-1/main-0"

        def read(controller: str, v1: str, v2: str) -> str:
            unified = CGROUPS / path / v2
            return (unified if unified.exists() else CGROUPS / controller / path / v1).read_text().strip()

        assert read("memory", "memory.limit_in_bytes", "memory.max") == str(32 << 20)
        assert read("pids", "pids.max", "pids.max") == "50"
        assert read("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
        assert it.runtime.usage(state.id).memory_limit == 32 << 20

    run(scenario)


def test_running_out_of_memory_is_told_as_such() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start(
            "/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1000", limits=Limits(memory_limit=8 << 20)
        )
        ended = await it.ended(state)
        assert (ended.phase, ended.exit_code, ended.oom_killed) == (ContainerPhase.EXITED, 137, True)

    run(scenario)


def test_a_missing_command_is_told_and_leaves_nothing_behind() -> None:
    async def scenario(it: Node) -> None:
        with pytest.raises(RetryError, match="no-such-command"):
            await it.start("no-such-command")
        assert it.runtime.observe()[1] == ()
        assert list((it.place.config.state / "rw").glob("*/main-0")) == []
        assert (await it.start("/bin/sleep", "600")).phase is ContainerPhase.RUNNING

    run(scenario)


def test_a_command_that_ends_at_once_is_seen_as_ended() -> None:
    async def scenario(it: Node) -> None:
        state = await it.ended(await it.start("/bin/sh", "-c", "exit 3"))
        assert (state.phase, state.exit_code) == (ContainerPhase.EXITED, 3)

    run(scenario)


def test_more_layers_than_fit_into_one_mount_are_refused_and_fifty_are_fine() -> None:
    async def scenario(it: Node) -> None:
        base = it.place.folder / "layers"
        names = [base / f"{n:032x}" for n in range(50)]
        for name in names:
            name.mkdir(parents=True)
            (name / name.name).touch()
        image = replace(it.place.image, layers=(*it.place.image.layers, *map(os.fspath, names)))
        same_folder = base / "busybox"
        Path(it.place.image.layers[0]).rename(same_folder)
        image = replace(image, layers=(os.fspath(same_folder), *map(os.fspath, names)))
        assert len([n for n in (await it.output("/bin/ls", "/", image=image)).splitlines() if len(n) == 32]) == 50
        many = tuple(os.fspath(base / f"{n:032x}") for n in range(200))
        pod = Pod("default", "many", "uid-2", (Container("main", "x", command=("/bin/ls",)),))
        await it.runtime.prepare_sandbox(pod, Material())
        with pytest.raises(EdgedError, match="too many for one mount"):
            await it.runtime.start_container(pod, pod.containers[0], replace(image, layers=many), Material(), 0, 0)

    run(scenario)


# ---------------------------------------------------------------- logs


def test_output_is_kept_in_cri_form() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", "echo out; echo err >&2")
        await it.ended(state)
        lines = it.runtime.log_file(state.id).read_text().splitlines()
        assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F err", "stdout F out"]

    run(scenario)


COUNT = "i=0; while [ $i -lt {} ]; do echo $i; i=$((i+1)); done; echo end"


def kept(it: Node, state: ContainerState) -> int:
    """Bytes of memory that the container's log takes."""
    files = (f.stat() for f in it.runtime.log_file(state.id).parent.iterdir())
    return sum({f.st_ino: f.st_size for f in files}.values())


def test_a_chatty_container_can_not_fill_the_memory() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", COUNT.format(40000))
        await it.ended(state)
        # a third half is there from conmon's turn of the log until the keeper has heard of it
        await until(lambda: kept(it, state) <= it.place.config.log_bytes)
        assert it.log(state).endswith("end")

    run(scenario)


def test_what_was_said_last_is_kept_although_the_log_began_anew() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", COUNT.format(3500))  # more than half a log, less than a whole one
        await it.ended(state)
        log = it.runtime.log_file(state.id)
        lines = log.with_name(f"{log.name}.1").read_text().splitlines() + log.read_text().splitlines()
        text = "".join(t + ("\n" if kind == "F" else "") for _, _, kind, t in (line.split(" ", 3) for line in lines))
        assert text.splitlines() == [*map(str, range(3500)), "end"]

    run(scenario)


def test_an_orphan_can_not_fill_the_memory_either() -> None:
    async def scenario(it: Node) -> None:
        waiting = "trap 'go=1' USR1; echo ready; while [ -z \"$go\" ]; do sleep 0.02; done; "
        state = await it.start("/bin/sh", "-c", waiting + COUNT.format(20000))
        await until(lambda: "ready" in it.log(state))
        os.kill(it.conmon(state), signal.SIGKILL)
        await it.exits.get()
        os.kill(state.pid, signal.SIGUSR1)
        await it.ended(state)
        await until(lambda: it.log(state).endswith("end"))  # its last words are read after its end is seen
        assert kept(it, state) <= it.place.config.log_bytes

    run(scenario)


# ---------------------------------------------------------------- everything killed in turn


def test_a_talking_container_survives_its_monitor_and_is_still_heard() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", "while :; do echo tick; sleep 0.02; done")
        await until(lambda: "tick" in it.log(state))
        os.kill(it.conmon(state), signal.SIGKILL)
        assert await it.exits.get() == state.id
        heard = it.log(state).count("tick")
        await until(lambda: it.log(state).count("tick") > heard + 5)
        now = it.runtime.inspect(state.id)
        assert now is not None
        assert (now.phase, now.pid, now.monitored) == (ContainerPhase.RUNNING, state.pid, False)

    run(scenario)


def test_the_exit_code_is_known_although_the_monitor_was_killed() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.02; done")
        await until(lambda: "ready" in it.log(state))
        os.kill(it.conmon(state), signal.SIGKILL)
        await it.exits.get()
        os.kill(state.pid, signal.SIGUSR1)
        assert await it.exits.get() == state.id
        ended = it.runtime.inspect(state.id)
        assert ended is not None
        assert (ended.phase, ended.exit_code) == (ContainerPhase.EXITED, 5)

    run(scenario)


def test_a_daemon_that_returns_to_a_container_without_monitor_takes_it_as_it_is() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", "trap 'echo again' USR1; echo ready; while :; do sleep 0.02; done")
        await until(lambda: "ready" in it.log(state))
        await it.runtime.close()
        os.kill(it.conmon(state), signal.SIGKILL)
        await it.restart()
        await until(lambda: not (it.runtime.inspect(state.id) or state).monitored)
        now = it.runtime.inspect(state.id)
        assert now is not None
        assert (now.phase, now.pid) == (ContainerPhase.RUNNING, state.pid)
        os.kill(state.pid, signal.SIGUSR1)
        await until(lambda: it.log(state).endswith("again"))

    run(scenario)


def test_an_end_while_no_daemon_runs_is_told_by_the_next_one() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sh", "-c", "trap 'exit 4' USR1; echo ready; while :; do sleep 0.02; done")
        await until(lambda: "ready" in it.log(state))
        conmon = it.conmon(state)
        await it.runtime.close()
        os.kill(state.pid, signal.SIGUSR1)
        await until(lambda: b"conmon" not in Path(f"/proc/{conmon}/cmdline").read_bytes())
        await it.restart()
        ended = it.runtime.inspect(state.id)
        assert ended is not None
        assert (ended.phase, ended.exit_code) == (ContainerPhase.EXITED, 4)
        assert ended == it.runtime.inspect(state.id)

    run(scenario)


def test_an_end_that_nobody_saw_is_told_once_and_stays_so() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sleep", "600")
        conmon = it.conmon(state)
        await it.runtime.close()
        os.kill(conmon, signal.SIGKILL)
        await until(lambda: is_zombie(conmon))
        os.kill(state.pid, signal.SIGKILL)
        await until(lambda: is_zombie(state.pid))
        await it.restart()
        ended = it.runtime.inspect(state.id)
        assert ended is not None
        assert (ended.phase, ended.exit_code) == (ContainerPhase.UNKNOWN, None)
        assert it.runtime.inspect(state.id) == ended

    run(scenario)


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


ENDED = (ContainerPhase.EXITED, ContainerPhase.UNKNOWN)


def phase(it: Node, name: str) -> ContainerPhase | None:
    state = it.runtime.inspect(name)
    return state.phase if state is not None else None


DAEMON = """
import asyncio, sys
import msgspec
sys.path.insert(0, {root!r})
from edged.config import NodeConfig
from edged.model import Container, Image, Material, Pod
from edged.runtime.pods import PodRuntime
from tests.fakes.boards import StandInNetwork, StandInServices

async def main():
    config = msgspec.convert({config!r}, NodeConfig)
    runtime = PodRuntime(config, StandInNetwork(config.run), StandInServices())
    await runtime.open(lambda name: None)
    image = Image("busybox:test", "sha256:0", ({layer!r},))
    for n in range(1000):
        pod = Pod("default", "app", f"uid-{{n}}", (Container("main", "x", command=("/bin/sleep", "600")),))
        print(n, flush=True)
        await runtime.prepare_sandbox(pod, Material())
        await runtime.start_container(pod, pod.containers[0], image, Material(), 0, 0)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", range(9))
def test_a_daemon_killed_in_the_middle_of_starts_leaves_only_what_can_be_told_and_removed(moment: int) -> None:
    async def scenario(it: Node) -> None:
        await it.runtime.close()
        root = Path(__file__).parents[2]
        config = msgspec.to_builtins(it.place.config)
        code = DAEMON.format(root=os.fspath(root), config=config, layer=it.place.image.layers[0])
        daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        assert daemon.stdout is not None
        for _ in range(3):
            assert await asyncio.to_thread(daemon.stdout.readline)
        await asyncio.sleep(0.004 * moment)
        daemon.kill()
        await asyncio.to_thread(daemon.wait)
        daemon.stdout.close()
        await it.restart()
        states = {s.pod_uid: s for s in it.runtime.observe()[1]}
        assert [states[u].phase for u in ("uid-0", "uid-1")] == [ContainerPhase.RUNNING] * 2
        for state in states.values():
            if state.phase is ContainerPhase.STARTING:
                await it.runtime.kill_container(state.id, "half made")
                await until(lambda name=state.id: phase(it, name) in ENDED)  # type: ignore[misc]
        pod = Pod("default", "app", "uid-2", (Container("main", "x", command=("/bin/sleep", "600")),))
        await it.runtime.prepare_sandbox(pod, Material())
        again = await it.runtime.start_container(pod, pod.containers[0], it.place.image, Material(), 1, 0)
        assert again.phase is ContainerPhase.RUNNING
        for sandbox in it.runtime.observe()[0]:
            await it.runtime.remove_sandbox(sandbox.pod_uid)
        assert it.runtime.observe() == ((), ())

    run(scenario)


def test_processes_whose_records_were_lost_are_ended_before_anything_is_started() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sleep", "600")
        await it.runtime.close()
        shutil.rmtree(it.place.config.run / "pods")
        await it.restart()
        await until(lambda: is_zombie(state.pid))
        assert it.runtime.observe()[1] == ()

    run(scenario)


# ---------------------------------------------------------------- exec


def test_a_late_probe_command_is_killed() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sleep", "600")
        result = await it.runtime.probe(state.id, Probe(ExecAction(("sleep", "601")), timeout=0.3), "")
        assert result.verdict is Verdict.FAILURE
        assert "took longer than 0.3 s" in result.message
        await until(lambda: it.runtime.usage(state.id).pids == 1)

    run(scenario)


def test_the_bundle_says_what_was_asked() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start("/bin/sleep", "600")
        config = json.loads((it.folder(state) / "config.json").read_text())
        assert config["process"]["args"] == ["/bin/sleep", "600"]
        assert {"path": f"{it.place.config.run_dir}/netns/uid-1", "type": "network"} in config["linux"]["namespaces"]

    run(scenario)


def test_hundreds_of_lives_leave_no_descriptor_and_no_zombie() -> None:
    async def scenario(it: Node) -> None:
        pod = Pod("default", "app", "uid-1", (Container("main", "x", command=("/bin/true",)),))
        await it.runtime.prepare_sandbox(pod, Material())

        async def live(attempt: int) -> None:
            state = await it.runtime.start_container(pod, pod.containers[0], it.place.image, Material(), attempt, 0)
            await it.ended(state)
            await it.runtime.remove_container(state.id)

        await live(0)
        before, dead = len(os.listdir("/proc/self/fd")), zombies()  # noqa: PTH208
        for attempt in range(1, 20):
            await live(attempt)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before and zombies() <= dead)  # noqa: PTH208

    run(scenario)


def test_a_command_that_ended_just_before_its_starter_was_killed_is_reaped() -> None:
    """As with a probe that took too long: unreaped, it would keep its container from ending."""
    become_subreaper()

    async def scenario() -> None:
        starter = process.start(["sh", "-c", "true & exec sleep 1d"])
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
        await until(lambda: any(is_zombie(int(c)) for c in children.read_text().split()))
        [ended] = map(int, children.read_text().split())
        starter.abandon()
        process.reap_orphan(ended)
        await until(lambda: not Path(f"/proc/{ended}").exists())

    asyncio.run(scenario())


def zombies() -> set[int]:
    """Children of ours that nobody has reaped; this process adopts the orphans of all its tests."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(c) for c in children if is_zombie(int(c))}


def test_twenty_pods_start_at_once() -> None:
    async def scenario(it: Node) -> None:
        async def one(n: int) -> ContainerState:
            pod = Pod("default", f"app-{n}", f"uid-{n}", (Container("main", "x", command=("/bin/sleep", "600")),))
            await it.runtime.prepare_sandbox(pod, Material())
            return await it.runtime.start_container(pod, pod.containers[0], it.place.image, Material(), 0, 0)

        states = await asyncio.gather(*map(one, range(20)))
        assert {s.phase for s in states} == {ContainerPhase.RUNNING}
        for state in states:
            await it.runtime.kill_container(state.id, "enough")
        told = {await it.exits.get() for _ in states}
        assert told == {s.id for s in states}

    run(scenario)
