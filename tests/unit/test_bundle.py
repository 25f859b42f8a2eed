"""config.json as runc, crun and Kubernetes would write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edged.errors import PermanentError
from edged.model import Limits, Pod
from edged.runtime import bundle, seccomp
from edged.runtime.bundle import BindMount, ContainerSpec, Device, Machine, User

MIB = 1 << 20


def spec(**changes: Any) -> ContainerSpec:
    values: dict[str, Any] = {
        "args": ("/bin/app", "-v"),
        "env": {"PATH": "/bin", "A": "b=c"},
        "rootfs": "/run/x/rootfs",
        "hostname": "app",
        "netns": "/run/netns/10.0.0.2",
        "cgroup": "/edged/uid/main-0",
    }
    return ContainerSpec(**(values | changes))


def config(machine: Machine | None = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(bundle.config_json(spec(**changes), machine or Machine()))
    return made


def test_the_process_is_as_asked() -> None:
    process = config(working_dir="/srv", user=User(1000, 1001, (5,)))["process"]
    assert process["args"] == ["/bin/app", "-v"]
    assert process["env"] == ["PATH=/bin", "A=b=c"]
    assert (process["cwd"], process["noNewPrivileges"]) == ("/srv", True)
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [1001, 5]}


def test_root_has_dockers_default_capabilities_and_other_users_none() -> None:
    assert len(config()["process"]["capabilities"]["effective"]) == 14
    assert "CAP_SYS_ADMIN" not in config()["process"]["capabilities"]["bounding"]
    other = config(user=User(1000))["process"]["capabilities"]
    assert (other["effective"], other["permitted"], other["ambient"]) == ([], [], [])


def test_each_container_has_its_own_namespaces_but_shares_the_pods_network() -> None:
    unified = config()["linux"]["namespaces"]
    assert [n["type"] for n in unified] == ["pid", "mount", "uts", "cgroup", "ipc", "network"]
    assert unified[-1]["path"] == "/run/netns/10.0.0.2"
    older = config(Machine(unified=False))["linux"]["namespaces"]
    assert "cgroup" not in [n["type"] for n in older]


def test_limits_become_what_kubernetes_makes_of_them() -> None:
    limits = Limits(memory_limit=64 * MIB, cpu_request=250, cpu_limit=500, pids_limit=99)
    assert config(limits=limits)["linux"]["resources"] == {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
        "cpu": {"shares": 256, "period": 100_000, "quota": 50_000},
        "pids": {"limit": 99},
        "unified": {"memory.oom.group": "1"},
    }
    assert "unified" not in config(Machine(unified=False), limits=limits)["linux"]["resources"]


def test_no_request_is_the_smallest_share_and_no_limit_is_none() -> None:
    assert config(limits=Limits(pids_limit=0))["linux"]["resources"] == {
        "devices": [{"allow": False, "access": "rwm"}],
        "cpu": {"shares": 2},
        "unified": {"memory.oom.group": "1"},
    }


def test_what_the_machine_can_not_limit_is_left_out() -> None:
    poor = Machine(memory=False, swap=False, cpu=False, pids=False)
    limits = Limits(memory_limit=64 * MIB, cpu_limit=500)
    assert set(config(poor, limits=limits)["linux"]["resources"]) == {"devices"}
    no_swap = config(Machine(unified=False, swap=False), limits=limits)["linux"]["resources"]["memory"]
    assert no_swap == {"limit": 64 * MIB}


def test_a_tiny_cpu_limit_is_not_below_what_the_kernel_takes() -> None:
    assert config(limits=Limits(cpu_limit=1))["linux"]["resources"]["cpu"]["quota"] == 1000


def test_own_mounts_come_after_the_systems() -> None:
    mounts = config(mounts=(BindMount("/src", "/data", read_only=True), BindMount("/s2", "/rw")))["mounts"]
    assert [m["destination"] for m in mounts[-2:]] == ["/data", "/rw"]
    assert mounts[-2]["options"][:3] == ["rbind", "rprivate", "ro"]
    assert mounts[-1]["options"][2] == "rw"
    cgroup = next(m for m in mounts if m["destination"] == "/sys/fs/cgroup")
    assert (cgroup["type"], "ro" in cgroup["options"]) == ("cgroup2", True)


def test_seccomp_is_an_allow_list_and_its_compiled_form_goes_along() -> None:
    made = config(seccomp=seccomp.profile("x86_64"), seccomp_bpf="QUJD")
    assert made["annotations"] == {bundle.SECCOMP_BPF: "QUJD"}
    profile = made["linux"]["seccomp"]
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    allowed = {n for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for n in rule["names"]}
    assert {"read", "execve", "clone", "futex", "epoll_pwait2", "rseq"} <= allowed
    assert not {"mount", "unshare", "setns", "bpf", "keyctl", "reboot", "io_uring_setup", "clone3"} & allowed


def test_a_call_is_either_allowed_or_withheld() -> None:
    allowed, withheld = seccomp.ALLOWED.split(), seccomp.WITHHELD.split()
    assert len(set(allowed + withheld)) == len(allowed) + len(withheld)


def test_an_unknown_machine_has_no_seccomp_rather_than_a_wrong_one() -> None:
    assert seccomp.profile("pdp11") == b"null"
    assert "seccomp" not in config(seccomp=b"null")["linux"]
    assert "SCMP_ARCH_ARM" in seccomp.profile("aarch64").decode()


def test_without_a_device_filter_there_is_no_rule_for_devices() -> None:
    assert "devices" not in config(Machine(devices=False))["linux"]["resources"]
    assert "devices" not in config(Machine(devices=False), privileged=True)["linux"]["resources"]


def test_a_pods_namespaces_are_joined_and_the_hosts_network_is_no_namespace() -> None:
    shared = config(ipcns="/run/ipc", shm="/run/shm")
    assert {"type": "ipc", "path": "/run/ipc"} in shared["linux"]["namespaces"]
    memory = next(m for m in shared["mounts"] if m["destination"] == "/dev/shm")
    assert (memory["type"], memory["source"]) == ("bind", "/run/shm")
    host = [n["type"] for n in config(host_network=True, netns="")["linux"]["namespaces"]]
    assert ("network" in host, "uts" in host) == (False, True)


def test_a_user_namespace_has_64_ki_users_and_groups() -> None:
    made = config(users=1 << 20)["linux"]
    assert {"type": "user"} in made["namespaces"]
    assert made["uidMappings"] == made["gidMappings"] == [{"containerID": 0, "hostID": 1 << 20, "size": 65536}]
    assert "uidMappings" not in config()["linux"]


def test_a_privileged_container_sees_everything_and_another_one_does_not() -> None:
    made = config(privileged=True, escalation=True, devices=(Device("/dev/i2c-1", "c", 89, 1, 0o660, 0, 44),))
    linux = made["linux"]
    assert (linux["maskedPaths"], linux["readonlyPaths"], made["process"]["noNewPrivileges"]) == ([], [], False)
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    device = {"path": "/dev/i2c-1", "type": "c", "major": 89, "minor": 1, "fileMode": 0o660, "uid": 0, "gid": 44}
    assert linux["devices"] == [device]
    sys = next(m for m in made["mounts"] if m["destination"] == "/sys")
    assert "rw" in sys["options"]
    assert "/proc/kcore" in config()["linux"]["maskedPaths"]


def test_a_root_can_be_read_only_and_kernel_parameters_are_the_pods() -> None:
    made = config(read_only_root=True, sysctls=(("kernel.shmmax", "1000"),))
    assert made["root"] == {"path": "/run/x/rootfs", "readonly": True}
    assert made["linux"]["sysctl"] == {"kernel.shmmax": "1000"}
    assert "sysctl" not in config()["linux"]


def test_an_oom_score_that_may_not_be_lowered_is_not() -> None:
    assert config(Machine(oom_floor=0), oom_score_adj=-997)["process"]["oomScoreAdj"] == 0
    assert config(Machine(oom_floor=0), oom_score_adj=500)["process"]["oomScoreAdj"] == 500


def test_the_hostname_fits_the_kernel() -> None:
    long = Pod("default", "a" * 62 + "-b", "uid", ())
    assert bundle.hostname_of(long) == "a" * 62
    assert bundle.hostname_of(Pod("default", "app", "uid", (), hostname="other")) == "other"


@pytest.mark.parametrize("path", ["", "data", "/", "//", "/proc", "/proc/1", "/sys/", "/dev", "/a/../etc", "/a\0b"])
def test_mount_paths_that_make_no_sense_are_refused(path: str) -> None:
    with pytest.raises(PermanentError, match="mountPath"):
        bundle.check_mount_path(path, "mountPath")


def test_mount_paths_are_cleaned() -> None:
    assert bundle.check_mount_path("//data//./x/", "mountPath") == "/data/x"
    assert bundle.check_mount_path("/dev/ttyUSB0", "mountPath") == "/dev/ttyUSB0"
