"""Who may do what: capabilities, the node's policy, kernel parameters, seccomp, stop signals, last words."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from edged.config import PolicyConfig
from edged.errors import PermanentError, RetryError
from edged.model import Container, HostPath, Image, Mount, Pod, Security, Volume
from edged.runtime import last_words, seccomp
from edged.runtime.bundle import CAPABILITIES, User
from edged.runtime.security import (
    ALL_CAPABILITIES,
    bounding_set,
    check_non_root,
    check_policy,
    check_sysctls,
    held_capabilities,
)
from edged.runtime.stop_signal import stop_signal

WEB = Container("web", "i")
POD = Pod("shop", "cart", "u", (WEB,))
IMAGE = Image("i:1", "sha256:0", ())
POLICY = PolicyConfig()


# ---------------------------------------------------------------- capabilities


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        (Security(), set(CAPABILITIES)),
        (Security(add=("NET_ADMIN",)), {*CAPABILITIES, "CAP_NET_ADMIN"}),
        (Security(add=("cap_bpf",), drop=("chown", "KILL")), {*CAPABILITIES, "CAP_BPF"} - {"CAP_CHOWN", "CAP_KILL"}),
        (Security(drop=("ALL",)), set()),
        (Security(add=("NET_BIND_SERVICE",), drop=("ALL",)), {"CAP_NET_BIND_SERVICE"}),
        (Security(add=("ALL",), drop=("SYS_ADMIN",)), set(ALL_CAPABILITIES) - {"CAP_SYS_ADMIN"}),
        (Security(privileged=True, drop=("ALL",)), set(ALL_CAPABILITIES)),
    ],
)
def test_capabilities_are_added_and_dropped_as_in_kubernetes(security: Security, expected: set[str]) -> None:
    assert set(bounding_set(security, "w")) == expected


def test_a_capability_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(PermanentError, match=r"'NET_AMDIN', which does not exist"):
        bounding_set(Security(add=("NET_AMDIN",)), "w")


def test_a_capability_that_the_node_lacks_is_refused_when_named_and_left_out_of_all() -> None:
    held = set(ALL_CAPABILITIES) - {"CAP_SYS_RESOURCE"}
    with pytest.raises(PermanentError, match=r"CAP_SYS_RESOURCE, which this node doesn't have"):
        bounding_set(Security(add=("SYS_RESOURCE",)), "w", held)
    assert set(bounding_set(Security(add=("ALL",)), "w", held)) == held


def test_without_a_device_filter_device_files_are_made_only_by_who_asks() -> None:
    assert "CAP_MKNOD" not in bounding_set(Security(), "w", mknod=False)
    assert "CAP_MKNOD" in bounding_set(Security(add=("MKNOD",)), "w", mknod=False)


def test_capabilities_are_read_from_the_kernels_mask() -> None:
    assert held_capabilities(0x1FFFFFFFFFF) == set(ALL_CAPABILITIES)
    assert held_capabilities(0b100001) == {"CAP_CHOWN", "CAP_KILL"}


# ---------------------------------------------------------------- the node's policy


@pytest.mark.parametrize(
    ("pod", "policy", "word"),
    [
        (replace(POD, containers=(replace(WEB, security=Security(privileged=True)),)), POLICY, r"privileged = true"),
        (replace(POD, host_network=True), PolicyConfig(host_network=False), r"host_network = true"),
        (
            replace(
                POD, containers=(replace(WEB, mounts=(Mount("v", "/v"),)),), volumes=(Volume("v", HostPath("/v")),)
            ),
            PolicyConfig(host_path=False),
            r"host_path = true",
        ),
        (replace(POD, share_processes=True), POLICY, r"shareProcessNamespace"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused_with_what_to_set(pod: Pod, policy: PolicyConfig, word: str) -> None:
    with pytest.raises(PermanentError, match=word):
        check_policy(pod, pod.containers[0], policy)


def test_a_policy_may_allow_everything() -> None:
    pod = replace(POD, containers=(replace(WEB, security=Security(privileged=True)),), host_network=True)
    check_policy(pod, pod.containers[0], PolicyConfig(privileged=True))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("kernel.hostname", "belongs to the whole machine"),
        ("vm.swappiness", "belongs to the whole machine"),
        ("net.core.somaxconn", "unsafe_sysctls"),
        ("kernel.shmmax", "unsafe_sysctls"),
        ("net..x", "is not the name"),
    ],
)
def test_a_kernel_parameter_that_is_not_the_pods_or_not_safe_is_refused(name: str, word: str) -> None:
    with pytest.raises(PermanentError, match=word):
        check_sysctls(replace(POD, sysctls=((name, "1"),)), POLICY)


def test_safe_kernel_parameters_and_those_that_the_policy_names_are_allowed() -> None:
    check_sysctls(replace(POD, sysctls=(("net.ipv4.tcp_syncookies", "1"), ("kernel/shm_rmid_forced", "1"))), POLICY)
    policy = PolicyConfig(unsafe_sysctls=("net.core.*", "kernel.shmmax"))
    check_sysctls(replace(POD, sysctls=(("net.core.somaxconn", "9"), ("kernel.shmmax", "9"))), policy)


def test_network_parameters_are_refused_in_the_hosts_network() -> None:
    with pytest.raises(PermanentError, match="node's own network"):
        check_sysctls(replace(POD, host_network=True, sysctls=(("net.ipv4.tcp_syncookies", "1"),)), POLICY)


@pytest.mark.parametrize(
    ("security", "image_user", "uid", "word"),
    [
        (Security(non_root=True), "", 0, "image will run as root"),
        (Security(non_root=True), "0:5", 0, "image will run as root"),
        (Security(non_root=True), "app", 1000, r"non-numeric user \(app\)"),
        (Security(non_root=True, user=0), "1000", 0, "breaks non-root policy"),
    ],
)
def test_root_is_refused_in_kubernetes_words_where_nobody_may_be_root(
    security: Security, image_user: str, uid: int, word: str
) -> None:
    container = replace(WEB, security=security)
    with pytest.raises(PermanentError, match=rf"{word}.*\(pod: shop/cart, container: web\)|{word} \(pod: shop/cart"):
        check_non_root(POD, container, replace(IMAGE, user=image_user), User(uid))


@pytest.mark.parametrize(("user", "image_user"), [(1000, "app"), (1000, ""), (None, "1000"), (None, "1000:0")])
def test_a_number_other_than_zero_is_not_root(user: int | None, image_user: str) -> None:
    container = replace(WEB, security=Security(non_root=True, user=user))
    check_non_root(POD, container, replace(IMAGE, user=image_user), User(1000))


# ---------------------------------------------------------------- seccomp


def test_seccomp_is_chosen_by_kubernetes_words(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.json").write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    assert seccomp.choose("Unconfined", "x86_64", (), tmp_path, "w") == b"null"
    assert seccomp.choose("RuntimeDefault", "x86_64", CAPABILITIES, tmp_path, "w") == seccomp.profile("x86_64")
    assert seccomp.choose("Localhost/mine/a.json", "x86_64", (), tmp_path, "w") == b'{"defaultAction":"SCMP_ACT_LOG"}'


@pytest.mark.parametrize("name", ["none.json", "../x.json", "/etc/passwd"])
def test_a_seccomp_file_that_is_missing_or_elsewhere_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.json").write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    with pytest.raises(RetryError, match="put it below"):
        seccomp.choose(f"Localhost/{name}", "x86_64", (), tmp_path / "folder", "w")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"defaultAction": ""}'])
def test_a_file_that_is_no_seccomp_profile_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad").write_text(content)
    with pytest.raises(PermanentError, match="bad is not"):
        seccomp.choose("Localhost/bad", "x86_64", (), tmp_path, "w")
    with pytest.raises(PermanentError, match="Localhost"):
        seccomp.choose("Docker", "x86_64", (), tmp_path, "w")


def test_a_capability_opens_the_calls_that_go_with_it() -> None:
    made = json.loads(seccomp.profile("x86_64", frozenset({"CAP_SYS_ADMIN", "CAP_SYS_TIME"})))
    allowed = {n for rule in made["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for n in rule["names"]}
    assert {"mount", "setns", "clone3", "clock_settime", "bpf"} <= allowed
    assert "reboot" not in allowed
    withheld = {n for r in made["syscalls"] if r["action"] == "SCMP_ACT_ERRNO" and "args" not in r for n in r["names"]}
    assert not allowed & withheld
    assert {c for calls in seccomp.OPENED_BY.values() for c in calls.split()} <= set(seccomp.WITHHELD.split())


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", signal.SIGTERM),
        ("SIGINT", signal.SIGINT),
        ("quit", signal.SIGQUIT),
        ("9", 9),
        ("SIGRTMIN+3", 37),
        ("RTMIN", 34),
        ("SIGRTMAX-1", 63),
        ("0", signal.SIGTERM),
        ("65", signal.SIGTERM),
        ("SIGNAL", signal.SIGTERM),
        ("_DFL", signal.SIGTERM),
        ("RTMIN+99", signal.SIGTERM),
    ],
)
def test_a_stop_signal_is_a_name_or_a_number_and_nonsense_is_sigterm(text: str, number: int) -> None:
    assert stop_signal(text) == number


def test_a_termination_message_is_bounded_and_the_log_stands_in_for_it(tmp_path: Path) -> None:
    file, log = tmp_path / "message", tmp_path / "log"
    last_words.begin(file)
    assert file.stat().st_mode & 0o777 == 0o666
    assert last_words.message(file, ()) == ""
    lines = [f"2026-01-01T00:00:00Z stderr F line {n}\n" for n in range(100)]
    log.write_text("".join(lines) + "2026-01-01T00:00:00Z stdout P half" + "\n")
    said = last_words.message(file, (tmp_path / "none", log)).splitlines()
    assert (said[0], said[-1], len(said)) == ("line 21", "half", 80)
    log.write_text("2026-01-01T00:00:00Z stderr F " + "x" * 9000 + "\n")
    assert len(last_words.message(file, (log,))) == 2048
    file.write_bytes(b"\xff" * 9000)
    assert len(last_words.message(file, (log,)).encode()) <= 4096
    file.write_text("so long")
    assert last_words.message(file, (log,)) == "so long"
