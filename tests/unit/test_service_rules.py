"""Services as nftables and hosts text: what is rendered, and what is left out with a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edged.model import HostPort, ServicePort, ServiceRules
from edged.runtime.host_ports import check_ports, stale_port_flows, translations
from edged.runtime.nameserver import dnsmasq_command
from edged.runtime.nftables import removal_script
from edged.runtime.service_names import hosts_file, settings_file
from edged.runtime.service_rules import Bridge, check, forwarding_script, stale_flows

BRIDGE = Bridge("edged0", "10.88.0.1")
WEB = ServiceRules("default", "web", "10.96.0.1", (ServicePort(80, 8080),), ("10.88.0.2", "10.88.0.3"))


def test_the_table_is_replaced_in_the_same_transaction_that_removes_the_old_one() -> None:
    script = forwarding_script("t", BRIDGE, [WEB])
    assert script.startswith("table ip t\ndelete table ip t\ntable ip t {\n")


def test_several_pods_are_picked_at_random_and_a_single_one_directly() -> None:
    script = forwarding_script("t", BRIDGE, [WEB])
    assert "dnat to numgen random mod 2 map { 0 : 10.88.0.2, 1 : 10.88.0.3 }:8080" in script
    alone = ServiceRules("default", "web", "10.96.0.1", (ServicePort(80, 8080),), ("10.88.0.2",))
    assert "dnat to 10.88.0.2:8080" in forwarding_script("t", BRIDGE, [alone])


def test_a_service_without_pods_has_no_way_in_but_its_address_is_refused() -> None:
    script = forwarding_script("t", BRIDGE, [ServiceRules("default", "web", "10.96.0.1", (ServicePort(80, 8080),))])
    assert "dnat to" not in script
    assert "elements = { 10.96.0.1 }" in script
    assert script.count("reject with tcp reset") == 2  # forwarded and local


def test_without_a_cluster_ip_there_is_no_table() -> None:
    headless = ServiceRules("default", "db", "None", (ServicePort(80, 80),), ("10.88.0.2",))
    assert forwarding_script("t", BRIDGE, []) == removal_script("t")
    assert forwarding_script("t", BRIDGE, [headless]) == removal_script("t")


def test_flows_are_forgotten_only_of_udp_services_that_changed() -> None:
    def dns(*addresses: str) -> ServiceRules:
        return ServiceRules("default", "dns", "10.96.0.53", (ServicePort(53, 53, protocol="UDP"),), addresses)

    assert stale_flows([WEB], []) == stale_flows([], [WEB]) == stale_flows([dns("10.88.0.2")], [dns("10.88.0.2")]) == ()
    assert stale_flows([dns("10.88.0.2"), WEB], [dns("10.88.0.3")]) == (("10.96.0.53", ("10.88.0.3",)),)
    assert stale_flows([dns("10.88.0.2")], [WEB]) == (("10.96.0.53", ()),)


def test_the_hosts_file_names_services_by_cluster_ip_and_headless_ones_by_pod() -> None:
    headless = ServiceRules("shop", "db", "", (), ("10.88.0.2", "10.88.0.3"))
    assert hosts_file("cluster.local", [WEB, headless]) == (
        "10.96.0.1 web.default.svc.cluster.local\n"
        "10.88.0.2 db.shop.svc.cluster.local\n"
        "10.88.0.3 db.shop.svc.cluster.local\n"
    )


def test_what_can_not_work_is_left_out_with_a_sentence_each() -> None:
    rules, problems = check(
        [
            ServiceRules("default", "Not_A_Label", "10.96.0.2", ()),
            ServiceRules("default", "v6", "fd00::1", ()),
            ServiceRules("default", "pod", "10.96.0.3", (), ("nowhere",)),
            ServiceRules("default", "ports", "10.96.0.4", (ServicePort(0, 80), ServicePort(80, 80, protocol="ICMP"))),
            WEB,
        ]
    )
    assert [r.name for r in rules] == ["ports", "web"]
    assert rules[0].ports == ()
    assert problems == (
        "'service default/Not_A_Label' is left out: its name or namespace is no DNS label",
        "service default/v6 is left out: 'fd00::1' is no IPv4 address",
        "service default/pod is left out: 'nowhere' is no IPv4 address",
        "service default/ports: port 0/TCP is left out: ports go from 1 to 65535",
        "service default/ports: port 80/ICMP is left out: the protocol is none of TCP, UDP and SCTP",
    )


def test_the_same_address_and_port_twice_goes_to_the_first() -> None:
    other = ServiceRules("default", "other", "10.96.0.1", (ServicePort(80, 1), ServicePort(81, 1)), ("10.88.0.9",))
    rules, problems = check([WEB, other])
    assert rules[1].ports == (ServicePort(81, 1),)
    assert problems == ("service default/other: port 80/TCP of 10.96.0.1 is taken by service default/web",)


def test_a_service_that_is_there_twice_is_taken_once() -> None:
    again = ServiceRules("default", "web", "10.96.0.9", ())
    rules, problems = check([WEB, again])
    assert rules == (WEB,)
    assert problems == ("service default/web is there twice; the second one is left out",)


def test_a_pod_that_is_listed_twice_counts_once() -> None:
    twice = ServiceRules("default", "web", "10.96.0.1", (ServicePort(80, 80),), ("10.88.0.2", "10.88.0.2"))
    assert check([twice]).rules[0].addresses == ("10.88.0.2",)


anything = st.text(max_size=40)
services = st.lists(
    st.builds(
        ServiceRules,
        st.one_of(st.just("default"), anything),
        st.one_of(st.sampled_from(["a", "b"]), anything),
        st.one_of(st.sampled_from(["10.96.0.1", "10.96.0.2", "None", ""]), anything),
        st.lists(
            st.builds(
                ServicePort,
                st.integers(-5, 70000),
                st.integers(-5, 70000),
                st.just(""),
                st.one_of(st.sampled_from(["TCP", "udp"]), anything),
            ),
            max_size=3,
        ).map(tuple),
        st.lists(st.one_of(st.sampled_from(["10.88.0.2", "10.88.0.3"]), anything), max_size=3).map(tuple),
    ),
    max_size=5,
)

# Everything that a script may consist of: words, numbers, addresses and nft's own punctuation.
SAFE = re.compile(r'[a-z0-9_ .:,;{}@!="/\n-]*')


@given(services)
def test_no_content_of_a_service_gets_into_a_script_unchecked(given_services: list[ServiceRules]) -> None:
    rules, _ = check(given_services)
    script = forwarding_script("t", BRIDGE, rules)
    assert SAFE.fullmatch(script)
    assert "flush" not in script
    lookups = re.findall(r"vmap { (.*) }", script)
    keys = [entry.split(" : ")[0] for line in lookups for entry in line.split(", ")]
    assert len(keys) == len(set(keys))  # nft refuses a map that contradicts itself
    names = [line.split()[1] for line in hosts_file("cluster.local", rules).splitlines()]
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in names)


@given(services)
def test_checking_what_was_checked_changes_nothing(given_services: list[ServiceRules]) -> None:
    rules, _ = check(given_services)
    assert check(rules) == (rules, ())


def test_dnsmasq_listens_on_the_bridge_only_and_asks_upstream_only_where_there_is_one() -> None:
    line = dnsmasq_command("10.88.0.1", "cluster.local", Path("/run/x"), Path("/etc/resolv.conf"), as_root=False)
    assert "--listen-address=10.88.0.1" in line
    assert "--bind-interfaces" in line
    assert "--resolv-file=/etc/resolv.conf" in line
    assert "--no-resolv" in dnsmasq_command("10.88.0.1", "cluster.local", Path("/run/x"), None, as_root=False)


def test_a_pod_whose_machine_has_no_address_is_left_out_and_its_service_stays() -> None:
    homeless = msgspec.structs.replace(WEB, addresses=("", "10.88.0.3"), hosts=(("web-0", ""),))
    rules, problems = check([homeless])
    assert (rules[0].addresses, rules[0].hosts, problems) == (("10.88.0.3",), (), ())


def test_named_ports_have_srv_records_that_change_only_with_the_service() -> None:
    web = ServiceRules("default", "web", "10.96.0.1", (ServicePort(80, 8080, "http"), ServicePort(81, 8081)))
    headless = ServiceRules("default", "db", "", (ServicePort(80, 5432, "sql"),))
    assert settings_file("cluster.local", [web, headless]) == (
        "srv-host=_http._tcp.web.default.svc.cluster.local,web.default.svc.cluster.local,80\n"
        "srv-host=_sql._tcp.db.default.svc.cluster.local,db.default.svc.cluster.local,5432\n"
    )
    ready = msgspec.structs.replace(web, addresses=("10.88.0.2",))
    assert settings_file("cluster.local", [ready]) == settings_file("cluster.local", [web])


def test_pods_with_a_subdomain_have_a_name_of_their_own() -> None:
    headless = ServiceRules("shop", "db", "", (), ("10.88.0.2",), (("db-0", "10.88.0.2"), ("No Label", "10.88.0.3")))
    assert hosts_file("cluster.local", check([headless]).rules) == (
        "10.88.0.2 db-0.db.shop.svc.cluster.local\n10.88.0.2 db.shop.svc.cluster.local\n"
    )


def test_host_ports_that_make_no_sense_are_left_out_with_a_sentence_each() -> None:
    good = HostPort("TCP", 80, "10.88.0.2", 8080)
    kept, problems = check_ports(
        [
            good,
            msgspec.structs.replace(good, address="10.88.0.3", host_ip="0.0.0.0"),
            msgspec.structs.replace(good, protocol="ICMP"),
            msgspec.structs.replace(good, port=0),
            msgspec.structs.replace(good, port=81, address=""),
        ]
    )
    assert kept == (msgspec.structs.replace(good, protocol="tcp"),)
    assert problems == (
        "host port 80/TCP is claimed twice; 10.88.0.2 has it, 10.88.0.3 doesn't",
        "host port 80/ICMP is left out: the protocol is none of TCP, UDP and SCTP",
        "host port 0/TCP is left out: ports go from 1 to 65535",
        "host port 81/TCP is left out: '' or '' is no IPv4 address",
    )


def test_host_ports_restricted_to_one_address_are_looked_up_first() -> None:
    ports, _ = check_ports(
        [HostPort("TCP", 80, "10.88.0.2", 8080), HostPort("UDP", 53, "10.88.0.3", 5353, "192.0.2.2")]
    )
    restricted, general = translations(ports)
    assert "{ 192.0.2.2 . udp . 53 : 10.88.0.3 . 5353 }" in restricted
    assert "{ tcp . 80 : 10.88.0.2 . 8080 }" in general


def test_the_machines_loopback_is_shut_to_pods_only_where_it_had_to_be_opened() -> None:
    anywhere, _ = check_ports([HostPort("TCP", 80, "10.88.0.2", 8080)])
    outside, _ = check_ports([HostPort("TCP", 80, "10.88.0.2", 8080, "192.0.2.2")])
    assert 'iifname "edged0" ip daddr 127.0.0.0/8 drop' in forwarding_script("t", BRIDGE, [], anywhere)
    assert "drop" not in forwarding_script("t", BRIDGE, [], outside)


def test_flows_to_a_host_port_are_forgotten_when_it_leads_elsewhere() -> None:
    def dns(address: str) -> tuple[HostPort, ...]:
        return check_ports([HostPort("UDP", 53, address, 5353), HostPort("TCP", 80, address, 80)])[0]

    assert stale_port_flows(dns("10.88.0.2"), dns("10.88.0.2")) == ()
    assert stale_port_flows(dns("10.88.0.2"), dns("10.88.0.3")) == (("", 53, ("10.88.0.3",)),)
    assert stale_port_flows(dns("10.88.0.2"), ()) == (("", 53, ()),)
