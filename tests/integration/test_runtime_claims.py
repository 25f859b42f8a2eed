"""Persistent volumes on real loop devices: their size holds, they outlive their pods, and no cut leaves half of one."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from edged.config import StorageConfig
from edged.errors import PermanentError, RetryError
from edged.model import Claim, ClaimFiles, Container, ContainerState, Material, Mount, Pod, Volume
from edged.runtime import ext4, loops, process
from edged.runtime.claims import Claims
from edged.runtime.mounts import mount_points
from edged.runtime.pods import PodRuntime
from tests.fakes.boards import Corner, corner

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not loops.usable(), reason="needs /dev/loop-control"),
]
MIB = 1 << 20
WAIT = 60.0
MATERIAL = Material()


def run(scenario: Callable[[Corner, PodRuntime], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(180), corner() as place:
            runtime = place.runtime()
            await runtime.open(lambda name: None)
            try:
                await scenario(place, runtime)
            finally:
                await runtime.close()
                for folder in tuple((place.config.state / "volumes").glob("[!.]*")):
                    await let_go(folder / "image")

    asyncio.run(whole())


async def let_go(image: Path) -> None:
    """Until the kernel has given the device back, some moments after the last unmount."""
    while loops.device_of(image) and not is_mounted(loops.device_of(image)):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def is_mounted(device: str) -> bool:
    number = Path(device).stat().st_rdev
    return any(p.device == f"{os.major(number)}:{os.minor(number)}" for p in mount_points())


def pod_with(size: int, name: str = "uid-1", read_only: bool = False, sub_path: str = "") -> Pod:
    main = Container(
        "main", "busybox:test", command=("/bin/sleep", "600"), mounts=(Mount("data", "/data", read_only, sub_path),)
    )
    return Pod("default", "app", name, (main,), volumes=(Volume("data", ClaimFiles("db", "claim-1", size)),))


async def start(place: Corner, runtime: PodRuntime, pod: Pod) -> ContainerState:
    await runtime.prepare_sandbox(pod, MATERIAL)
    return await runtime.start_container(pod, pod.containers[0], place.image, MATERIAL, 0, 0)


async def inside(runtime: PodRuntime, command: str, pod: str = "uid-1") -> str:
    done = await runtime._containers.exec(f"{pod}.main.0", ("sh", "-c", command), WAIT)
    return (done.stdout + done.stderr).decode().strip()


def fill(size: int) -> str:
    return f"dd if=/dev/zero of=/data/file bs=1048576 count={size // MIB}"


def test_a_claim_holds_what_it_asks_for_and_not_much_more() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        await start(place, runtime, pod_with(16 * MIB))
        assert await inside(runtime, "ls /data") == ""
        assert (await inside(runtime, "ls -ld /data")).startswith("drwxrwxrwx")
        assert "No space left" not in await inside(runtime, fill(16 * MIB))
        assert "No space left on device" in await inside(runtime, fill(20 * MIB))
        assert runtime.claims() == {"claim-1"}

    run(scenario)


def test_a_claim_outlives_its_pods_and_is_unmounted_when_none_uses_it() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        first = pod_with(16 * MIB)
        await start(place, runtime, first)
        await inside(runtime, "echo kept > /data/file; sync")
        await runtime.remove_sandbox(first.uid)
        assert not [p for p in mount_points() if p.path.startswith(place.config.run_dir) and p.fstype == "ext4"]
        again = place.runtime()
        await again.open(lambda name: None)
        await start(place, again, pod_with(16 * MIB, "uid-2"))
        assert await inside(again, "cat /data/file", "uid-2") == "kept"
        await again.close()

    run(scenario)


def test_two_pods_of_a_node_use_one_claim_at_once_and_one_of_them_only_reads() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        await start(place, runtime, pod_with(16 * MIB))
        await start(place, runtime, pod_with(16 * MIB, "uid-2", read_only=True))
        await inside(runtime, "echo shared > /data/file")
        assert await inside(runtime, "cat /data/file", "uid-2") == "shared"
        assert "Read-only" in await inside(runtime, "echo no > /data/file", "uid-2")
        await runtime.remove_sandbox("uid-1")
        assert await inside(runtime, "cat /data/file", "uid-2") == "shared"

    run(scenario)


def test_a_claim_grows_and_never_shrinks() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        await start(place, runtime, pod_with(16 * MIB))
        await inside(runtime, "echo kept > /data/small")
        assert "No space left" in await inside(runtime, fill(40 * MIB))
        grown = Claim("default", "db", "claim-1", 48 * MIB)
        if runtime._cgroups.may_lower_oom_score:  # CAP_SYS_RESOURCE: what is mounted may be resized
            await runtime.resize_claim(grown)
        else:
            with pytest.raises(RetryError, match="lacks CAP_SYS_RESOURCE here; it grows when the pod is made anew"):
                await runtime.resize_claim(grown)
            await runtime.remove_sandbox("uid-1")
            await let_go(place.config.state / "volumes/claim-1/image")
            await start(place, runtime, pod_with(48 * MIB))
        assert "No space left" not in await inside(runtime, fill(48 * MIB))
        assert await inside(runtime, "cat /data/small") == "kept"
        await runtime.resize_claim(grown)
        with pytest.raises(PermanentError, match=r"default/db holds 48 MiB and can't shrink to 16 MiB"):
            await runtime.resize_claim(Claim("default", "db", "claim-1", 16 * MIB))

    run(scenario)


def test_a_claim_that_grew_while_nobody_used_it_has_its_room_at_the_next_use() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_with(16 * MIB)
        await start(place, runtime, pod)
        await runtime.remove_sandbox(pod.uid)
        await runtime.resize_claim(Claim("default", "db", "claim-1", 40 * MIB))
        await start(place, runtime, pod_with(16 * MIB, "uid-2"))  # a pod compiled before the claim grew
        done = await inside(runtime, fill(40 * MIB), "uid-2")
        assert "No space left" not in done

    run(scenario)


def test_a_growth_that_was_cut_short_is_finished_at_the_next_use() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        folder = place.config.state / "volumes/claim-1"
        await start(place, runtime, pod_with(16 * MIB))
        await runtime.remove_sandbox("uid-1")
        await let_go(folder / "image")
        record = (folder / "claim").read_text()
        (folder / "claim").write_text(record.replace(str(16 * MIB), str(40 * MIB)))  # and then the power was cut
        (folder / ".claim.new").write_text("half")
        await start(place, runtime, pod_with(16 * MIB, "uid-2"))
        assert "No space left" not in await inside(runtime, fill(40 * MIB), "uid-2")

    run(scenario)


def test_a_claim_goes_only_when_no_pod_uses_it_any_more() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        await start(place, runtime, pod_with(16 * MIB))
        with pytest.raises(RetryError, match="claim-1 is still used by a pod"):
            await runtime.remove_claim("claim-1")
        await runtime.remove_sandbox("uid-1")
        await let_go(place.config.state / "volumes/claim-1/image")
        await runtime.remove_claim("claim-1")
        await runtime.remove_claim("claim-1")
        assert runtime.claims() == frozenset()
        assert list((place.config.state / "volumes").iterdir()) == []

    run(scenario)


def test_what_a_cut_left_half_made_or_half_deleted_is_swept_and_the_rest_stays() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_with(16 * MIB)
        await start(place, runtime, pod)
        await runtime.remove_sandbox(pod.uid)
        for half in (".new-claim-2", ".trash-claim-3"):
            (place.config.state / "volumes" / half).mkdir()
            (place.config.state / "volumes" / half / "image").write_bytes(b"half")
        again = place.runtime()
        await again.open(lambda name: None)
        assert sorted(p.name for p in (place.config.state / "volumes").iterdir()) == ["claim-1"]
        await again.close()

    run(scenario)


def test_a_claim_whose_record_is_gone_is_still_there_in_its_size() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod = pod_with(16 * MIB)
        await start(place, runtime, pod)
        await inside(runtime, "echo kept > /data/file; sync")
        await runtime.remove_sandbox(pod.uid)
        (place.config.state / "volumes/claim-1/claim").write_bytes(b"\0\0")
        await start(place, runtime, pod_with(16 * MIB, "uid-2"))
        assert await inside(runtime, "cat /data/file", "uid-2") == "kept"

    run(scenario)


def test_a_damaged_claim_is_put_right_before_it_is_mounted_or_says_what_to_do() -> None:
    async def scenario(place: Corner, runtime: PodRuntime) -> None:
        pod, image = pod_with(16 * MIB), place.config.state / "volumes/claim-1/image"
        await start(place, runtime, pod)
        await inside(runtime, "echo kept > /data/file; sync")
        await runtime.remove_sandbox(pod.uid)
        await let_go(image)
        await process.run(["debugfs", "-w", "-R", "ssv state 2", str(image)])
        assert ext4.look(image).needs_check
        await start(place, runtime, pod_with(16 * MIB, "uid-2"))
        assert await inside(runtime, "cat /data/file", "uid-2") == "kept"
        await runtime.remove_sandbox("uid-2")
        await let_go(image)
        with image.open("r+b") as file:
            file.write(b"\0" * 65536)
        with pytest.raises(RetryError, match=r"holds no ext4 any more; .*e2fsck -f .*/claim-1/image"):
            await runtime.prepare_sandbox(pod_with(16 * MIB, "uid-3"), MATERIAL)

    run(scenario)


def test_a_claim_that_the_disk_has_no_room_for_is_refused_in_numbers_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        claims = Claims(tmp_path / "disk", tmp_path / "memory", StorageConfig())
        with pytest.raises(RetryError, match=r"a/b needs 10\d+\.\d GiB, and the disk has .* free, of which 64 MiB"):
            await claims.show(ClaimFiles("b", "claim-1", 1 << 50), tmp_path / "memory" / "x", "a/b")
        assert claims.observe() == frozenset()
        assert list((tmp_path / "disk").iterdir()) == []

    asyncio.run(scenario())


def test_a_claim_on_a_full_disk_keeps_what_it_was_promised(tmp_path: Path) -> None:
    """The disk is filled after the volume was made: writing into the volume still works."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)

    async def scenario() -> None:
        claims = Claims(disk / "volumes", tmp_path / "memory", StorageConfig(keep_free=0))
        target = tmp_path / "memory" / "pod"
        await claims.show(ClaimFiles("b", "claim-1", 16 * MIB), target, "a/b")
        try:
            await process.run(["dd", "if=/dev/zero", f"of={disk}/ballast", "bs=1M"], check=False)
            assert os.statvfs(disk).f_bavail == 0
            with (target / "file").open("wb") as file:
                file.write(b"\2" * (16 * MIB))
                file.flush()
                os.fsync(file.fileno())
            assert (target / "file").stat().st_size == 16 * MIB
        finally:
            await process.run(["umount", str(target)])
            claims.release()
            async with asyncio.timeout(WAIT):
                await let_go(disk / "volumes/claim-1/image")

    try:
        asyncio.run(scenario())
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_claim_needs_a_uid_that_can_be_a_folder_and_a_size(tmp_path: Path) -> None:
    async def scenario() -> None:
        claims = Claims(tmp_path / "disk", tmp_path / "memory", StorageConfig())
        for uid, size, said in (
            ("../x", MIB, "can't name a folder"),
            (".trash-x", MIB, "can't name"),
            ("x", 0, "more"),
        ):
            with pytest.raises(PermanentError, match=said):
                await claims.show(ClaimFiles("b", uid, size), tmp_path / "memory" / "x", "a/b")

    asyncio.run(scenario())
