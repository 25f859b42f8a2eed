"""Pods with users of their own (hostUsers: false): root inside, nobody outside, and files that stay whose they are."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from edged.config import UsersConfig
from edged.errors import PermanentError, RetryError
from edged.model import ConfigFiles, Container, EmptyDir, Env, HostPath, Material, Mount, Pod, Security, Volume
from edged.runtime import userns
from tests.runtime_lab import Node, run

pytestmark = pytest.mark.root
FIRST = UsersConfig().first
OWN_USERS = {"host_users": False}


def has_id_mapped_layers() -> bool:
    return userns.kernel_release(os.uname().release) >= userns.MEMORY_SINCE


def test_root_inside_is_nobody_outside() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start(
            "/bin/sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/gid_map; exec sleep 600", pod=OWN_USERS
        )
        await it.says(state, "65536\n")
        said = it.log(state).split()
        assert said[0] == "0"
        assert said[1:4] == ["0", str(FIRST), "65536"]
        assert Path(f"/proc/{state.pid}").stat().st_uid == FIRST
        await it.runtime.remove_container(state.id)

    run(scenario)


def test_files_of_the_image_and_of_volumes_are_roots_inside_and_unchanged_outside() -> None:
    async def scenario(it: Node) -> None:
        outside = it.place.folder / "data"
        outside.mkdir()
        (outside / "old").write_text("old")
        os.chown(outside, 1000, 1000)
        os.chown(outside / "old", 1000, 1000)
        said = await it.output(
            "/bin/sh",
            "-c",
            "echo x > /etc/new && echo y >> /etc/passwd && echo root; cd /d && echo d > f && ls -lan f;"
            " cat /c/k && ls -lan /c/..data/k; ls -lan /h/old; touch /m/f /s/f && echo written",
            material=Material(configs={"c": {"k": b"value\n"}}),
            mounts=(
                Mount("d", "/d"),
                Mount("m", "/m"),
                Mount("c", "/c"),
                Mount("h", "/h"),
                Mount("d", "/s", sub_path="a/b"),
            ),
            pod={
                **OWN_USERS,
                "fs_group": 1234,
                "volumes": (
                    Volume("d", EmptyDir()),
                    Volume("m", EmptyDir(memory=True)),
                    Volume("c", ConfigFiles("c")),
                    Volume("h", HostPath(os.fspath(outside))),
                ),
            },
        )
        lines = [line.split() for line in said.splitlines()]
        assert lines[0] == ["root"]
        assert lines[1][2:4] == ["0", "1234"]  # the pod's fs_group, by the folder's set-gid bit
        assert lines[2] == ["value"]
        assert lines[3][2] == "0"
        assert lines[4][2:4] == ["1000", "1000"]
        assert lines[5] == ["written"]
        on_disk = it.place.config.state / "rw" / "uid-1"
        assert ((on_disk / "volumes/d/f").stat().st_uid, (on_disk / "volumes/d/f").stat().st_gid) == (0, 1234)
        assert (on_disk / "main-0/upper/etc/new").stat().st_uid == FIRST
        assert (Path(it.place.image.layers[0]) / "etc/passwd").stat().st_uid == 0

    if not has_id_mapped_layers():
        pytest.skip("id-mapped memory needs Linux 6.3")
    run(scenario)


def test_it_sees_its_own_network_and_cgroup_and_can_not_touch_the_kernel() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output(
            "/bin/sh",
            "-c",
            "exec 2>&1; ls /sys/class/net; ls /sys/fs/cgroup | grep -q . && echo cgroup; touch /sys/kernel/profiling;"
            " mount -t tmpfs x /tmp; echo 1 > /proc/sys/kernel/panic",
            image=replace(it.place.image, user="0"),
            pod=OWN_USERS,
        )
        assert said.splitlines() == [
            "lo",
            "cgroup",
            "touch: /sys/kernel/profiling: Read-only file system",
            "mount: permission denied (are you root?)",
            "/bin/sh: can't create /proc/sys/kernel/panic: Read-only file system",
        ]

    run(scenario)


def test_a_volume_whose_file_system_can_not_be_shifted_is_shown_as_it_is() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output(
            "/bin/sh",
            "-c",
            "ls -dan /k; cat /k/mm/transparent_hugepage/enabled > /dev/null; echo read",
            mounts=(Mount("k", "/k", read_only=True),),
            pod={**OWN_USERS, "volumes": (Volume("k", HostPath("/sys/kernel", "Directory")),)},
        )
        words = said.split()
        assert (words[2:4], words[-1]) == (["65534", "65534"], "read")

    run(scenario)


def test_another_user_inside_has_its_own_number_outside() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start(
            "/bin/sh", "-c", "id -u; exec sleep 600", pod=OWN_USERS, security=Security(user=1000, read_only_root=True)
        )
        await it.says(state, "1000")
        assert Path(f"/proc/{state.pid}").stat().st_uid == FIRST + 1000
        big = Container("big", "i", security=Security(user=65536))
        pod = Pod("default", "app", "uid-1", (big,), host_users=False)
        with pytest.raises(PermanentError, match="only the users and groups 0 to 65535"):
            await it.runtime.start_container(pod, big, it.place.image, Material(), 0, 0)

    run(scenario)


def test_each_pod_has_users_of_its_own_as_long_as_it_lives() -> None:
    async def scenario(it: Node) -> None:
        async def users_of(uid: str) -> int:
            container = Container("main", "i", command=("/bin/sleep", "600"))
            pod = Pod("default", uid, uid, (container,), host_users=False)
            await it.runtime.prepare_sandbox(pod, Material())
            state = await it.runtime.start_container(pod, container, it.place.image, Material(), 0, 0)
            return Path(f"/proc/{state.pid}").stat().st_uid

        assert [await users_of("a"), await users_of("b")] == [FIRST, FIRST + 65536]
        await it.restart()
        assert await users_of("b") == FIRST + 65536
        await it.runtime.remove_sandbox("a")
        assert await users_of("c") == FIRST
        assert await users_of("b") == FIRST + 65536

    run(scenario)


def test_containers_of_one_pod_share_its_users_and_its_memory() -> None:
    async def scenario(it: Node) -> None:
        one = Container("one", "i", command=("/bin/sh", "-c", "umask 077; echo hello > /dev/shm/x; exec sleep 600"))
        two = replace(one, name="two", command=("/bin/sh", "-c", "until cat /dev/shm/x; do sleep 0.1; done"))
        pod = Pod("default", "app", "uid-1", (one, two), host_users=False)
        await it.runtime.prepare_sandbox(pod, Material())
        for container in (one, two):
            state = await it.runtime.start_container(pod, container, it.place.image, Material(), 0, 0)
        await it.says(state, "hello")

    run(scenario)


def test_a_port_below_1024_can_be_taken_in_a_pod_with_users_of_its_own() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start(
            "/bin/sh",
            "-c",
            "echo serving $IP; exec httpd -f -p 80 -h /etc",
            env=(Env("IP", field="status.podIP"),),
            pod=OWN_USERS,
        )
        await it.says(state, "serving ")
        ip = it.log(state).split()[1]
        async with asyncio.timeout(60):
            while True:
                try:
                    reader, writer = await asyncio.open_connection(ip, 80)
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        writer.write(b"GET /passwd HTTP/1.0\r\n\r\n")
        assert b"root:x:0" in await reader.read()
        writer.close()

    run(scenario, real_network=True)


def test_a_run_dir_that_others_can_not_pass_through_is_told_with_what_to_do() -> None:
    async def scenario(it: Node) -> None:
        it.place.folder.chmod(0o700)
        with pytest.raises(PermanentError, match=rf"chmod o\+x {it.place.folder}"):
            await it.start("/bin/id", pod=OWN_USERS)

    run(scenario)


def test_there_is_an_end_to_the_users_of_a_node() -> None:
    config = UsersConfig(first=1 << 20, pods=2)
    assert userns.choose((), config) == 1 << 20
    assert userns.choose((1 << 20,), config) == (1 << 20) + 65536
    with pytest.raises(RetryError, match=r"raise pods below \[users\]"):
        userns.choose((1 << 20, (1 << 20) + 65536), config)


def test_the_kernels_release_is_read() -> None:
    assert userns.kernel_release("6.1.0-28-arm64") == (6, 1)
    assert userns.kernel_release("odd") == (0, 0)
