"""Kubernetes objects -> what a node runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlink.kube.compile import compile_node, compile_pod, compile_service, references
from cloudlink.kube.core import ConfigMap, PersistentVolumeClaim, Pod, PodStatus, Secret, Service
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
        init=(),
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
                pull_policy=model.PullPolicy.ALWAYS,
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


# ---------------------------------------------------------------- the whole pod


def whole(name: str) -> Pod:
    """A pod of tests/cases/kube/accepted_whole_pod.yaml."""
    return next(o for d in ACCEPTED if isinstance(o := parse(d), Pod) and o.metadata.name == name)


def test_a_pod_that_uses_everything_is_resolved_as_a_whole() -> None:
    compiled = compile_pod(whole("whole"))
    assert (compiled.hostname, compiled.subdomain, compiled.host_users) == ("box", "boxes", False)
    assert compiled.host_aliases == (
        model.HostAlias("10.0.0.9", ("printer", "printer.local")),
        model.HostAlias("fd00::9", ("six",)),
    )
    assert compiled.dns_policy is model.DnsPolicy.NONE
    assert compiled.dns == model.Dns(("1.1.1.1",), ("lan", "_x.lan."), ("ndots:2", "edns0"))
    assert (compiled.pull_secrets, compiled.priority, compiled.active_deadline) == (("login",), 2_000_001_000, 3600.0)
    assert (compiled.fs_group, compiled.fs_group_always) == (2000, False)
    assert compiled.sysctls == (("net.ipv4.ip_unprivileged_port_start", "0"), ("kernel.shm_rmid_forced", "1"))
    assert compiled.log_target is model.LogTarget.DISK
    fetch, proxy = compiled.init
    assert (fetch.name, fetch.sidecar, fetch.command) == ("fetch", False, ("fetch",))
    assert (proxy.name, proxy.sidecar, proxy.limits.memory_request) == ("proxy", True, 8 << 20)
    assert proxy.startup == model.Probe(model.GrpcAction(9000, "up"), termination_grace=3.0)
    assert proxy.post_start == model.ExecAction(("warm",))
    assert compiled.memory_request == (8 + 16) << 20


def test_a_container_of_that_pod_is_resolved_too() -> None:
    (main,) = compile_pod(whole("whole")).containers
    assert main.env == (
        model.Env("IP", field="status.podIP"),
        model.Env("NODE", field="spec.nodeName"),
        model.Env("APP", field="metadata.labels['app']"),
        model.Env("MEMORY", resource=model.ResourceRef("limits.memory", "", 1000 << 20)),
        model.Env("CPU", resource=model.ResourceRef("requests.cpu", "proxy", 1000)),
    )
    assert main.ports == (model.Port(8080, "http", "TCP", 80, "192.168.1.2"),)
    assert main.limits == model.Limits(16 << 20, 32 << 20, 100, storage_request=1 << 20, storage_limit=64 << 20)
    assert main.devices == ("gpio", "i2c-1", "ttyUSB0")
    assert main.post_start == model.HttpAction(8080, "/warm")
    assert main.pre_stop == model.SleepAction(5.0)
    assert main.liveness == model.Probe(model.GrpcAction(8080), termination_grace=5.0)
    assert main.pull_policy is model.PullPolicy.NEVER
    assert (main.termination_message_path, main.termination_message_fallback) == ("/tmp/last-words", True)
    assert main.mounts[0] == model.Mount("data", "/data", sub_path="$(APP)/x", expand=True)
    assert main.mounts[3].propagation is model.Propagation.HOST_TO_CONTAINER
    assert main.security == model.Security(
        user=1001,
        group=1000,
        non_root=True,
        groups=(3000, 3001),
        add=("NET_BIND_SERVICE", "SYS_TIME"),
        drop=("ALL",),
        read_only_root=True,
        seccomp="Localhost/profiles/main.json",
    )


def test_volumes_of_every_kind_are_resolved() -> None:
    sources = {v.name: v.source for v in compile_pod(whole("whole")).volumes}
    assert sources["share"] == model.NfsMount("nas.lan", "/export", True)
    assert sources["me"] == model.DownwardFiles(
        (
            model.DownwardItem("labels", "metadata.labels"),
            model.DownwardItem("memory", resource=model.ResourceRef("limits.memory", "main"), mode=0o400),
        )
    )
    assert sources["all"] == model.Projected(
        (
            model.ConfigFiles("settings", (model.KeyToPath("a", "etc/a"),)),
            model.SecretFiles("keys", optional=True),
            model.DownwardFiles((model.DownwardItem("note", "metadata.annotations['note']"),)),
        ),
        mode=0o400,
    )


def test_only_labels_and_annotations_that_are_referred_to_travel() -> None:
    compiled = compile_pod(whole("whole"))
    assert compiled.labels == {"app": "whole"}
    assert compiled.annotations == {"note": "hello"}
    lone = compile_pod(pod("lone", {"app": "x"}))
    assert (lone.labels, lone.annotations, lone.service_account) == ({}, {}, "")
    env = [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}}]
    assert compile_pod(pod("x", containers=[{"name": "a", "image": "b", "env": env}])).service_account == "default"


def test_in_the_hosts_network_every_port_is_one_of_the_hosts() -> None:
    (main,) = compile_pod(whole("on-the-host")).containers
    assert [(p.port, p.host_port) for p in main.ports] == [(8080, 8080), (53, 53)]
    assert main.security == model.Security(privileged=True, escalation=True, seccomp="Unconfined")
    assert main.mounts[0].propagation is model.Propagation.BIDIRECTIONAL


def test_who_asks_to_gain_privileges_may_and_nobody_else() -> None:
    def security(**context: Any) -> model.Security:
        containers = [{"name": "a", "image": "b", "securityContext": context}]
        return compile_pod(pod("a", containers=containers)).containers[0].security

    assert not security().escalation
    assert security(allowPrivilegeEscalation=True).escalation
    assert not security(allowPrivilegeEscalation=False).escalation
    assert security(capabilities={"add": ["SYS_ADMIN"]}).escalation
    assert security(capabilities={"add": ["CAP_SYS_ADMIN"]}).add == ("SYS_ADMIN",)


def test_what_the_container_says_wins_over_the_pod() -> None:
    containers = [
        {"name": "own", "image": "b", "securityContext": {"runAsUser": 0, "runAsNonRoot": False}},
        {"name": "pods", "image": "b"},
    ]
    context = {"runAsUser": 5, "runAsGroup": 6, "runAsNonRoot": True, "seccompProfile": {"type": "Unconfined"}}
    own, pods = compile_pod(pod("a", containers=containers, securityContext=context)).containers
    assert (own.security.user, own.security.group, own.security.non_root) == (0, 6, False)
    assert (pods.security.user, pods.security.non_root, pods.security.seccomp) == (5, True, "Unconfined")


def tolerating(**more: Any) -> list[dict[str, Any]]:
    return [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", **more}
        for what in ("unreachable", "not-ready")
    ]


@pytest.mark.parametrize(
    ("spec", "stays"),
    [
        ({"tolerations": tolerating(tolerationSeconds=300)}, False),
        ({"tolerations": tolerating()[:1]}, False),
        ({}, False),
        ({"tolerations": tolerating()}, True),
        ({"tolerations": [{"operator": "Exists"}]}, True),
        ({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}, True),
    ],
    ids=["for five minutes", "unreachable only", "no toleration", "for ever", "everything", "its data is there"],
)
def test_a_node_knows_which_pods_stay_its_own_while_it_is_away(spec: dict[str, Any], stays: bool) -> None:
    assert compile_pod(pod("web", **spec)).stays is stays


def test_the_node_finds_the_same_references_as_the_hub_and_the_hub_adds_registry_logins() -> None:
    compiled = compile_pod(whole("whole"))
    configs, secrets = model.references(compiled)
    assert (configs, secrets) == ({"settings"}, {"keys"})
    assert references([compiled]) == ({"garden/settings"}, {"garden/keys", "garden/login"})


# ---------------------------------------------------------------- claims


def claim(name: str = "data", size: str = "64Mi", node: str = "", **metadata: Any) -> PersistentVolumeClaim:
    if node:
        metadata["annotations"] = {"volume.kubernetes.io/selected-node": node}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return made(PersistentVolumeClaim, name, metadata={"uid": f"uid-{name}", **metadata}, spec=spec)


def claimant(name: str = "a", claim: str = "data") -> Pod:
    return pod(name, volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}])


def test_a_claim_is_known_by_its_uid_and_its_size() -> None:
    (volume,) = compile_pod(claimant(), {"garden/data": claim(size="1.5Gi")}).volumes
    assert volume.source == model.ClaimFiles("data", "uid-data", 3 << 29, read_only=True)


def test_a_claim_that_is_not_there_has_no_uid() -> None:
    (volume,) = compile_pod(claimant()).volumes
    assert volume.source == model.ClaimFiles("data", "", 0, read_only=True)


def test_a_node_is_told_of_its_claims_whether_or_not_a_pod_uses_them() -> None:
    claims = [claim("here", node="pi-1"), claim("elsewhere", node="pi-2"), claim("nowhere")]
    desired = compile_node("f", "pi-1", 1, [], [], [], [], seal, claims=claims)
    assert desired.claims == (model.Claim("garden", "here", "uid-here", 64 << 20),)


def test_a_claim_that_is_about_to_live_here_comes_with_its_first_pod() -> None:
    desired = compile_node("f", "pi-1", 1, [claimant()], [], [], [], seal, claims=[claim()])
    assert [c.title for c in desired.claims] == ["garden/data"]
    used_elsewhere = compile_node("f", "pi-1", 1, [claimant()], [], [], [], seal, claims=[claim(node="pi-2")])
    assert used_elsewhere.claims == ()


def test_a_claim_outlives_the_pod_that_is_being_deleted() -> None:
    leaving = claimant().model_copy(
        update={"metadata": claimant().metadata.model_copy(update={"deletion_timestamp": "2024-01-01T00:00:00Z"})}
    )
    desired = compile_node("f", "pi-1", 1, [leaving], [], [], [], seal, claims=[claim(node="pi-1")])
    assert (desired.pods, [c.name for c in desired.claims]) == ((), ["data"])


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


def test_a_service_for_peers_leads_to_pods_that_are_not_ready_but_to_none_that_have_ended() -> None:
    ended = pod("b", {"app": "web"})
    pods = [pod("a", {"app": "web"}), ended.model_copy(update={"status": PodStatus(phase="Failed")})]
    made = compile_service(service(publishNotReadyAddresses=True), pods)
    assert (made.unready, made.pods) == (True, ("uid-a",))


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


def test_a_service_that_waits_for_its_address_is_left_out() -> None:
    assert compile_node("f", "n", 1, [], [service(clusterIP="")], [], [], seal).services == ()


def test_a_headless_service_has_no_address_of_its_own() -> None:
    (headless,) = compile_node("f", "n", 1, [], [service(clusterIP="None")], [], [], seal).services
    assert headless.cluster_ip == ""


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


def test_a_pod_that_was_deleted_with_another_grace_than_its_own_leaves_with_that_one() -> None:
    def leaving(grace: int) -> Pod:
        meta = {"deletion_timestamp": "2024-01-01T00:00:00Z", "deletion_grace_period_seconds": grace}
        return USERS[0].model_copy(update={"metadata": USERS[0].metadata.model_copy(update=meta)})

    assert compile_node("f", "n", 1, [leaving(30)], [], [], [], seal).leaving == {}
    assert compile_node("f", "n", 1, [leaving(3)], [], [], [], seal).leaving == {"uid-by-env": 3.0}


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
