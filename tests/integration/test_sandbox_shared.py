"""What the containers of a pod share, or don't: the machine's network, IPC, /dev/shm, names and kernel parameters."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from edged.addresses import own_address
from edged.errors import PermanentError, RetryError
from edged.model import (
    Container,
    Dns,
    DnsPolicy,
    ExecAction,
    HostAlias,
    HttpAction,
    Material,
    Pod,
    Probe,
    ServicePort,
    ServiceRules,
)
from edged.runtime import process
from edged.runtime.api import Verdict
from edged.runtime.pods import PodRuntime
from edged.runtime.records import SandboxRecord
from tests.fakes.boards import Corner, corner

pytestmark = pytest.mark.root

SLEEP = ("/bin/sh", "-c", "trap exit TERM; while :; do sleep 1; done")


@contextlib.asynccontextmanager
async def opened(place: Corner) -> AsyncIterator[PodRuntime]:
    runtime = place.runtime(real_network=True)
    await runtime.open(lambda _: None)
    try:
        yield runtime
    finally:
        await runtime.close()


@contextlib.asynccontextmanager
async def a_node() -> AsyncIterator[tuple[Corner, PodRuntime]]:
    async with asyncio.timeout(120), corner() as place, opened(place) as runtime:
        yield place, runtime


def pod(*names: str, uid: str = "uid-1") -> Pod:
    return Pod("default", "app", uid, tuple(Container(n, "busybox:test", command=SLEEP) for n in names or ("main",)))


async def started(place: Corner, runtime: PodRuntime, wanted: Pod) -> None:
    await runtime.prepare_sandbox(wanted, Material())
    for container in wanted.containers:
        await runtime.start_container(wanted, container, place.image, Material(), 0, 0)


async def inside(runtime: PodRuntime, container: str, command: str) -> str:
    """What a shell command says in a container, its first 256 characters; also of one that fails."""
    probe = Probe(ExecAction(("/bin/sh", "-c", f"{command}; true")), timeout=30.0)
    result = await runtime.probe(container, probe, "")
    assert result.verdict is Verdict.SUCCESS, result.message
    return result.message


def test_the_containers_of_a_pod_share_ipc_and_shm_and_nobody_else_does() -> None:
    async def scenario() -> None:
        async with a_node() as (place, runtime):
            await started(place, runtime, pod("one", "two"))
            await started(place, runtime, pod("one", uid="uid-2"))
            ipc = [await inside(runtime, c, "readlink /proc/self/ns/ipc") for c in ("uid-1.one.0", "uid-1.two.0")]
            assert ipc[0] == ipc[1]
            assert ipc[0] != str(Path("/proc/self/ns/ipc").readlink())
            assert await inside(runtime, "uid-2.one.0", "readlink /proc/self/ns/ipc") != ipc[0]
            await inside(runtime, "uid-1.one.0", "echo hello > /dev/shm/greeting")
            assert await inside(runtime, "uid-1.two.0", "cat /dev/shm/greeting") == "hello"
            assert await inside(runtime, "uid-2.one.0", "ls /dev/shm") == ""
            assert "65536 " in await inside(runtime, "uid-1.two.0", "df -k /dev/shm")
            # A restarted container finds what the others left.
            await runtime.kill_container("uid-1.one.0", "test")
            wanted = pod("one", "two")
            await runtime.remove_container("uid-1.one.0")
            await runtime.start_container(wanted, wanted.containers[0], place.image, Material(), 1, 0)
            assert await inside(runtime, "uid-1.one.1", "cat /dev/shm/greeting") == "hello"
            assert not (place.config.run / "pods" / "uid-2" / "ipc").exists()

    asyncio.run(scenario())


def test_shared_ipc_outlives_the_daemon_and_a_lost_pin_makes_the_sandbox_not_ready() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(120), corner() as place:
            async with opened(place) as runtime:
                await started(place, runtime, pod("one", "two"))
                before = await inside(runtime, "uid-1.one.0", "readlink /proc/self/ns/ipc")
            async with opened(place) as runtime:
                (state,), _ = runtime.observe()
                assert state.ready
                again = await runtime.prepare_sandbox(pod("one", "two"), Material())
                assert again.created_at == state.created_at > 0
                assert await inside(runtime, "uid-1.two.0", "readlink /proc/self/ns/ipc") == before
                for part in ("ipc", "shm"):  # as where whoever made them was killed in between
                    await process.run(["umount", os.fspath(place.config.run / "pods" / "uid-1" / part)])
                    (state,), _ = runtime.observe()
                    assert not state.ready
                    with pytest.raises(RetryError, match="not ready"):
                        await runtime.start_container(
                            pod("one", "two"), pod("one").containers[0], place.image, Material(), 1, 0
                        )
                    assert (await runtime.prepare_sandbox(pod("one", "two"), Material())).ready

    asyncio.run(scenario())


def test_a_pod_in_the_machines_network_has_its_address_and_needs_no_namespace() -> None:
    async def scenario() -> None:
        async with a_node() as (place, runtime):
            wanted = msgspec.structs.replace(pod(), host_network=True, host_aliases=(HostAlias("10.1.2.3", ("nas",)),))
            state = await runtime.prepare_sandbox(wanted, Material())
            assert (state.ready, state.ip) == (True, own_address())
            await runtime.start_container(wanted, wanted.containers[0], place.image, Material(), 0, 0)
            name = "uid-1.main.0"
            assert await inside(runtime, name, "readlink /proc/self/ns/net") == str(
                Path("/proc/self/ns/net").readlink()
            )
            assert (await inside(runtime, name, "tail -n 1 /etc/hosts")).split() == ["10.1.2.3", "nas"]
            assert await inside(runtime, name, "hostname") == os.uname().nodename
            listener = await asyncio.start_server(answer, "127.0.0.1", 0)
            async with listener:
                port = listener.sockets[0].getsockname()[1]
                # Also without any address of the machine its own programs can be asked.
                probe = Probe(HttpAction(port), timeout=10.0)
                assert (await runtime.probe(name, probe, "")).verdict is Verdict.SUCCESS
            (seen,), _ = runtime.observe()
            assert (seen.ready, seen.ip) == (True, own_address())
            pods = place.config.run / "netns" / "pods"
            assert not list(pods.iterdir())
            await runtime.remove_sandbox("uid-1")
            assert runtime.observe() == ((), ())

    asyncio.run(scenario())


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    writer.close()


def test_names_inside_follow_the_pods_policy_and_the_services_that_come_and_go() -> None:
    own = Dns(("9.9.9.9",), ("example.org",), ("ndots:2",))

    async def scenario() -> None:
        async with a_node() as (place, runtime):
            db = msgspec.structs.replace(pod(), hostname="db-0", subdomain="db", dns=own)
            alone = msgspec.structs.replace(pod(uid="uid-2"), dns_policy=DnsPolicy.NONE, dns=own)
            await started(place, runtime, db)
            await started(place, runtime, alone)
            ip = next(s.ip for s in runtime.observe()[0] if s.pod_uid == "uid-1")
            hosts = await inside(runtime, "uid-1.main.0", "grep db-0 /etc/hosts")
            assert hosts.split() == [ip, "db-0.db.default.svc.cluster.local", "db-0"]
            service = ServiceRules("default", "db", "", (ServicePort(5432, 5432, "sql"),), (ip,), (("db-0", ip),))
            await runtime.sync_services([service])
            text = await inside(runtime, "uid-1.main.0", "cat /etc/resolv.conf")
            assert text.startswith("search default.svc.cluster.local svc.cluster.local cluster.local ")
            assert text.splitlines()[0].endswith(" example.org")
            assert text.splitlines()[-2:] == ["nameserver 9.9.9.9", "options ndots:2"]
            lonely = await inside(runtime, "uid-2.main.0", "cat /etc/resolv.conf")
            assert lonely == "search example.org\nnameserver 9.9.9.9\noptions ndots:2"
            looked_up = await inside(runtime, "uid-1.main.0", "nslookup -type=a db-0.db.default.svc.cluster.local")
            assert f"Address: {ip}" in looked_up
            await runtime.sync_services([])
            without = await inside(runtime, "uid-1.main.0", "cat /etc/resolv.conf")
            assert "svc.cluster.local" not in without

    asyncio.run(scenario())


def test_kernel_parameters_are_the_pods_own_and_spares_do_not_keep_them() -> None:
    async def scenario() -> None:
        async with a_node() as (place, runtime):
            tuned = msgspec.structs.replace(
                pod("one", "two"),
                sysctls=(("net.ipv4.ip_local_port_range", "40000 41000"), ("kernel.shm_rmid_forced", "1")),
            )
            await started(place, runtime, tuned)
            await started(place, runtime, pod("one", "two", uid="uid-2"))
            read = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced"
            for name in ("uid-1.one.0", "uid-1.two.0"):
                assert (await inside(runtime, name, read)).split() == ["40000", "41000", "1"]
            assert (await inside(runtime, "uid-2.one.0", read)).split()[2] == "0"
            assert "40000" not in await inside(runtime, "uid-2.one.0", read)
            assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == "0\n"
            wrong = msgspec.structs.replace(pod(uid="uid-3"), sysctls=(("net.ipv4.ip_local_port_range", "many"),))
            with pytest.raises(PermanentError, match=r"net.ipv4.ip_local_port_range can't be set to 'many'"):
                await runtime.prepare_sandbox(wrong, Material())
            await runtime.remove_sandbox("uid-3")

    asyncio.run(scenario())


def test_users_other_than_root_may_listen_on_low_ports_and_ping_in_their_pod() -> None:
    async def scenario() -> None:
        async with a_node() as (place, runtime):
            await started(place, runtime, pod())
            read = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"
            assert (await inside(runtime, "uid-1.main.0", read)).split() == ["0", "0", "2147483647"]

    asyncio.run(scenario())


def test_an_ended_pod_is_known_as_such_by_the_next_daemon_and_after_a_new_preparation() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(120), corner() as place:
            async with opened(place) as runtime:
                await runtime.prepare_sandbox(pod(), Material(digest="one"))
                await runtime.end_pod("uid-1", "Evicted", "the node ran out of memory")
            async with opened(place) as runtime:
                (state,), _ = runtime.observe()
                assert (state.evicted, state.evicted_message) == ("Evicted", "the node ran out of memory")
                assert state.material == "one"
                again = await runtime.prepare_sandbox(pod(), Material(digest="two"))
                assert (again.evicted, again.material, again.created_at) == ("Evicted", "two", state.created_at)
                await runtime.end_pod("nobody", "Evicted", "gone meanwhile")

    asyncio.run(scenario())


def test_a_record_of_the_first_version_still_loads() -> None:
    old = {"pod_uid": "u", "pod": "default/app", "termination_grace": 30.0, "ip": "10.88.0.5", "memory_request": 1}
    record = msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=SandboxRecord)
    assert (record.ip, record.evicted, record.shares_ipc, record.names.host_network) == ("10.88.0.5", "", False, False)
