"""Ports of the machine that lead to pods: from outside, from the machine, from pods; and what stays shut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edged.model import HostPort, ServicePort, ServiceRules
from edged.runtime.services import Services
from tests.network_lab import Lab, a_lab, ask, command, enter, fetch, isolated, services_of, until
from tests.ports import free_port

pytestmark = pytest.mark.root


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as lab:
        yield lab


def test_a_host_port_answers_outside_the_machine_and_pods_and_outside_keeps_its_address(lab: Lab) -> None:
    path, beyond, machine = lab.outside()

    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod, other = await asyncio.gather(network.attach("pod"), network.attach("other"))
            lab.listen(pod.path, 8080, "pod")
            port = free_port()
            await services.sync([], [HostPort("TCP", port, pod.ip, 8080)])
            assert not services.degraded
            assert fetch(path, machine, port) == f"pod {beyond}"
            assert fetch("", "127.0.0.1", port) == f"pod {pod.gateway}"
            assert fetch("", machine, port).startswith("pod ")
            assert fetch(other.path, machine, port) == f"pod {other.ip}"
            assert fetch(pod.path, machine, port) == f"pod {pod.gateway}"  # itself
            await services.sync([])
            assert fetch("", "127.0.0.1", port) == "ConnectionRefusedError"
            assert Path(f"/proc/sys/net/ipv4/conf/{lab.config.bridge}/route_localnet").read_text() == "0\n"

    asyncio.run(scenario())


def test_a_host_port_on_one_address_is_not_there_on_the_others(lab: Lab) -> None:
    path, _, machine = lab.outside()

    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            one, two = await asyncio.gather(network.attach("one"), network.attach("two"))
            lab.listen(one.path, 8080, "one")
            lab.listen(two.path, 8080, "two")
            port = free_port()
            await services.sync([], [HostPort("TCP", port, one.ip, 8080, "127.0.0.1")])
            assert fetch("", "127.0.0.1", port).startswith("one ")
            assert fetch(path, machine, port) == "ConnectionRefusedError"
            shared = [HostPort("TCP", port, one.ip, 8080, machine), HostPort("TCP", port, two.ip, 8080)]
            await services.sync([], shared)
            assert fetch(path, machine, port).startswith("one ")
            assert fetch("", "127.0.0.1", port).startswith("two ")

    asyncio.run(scenario())


def test_a_udp_host_port_follows_to_another_pod(lab: Lab) -> None:
    path, beyond, machine = lab.outside()

    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            one, two = await asyncio.gather(network.attach("one"), network.attach("two"))
            lab.listen(one.path, 5353, "one", udp=True)
            lab.listen(two.path, 5353, "two", udp=True)
            port = free_port(socket.SOCK_DGRAM)
            assert ask(path, machine, port) == "ConnectionRefusedError"  # a flow that is remembered from before
            await services.sync([], [HostPort("UDP", port, one.ip, 5353)])
            assert ask(path, machine, port) == f"one {beyond}"
            await services.sync([], [HostPort("UDP", port, two.ip, 5353)])
            assert ask(path, machine, port) == f"two {beyond}"

    asyncio.run(scenario())


SPOOF = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
port = int(sys.argv[3])
udp = struct.pack("!HHHH", 5555, port, 8 + 5, 0) + b"steal"
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                 socket.inet_aton(sys.argv[1]), socket.inet_aton(sys.argv[2]))
s.sendto(ip + udp, (sys.argv[2], 0))
"""


