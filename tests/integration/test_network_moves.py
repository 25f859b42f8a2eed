"""The machine's network changes while the node runs, or was never there: each test in a network of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.network_lab import Lab, a_lab, isolated

pytestmark = pytest.mark.root

# What every script begins with. `wait` gives up loudly; `run` is a command that must succeed.
TOOLS = """
import subprocess, socket
from edged.addresses import own_address
from edged.model import HostPort, ServicePort, ServiceRules
from edged.runtime.follower import Follower
def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
async def wait(condition, what):
    for _ in range(6000):
        held = condition()
        if await held if asyncio.iscoroutine(held) else held:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited in vain: {what}")
async def ended(*argv):
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL)
    return await process.wait() == 0
async def pings(netns, address):
    return await ended("nsenter", f"--net={netns}", "busybox", "ping", "-c1", "-W1", address)
async def says(address, port, expected=None):
    try:
        async with asyncio.timeout(30 if expected is None else 3):
            reader, writer = await asyncio.open_connection(address, port)
            said = (await reader.read(100)).decode()
            writer.close()
    except OSError as e:
        said = type(e).__name__
    return said if expected is None else said == expected
LISTEN = '''
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1]))); s.listen(64); print("ready", flush=True)
while True:
    c, peer = s.accept(); c.sendall(f"hello {peer[0]}".encode()); c.close()
'''
servers = []
def listen(netns, port):
    argv = ["nsenter", f"--net={netns}", sys.executable, "-I", "-S", "-c", LISTEN, str(port)]
    servers.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
    assert servers[-1].stdout.readline() == b"ready\\n"
run("ip", "link", "set", "lo", "up")
network, services = Network(config, run_dir), Services(config, run_dir)
woken = []
follower = Follower(network, services, lambda: woken.append("names"), lambda: woken.append("wake"))
async def main():
    try:
        await network.open()
        await services.open()
        follower.open()
        await scenario()
    finally:
        await follower.close()
        await services.teardown()
        await network.teardown()
        for s in servers:
            s.kill(); s.wait(); s.stdout.close()
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as lab:
        yield lab


def play(lab: Lab, scenario: str) -> list[str]:
    """Run the body of an `async def scenario()` on a machine without any interface but loopback."""
    body = "".join(f"    {line}\n" for line in scenario.strip().splitlines())
    script = f"{TOOLS}CLUSTER_IP = {lab.cluster_ip!r}\nasync def scenario():\n{body}asyncio.run(main())\n"
    return isolated(lab, script, own_net=True).splitlines()


def test_without_any_network_services_answer_pods_and_the_machine(lab: Lab) -> None:
    """A greenhouse: no gateway, no cable, nothing. The machine has no default route."""
    said = play(
        lab,
        """
pod, client = await asyncio.gather(network.attach("pod"), network.attach("client"))
listen(pod.path, 8080)
empty = ServiceRules("default", "empty", CLUSTER_IP[:-1] + "0", (ServicePort(80, 8080),))
await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),), (pod.ip,))],
                    [HostPort("TCP", 9000, pod.ip, 8080)])
print(run("ip", "route", "show", "default"))
print(services.degraded)
print(await says(CLUSTER_IP, 80))
print(await says("127.0.0.1", 9000))
print(run("nsenter", f"--net={client.path}", "busybox", "nc", "-w30", CLUSTER_IP, "80"))
print(repr(own_address()))
await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),))])
print(await says(CLUSTER_IP, 80))
await services.sync([])
print(run("ip", "route", "show", "proto", "237"))
""",
    )
    gateway, client = f"{lab.prefix}.1", f"{lab.prefix}.3"
    assert said[0] == ""
    assert said[1:] == [
        "()",
        f"hello {gateway}",
        f"hello {gateway}",
        f"hello {client}",
        "''",
        "ConnectionRefusedError",
        "",
    ]


def test_a_service_of_a_pod_in_the_machines_network_answers_pods_and_the_machine(lab: Lab) -> None:
    said = play(
        lab,
        """
run("ip", "link", "add", "up0", "type", "ifb")
run("ip", "link", "set", "up0", "up")
run("ip", "address", "add", "192.0.2.5/24", "dev", "up0")
client = await network.attach("client")
listen("/proc/self/ns/net", 8080)
await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),), (own_address(),))])
print(run("nsenter", f"--net={client.path}", "busybox", "nc", "-w30", CLUSTER_IP, "80"))
print((await says(CLUSTER_IP, 80)).split()[0])
""",
    )
    assert said == [f"hello {lab.prefix}.2", "hello"]


