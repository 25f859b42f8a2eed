"""Names of Services by a real dnsmasq: records of each kind, and what happens to dnsmasq itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator

import pytest

from edged.model import ServicePort, ServiceRules
from edged.runtime.services import Services
from tests.network_lab import Lab, a_lab, command, enter, isolated, lookup, processes, services_of, until

pytestmark = pytest.mark.root

ASK_DNS = """
import socket, struct, sys
kind = {"A": 1, "AAAA": 28, "SRV": 33, "PTR": 12}[sys.argv[3]]
name = b"".join(bytes([len(p)]) + p for p in sys.argv[2].encode().split(b".")) + b"\\0"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(30); s.connect((sys.argv[1], 53))
s.send(struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 1))
a = s.recv(2000)
flags, _, answers = struct.unpack_from("!HHH", a, 2)
at = 12 + len(name) + 4
said = []
for _ in range(answers):
    at += 2 if a[at] & 0xC0 else a.index(0, at) - at + 1
    got, _, _, length = struct.unpack_from("!HHIH", a, at)
    data = a[at + 10 : at + 10 + length]
    said.append(socket.inet_ntoa(data) if got == 1 else str(struct.unpack_from("!H", data, 4)[0]) if got == 33 else "?")
    at += 10 + length
print(flags & 15, *sorted(said))
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as lab:
        yield lab


def asked(netns: str, server: str, name: str, kind: str) -> str:
    """RCODE (0 = no error, 3 = no such name) and the answers' addresses or ports."""
    return command(*enter(netns), sys.executable, "-I", "-S", "-c", ASK_DNS, server, name, kind).strip()


def web(lab: Lab, *ports: ServicePort, name: str = "web") -> ServiceRules:
    return ServiceRules("default", name, lab.cluster_ip, ports or (ServicePort(80, 8080, "http"),))


def dnsmasq(lab: Lab) -> list[int]:
    return processes(f"--pid-file={lab.run_dir}")


def test_every_kind_of_record_is_answered_and_ipv6_is_answered_at_once_with_nothing(lab: Lab) -> None:
    """A resolver asks for A and AAAA together: no answer to one, or "no such name", would spoil the other."""
    headless = ServiceRules(
        "shop", "db", "", (ServicePort(5432, 5432, "sql"),), ("10.1.1.1", "10.1.1.2"), (("db-0", "10.1.1.1"),)
    )

    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            await services.sync([web(lab), headless])
            await until(lambda: dnsmasq(lab), "dnsmasq")

            def of(name: str, kind: str) -> str:
                return asked(pod.path, services.nameserver, f"{name}.svc.cluster.local", kind)

            assert of("web.default", "A") == f"0 {lab.cluster_ip}"
            assert of("web.default", "AAAA") == "0"
            assert of("nobody.default", "A") == of("nobody.default", "AAAA") == "3"
            assert of("db.shop", "A") == "0 10.1.1.1 10.1.1.2"
            assert of("db-0.db.shop", "A") == "0 10.1.1.1"
            assert of("db-0.db.shop", "AAAA") == "0"
            assert of("_http._tcp.web.default", "SRV") == "0 80"
            assert of("_sql._tcp.db.shop", "SRV") == "0 5432"

    asyncio.run(scenario())


