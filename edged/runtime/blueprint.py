"""How one container is made: what it runs, as whom and with which powers, and then its bundle.

First everything that can be wrong with it is checked, while nothing of it exists; then it is laid out.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from edged.config import PolicyConfig
from edged.errors import PermanentError
from edged.model import Container, Image, Material, Pod, Value
from edged.runtime import (
    bundle,
    environment,
    host_devices,
    last_words,
    mount_points,
    mounts,
    resources,
    seccomp,
    security,
    userns,
)
from edged.runtime.crun import Creation, Crun
from edged.runtime.given_devices import GivenDevices
from edged.runtime.records import ContainerRecord, Places
from edged.runtime.sysctls import split
from edged.runtime.users import user_of
from edged.runtime.volumes import Volumes


class Sandbox(Value, frozen=True):
    """What a container needs of its pod's sandbox.

    :ivar netns: "" with `host_network`.
    :ivar ipcns, shm: of a pod whose containers share them; "" = each container has its own.
    :ivar ip: the pod's address, or the node's own with `host_network`.
    :ivar users: first host uid and gid of the pod's own 64 Ki; 0 = the host's users.
    """

    netns: str
    mounts: tuple[bundle.BindMount, ...] = ()
    ipcns: str = ""
    shm: str = ""
    host_network: bool = False
    ip: str = ""
    users: int = 0


class Design(Value, frozen=True):
    """What was decided about a container before anything of it exists. `env` are the pod's own variables, `devices`
    what is there of those that it claims (ContainerState.devices)."""

    env: dict[str, str]
    args: tuple[str, ...]
    user: bundle.User
    capabilities: tuple[str, ...]
    seccomp: bytes
    devices: tuple[str, ...] = ()


class Drawing:
    """The containers of one node, from what is wanted to a bundle.

    :ivar machine: what can be enforced here; known once the node is open.
    :ivar held: capabilities that we have and so can give.
    """

    def __init__(self, places: Places, crun: Crun, policy: PolicyConfig, devices: GivenDevices) -> None:
        self._places = places
        self._crun = crun
        self._policy = policy
        self._devices = devices
        self._profiles = places.state / "seccomp"
        self.machine = bundle.Machine()
        self.held: frozenset[str] = frozenset(security.ALL_CAPABILITIES)

    def design(self, pod: Pod, container: Container, image: Image, material: Material, sandbox: Sandbox) -> Design:
        """:raises PermanentError, RetryError: with what is wrong or missing; nothing was made yet."""
        where = f'container "{container.name}" of pod {pod.title}'
        security.check_policy(pod, container, self._policy)
        env = environment.resolve_env(pod, container, material, sandbox.ip)
        args = environment.arguments(container, image, env)
        user = user_of(image, container.security, () if pod.fs_group is None else (pod.fs_group,))
        security.check_non_root(pod, container, image, user)
        if sandbox.users:
            _check_fits(user, where)
        held = frozenset(security.ALL_CAPABILITIES) if sandbox.users else self.held
        # with cgroup v2 it may open all devices of the kinds that it claims, so it may not make files for them
        mknod = self.machine.devices and not (container.devices and self.machine.unified)
        capabilities = security.bounding_set(container.security, where, held, mknod)
        wanted = "Unconfined" if container.security.privileged else container.security.seccomp
        profile = seccomp.choose(wanted, os.uname().machine, capabilities, self._profiles, where)
        return Design(env, args, user, capabilities, profile, self._devices.claimed(container, sandbox.users, where))

    def lay_out(
        self,
        record: ContainerRecord,
        pod: Pod,
        container: Container,
        image: Image,
        sandbox: Sandbox,
        design: Design,
    ) -> Creation:
        """The bundle and the writable layer. :raises OSError: no room."""
        folder, layer = self._places.container(record.id), self._layer(record.id, container)
        rootfs = folder / "rootfs"
        for made in (rootfs, layer / "upper", layer / "work"):
            made.mkdir(parents=True)
        (layer / "upper").chmod(0o755)  # becomes the container's "/", whatever the daemon's umask is
        self._places.write(record)
        last_words.begin(self._places.message(record.id))
        volumes = Volumes(pod, self._places.pod(pod.uid) / "volumes", self._places.scratch(pod.uid) / "volumes")
        inside = volumes.mounts_of(container, folder / "mounts", design.env)
        binds = self._binds(record, container, sandbox, inside.binds)
        layers = image.layers
        missing = f"{folder}/mount-points"
        if not sandbox.users and mount_points.make(layers, ((b.source, b.path) for b in binds), missing):
            layers = (*layers, missing)
        overlay = mounts.Overlay(layers, f"{layer}/upper", f"{layer}/work", os.fspath(rootfs))
        contents: tuple[mounts.Content, ...] = (overlay, *inside.staged)
        sysfs = ""
        if sandbox.users:
            for owned in (layer / "upper", layer / "work"):
                os.chown(owned, sandbox.users, sandbox.users)
            binds, contents, sysfs = userns.shifted(binds, contents, folder / "shifted", sandbox.netns)
        spec = self._spec(record, pod, container, image, sandbox, design, os.fspath(rootfs), binds)
        spec = replace(spec, sysfs=sysfs)
        _write_private(folder / "config.json", bundle.config_json(spec, self.machine))
        return Creation(
            id=record.id,
            bundle=os.fspath(folder),
            log=os.fspath(self._places.log(record.id)),
            log_bytes=record.log_half,
            contents=contents,
            users=sandbox.users,
            seccomp=design.seccomp,
            stdin=container.stdin,
            stdin_once=container.stdin_once,
            tty=container.tty,
        )

    def _layer(self, container_id: str, container: Container) -> Path:
        """A root that can't be written to takes nothing but mount points: they need no disk."""
        if container.security.read_only_root:
            return self._places.container(container_id) / "layer"
        return self._places.layer(container_id)

    def _binds(
        self,
        record: ContainerRecord,
        container: Container,
        sandbox: Sandbox,
        volumes: tuple[bundle.BindMount, ...],
    ) -> tuple[bundle.BindMount, ...]:
        """The pod's own files, the termination message's, and the volumes, which may replace them; what is inside
        another one comes after it."""
        what = f'terminationMessagePath of container "{container.name}"'
        path = bundle.check_mount_path(container.termination_message_path, what)
        message = bundle.BindMount(os.fspath(self._places.message(record.id)), path)
        taken = {m.path for m in volumes}
        own = (m for m in (*sandbox.mounts, message) if m.path not in taken)
        return tuple(sorted((*own, *volumes), key=lambda m: m.path.count("/")))

    def _spec(
        self,
        record: ContainerRecord,
        pod: Pod,
        container: Container,
        image: Image,
        sandbox: Sandbox,
        design: Design,
        rootfs: str,
        binds: tuple[bundle.BindMount, ...],
    ) -> bundle.ContainerSpec:
        hostname = os.uname().nodename[:64] if sandbox.host_network else bundle.hostname_of(pod)
        asked = container.security
        devices, rules = self._devices.at_start(container, design.devices, self.machine.unified)
        return bundle.ContainerSpec(
            args=design.args,
            env=({"TERM": "xterm"} if container.tty else {}) | environment.full_env(image, hostname, design.env),
            rootfs=rootfs,
            hostname=hostname,
            netns=sandbox.netns,
            cgroup=record.cgroup,
            limits=container.limits,
            mounts=binds,
            user=design.user,
            working_dir=container.working_dir or image.working_dir or "/",
            oom_score_adj=resources.oom_score_adj(pod, container.limits, self.machine.memory_total),
            host_network=sandbox.host_network,
            ipcns=sandbox.ipcns,
            shm=sandbox.shm,
            users=sandbox.users,
            capabilities=design.capabilities,
            escalation=asked.escalation or asked.privileged,
            privileged=asked.privileged,
            read_only_root=asked.read_only_root,
            seccomp=design.seccomp,
            seccomp_bpf=self._crun.compiled(design.seccomp),
            sysctls=() if sandbox.ipcns else split(pod.sysctls).ipc,
            devices=host_devices.with_all(devices) if asked.privileged else devices,
            device_rules=rules,
            terminal=container.tty,
        )


def own_capabilities() -> frozenset[str]:
    """Those that this process has."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return security.held_capabilities(int(line.split()[1], 16))
    return frozenset()


def _check_fits(user: bundle.User, where: str) -> None:
    beyond = [n for n in (user.uid, user.gid, *user.groups) if n >= bundle.USERS_OF_A_POD]
    if beyond:
        raise PermanentError(
            f"{where} runs as {beyond[0]}, but a pod with hostUsers: false has only the users and groups 0 to"
            f" {bundle.USERS_OF_A_POD - 1}; use smaller numbers, or remove hostUsers"
        )


def _write_private(file: Path, content: bytes) -> None:
    """Its environment may hold secrets."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as f:  # noqa: PTH123 (a descriptor)
        f.write(content)
