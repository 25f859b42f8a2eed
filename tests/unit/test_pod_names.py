"""What a pod finds in /etc/hosts and /etc/resolv.conf, and which kernel parameters are whose."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import PermanentError
from edged.model import Dns, DnsPolicy, HostAlias, Pod
from edged.runtime.names import NamePolicy, full_name, hosts_file, parse_resolv_conf, policy_of, resolv_conf
from edged.runtime.sysctls import path_of, split

POD = Pod("shop", "web-1", "uid", ())
MACHINE = Dns(("9.9.9.9", "1.1.1.1"), ("lan",), ("timeout:2", "ndots:1"))
DOMAIN = "cluster.local"


def resolved(names: NamePolicy, nameserver: str = "10.88.0.1", machine: Dns = MACHINE) -> Dns:
    return parse_resolv_conf(resolv_conf("shop", names, nameserver, DOMAIN, machine))


def test_a_pod_finds_itself_under_its_full_name_first() -> None:
    pod = msgspec.structs.replace(POD, hostname="db-0", subdomain="db")
    assert full_name(pod, DOMAIN) == "db-0.db.shop.svc.cluster.local"
    assert "10.88.0.5\tdb-0.db.shop.svc.cluster.local db-0\n" in hosts_file(pod, "10.88.0.5", DOMAIN)
    assert "10.88.0.5\tweb-1\n" in hosts_file(POD, "10.88.0.5", DOMAIN)


def test_aliases_come_last_in_the_order_given() -> None:
    pod = msgspec.structs.replace(
        POD, host_aliases=(HostAlias("10.0.0.1", ("a.example", "a")), HostAlias("fd00::1", ("b.example",)))
    )
    assert hosts_file(pod, "10.88.0.5", DOMAIN).endswith("10.0.0.1\ta.example a\nfd00::1\tb.example\n")


def test_a_pod_in_the_machines_network_sees_the_machines_hosts_and_its_own_aliases() -> None:
    pod = msgspec.structs.replace(POD, host_network=True, host_aliases=(HostAlias("10.0.0.1", ("a.example",)),))
    text = hosts_file(pod, "192.0.2.2", DOMAIN, "127.0.0.1 localhost\n192.168.1.9 printer\n")
    assert "192.168.1.9 printer\n" in text
    assert text.endswith("10.0.0.1\ta.example\n")
    assert "web-1" not in text


def test_no_value_becomes_a_line_of_its_own() -> None:
    pod = msgspec.structs.replace(POD, host_aliases=(HostAlias("10.0.0.1", ("a\n6.6.6.6 bank.example",)),))
    assert not [x for x in hosts_file(pod, "", DOMAIN).splitlines() if x.startswith("6.6.6.6")]
    own = Dns(("9.9.9.9\nnameserver 6.6.6.6",), ("a\nnameserver 6.6.6.6",))
    text = resolv_conf("shop", NamePolicy(DnsPolicy.NONE, own), "", DOMAIN, MACHINE)
    assert "nameserver 6.6.6.6" not in text.splitlines()


def test_names_of_services_come_before_the_machines_search_list() -> None:
    assert resolved(NamePolicy()) == Dns(
        ("10.88.0.1",), ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"), ("ndots:5",)
    )


def test_while_nobody_answers_for_services_a_pod_asks_whom_the_machine_asks() -> None:
    assert resolved(NamePolicy(), nameserver="") == MACHINE


def test_in_the_machines_network_only_one_policy_means_services_first() -> None:
    def of(policy: DnsPolicy) -> tuple[str, ...]:
        return resolved(NamePolicy(policy, host_network=True)).nameservers

    assert of(DnsPolicy.CLUSTER_FIRST) == of(DnsPolicy.DEFAULT) == MACHINE.nameservers
    assert of(DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET) == ("10.88.0.1",)


def test_a_stub_on_loopback_is_asked_only_from_the_machines_network() -> None:
    machine = Dns(("127.0.0.53", "9.9.9.9"))
    assert resolved(NamePolicy(DnsPolicy.DEFAULT), machine=machine).nameservers == ("9.9.9.9",)
    assert resolved(NamePolicy(host_network=True), machine=machine).nameservers == ("127.0.0.53", "9.9.9.9")


def test_without_a_policy_only_the_pods_own_settings_count() -> None:
    own = Dns(("8.8.8.8",), ("example.org",), ("edns0", "ndots:2"))
    assert resolved(NamePolicy(DnsPolicy.NONE, own)) == own


def test_the_pods_own_settings_are_added_and_its_options_win() -> None:
    own = Dns(("8.8.8.8", "10.88.0.1"), ("lan", "example.org"), ("ndots:2", "edns0"))
    assert resolved(NamePolicy(own=own)) == Dns(
        ("10.88.0.1", "8.8.8.8"),
        ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "example.org"),
        ("ndots:2", "edns0"),
    )


def test_what_no_resolver_would_read_is_left_out() -> None:
    own = Dns(tuple(f"10.0.0.{n}" for n in range(9)), tuple(f"s{n}.example" for n in range(99)))
    found = resolved(NamePolicy(DnsPolicy.NONE, own))
    assert found.nameservers == own.nameservers[:3]
    assert found.searches == own.searches[:32]
    long = resolved(NamePolicy(DnsPolicy.NONE, Dns(("1.1.1.1",), tuple(f"{n:0250}" for n in range(20)))))
    assert len(" ".join(long.searches)) <= 2048
    assert len(long.searches) == 8


def test_resolv_conf_is_read_as_the_resolver_reads_it() -> None:
    text = "# comment\nsearch a b\ndomain c\nnameserver 1.1.1.1 # why\n; x\noptions a b:1\noptions c\nsortlist x\n"
    assert parse_resolv_conf(text) == Dns(("1.1.1.1",), ("c",), ("a", "b:1", "c"))


@given(st.text(max_size=200))
def test_no_content_of_the_machines_file_is_a_surprise(text: str) -> None:
    assert parse_resolv_conf(resolv_conf("shop", NamePolicy(), "", DOMAIN, parse_resolv_conf(text))) is not None


def test_what_a_sandbox_keeps_is_enough_to_write_the_file_again() -> None:
    pod = msgspec.structs.replace(POD, dns_policy=DnsPolicy.DEFAULT, dns=Dns(("1.1.1.1",)), host_network=True)
    assert policy_of(pod) == NamePolicy(DnsPolicy.DEFAULT, Dns(("1.1.1.1",)), True)


def test_kernel_parameters_are_sorted_by_namespace() -> None:
    assert split((("net.core.somaxconn", "9"), ("kernel.shmmax", "1"), ("fs.mqueue.msg_max", "2"), ("vm.x", "3"))) == (
        (("net.core.somaxconn", "9"),),
        (("kernel.shmmax", "1"), ("fs.mqueue.msg_max", "2")),
        (("vm.x", "3"),),
    )


def test_the_first_separator_of_a_parameters_name_decides() -> None:
    assert path_of("net.ipv4.conf.eth0/1.forwarding") == "net/ipv4/conf/eth0.1/forwarding"
    assert path_of("net/ipv4/conf/eth0.1/forwarding") == "net/ipv4/conf/eth0.1/forwarding"


@pytest.mark.parametrize("name", ["", "net..ipv4", "../etc/passwd", "net/../../etc/passwd", "/etc", "a b", "é"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(PermanentError, match="is not the name of a kernel parameter"):
        path_of(name)