def test_another_address_by_dhcp_is_followed_and_the_daemon_is_woken(lab: Lab) -> None:
    said = play(
        lab,
        """
run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
for name in ("up0", "up1"):
    run("ip", "link", "set", name, "up")
for address in ("192.0.2.5", "192.0.2.77"):
    woken.clear()
    run("ip", "address", "add", f"{address}/24", "dev", "up0")
    await wait(lambda: "wake" in woken, "the news of an address")
    print(own_address(), "names" in woken)
    woken.clear()
    run("ip", "address", "del", f"{address}/24", "dev", "up0")
    await wait(lambda: "wake" in woken, "the news of its loss")
    print(repr(own_address()))
""",
    )
    assert said == ["192.0.2.5 True", "''", "192.0.2.77 True", "''"]


def test_masquerading_follows_the_machine_to_another_address(lab: Lab) -> None:
    said = play(
        lab,
        """
run("ip", "netns", "add", NAME)
try:
    run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", NAME)
    run("ip", "link", "set", "up0", "up")
    run("ip", "-n", NAME, "address", "add", "192.0.2.1/24", "dev", "eth0")
    run("ip", "-n", NAME, "link", "set", "eth0", "up")
    listen(f"/run/netns/{NAME}", 7000)
    pod = await network.attach("pod")
    for address in ("192.0.2.5", "192.0.2.77"):
        run("ip", "address", "add", f"{address}/24", "dev", "up0")
        print(run("nsenter", f"--net={pod.path}", "busybox", "nc", "-w30", "192.0.2.1", "7000"))
        run("ip", "address", "del", f"{address}/24", "dev", "up0")
finally:
    run("ip", "netns", "del", NAME)
""".replace("NAME", repr(f"edmv{lab.number:x}")),
    )
    assert said == ["hello 192.0.2.5", "hello 192.0.2.77"]


def test_a_bridge_taken_away_by_somebody_is_put_back_while_the_node_runs(lab: Lab) -> None:
    said = play(
        lab,
        """
pod = await network.attach("pod")
listen(pod.path, 8080)
await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),), (pod.ip,))],
                    [HostPort("TCP", 9000, pod.ip, 8080)])
for harm in (
    ("ip", "link", "del", config.bridge),
    ("ip", "link", "set", config.bridge, "down"),
    ("ip", "address", "flush", "dev", config.bridge),
    ("sysctl", "-qw", "net.ipv4.ip_forward=0"),
):
    run(*harm)
    await wait(lambda: Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\\n", "forwarding")
    await wait(lambda: pings(pod.path, pod.gateway), f"the bridge after {harm}")
    await wait(lambda: says(CLUSTER_IP, 80, f"hello {pod.gateway}"), f"the Service after {harm}")
    await wait(lambda: says("127.0.0.1", 9000, f"hello {pod.gateway}"), f"the host port after {harm}")
    print("healed")
print(network.observe() == {"pod": pod})
""",
    )
    assert said == ["healed"] * 4 + ["True"]


def test_what_can_not_be_put_back_is_said_until_it_can(lab: Lab) -> None:
    """Somebody puts an interface of another kind in the bridge's place, and takes it away again."""
    said = play(
        lab,
        """
pod = await network.attach("pod")
run("ip", "link", "del", config.bridge)
run("ip", "link", "add", config.bridge, "type", "ifb")
await wait(lambda: follower.problem, "a sentence")
print(follower.problem)
run("ip", "link", "del", config.bridge)
await wait(lambda: not follower.problem, "the bridge to be ours again")
await wait(lambda: pings(pod.path, pod.gateway), "the bridge")
print(network.observe() == {"pod": pod})
""",
    )
    assert f"interface {lab.config.bridge} that is no bridge" in said[0]
    assert said[1:] == ["True"]


def test_a_firewall_that_is_in_the_pods_way_is_named(lab: Lab) -> None:
    said = play(
        lab,
        """
print(network.degraded)
run("nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
await network.open()
print(network.degraded)
""",
    )
    assert said[0] == "()"
    assert f"iptables -I FORWARD -i {lab.config.bridge} -j ACCEPT" in said[1]