def test_named_ports_change_with_their_service_and_pods_that_come_and_go_restart_nothing(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")

            def srv() -> str:
                return asked(pod.path, services.nameserver, "_http._tcp.web.default.svc.cluster.local", "SRV")

            await services.sync([web(lab)])
            assert srv() == "0 80"
            (first,) = dnsmasq(lab)
            with_pods = ServiceRules("default", "web", lab.cluster_ip, (ServicePort(80, 8080, "http"),), ("10.1.1.1",))
            await services.sync([with_pods])
            assert dnsmasq(lab) == [first]
            await services.sync([web(lab, ServicePort(81, 8080, "http"))])
            assert srv() == "0 81"
            (second,) = dnsmasq(lab)
            assert second != first
            settings = [p.name for p in (lab.run_dir / "services").glob("dnsmasq-*.conf")]
            assert len(settings) == 1

    asyncio.run(scenario())


def test_a_dnsmasq_that_hangs_is_replaced_when_something_changes(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            await services.sync([web(lab)])
            (hanging,) = dnsmasq(lab)
            os.kill(hanging, signal.SIGSTOP)
            await services.sync([web(lab), web(lab, ServicePort(81, 8080), name="new")])
            assert hanging not in dnsmasq(lab)
            assert not services.degraded
            assert asked(pod.path, services.nameserver, "new.default.svc.cluster.local", "A") == f"0 {lab.cluster_ip}"

    asyncio.run(scenario())


def test_a_dnsmasq_that_hangs_is_not_taken_over_by_the_next_daemon(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (_, services):
            await services.sync([web(lab)])
            (hanging,) = dnsmasq(lab)
            os.kill(hanging, signal.SIGSTOP)
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            assert hanging not in dnsmasq(lab)
            assert asked(pod.path, services.nameserver, "web.default.svc.cluster.local", "A") == f"0 {lab.cluster_ip}"

    asyncio.run(scenario())


def test_while_somebody_has_the_port_services_work_by_address_and_names_come_by_themselves(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
                thief.bind((pod.gateway, 53))
                await services.sync([web(lab)])
                assert services.nameserver == ""
                assert any("names of Services can't be served for now" in s for s in services.degraded)
            await until(lambda: services.nameserver, "the port to be free again")
            assert not services.degraded
            assert asked(pod.path, services.nameserver, "web.default.svc.cluster.local", "A") == f"0 {lab.cluster_ip}"

    asyncio.run(scenario())


def test_whom_the_machine_asks_for_other_names_is_followed(lab: Lab) -> None:
    """resolv.conf written anew, and the link to it turned to another file, as network managers do."""
    script = """
import subprocess
from edged.model import ServicePort, ServiceRules
from edged.runtime import nameserver
folder = run_dir.parent
link = folder / "resolv.conf"
nameserver.RESOLV_CONF = link
upstreams = []
def upstream(address, answer):
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=",
            f"--listen-address={address}", "--bind-interfaces", f"--address=/outside.test/{answer}", "--user=root"]
    upstreams.append(subprocess.Popen(argv))
async def wait(pod, server, answer):
    for _ in range(1000):
        asked = ["nsenter", f"--net={pod.path}", "busybox", "nslookup", "-type=a", "outside.test", server]
        child = await asyncio.create_subprocess_exec(*asked, stdout=subprocess.PIPE)
        if f"Address: {answer}".encode() in (await child.communicate())[0]:
            print("followed", answer)
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited in vain for {answer}")
async def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for number in (2, 3, 4):
        upstream(f"127.0.0.{number}", f"10.0.0.{number}")
    (folder / "one").mkdir(), (folder / "two").mkdir()
    (folder / "one" / "conf").write_text("nameserver 127.0.0.2\\n")
    (folder / "two" / "conf").write_text("nameserver 127.0.0.4\\n")
    link.symlink_to(folder / "one" / "conf")
    network, services = Network(config, run_dir), Services(config, run_dir)
    await network.open()
    await services.open()
    try:
        pod = await network.attach("pod")
        await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),))])
        await wait(pod, services.nameserver, "10.0.0.2")
        (folder / "one" / "new").write_text("nameserver 127.0.0.3\\n")
        (folder / "one" / "new").rename(folder / "one" / "conf")
        await wait(pod, services.nameserver, "10.0.0.3")
        (folder / "link").symlink_to(folder / "two" / "conf")
        (folder / "link").rename(link)
        await services.network_changed()
        await wait(pod, services.nameserver, "10.0.0.4")
    finally:
        await services.teardown()
        await network.teardown()
        for one in upstreams:
            one.kill(), one.wait()
asyncio.run(main())
"""
    said = isolated(lab, script.replace("CLUSTER_IP", repr(lab.cluster_ip)), own_net=True)
    assert said.splitlines() == ["followed 10.0.0.2", "followed 10.0.0.3", "followed 10.0.0.4"]


def test_without_any_name_server_of_the_machine_names_of_services_are_served_all_the_same(lab: Lab) -> None:
    """A boot without network: resolv.conf is not there, nor the folder that the link to it leads to."""
    script = """
import subprocess
from edged.model import ServicePort, ServiceRules
from edged.runtime import nameserver
nameserver.RESOLV_CONF = run_dir.parent / "resolv.conf"
nameserver.RESOLV_CONF.symlink_to("/run/nobody/made/this/resolv.conf")
async def main():
    network, services = Network(config, run_dir), Services(config, run_dir)
    await network.open()
    await services.open()
    pod = await network.attach("pod")
    await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),))])
    asked = ["nsenter", f"--net={pod.path}", "busybox", "nslookup", "-type=a", "web.default.svc.cluster.local"]
    print(services.degraded)
    print(subprocess.run([*asked, services.nameserver], capture_output=True, text=True).stdout)
    await services.teardown()
    await network.teardown()
asyncio.run(main())
"""
    said = isolated(lab, script.replace("CLUSTER_IP", repr(lab.cluster_ip)), own_net=True)
    assert said.startswith("()\n")
    assert f"Address: {lab.cluster_ip}" in said


def test_a_killed_dnsmasq_is_back_with_the_names_of_now(lab: Lab) -> None:
    async def scenario() -> None:
        async with services_of(lab) as (network, services):
            pod = await network.attach("pod")
            assert isinstance(services, Services)
            await services.sync([web(lab)])
            (killed,) = dnsmasq(lab)
            os.kill(killed, signal.SIGKILL)
            await services.sync([web(lab), web(lab, ServicePort(81, 8080), name="new")])
            name = "new.default.svc.cluster.local"
            await until(
                lambda: f"Address: {lab.cluster_ip}" in lookup(pod.path, name, services.nameserver), "the new name"
            )

    asyncio.run(scenario())
