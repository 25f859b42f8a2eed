"""The node without a hub beside the peers: starts, what they write, a cold boot, a thousand lives."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import bare
from tests.bench.measure import anonymous, median_ms, pss, spin_until, tell, total
from tests.bench.peers import Containerd, Docker, Peer, Podman, running
from tests.bench.place import Disk, disk
from tests.local_node import LocalNode, belongings, build_archive, come_die_and_go, local_node

STARTS = 15
PODS = 20
CYCLES = 1000
AT_ONCE = 10  # lives side by side


class Alone:
    """:ivar archive: the workload's image as an OCI layout.
    :ivar docker_archive: the same as `docker save` writes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = build_archive(folder)
        self.docker_archive = folder / "docker.tar"
        copy = ["skopeo", "copy", "--quiet", f"oci-archive:{self.archive}"]
        subprocess.run([*copy, f"docker-archive:{self.docker_archive}:localhost/probe:latest"], check=True)

    @contextmanager
    def node(self, where: Disk | None = None) -> Iterator[LocalNode]:
        folder = self.folder / secrets.token_hex(3)
        state = (where.path if where else folder) / "state"
        state.mkdir(parents=True)
        with local_node(folder, state) as node:
            node.bring_image(self.archive)
            node.start()
            yield node
        shutil.rmtree(folder, ignore_errors=True)

    # ------------------------------------------------------------ starts, and what they write

    def starts(self) -> None:
        """One after the other, alternating between us and each peer, so that a noisy moment hits all alike."""
        with ExitStack() as stack:
            ours_disk = stack.enter_context(disk(self.folder / "disk-edged"))
            node = stack.enter_context(self.node(ours_disk))
            peers: list[tuple[Peer, Disk]] = []
            for kind in (Podman, Docker, Containerd):
                place = stack.enter_context(disk(self.folder / f"disk-{kind.program}"))
                peer = stack.enter_context(
                    running(kind, place.path, self.docker_archive, f"bench{secrets.token_hex(3)}")
                )
                if peer is not None:
                    peers.append((peer, place))
            times: dict[str, list[float]] = {"edged": [], "floor": [], **{p.name: [] for p, _ in peers}}
            wrote: dict[str, tuple[float, float]] = {}
            pods = [node.pod("warm")]
            start_pod(node, pods)
            pods.append(node.pod("warm2"))
            start_pod(node, pods)
            floor = bare.Bare(node, self.folder / "bare")
            for peer, _ in peers:
                peer.run_one("warm")
            for place in (ours_disk, *(d for _, d in peers)):
                place.settle()
            before = {"edged": ours_disk.counters(), **{p.name: d.counters() for p, d in peers}}
            for n in range(STARTS):
                pods.append(node.pod(f"one{n}"))
                times["edged"].append(start_pod(node, pods))
                times["floor"].append(floor.conmon_crun(f"bare{n}"))
                for peer, _ in peers:
                    times[peer.name].append(peer.run_one(f"one{n}"))
            for name, place in (("edged", ours_disk), *((p.name, d) for p, d in peers)):
                place.settle()
                after = place.counters()
                wrote[name] = tuple((a - b) / STARTS for a, b in zip(after, before[name], strict=True))  # type: ignore[assignment]
            floor.close()
            versions = {p.name: p.version() for p, _ in peers}
            self._tell_starts(times, wrote, versions)
            self._quiet(node, ours_disk)

    def _tell_starts(
        self, times: dict[str, list[float]], wrote: dict[str, tuple[float, float]], versions: dict[str, str]
    ) -> None:
        tell(
            "one pod's start with network, command to running",
            median_ms(times["edged"]),
            "ms",
            median_ms(times["floor"]),
            goal=60.0,
            worst=round(max(times["edged"]) * 1000, 1),
            floor_is="conmon + crun create and start, no network",
            **{f"{name} {versions[name]}": round(median_ms(times[name]), 1) for name in versions},
        )
        for index, (what, unit, goal, scale) in enumerate(
            (
                ("written to the disk per pod start", "KB", 64.0, 1024.0),
                ("flushes of the disk per pod start", "", 2.0, 1.0),
            )
        ):
            peers = {f"{name} {versions[name]}": round(wrote[name][index] / scale, 1) for name in versions}
            tell(what, wrote["edged"][index] / scale, unit, 0.0, goal=goal, **peers)

    def _quiet(self, node: LocalNode, place: Disk) -> None:
        """What a restart of a container and a minute of probes write: nothing."""
        others = [path.name for path in (node.run / "pods").iterdir()]
        node.want([node.with_probe(node.pod("probed"))])
        spin_until(lambda: node.marked("probed") and all(node.gone(uid) for uid in others), 120.0)
        time.sleep(12)  # the file system writes what is old enough on its own account
        place.settle()
        before = place.counters()
        time.sleep(15)
        written, flushes = (a - b for a, b in zip(place.counters(), before, strict=True))
        tell("written by 15 s of probes, one a second", written, "bytes", 0.0, goal=0.0, flushes=flushes)

    # ------------------------------------------------------------ twenty of them

    def memory(self) -> None:
        """The same 20 workloads in each engine. Ours has a line of its own, with the hub connected."""
        for kind in (Podman, Docker, Containerd):
            with disk(self.folder / f"memory-{kind.program}") as place:
                cgroup = f"bench{secrets.token_hex(3)}"
                with running(kind, place.path, self.docker_archive, cgroup) as peer:
                    if peer is None:
                        continue
                    empty = total(pss, peer.own_processes())
                    for n in range(PODS):
                        peer.run_one(f"pod{n}")
                    time.sleep(5)
                    full = total(pss, peer.own_processes())
                    tell(
                        f"engine's PSS, {PODS} containers: {peer.name} {peer.version()}",
                        full,
                        "MB",
                        empty=round(empty, 1),
                    )

    def cold_boot(self) -> None:
        """As after a power cut: nothing in memory, images and the last document on the disk, page cache warm."""
        with self.node() as node:
            names = [f"pod{n}" for n in range(PODS)]
            pods = [node.pod(name) for name in names]
            node.want(pods)
            spin_until(lambda: node.marked(*names))
            times = []
            for _ in range(5):
                node.down()
                for name in names:
                    (node.marks / name).unlink()
                begun = time.perf_counter()
                node.spawn()
                spin_until(lambda: node.marked(*names))
                times.append(time.perf_counter() - begun)
            floor = bare.Bare(node, self.folder / "bare-boot")
            together = floor.twenty(PODS)
            floor.close()
            tell(
                f"cold boot: the daemon's start to {PODS} pods running",
                median_ms(times),
                "ms",
                together * 1000,
                goal=1500.0,
                worst=round(max(times) * 1000, 1),
                floor_is=f"{PODS} x conmon + crun at once, no network, no daemon to start",
            )

    def cycles(self) -> None:
        with self.node() as node:
            for _ in range(3):
                come_die_and_go(node, [f"m{n}" for n in range(AT_ONCE)])
            time.sleep(12)  # the network worker ends after its idle time
            before, memory = belongings(node), anonymous(node.pid)
            begun = time.perf_counter()
            for _ in range(CYCLES // AT_ONCE):
                come_die_and_go(node, [f"m{n}" for n in range(AT_ONCE)])
            took = time.perf_counter() - begun
            time.sleep(12)
            after = belongings(node)
            grown = {name: after[name] - before[name] for name in before if after[name] > before[name]}
            tell(
                f"{CYCLES} pods started, killed, restarted, deleted: what is left",
                sum(grown.values()),
                "descriptors, mounts, cgroups, interfaces, rules, files, processes",
                0.0,
                goal=0.0,
                **grown,
            )
            tell("the daemon's anonymous memory after them", anonymous(node.pid), "MB", memory, floor_is="before them")
            tell("one such life", took / CYCLES * 1000, "ms")


def start_pod(node: LocalNode, pods: list) -> float:  # type: ignore[type-arg]
    """Seconds from the document's arrival to the newest pod's word."""
    begun = time.perf_counter()
    node.want(pods)
    spin_until(lambda: node.marked(pods[-1].name))
    return time.perf_counter() - begun


def measure(what: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="edged-bench-"))
    try:
        bench = Alone(folder)
        for name in what:
            getattr(bench, name)()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


PARTS = ("starts", "memory", "cold_boot", "cycles")
