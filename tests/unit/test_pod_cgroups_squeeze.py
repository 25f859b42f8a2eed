"""Squeezing a pod: the kernel's own work in a write to memory.high is nobody's but a thread's."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from edged.errors import RetryError
from edged.runtime.cgroup import Cgroups
from edged.runtime.mounts import MountPoint
from edged.runtime.pod_cgroups import PodCgroups

MIB = 1 << 20
POINTS = "memory_recursiveprot"


class Slow(PodCgroups):
    """A kernel that reclaims within the write until it is told to come back."""

    def __init__(self, root: Path) -> None:
        super().__init__(Cgroups("pods", (MountPoint(str(root), "cgroup2", POINTS, False),)))
        self.done = threading.Event()
        self.writers: list[threading.Thread] = []

    def set_high(self, pod_uid: str, high: int | None) -> None:
        self.writers.append(threading.current_thread())
        if high is not None:
            assert self.done.wait(60.0)
        super().set_high(pod_uid, high)


@pytest.fixture
def kernel(tmp_path: Path) -> Slow:
    (tmp_path / "pods" / "uid-1").mkdir(parents=True)
    (tmp_path / "pods" / "uid-1" / "memory.high").write_text("max\n")
    return Slow(tmp_path)


def test_the_loop_goes_on_while_the_kernel_reclaims_from_a_squeezed_pod(kernel: Slow, tmp_path: Path) -> None:
    async def scenario() -> None:
        squeezing = asyncio.create_task(kernel.squeeze("uid-1", 8 * MIB))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # whoever holds up the loop would never come here
        assert not squeezing.done()
        kernel.done.set()
        await squeezing

    asyncio.run(scenario())
    assert (tmp_path / "pods/uid-1/memory.high").read_text() == f"{8 * MIB}"
    assert kernel.writers[0] is not threading.current_thread()


def test_letting_go_of_a_squeezed_pod_needs_no_thread(kernel: Slow, tmp_path: Path) -> None:
    (tmp_path / "pods/uid-1/memory.high").write_text("8388608")
    asyncio.run(kernel.squeeze("uid-1", None))
    assert kernel.writers == [threading.current_thread()]
    assert (tmp_path / "pods/uid-1/memory.high").read_text().strip().startswith("max")


def test_a_squeeze_that_this_machine_can_not_do_says_so_to_who_asked(kernel: Slow, tmp_path: Path) -> None:
    (tmp_path / "pods/uid-1/memory.high").unlink()
    kernel.done.set()
    with pytest.raises(RetryError, match="not available"):
        asyncio.run(kernel.squeeze("uid-1", 8 * MIB))
