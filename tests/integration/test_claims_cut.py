"""Whoever makes, grows or deletes a persistent volume may be killed at every step: the next one finishes the work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.config import StorageConfig
from edged.model import Claim, ClaimFiles
from edged.runtime import loops, mounts
from edged.runtime.claims import Claims

pytestmark = [pytest.mark.root, pytest.mark.skipif(not loops.usable(), reason="needs /dev/loop-control")]
MIB = 1 << 20
WAIT = 60.0

# Runs one method and dies right after the n-th call of one function that the module uses.
CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from edged.config import StorageConfig
from edged.model import Claim, ClaimFiles
from edged.runtime import claims as room
folder, what, name, left = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
owner = room.mounts if name == "mount" else room.process if name == "run" else room
original = getattr(owner, name)

def spent():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def cut_later(*args, **options):
    done = await original(*args, **options)
    spent()
    return done

def cut(*args, **options):
    done = original(*args, **options)
    spent()
    return done

setattr(owner, name, cut_later if asyncio.iscoroutinefunction(original) else cut)
claims = room.Claims(folder / "disk", folder / "memory", StorageConfig())
match what:
    case "show":
        work = claims.show(ClaimFiles("db", "claim-1", 16 << 20), folder / "memory/pod", "default/db")
    case "resize":
        work = claims.resize(Claim("default", "db", "claim-1", 32 << 20))
    case "remove":
        work = claims.remove("claim-1")
asyncio.run(work)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """`memory` shares its mounts and hides none, as run_dir does."""
    (tmp_path / "memory").mkdir()
    yield tmp_path
    mounts.unmount_below(os.fspath(tmp_path / "memory"))


def killed(place: Path, what: str, name: str, call: int) -> bool:
    """False if it had finished before so many calls."""
    argv = [sys.executable, "-c", CHILD, os.fspath(place), what, name, str(call)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


async def released(claims: Claims, place: Path) -> None:
    """No pod uses it any more."""
    mounts.unmount(os.fspath(place / "memory/pod"))
    claims.release()
    async with asyncio.timeout(WAIT):
        while loops.device_of(place / "disk/claim-1/image"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def use(place: Path, size: int) -> Claims:
    """A new daemon: whatever it finds, the volume works and holds what was asked for."""

    async def scenario() -> Claims:
        claims = Claims(place / "disk", place / "memory", StorageConfig())
        assert claims.observe() <= {"claim-1"}
        await claims.open()
        await claims.show(ClaimFiles("db", "claim-1", size), place / "memory/pod", "default/db")
        seen = os.statvfs(place / "memory/pod")
        assert seen.f_bavail * seen.f_frsize >= size - MIB
        (place / "memory/pod/file").write_text("works")
        assert claims.observe() == {"claim-1"}
        assert [e.name for e in (place / "disk").iterdir()] == ["claim-1"]
        await released(claims, place)
        return claims

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "calls"), [("_reserve", 1), ("run", 2), ("_flush", 4), ("_write", 1), ("mount", 1)], ids=lambda v: str(v)
)
def test_a_volume_whose_making_was_cut_is_made_by_the_next_one(place: Path, name: str, calls: int) -> None:
    for call in range(1, calls + 1):
        assert killed(place, "show", name, call)
        use(place, 16 * MIB)
        asyncio.run(Claims(place / "disk", place / "memory", StorageConfig()).remove("claim-1"))
        assert list((place / "disk").iterdir()) == []


@pytest.mark.parametrize("name", ["_write", "_flush", "_reserve"])
def test_a_volume_whose_growth_was_cut_is_grown_by_the_next_one(place: Path, name: str) -> None:
    use(place, 16 * MIB)
    assert killed(place, "resize", name, 1)

    async def again() -> None:
        claims = Claims(place / "disk", place / "memory", StorageConfig())
        await claims.open()
        await claims.resize(Claim("default", "db", "claim-1", 32 * MIB))

    asyncio.run(again())
    use(place, 32 * MIB)


@pytest.mark.parametrize(("name", "calls"), [("_flush", 1), ("_remove", 2)], ids=lambda v: str(v))
def test_a_volume_whose_removal_was_cut_is_gone_in_the_end(place: Path, name: str, calls: int) -> None:
    for call in range(1, calls + 1):
        use(place, 16 * MIB)
        killed(place, "remove", name, call)

        async def again() -> None:
            claims = Claims(place / "disk", place / "memory", StorageConfig())
            await claims.open()
            await claims.remove("claim-1")
            assert claims.observe() == frozenset()

        asyncio.run(again())
        assert list((place / "disk").iterdir()) == []
