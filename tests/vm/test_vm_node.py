"""The node on cgroup v2 under systemd, as a board runs it: limits, adoption, and the power cut."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edged.model import Phase
from tests.vm.node import HUNGRY, LIMITED, MIB, PARENT, PODS, UNITS, Node, Running, status_of

LIMITED_UID = "uid-limited"
KILLED = 137


def cgroup(node: Node, uid: str, *files: str) -> dict[str, str]:
    folder = f"/sys/fs/cgroup{node.processes()[uid].cgroup}"
    return dict(zip(files, node.machine.read(*(f"{folder}/{name}" for name in files)), strict=True))


def pids(processes: dict[str, Running]) -> dict[str, int]:
    return {uid: one.pid for uid, one in processes.items()}


def start_times(node: Node) -> tuple[float, float]:
    """When the daemon was executed and when it said READY=1, in seconds after the kernel's start."""
    names = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    found = node.properties(*names)
    return int(found[names[0]]) / 1e6, int(found[names[1]]) / 1e6


# ---------------------------------------------------------------- systemd


def test_the_unit_files_hold_what_systemd_understands(node: Node) -> None:
    units = " ".join(f"/etc/systemd/system/{unit}" for unit in UNITS)
    assert node.machine.run(f"systemd-analyze verify --man=no {units} 2>&1") == ""


def test_systemd_is_told_when_the_daemon_is_ready(node: Node) -> None:
    shown = node.properties("Type", "ActiveState", "SubState", "Result")
    assert shown == {"Type": "notify", "ActiveState": "active", "SubState": "running", "Result": "success"}
    assert node.machine.try_run("systemctl status edged").returncode == 0
    assert node.machine.run("systemctl --failed --plain --no-legend") == ""
    started, ready = start_times(node)
    node.notes.append(f"edged: {ready - started:.2f} s from exec to READY=1")


def test_a_watchdog_is_fed(node: Node) -> None:
    shown = node.properties("WatchdogUSec", "WatchdogTimestampMonotonic")
    assert shown["WatchdogUSec"] == "1min"
    assert int(shown["WatchdogTimestampMonotonic"]) > 0


# ---------------------------------------------------------------- cgroup v2


def test_nothing_is_degraded_on_cgroup_v2(node: Node) -> None:
    """But for what Debian 12's kernel (6.1) is too old for: id-mapped memory."""
    assert [s for s in node.snapshot().status.degraded if "needs Linux 6.3" not in s] == []


