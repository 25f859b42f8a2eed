"""conmon and crun without a daemon, network or image store: the floor of a start."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
from pathlib import Path

from tests.bench.floors import HYBRID
from tests.bench.measure import spin_until
from tests.local_node import LocalNode


class Bare:
    """Starts containers from the bundle of one that runs, its pod taken out of it."""

    def __init__(self, node: LocalNode, folder: Path) -> None:
        self._node = node
        self._folder = folder
        self._started: list[Path] = []
        folder.mkdir(parents=True)
        found = max((node.run / "pods").rglob("config.json"), key=lambda f: f.stat().st_mtime)
        self._config = json.loads(found.read_text())
        layers = node.state / "images" / "layers"
        self._root = next(p for p in layers.iterdir() if (p / "bin").is_dir())

    def conmon_crun(self, name: str) -> float:
        """Seconds from the command to the workload's word."""
        return self._start([self._prepare(name)])

    def twenty(self, count: int) -> float:
        return self._start([self._prepare(f"twenty{n}") for n in range(count)])

    def _start(self, bundles: list[Path]) -> float:
        begun = time.perf_counter()
        pipes = [self._create(bundle) for bundle in bundles]
        starts = []
        for bundle, pipe in zip(bundles, pipes, strict=True):
            with os.fdopen(pipe) as told:
                if '"pid"' not in (line := told.readline()) and '"data"' not in line:
                    raise RuntimeError(f"the floor can't be measured: {line or 'conmon ended without a word'}")
            starts.append(subprocess.Popen(_privately(f"crun --root {self._folder}/crun start {bundle.name}")))
        spin_until(lambda: all((self._node.marks / bundle.name).exists() for bundle in bundles))
        took = time.perf_counter() - begun
        for start in starts:
            start.wait()
        return took

    def _create(self, bundle: Path) -> int:
        """conmon(8) tells through its pipe when the container is made. Returns the pipe's end."""
        name = bundle.name
        words = (
            f"conmon --api-version 1 --cid {name} --cuuid {name} --runtime /usr/bin/crun "
            f"--runtime-arg --root={self._folder}/crun --bundle {bundle} --container-pidfile {bundle}/pid "
            f"--log-path k8s-file:{bundle}/log --full-attach --no-sync-log"
        )
        read_end, write_end = os.pipe()
        environment = {**os.environ, "_OCI_SYNCPIPE": str(write_end)}
        subprocess.Popen(_privately(words), env=environment, pass_fds=(write_end,), stderr=subprocess.DEVNULL).wait()
        os.close(write_end)
        return read_end

    def _prepare(self, name: str) -> Path:
        """Its bundle."""
        config = copy.deepcopy(self._config)
        config["root"] = {"path": str(self._root), "readonly": True}
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] in ("network", "ipc"):
                namespace.pop("path", None)
        config["linux"]["cgroupsPath"] = f"/edged-{self._node.name}/bare/{name}"
        config["mounts"] = [m for m in config["mounts"] if "bind" not in (m.get("type"), *m.get("options", []))]
        config["mounts"].append(
            {"destination": "/tmp", "type": "bind", "source": str(self._node.marks), "options": ["bind"]}
        )
        config["process"]["args"] = ["sh", "-c", f"echo > /tmp/{name}; exec sleep 1d"]
        bundle = self._folder / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(config))
        self._started.append(bundle)
        return bundle

    def close(self) -> None:
        for bundle in self._started:
            words = f"crun --root {self._folder}/crun delete --force {bundle.name}"
            subprocess.run(_privately(words), capture_output=True, check=False, timeout=60)


def _privately(words: str) -> list[str]:
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", f"{HYBRID}exec {words}"]
