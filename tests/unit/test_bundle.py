"""config.json as runc, crun and Kubernetes would write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edged.errors import PermanentError
from edged.model import Limits, Pod
from edged.runtime import bundle, seccomp
from edged.runtime.bundle import BindMount, ContainerSpec, Machine, User

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
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [5]}


def test_root_has_dockers_default_capabilities_and_other_users_none() -> None:
    assert len(config()["process"]["capabilities"]["effective"]) == 14
    assert "CAP_SYS_ADMIN" not in config()["process"]["capabilities"]["bounding"]
    other = config(user=User(1000))["process"]["capabilities"]
    assert (other["effective"], other["permitted"], other["ambient"]) == ([], [], [])


def test_each_container_has_its_own_namespaces_but_shares_the_pods_network() -> None:
    unified = config()["linux"]["namespaces"]
    assert [n["type"] for n in unified] == ["pid", "mount", "ipc", "uts", "cgroup", "network"]
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
    machine = Machine(seccomp=seccomp.profile("x86_64"), seccomp_bpf="QUJD")
    made = config(machine)
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
    assert "seccomp" not in config(Machine(seccomp=b"null"))["linux"]
    assert "SCMP_ARCH_ARM" in seccomp.profile("aarch64").decode()


def test_without_a_device_filter_no_device_files_can_be_made() -> None:
    made = config(Machine(devices=False))
    assert "devices" not in made["linux"]["resources"]
    assert "CAP_MKNOD" not in made["process"]["capabilities"]["bounding"]


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
