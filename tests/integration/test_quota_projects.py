"""Project quotas on an ext4 of our own that has them: the kernel keeps each folder below its size."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.config import StorageConfig
from edged.errors import RetryError
from edged.model import Claim, ClaimFiles
from edged.runtime import loops, mounts, quota
from edged.runtime.claims import Claims
from edged.runtime.quota import ScratchQuotas

pytestmark = [pytest.mark.root, pytest.mark.skipif(not loops.usable(), reason="needs /dev/loop-control")]
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mounted with prjquota; skipped where the kernel can't (CONFIG_QFMT_V2)."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", image], check=True)
    done = subprocess.run(["mount", "-o", "loop,prjquota", image, folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this kernel has no project quotas: {done.stderr.decode().strip()[:100]}")
    yield folder
    mounts.unmount_below(os.fspath(folder))


UNPRIVILEGED = ("setpriv", "--bounding-set=-sys_resource")  # as containers are: with it, quotas are ignored


def dd(file: Path, size: int) -> str:
    argv = [*UNPRIVILEGED, "dd", "if=/dev/zero", f"of={file}", f"bs={MIB}", f"count={size // MIB}", "conv=fsync"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stderr


def write(file: Path, size: int) -> None:
    said = dd(file, size)
    assert file.stat().st_size == size, said


def overfull(file: Path, size: int) -> None:
    said = dd(file, size)
    assert "quota exceeded" in said or "No space left" in said, said


def used(folder: Path) -> int:
    """As df shows it: a folder with a limit looks like a file system of that size."""
    seen = os.statvfs(folder)
    assert seen.f_blocks * seen.f_frsize == 8 * MIB
    return (seen.f_blocks - seen.f_bfree) * seen.f_frsize


def test_a_file_system_without_project_quotas_is_seen_as_such(tmp_path: Path, disk: Path) -> None:
    assert quota.supported(disk)
    assert not quota.supported(Path("/proc"))
    assert not quota.supported(tmp_path / "nothing")


def test_a_folder_holds_its_size_and_what_is_made_in_it_counts(disk: Path) -> None:
    folder = disk / "folder"
    folder.mkdir()
    quota.limit(folder, "one", 8 * MIB)
    (folder / "sub").mkdir()
    write(folder / "sub/a", 7 * MIB)
    overfull(folder / "b", 4 * MIB)
    (folder / "b").unlink()
    assert used(folder) >= 7 * MIB
    quota.limit(folder, "one", 16 * MIB)
    write(folder / "b", 4 * MIB)
    quota.release(folder)
    write(folder / "c", 32 * MIB)


def test_two_folders_have_limits_of_their_own(disk: Path) -> None:
    for name in ("one", "two"):
        (disk / name).mkdir()
        quota.limit(disk / name, name, 8 * MIB)
    write(disk / "one/a", 7 * MIB)
    write(disk / "two/a", 7 * MIB)
    overfull(disk / "one/b", 4 * MIB)


def test_a_claim_is_a_folder_with_a_quota_where_there_are_some(tmp_path: Path, disk: Path) -> None:
    async def scenario() -> None:
        claims = Claims(disk / "volumes", tmp_path / "memory", StorageConfig(keep_free=0))
        claim, target = ClaimFiles("db", "claim-1", 8 * MIB), tmp_path / "memory/pod"
        await claims.show(claim, target, "default/db")
        assert "each is a folder with one" in claims.describe()
        assert (disk / "volumes/claim-1/data").is_dir()
        try:
            overfull(target / "a", 9 * MIB)
            await claims.resize(Claim("default", "db", "claim-1", 16 * MIB))
            write(target / "a", 15 * MIB)
            with pytest.raises(RetryError, match="still used by a pod"):
                await claims.remove("claim-1")
        finally:
            mounts.unmount(os.fspath(target))
        await claims.remove("claim-1")
        assert claims.observe() == frozenset()
        assert list((disk / "volumes").iterdir()) == []

    asyncio.run(scenario())


def test_the_settings_say_which_kind_of_claim_is_made(tmp_path: Path, disk: Path) -> None:
    async def scenario() -> None:
        claims = Claims(disk / "volumes", tmp_path / "memory", StorageConfig(claims="image", keep_free=0))
        await claims.show(ClaimFiles("db", "claim-1", 8 * MIB), tmp_path / "memory/pod", "default/db")
        assert (disk / "volumes/claim-1/image").is_file()
        mounts.unmount(os.fspath(tmp_path / "memory/pod"))
        claims.release()
        while loops.device_of(disk / "volumes/claim-1/image"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        plain = Claims(tmp_path / "plain", tmp_path / "memory", StorageConfig(claims="quota"))
        if not quota.supported(tmp_path):
            with pytest.raises(
                RetryError, match=r'storage.claims is "quota", but state_dir is not mounted with prjquota'
            ):
                await plain.show(ClaimFiles("db", "claim-2", 8 * MIB), tmp_path / "memory/pod", "default/db")

    asyncio.run(scenario())


def test_an_empty_dir_on_disk_is_kept_below_its_limit_by_the_kernel(disk: Path) -> None:
    quotas, scratch = ScratchQuotas(), disk / "rw/uid-1"
    (scratch / "volumes/data").mkdir(parents=True)
    quotas.limit(scratch / "volumes/data", 8 * MIB)
    quotas.limit(scratch / "volumes/data", 8 * MIB)
    overfull(scratch / "volumes/data/a", 9 * MIB)
    assert 7 * MIB <= used(scratch / "volumes/data") <= 8 * MIB
    quotas.release(scratch)
