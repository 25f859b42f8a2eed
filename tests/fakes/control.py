"""A node that isn't there: a ControlSource with believable pods, for tests and for working on the dashboard.

By hand, from the project's root (then point `python -m edged.dashboard` at a node.toml with that run_dir):

    python -m tests.fakes.control /tmp/fake/control.sock --pods 40 --hub away
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edged.control import Budget, ControlServer, DaemonFacts, HubLink, LinkState, Machine, Snapshot
from edged.errors import PermanentError
from edged.model import Capacity, ContainerStatus, ContainerUsage, Event, NodeStatus, Phase, PodStatus, Refusal

MIB = 1 << 20
HOUR = 3600.0

# name, image, limit in MiB, share of the limit in use, cores in use
APPS = (
    ("sensor-reader", "registry.local/sensor-reader:1.4.2", 48, 0.46, 0.03),
    ("readings-page", "registry.local/readings-page:1.4.2", 32, 0.31, 0.01),
    ("mosquitto", "docker.io/library/eclipse-mosquitto:2.0", 32, 0.22, 0.01),
    ("zigbee2mqtt", "docker.io/koenkk/zigbee2mqtt:1.36", 160, 0.71, 0.07),
    ("influxdb", "docker.io/library/influxdb:2.7-alpine", 320, 0.63, 0.12),
    ("grafana", "docker.io/grafana/grafana-oss:11.1", 192, 0.52, 0.04),
    ("pihole", "docker.io/pihole/pihole:2024.07", 128, 0.38, 0.02),
    ("caddy", "docker.io/library/caddy:2-alpine", 64, 0.35, 0.01),
    ("camera-motion", "registry.local/camera-motion:0.9", 256, 0.83, 0.46),
    ("backup", "registry.local/restic-job:3", 96, 0.12, 0.00),
)
NAMESPACES = ("default", "home", "monitoring", "network")


class FakeSource:
    """Implements ControlSource. Change `status`, `hub` or `usage` and call `tell()`; usage moves by itself.

    :ivar logs: folder with one CRI log for each container, named after its id.
    """

    def __init__(self, logs: Path, pods: int = 3, now: float | None = None) -> None:
        self.logs = logs
        self.started = time.time() if now is None else now
        self.hub = HubLink(LinkState.CONNECTED, self.started - 3 * HOUR - 240)
        self.usage: dict[str, ContainerUsage] = {}
        self.plan = "nothing to do"
        self.refreshed = 0
        self.watchers = 0
        self.broken: Exception | None = None
        self._change = asyncio.Event()
        self._dice = random.Random(7)
        self._shape: dict[str, tuple[int, float, float, float]] = {}
        self.status = NodeStatus(
            node="pi-kitchen",
            generation=42,
            epoch="e1",
            capacity=Capacity(
                memory=3_885 * MIB,
                memory_allocatable=3_757 * MIB,
                cpu=4000,
                architecture="arm64",
                kernel="6.6.51+rpt-rpi-v8",
                os="Debian GNU/Linux 12 (bookworm)",
                runtime="crun+conmon",
            ),
            pods=tuple(self._pod(n) for n in range(pods)),
            events=(
                self._event(1, 3 * HOUR + 240, "Normal", "NodeReady", "edged started and adopted 3 running containers"),
                self._event(2, 3 * HOUR + 238, "Normal", "HubConnected", "subscribed to desired state"),
                self._event(3, 1260, "Normal", "Pulled", "image is in the store", "home/sensor-reader"),
                self._event(4, 1259, "Normal", "Started", "started container app", "home/sensor-reader"),
            ),
            address="192.168.1.42",
            version="0.1.0",
            boot_id="0b3c",
        )

    # ------------------------------------------------------------ ControlSource

    def snapshot(self) -> Snapshot:
        if self.broken is not None:
            raise self.broken
        self._move()
        used = sum(u.memory for u in self.usage.values())
        asked = sum((u.memory_limit or 0) * 2 // 3 for u in self.usage.values())
        age = time.time() - self.started
        return Snapshot(
            status=self.status,
            wall=time.time(),
            usage=dict(self.usage),
            budget=Budget(self.status.capacity.memory_allocatable, asked, used),
            machine=Machine(
                memory_total=self.status.capacity.memory,
                memory_available=self.status.capacity.memory - used - 310 * MIB,
                load=(0.42 + 0.2 * math.sin(age / 9), 0.38, 0.35),
                temperature=52.4 + 2 * math.sin(age / 30),
                model="Raspberry Pi 4 Model B Rev 1.4",
                storage_total=31_000 * MIB,
                storage_free=19_400 * MIB,
                uptime=3 * HOUR + 300 + age,
            ),
            daemon=DaemonFacts(pss=27_300_000, uptime=3 * HOUR + 240 + age),
            hub=self.hub,
            generation=self.status.generation,
        )

    async def changed(self) -> None:
        self.watchers += 1
        try:
            await self._change.wait()
        finally:
            self.watchers -= 1

    def plan_text(self) -> str:
        return self.plan

    def log_file(self, container_id: str, previous: bool = False) -> Path | None:
        known = {c.container_id for pod in self.status.pods for c in (*pod.init, *pod.containers)}
        if container_id not in known:
            return None
        if not previous:
            return self.logs / container_id
        stem, _, attempt = container_id.rpartition(".")
        older = self.logs / f"{stem}.{int(attempt) - 1}"
        if not older.exists():
            raise PermanentError(f"{container_id} has no previous attempt here")
        return older

    def writes(self, container_id: str) -> bool:
        every = (c for pod in self.status.pods for c in (*pod.init, *pod.containers))
        return any(c.container_id == container_id and c.state == "running" for c in every)

    async def refresh(self) -> None:
        self.refreshed += 1

    # ------------------------------------------------------------ what tests do to it

    def tell(self) -> None:
        """Wake whoever waits for a change."""
        self._change.set()
        self._change = asyncio.Event()

    def set(self, **changes: object) -> None:
        """Change fields of `status` and tell."""
        self.status = msgspec.structs.replace(self.status, **changes)
        self.tell()

    def set_pod(self, index: int, **changes: object) -> PodStatus:
        pods = list(self.status.pods)
        pods[index] = msgspec.structs.replace(pods[index], **changes)
        self.set(pods=tuple(pods))
        return pods[index]

    def crash(self, index: int, restarts: int = 7, reason: str = "OOMKilled", code: int = 137) -> None:
        """Put the first container of a pod into backoff, as after that many ends."""
        now = time.time()
        pod = self.status.pods[index]
        old = pod.containers[0]
        container = msgspec.structs.replace(
            old,
            state="waiting",
            reason="CrashLoopBackOff",
            message="back-off 2m40s before the next start",
            ready=False,
            restarts=restarts,
            last_reason=reason,
            last_exit_code=code,
            last_started_wall=now - 75,
            last_finished_wall=now - 68,
        )
        self.usage.pop(old.container_id, None)
        self.set_pod(index, ready=False, containers=(container, *pod.containers[1:]))
        self.event("Warning", "BackOff", f"{old.name} ended with {code} ({reason}); next start in 2m40s", pod)

    def event(self, kind: str, reason: str, message: str, pod: PodStatus | None = None) -> None:
        title = f"{pod.namespace}/{pod.name}" if pod else ""
        seq = 1 + max((e.seq for e in self.status.events), default=0)
        event = Event(seq, time.time(), kind, reason, message, pod.uid if pod else "", title)
        self.set(events=(*self.status.events, event)[-100:])

    def write_log(self, container_id: str, text: str, stream: str = "stdout") -> None:
        """Append whole lines in CRI form."""
        self.logs.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        with (self.logs / container_id).open("a") as file:
            file.writelines(f"{stamp} {stream} F {line}\n" for line in text.splitlines())

    # ------------------------------------------------------------ making it up

    def _event(self, seq: int, ago: float, kind: str, reason: str, message: str, title: str = "") -> Event:
        return Event(seq, self.started - ago, kind, reason, message, title=title)

    def _pod(self, number: int) -> PodStatus:
        app, image, limit, share, cores = APPS[number % len(APPS)]
        suffix = "".join(self._dice.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        uid = f"{number:08x}-5a1e-4c1b-9d70-0242ac120002"
        container_id = f"{uid}.app.0"
        started = self.started - 1259 - number * 713
        self._shape[container_id] = (limit * MIB, share, cores, self._dice.random() * 6)
        self.usage[container_id] = ContainerUsage(0, limit * MIB, 40.0 * number, 3 + number % 9)
        self.write_log(container_id, "\n".join(f"reading {n}: 21.{n % 10} °C" for n in range(30)))
        return PodStatus(
            uid=uid,
            namespace=NAMESPACES[number % len(NAMESPACES)],
            name=f"{app}-7d9f4c6b5-{suffix}",
            phase=Phase.RUNNING,
            ready=True,
            ip=f"10.88.0.{number + 2}",
            started_wall=started,
            containers=(
                ContainerStatus(
                    name="app",
                    image=image,
                    state="running",
                    ready=True,
                    started=True,
                    started_wall=started,
                    container_id=container_id,
                    image_id=f"sha256:{self._dice.getrandbits(256):064x}",
                ),
            ),
        )

    def _move(self) -> None:
        age = time.time() - self.started
        for container_id, use in list(self.usage.items()):
            limit, share, cores, phase = self._shape.get(container_id, (64 * MIB, 0.5, 0.01, 0.0))
            self.usage[container_id] = msgspec.structs.replace(
                use,
                memory=int(limit * (share + 0.04 * math.sin(age / 20 + phase))),
                cpu_seconds=100 + cores * age + 0.2 * cores * math.sin(age / 5 + phase),
            )


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("socket", type=Path)
    parser.add_argument("--pods", type=int, default=3)
    parser.add_argument("--hub", choices=[*LinkState], default="connected")
    parser.add_argument("--crash", action="store_true", help="one pod in backoff, one that can't pull")
    parser.add_argument("--degraded", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        source = FakeSource(Path(logs), args.pods)
        if args.hub == "away":
            source.hub = HubLink(LinkState.AWAY, time.time() - 780, "connection refused by hub.example.net:8883")
        if args.hub == "local":
            source.hub = HubLink()
        if args.crash:
            source.crash(2)
            waiting = msgspec.structs.replace(
                source.status.pods[1].containers[0],
                state="waiting", reason="ImagePullBackOff", ready=False, started=False, container_id="",
                message="registry.local does not know readings-page:1.4.2; check the tag or push the image",
            )  # fmt: skip
            source.usage.pop(source.status.pods[1].containers[0].container_id)
            source.set_pod(1, phase=Phase.PENDING, ready=False, ip="", containers=(waiting,))
        if args.degraded:
            source.set(
                degraded=("memory.high and memory pressure per pod need cgroup v2; this machine has v1 hybrid",),
                refused=Refusal(1, "an older generation 41; this node has 42", time.time() - 320),
            )
        print(f"serving {args.pods} pods on {args.socket}", flush=True)
        async with ControlServer(args.socket, source):
            for n in range(10**9):
                await asyncio.sleep(3)
                for pod in source.status.pods[:3]:
                    source.write_log(pod.containers[0].container_id or "x", f"reading {n}: 21.{n % 10} °C")


if __name__ == "__main__":
    asyncio.run(_main())
