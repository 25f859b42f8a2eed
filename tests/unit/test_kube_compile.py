"""Kubernetes objects -> what a node runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.kube.compile import compile_node, compile_pod, compile_service
from cloudlink.kube.core import ConfigMap, Pod, Secret, Service
from cloudlink.kube.meta import KubeObject
from cloudlink.kube.parse import Invalid, parse
from edged import model
from tests.unit.kube_documents import ACCEPTED, anything, places, replaced

K = TypeVar("K", bound=KubeObject)


def made(kind: type[K], name: str, **parts: Any) -> K:
    metadata = {"name": name, "namespace": "garden", **parts.pop("metadata", {})}
    parsed = parse({"apiVersion": "v1", "kind": kind.__name__, "metadata": metadata, **parts})
    assert isinstance(parsed, kind)
    return parsed


def pod(name: str, labels: Mapping[str, str] | None = None, **spec: Any) -> Pod:
    spec = {"containers": [{"name": "main", "image": "busybox"}], "nodeName": "pi-1", **spec}
    return made(Pod, name, metadata={"uid": f"uid-{name}", "labels": dict(labels or {})}, spec=spec)


def seal(name: str, content: Mapping[str, bytes]) -> bytes:
    return f"sealed {name} {sorted(content)}".encode()


def test_a_pod_is_resolved_to_bytes_seconds_and_numbers() -> None:
    compiled = compile_pod(
        pod(
            "web",
            containers=[
                {
                    "name": "web",
                    "image": "nginx",
                    "command": ["nginx"],
                    "workingDir": "/srv",
                    "env": [
                        {"name": "A", "value": "b"},
                        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}}},
                        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    ],
                    "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {
                        "requests": {"memory": "16Mi", "cpu": "0.1"},
                        "limits": {"memory": "1.5Gi", "cpu": 2},
                    },
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True, "subPath": "a/b"}],
                    "livenessProbe": {"httpGet": {"path": "healthz", "port": "http"}, "periodSeconds": 5},
                    "readinessProbe": {"tcpSocket": {"port": "http"}},
                    "startupProbe": {"exec": {"command": ["true"]}, "failureThreshold": 30},
                }
            ],
            volumes=[
                {"name": "data", "hostPath": {"path": "/srv", "type": "Directory"}},
                {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "c", "configMap": {"name": "c", "items": [{"key": "k", "path": "f", "mode": 0o600}]}},
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400, "optional": True}},
            ],
            terminationGracePeriodSeconds=5,
            restartPolicy="OnFailure",
        )
    )
    assert compiled == model.Pod(
        namespace="garden",
        name="web",
        uid="uid-web",
        hostname="web",
        restart_policy=model.RestartPolicy.ON_FAILURE,
        termination_grace=5.0,
        containers=(
            model.Container(
                name="web",
                image="nginx",
                command=("nginx",),
                args=None,
                working_dir="/srv",
                env=(
                    model.Env("A", value="b"),
                    model.Env("C", config="c", key="k", optional=True),
                    model.Env("S", secret="s", key="k"),
                ),
                env_from=(model.EnvFrom(config="c", prefix="P_"), model.EnvFrom(secret="s")),
                mounts=(model.Mount("data", "/data", read_only=True, sub_path="a/b"),),
                ports=(model.Port(8080, "http"),),
                limits=model.Limits(16 << 20, 3 << 29, 100, 2000),
                liveness=model.Probe(model.HttpAction(8080, "/healthz"), period=5.0),
                readiness=model.Probe(model.TcpAction(8080)),
                startup=model.Probe(model.ExecAction(("true",)), failure_threshold=30),
            ),
        ),
        volumes=(
            model.Volume("data", model.HostPath("/srv", "Directory")),
            model.Volume("tmp", model.EmptyDir(memory=True, size_limit=1 << 20)),
            model.Volume("c", model.ConfigFiles("c", (model.KeyToPath("k", "f", 0o600),))),
            model.Volume("s", model.SecretFiles("s", mode=0o400, optional=True)),
        ),
    )


def test_an_empty_value_is_a_value_and_no_limit_is_no_limit() -> None:
    compiled = compile_pod(pod("a", containers=[{"name": "a", "image": "b", "env": [{"name": "E"}]}]))
    (container,) = compiled.containers
    assert container.env == (model.Env("E", value=""),)
    assert container.limits == model.Limits()
    assert container.command is None


def test_a_long_name_is_cut_to_a_host_name() -> None:
    assert compile_pod(pod("a" * 62 + "." + "b" * 9)).hostname == "a" * 62
    assert compile_pod(pod("a", hostname="other")).hostname == "other"


@settings(max_examples=200)
@given(st.sampled_from(ACCEPTED), st.data(), anything)
def test_whatever_parses_also_compiles_and_travels(document: Any, data: st.DataObject, value: Any) -> None:
    path = data.draw(st.sampled_from(list(places(document))))
    try:
        obj = parse(replaced(document, path, value))
    except Invalid:
        return
    template = getattr(getattr(obj, "spec", None), "template", None)
    if template is not None:
        obj = Pod(metadata=obj.metadata, spec=template.spec)
    pods = [obj] if isinstance(obj, Pod) else []
    services = [obj] if isinstance(obj, Service) else []
    configs = [obj] if isinstance(obj, ConfigMap) else []
    secrets = [obj] if isinstance(obj, Secret) else []
    desired = compile_node("f", "n", 1, pods, services, configs, secrets, seal)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(desired), type=model.Desired) == desired


# ---------------------------------------------------------------- services


def service(name: str = "web", **spec: Any) -> Service:
    spec = {"clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [{"port": 80}], **spec}
    return made(Service, name, spec=spec)


def test_a_service_names_the_pods_that_its_selector_matches() -> None:
    pods = [
        pod("b", {"app": "web", "x": "y"}),
        pod("a", {"app": "web"}),
        pod("c", {"app": "other"}),
        pod("d", {"app": "web"}).model_copy(
            update={"metadata": pod("d", {"app": "web"}).metadata.model_copy(update={"namespace": "elsewhere"})}
        ),
        pod("e", {"app": "web"}).model_copy(
            update={"metadata": pod("e", {"app": "web"}).metadata.model_copy(update={"deletion_timestamp": "now"})}
        ),
    ]
    assert compile_service(service(), pods) == model.Service(
        "garden", "web", "10.96.0.1", (model.ServicePort(80, 80),), pods=("uid-a", "uid-b")
    )
    assert compile_service(service(selector={}), pods).pods == ()


def test_a_named_target_port_is_looked_up_in_the_pods() -> None:
    def serving(port: int) -> list[dict[str, Any]]:
        return [{"name": "a", "image": "b", "ports": [{"name": "http", "containerPort": port}]}]

    older, newer = (
        pod("older", {"app": "web"}, containers=serving(8080)),
        pod("x", {"app": "web"}, containers=serving(9090)),
    )
    newer = newer.model_copy(update={"metadata": newer.metadata.model_copy(update={"creation_timestamp": "2024"})})
    named = service(
        ports=[{"name": "a", "port": 80, "targetPort": "http"}, {"name": "b", "port": 81, "targetPort": "no"}]
    )
    assert compile_service(named, [older]).ports == (model.ServicePort(80, 8080, "a"),)
    assert compile_service(named, [newer, older]).ports == (model.ServicePort(80, 9090, "a"),)
    assert compile_service(named, []).ports == ()


def test_ready_pods_of_other_nodes_are_addresses() -> None:
    def remote(name: str, ip: str, ready: str) -> Pod:
        status = {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}
        spec = {"containers": [{"name": "a", "image": "b"}], "nodeName": "pi-2"}
        return made(Pod, name, metadata={"uid": name, "labels": {"app": "web"}}, spec=spec, status=status)

    everyone = [remote("b", "10.0.0.3", "True"), remote("a", "10.0.0.2", "True"), remote("c", "10.0.0.4", "False")]
    mine = [pod("mine", {"app": "web"})]
    desired = compile_node("f", "pi-1", 1, mine, [service()], [], [], seal, [*everyone, *mine])
    assert desired.services[0].pods == ("uid-mine",)
    assert desired.services[0].remote == ("10.0.0.2", "10.0.0.3")
    assert compile_node("f", "pi-1", 1, mine, [service()], [], [], seal).services[0].remote == ()


@pytest.mark.parametrize("address", ["", "None"])
def test_a_service_without_an_address_is_left_out(address: str) -> None:
    assert compile_node("f", "n", 1, [], [service(clusterIP=address)], [], [], seal).services == ()


# ---------------------------------------------------------------- one node's document

USERS = [
    pod(
        "by-env",
        containers=[
            {
                "name": "a",
                "image": "b",
                "env": [
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c-env", "key": "k"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s-env", "key": "k"}}},
                ],
            }
        ],
    ),
    pod(
        "by-all",
        containers=[
            {
                "name": "a",
                "image": "b",
                "envFrom": [
                    {"configMapRef": {"name": "c-all"}},
                    {"secretRef": {"name": "s-all"}},
                ],
            }
        ],
    ),
    pod(
        "by-file",
        volumes=[
            {"name": "c", "configMap": {"name": "c-file"}},
            {"name": "s", "secret": {"secretName": "s-file"}},
        ],
    ),
]
SUFFIXES = ("env", "all", "file", "unused")
CONFIGS = [made(ConfigMap, f"c-{s}", data={"t": "é"}, binaryData={"b": "AAEC"}) for s in SUFFIXES]
SECRETS = [made(Secret, f"s-{s}", stringData={"k": "hunter2"}) for s in SUFFIXES]


def test_a_node_gets_only_the_configs_and_secrets_that_its_pods_name() -> None:
    desired = compile_node("f", "pi-1", 7, USERS, [], CONFIGS, SECRETS, seal)
    assert (desired.fleet, desired.node, desired.generation) == ("f", "pi-1", 7)
    assert desired.configs == {f"garden/c-{s}": {"b": b"\0\1\2", "t": "é".encode()} for s in ("all", "env", "file")}
    assert desired.secrets == {f"garden/s-{s}": f"sealed garden/s-{s} ['k']".encode() for s in ("all", "env", "file")}
    assert b"hunter2" not in msgspec.msgpack.encode(desired)


def test_a_secret_is_sealed_once_and_only_where_it_is_needed() -> None:
    sealed: list[tuple[str, dict[str, bytes]]] = []

    def remember(name: str, content: Mapping[str, bytes]) -> bytes:
        sealed.append((name, dict(content)))
        return b""

    compile_node("f", "pi-1", 1, [USERS[0], USERS[0]], [], CONFIGS, SECRETS, remember)
    assert sealed == [("garden/s-env", {"k": b"hunter2"})]


def test_what_a_pod_refers_to_in_vain_is_left_for_the_node_to_report() -> None:
    desired = compile_node("f", "pi-1", 1, USERS, [], [], [], seal)
    assert (desired.configs, desired.secrets, len(desired.pods)) == ({}, {}, 3)


def test_a_pod_that_is_being_deleted_is_left_out_with_all_that_only_it_needs() -> None:
    leaving = USERS[0].model_copy(
        update={"metadata": USERS[0].metadata.model_copy(update={"deletion_timestamp": "2024-01-01T00:00:00Z"})}
    )
    desired = compile_node("f", "pi-1", 1, [leaving], [], CONFIGS, SECRETS, seal)
    assert (desired.pods, desired.configs, desired.secrets) == ((), {}, {})


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_change_a_byte(rng: random.Random) -> None:
    def shuffled(items: list[K]) -> list[K]:
        return rng.sample(items, len(items))

    pods = [*USERS, pod("x", {"app": "web"}), pod("y", {"app": "web"})]
    services = [service(), service("other"), service("third", selector={"a": "b"})]
    first = compile_node("f", "n", 1, pods, services, CONFIGS, SECRETS, seal, pods)
    second = compile_node(
        "f", "n", 1, shuffled(pods), shuffled(services), shuffled(CONFIGS), shuffled(SECRETS), seal, shuffled(pods)
    )
    assert msgspec.msgpack.encode(first) == msgspec.msgpack.encode(second)
