"""Pull of a 200 MB, 5-layer, 5,000-file image from a docker-registry on loopback: ours as the daemon does it, in its
cgroup of 64 MiB, and `podman pull` in the same run. `python -m tests.bench.pull`, as root.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from edged.config import ImagesConfig, NodeConfig
from edged.images.cage import Cage
from edged.images.platforms import this_machine
from edged.images.store import ImageStore
from edged.images.verify import in_order, settle
from edged.puller import ImageWorker
from tests.bench.measure import pss, tell
from tests.fakes.oci_layout import Layout, config, layer, member
from tests.fakes.registries import docker_registry, push

LAYERS, FILES, FILE_SIZE = 5, 1000, 40_000  # 200 MB in 5,000 files
RANDOM_SHARE = 0.74  # of each file; the rest is text: about 149 MB compressed, as real images have it
ROUNDS = 5
SAMPLING = 0.01  # seconds between two looks at the memory; in runs of their own, for looking costs time
LIMIT = 64 << 20


def make_image(folder: Path) -> tuple[Path, int]:
    """An OCI layout with the image "big", and the bytes of its compressed layers."""
    dice, text = random.Random(1), b"the quick brown fox jumps over the lazy dog; " * 2000
    layout, plain, packed = Layout(), [], []
    share = int(FILE_SIZE * RANDOM_SHARE)
    for n in range(LAYERS):
        members = [
            member(f"usr/l{n}/d{i // 20}/f{i}", dice.randbytes(share) + text[i : i + FILE_SIZE - share])
            for i in range(FILES)
        ]
        plain.append(layer(*members))
        packed.append(gzip.compress(plain[-1], 6, mtime=0))
    layout.name("big", layout.image(plain, packed, config(plain, this_machine().architecture)))
    return layout.folder(folder), sum(map(len, packed))


class Peak:
    """The most memory that a process and its descendants had together, looked at again and again."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids, self.value = pids, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak")

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(SAMPLING):
            self.value = max(self.value, sum(map(pss, self._pids())))


def descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


class Ours:
    def __init__(self, base: Path) -> None:
        self._base = base
        self.parent = f"edged-bench-pull-{uuid.uuid4().hex[:8]}"
        self.cage = Cage(self.parent, LIMIT)

    def pull(self, reference: str) -> None:
        node = NodeConfig(
            name="bench",
            state_dir=str(self._base / "ours"),
            cgroup_parent=self.parent,
            images=ImagesConfig(memory_limit=LIMIT, docker_config=""),
        )
        worker = ImageWorker(node)
        asyncio.run(worker.pull(reference, ()))
        if worker.degraded:
            sys.exit(f"not measured as it should be: {worker.degraded[0]}")

    def pids(self) -> list[int]:
        return [int(pid) for group in self.cage._groups[:1] for pid in (group / "cgroup.procs").read_text().split()]

    def forget(self) -> None:
        shutil.rmtree(self._base / "ours", ignore_errors=True)

    def close(self) -> None:
        self.forget()
        for group in self.cage._groups:
            for folder in (group, group.parent):
                for _ in range(100):
                    try:
                        folder.rmdir()
                        break
                    except FileNotFoundError:
                        break
                    except OSError:
                        time.sleep(0.05)


class Podman:
    def __init__(self, base: Path) -> None:
        self._root = base / "podman"
        self._child: subprocess.Popen[bytes] | None = None

    def pull(self, reference: str) -> None:
        store = ["--root", str(self._root), "--runroot", str(self._root / "run"), "--storage-driver", "overlay"]
        command = ["podman", *store, "pull", "-q", "--tls-verify=false", reference]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as self._child:
            _, said = self._child.communicate()
        if self._child.returncode:
            sys.exit(f"podman pull failed: {said.decode(errors='replace')}")

    def pids(self) -> list[int]:
        return descendants(self._child.pid) if self._child is not None else []

    def forget(self) -> None:
        subprocess.run(["umount", "-l", self._root / "overlay"], capture_output=True, check=False)
        shutil.rmtree(self._root, ignore_errors=True)


def seconds(one: Ours | Podman, reference: str) -> float:
    one.forget()
    os.sync()
    begun = time.perf_counter()
    one.pull(reference)
    return time.perf_counter() - begun


def peak(one: Ours | Podman, reference: str) -> float:
    one.forget()
    os.sync()
    with Peak(one.pids) as found:
        one.pull(reference)
    return found.value


def measure(reference: str, compressed: int, ours: Ours, podman: Podman | None) -> None:
    times: dict[str, list[float]] = {"ours": [], "podman": []}
    for _ in range(ROUNDS):  # in turns, so that whatever else the machine does hits both
        times["ours"].append(seconds(ours, reference))
        if podman is not None:
            times["podman"].append(seconds(podman, reference))
    floor = statistics.median(times["podman"]) if podman is not None else None
    tell(
        "pull of a 200 MB image, 5 layers, 5,000 files",
        statistics.median(times["ours"]),
        "s",
        floor,
        floor_is="podman pull in the same run",
        best=round(min(times["ours"]), 2),
        floor_best=round(min(times["podman"]), 2) if podman is not None else None,
        compressed_mb=round(compressed / 1e6, 1),
        peers="podman 2.0, docker 3.5, containerd 5.6",
    )
    tell(
        "peak PSS of the pull",
        peak(ours, reference),
        "MB",
        peak(podman, reference) if podman is not None else None,
        goal=64.0,
        floor_is="podman pull in the same run",
        peers="podman 74, docker 73 over its base",
    )
    tell(
        "peak of the pull's cgroup, file cache included",
        ours.cage.peak() / 1e6,
        "MB",
        LIMIT / 1e6,
        floor_is="its limit",
    )
    tell("processes killed for want of memory in it", ours.cage.oom_kills(), "processes", 0.0)


def compare(base: Path) -> None:
    """What comparing every file of that image costs, and what a power cut costs that finds nothing to compare."""
    root = base / "ours" / "images"
    store = ImageStore(root)
    layers = in_order(store, store.references())
    begun = time.perf_counter()
    settle(root, layers)
    tell("comparing its 200 MB after a boot that wrote them", (time.perf_counter() - begun) * 1000, "ms")
    begun = time.perf_counter()
    fresh = ImageStore(root)
    for reference in fresh.references():
        fresh.resolve(reference)
    tell(
        "looking whether there is anything to compare, and loading the store",
        (time.perf_counter() - begun) * 1000,
        "ms",
    )


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("this bench needs root: cgroups and owners of files")
    missing = [name for name in ("docker-registry", "skopeo") if shutil.which(name) is None]
    if missing:
        sys.exit(f"this bench needs the Debian packages {', '.join(missing)} (tools/setup.sh test)")
    base = Path(tempfile.mkdtemp(prefix="edged-bench-pull-"))
    ours = Ours(base)
    podman = Podman(base) if shutil.which("podman") else None
    if podman is None:
        print("PODMAN IS MISSING: there is no peer in this run (apt-get install podman)", file=sys.stderr, flush=True)
    try:
        layout, compressed = make_image(base / "layout")
        with docker_registry(base / "registry") as address:
            push(layout, "big", f"{address}/big:1")
            measure(f"{address}/big:1", compressed, ours, podman)
            compare(base)
    finally:
        ours.close()
        if podman is not None:
            podman.forget()
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