def test_limits_reach_the_kernel(node: Node) -> None:
    files = ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")
    found = cgroup(node, LIMITED_UID, *files)
    node.notes.append(f"limited pod: {found}")
    shares = LIMITED.cpu_request * 1024 // 1000
    assert found == {
        "memory.max": str(LIMITED.memory_limit),
        "memory.swap.max": "0",
        "cpu.max": "25000 100000",  # 250 thousandths of a core
        "cpu.weight": str(1 + (shares - 2) * 9999 // 262142),  # the kernel documentation's and crun's translation
        "pids.max": str(LIMITED.pids_limit),
    }


def test_no_cgroup_with_children_that_are_limited_holds_processes_itself(node: Node) -> None:
    daemon = node.machine.read(f"/proc/{node.daemon()}/cgroup")[0]
    assert daemon == "0::/system.slice/edged.service"
    assert node.machine.run("find /sys/fs/cgroup/system.slice/edged.service -mindepth 1 -type d") == ""
    for uid, process in node.processes().items():
        assert process.cgroup == f"{PARENT}/{uid}/main-0" or process.cgroup.startswith(f"{PARENT}/{uid}/main-")
    inner = f"/sys/fs/cgroup{PARENT}"
    folders = [inner, *(f"{inner}/{pod.uid}" for pod in PODS)]
    assert node.machine.read(*(f"{f}/cgroup.procs" for f in folders)) == [""] * len(folders)
    for passed_on in node.machine.read(*(f"{f}/cgroup.subtree_control" for f in folders)):
        assert {"cpu", "memory", "pids"} <= set(passed_on.split())


def test_a_container_sees_only_its_own_cgroup(node: Node) -> None:
    pid = node.processes()[LIMITED_UID].pid
    inside = node.machine.run(f"nsenter -t {pid} -m -p -C cat /proc/1/cgroup /sys/fs/cgroup/memory.max")
    assert inside.split() == ["0::/", str(LIMITED.memory_limit)]


def test_usage_is_what_the_kernel_counts(node: Node) -> None:
    told = node.snapshot().usage[f"{LIMITED_UID}.main.{attempt_of(node, LIMITED_UID)}"]
    found = cgroup(node, LIMITED_UID, "memory.current", "memory.stat", "cpu.stat", "pids.current")
    stat = dict(line.split() for line in found["memory.stat"].splitlines())
    working_set = int(found["memory.current"]) - int(stat["inactive_file"])
    seconds = int(dict(line.split() for line in found["cpu.stat"].splitlines())["usage_usec"]) / 1e6
    node.notes.append(
        f"limited pod uses {told.memory / MIB:.1f} MiB, {told.cpu_seconds:.2f} CPU seconds, {told.pids} pids"
    )
    assert abs(told.memory - working_set) < MIB
    assert told.memory > 8 * MIB  # its ballast
    assert told.memory_limit == LIMITED.memory_limit
    assert 0 < told.cpu_seconds <= seconds
    assert told.pids == int(found["pids.current"]) == 2


def attempt_of(node: Node, uid: str) -> str:
    return node.processes()[uid].cgroup.rpartition("-")[2]


def test_a_container_that_outgrows_its_memory_is_reported_as_oom_killed(node: Node) -> None:
    node.desire((*PODS, HUNGRY))
    try:
        ended = node.until(
            lambda s: any(p.uid == HUNGRY.uid and p.phase is Phase.FAILED for p in s.status.pods), "the OOM kill"
        )
        (container,) = status_of(ended, HUNGRY).containers
        assert (container.state, container.reason, container.exit_code) == ("terminated", "OOMKilled", KILLED)
    finally:
        node.desire(PODS)
    node.all_running()
    assert node.machine.try_run(f"test -e /sys/fs/cgroup{PARENT}/{HUNGRY.uid}").returncode == 1


def test_a_killed_container_is_started_again_in_a_new_cgroup(node: Node) -> None:
    before = node.processes()["uid-plain-0"]
    node.machine.run(f"kill -9 {before.pid}")
    node.until(
        lambda s: status_of(s, PODS[0]).containers[0].restarts > 0 and status_of(s, PODS[0]).ready, "the restart"
    )
    after = node.processes()["uid-plain-0"]
    assert after.cgroup != before.cgroup
    assert node.machine.read(f"/sys/fs/cgroup{before.cgroup}/cgroup.procs") == [""]


# ---------------------------------------------------------------- adoption


@pytest.mark.vm_ci
def test_a_restart_of_the_service_adopts_every_container(node: Node) -> None:
    before, daemon = pids(node.processes()), node.daemon()
    node.machine.run("systemctl restart edged")
    assert node.daemon() != daemon
    node.all_running()
    assert pids(node.processes()) == before


@pytest.mark.vm_ci
def test_a_stopped_service_leaves_its_containers_running(node: Node) -> None:
    before = pids(node.processes())
    node.machine.run("systemctl stop edged")
    assert pids(node.processes()) == before
    assert node.machine.run("systemctl is-active edged-pods").strip() == "active"
    node.machine.run("systemctl start edged")
    node.all_running()
    assert pids(node.processes()) == before


def test_a_killed_daemon_is_back_and_adopts_every_container(node: Node) -> None:
    before, daemon = pids(node.processes()), node.daemon()
    node.machine.run(f"kill -9 {daemon}")
    node.until(lambda _: node.daemon() not in (0, daemon), "another daemon")
    node.all_running()
    assert pids(node.processes()) == before


def test_containers_outlive_their_monitors_and_the_daemon_after_that(node: Node) -> None:
    before = node.processes()
    node.machine.run("kill -9 " + " ".join(str(one.conmon) for one in before.values()))
    node.all_running()
    assert pids(node.processes()) == pids(before)
    node.machine.run("systemctl restart edged")
    node.all_running()
    assert pids(node.processes()) == pids(before)
    victim = before["uid-plain-1"]
    node.machine.run(f"kill -9 {victim.pid}")  # without a monitor its end is still seen
    node.until(
        lambda s: status_of(s, PODS[1]).ready and node.processes().get("uid-plain-1", victim).pid != victim.pid,
        "the restart of a container without a monitor",
    )


def test_systemd_rereading_its_units_changes_no_limit(node: Node) -> None:
    before = pids(node.processes())
    node.machine.run("systemctl daemon-reload && systemctl daemon-reexec && systemd-run -q --wait -p CPUWeight=7 true")
    assert pids(node.processes()) == before
    found = cgroup(node, LIMITED_UID, "memory.max", "cpu.max")
    assert found == {"memory.max": str(LIMITED.memory_limit), "cpu.max": "25000 100000"}


def test_stopping_the_pods_unit_ends_the_whole_node(node: Node) -> None:
    try:
        node.machine.run("systemctl stop edged-pods")
        assert node.processes() == {}
        assert node.machine.try_run("systemctl is-active edged").returncode != 0
    finally:
        node.machine.run("systemctl start edged")
    node.all_running()


def test_teardown_leaves_nothing_and_the_node_can_start_again(node: Node) -> None:
    try:
        node.machine.run("systemctl stop edged && /opt/edged/current/bin/python -m edged teardown --yes")
        assert node.processes() == {}
        assert node.machine.try_run(f"test -e /sys/fs/cgroup{PARENT}").returncode == 1
        assert (
            node.machine.run(
                "nft list tables; grep edged /proc/self/mountinfo; ip -br link | grep -v -w -e lo -e eth0; :"
            )
            == ""
        )
        assert node.machine.try_run("pgrep -x conmon").returncode == 1
    finally:
        node.machine.run("systemctl start edged")
    node.all_running()


# ---------------------------------------------------------------- power


def test_after_a_power_cut_every_pod_runs_again_without_a_hub(node: Node) -> None:
    generation = node.snapshot().generation
    node.machine.cut_power()
    node.machine.boot()
    assert node.all_running().generation == generation
    found = node.processes()
    assert set(found) == {pod.uid for pod in PODS}
    exec_at, ready_at = start_times(node)
    node.notes.append(
        f"after a power cut, seconds from kernel start: edged exec {exec_at:.1f}, READY=1 {ready_at:.1f}, "
        f"first container {min(p.started for p in found.values()):.1f}, "
        f"all {len(found)} running {max(p.started for p in found.values()):.1f}"
    )


def test_a_shutdown_is_not_held_up_by_pods_and_brings_them_back(node: Node) -> None:
    took = node.machine.shut_down()
    node.notes.append(f"poweroff with {len(PODS)} pods: {took:.1f} s until the machine is off")
    node.machine.boot()
    node.all_running()


# ---------------------------------------------------------------- cost


def test_the_daemon_keeps_to_its_memory_budget(node: Node) -> None:
    node.machine.run("systemctl restart edged")  # so that no test before has made it larger
    node.all_running()
    daemon = node.daemon()
    # another Python would share its pages and flatter the number
    node.machine.run(f"until [ \"$(pgrep -f '/opt/edged/[^ ]*bin/[p]ython')\" = {daemon} ]; do sleep 0.5; done")
    smaps = node.machine.read(f"/proc/{daemon}/smaps_rollup")[0]
    facts = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in smaps.splitlines()[1:]}
    monitors = node.machine.run(
        "for c in " + " ".join(str(p.conmon) for p in node.processes().values()) + "; do "
        "awk '/^Pss:/{print $2}' /proc/$c/smaps_rollup; done"
    ).split()
    node.notes.append(
        f"edged with {len(PODS)} pods: PSS {facts['Pss'] / 1024:.1f} MB, private "
        f"{(facts['Private_Clean'] + facts['Private_Dirty']) / 1024:.1f} MB, RSS {facts['Rss'] / 1024:.1f} MB; "
        f"conmon PSS {sum(map(int, monitors)) / max(len(monitors), 1):.0f} kB each"
    )
    assert facts["Pss"] <= 30 * 1024


# ---------------------------------------------------------------- the runtime's own tests, in there

SUITES = (
    "tests/contract/test_runtime_contract*.py",
    "tests/integration/test_runtime_*.py",
    "tests/integration/test_network_*.py",
)
SUITES += ("tests/integration/test_services_*.py",)
SUITES += ("tests/integration/test_volume_*.py", "tests/integration/test_quota_*.py")
SUITES += ("tests/integration/test_claims_*.py",)


@pytest.mark.parametrize("suite", SUITES, ids=lambda s: Path(s).stem.strip("_*"))
def test_the_suites_of_the_runtime_pass_on_cgroup_v2(node: Node, suite: str) -> None:
    started = time.monotonic()
    done = node.machine.try_run(
        "cd /opt/edged/src && CI=true /opt/edged/current/bin/python -m pytest -q -n 2 -p no:cacheprovider"
        f" {suite} 2>&1",
        timeout=1500.0,
    )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-20000:]
    node.notes.append(f"{suite} in the VM: {said.strip().splitlines()[-1]} ({time.monotonic() - started:.0f} s)")
