"""A node in the virtual machine: installed as an owner would, run by systemd, with no hub and no network beyond it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from edged.control.protocol import Snapshot
from edged.model import Container, Desired, Limits, Phase, Pod, PodStatus, RestartPolicy
from tests.vm.image import ROOT
from tests.vm.machine import Machine

PATIENCE = 300.0  # seconds until a test gives up; the emulator is twenty times slower than the machine it runs on
SOURCES = ("edged", "cloudlink", "images", "systemd", "tools", "pyproject.toml", "requirements.lock")
UNITS = ("edged.service", "edged-pods.service")
IMAGE = "localhost/probe:latest"
PARENT = "/system.slice/edged-pods.service"
# Not waited for: a start that systemd gives up after TimeoutStartSec on a busy host is tried again, and whoever needs
# the daemon waits for what it does.
ENABLE = "systemctl enable -q edged && systemctl start --no-block edged"
MIB = 1 << 20

INSTALL = f"""
set -eu
cd /opt/edged/src
if [ ! -L /opt/edged/current ]; then  # the image has a bare environment there; the layout is edged-version's
    mkdir -p /opt/edged/versions
    mv /opt/edged/current /opt/edged/versions/source
    touch /opt/edged/versions/source/.whole
    ln -s versions/source /opt/edged/current
fi
install -D systemd/edged_version.py /opt/edged/bin/edged-version
/opt/edged/current/bin/python -m compileall -q edged cloudlink  # as an install does: units write no caches
cp {" ".join(f"systemd/{unit}" for unit in UNITS)} /etc/systemd/system/
python3 images/build.py probe --output /tmp/probe.tar
/opt/edged/current/bin/python -m edged.images import --root /var/lib/edged/images /tmp/probe.tar
rm /tmp/probe.tar
systemctl daemon-reload
systemctl enable -q edged
"""
SNAPSHOT = """
import asyncio, sys, msgspec
from pathlib import Path
from edged.control import ControlClient
print(msgspec.json.encode(asyncio.run(ControlClient(Path("/run/edged/control.sock"), 30.0).status())).decode())
"""
PROCESSES = """
cd /run/edged/pods 2>/dev/null || exit 0
for f in */containers/*/*/pid; do
    d="${f%/pid}"; [ -e "$d/conmon" ] || continue
    pid="$(cat "$f")"; [ -e "/proc/$pid" ] || continue
    echo "$d $pid $(cat "$d/conmon") $(cut -d: -f3 "/proc/$pid/cgroup" | tail -1) $(cut -d' ' -f22 "/proc/$pid/stat")"
done
"""


class Running(NamedTuple):
    """A container's first process as the guest's kernel and our records show it; started: seconds after boot."""

    pod_uid: str
    pid: int
    conmon: int
    cgroup: str
    started: float


LIMITED = Limits(
    memory_request=16 * MIB, memory_limit=32 * MIB, cpu_request=200, cpu_limit=250, pids_limit=64
)  # what test_vm_node looks for in the kernel's files
FILL = "dd if=/dev/zero of=/dev/shm/ballast bs=1048576 count=8 2>/dev/null; "
IDLE = "trap 'exit 0' TERM; sleep 1d & wait"


def a_pod(name: str, script: str = IDLE, limits: Limits | None = None, **options: object) -> Pod:
    limits = limits or Limits(memory_request=4 * MIB, memory_limit=16 * MIB)
    main = Container("main", IMAGE, command=("/bin/sh", "-c", script), limits=limits)
    return Pod("default", name, f"uid-{name}", (main,), termination_grace=2.0, **options)  # type: ignore[arg-type]


PODS = (*(a_pod(f"plain-{n}") for n in range(4)), a_pod("limited", FILL + IDLE, LIMITED))
HUNGRY = a_pod("hungry", "exec dd if=/dev/zero of=/dev/null bs=67108864 count=1", restart_policy=RestartPolicy.NEVER)


class Node:
    """:ivar notes: sentences with measured numbers, printed at the end of the run."""

    def __init__(self, machine: Machine, notes: list[str]) -> None:
        self.machine = machine
        self.notes = notes
        self._generation = 0

    def install(self) -> None:
        """With no hub, and its pods told by a file."""
        if self.machine.try_run("test -e /etc/systemd/system/edged.service").returncode != 0:
            self.install_daemon()  # else the machine has booted tests.vm.installed
        self.machine.write("/etc/edged/node.toml", 'name = "board"\n')
        self.desire(PODS, reload=False)
        self.machine.run(ENABLE)
        self.all_running()

    def install_daemon(self) -> None:
        """This checkout, its units enabled and the probe image in place; not started: node.toml is still missing."""
        self.machine.send_tree(ROOT, SOURCES, "/opt/edged/src")
        self.machine.run(INSTALL, timeout=600.0)

    def install_tests(self) -> None:
        """What the runtime's own tests are run from, beside the sources."""
        self.machine.send_tree(ROOT / "tests", (".",), "/opt/edged/src/tests")

    def desire(self, pods: Sequence[Pod], reload: bool = True) -> int:
        """A new document for the local uplink."""
        self._generation += 1
        document = msgspec.json.encode(Desired("default", "board", self._generation, tuple(pods)))
        self.machine.run(
            "mkdir -p -m 0700 /var/lib/edged && cd /var/lib/edged && cat > .new && mv .new desired.json",
            stdin=document,
        )
        if reload:
            self.machine.run(f"kill -HUP {self.daemon()}")
        return self._generation

    def daemon(self) -> int:
        return int(self.machine.run("systemctl show -P MainPID edged"))

    def properties(self, *names: str, unit: str = "edged") -> dict[str, str]:
        """What systemd says of a unit, whose order is its own."""
        said = self.machine.run(f"systemctl show -p {','.join(names)} {unit}")
        return dict(line.split("=", 1) for line in said.splitlines())

    def snapshot(self) -> Snapshot:
        return msgspec.convert(self.machine.python(SNAPSHOT), Snapshot)

    def processes(self) -> dict[str, Running]:
        """By pod uid."""
        found = {}
        for line in self.machine.run(PROCESSES).splitlines():
            folder, pid, conmon, cgroup, ticks = line.split()
            uid = folder.split("/")[0]
            found[uid] = Running(uid, int(pid), int(conmon), cgroup, int(ticks) / 100)
        return found

    # ------------------------------------------------------------ waiting

    def until(self, condition: Callable[[Snapshot], bool], what: str) -> Snapshot:
        """A snapshot for which it holds; the daemon may be away in between."""
        deadline = time.monotonic() + PATIENCE
        seen: object = "nothing"
        while time.monotonic() < deadline:
            try:
                snapshot = self.snapshot()
                if condition(snapshot):
                    return snapshot
                seen = snapshot.status
            except AssertionError as e:
                seen = e
            time.sleep(0.5)
        journal = self.machine.run("journalctl -b -u edged -u edged-pods -n 60 --no-pager")
        raise AssertionError(f"waited {PATIENCE:g} s for {what}; saw {seen}\n{journal}")

    def all_running(self) -> Snapshot:
        """Exactly PODS, each of them running."""

        def holds(snapshot: Snapshot) -> bool:
            running = {p.uid for p in snapshot.status.pods if p.phase is Phase.RUNNING and p.ready}
            return running == {p.uid for p in PODS} == {p.uid for p in snapshot.status.pods}

        return self.until(holds, "all pods to run")


def status_of(snapshot: Snapshot, pod: Pod) -> PodStatus:
    return next(p for p in snapshot.status.pods if p.uid == pod.uid)
