"""What a pod may know of itself, as text."""

from __future__ import annotations

import pytest

from edged.errors import PermanentError, RetryError
from edged.model import Container, Limits, NodeFacts, Pod, ResourceRef
from edged.runtime.downward import field_value, resource_value

NODE = NodeFacts("pi-7", "192.0.2.7", memory=900 << 20, cpu=4000, storage=8 << 30)
WEB = Container("web", "i", limits=Limits(64 << 20, 100 << 20, 250, 1500, storage_request=1000))
FREE = Container("free", "i")
POD = Pod(
    "shop",
    "cart",
    "u-1",
    (WEB, FREE),
    labels={"b": "2", "app": 'say "hi"\n', "a/c": "\\"},
    annotations={"team": "x\u00e9\x01\u200b"},
    service_account="cashier",
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metadata.name", "cart"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['b']", "2"),
        ("metadata.labels['a/c']", "\\"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['team']", "x\u00e9\x01\u200b"),
        ("metadata.labels", 'a/c="\\\\"\napp="say \\"hi\\"\\n"\nb="2"'),
        ("metadata.annotations", 'team="x\u00e9\\x01\\u200b"'),
        ("spec.nodeName", "pi-7"),
        ("spec.serviceAccountName", "cashier"),
        ("status.podIP", "10.1.1.2"),
        ("status.podIPs", "10.1.1.2"),
        ("status.hostIP", "192.0.2.7"),
        ("status.hostIPs", "192.0.2.7"),
    ],
)
def test_a_field_of_the_pod_reads_as_in_kubernetes(field: str, value: str) -> None:
    assert field_value(POD, field, "10.1.1.2", NODE) == value


def test_a_pod_without_a_service_account_has_the_default_one() -> None:
    assert field_value(Pod("n", "p", "u", ()), "spec.serviceAccountName", "", NODE) == "default"


def test_a_field_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(PermanentError, match=r"'spec\.color'.*metadata\.name"):
        field_value(POD, "spec.color", "10.1.1.2", NODE)


def test_an_address_that_is_not_known_yet_is_waited_for() -> None:
    with pytest.raises(RetryError, match=r"status\.hostIP"):
        field_value(POD, "status.hostIP", "10.1.1.2", NodeFacts())


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        (ResourceRef("limits.memory"), str(100 << 20)),
        (ResourceRef("limits.memory", divisor=1000 << 20), "100"),
        (ResourceRef("requests.memory", divisor=1000 << 30), "1"),  # rounded up
        (ResourceRef("limits.cpu"), "2"),  # 1.5 cores
        (ResourceRef("limits.cpu", divisor=1), "1500"),
        (ResourceRef("requests.cpu", divisor=1), "250"),
        (ResourceRef("requests.cpu"), "1"),
        (ResourceRef("requests.ephemeral-storage"), "1000"),
        (ResourceRef("limits.ephemeral-storage"), str(8 << 30)),  # the node's
        (ResourceRef("limits.memory", container="free"), str(900 << 20)),  # the node's
        (ResourceRef("limits.cpu", container="free"), "4"),
        (ResourceRef("requests.cpu", container="free"), "0"),
    ],
)
def test_a_resource_is_divided_and_rounded_up(ref: ResourceRef, value: str) -> None:
    assert resource_value(POD, WEB, ref, NODE) == value


@pytest.mark.parametrize(
    "ref", [ResourceRef("limits.gpu"), ResourceRef("limits.cpu", "nobody"), ResourceRef("limits.cpu", divisor=0)]
)
def test_a_resource_that_makes_no_sense_is_refused_with_a_sentence(ref: ResourceRef) -> None:
    with pytest.raises(PermanentError, match="shop/cart"):
        resource_value(POD, WEB, ref, NODE)
