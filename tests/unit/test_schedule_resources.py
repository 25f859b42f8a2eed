"""Devices, storage, host ports, pressure and init containers: what else decides where a pod may go."""

from __future__ import annotations

from typing import Any

import pytest

from cloudlink.hub.schedule.fleet import fleet_with
from cloudlink.hub.schedule.place import Binding, Unplaced, Verdict, place
from cloudlink.hub.schedule.sizes import Size, size_of
from cloudlink.kube.core import Node, NodeCondition, Pod
from tests.fakes.hub_brain import MIB, node, pod, with_meta


def board(name: str = "pi", storage: str = "", pressure: str = "", devices: dict[str, int] | None = None) -> Node:
    """A ready node that tells its storage, its devices and what it is short of."""
    made = node(name)
    told = made.status.allocatable | {f"edged.dev/{d}": str(n) for d, n in (devices or {}).items()}
    told |= {"ephemeral-storage": storage} if storage else {}
    conditions = made.status.conditions
    if pressure:
        conditions = (*conditions, NodeCondition(type=pressure, status="True"))
    status = made.status.model_copy(update={"allocatable": told, "capacity": told, "conditions": conditions})
    return made.model_copy(update={"status": status})


def container(name: str = "main", **parts: Any) -> dict[str, Any]:
    return {"name": name, "image": "demo:1", **parts}


def wanting(name: str, limits: dict[str, Any], **spec: Any) -> Pod:
    return pod(name, containers=[container(resources={"limits": limits})], **spec)


def ask(pending: list[Pod], nodes: list[Node], bound: list[Pod] | None = None) -> tuple[Verdict, ...]:
    return place(pending, fleet_with(nodes, bound or []))


def why(verdict: Verdict) -> str:
    assert isinstance(verdict, Unplaced)
    return verdict.why


# ---------------------------------------------------------------- sizes


def test_init_containers_count_by_their_largest_and_sidecars_beside_everybody() -> None:
    def sized(name: str, memory: str, **parts: Any) -> dict[str, Any]:
        return container(name, resources={"requests": {"memory": memory}}, **parts)

    init = [
        sized("first", "100Mi"),
        sized("side", "10Mi", restartPolicy="Always"),
        sized("second", "95Mi"),
    ]
    one = pod("a", initContainers=init, containers=[sized("main", "50Mi"), sized("more", "20Mi")])
    assert size_of(one.spec).memory == 105 * MIB  # "second" beside "side"
    assert size_of(pod("b", initContainers=init[1:2], containers=[sized("main", "50Mi")]).spec).memory == 60 * MIB


def test_devices_are_counted_whether_claimed_as_a_resource_or_by_annotation() -> None:
    by_resource = wanting("a", {"edged.dev/gpio": 1})
    by_annotation = with_meta(pod("b"), annotations={"devices.edged.dev/main": "gpio, i2c-1"})
    assert size_of(by_resource.spec).devices == {"gpio": 1}
    assert size_of(by_annotation.spec, by_annotation.metadata.annotations).devices == {"gpio": 1, "i2c-1": 1}


def test_sizes_are_added_and_taken_away_device_by_device() -> None:
    free = Size(10, 10, 2, 10, {"gpio": 1}) - Size(1, 1, 1, 1, {"gpio": 1, "cam": 1})
    assert (free.memory, free.storage, dict(free.devices)) == (9, 9, {"gpio": 0, "cam": -1})
    assert Size(devices={"gpio": 1}).lack(free) == ("device", "gpio")


# ---------------------------------------------------------------- devices


def test_a_pod_goes_where_its_device_is() -> None:
    (verdict,) = ask([wanting("a", {"edged.dev/cam": 1})], [board("pi-1"), board("pi-2", devices={"cam": 1})])
    assert verdict == Binding(verdict.pod, "pi-2")


def test_a_device_is_given_as_often_as_its_node_says() -> None:
    pods = [wanting(f"p{i}", {"edged.dev/i2c-1": 1}) for i in range(3)]
    verdicts = ask(pods, [board(devices={"i2c-1": 2})])
    assert [type(v) for v in verdicts] == [Binding, Binding, Unplaced]
    assert why(verdicts[2]) == "0/1 nodes: 1 has no device i2c-1 free"


