"""Pods' namespaces: reachability, spares, addresses, and what teardown leaves."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edged.errors import PermanentError, RetryError
from edged.runtime.network import Network
from edged.runtime.wiring import veth_prefix
from tests.network_lab import Lab, a_lab, command, enter, fetch, isolated, opened, until, worker_pids

pytestmark = pytest.mark.root


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as lab:
        yield lab


def test_pods_reach_each_other_and_the_machine_and_are_reached_by_it(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            one, two = await asyncio.gather(network.attach("one"), network.attach("two"))
            lab.listen(one.path, 8080, "one")
            assert fetch(two.path, one.ip, 8080) == f"one {two.ip}"
            assert fetch(one.path, one.ip, 8080) == f"one {one.ip}"
            assert fetch("", one.ip, 8080) == f"one {one.gateway}"
            command(*enter(one.path), "busybox", "ping", "-c1", "-W30", one.gateway)

    asyncio.run(scenario())


def test_egress_is_masqueraded_as_the_machine(lab: Lab) -> None:
    path, beyond, machine = lab.outside()
    lab.listen(path, 7000, "outside")

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            assert not network.degraded
            pod = await network.attach("pod")
            assert fetch(pod.path, beyond, 7000) == f"outside {machine}"

    asyncio.run(scenario())


def test_without_egress_a_pod_can_not_be_answered_from_outside(lab: Lab) -> None:
    path, beyond, _ = lab.outside()
    lab.listen(path, 7000, "outside")
    lab.config = msgspec.structs.replace(lab.config, egress=False)

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
            # The outside knows no way to pod addresses: its answer has nowhere to go.
            assert fetch(pod.path, beyond, 7000, patience=3.0) == "TimeoutError"
            assert lab.config.nft_table not in command("nft", "list", "tables")

    asyncio.run(scenario())


def test_a_spare_is_taken_without_the_worker_and_made_up_for_later(lab: Lab) -> None:
    lab.config = msgspec.structs.replace(lab.config, spares=2)
    spares = lab.run_dir / "netns" / "spares"

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            await until(lambda: len(list(spares.iterdir())) == 2, "two spares")
            await until(lambda: not worker_pids(lab), "the idle worker to end")
            ready = {p.name for p in spares.iterdir()}
            pod = await network.attach("pod")
            assert pod.ip in ready
            assert not worker_pids(lab)
            assert network.observe() == {"pod": pod}
            await until(lambda: len(list(spares.iterdir())) == 2, "a new spare")
            assert pod.ip not in {p.name for p in spares.iterdir()}

    asyncio.run(scenario())


def test_attach_again_gives_the_same_namespace(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            first, second = await asyncio.gather(network.attach("pod"), network.attach("pod"))
            assert first == second == await network.attach("pod")
            assert list(network.observe()) == ["pod"]

    asyncio.run(scenario())


def test_twenty_pods_at_once_get_twenty_addresses_by_one_worker(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pods = await asyncio.gather(*(network.attach(f"pod-{n}") for n in range(20)))
            assert len(worker_pids(lab)) == 1
            assert len({p.ip for p in pods}) == len({p.path for p in pods}) == len({p.host_veth for p in pods}) == 20
            assert network.observe() == {f"pod-{n}": p for n, p in enumerate(pods)}
            lab.listen(pods[19].path, 8080, "last")
            assert fetch(pods[0].path, pods[19].ip, 8080) == f"last {pods[0].ip}"

    asyncio.run(scenario())


def test_when_addresses_are_exhausted_a_sentence_says_so_and_a_detached_one_is_used_again(lab: Lab) -> None:
    lab.config = msgspec.structs.replace(lab.config, pod_cidr=f"{lab.prefix}.0/29")

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pods = [await network.attach(f"pod-{n}") for n in range(5)]
            with pytest.raises(RetryError, match="all 5 addresses of network"):
                await network.attach("one-too-many")
            await network.detach("pod-2")
            assert (await network.attach("one-too-many")).ip == pods[2].ip

    asyncio.run(scenario())


def test_detach_removes_namespace_cable_and_record_and_may_be_repeated(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
            await network.detach("pod")
            assert network.observe() == {}
            assert not Path(pod.path).exists()
            assert pod.host_veth not in {name for _, name in socket.if_nameindex()}
            await network.detach("pod")
            await network.detach("never-seen")

    asyncio.run(scenario())


def test_a_namespace_whose_cable_was_cut_is_not_observed_and_made_anew(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            pod = await network.attach("pod")
            command("ip", "link", "delete", pod.host_veth)
            assert network.observe() == {}
            assert network.observe() == {}
            again = await network.attach("pod")
            assert network.observe() == {"pod": again}
            command(*enter(again.path), "busybox", "ping", "-c1", "-W30", again.gateway)

    asyncio.run(scenario())


def test_a_uid_that_would_leave_its_folder_is_refused(lab: Lab) -> None:
    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            for uid in ("../../etc/passwd", "", ".hidden", "a/b", "x" * 300):
                with pytest.raises(PermanentError, match="can't name a file"):
                    await network.attach(uid)

    asyncio.run(scenario())


def test_an_overlap_with_somebody_elses_route_is_refused_with_both_named(lab: Lab) -> None:
    other = f"edx{lab.number:x}"
    command("ip", "link", "add", other, "type", "bridge")
    try:
        command("ip", "address", "add", f"{lab.prefix}.129/25", "dev", other)
        command("ip", "link", "set", other, "up")

        async def scenario() -> None:
            network = Network(lab.config, lab.run_dir)
            with pytest.raises(PermanentError, match=rf"{lab.config.pod_cidr} overlaps the route .*/25 of {other}"):
                await network.open()
            await network.close()

        asyncio.run(scenario())
    finally:
        command("ip", "link", "delete", other)


def test_an_interface_of_the_bridges_name_that_is_not_ours_is_left_alone(lab: Lab) -> None:
    command("ip", "link", "add", lab.config.bridge, "type", "ifb")
    try:

        async def scenario() -> None:
            network = Network(lab.config, lab.run_dir)
            with pytest.raises(PermanentError, match=f"interface {lab.config.bridge} that is no bridge"):
                await network.open()
            await network.teardown()

        asyncio.run(scenario())
        assert lab.config.bridge in {name for _, name in socket.if_nameindex()}
    finally:
        command("ip", "link", "delete", lab.config.bridge)


def test_teardown_leaves_nothing_also_without_open(lab: Lab) -> None:
    lab.config = msgspec.structs.replace(lab.config, spares=1)

    async def build() -> None:
        async with opened(Network(lab.config, lab.run_dir)) as network:
            await asyncio.gather(*(network.attach(f"pod-{n}") for n in range(3)))
            await until(lambda: list((lab.run_dir / "netns" / "spares").iterdir()), "a spare")

    asyncio.run(build())
    assert lab.traces()
    asyncio.run(Network(lab.config, lab.run_dir).teardown())
    assert not lab.traces()


def test_forwarding_is_put_back_when_the_last_node_of_the_machine_goes(lab: Lab) -> None:
    """In a network namespace of its own, for other tests need forwarding on this machine."""
    script = """
