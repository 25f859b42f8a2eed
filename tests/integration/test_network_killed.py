"""Whoever is killed, and whenever: observe tells the truth, what lives is taken over, and attach works again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edged.runtime.netns import Netns
from edged.runtime.network import Network
from tests.network_lab import Lab, a_lab, command, enter, fetch, isolated, opened, until, worker_pids

pytestmark = pytest.mark.root


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as lab:
        yield lab


def wired(lab: Lab) -> set[str]:
    """Addresses for which there is a cable on the machine."""
    return {name for _, name in socket.if_nameindex() if lab._is_veth(name)}


def start(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def stop(started: subprocess.Popen[bytes]) -> None:
    started.kill()
    started.communicate()


def works(pod: Netns) -> bool:
    command(*enter(pod.path), "busybox", "ping", "-c1", "-W30", pod.gateway)
    return True


def test_a_network_that_is_opened_again_takes_over_pods_and_spares(lab: Lab) -> None:
    lab.config = msgspec.structs.replace(lab.config, spares=1)
    spares = lab.run_dir / "netns" / "spares"

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
            await until(lambda: list(spares.iterdir()), "a spare")
        lab.listen(pod.path, 8080, "still here")
        inode = Path(pod.path).stat().st_ino
        async with opened(Network(lab.config, lab.run_dir)) as network:
            assert network.observe() == {"pod": pod}
            assert await network.attach("pod") == pod
            assert Path(pod.path).stat().st_ino == inode
            ready = {p.name for p in spares.iterdir()}
            other = await network.attach("other")
            assert other.ip in ready
            assert fetch(other.path, pod.ip, 8080) == f"still here {other.ip}"

    asyncio.run(scenario())


def test_a_bridge_removed_by_somebody_is_made_again_and_pods_are_joined_to_it(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
        command("ip", "link", "delete", lab.config.bridge)
        async with opened(Network(lab.config, lab.run_dir)) as network:
            assert network.observe() == {"pod": pod}
            assert works(pod)

    asyncio.run(scenario())


def test_a_worker_killed_in_the_middle_of_a_batch_costs_nobody_a_pod(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            attaching = [asyncio.ensure_future(network.attach(f"pod-{n}")) for n in range(12)]
            await asyncio.wait(attaching, return_when=asyncio.FIRST_COMPLETED)
            for pid in worker_pids(lab):
                os.kill(pid, signal.SIGKILL)
            assert set(network.observe()) <= {f"pod-{n}" for n in range(12)}
            pods = await asyncio.gather(*attaching)
            assert len({p.ip for p in pods}) == 12
            assert network.observe() == {f"pod-{n}": p for n, p in enumerate(pods)}
            assert all(works(p) for p in pods)

    asyncio.run(scenario())


def test_a_daemon_killed_in_the_middle_of_a_batch_leaves_only_what_the_next_one_knows_or_sweeps(lab: Lab) -> None:
    script = """
async def main():
    network = Network(config, run_dir)
    await network.open()
    attaching = [asyncio.ensure_future(network.attach(f"pod-{n}")) for n in range(20)]
    while sum(a.done() for a in attaching) < KILL_AFTER:
        await asyncio.wait([a for a in attaching if not a.done()], return_when=asyncio.FIRST_COMPLETED)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    for done in (0, 3, 11):
        isolated(lab, script.replace("KILL_AFTER", str(done)))

        async def scenario() -> None:
            async with opened(Network(lab.config, lab.run_dir)) as network:
                there = network.observe()
                assert len(there) >= done  # noqa: B023
                assert wired(lab) == {p.host_veth for p in there.values()}
                files = {str(p) for p in (lab.run_dir / "netns").iterdir() if p.is_file() and p.name != ".lock"}
                assert files == {p.path for p in there.values()}
                assert all(works(p) for p in there.values())
                pods = await asyncio.gather(*(network.attach(f"pod-{n}") for n in range(20)))
                assert len({p.ip for p in pods}) == 20
                assert there.items() <= network.observe().items()
                await asyncio.gather(*(network.detach(f"pod-{n}") for n in range(20)))
                assert not wired(lab)

        asyncio.run(scenario())


def test_a_cancelled_attach_leaves_nothing_and_its_address_is_free_again(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            attaching = asyncio.ensure_future(network.attach("impatient"))
            await until(lambda: worker_pids(lab), "a worker")
            attaching.cancel()
            await asyncio.wait([attaching])
            pod = await network.attach("patient")
            await until(lambda: wired(lab) == {pod.host_veth}, "only one cable")
            assert network.observe() == {"patient": pod}
            assert works(pod)

    asyncio.run(scenario())


def test_after_a_power_cut_dead_records_are_not_believed(lab: Lab) -> None:
    """Namespaces are gone; their records are there when /run is not memory, as in a test or a container."""

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
        command("umount", pod.path)
        await until(lambda: not wired(lab), "the namespace's end")
        network = Network(lab.config, lab.run_dir)
        assert network.observe() == {}
        async with opened(network):
            assert network.observe() == {}
            assert not Path(pod.path).exists()
            again = await network.attach("pod")
            assert again.ip == pod.ip
            assert works(again)

    asyncio.run(scenario())


def test_an_emptied_run_folder_is_filled_again_and_stray_cables_are_removed(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
        # keeps the namespace, and so the cable, alive, once it is inside
        holder = start(*enter(pod.path), "sh", "-c", "echo ready; exec sleep 60")
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline()
            command("umount", pod.path)
            shutil.rmtree(lab.run_dir)
            assert pod.host_veth in wired(lab)
            async with opened(Network(lab.config, lab.run_dir)) as network:
                assert network.observe() == {}
                assert not wired(lab)
                assert works(await network.attach("pod"))
        finally:
            stop(holder)

    asyncio.run(scenario())


def test_a_record_that_is_garbage_is_swept_and_harms_nobody(lab: Lab) -> None:
    lab.run_dir.mkdir()
    precious = lab.run_dir / "precious"
    precious.write_text("mine")

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
        records = lab.run_dir / "netns" / "pods"
        (records / "garbage").write_bytes(b"\0\xff{")
        for name, ip in (("liar", pod.ip), ("stranger", "1.2.3.4")):
            lie = msgspec.structs.replace(pod, path=str(precious), ip=ip, host_veth=lab.config.bridge)
            (records / name).write_bytes(msgspec.json.encode(lie))
        (records / ".half.new").write_text("{")
        async with opened(Network(lab.config, lab.run_dir)) as network:
            assert network.observe() == {"pod": pod}
            assert [p.name for p in records.iterdir()] == ["pod"]
        assert precious.read_text() == "mine"
        assert lab.config.bridge in {name for _, name in socket.if_nameindex()}

    asyncio.run(scenario())


def test_other_mount_namespaces_do_not_keep_a_detached_namespace(lab: Lab) -> None:
    """conmon may live in a mount namespace of its own, with copies of every mount there was at its start."""

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
            monitor = start("unshare", "-m", "sh", "-c", "echo ready; exec sleep 60")
            try:
                assert monitor.stdout is not None
                monitor.stdout.readline()
                mounts = Path(f"/proc/{monitor.pid}/mountinfo")
                assert pod.path in mounts.read_text()
                await network.detach("pod")
                assert pod.path not in mounts.read_text()
            finally:
                stop(monitor)

    asyncio.run(scenario())
