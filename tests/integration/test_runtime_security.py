"""What a pod says of its users and powers, as the kernel then shows it from inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from edged.config import PolicyConfig
from edged.errors import PermanentError, RetryError
from edged.model import EmptyDir, HostPath, Mount, Security, Volume
from edged.runtime.cgroup import Cgroups
from edged.runtime.security import ALL_CAPABILITIES, held_capabilities
from tests.runtime_lab import Node, run

pytestmark = pytest.mark.root
MKNOD = 0 if Cgroups("edged").devices else 1 << 27  # withheld where access to devices can't be limited
DEFAULT = 0xA80425FB & ~MKNOD  # Docker's well-known set
ALL = sum(1 << n for n in range(len(ALL_CAPABILITIES)))


def own_capabilities() -> int:
    return int(status(Path("/proc/self/status").read_text())["CapEff"], 16)


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


async def status_inside(it: Node, security: Security) -> dict[str, str]:
    return status(await it.output("/bin/cat", "/proc/self/status", security=security))


# ---------------------------------------------------------------- who it is


def test_user_group_and_supplemental_groups_are_those_of_the_pod() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output(
            "/bin/id",
            image=replace(it.place.image, user="app"),
            security=Security(user=1000, group=2000, groups=(3000, 4000)),
            pod={"fs_group": 5000},
        )
        assert said == "uid=1000(app) gid=2000 groups=1002(web),2000,3000,4000,5000"

    run(scenario)


def test_a_container_that_must_not_be_root_is_refused_before_anything_of_it_exists() -> None:
    async def scenario(it: Node) -> None:
        with pytest.raises(PermanentError, match="image will run as root"):
            await it.start("/bin/id", security=Security(non_root=True))
        assert it.runtime.inspect("uid-1.main.0") is None
        said = await it.output("/bin/id", "-u", security=Security(non_root=True, user=1000))
        assert said == "1000"

    run(scenario)


# ---------------------------------------------------------------- what it may


@pytest.mark.parametrize(
    ("security", "effective", "bounding"),
    [
        (Security(), DEFAULT, DEFAULT),
        (Security(add=("NET_ADMIN",), drop=("CHOWN",)), DEFAULT | 1 << 12 & ~1, DEFAULT | 1 << 12),
        (Security(drop=("ALL",), add=("KILL",)), 1 << 5, 1 << 5),
        (Security(user=1000), 0, DEFAULT),
        (Security(user=1000, add=("NET_ADMIN",)), 0, DEFAULT | 1 << 12),
    ],
)
def test_capabilities_reach_root_at_once_and_others_only_through_files(
    security: Security, effective: int, bounding: int
) -> None:
    async def scenario(it: Node) -> None:
        dropped = 1 if "CHOWN" in security.drop else 0  # CAP_CHOWN is bit 0
        found = await status_inside(it, security)
        assert int(found["CapEff"], 16) == effective & ~dropped
        assert int(found["CapPrm"], 16) == effective & ~dropped
        assert int(found["CapBnd"], 16) == bounding & ~dropped
        assert int(found["CapAmb"], 16) == int(found["CapInh"], 16) == 0

    run(scenario)


def test_all_capabilities_are_those_that_the_node_has() -> None:
    async def scenario(it: Node) -> None:
        found = await status_inside(it, Security(add=("ALL",)))
        assert int(found["CapEff"], 16) == own_capabilities() & ALL
        await it.runtime.remove_container("uid-1.main.0")
        lacking = set(ALL_CAPABILITIES) - held_capabilities(own_capabilities())
        for name in lacking:
            with pytest.raises(PermanentError, match=f"{name}, which this node"):
                await it.start("/bin/id", security=Security(add=(name,)))

    run(scenario)


def test_new_privileges_are_gained_only_where_the_pod_says_so() -> None:
    async def scenario(it: Node) -> None:
        for escalation, expected in ((False, "1"), (True, "0")):
            assert (await status_inside(it, Security(escalation=escalation)))["NoNewPrivs"] == expected
            await it.runtime.remove_container("uid-1.main.0")

    run(scenario)


def test_a_read_only_root_takes_nothing_but_its_volumes_do() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output(
            "/bin/sh",
            "-c",
            "exec 2>&1; touch /x; touch /etc/x;"
            " echo yes > /new/place/x; cat /new/place/x; echo 1 > /dev/shm/x && echo shm",
            security=Security(read_only_root=True),
            mounts=(Mount("v", "/new/place"),),
            pod={"volumes": (Volume("v", EmptyDir()),)},
        )
        assert said.count("Read-only file system") == 2
        assert said.splitlines()[-2:] == ["yes", "shm"]
        assert not (it.place.config.state / "rw" / "uid-1" / "main-0").exists()  # it needs no disk

    run(scenario)


def test_a_privileged_container_needs_the_nodes_consent_as_well() -> None:
    async def scenario(it: Node) -> None:
        with pytest.raises(PermanentError, match=r"set privileged = true below \[policy\]"):
            await it.start("/bin/id", security=Security(privileged=True))

    run(scenario)


def test_a_privileged_container_has_all_that_the_machine_has() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output(
            "/bin/sh",
            "-c",
            "cat /proc/self/status; ls /dev; mount -t tmpfs x /tmp && echo mounted;"
            " touch /proc/sys/kernel/hostname && echo sys; cat /proc/self/mountinfo",
            security=Security(privileged=True),
        )
        found = status(said)
        assert int(found["CapEff"], 16) == own_capabilities() & ALL
        assert (found["Seccomp"], found["NoNewPrivs"]) == ("0", "0")
        lines = said.splitlines()
        assert {"mounted", "sys", "kmsg"} <= set(lines)
        assert not [line for line in lines if " /proc/kcore " in line]  # not masked

    run(scenario, PolicyConfig(privileged=True))


def test_the_nodes_own_network_can_be_refused_by_its_policy() -> None:
    async def scenario(it: Node) -> None:
        with pytest.raises(PermanentError, match="host_network = true"):
            await it.start("/bin/id", pod={"host_network": True})
        with pytest.raises(PermanentError, match="host_path = true"):
            await it.start(
                "/bin/id", mounts=(Mount("v", "/v"),), pod={"volumes": (Volume("v", HostPath("/etc", "Directory")),)}
            )

    run(scenario, PolicyConfig(host_network=False, host_path=False))


# ---------------------------------------------------------------- seccomp


def test_seccomp_can_be_off_or_a_file_of_the_nodes() -> None:
    async def scenario(it: Node) -> None:
        assert (await status_inside(it, Security(seccomp="Unconfined")))["Seccomp"] == "0"
        await it.runtime.remove_container("uid-1.main.0")
        with pytest.raises(RetryError, match="put it below"):
            await it.start("/bin/id", security=Security(seccomp="Localhost/no-mkdir.json"))
        folder = it.place.config.state / "seccomp"
        folder.mkdir(parents=True)
        rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 93}]
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
        (folder / "no-mkdir.json").write_text(json.dumps(profile))
        for _ in range(2):  # the second time as crun has compiled it
            said = await it.output(
                "/bin/sh",
                "-c",
                "exec 2>&1; touch /a && echo a; mkdir /b",
                security=Security(seccomp="Localhost/no-mkdir.json"),
            )
            assert said.splitlines() == ["a", "mkdir: can't create directory '/b': Protocol not supported"]
            await it.runtime.remove_container("uid-1.main.0")

    run(scenario)


def test_the_default_filter_opens_what_goes_with_a_capability() -> None:
    async def scenario(it: Node) -> None:
        for add, said in (((), "mount: permission denied (are you root?)"), (("SYS_ADMIN",), "yes")):
            told = await it.output("/bin/sh", "-c", "mount -t tmpfs x /tmp && echo yes", security=Security(add=add))
            assert told.splitlines()[-1] == said
            await it.runtime.remove_container("uid-1.main.0")

    run(scenario)


# ---------------------------------------------------------------- kernel parameters


def test_kernel_parameters_of_a_pod_are_set_inside_and_nowhere_else() -> None:
    async def scenario(it: Node) -> None:
        outside = Path("/proc/sys/kernel/shm_rmid_forced").read_text()
        said = await it.output(
            "/bin/sh",
            "-c",
            "cd /proc/sys; cat kernel/shm_rmid_forced kernel/msgmax net/ipv4/ip_unprivileged_port_start",
            pod={
                "sysctls": (
                    ("kernel.shm_rmid_forced", "1"),
                    ("kernel.msgmax", "12345"),
                    ("net.ipv4.ip_unprivileged_port_start", "77"),
                )
            },
        )
        assert said.splitlines() == ["1", "12345", "77"]
        assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == outside
        await it.runtime.remove_container("uid-1.main.0")
        with pytest.raises(PermanentError, match="whole machine"):
            await it.start("/bin/id", pod={"sysctls": (("vm.swappiness", "1"),)})

    run(scenario, PolicyConfig(unsafe_sysctls=("kernel.msg*",)), real_network=True)


# ---------------------------------------------------------------- where it is


def test_a_working_directory_that_is_missing_is_made() -> None:
    async def scenario(it: Node) -> None:
        said = await it.output("/bin/sh", "-c", "echo $PWD; touch x && echo made", working_dir="/srv/app/data")
        assert said.splitlines() == ["/srv/app/data", "made"]

    run(scenario)


def test_a_container_in_the_hosts_network_has_the_nodes_name_and_interfaces() -> None:
    async def scenario(it: Node) -> None:
        state = await it.start(
            "/bin/sh",
            "-c",
            "cat /proc/sys/kernel/hostname; echo here; exec sleep 600",
            pod={"host_network": True},
        )
        await it.says(state, "here")
        assert it.log(state).splitlines()[0] == Path("/proc/sys/kernel/hostname").read_text().strip()
        namespaces = [Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", str(state.pid))]
        assert namespaces[0] == namespaces[1]
        uts = [Path(f"/proc/{pid}/ns/uts").readlink() for pid in ("self", str(state.pid))]
        assert uts[0] != uts[1]

    run(scenario)
