"""One node without a hub, for drills and benchmarks: `edged run` as a process, with a local document."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from cloudlink.cli import leftovers
from cloudlink.cli.house import CHECKOUT, environment
from edged.model import Container, Desired, ExecAction, HostPath, Limits, Mount, Pod, Probe, Volume
from tests.bench.measure import spin_until
from tests.bench.place import Jail

IMAGE = "localhost/probe:latest"
MIB = 1 << 20
CYCLE_PATIENCE = 120.0  # seconds for what takes tenths of one


class LocalNode:
    """:ivar marks: a workload leaves a file here the moment it runs.
    :ivar state: what survives a power cut; on a disk of the caller's choice.
    """

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder = folder
        self.state = state
        self.run = folder / "run"
        self.marks = folder / "marks"
        self.marks.mkdir(parents=True)
        self.name = f"b{secrets.token_hex(3)}"
        self.toml = folder / "node.toml"
        self.bridge = f"e{self.name}"  # and the name of its nftables table
        self.cgroup = f"edged-{self.name}"
        self.pid = 0
        self.environment: dict[str, str] = {}  # of the daemon, beside what every process here has
        self._generation = 0
        self._jail: Jail | None = None
        subnet = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}.0/24"
        self.toml.write_text(
            f'name = "{self.name}"\nstate_dir = "{state}"\nrun_dir = "{self.run}"\n'
            f'cgroup_parent = "{self.cgroup}"\n'
            f'[network]\nbridge = "{self.bridge}"\npod_cidr = "{subnet}"\nnft_table = "{self.bridge}"\n'
        )

    def confine(self, furniture: str) -> None:
        """Let everything of it run in namespaces of its own, changed by this shell command first."""
        self._jail = Jail()
        self._jail.run(["sh", "-c", furniture])

    @property
    def seen_run(self) -> Path:
        """run_dir as it can be reached from here."""
        return Path(f"/proc/{self._jail.pid}/root{self.run}") if self._jail else self.run

    def _within(self, argv: list[str]) -> list[str]:
        return self._jail.command(argv) if self._jail else argv

    def python(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = self._within([sys.executable, *words])
        return subprocess.run(argv, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, check=check)

    def edged(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of `edged` that ends."""
        return self.python("-m", "edged", words[0], "--config", str(self.toml), *words[1:], check=False)

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        argv = self._within([sys.executable, "-m", "edged", words[0], "--config", str(self.toml), *words[1:]])
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, cwd=CHECKOUT, env=environment(), stdout=pipe, stderr=pipe)

    def is_idle(self) -> bool:
        return self.edged("plan").stdout.strip() == "nothing to do"

    def bring_image(self, archive: Path) -> None:
        self.python("-m", "edged.images", "import", "--root", str(self.state / "images"), str(archive))

    # ------------------------------------------------------------ daemon

    def start(self) -> None:
        """Returns when it answers."""
        self.spawn()
        spin_until(self.answers, CYCLE_PATIENCE)

    def spawn(self) -> None:
        with (self.folder / "node.log").open("ab") as log:
            argv = self._within([sys.executable, "-OO", "-m", "edged", "run", "--config", str(self.toml)])
            env = environment() | self.environment
            child = subprocess.Popen(argv, cwd=CHECKOUT, env=env, stdout=log, stderr=log, start_new_session=True)
        self.pid = child.pid
        child.returncode = 0  # whoever takes the node down looks at /proc

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(2.0)
            peer.connect(os.fspath(self.seen_run / "control.sock"))
            peer.sendall(b'{"op":"ping"}\n')
            return b"ok" in peer.recv(100)
        return False

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        while leftovers.alive(self.pid):
            time.sleep(0.001)

    # ------------------------------------------------------------ pods

    def pod(self, name: str, command: str = "") -> Pod:
        mark = f"{self.marks_inside}/{name}"
        main = Container(
            "main",
            IMAGE,
            command=("sh", "-c", command or f"echo > {mark}; exec sleep 1d"),
            mounts=(Mount("marks", self.marks_inside),),
            limits=Limits(memory_request=4 * MIB, memory_limit=16 * MIB),
        )
        volumes = (Volume("marks", HostPath(os.fspath(self.marks))),)
        return Pod("default", name, f"uid-{name}", (main,), volumes=volumes, termination_grace=0.0)

    def with_probe(self, pod: Pod) -> Pod:
        """The same with a liveness and a readiness command a second."""
        probe = Probe(ExecAction(("true",)), period=1.0)
        return replace(pod, containers=(replace(pod.containers[0], liveness=probe, readiness=probe),))

    marks_inside = "/marks"

    def want(self, pods: Sequence[Pod], tell: bool = True) -> None:
        self._generation += 1
        document = Desired("default", self.name, self._generation, pods=tuple(pods))
        fresh, told = self.folder / "desired.new", self.folder / "desired.json"
        fresh.write_bytes(msgspec.json.encode(document))
        fresh.replace(told)
        if not (self.state / "desired.json").is_symlink():  # a hub's document would come from the network
            (self.state / "desired.json").symlink_to(told)
        if tell:
            os.kill(self.pid, signal.SIGHUP)

    def mark(self, pod: Pod) -> str:
        """What its workload wrote last."""
        try:
            return (self.marks / pod.name).read_text().strip().rpartition("\n")[2]
        except FileNotFoundError:
            return ""

    def lines(self, pod: Pod) -> int:
        """How many its workload wrote: one for each life."""
        try:
            return (self.marks / pod.name).read_text().count("\n")
        except FileNotFoundError:
            return 0

    def hide_document(self) -> bytes:
        """As if nobody could be asked what is wanted; `show_document` brings it back."""
        raw = (self.folder / "desired.json").read_bytes()
        (self.folder / "desired.json").unlink()
        return raw

    def show_document(self, raw: bytes) -> None:
        (self.folder / "desired.json").write_bytes(raw)
        os.kill(self.pid, signal.SIGHUP)

    def marked(self, *names: str) -> bool:
        return all((self.marks / name).exists() for name in names)

    def container_pids(self, uid: str) -> list[int]:
        """The processes in the pod's cgroup, from whichever hierarchy this machine has."""
        for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
            folder = root / self.cgroup / uid
            if folder.is_dir():
                return sorted(int(p) for f in folder.rglob("cgroup.procs") for p in f.read_text().split())
        return []

    def gone(self, uid: str) -> bool:
        return not (self.seen_run / "pods" / uid).exists() and not (self.state / "rw" / uid).exists()

    def own_processes(self) -> list[int]:
        """The daemon and its helpers."""
        return [pid for pid, line in leftovers.processes(self.folder).items() if "sleep 1d" not in line]

    def conmons(self) -> list[int]:
        return [pid for pid, line in leftovers.processes(self.folder).items() if "conmon" in line.split(" ", 1)[0]]

    # ------------------------------------------------------------ down

    def down(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            while leftovers.alive(self.pid):
                time.sleep(0.01)
        self.python("-m", "edged", "teardown", "--yes", "--config", str(self.toml), check=False)
        if self._jail:
            self._jail.close()
            self._jail = None
        leftovers.end(list(leftovers.processes(self.folder)))
        leftovers.unmount(leftovers.mounts(self.folder))


@contextlib.contextmanager
def local_node(folder: Path, state: Path) -> Iterator[LocalNode]:
    node = LocalNode(folder, state)
    try:
        yield node
    finally:
        node.down()


def files(folder: Path) -> int:
    """How many files and folders are in there; what goes while they are counted is no error."""
    return sum(len(folders) + len(names) for _, folders, names in os.walk(folder))


def belongings(node: LocalNode) -> dict[str, int]:
    """Everything that must not grow with the number of pods that came and went. It may shrink: the worker for networks
    ends after its idle time."""
    parents = (*Path("/sys/fs/cgroup").glob(f"*/{node.cgroup}"), Path("/sys/fs/cgroup", node.cgroup))
    rules = subprocess.run(["nft", "list", "table", "inet", node.bridge], capture_output=True, text=True, check=False)
    return {
        "descriptors": sum(1 for _ in Path(f"/proc/{node.pid}/fd").iterdir()),
        "threads": sum(1 for _ in Path(f"/proc/{node.pid}/task").iterdir()),
        "mounts": Path(f"/proc/{node.pid}/mountinfo").read_text().count(str(node.folder)),
        "files in run_dir": files(node.run),
        "files in state_dir": files(node.state),
        "cgroups": sum(1 for p in parents if p.is_dir() for _ in p.glob("uid-*/**/cgroup.procs")),
        "interfaces": sum(node.bridge in name for _, name in socket.if_nameindex()),
        "lines of nftables rules": rules.stdout.count("\n"),
        "processes": len(leftovers.processes(node.folder)),
    }


def build_archive(folder: Path) -> Path:
    """The workload's image as an archive of an OCI layout."""
    archive = folder / "oci.tar"
    build = [sys.executable, str(CHECKOUT / "images" / "build.py"), "probe", "--output", str(archive)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return archive


def come_die_and_go(node: LocalNode, names: Sequence[str], others: Sequence[Pod] = ()) -> None:
    """Each of these pods is started, killed, started again and deleted; the others are wanted all the time."""
    pods = [node.pod(name, f"echo >> {node.marks_inside}/{name}; exec sleep 1d") for name in names]
    node.want([*others, *pods])
    spin_until(lambda: all(node.lines(pod) == 1 for pod in pods), CYCLE_PATIENCE)
    for pod in pods:
        for pid in node.container_pids(pod.uid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    spin_until(lambda: all(node.lines(pod) == 2 for pod in pods), CYCLE_PATIENCE)
    node.want(others)
    spin_until(lambda: all(node.gone(pod.uid) for pod in pods), CYCLE_PATIENCE)
    for name in names:
        (node.marks / name).unlink()
