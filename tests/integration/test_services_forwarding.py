"""Services: forwarding, refusal and names, through the kernel's nftables and a real dnsmasq."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.model import ServicePort, ServiceRules
from edged.runtime.mounts import become_subreaper
from edged.runtime.services import Services
from tests.network_lab import Lab, a_lab, ask, command, fetch, isolated, lookup, processes, services_of, until

pytestmark = pytest.mark.root


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as lab:
        yield lab


def web(lab: Lab, *addresses: str, name: str = "web") -> ServiceRules:
    return ServiceRules("default", name, lab.cluster_ip, (ServicePort(80, 8080),), addresses)


def dnsmasq(lab: Lab) -> list[int]:
    return processes(f"--pid-file={lab.run_dir}")


def answers(lab: Lab, netns: str, services: Services, name: str = "web.default.svc.cluster.local") -> bool:
    return f"Address: {lab.cluster_ip}" in lookup(netns, name, services.nameserver)


def test_both_pods_of_a_service_answer_pods_and_the_machine(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            one, two, client = await asyncio.gather(*map(network.attach, ("one", "two", "client")))
            lab.listen(one.path, 8080, "one")
            lab.listen(two.path, 8080, "two")
            await services.sync([web(lab, one.ip, two.ip)])
            assert not services.degraded
            # 40 times the same of two at random: once in 10^12.
            said = {fetch(client.path, lab.cluster_ip, 80) for _ in range(40)}
            assert said == {f"one {client.ip}", f"two {client.ip}"}  # they see who asks, not the machine
            assert {fetch("", lab.cluster_ip, 80).split()[0] for _ in range(40)} == {"one", "two"}

    asyncio.run(scenario())


def test_a_pod_reaches_itself_through_its_service(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            lab.listen(pod.path, 8080, "self")
            await services.sync([web(lab, pod.ip)])
            assert fetch(pod.path, lab.cluster_ip, 80) == f"self {pod.gateway}"

    asyncio.run(scenario())


def test_a_service_without_pods_and_a_port_that_it_has_not_are_refused_at_once(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            lab.listen(pod.path, 8080, "pod")
            await services.sync([web(lab)])
            assert fetch(pod.path, lab.cluster_ip, 80) == "ConnectionRefusedError"
            assert fetch("", lab.cluster_ip, 80) == "ConnectionRefusedError"
            await services.sync([web(lab, pod.ip)])
            assert fetch(pod.path, lab.cluster_ip, 80).startswith("pod ")
            assert fetch(pod.path, lab.cluster_ip, 81) == "ConnectionRefusedError"

    asyncio.run(scenario())


def test_a_udp_flow_follows_its_service_to_another_pod(lab: Lab) -> None:
    """Same client, same port: the kernel remembers where the flow went, and has to be told otherwise."""

    def udp(*addresses: str) -> ServiceRules:
        return ServiceRules("default", "udp", lab.cluster_ip, (ServicePort(53, 5353, protocol="UDP"),), addresses)

    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            one, two, client = await asyncio.gather(*map(network.attach, ("one", "two", "client")))
            lab.listen(one.path, 5353, "one", udp=True)
            lab.listen(two.path, 5353, "two", udp=True)
            await services.sync([udp(one.ip)])
            assert ask(client.path, lab.cluster_ip, 53) == f"one {client.ip}"
            assert ask(client.path, lab.cluster_ip, 53) == f"one {client.ip}"
            await services.sync([udp(two.ip)])
            assert ask(client.path, lab.cluster_ip, 53) == f"two {client.ip}"
            await services.sync([])
            await services.sync([udp()])
            assert ask(client.path, lab.cluster_ip, 53) == "ConnectionRefusedError"

    asyncio.run(scenario())


def test_names_are_resolved_inside_a_pod_and_follow_changes_without_a_restart(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            assert services.nameserver == ""
            pod = await network.attach("pod")
            await services.sync([web(lab)])
            assert services.nameserver == pod.gateway
            await until(lambda: answers(lab, pod.path, services), "the name")
            (pid,) = dnsmasq(lab)
            await services.sync([web(lab), web(lab, name="new")])
            await until(lambda: answers(lab, pod.path, services, "new.default.svc.cluster.local"), "the new name")
            await services.sync([web(lab, name="new")])
            await until(lambda: not answers(lab, pod.path, services), "the old name to be forgotten")
            assert "NXDOMAIN" in lookup(pod.path, "web.default.svc.cluster.local", services.nameserver)
            assert dnsmasq(lab) == [pid]

    asyncio.run(scenario())


def test_dnsmasq_and_the_table_are_there_only_while_a_service_is(lab: Lab) -> None:
    def table() -> bool:
        return f"{lab.config.nft_table}_services" in command("nft", "list", "tables")

    async def scenario() -> None:
        async with services_of(lab) as (_, services):
            await services.sync([])
            assert not dnsmasq(lab)
            assert not table()
            await services.sync([web(lab)])
            assert len(dnsmasq(lab)) == 1
            assert table()
            await services.sync([])
            assert not dnsmasq(lab)
            assert not table()
            assert services.nameserver == ""

    asyncio.run(scenario())


def test_a_killed_dnsmasq_comes_back(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            await services.sync([web(lab)])
            (killed,) = dnsmasq(lab)
            os.kill(killed, signal.SIGKILL)
            await until(lambda: [p for p in dnsmasq(lab) if p != killed], "another dnsmasq")
            await until(lambda: answers(lab, pod.path, services), "an answer")

    asyncio.run(scenario())


def test_dnsmasq_leaves_no_zombie_where_orphans_are_adopted(lab: Lab) -> None:
    """As in edged, which adopts its containers' monitors: a daemon's fork in between becomes its child, too."""
    become_subreaper()

    def children() -> set[int]:
        return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}

    async def scenario() -> None:
        before = children()
        async with services_of(lab) as (_, services):
            await services.sync([web(lab)])
            assert dnsmasq(lab)
            await until(lambda: children() - before <= set(processes(str(lab.run_dir))), "the orphan to be reaped")
            await services.sync([])
            await until(lambda: children() - before <= set(processes(str(lab.run_dir))), "dnsmasq to be reaped")

    asyncio.run(scenario())


def test_the_next_daemon_takes_over_dnsmasq_and_the_rules(lab: Lab) -> None:
    script = """
