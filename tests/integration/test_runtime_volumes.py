"""Volumes in real containers: what is shared, what is fixed, and that nothing leads out."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from edged.errors import PermanentError, RetryError
from edged.model import (
    ConfigFiles,
    Container,
    ContainerPhase,
    ContainerState,
    EmptyDir,
    HostPath,
    KeyToPath,
    Material,
    Mount,
    Pod,
    SecretFiles,
    ServicePort,
    ServiceRules,
    Volume,
)
from edged.runtime.mounts import mount_points
from edged.runtime.pods import PodRuntime
from tests.fakes.boards import Corner, corner

pytestmark = pytest.mark.root
WAIT = 20.0
SLEEP = ("/bin/sleep", "600")


def run(scenario: Callable[[Corner, PodRuntime], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(60), corner() as place:
            runtime = place.runtime()
            await runtime.open(lambda name: None)
            try:
                await scenario(place, runtime)
            finally:
                await runtime.close()

    asyncio.run(whole())


def pod_of(
    *volumes: Volume,
    mounts: tuple[Mount, ...],
    command: tuple[str, ...] = SLEEP,
    containers: tuple[str, ...] = ("main",),
) -> Pod:
    made = tuple(Container(name, "busybox:test", command=command, mounts=mounts) for name in containers)
    return Pod("default", "app", "uid-1", made, volumes=volumes)


async def start(place: Corner, runtime: PodRuntime, pod: Pod, material: Material | None = None) -> list[ContainerState]:
    material = material or Material()
    await runtime.prepare_sandbox(pod, material)
    return [await runtime.start_container(pod, c, place.image, material, 0, 0) for c in pod.containers]


async def inside(runtime: PodRuntime, *command: str, name: str = "uid-1.main.0") -> str:
    """What a command says in a running container, its errors too."""
    done = await runtime._containers.exec(name, ("sh", "-c", " ".join(command)), WAIT)
    return (done.stdout + done.stderr).decode().strip()


def test_containers_of_a_pod_share_an_empty_dir() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("data", EmptyDir()), mounts=(Mount("data", "/data"),), containers=("one", "two"))
        await start(place, runtime, pod)
        await inside(runtime, "echo hello > /data/file", name="uid-1.one.0")
        assert await inside(runtime, "cat /data/file", name="uid-1.two.0") == "hello"

    run(scenario)


def test_an_empty_dir_in_memory_is_bounded_and_goes_with_its_pod() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("data", EmptyDir(memory=True, size_limit=1 << 20)), mounts=(Mount("data", "/data"),))
        await start(place, runtime, pod)
        assert "No space left" in await inside(runtime, "dd if=/dev/zero of=/data/file bs=1M count=3")
        await runtime.remove_sandbox(pod.uid)
        assert not [p for p in mount_points() if p.path.startswith(f"{place.config.run_dir}/pods")]

    run(scenario)


def test_an_empty_dir_on_disk_outlives_a_power_cut_and_what_a_container_wrote_to_its_root_does_not() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("data", EmptyDir()), mounts=(Mount("data", "/data"),))
        (state,) = await start(place, runtime, pod)
        await inside(runtime, "echo kept > /data/file; echo lost > /lost")
        await power_cut(place, runtime, state)
        again = place.runtime()
        await again.open(lambda name: None)
        (sandbox,), containers = again.observe()
        assert (sandbox.pod_uid, sandbox.pod, sandbox.ready, containers) == (pod.uid, "default/app", False, ())
        assert not (place.config.state / "rw" / pod.uid / "main-0").exists()
        await start(place, again, pod)
        assert await inside(again, "cat /data/file; ls /lost") == "kept\nls: /lost: No such file or directory"
        await again.close()

    run(scenario)


def test_a_pod_that_is_no_longer_wanted_after_a_power_cut_can_be_removed_with_its_volumes() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("data", EmptyDir()), mounts=(Mount("data", "/data"),))
        (state,) = await start(place, runtime, pod)
        await power_cut(place, runtime, state)
        again = place.runtime()
        await again.open(lambda name: None)
        await again.remove_sandbox(pod.uid)
        assert again.observe() == ((), ())
        assert list((place.config.state / "rw").iterdir()) == []
        await again.close()

    run(scenario)


async def power_cut(place: Corner, runtime: PodRuntime, state: ContainerState) -> None:
    """Every process dies and memory is emptied; the disk stays."""
    conmon = int((place.config.run / "pods" / state.pod_uid / "containers/main/0/conmon").read_text())
    os.kill(conmon, 9)
    await runtime.kill_container(state.id, "power cut")
    async with asyncio.timeout(WAIT):
        while (runtime.inspect(state.id) or state).phase is ContainerPhase.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await runtime.close()
    for point in reversed(mount_points()):
        if point.path.startswith(place.config.run_dir):
            os.system(f"umount -l {point.path}")  # noqa: ASYNC221
    shutil.rmtree(place.config.run, ignore_errors=True)  # where it was no mount: /tmp is memory itself on Debian 13


def test_configs_and_secrets_are_files_in_memory_that_change_all_at_once() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(
            Volume("cfg", ConfigFiles("app", items=(KeyToPath("conf", "sub/app.conf", 0o600), KeyToPath("x", "x")))),
            Volume("key", SecretFiles("key", mode=0o400)),
            mounts=(Mount("cfg", "/cfg"), Mount("key", "/key")),
        )
        before = Material({"app": {"conf": b"one", "x": b"1"}}, {"key": {"token": b"s3cret"}})
        await start(place, runtime, pod, before)
        assert await inside(runtime, "cat /cfg/sub/app.conf /cfg/x /key/token") == "one1s3cret"
        assert "r--------" in await inside(runtime, "ls -lL /key/token")
        assert "Read-only" in await inside(runtime, "echo no > /cfg/x")
        home = max((p for p in mount_points() if place.config.run_dir.startswith(p.path)), key=lambda p: len(p.path))
        assert home.fstype == "tmpfs"
        after = Material({"app": {"conf": b"two", "x": b"2"}}, {"key": {"token": b"n3w", "more": b"+"}})
        await runtime.prepare_sandbox(pod, after)
        assert await inside(runtime, "cat /cfg/sub/app.conf /cfg/x /key/token /key/more") == "two2n3w+"
        for file in place.config.state.rglob("*"):
            assert not (file.is_file() and b"s3cret" in file.read_bytes()), file

    run(scenario)


def test_a_missing_key_is_told_with_volume_and_pod() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("cfg", ConfigFiles("app", items=(KeyToPath("x", "x"),))), mounts=(Mount("cfg", "/cfg"),))
        with pytest.raises(
            RetryError, match="config map default/app has no key 'x'; volume 'cfg' of pod default/app refers to it"
        ):
            await runtime.prepare_sandbox(pod, Material({"app": {}}))
        with pytest.raises(RetryError, match="config map default/app does not exist"):
            await runtime.prepare_sandbox(pod, Material())
        await runtime.prepare_sandbox(pod, Material({"app": {"x": b"1"}}))

    run(scenario)


def test_optional_configs_may_be_missing() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("cfg", ConfigFiles("app", optional=True)), mounts=(Mount("cfg", "/cfg"),))
        await start(place, runtime, pod)
        assert await inside(runtime, "ls /cfg") == ""

    run(scenario)


def test_a_host_path_must_be_there_unless_it_may_be_made() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        folder = place.folder / "host"
        with pytest.raises(RetryError, match=r"hostPath .*/host can't be used: No such file or directory; make it"):
            await runtime.prepare_sandbox(pod_of(Volume("h", HostPath(str(folder))), mounts=()), Material())
        with pytest.raises(PermanentError, match="must be absolute"):
            await runtime.prepare_sandbox(pod_of(Volume("h", HostPath("/tmp/../etc")), mounts=()), Material())
        pod = pod_of(Volume("h", HostPath(str(folder), "DirectoryOrCreate")), mounts=(Mount("h", "/host"),))
        await start(place, runtime, pod)
        await inside(runtime, "echo out > /host/file")
        assert (folder / "file").read_text() == "out\n"
        await runtime.remove_sandbox(pod.uid)
        assert (folder / "file").exists()

    run(scenario)


def test_a_sub_path_shows_one_part_and_links_can_not_lead_out() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        folder = place.folder / "host"
        (folder / "real").mkdir(parents=True)
        (folder / "real" / "file").write_text("inside")
        (folder / "alias").symlink_to("real")
        (folder / "escape").symlink_to("/etc")
        volume = Volume("h", HostPath(str(folder)))
        mounts = (
            Mount("h", "/one", sub_path="alias"),
            Mount("h", "/two/file", sub_path="real/file"),
            Mount("h", "/new", sub_path="made/here"),
        )
        pod = pod_of(volume, mounts=mounts)
        await start(place, runtime, pod)
        assert await inside(runtime, "cat /one/file /two/file; touch /new/x") == "insideinside"
        assert (folder / "made" / "here" / "x").exists()
        await runtime.remove_sandbox(pod.uid)
        for bad, error in (
            ("escape", RetryError),
            ("escape/passwd", RetryError),
            ("../x", PermanentError),
            ("/etc", PermanentError),
        ):
            pod = pod_of(volume, mounts=(Mount("h", "/bad", sub_path=bad),))
            with pytest.raises(error, match="subPath"):
                await start(place, runtime, pod)

    run(scenario)


def test_a_key_of_a_config_can_be_mounted_alone() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("cfg", ConfigFiles("app")), mounts=(Mount("cfg", "/etc/app.conf", sub_path="app.conf"),))
        await start(place, runtime, pod, Material({"app": {"app.conf": b"alone"}}))
        said = await inside(runtime, "cat /etc/app.conf; ls /etc")
        assert said.startswith("alone")
        assert "passwd" in said

    run(scenario)


def test_a_mount_can_not_hide_what_the_container_needs() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        for path in ("/", "/proc", "/dev/", "/sys", "relative", "/a/../b"):
            pod = pod_of(Volume("data", EmptyDir()), mounts=(Mount("data", path),))
            with pytest.raises(PermanentError, match="mountPath of volume 'data' in container 'main'"):
                await start(place, runtime, pod)

    run(scenario)


def test_names_are_served_by_the_pods_own_files_which_follow_the_services() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        await start(place, runtime, pod_of(mounts=()))
        assert "127.0.0.1\tapp" in await inside(runtime, "cat /etc/hosts")
        assert "Read-only" in await inside(runtime, "echo x >> /etc/hosts")
        await runtime.sync_services([ServiceRules("default", "web", "10.96.0.1", (ServicePort(80, 80),))])
        assert await inside(runtime, "cat /etc/resolv.conf") == (
            "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 127.0.0.53\noptions ndots:5"
        )
        await runtime.sync_services([])
        assert "cluster.local" not in await inside(runtime, "cat /etc/resolv.conf")

    run(scenario)


def test_large_leftovers_of_a_container_are_removed() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        (state,) = await start(place, runtime, pod_of(mounts=()))
        await inside(runtime, "i=0; while [ $i -lt 500 ]; do echo $i > /tmp/$i; i=$((i+1)); done")
        assert len(list((place.config.state / "rw/uid-1/main-0/upper/tmp").iterdir())) == 500
        await runtime.remove_container(state.id)
        assert not (place.config.state / "rw" / "uid-1").exists()

    run(scenario)


def test_folders_with_secrets_are_closed_to_the_machines_users() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        await start(place, runtime, pod_of(mounts=()))
        closed: list[Path] = [place.config.run / "pods" / "uid-1", place.config.run / "logs", place.config.state / "rw"]
        assert [oct(p.stat().st_mode & 0o777) for p in closed] == ["0o700"] * 3

    run(scenario)
