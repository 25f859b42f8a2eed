"""Objects as kubectl's typed commands write them: Kubernetes' protobuf, read into the same documents as JSON."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.hub.api.protobuf import ProtobufError, from_protobuf
from cloudlink.hub.api.protobuf_fields import MESSAGES, ROOTS
from cloudlink.kube.errors import Invalid
from cloudlink.kube.parse import parse


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(raw)) + raw
    return out


def wrapped(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + message((1, message((1, api_version), (2, kind))), (2, raw), (3, ""), (4, ""))


# What a Go client writes for values that were never set: empty strings, zeros and empty messages, all of them.
EMPTY_META = ((2, ""), (3, ""), (4, ""), (5, ""), (6, ""), (7, 0), (8, message()))


def test_a_namespace_as_kubectl_create_writes_it() -> None:
    raw = message((1, message((1, "room"), *EMPTY_META)), (2, b""), (3, message((1, ""))))
    document = from_protobuf(wrapped("v1", "Namespace", raw))
    assert parse(document).metadata.name == "room"
    assert document["metadata"] == {"name": "room"}


def test_a_deployment_with_everything_that_kubectl_create_sets() -> None:
    label = message((1, "app"), (2, "d"))
    port = message((1, ""), (2, 0), (3, 8080), (4, ""), (5, ""))
    container = message(
        (1, "x"), (2, "x:1"), (5, ""), (6, port), (8, b""), (13, ""), (16, 0), (17, 0), (18, 0), (20, "")
    )
    spec = message((2, container), (3, ""), (6, ""), (8, ""), (11, 0), (12, 0), (13, 0), (16, ""), (19, ""))
    template = message((1, message((1, ""), *EMPTY_META, (11, label))), (2, spec))
    deployment = message((1, 0), (2, message((1, label))), (3, template), (4, message((1, ""))), (5, 0), (7, 0))
    raw = message((1, message((1, "d"), *EMPTY_META)), (2, deployment), (3, message((1, 0))))
    document = from_protobuf(wrapped("apps/v1", "Deployment", raw))
    made: Any = parse(document)
    assert made.spec.replicas == 0  # a pointer in Go: written, so meant
    assert made.spec.template.metadata.labels == {"app": "d"}
    assert made.spec.template.spec.containers[0].ports[0].container_port == 8080
    assert made.spec.strategy.type == "RollingUpdate"


def test_bytes_numbers_times_and_quantities_become_what_json_has() -> None:
    secret = message((1, message((1, "s"))), (2, message((1, "k"), (2, b"\x00\xff"))), (3, "Opaque"))
    assert from_protobuf(wrapped("v1", "Secret", secret))["data"] == {"k": base64.b64encode(b"\x00\xff").decode()}
    port = message((3, 80), (4, message((1, 1), (3, "web"))))
    service = message((1, message((1, "s"), (8, message((1, 1_700_000_000))))), (2, message((1, port))))
    document = from_protobuf(wrapped("v1", "Service", service))
    assert document["metadata"]["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert document["spec"]["ports"] == [{"port": 80, "targetPort": "web"}]
    limits = message((1, message((1, "memory"), (2, message((1, "64Mi"))))))
    pod = message((1, message((1, "p"))), (2, message((2, message((1, "c"), (2, "i:1"), (8, limits))))))
    container = from_protobuf(wrapped("v1", "Pod", pod))["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"memory": "64Mi"}


def test_what_a_pod_may_and_has_is_read_as_from_json() -> None:
    security = message((1, message((1, "NET_ADMIN"), (2, "ALL"))), (4, 0), (7, 0), (11, message((1, "RuntimeDefault"))))
    hooks = message((2, message((4, message((1, 5))))))
    env = message((1, "IP"), (3, message((1, message((1, "v1"), (2, "status.podIP"))))))
    container = message((1, "c"), (2, "i:1"), (7, env), (12, hooks), (15, security))
    data = message((1, "data"), (2, message((10, message((1, "claim"), (2, 1))))))
    config = message((3, message((1, message((1, "x"))))))  # a source of a projected volume
    all_in_one = message((1, "all"), (2, message((26, message((1, config))))))
    context = message((2, 1000), (4, 5), (4, 6), (7, message((1, "net.core.somaxconn"), (2, "9"))))
    spec = message((1, data), (1, all_in_one), (2, container), (14, context), (20, message((1, "i"), (2, "i:1"))))
    made: Any = parse(from_protobuf(wrapped("v1", "Pod", message((1, message((1, "p"))), (2, spec)))))
    (main,) = made.spec.containers
    assert (main.security_context.run_as_user, main.security_context.allow_privilege_escalation) == (0, False)
    assert main.security_context.capabilities.drop == ("ALL",)
    assert main.lifecycle.pre_stop.sleep.seconds == 5
    assert main.env[0].value_from.field_ref.field_path == "status.podIP"
    assert made.spec.volumes[0].persistent_volume_claim.claim_name == "claim"
    assert made.spec.volumes[1].projected.sources[0].config_map.name == "x"
    assert made.spec.security_context.supplemental_groups == (5, 6)
    assert made.spec.init_containers[0].name == "i"


def test_delete_options_keep_a_grace_of_zero() -> None:
    document = from_protobuf(wrapped("v1", "DeleteOptions", message((1, 0), (4, "Background"))))
    assert document["gracePeriodSeconds"] == 0
    assert document["propagationPolicy"] == "Background"


def test_what_is_not_supported_is_refused_by_its_name_and_never_dropped() -> None:
    container = message((1, "c"), (2, "i:1"), (21, message((1, b"\x0a\x00"))))
    pod = message((1, message((1, "p"))), (2, message((2, container), (12, 1))))
    with pytest.raises(Invalid) as refused:
        parse(from_protobuf(wrapped("v1", "Pod", pod)))
    fields = {c.field for c in refused.value.causes}
    assert {"spec.hostPID", "spec.containers[0].volumeDevices"} <= fields
    with pytest.raises(ProtobufError, match="field 99 of PodSpec is not supported"):
        from_protobuf(wrapped("v1", "Pod", message((2, message((99, "x"))))))


def test_jobs_and_roles_and_what_controllers_keep_are_read() -> None:
    template = message((2, message((2, message((1, "main"), (2, "demo:1"))), (3, "Never"))))
    job = from_protobuf(
        wrapped("batch/v1", "Job", message((1, message((1, "j"))), (2, message((2, 3), (6, template)))))
    )
    assert job["spec"]["completions"] == 3
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "demo:1"
    rule = message((1, "get"), (1, "list"), (2, ""), (3, "pods"))
    role = from_protobuf(wrapped("rbac.authorization.k8s.io/v1", "Role", message((2, rule))))
    assert role["rules"] == [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]
    data = message((1, '{"a":1}'))
    kept = from_protobuf(wrapped("apps/v1", "ControllerRevision", message((2, data), (3, 7))))
    assert (kept["data"], kept["revision"]) == ({"a": 1}, 7)
    with pytest.raises(ProtobufError, match="data: not JSON"):
        from_protobuf(wrapped("apps/v1", "ControllerRevision", message((2, message((1, "{"))))))


def test_a_kind_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ProtobufError, match='"PodPreset" of "settings/v1"'):
        from_protobuf(wrapped("settings/v1", "PodPreset", b""))


@settings(deadline=None)
@given(st.sampled_from(sorted(ROOTS)), st.binary(max_size=60))
def test_garbage_is_refused_or_read_but_never_crashes(kind: str, raw: bytes) -> None:
    for body in (b"k8s\x00" + raw, wrapped("v1", kind, raw)):
        with contextlib.suppress(ProtobufError):
            from_protobuf(body)


def test_every_message_refers_to_messages_that_are_there() -> None:
    plain = {
        "string",
        "int",
        "bool",
        "bytes",
        "Time",
        "Quantity",
        "IntOrString",
        "RawExtension",
        "Strings",
        "unsupported",
    }
    for name, notation in MESSAGES.items():
        numbers = [entry.split()[0] for entry in notation.split(",")]
        assert len(set(numbers)) == len(numbers), name
        for entry in notation.split(","):
            kind = [*entry.split(), "string"][2].removesuffix("*").removesuffix("{}")
            assert kind in plain or kind in MESSAGES, (name, entry)
