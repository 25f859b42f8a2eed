"""Self-healing, one node without a hub: whatever is killed, hangs, lies about or is lost heals without a person."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from cloudlink.cli import leftovers
from edged.config import NetworkConfig, NodeConfig
from edged.model import Env, LogTarget, Pod
from edged.runtime.mounts import mount_points
from edged.store import StateStore
from tests.local_node import LocalNode, belongings, build_archive, come_die_and_go, local_node

pytestmark = pytest.mark.root
PATIENCE = 120.0


@pytest.fixture(scope="module")
def archive() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edged-drill-image-") as folder:
        yield build_archive(Path(folder))


@contextlib.contextmanager
def a_node(archive: Path, prepare: Callable[[LocalNode], None] = lambda node: None) -> Iterator[LocalNode]:
    folder = Path(tempfile.mkdtemp(prefix="edged-drill-"))
    state = folder / "state"
    state.mkdir()
    try:
        with local_node(folder, state) as node:
            node.bring_image(archive)
            prepare(node)
            node.start()
            yield node
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        left = leftovers.report(folder, node.bridge, node.bridge, node.cgroup)
        assert not any(left.values()), f"left behind: {left}"


def until(node: LocalNode, what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            log = (node.folder / "node.log").read_text(errors="replace")[-4000:]
            raise AssertionError(f"waited {PATIENCE:.0f} s for {what}, in vain\n{node.edged('status').stdout}\n{log}")
        time.sleep(0.02)


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def runs(node: LocalNode, pod: Pod) -> bool:
    """Its workload of this very spec does."""
    return node.mark(pod) == release_of(pod) and bool(node.container_pids(pod.uid))


def release_of(pod: Pod) -> str:
    return next((str(env.value) for env in pod.containers[0].env if env.name == "RELEASE"), "")


def release(node: LocalNode, name: str, number: int) -> Pod:
    pod = node.pod(name, f"echo $RELEASE > {node.marks_inside}/{name}; exec sleep 1d")
    return replace(pod, containers=(replace(pod.containers[0], env=(Env("RELEASE", str(number)),)),))


# ---------------------------------------------------------------- killed at any step


def test_a_node_killed_at_random_moments_under_churn_ends_where_it_should_and_leaves_nothing(archive: Path) -> None:
    seed = int(os.environ.get("EDGED_SEED") or secrets.randbelow(10**6))
    dice = random.Random(seed)
    print(f"EDGED_SEED={seed}")
    with a_node(archive) as node:
        bystander = release(node, "bystander", 0)
        node.want([bystander])
        until(node, "the bystander", lambda: runs(node, bystander))
        pids = node.container_pids(bystander.uid)
        come_die_and_go(node, ["first"], [bystander])
        until(node, "quiet", node.is_idle)
        before = with_spares(belongings(node))
        for number in range(1, 13):
            wanted = [release(node, f"p{n}", dice.choice((0, number))) for n in range(6) if dice.random() < 0.7]
            node.want([bystander, *wanted])
            time.sleep(dice.random() * 0.25)  # this is the dice: anywhere in the plan
            if dice.random() < 0.3:
                kill([pid for pid in node.conmons() if dice.random() < 0.5])
            if dice.random() < 0.3:
                kill([pid for pod in wanted for pid in node.container_pids(pod.uid)])
            node.kill()
            node.spawn()
        until(node, "the daemon", node.answers)
        node.want([bystander, *wanted])
        for pod in wanted:
            until(node, f"{pod.name} (seed {seed})", lambda pod=pod: runs(node, pod))  # type: ignore[misc]
        assert node.container_pids(bystander.uid) == pids, f"the bystander was restarted, seed {seed}"
        node.want([bystander])
        before["descriptors"] += 4  # a bystander whose conmon was killed has others
        until(node, f"nothing but the bystander, seed {seed}", lambda: all(node.gone(f"uid-p{n}") for n in range(6)))
        until(
            node, f"{before}, and not {belongings(node)}, seed {seed}", lambda: less_or_same(belongings(node), before)
        )


def with_spares(now: dict[str, int]) -> dict[str, int]:
    """What may be there later without anything having leaked: namespaces kept ready (NetworkConfig.spares), a mount and
    two files each, which were all in use when `now` was looked at."""
    spares = NetworkConfig().spares
    return now | {"mounts": now["mounts"] + spares, "files in run_dir": now["files in run_dir"] + 2 * spares}


def less_or_same(now: dict[str, int], before: dict[str, int]) -> bool:
    return all(now[name] <= count for name, count in before.items())


def test_fifty_lives_leave_nothing_behind(archive: Path) -> None:
    with a_node(archive) as node:
        names = [f"m{n}" for n in range(10)]
        come_die_and_go(node, names)  # what is made once, such as the bridge, is there after this
        until(node, "quiet", node.is_idle)
        before = with_spares(belongings(node))
        for _ in range(5):
            come_die_and_go(node, names)
        until(node, f"{before}, and not {belongings(node)}", lambda: less_or_same(belongings(node), before))


# ---------------------------------------------------------------- what the disk says


@pytest.mark.parametrize("damage", ["empty", "header", "half", "garbage", "gone", "folders"])
def test_a_node_whose_stored_state_is_broken_kills_nothing_and_goes_on_with_the_next_document(
    archive: Path, damage: str
) -> None:
    with a_node(archive) as node:
        pods = [release(node, f"p{n}", 0) for n in range(3)]
        node.want(pods[:2])
        node.want(pods)  # both slots are filled
        for pod in pods:
            until(node, pod.name, lambda pod=pod: runs(node, pod))  # type: ignore[misc]
        # A start that the daemon was in the middle of may be done again; this is about those that it knows of.
        until(node, "the starts to be known", lambda: node.edged("status").stdout.count(" 1/1 ") == 3)
        pids = [node.container_pids(pod.uid) for pod in pods]
        node.kill()
        document = node.hide_document()
        for slot in node.state.glob("desired.[ab]"):
            spoil(slot, damage)
        node.spawn()
        until(node, "the daemon", node.answers)
        assert node.is_idle()  # it knows of no wish, so it touches nothing
        assert [node.container_pids(pod.uid) for pod in pods] == pids
        node.show_document(document)
        until(node, "the pods in the status", lambda: node.edged("status").stdout.count(" 1/1 ") == 3)
        assert [node.container_pids(pod.uid) for pod in pods] == pids
        if damage == "folders":
            assert "can't save desired state" in node.edged("status").stdout
            for slot in node.state.glob("desired.[ab]"):
                slot.rmdir()
        node.want(pods[1:])
        until(node, "a pod that is not wanted any more to go", lambda: node.gone(pods[0].uid))
        stored = StateStore(node.state).load()
        assert stored is not None
        assert [pod.name for pod in stored.desired.pods] == ["p1", "p2"]


def spoil(slot: Path, damage: str) -> None:
    whole = slot.read_bytes()
    if damage in ("gone", "folders"):
        slot.unlink()
        if damage == "folders":
            slot.mkdir()
    else:
        slot.write_bytes({"empty": b"", "header": whole[:20], "half": whole[:200], "garbage": b"\xff" * 500}[damage])


# ---------------------------------------------------------------- left behind


def test_mounts_and_records_that_somebody_left_behind_are_taken_away_with_their_pod(archive: Path) -> None:
    with a_node(archive) as node:
        pod = release(node, "messy", 0)
        node.want([pod])
        until(node, "the pod", lambda: runs(node, pod))
        node.kill()
        folder = node.run / "pods" / pod.uid
        for place in (folder / "volumes" / "x", folder / "containers" / "main" / "7" / "rootfs"):
            place.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
        (folder / "containers" / "main" / "7" / "record").write_bytes(b"garbage")
        node.spawn()
        until(node, "the daemon", node.answers)
        node.want([])
        until(node, "everything to go", lambda: node.gone(pod.uid))
        assert not [p.path for p in mount_points() if p.path.startswith(str(folder))]


# ---------------------------------------------------------------- crun

WRAPPER = """#!/bin/sh
case "$* $(cat {mode} 2>/dev/null)" in
*create*stuck*hang*) echo $$ > {folder}/hanging; exec sleep 1d ;;
*create*stuck*fail*) echo "crun has no luck today" >&2; exit 1 ;;
esac
exec {real} "$@"
"""


def test_a_crun_that_hangs_or_fails_holds_up_its_own_pod_alone_and_is_over_when_it_works_again(archive: Path) -> None:
    def prepare(node: LocalNode) -> None:
        folder = node.folder / "crun-wrapper"
        folder.mkdir()
        wrapper, real, mode = folder / "wrapper", folder / "crun.real", folder / "mode"
        shutil.copy(shutil.which("crun") or "", real)
        wrapper.write_text(WRAPPER.format(mode=mode, folder=folder, real=real))
        wrapper.chmod(0o755)
        node.confine(f"mount --bind {wrapper} {shutil.which('crun')}")

    with a_node(archive, prepare) as node:
        folder = node.folder / "crun-wrapper"
        (folder / "mode").write_text("fail")
        stuck, fine = release(node, "stuck", 0), release(node, "fine", 0)
        node.want([stuck])
        until(node, "its words", lambda: "crun has no luck today" in node.edged("status").stdout)
        (folder / "mode").write_text("hang")
        until(node, "a crun that hangs", lambda: (folder / "hanging").exists())
        node.want([stuck, fine])
        until(node, "the other pod", lambda: runs(node, fine))
        assert not runs(node, stuck)
        (folder / "mode").write_text("")
        until(node, "the first one", lambda: runs(node, stuck))  # the one that hangs is given up on after a minute
        assert runs(node, fine)


# ---------------------------------------------------------------- the clock


def libfaketime() -> str:
    found = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    return str(found[0]) if found else ""


@pytest.mark.skipif(not libfaketime(), reason="the package faketime is not installed (tools/setup.sh test)")
def test_a_clock_that_starts_in_1970_and_jumps_fifty_years_either_way_restarts_nothing_and_stops_no_healing(
    archive: Path,
) -> None:
    def prepare(node: LocalNode) -> None:
        (node.folder / "clock").write_text("@1970-01-01 00:00:30\n")
        node.environment = {
            "LD_PRELOAD": libfaketime(),
            "FAKETIME_TIMESTAMP_FILE": str(node.folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # no wrong clock moves it, nor CLOCK_BOOTTIME
            "TZ": "UTC",
        }

    with a_node(archive, prepare) as node:
        steady, victim = release(node, "steady", 0), node.pod("victim", "echo said >> /marks/victim; exec sleep 1d")
        steady = node.with_probe(steady)
        node.want([steady, victim])
        until(node, "both", lambda: runs(node, steady) and node.mark(victim) == "said")
        pids = node.container_pids(steady.uid)[:1]  # its own; probes come and go
        for count, now in enumerate(("+50y", "-50y", "+0", "@1970-01-01 00:00:05"), 2):
            (node.folder / "clock").write_text(f"{now}\n")
            kill(node.container_pids(victim.uid))
            until(node, f"the victim's life {count} at {now}", lambda c=count: node.lines(victim) == c)  # type: ignore[misc]
            assert node.container_pids(steady.uid)[:1] == pids
            assert "steady" in node.edged("status").stdout
            node.kill()
            node.spawn()
            until(node, f"the daemon at {now}", node.answers)
            until(node, f"peace at {now}", node.is_idle)
            assert node.container_pids(steady.uid)[:1] == pids


# ---------------------------------------------------------------- logs


def test_logs_of_a_real_container_are_followed_to_its_end_and_its_previous_attempt_is_kept(archive: Path) -> None:
    with a_node(archive) as node:
        script = "echo it begins; printf 'no end'; trap 'echo; echo last words; exit 3' TERM; touch /marks/talker; "
        pod = node.pod("talker", script + "while :; do sleep 0.1; done")
        pod = replace(pod, log_target=LogTarget.DISK)
        node.want([pod])
        until(node, "the talker", lambda: node.marked("talker"))
        assert "was never restarted" in node.edged("logs", "talker", "--previous").stderr
        assert 'has no container "x"' in node.edged("logs", "talker", "-c", "x").stderr
        follower = node.popen("logs", "talker", "-f")
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"it begins\n"
        os.kill(node.container_pids(pod.uid)[0], signal.SIGTERM)  # the shell; its sleep comes after it
        assert follower.stdout.read() == b"no end\nlast words\n"
        assert follower.wait(PATIENCE) == 0
        until(node, "its next life", lambda: " restarts 1 " in node.edged("status").stdout)
        until(
            node,
            "the words of before",
            lambda: "last words" in node.edged("logs", "talker", "-p", "--tail", "1").stdout,
        )
        place = NodeConfig("x", state_dir=str(node.state)).state / "logs" / "default_talker_uid-talker" / "main"
        assert b"last words" in (place / "000001-0.log").read_bytes()
        interrupted = node.popen("logs", "talker", "-f")
        assert interrupted.stdout is not None
        interrupted.stdout.readline()
        interrupted.send_signal(signal.SIGINT)
        assert interrupted.wait(PATIENCE) == 130
        assert interrupted.stderr is not None
        assert interrupted.stderr.read() == b""