def test_a_pods_cable_cut_by_somebody_wakes_the_daemon(lab: Lab) -> None:
    said = play(
        lab,
        """
pod = await network.attach("pod")
run("ip", "link", "del", pod.host_veth)
await wait(lambda: "wake" in woken, "the news of the loss")
print(network.observe())
""",
    )
    assert said == ["{}"]


def test_all_tables_flushed_as_the_firewalls_own_start_does_come_back(lab: Lab) -> None:
    """Debian's nftables.service begins with `flush ruleset`."""
    said = play(
        lab,
        """
pod = await network.attach("pod")
listen(pod.path, 8080)
await services.sync([ServiceRules("default", "web", CLUSTER_IP, (ServicePort(80, 8080),), (pod.ip,))])
for _ in range(3):
    run("nft", "flush", "ruleset")
    await wait(lambda: run("nft", "list", "tables").count("table ip") == 2, "both tables")
    await wait(lambda: says(CLUSTER_IP, 80, f"hello {pod.gateway}"), "the Service")
    print("healed")
""",
    )
    assert said == ["healed"] * 3


def test_a_large_ruleset_loaded_by_somebody_is_not_taken_for_a_loss(lab: Lab) -> None:
    """More news than the socket holds: the table is looked at, and nothing is put back that is there."""
    said = play(
        lab,
        """
from edged.runtime import nftables
lost = []
network._table._watch.close()  # which would put it back at once
watch = nftables.TableWatch(config.nft_table, lambda: lost.append(1))
watch.open()
watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
rules = [f"add rule ip other c ip saddr 10.0.{n // 256}.{n % 256} drop\\n" for n in range(3000)]
large = "table ip other {\\n chain c {\\n }\\n}\\n" + "".join(rules)
subprocess.run(["nft", "-f", "-"], input=large, text=True, check=True)
await wait(lambda: watch._missed, "news that were dropped")
await wait(lambda: not watch._missed, "the look at the table")
print("lost" if lost else "there", nftables.table_there(config.nft_table), nftables.table_there("nobodys"))
run("nft", "delete", "table", "ip", config.nft_table)
await wait(lambda: lost, "the real loss")
watch.close()
""",
    )
    assert said == ["there True False"]


def test_settings_of_the_machine_are_put_back_when_the_last_node_goes(lab: Lab) -> None:
    script = """
import msgspec
second = msgspec.structs.replace(config, bridge="other0", pod_cidr="10.9.8.0/24", nft_table="other")
setting = Path("/proc/sys/net/ipv4/conf/all/send_redirects")
async def main():
    for before in ("1", "0"):
        setting.write_text(before)
        said = []
        one, two = Network(config, run_dir / "one"), Network(second, run_dir / "two")
        for step in (one.open, two.open, one.teardown, two.teardown):
            await step()
            said.append(setting.read_text().strip())
        print(*said)
asyncio.run(main())
"""
    assert isolated(lab, script, own_net=True).splitlines() == ["0 0 0 1", "0 0 0 0"]


def test_a_bridge_made_by_a_version_that_kept_less_is_taken_over(lab: Lab) -> None:
    script = """
import subprocess
async def main():
    network = Network(config, run_dir)
    await network.open()
    await network.close()
    subprocess.run(["ip", "link", "set", config.bridge, "alias", "edged ip_forward=0"], check=True)
    network = Network(config, run_dir)
    await network.open()
    await network.teardown()
    print(Path("/proc/sys/net/ipv4/ip_forward").read_text().strip())
asyncio.run(main())
"""
    assert isolated(lab, script, own_net=True) == "0\n"


def test_a_line_is_a_cable_with_something_at_its_other_end(lab: Lab) -> None:
    script = """
import subprocess
from edged.addresses import has_line
def ip(*words):
    subprocess.run(["ip", "link", *words], check=True)
async def main():
    said = [has_line()]
    ip("set", "lo", "up")
    network = Network(config, run_dir)
    await network.open()
    said.append(has_line())
    ip("add", "cable0", "type", "veth", "peer", "cable1")
    ip("set", "cable0", "up")
    said.append(has_line())
    ip("set", "cable1", "up")
    said.append(has_line())
    ip("set", "cable1", "down")
    said.append(has_line())
    await network.teardown()
    print(*said)
asyncio.run(main())
"""
    assert isolated(lab, script, own_net=True) == "False False False True False\n"