from edged.model import ServicePort, ServiceRules
async def main():
    await Network(config, run_dir).open()
    services = Services(config, run_dir)
    await services.open()
    await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),))])
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    isolated(lab, script.replace("CLUSTER_IP", repr(lab.cluster_ip)))
    (pid,) = dnsmasq(lab)
    command("nft", "delete", "table", "ip", f"{lab.config.nft_table}_services")

    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            assert services.applied == (web(lab),)
            assert services.nameserver == (await network.attach("pod")).gateway
            assert dnsmasq(lab) == [pid]
            assert fetch("", lab.cluster_ip, 80) == "ConnectionRefusedError"  # applied anew
            os.kill(pid, signal.SIGKILL)
            await until(lambda: [p for p in dnsmasq(lab) if p != pid], "another dnsmasq in place of the adopted one")
            await services.sync([])
            assert not dnsmasq(lab)

    asyncio.run(scenario())


def test_what_an_earlier_daemon_left_is_removed_also_where_the_run_folder_was_emptied(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (_, services):
            await services.sync([web(lab)])
        shutil.rmtree(lab.run_dir / "services")
        assert dnsmasq(lab)
        async with services_of(lab) as (_, services):
            assert services.applied == ()
            assert not dnsmasq(lab)
            assert f"{lab.config.nft_table}_services" not in command("nft", "list", "tables")

    asyncio.run(scenario())


def test_the_same_rules_again_change_nothing(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (_, services):
            await services.sync([web(lab, "10.0.0.1")])
            table = f"{lab.config.nft_table}_services"
            before = command("nft", "-a", "list", "table", "ip", table)
            files = {p: p.stat().st_mtime_ns for p in (lab.run_dir / "services").iterdir()}
            await services.sync([web(lab, "10.0.0.1")])
            assert command("nft", "-a", "list", "table", "ip", table) == before  # handles grow with every change
            assert {p: p.stat().st_mtime_ns for p in (lab.run_dir / "services").iterdir()} == files

    asyncio.run(scenario())


def test_flushed_rules_are_put_back(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            lab.listen(pod.path, 8080, "pod")
            await services.sync([web(lab, pod.ip)])
            table = f"{lab.config.nft_table}_services"
            command("nft", "delete", "table", "ip", table)
            await until(lambda: table in command("nft", "list", "tables"), "the table to come back")
            assert fetch("", lab.cluster_ip, 80).startswith("pod ")

    asyncio.run(scenario())


def test_a_service_that_makes_no_sense_is_named_and_the_others_work(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            lab.listen(pod.path, 8080, "pod")
            bad = ServiceRules("default", "bad", "1.2.3.4 }; flush ruleset #", (ServicePort(80, 80),), ())
            await services.sync([bad, web(lab, pod.ip)])
            assert any("default/bad is left out" in sentence for sentence in services.degraded)
            assert fetch(pod.path, lab.cluster_ip, 80).startswith("pod ")

    asyncio.run(scenario())


def test_without_dnsmasq_services_work_by_address_and_the_node_says_so(lab: Lab) -> None:
    only_nft = lab.run_dir.parent / "bin"
    only_nft.mkdir()
    (only_nft / "nft").symlink_to("/usr/sbin/nft")
    script = """
from edged.model import ServicePort, ServiceRules
async def main():
    network, services = Network(config, run_dir), Services(config, run_dir)
    await network.open()
    await services.open()
    await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),))])
    print(services.degraded, repr(services.nameserver))
    await services.close()
    await network.close()
asyncio.run(main())
"""
    said = isolated(lab, script.replace("CLUSTER_IP", repr(lab.cluster_ip)), {"PATH": str(only_nft)})
    assert "dnsmasq is not installed" in said
    assert said.endswith("''\n")
    assert fetch("", lab.cluster_ip, 80) == "ConnectionRefusedError"


def test_dnsmasq_gives_up_root_where_its_files_can_be_read(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (_, services):
            await services.sync([web(lab)])
            (pid,) = dnsmasq(lab)
            user = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("Uid:"))
            assert user.split()[1] != "0"

    asyncio.run(scenario())


def test_many_services_with_names_as_long_as_can_be_are_one_transaction(lab: Lab) -> None:
    base = f"198.19.{lab.number % 256}"
    long = "x" * 63
    many = [
        ServiceRules(
            f"{n:03}{long[3:]}",
            f"s{n:03}{long[4:]}",
            f"{base}.{n}",
            (ServicePort(53, 53, protocol="UDP"), ServicePort(53, 53), ServicePort(65535, 1, protocol="SCTP")),
            tuple(f"10.0.{n}.{i}" for i in range(n % 20)),
        )
        for n in range(200)
    ]

    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            await services.sync(many)
            assert not services.degraded
            name = f"s199{long[4:]}.199{long[3:]}.svc.cluster.local"
            await until(lambda: f"Address: {base}.199" in lookup(pod.path, name, services.nameserver), "the last name")
            assert fetch(pod.path, f"{base}.0", 53) == "ConnectionRefusedError"

    asyncio.run(scenario())
