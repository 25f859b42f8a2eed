"""What the same machine does without us: bare crun, bare conmon, a bare event loop."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cloudlink.cli.house import House
from tests.bench.measure import median_ms, node_processes, pss, total

conmon_mb = 0.0  # set by `measure`, once per run
_bundle: dict[str, Any] = {}  # likewise: the OCI config of a real container


def measure(house: House) -> None:
    """One conmon with its container under it, and that container's bundle, as they stand."""
    global conmon_mb  # noqa: PLW0603
    pids = node_processes(house)["conmon"]
    conmon_mb = total(pss, pids) / len(pids)
    found = next((house.folder / "node" / "run" / "pods").rglob("config.json"))
    _bundle.update(json.loads(found.read_text()))


def python_pss() -> float:
    """An interpreter with a running event loop and a TLS context, doing nothing."""
    script = (
        "import asyncio, ssl, sys\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n"
        "async def main():\n"
        "    print(open('/proc/self/smaps_rollup').read().split('Pss:')[1].split()[0])\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-I", "-OO", "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024 / 1e6


def bare_bundle(house: House, folder: Path, name: str) -> Path:
    """A running container's own bundle, with what ties it to its pod taken out: namespace, mounts, cgroup path."""
    config = copy.deepcopy(_bundle)
    config["root"] = {"path": str(layer(house)), "readonly": True}
    for namespace in config["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace.pop("path", None)
    config["linux"]["cgroupsPath"] = f"/{house.names.cgroup}/bare/{name}"
    config["mounts"] = [m for m in config["mounts"] if m.get("type") != "bind" and "bind" not in m.get("options", [])]
    config["process"]["args"] = ["/bin/true"]
    bundle = folder / name
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def layer(house: House) -> Path:
    layers = house.folder / "node" / "state" / "images" / "layers"
    return next(p for p in layers.iterdir() if (p / "bin").is_dir())


HYBRID = "umount /sys/fs/cgroup/unified 2>/dev/null; "  # in its own mount namespace; see DESIGN: cgroup v1 hybrid


def command(house: House, bundle: Path) -> list[str]:
    root = house.folder / "bare-state"
    run = f"exec crun --root {root} run --bundle {bundle} {bundle.name}"
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", HYBRID + run]


def crun_run_ms(house: House, samples: int = 15) -> float:
    """Median of `crun run` of the same bundle with /bin/true, start to end."""
    bundle = bare_bundle(house, house.folder / "bare", "bare")
    times = []
    for _ in range(samples):
        begun = time.perf_counter()
        subprocess.run(command(house, bundle), check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return median_ms(times)


def parallel_crun_run_ms(house: House, count: int) -> float:
    made = [bare_bundle(house, house.folder / "bare", f"bare{n}") for n in range(count)]
    begun = time.perf_counter()
    children = [subprocess.Popen(command(house, b), stdout=subprocess.DEVNULL) for b in made]
    for child in children:
        child.wait()
    return (time.perf_counter() - begun) * 1000