def test_a_device_in_use_is_not_free() -> None:
    bound = wanting("a", {"edged.dev/cam": 1}, nodeName="pi")
    (verdict,) = ask([wanting("b", {"edged.dev/cam": 1})], [board(devices={"cam": 1})], [bound])
    assert why(verdict) == "0/1 nodes: 1 has no device cam free"


# ---------------------------------------------------------------- storage


def test_storage_that_pods_ask_for_is_not_promised_twice() -> None:
    pods = [wanting(f"p{i}", {"ephemeral-storage": "60Mi"}) for i in range(2)]
    verdicts = ask(pods, [board(storage="100Mi")])
    assert why(verdicts[1]) == "0/1 nodes: 1 lacks 60 MiB storage (largest free 40 MiB)"


def test_a_node_that_does_not_tell_its_storage_is_not_limited_by_it() -> None:
    (verdict,) = ask([wanting("a", {"ephemeral-storage": "60Gi"})], [board()])
    assert isinstance(verdict, Binding)


# ---------------------------------------------------------------- host ports


def porter(name: str, port: int, protocol: str = "TCP", address: str = "", **spec: Any) -> Pod:
    ports = [{"containerPort": 80, "hostPort": port, "protocol": protocol, "hostIP": address}]
    return pod(name, containers=[container(ports=ports)], **spec)


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (porter("b", 8080), False),
        (porter("b", 8081), True),
        (porter("b", 8080, "UDP"), True),
        (porter("b", 8080, address="192.168.1.3"), True),
        (porter("b", 8080, address="192.168.1.2"), False),
        (porter("b", 8080, address="0.0.0.0"), False),
    ],
    ids=["same", "other port", "other protocol", "other address", "same address", "all addresses"],
)
def test_a_port_of_the_machine_leads_to_one_pod(other: Pod, fits: bool) -> None:
    first = porter("a", 8080, address="" if other.spec.containers[0].ports[0].host_ip == "" else "192.168.1.2")
    verdicts = ask([first, other], [board()])
    assert isinstance(verdicts[1], Binding) is fits
    if not fits:
        assert why(verdicts[1]) == "0/1 nodes: 1 has host port 8080/TCP taken"


def test_a_port_in_the_hosts_network_is_one_of_the_machines() -> None:
    bound = pod("a", "pi", hostNetwork=True, containers=[container(ports=[{"containerPort": 8080}])])
    (verdict,) = ask([porter("b", 8080)], [board()], [bound])
    assert isinstance(verdict, Unplaced)
    done = bound.model_copy(update={"status": bound.status.model_copy(update={"phase": "Succeeded"})})
    (verdict,) = ask([porter("b", 8080)], [board()], [done])
    assert isinstance(verdict, Binding)


# ---------------------------------------------------------------- pressure


@pytest.mark.parametrize("pressure", ["DiskPressure", "PIDPressure"])
def test_nobody_new_goes_to_a_node_without_disk_or_processes(pressure: str) -> None:
    (verdict,) = ask([pod("a", memory="1Mi")], [board(pressure=pressure)])
    assert why(verdict) == f"0/1 nodes: 1 has {pressure}"


def test_only_pods_that_ask_for_nothing_are_kept_from_a_node_that_is_short_of_memory() -> None:
    nothing, something = ask([pod("a"), pod("b", memory="1Mi")], [board(pressure="MemoryPressure")])
    assert {v.pod.metadata.name: type(v) for v in (nothing, something)} == {"a": Unplaced, "b": Binding}


def test_who_tolerates_pressure_goes_there_all_the_same() -> None:
    tolerant = pod("a", tolerations=[{"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}])
    (verdict,) = ask([tolerant], [board(pressure="DiskPressure")])
    assert isinstance(verdict, Binding)


def test_the_more_important_pod_is_placed_first() -> None:
    late = with_meta(
        pod("late", memory="800Mi", priorityClassName="system-node-critical"), creation_timestamp="2025-02-01T00:00:00Z"
    )
    early = with_meta(pod("early", memory="800Mi"), creation_timestamp="2025-01-01T00:00:00Z")
    verdicts = ask([early, late], [board()])
    assert [(v.pod.metadata.name, type(v)) for v in verdicts] == [("late", Binding), ("early", Unplaced)]
