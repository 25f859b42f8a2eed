"""Docker, Podman and containerd, each in a private place, with the same workload as ours.

A peer that isn't installed is said so on stderr, and its numbers are left out; `tools/setup.sh bench` installs them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.measure import spin_until
from tests.bench.place import Jail, jail

IMAGE = "localhost/probe:latest"
MARK = "echo > /marks/{}; exec sleep 1d"
PATIENCE = 60.0  # seconds for an engine to answer


class Peer:
    """An engine that runs. Subclasses say how; `cgroup` is a name that nobody else uses."""

    name = ""
    program = ""

    def __init__(self, place: Jail, folder: Path, marks: Path, cgroup: str) -> None:
        self.place = place
        self.folder = folder
        self.marks = marks
        self.cgroup = cgroup

    def up(self, archive: Path) -> None:
        """Start, and bring the image in (an archive as `docker save` writes it)."""
        raise NotImplementedError

    def start(self, name: str) -> list[str]:
        """The command that starts one container; it returns when the container runs."""
        raise NotImplementedError

    def remove(self, *names: str) -> None:
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    # ------------------------------------------------------------ for all

    def run_one(self, name: str) -> float:
        """Seconds from the command to the workload's own word that it runs."""
        argv = self.place.command(self.start(name))
        begun = time.perf_counter()
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        spin_until(lambda: (self.marks / name).exists() or child.poll() not in (None, 0), PATIENCE)
        took = time.perf_counter() - begun
        _, said = child.communicate(timeout=PATIENCE)
        if child.returncode != 0:
            raise RuntimeError(f"{self.name} could not start {name}: {said.strip()[-500:]}")
        return took

    def own_processes(self) -> list[int]:
        """Everything of it but the workloads."""
        return [pid for pid in self.place.processes() if b"sleep\0001d" not in _cmdline(pid)] + self._elsewhere()

    def _elsewhere(self) -> list[int]:
        return []

    def wait(self, argv: list[str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while (done := self.place.run(argv, check=False)).returncode != 0:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not answer: {done.stderr.strip()[-500:]}")
            time.sleep(0.1)


class Podman(Peer):
    name = "podman run"
    program = "podman"
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")  # its own need CAP_SYS_RESOURCE

    def _podman(self, *words: str) -> list[str]:
        places = ["--root", str(self.folder / "podman"), "--runroot", "/run/podman-bench"]
        places += ["--tmpdir", "/run/podman-tmp"]
        return ["podman", *places, "--cgroup-manager", "cgroupfs", *words]

    def up(self, archive: Path) -> None:
        self.place.run(self._podman("load", "--quiet", "--input", str(archive)))

    def start(self, name: str) -> list[str]:
        volume = ["--volume", f"{self.marks}:/marks", "--cgroup-parent", f"/{self.cgroup}", "--name", name]
        return self._podman("run", "--detach", *self.limits, *volume, IMAGE, "sh", "-c", MARK.format(name))

    def remove(self, *names: str) -> None:
        self.place.run(self._podman("rm", "--force", "--time", "0", *names))

    def version(self) -> str:
        return self.place.run(["podman", "--version"]).stdout.split()[-1]


class Docker(Peer):
    name = "docker run"
    program = "dockerd"

    def _docker(self, *words: str) -> list[str]:
        return ["docker", "--host", "unix:///run/docker-bench.sock", *words]

    def up(self, archive: Path) -> None:
        words = ["--data-root", str(self.folder / "docker"), "--exec-root", "/run/docker-bench"]
        words += ["--pidfile", "/run/docker-bench.pid", "--host", "unix:///run/docker-bench.sock"]
        words += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self.cgroup}"]
        self.place.spawn(["dockerd", *words], self.marks.parent / "dockerd.log")
        self.wait(self._docker("version"))
        self.place.run(self._docker("load", "--quiet", "--input", str(archive)))

    def start(self, name: str) -> list[str]:
        volume = ["--volume", f"{self.marks}:/marks", "--name", name]
        return self._docker("run", "--detach", *volume, IMAGE, "sh", "-c", MARK.format(name))

    def remove(self, *names: str) -> None:
        self.place.run(self._docker("rm", "--force", *names))

    def version(self) -> str:
        return self.place.run(self._docker("version", "--format", "{{.Server.Version}}")).stdout.strip()


class Containerd(Peer):
    """By its own client, which makes no network."""

    name = "containerd, ctr run, no network"
    program = "containerd"

    def _ctr(self, *words: str) -> list[str]:
        return ["ctr", "--address", "/run/containerd-bench.sock", *words]

    def up(self, archive: Path) -> None:
        settings = self.marks.parent / "containerd.toml"
        settings.write_text(
            f'version = 2\nroot = "{self.folder / "containerd"}"\nstate = "/run/containerd-bench"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            '[grpc]\naddress = "/run/containerd-bench.sock"\n'
        )
        self.place.spawn(["containerd", "--config", str(settings)], self.marks.parent / "containerd.log")
        self.wait(self._ctr("version"))
        self.place.run(self._ctr("images", "import", "--no-unpack", str(archive)))
        names = self.place.run(self._ctr("images", "ls", "-q")).stdout.split()
        self.image = next(name for name in names if "probe" in name)

    def start(self, name: str) -> list[str]:
        mount = f"type=bind,src={self.marks},dst=/marks,options=rbind:rw"
        words = ["run", "--detach", "--mount", mount, "--cgroup", f"/{self.cgroup}/{name}"]
        return self._ctr(*words, self.image, name, "sh", "-c", MARK.format(name))

    def remove(self, *names: str) -> None:
        for name in names:
            self.place.run(self._ctr("tasks", "rm", "--force", name), check=False)
        self.place.run(self._ctr("containers", "rm", *names))

    def version(self) -> str:
        return self.place.run(["containerd", "--version"]).stdout.split()[2]


@contextlib.contextmanager
def running(kind: type[Peer], folder: Path, archive: Path, cgroup: str) -> Iterator[Peer | None]:
    """The engine with its data below `folder`; None where it isn't installed or doesn't work here, which is said."""
    if shutil.which(kind.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        print(f"{kind.name}: NOT MEASURED, {kind.program} is not installed (tools/setup.sh bench)", file=sys.stderr)
        yield None
        return
    marks = folder.parent / f"marks-{kind.program}"
    marks.mkdir(parents=True)
    try:
        with jail() as place:
            peer = kind(place, folder, marks, cgroup)
            try:
                peer.up(archive)
            except (RuntimeError, subprocess.SubprocessError) as e:
                said = getattr(e, "stderr", "") or str(e)
                print(f"{kind.name}: NOT MEASURED, it does not work here: {said.strip()[-1500:]}", file=sys.stderr)
                yield None
                return
            try:
                yield peer
            finally:
                _empty(cgroup)
    finally:
        for parent in (*Path("/sys/fs/cgroup").glob(f"*/{cgroup}"), Path("/sys/fs/cgroup", cgroup)):
            remove_cgroups(parent)


def _empty(cgroup: str) -> None:
    """End the workloads: they have namespaces of their own."""
    for parent in (*Path("/sys/fs/cgroup").glob(f"*/{cgroup}"), Path("/sys/fs/cgroup", cgroup)):
        with contextlib.suppress(FileNotFoundError):  # the engine removes it at the same time
            for file in parent.rglob("cgroup.procs") if parent.is_dir() else ():
                for pid in file.read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), 9)


def remove_cgroups(parent: Path) -> None:
    folders = [p for p in parent.rglob("*") if p.is_dir()] if parent.is_dir() else []
    for folder in (*sorted(folders, reverse=True), parent):
        _patiently(folder.rmdir, folder)


def _patiently(remove: Callable[[], None], folder: Path) -> None:
    for _ in range(100):
        if not folder.exists():
            return
        with contextlib.suppress(OSError):
            remove()
            return
        time.sleep(0.02)


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
