"""A real node in a corner of this machine, for tests: its own folders, cgroups, bridge; gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from edged.config import NetworkConfig, NodeConfig
from edged.model import HostPort, Image, ServiceRules, Value
from edged.runtime import process
from edged.runtime.follower import Healed
from edged.runtime.mounts import mount_points
from edged.runtime.pods import PodRuntime

APPLETS = (
    "sh",
    "sleep",
    "echo",
    "cat",
    "true",
    "false",
    "ls",
    "id",
    "nc",
    "httpd",
    "dd",
    "kill",
    "env",
    "mount",
    "touch",
    "wget",
    "mkdir",
    "grep",
)
CGROUPS = Path("/sys/fs/cgroup")


def busybox_image(folder: Path) -> Image:
    """One layer with a static busybox in it, without any image store."""
    layer = folder / "layer"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (layer / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", layer / "bin" / "busybox")
    for applet in APPLETS:
        (layer / "bin" / applet).symlink_to("busybox")
    (layer / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")
    (layer / "etc" / "group").write_text("root:x:0:\nweb:x:1002:app\n")
    return Image("busybox:test", "sha256:" + "0" * 64, (os.fspath(layer),), cmd=("/bin/sh",))


class StandInNetns(Value, frozen=True):
    path: str
    ip: str


class StandInNetwork:
    """A namespace with nothing but loopback for each pod; quick, and no bridge."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "netns"
        self.degraded: Sequence[str] = ()

    async def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    async def close(self) -> None:
        pass

    async def teardown(self) -> None:
        if self._folder.is_dir():
            for file in tuple(self._folder.iterdir()):
                await self.detach(file.name)
            self._folder.rmdir()  # as the real one; it stays visible where run_dir is part of a larger tmpfs

    async def attach(self, pod_uid: str, sysctls: Sequence[tuple[str, str]] = ()) -> StandInNetns:
        file = self._folder / pod_uid
        if pod_uid not in self.observe():  # the file may be there alone, where somebody was killed in between
            os.close(os.open(file, os.O_RDONLY | os.O_CREAT))  # a killed daemon's helper may mount it this moment
            await process.run(["unshare", f"--net={file}", "ip", "link", "set", "lo", "up"])
        return StandInNetns(os.fspath(file), "127.0.0.1")

    async def detach(self, pod_uid: str) -> None:
        file = self._folder / pod_uid
        while file.exists():
            await process.run(["umount", os.fspath(file)], check=False)
            with contextlib.suppress(OSError):  # a helper of a killed daemon may be mounting it this moment
                file.unlink()

    def find(self, pod_uid: str) -> StandInNetns | None:
        return self.observe().get(pod_uid)

    def concerned(self, links: set[str]) -> bool:
        return False

    async def heal(self) -> Healed:
        return Healed()

    def observe(self) -> Mapping[str, StandInNetns]:
        points = {p.path for p in mount_points()}
        return {
            f.name: StandInNetns(os.fspath(f), "127.0.0.1")
            for f in (self._folder.iterdir() if self._folder.is_dir() else ())
            if os.fspath(f) in points
        }


class StandInServices:
    def __init__(self) -> None:
        self.degraded: Sequence[str] = ()
        self.nameserver = ""
        self.rules: tuple[ServiceRules, ...] = ()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def teardown(self) -> None:
        pass

    async def sync(self, rules: Sequence[ServiceRules], host_ports: Sequence[HostPort] = ()) -> None:
        self.rules = tuple(rules)
        self.nameserver = "127.0.0.53" if rules else ""

    async def network_changed(self) -> None:
        pass


class Corner:
    """:ivar config: of a node that shares nothing with any other on this machine."""

    def __init__(self) -> None:
        name = uuid.uuid4().hex[:8]
        self.folder = Path(tempfile.mkdtemp(prefix=f"edged-{name}-"))
        self.config = NodeConfig(
            name=name,
            state_dir=os.fspath(self.folder / "state"),
            run_dir=os.fspath(self.folder / "run"),
            cgroup_parent=f"edged-test-{name}",
            network=NetworkConfig(
                bridge=f"et{name}",
                pod_cidr=f"10.{int(name[:2], 16) // 2 + 100}.{int(name[2:4], 16)}.0/24",
                nft_table=f"et{name}",
            ),
        )
        self.image = busybox_image(self.folder)

    def runtime(self, real_network: bool = False) -> PodRuntime:
        if real_network:
            return PodRuntime(self.config)
        return PodRuntime(self.config, StandInNetwork(self.config.run), StandInServices())

    def traces(self) -> list[str]:
        """What is left on the machine of this node."""
        found = [p.path for p in mount_points() if p.path.startswith(os.fspath(self.folder))]
        found += [os.fspath(p) for p in CGROUPS.glob(f"*/{self.config.cgroup_parent}")]
        found += [os.fspath(p) for p in CGROUPS.glob(self.config.cgroup_parent)]
        found += [name for _, name in socket.if_nameindex() if name.startswith(self.config.network.bridge)]
        for part in (self.config.state / "rw", self.config.run):
            if part.is_dir():
                found += [os.fspath(p) for p in part.iterdir()]
        for proc in Path("/proc").iterdir():
            if proc.name.isdecimal() and proc.name != str(os.getpid()):
                with contextlib.suppress(OSError):
                    if os.fsencode(self.folder) in (proc / "cmdline").read_bytes():
                        found.append((proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found


@contextlib.asynccontextmanager
async def corner() -> AsyncIterator[Corner]:
    """Torn down at the end, also where the test failed; then nothing may be left."""
    place = Corner()
    try:
        yield place
    finally:
        network = any(name == place.config.network.bridge for _, name in socket.if_nameindex())
        await place.runtime(real_network=network).teardown()
        traces: list[str] = []
        with contextlib.suppress(TimeoutError):  # processes on their way out, some of them a killed daemon's
            async with asyncio.timeout(10):
                while traces := place.traces():  # noqa: ASYNC110 (the machine sends no event for it)
                    await asyncio.sleep(0.02)
        shutil.rmtree(place.folder, ignore_errors=True)
    assert not traces, f"left on the machine: {traces}"
