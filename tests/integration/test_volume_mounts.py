"""Volumes in running containers: what follows the desired state, what travels, who owns what."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged.config import PolicyConfig
from edged.errors import PermanentError, RetryError
from edged.model import (
    ClaimFiles,
    ConfigFiles,
    Container,
    DownwardFiles,
    DownwardItem,
    EmptyDir,
    Env,
    HostPath,
    Limits,
    Material,
    Mount,
    NfsMount,
    Pod,
    Projected,
    Propagation,
    SecretFiles,
    Security,
    Volume,
)
from edged.runtime import loops, mounts, nfs, process
from edged.runtime.pods import PodRuntime
from edged.runtime.volumes.owner import give_to_group
from tests.fakes.boards import Corner, StandInNetwork, StandInServices, corner

pytestmark = pytest.mark.root
WAIT = 30.0
SLEEP = ("/bin/sleep", "600")


def run(scenario: Callable[[Corner, PodRuntime], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(120), corner() as place:
            config = msgspec.structs.replace(place.config, policy=PolicyConfig(privileged=True))
            runtime = PodRuntime(config, StandInNetwork(config.run), StandInServices())
            await runtime.open(lambda name: None)
            try:
                await scenario(place, runtime)
            finally:
                await runtime.close()

    asyncio.run(whole())


def pod_of(*volumes: Volume, mounts: tuple[Mount, ...], **options: Any) -> Pod:
    container = {k: options.pop(k) for k in ("env", "security", "limits") if k in options}
    main = Container("main", "busybox:test", command=options.pop("command", SLEEP), mounts=mounts, **container)
    return Pod("default", "app", "uid-1", (main,), volumes=volumes, **options)


async def start(place: Corner, runtime: PodRuntime, pod: Pod, material: Material | None = None) -> None:
    material = material or Material()
    await runtime.prepare_sandbox(pod, material)
    await runtime.start_container(pod, pod.containers[0], place.image, material, 0, 0)


async def inside(runtime: PodRuntime, command: str) -> str:
    done = await runtime._containers.exec("uid-1.main.0", ("sh", "-c", command), WAIT)
    return (done.stdout + done.stderr).decode().strip()


# ---------------------------------------------------------------- live updates


def material(text: bytes, digest: str) -> Material:
    return Material({"app": {"conf": text}}, {"key": {"token": text}}, digest=digest)


PROJECTED = Projected(
    (ConfigFiles("app"), SecretFiles("key"), DownwardFiles((DownwardItem("v", "metadata.labels['v']"),)))
)


def test_a_running_pod_sees_new_content_of_all_sources_at_once_and_the_sandbox_says_which() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("all", PROJECTED), mounts=(Mount("all", "/all"),), labels={"v": "1"})
        await start(place, runtime, pod, material(b"one", "first"))
        assert await inside(runtime, "cat /all/conf /all/token /all/v") == "oneone1"
        assert runtime.observe()[0][0].material == "first"
        await runtime.refresh_volumes(msgspec.structs.replace(pod, labels={"v": "2"}), material(b"two", "second"))
        assert await inside(runtime, "cat /all/conf /all/token /all/v") == "twotwo2"
        assert runtime.observe()[0][0].material == "second"
        again = PodRuntime(runtime._config, StandInNetwork(place.config.run), StandInServices())
        assert again.observe()[0][0].material == "second"

    run(scenario)


def test_a_file_that_is_mounted_alone_keeps_its_content_as_in_kubernetes() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(
            Volume("cfg", ConfigFiles("app")), mounts=(Mount("cfg", "/cfg"), Mount("cfg", "/alone", sub_path="conf"))
        )
        await start(place, runtime, pod, material(b"one", "1"))
        await runtime.refresh_volumes(pod, material(b"two", "2"))
        assert await inside(runtime, "cat /cfg/conf /alone") == "twoone"

    run(scenario)


def test_a_config_that_is_gone_leaves_what_was_there_and_the_other_volumes_go_on() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(
            Volume("cfg", ConfigFiles("app")),
            Volume("key", SecretFiles("key")),
            mounts=(Mount("cfg", "/cfg"), Mount("key", "/key")),
        )
        await start(place, runtime, pod, material(b"one", "1"))
        with pytest.raises(RetryError, match="config map default/app does not exist"):
            await runtime.refresh_volumes(pod, Material({}, {"key": {"token": b"two"}}, digest="2"))
        assert await inside(runtime, "cat /cfg/conf /key/token") == "onetwo"
        assert runtime.observe()[0][0].material == "1"  # so it is tried again

    run(scenario)


# ---------------------------------------------------------------- owners


def test_volumes_belong_to_the_pods_group_and_others_of_it_may_write() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        volumes = [
            Volume("disk", EmptyDir()),
            Volume("mem", EmptyDir(memory=True)),
            Volume("cfg", ConfigFiles("app", mode=0o400)),
        ]
        if loops.usable():
            volumes.append(Volume("claim", ClaimFiles("db", "claim-1", 16 << 20)))
        writable = [v.name for v in volumes if not isinstance(v.source, ConfigFiles)]
        script = [f"mkdir /{name}/sub; echo x > /{name}/sub/file" for name in writable]
        pod = pod_of(
            *volumes,
            mounts=tuple(Mount(v.name, f"/{v.name}") for v in volumes),
            security=Security(user=1000, group=1000),
            command=("sh", "-c", f"{'; '.join(script)}; cat /cfg/conf > /disk/done; exec sleep 600"),
            fs_group=4242,
        )
        await start(place, runtime, pod, material(b"one", "1"))
        await until_there(runtime, "/disk/done")
        assert "-r--r-----" in await inside(runtime, "ls -lLn /cfg/conf")
        for name in writable:
            told = await inside(runtime, f"ls -ln /{name}/sub/file")
            assert told.split()[2:4] == ["1000", "4242"], told

    run(scenario)


async def until_there(runtime: PodRuntime, path: str) -> None:
    while "No such file" in await inside(runtime, f"ls {path}"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def owned(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for below, folders, files in os.walk(folder):
        for name in (*folders, *files):
            told = Path(below, name).lstat()
            found[os.path.relpath(Path(below, name), folder)] = (told.st_gid, told.st_mode & 0o7777)
    return found


def test_a_volume_is_given_to_a_group_by_kubernetes_rules_and_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "v/sub").mkdir(parents=True)
    (tmp_path / "v/sub").chmod(0o700)
    (tmp_path / "v/sub/file").write_text("x")
    (tmp_path / "v/sub/file").chmod(0o600)
    (tmp_path / "outside").write_text("x")
    (tmp_path / "outside").chmod(0o600)
    (tmp_path / "v/link").symlink_to(tmp_path / "outside")
    asyncio.run(give_to_group(tmp_path / "v", 4242, always=True))
    after = owned(tmp_path / "v")
    assert after["sub"] == (4242, 0o2770)
    assert after["sub/file"] == (4242, 0o660)
    assert after["link"][0] == 4242
    told = (tmp_path / "outside").stat()
    assert (told.st_gid, told.st_mode & 0o7777) == (0, 0o600)
    assert (tmp_path / "v").stat().st_mode & 0o2770 == 0o2770


def test_a_volume_whose_top_is_the_groups_already_is_left_alone_unless_always_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    asyncio.run(give_to_group(tmp_path / "v", 4242, always=False))
    (tmp_path / "v/later").write_text("x")
    os.chown(tmp_path / "v/later", 0, 0)
    asyncio.run(give_to_group(tmp_path / "v", 4242, always=False))
    assert (tmp_path / "v/later").stat().st_gid == 0
    asyncio.run(give_to_group(tmp_path / "v", 4242, always=True))
    assert (tmp_path / "v/later").stat().st_gid == 4242
    asyncio.run(give_to_group(tmp_path / "v", 4243, always=False))
    assert (tmp_path / "v/later").stat().st_gid == 4243


def test_giving_a_large_volume_away_leaves_the_loop_free_and_can_be_cancelled(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / str(number)).touch()

    async def scenario() -> None:
        task = asyncio.create_task(give_to_group(tmp_path, 4242, always=True))
        await asyncio.sleep(0)  # its first piece
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert tmp_path.stat().st_gid != 4242  # the top comes last, so it is done again
    asyncio.run(give_to_group(tmp_path, 4242, always=False))
    assert {gid for gid, _ in owned(tmp_path).values()} == {4242}


# ---------------------------------------------------------------- memory


def test_an_empty_dir_in_memory_is_no_larger_than_what_the_pod_may_use() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(
            Volume("mem", EmptyDir(memory=True, size_limit=1 << 30)),
            mounts=(Mount("mem", "/mem"),),
            limits=Limits(memory_limit=32 << 20),
        )
        await start(place, runtime, pod)
        told = os.statvfs(place.config.run / "pods/uid-1/volumes/mem")
        assert told.f_blocks * told.f_frsize == 32 << 20
        before = runtime.usage("uid-1.main.0").memory
        await inside(runtime, "dd if=/dev/zero of=/mem/file bs=1048576 count=8")
        assert runtime.usage("uid-1.main.0").memory >= before + (7 << 20)

    run(scenario)


# ---------------------------------------------------------------- propagation


@asynccontextmanager
async def shared_folder(place: Corner) -> AsyncIterator[Path]:
    """A folder of the host that shares its mounts, as / does under systemd."""
    folder = place.folder / "shared"
    folder.mkdir()
    mounts.mount(os.fspath(folder), os.fspath(folder), "", mounts.MS_BIND)
    mounts.mount("", os.fspath(folder), "", mounts.MS_SHARED)
    try:
        yield folder
    finally:
        mounts.unmount_below(os.fspath(folder))


async def mounted_later(folder: Path) -> None:
    (folder / "later").mkdir(exist_ok=True)
    await process.run(["mount", "-t", "tmpfs", "tmpfs", os.fspath(folder / "later")])
    (folder / "later/file").write_text("came later")


@pytest.mark.parametrize("travels", [Propagation.NONE, Propagation.HOST_TO_CONTAINER])
def test_what_the_host_mounts_later_is_seen_where_the_pod_asks_for_it(travels: Propagation) -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        async with shared_folder(place) as folder:
            pod = pod_of(Volume("h", HostPath(str(folder))), mounts=(Mount("h", "/h", propagation=travels),))
            await start(place, runtime, pod)
            await mounted_later(folder)
            told = await inside(runtime, "cat /h/later/file")
            assert (told == "came later") == (travels is Propagation.HOST_TO_CONTAINER), told
            await runtime.remove_sandbox(pod.uid)

    run(scenario)


def test_what_a_privileged_container_mounts_is_seen_by_the_host_where_both_directions_are_asked_for() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        async with shared_folder(place) as folder:
            mount = Mount("h", "/h", propagation=Propagation.BIDIRECTIONAL)
            volume = Volume("h", HostPath(str(folder)))
            with pytest.raises(PermanentError, match="Bidirectional is for privileged containers only"):
                await start(place, runtime, pod_of(volume, mounts=(mount,)))
            await runtime.remove_sandbox("uid-1")
            pod = pod_of(volume, mounts=(mount,), security=Security(privileged=True))
            await start(place, runtime, pod)
            said = await inside(
                runtime, "mkdir /h/made && mount -t tmpfs tmpfs /h/made && echo from inside > /h/made/x"
            )
            assert (folder / "made/x").read_text() == "from inside\n", said
            await mounted_later(folder)
            assert await inside(runtime, "cat /h/later/file") == "came later"
            await runtime.remove_sandbox(pod.uid)

    run(scenario)


def test_read_only_goes_for_what_is_mounted_below_too() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        if not mounts.can_set_attributes():
            pytest.skip("the kernel has no mount_setattr")
        async with shared_folder(place) as folder:
            await mounted_later(folder)
            pod = pod_of(Volume("h", HostPath(str(folder))), mounts=(Mount("h", "/h", read_only=True),))
            await start(place, runtime, pod)
            assert await inside(runtime, "cat /h/later/file") == "came later"
            assert "Read-only" in await inside(runtime, "echo no > /h/later/file")
            await runtime.remove_sandbox(pod.uid)

    run(scenario)


# ---------------------------------------------------------------- sub paths


def test_a_sub_path_may_name_variables_and_has_the_permissions_of_its_volume() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        where = Mount("data", "/data", sub_path="$(NAME)/logs", expand=True)
        pod = pod_of(
            Volume("data", EmptyDir()),
            mounts=(where,),
            env=(Env("NAME", field="metadata.name"),),
            security=Security(user=1000, group=1000),
            command=("sh", "-c", "echo x > /data/file; exec sleep 600"),
        )
        await start(place, runtime, pod)
        await until_there(runtime, "/data/file")
        assert (place.config.state / "rw/uid-1/volumes/data/app/logs/file").exists()
        await runtime.remove_sandbox(pod.uid)
        for bad, said in (("$(NO)/x", "names variable NO"), ("$(NAME)/../../x", "must be relative and without")):
            pod = pod_of(Volume("data", EmptyDir()), mounts=(Mount("data", "/data", sub_path=bad, expand=True),))
            pod = msgspec.structs.replace(
                pod, containers=(msgspec.structs.replace(pod.containers[0], env=(Env("NAME", "x"),)),)
            )
            with pytest.raises(PermanentError, match=said):
                await start(place, runtime, pod)

    run(scenario)


# ---------------------------------------------------------------- nfs


def test_an_nfs_volume_without_its_helper_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(
        RetryError, match="volume 'x' is an nfs export, and no-such-helper is not here: apt-get install"
    ):
        asyncio.run(nfs.mount("volume 'x'", NfsMount("127.0.0.1", "/export"), tmp_path / "v", "no-such-helper"))


def test_an_nfs_server_that_can_not_be_meant_is_refused(tmp_path: Path) -> None:
    for server, path in (("-o", "/x"), ("a b", "/x"), ("a,b", "/x"), ("", "/x"), ("host", "x")):
        with pytest.raises(PermanentError, match="nfs"):
            asyncio.run(nfs.mount("volume 'x'", NfsMount(server, path), tmp_path / "v"))


def test_the_helper_is_told_server_path_and_options_and_its_words_come_back(tmp_path: Path) -> None:
    """A helper of our own stands in for mount.nfs: it writes down what it is told, and fails."""
    helper = tmp_path / "mount.nfs"
    helper.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\necho "access denied by server" >&2\nexit 32\n')
    helper.chmod(0o755)
    target = tmp_path / "v"
    with pytest.raises(RetryError, match=r"volume 'x' can't be mounted: .* ended with 32: access denied by server"):
        asyncio.run(nfs.mount("volume 'x'", NfsMount("fd00::1", "/export/a", True), target, os.fspath(helper)))
    assert (tmp_path / "told").read_text() == f"[fd00::1]:/export/a {target} -o nosuid,nodev,retry=0,ro\n"


def test_what_a_server_exported_is_unmounted_by_a_child(tmp_path: Path) -> None:
    """Memory stands in for an export: how it is unmounted doesn't depend on what it is."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        mounts.mount("tmpfs", os.fspath(tmp_path / name), "tmpfs")
    asyncio.run(nfs.unmount_below(tmp_path))
    assert len([p for p in mounts.mount_points() if p.path.startswith(f"{tmp_path}/")]) == 2
    asyncio.run(nfs.unmount_below(tmp_path, ("tmpfs",)))
    assert not [p for p in mounts.mount_points() if p.path.startswith(f"{tmp_path}/")]


def test_a_part_of_an_nfs_volume_is_refused_for_nobody_here_may_touch_it() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_of(Volume("n", NfsMount("127.0.0.1", "/x")), mounts=(Mount("n", "/n", sub_path="part"),))
        (place.config.run / "pods/uid-1/volumes/n").mkdir(parents=True)
        with pytest.raises(PermanentError, match=r"subPath 'part' of an nfs volume .* nfs path"):
            runtime._sandboxes.volumes(pod).mounts_of(pod.containers[0], place.folder / "staging")
        shutil.rmtree(place.config.run / "pods/uid-1")

    run(scenario)
