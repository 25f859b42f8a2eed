"""Identities that are written into records on nodes out there: another hash for the same container restarts it.

Never change an expected value here. Where one fails, the encoding of the vocabulary has changed by accident.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edged.model import (
    ClaimFiles,
    ConfigFiles,
    Container,
    EmptyDir,
    Env,
    EnvFrom,
    ExecAction,
    HostPath,
    HttpAction,
    KeyToPath,
    Limits,
    Mount,
    Pod,
    Port,
    Probe,
    PullPolicy,
    ResourceRef,
    RestartPolicy,
    SecretFiles,
    Security,
    TcpAction,
    Volume,
    container_identity,
)

PLAIN = Container("main", "busybox:1")
WEB = Container(
    "web",
    "reg/web@sha256:1",
    command=("/bin/web", "-v"),
    args=("a",),
    working_dir="/srv",
    env=(Env("A", "1"), Env("B", config="c", key="k", optional=True), Env("S", secret="s", key="k")),
    env_from=(EnvFrom(config="c", prefix="P_"),),
    mounts=(Mount("data", "/data", True, "sub"), Mount("cfg", "/cfg"), Mount("tmp", "/tmp")),
    ports=(Port(80, "http"),),
    limits=Limits(64 << 20, 128 << 20, 100, 500, 77),
    liveness=Probe(HttpAction(80, "/")),
    readiness=Probe(TcpAction(80)),
)
VOLUMES = (
    Volume("data", HostPath("/srv/data", "Directory")),
    Volume("cfg", ConfigFiles("c", (KeyToPath("k", "p", 0o600),), 0o640, True)),
    Volume("tmp", EmptyDir(True, 1 << 20)),
    Volume("sec", SecretFiles("s")),
    Volume("unused", EmptyDir()),
)
FIRST = Pod("default", "a", "u", (PLAIN,))
SECOND = Pod("shop", "b", "u2", (WEB, PLAIN), VOLUMES, RestartPolicy.NEVER, 5.0, "host")
SECURED = replace(
    WEB,
    security=Security(user=1000, group=1000, non_root=True, drop=("ALL",), read_only_root=True),
    env=(Env("IP", field="status.podIP"), Env("MEM", resource=ResourceRef("limits.memory"))),
    mounts=(Mount("claim", "/data"),),
    devices=("gpio0",),
)
THIRD = replace(
    SECOND,
    containers=(SECURED,),
    volumes=(Volume("claim", ClaimFiles("c", "claim-uid", 1 << 30)),),
    host_users=False,
    fs_group=1000,
    sysctls=(("net.ipv4.tcp_syncookies", "1"),),
)


@pytest.mark.parametrize(
    ("pod", "container", "identity"),
    [
        (FIRST, PLAIN, "7a7f582b6af2"),  # these three as the first version wrote them
        (SECOND, WEB, "fdd0be92e9be"),
        (SECOND, PLAIN, "084fc97cc719"),
        (THIRD, SECURED, "357280d1bd8c"),
        (replace(FIRST, host_network=True), PLAIN, "7efb4864f679"),
    ],
)
def test_identities_on_nodes_stay_what_they_are(pod: Pod, container: Container, identity: str) -> None:
    assert container_identity(pod, container) == identity


def test_what_can_change_under_a_running_container_is_not_in_its_identity() -> None:
    changed = replace(
        SECURED,
        liveness=None,
        readiness=None,
        startup=Probe(TcpAction(1)),
        ports=(),
        post_start=ExecAction(("x",)),
        pre_stop=ExecAction(("x",)),
        pull_policy=PullPolicy.ALWAYS,
    )
    grown = replace(THIRD, volumes=(Volume("claim", ClaimFiles("c", "claim-uid", 2 << 30)),), labels={"a": "b"})
    assert container_identity(grown, changed) == container_identity(THIRD, SECURED)


def test_what_needs_a_new_container_is_in_its_identity() -> None:
    for pod in (replace(THIRD, host_users=True), replace(THIRD, fs_group=1), replace(THIRD, sysctls=())):
        assert container_identity(pod, SECURED) != container_identity(THIRD, SECURED)
    assert container_identity(THIRD, replace(SECURED, security=Security())) != container_identity(THIRD, SECURED)