import msgspec
second = msgspec.structs.replace(config, bridge="other0", pod_cidr="10.9.8.0/24", nft_table="other")
setting = Path("/proc/sys/net/ipv4/ip_forward")
async def main():
    setting.write_text("0")  # a new namespace begins with what the machine has
    said = [setting.read_text().strip()]
    one, two = Network(config, run_dir / "one"), Network(second, run_dir / "two")
    for step in (one.open, two.open, one.teardown, two.teardown):
        await step()
        said.append(setting.read_text().strip())
    print(*said)
    setting.write_text("1")
    said = []
    for step in (one.open, two.open, two.teardown, one.teardown):
        await step()
        said.append(setting.read_text().strip())
    print(*said)
asyncio.run(main())
"""
    assert isolated(lab, script, own_net=True).split("\n") == ["0 1 1 1 0", "1 1 1 1", ""]


def test_without_nft_the_node_says_so_and_wires_pods_all_the_same(lab: Lab) -> None:
    script = """
async def main():
    network = Network(config, run_dir)
    await network.open()
    print(network.degraded)
    pod = await network.attach("pod")
    print(network.observe() == {"pod": pod})
    await network.close()
asyncio.run(main())
"""
    degraded, there, _ = isolated(lab, script, {"PATH": "/nonexistent"}).split("\n")
    assert "can't reach beyond this machine" in degraded
    assert "nft is not installed" in degraded
    assert there == "True"


def test_a_flushed_table_is_put_back(lab: Lab) -> None:
    def there() -> bool:
        return f"table ip {lab.config.nft_table}\n" in command("nft", "list", "tables")

    async def scenario() -> None:
        async with opened(Network(lab.config, lab.run_dir)):
            assert there()
            command("nft", "delete", "table", "ip", lab.config.nft_table)
            assert not there()
            await until(there, "the table to come back")

    asyncio.run(scenario())


def test_two_nodes_on_one_machine_do_not_touch_each_other(lab: Lab) -> None:
    with a_lab() as neighbour:

        async def scenario() -> None:
            async with opened(Network(lab.config, lab.run_dir)) as network:
                async with opened(Network(neighbour.config, neighbour.run_dir)) as other:
                    mine, theirs = await network.attach("pod"), await other.attach("pod")
                    assert mine.host_veth[:8] != theirs.host_veth[:8] == veth_prefix(neighbour.config.bridge)
                    await other.teardown()
                assert network.observe() == {"pod": mine}
                assert os.path.exists(mine.path)  # noqa: PTH110
                command(*enter(mine.path), "busybox", "ping", "-c1", "-W30", mine.gateway)

        asyncio.run(scenario())
