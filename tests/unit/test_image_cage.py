"""The cgroup of image work, on folders that look like one: which files say what on v2, on v1, and without any."""

from __future__ import annotations

from pathlib import Path

from edged.images.cage import Cage

LIMIT = 64 << 20


def line(place: Path, kind: str, options: str = "rw") -> str:
    return f"30 25 0:26 / {place} rw,nosuid - {kind} {kind} {options}\n"


def said(group: Path) -> dict[str, str]:
    return {f.name: f.read_text() for f in group.iterdir() if f.is_file()}


def test_on_v2_memory_is_limited_without_swap_and_weights_are_low(tmp_path: Path) -> None:
    cage = Cage("/a.slice/pods", LIMIT, line(tmp_path, "cgroup2"))
    (tmp_path / "a.slice/pods").mkdir(parents=True)
    group = tmp_path / "a.slice/pods/images"
    assert cage.open() == (str(group / "cgroup.procs"),)
    assert said(group) == {
        "memory.max": str(LIMIT),
        "memory.swap.max": "0",
        "cpu.weight": "20",
        "io.weight": "20",
    }
    assert (tmp_path / "a.slice/pods/cgroup.subtree_control").read_text() == "+io"  # the last of three
    assert cage.degraded == ()


def test_on_v1_each_controller_has_a_group_of_its_own_and_the_v2_half_of_a_hybrid_is_left_alone(tmp_path: Path) -> None:
    mounts = line(tmp_path / "unified", "cgroup2")
    for name in ("memory", "cpu,cpuacct", "blkio"):
        mounts += line(tmp_path / name, "cgroup", f"rw,{name}")
    cage = Cage("pods", LIMIT, mounts)
    assert len(cage.open()) == 3
    assert said(tmp_path / "memory/pods/images")["memory.limit_in_bytes"] == str(LIMIT)
    assert said(tmp_path / "cpu,cpuacct/pods/images") == {"cpu.shares": "204"}
    assert not (tmp_path / "unified").exists()


def test_killed_processes_and_the_peak_are_read_from_where_each_version_has_them(tmp_path: Path) -> None:
    unified = Cage("pods", LIMIT, line(tmp_path / "v2", "cgroup2"))
    unified.open()
    (tmp_path / "v2/pods/images/memory.events").write_text(
        "low 0\nhigh 7\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"
    )
    (tmp_path / "v2/pods/images/memory.peak").write_text("1234\n")
    assert (unified.oom_kills(), unified.peak()) == (1, 1234)
    old = Cage("pods", LIMIT, line(tmp_path / "v1", "cgroup", "rw,memory"))
    old.open()
    (tmp_path / "v1/pods/images/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert (old.oom_kills(), old.peak()) == (3, 0)


def test_without_cgroups_pulls_run_all_the_same_and_it_is_said(tmp_path: Path) -> None:
    cage = Cage("pods", LIMIT, line(tmp_path, "tmpfs"))
    assert cage.open() == ()
    assert cage.degraded == ("the memory of image pulls can't be limited: no cgroup memory controller",)
    assert (cage.oom_kills(), cage.peak(), cage.sweep()) == (0, 0, 0)
    unwritable = Cage("pods", LIMIT, line(Path("/proc/1/nothing"), "cgroup2"))
    assert unwritable.open() == ()
    assert "without a cgroup of their own" in unwritable.degraded[0]