def test_a_pod_does_not_reach_what_listens_on_the_machines_loopback(lab: Lab) -> None:
    """With route_localnet alone it would: CVE-2020-8558."""

    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            lab.listen(pod.path, 8080, "pod")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as private:
                private.bind(("127.0.0.1", 0))
                private.setblocking(False)
                port = private.getsockname()[1]
                await services.sync([], [HostPort("TCP", free_port(), pod.ip, 8080)])
                assert Path(f"/proc/sys/net/ipv4/conf/{lab.config.bridge}/route_localnet").read_text() == "1\n"
                # The pod sends 127.0.0.1's packets to its gateway instead of its own loopback.
                command(*enter(pod.path), "ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
                command(*enter(pod.path), "ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
                command(
                    *enter(pod.path), "ip", "route", "add", "127.0.0.0/8", "via", pod.gateway, "dev", "eth0", "onlink"
                )
                for name in ("all", "eth0"):
                    setting = f"net.ipv4.conf.{name}.route_localnet=1"
                    command(*enter(pod.path), "sysctl", "-w", setting)
                script = ("python3", "-I", "-S", "-c", SPOOF)
                command(*enter(pod.path), *script, pod.ip, "127.0.0.1", str(port))
                command(*enter(pod.path), *script, "127.0.0.1", pod.gateway, str(port))
                # It has been through the machine once what was sent after it is answered.
                assert fetch(pod.path, pod.gateway, free_port()) == "ConnectionRefusedError"
                with pytest.raises(BlockingIOError):
                    private.recv(100)

    asyncio.run(scenario())


def test_services_and_host_ports_change_in_one_transaction_and_outlive_the_daemon(lab: Lab) -> None:
    async def scenario() -> None:
        port = free_port()
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            lab.listen(pod.path, 8080, "pod")
            web = ServiceRules("default", "web", lab.cluster_ip, (ServicePort(80, 8080),), (pod.ip,))
            await services.sync([web], [HostPort("TCP", port, pod.ip, 8080)])
        assert fetch("", "127.0.0.1", port).startswith("pod ")
        async with services_of(lab) as (_, services):
            assert fetch("", "127.0.0.1", port).startswith("pod ")
            assert fetch("", lab.cluster_ip, 80).startswith("pod ")
            await services.sync([])
            assert fetch("", "127.0.0.1", port) == "ConnectionRefusedError"

    asyncio.run(scenario())


def test_what_a_daemon_without_host_ports_wrote_is_taken_over(lab: Lab) -> None:
    web = ServiceRules("default", "web", lab.cluster_ip, (ServicePort(80, 8080),))
    (lab.run_dir / "services").mkdir(parents=True)
    (lab.run_dir / "services" / "applied").write_bytes(msgspec.json.encode((web,)))

    async def scenario() -> None:
        async with services_of(lab) as (_, services):
            assert services.applied == (web,)
            assert fetch("", lab.cluster_ip, 80) == "ConnectionRefusedError"

    asyncio.run(scenario())


def test_a_pod_that_serves_names_for_the_house_does_not_take_them_from_the_other_pods(lab: Lab) -> None:
    """Host port 53, as an ad blocker has it, in a machine of its own."""
    script = """
import subprocess
from edged.model import HostPort, ServicePort, ServiceRules
async def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    network, services = Network(config, run_dir), Services(config, run_dir)
    await network.open()
    await services.open()
    pod, client = await network.attach("pod"), await network.attach("client")
    rules = [ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),))]
    await services.sync(rules, [HostPort("UDP", 53, pod.ip, 53), HostPort("TCP", 53, pod.ip, 53)])
    asked = ["nsenter", f"--net={client.path}", "busybox", "nslookup", "-type=a", "web.default.svc.cluster.local"]
    print(subprocess.run([*asked, services.nameserver], capture_output=True, text=True).stdout)
    await services.teardown()
    await network.teardown()
asyncio.run(main())
"""
    said = isolated(lab, script.replace("CLUSTER_IP", repr(lab.cluster_ip)), own_net=True)
    assert f"Address: {lab.cluster_ip}" in said


def test_a_host_port_comes_back_with_a_table_that_was_flushed(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            lab.listen(pod.path, 8080, "pod")
            port = free_port()
            await services.sync([], [HostPort("TCP", port, pod.ip, 8080)])
            table = f"{lab.config.nft_table}_services"
            command("nft", "flush", "table", "ip", table)  # the table stays, its rules go
            await until(lambda: "dnat" in command("nft", "list", "table", "ip", table), "the rules to come back")
            assert fetch("", "127.0.0.1", port).startswith("pod ")

    asyncio.run(scenario())


def test_host_ports_need_no_service_and_no_dnsmasq(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            await services.sync([], [HostPort("TCP", free_port(), pod.ip, 8080)])
            assert isinstance(services, Services)
            assert services.nameserver == ""
            assert not (lab.run_dir / "services" / "dnsmasq.pid").exists()

    asyncio.run(scenario())
