"""The runtime of a real machine: `api.Runtime` put together from the other rooms."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from edged.config import NodeConfig
from edged.errors import EdgedError, RetryError
from edged.model import (
    Claim,
    Container,
    ContainerPhase,
    ContainerState,
    ContainerUsage,
    Hook,
    HostPort,
    Image,
    Material,
    Pod,
    Probe,
    SandboxState,
    ServiceRules,
)
from edged.model.remote import Size
from edged.runtime import attaching, dialling, hooks, mounts, probes, userns
from edged.runtime.api import ProbeResult
from edged.runtime.cgroup import Cgroups
from edged.runtime.claims import Claims
from edged.runtime.containerlogs import ContainerLogs
from edged.runtime.containers import Containers, remove_tree
from edged.runtime.crun import Crun
from edged.runtime.devices import Devices
from edged.runtime.evicted import Evicted
from edged.runtime.follower import Follower, Healed
from edged.runtime.given_devices import GivenDevices
from edged.runtime.inside import Inside, Wanted
from edged.runtime.network import Network
from edged.runtime.pod_cgroups import PodCgroups, in_thread, swap_space
from edged.runtime.records import Places, parse_id
from edged.runtime.sandboxes import Namespace, Sandboxes
from edged.runtime.services import Services
from edged.runtime.settings import pod_settings
from edged.runtime.uevents import Plugged

RUN_DIR_BASE = 16 << 20  # bytes for records, sockets and files of configs and secrets; logs come on top


class NetworkRoom(Protocol):
    """What is needed of edged.runtime.network.Network."""

    @property
    def degraded(self) -> Sequence[str]: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def teardown(self) -> None: ...
    async def attach(self, pod_uid: str, sysctls: Sequence[tuple[str, str]] = ()) -> Namespace: ...
    async def detach(self, pod_uid: str) -> None: ...
    def observe(self) -> Mapping[str, Namespace]: ...
    def find(self, pod_uid: str) -> Namespace | None: ...
    def concerned(self, links: set[str]) -> bool: ...
    async def heal(self) -> Healed: ...


class ServicesRoom(Protocol):
    """What is needed of edged.runtime.services.Services."""

    @property
    def degraded(self) -> Sequence[str]: ...
    @property
    def nameserver(self) -> str: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def teardown(self) -> None: ...
    async def sync(self, rules: Sequence[ServiceRules], host_ports: Sequence[HostPort] = ()) -> None: ...
    async def network_changed(self) -> None: ...


class PodRuntime:
    """See `api.Runtime`. `observe` and `teardown` work without `open`, for `edged plan` and `edged teardown`."""

    def __init__(
        self,
        config: NodeConfig,
        network: NetworkRoom | None = None,
        services: ServicesRoom | None = None,
        crun: Crun | None = None,
    ) -> None:
        self._config = config
        self._places = Places(config.run, config.state)
        self._network = network or Network(config.network, config.run)
        self._services = services or Services(config.network, config.run)
        self._cgroups = Cgroups(config.cgroup_parent, swap_space=swap_space(config.swap))
        self._pod_cgroups = PodCgroups(self._cgroups)
        self._frozen: set[str] = set()  # uids of pods
        self._logs = ContainerLogs(self._places, config)
        self._devices = Devices(config.devices)
        self._given = GivenDevices(self._devices, self._places, self._cgroups)
        self._plugged = Plugged(self._devices)
        self._containers = Containers(self._places, self._cgroups, self._logs, config.policy, self._given, crun)
        self._claims = Claims(self._places.state / "volumes", self._places.run / "volumes", config.storage)
        self._evicted = Evicted(self._places, self._has_live)
        self._follower: Follower | None = None  # of the machine's network, while open
        self._sandboxes = Sandboxes(
            self._places, self._network, config.network.cluster_domain, self._claims, config.users
        )

    @property
    def degraded(self) -> Sequence[str]:
        return (
            *self._cgroups.degraded,
            *self._network.degraded,
            *self._services.degraded,
            *([self._follower.problem] if self._follower is not None and self._follower.problem else ()),
            *self._logs.degraded,
            *self._claims.degraded,
            *self._plugged.degraded,
            *userns.degraded(),
        )

    # ------------------------------------------------------------ life

    async def open(self, on_exit: Callable[[str], None]) -> None:
        try:
            mounts.make_memory(os.fspath(self._config.run), RUN_DIR_BASE + 2 * self._config.log_node_bytes)
        except OSError as e:
            raise RetryError(f"run_dir {self._config.run} can't be made memory: {e}; edged needs root", 10.0) from e
        self._cgroups.open()
        self._pod_cgroups.let_go()
        self._containers.open(lambda container: self._exited(container, on_exit))
        await self._remove_strangers()
        await self._claims.open()
        await self._sandboxes.open()
        await self._network.open()
        await self._services.open()
        self._follower = Follower(
            self._network,
            self._services,
            lambda: self._sandboxes.use_nameserver(self._services.nameserver),
            lambda: on_exit(""),
        )
        self._follower.open()
        self._plugged.open(lambda: on_exit(""))
        self._evicted.open()

    def _exited(self, container_id: str, on_exit: Callable[[str], None]) -> None:
        self._evicted.look(parse_id(container_id)[0])
        on_exit(container_id)

    def _has_live(self, pod_uid: str) -> bool:
        ended = (ContainerPhase.EXITED, ContainerPhase.UNKNOWN)
        return any(state.phase not in ended for state in self._containers.observe(pod_uid))

    async def _remove_strangers(self) -> None:
        """Processes in our part of the cgroup tree that no record knows: run_dir was emptied under them."""
        known = {self._cgroups.path(r.pod_uid, r.name, r.attempt) for r in self._places.containers()}
        for path in self._cgroups.containers():
            if path not in known:
                with contextlib.suppress(EdgedError):
                    await self._cgroups.remove(path)

    async def close(self) -> None:
        await self._evicted.close()
        self._plugged.close()
        self._containers.close()
        if self._follower is not None:
            await self._follower.close()
        await self._services.close()
        await self._network.close()

    async def teardown(self) -> None:
        """:raises RetryError: something stays; everything else is gone then."""
        failed: list[str] = []
        run = os.fspath(self._config.run)
        for state in tuple(self._containers.observe()):
            await _collect(failed, self._containers.remove(state.id))
        await _collect(failed, self._cgroups.remove_all())  # also what no record knows
        for sandbox in tuple(self._sandboxes.observe()):
            await _collect(failed, self.remove_sandbox(sandbox.pod_uid))
        self._containers.close()
        await _collect(failed, self._services.teardown())
        await _collect(failed, self._network.teardown())
        await _collect(failed, remove_tree(self._places.writable))
        await _collect(failed, remove_tree(self._places.disk_logs))
        mounts.unmount_below(os.fspath(self._places.pods))  # before anything is removed: volumes are mounted there
        mounts.unmount_below(os.fspath(self._places.messages))
        for folder in (self._places.pods, self._places.logs, self._places.crun, self._places.messages):
            shutil.rmtree(folder, ignore_errors=True)
        for file in Path(run).glob("seccomp-*.bpf"):
            file.unlink(missing_ok=True)
        mounts.unmount_below(run)
        if failed:
            raise RetryError("not everything could be removed: " + "; ".join(failed))

    # ------------------------------------------------------------ seeing

    def observe(self) -> tuple[Sequence[SandboxState], Sequence[ContainerState]]:
        sandboxes = self._sandboxes.observe()
        if self._frozen:
            sandboxes = (replace(s, frozen=s.pod_uid in self._frozen) for s in sandboxes)
        return tuple(sandboxes), tuple(self._containers.observe())

    def inspect(self, container_id: str) -> ContainerState | None:
        return self._containers.inspect(container_id)

    def usage(self, container_id: str) -> ContainerUsage:
        return self._cgroups.usage(self._cgroups.path(*parse_id(container_id)))

    def log_file(self, container_id: str) -> Path:
        return self._places.log(container_id)

    # ------------------------------------------------------------ doing

    async def prepare_sandbox(self, pod: Pod, material: Material) -> SandboxState:
        self._pod_cgroups.apply(pod.uid, pod_settings(pod, self._cgroups.swap_space))
        return await self._sandboxes.prepare(pod, material, self._services.nameserver)

    async def remove_sandbox(self, pod_uid: str) -> None:
        await self._evicted.settled(pod_uid)
        self._thaw(pod_uid)
        for state in tuple(self._containers.observe(pod_uid)):
            await self._containers.remove(state.id)
        await self._cgroups.remove_pod(pod_uid)
        self._pod_cgroups.protect()  # what it was promised is nobody's now
        await self._sandboxes.remove(pod_uid)

    async def start_container(
        self, pod: Pod, container: Container, image: Image, material: Material, attempt: int, crashes: int
    ) -> ContainerState:
        sandbox = self._sandboxes.of(pod)
        if attempt:  # the first one starts right after the sandbox was prepared
            with contextlib.suppress(EdgedError):  # what was there stays, and its pod goes on
                self._sandboxes.refresh(pod, material)
        return await self._containers.start(pod, container, image, material, attempt, crashes, sandbox)

    async def stop_container(self, container_id: str, reason: str) -> None:
        self._thaw(parse_id(container_id)[0])
        await self._containers.stop(container_id, reason)

    async def kill_container(self, container_id: str, reason: str) -> None:
        self._thaw(parse_id(container_id)[0])
        await self._containers.kill(container_id, reason)

    async def remove_container(self, container_id: str) -> None:
        self._thaw(parse_id(container_id)[0])
        await self._containers.remove(container_id)

    async def probe(self, container_id: str, probe: Probe, ip: str) -> ProbeResult:
        ip = self._sandboxes.to_ask(parse_id(container_id)[0], ip)
        return await probes.ask(
            probe, ip, lambda command, timeout: self._containers.exec(container_id, command, timeout)
        )

    async def sync_services(self, services: Sequence[ServiceRules], host_ports: Sequence[HostPort] = ()) -> None:
        before = self._services.nameserver
        await self._services.sync(services, host_ports)
        if self._services.nameserver != before:
            self._sandboxes.use_nameserver(self._services.nameserver)

    # ------------------------------------------------------------ being taken up

    async def signal_container(self, container_id: str) -> None:
        self._thaw(parse_id(container_id)[0])
        await self._containers.ask(container_id)

    async def run_hook(self, container_id: str, hook: Hook, ip: str, timeout: float) -> None:
        ip = self._sandboxes.to_ask(parse_id(container_id)[0], ip)
        await hooks.run(hook, ip, timeout, functools.partial(self._containers.exec, container_id))

    async def note_post_started(self, container_id: str) -> None:
        self._containers.note_post_started(container_id)

    async def refresh_volumes(self, pod: Pod, material: Material) -> None:
        self._sandboxes.refresh(pod, material)

    async def end_pod(self, pod_uid: str, reason: str, message: str) -> None:
        self._sandboxes.end(pod_uid, reason, message)
        self._evicted.look(pod_uid)

    async def give_devices(self, container_id: str, devices: Collection[str]) -> None:
        self._given.give(container_id, devices)

    def devices(self, names: Collection[str]) -> Mapping[str, str]:
        return self._devices.resolve(names)

    def device_names(self) -> Mapping[str, int]:
        return self._plugged.names()

    def claims(self) -> frozenset[str]:
        return self._claims.observe()

    async def remove_claim(self, uid: str) -> None:
        await self._claims.remove(uid)

    async def resize_claim(self, claim: Claim) -> None:
        await self._claims.resize(claim)

    async def reclaim_memory(self, pod_uid: str, amount: int) -> None:
        await in_thread(lambda: self._pod_cgroups.reclaim(pod_uid, amount), f"reclaim {pod_uid}")

    async def set_memory_high(self, pod_uid: str, high: int | None) -> None:
        await self._pod_cgroups.squeeze(pod_uid, high)

    async def freeze_pod(self, pod_uid: str, frozen: bool) -> None:
        self._pod_cgroups.freeze(pod_uid, frozen)
        (self._frozen.add if frozen else self._frozen.discard)(pod_uid)

    def _thaw(self, pod_uid: str) -> None:
        """Nobody can end, or be asked anything, who stands still."""
        if pod_uid in self._frozen:
            self._pod_cgroups.freeze(pod_uid, False)
            self._frozen.discard(pod_uid)

    # ------------------------------------------------------------ api.Access

    def enter(
        self, container_id: str, command: tuple[str, ...], wanted: Wanted
    ) -> contextlib.AbstractAsyncContextManager[Inside]:
        return self._containers.enter(container_id, command, wanted)

    def attach(self, container_id: str) -> socket.socket:
        return self._containers.attach(container_id)

    def resize(self, container_id: str, size: Size) -> None:
        with contextlib.suppress(OSError):
            attaching.resize(self._containers.terminal_control(container_id), size)

    async def dial(self, pod_uid: str, port: int) -> socket.socket:
        return await dialling.dial(self._sandboxes.network_of(pod_uid), port)

    def pod_usage(self, pod_uid: str) -> ContainerUsage:
        return self._cgroups.usage(self._cgroups.pod_path(pod_uid))


async def _collect(failed: list[str], work: Awaitable[None]) -> None:
    try:
        await work
    except (EdgedError, OSError) as e:
        failed.append(str(e))
