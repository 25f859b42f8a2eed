"""Sandboxes: what a pod has before its containers. Folders, files below /etc, volumes, and namespaces.

A pod in the machine's network has no network namespace: its address is the machine's, whatever that is at the moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from edged.addresses import own_address
from edged.config import UsersConfig
from edged.errors import PermanentError, RetryError
from edged.model import EmptyDir, Material, Pod, SandboxState
from edged.runtime import bundle, etc, ipc, mounts, nfs, userns
from edged.runtime.containers import Sandbox, remove_tree
from edged.runtime.names import policy_of
from edged.runtime.quota import ScratchQuotas
from edged.runtime.records import UID, Places, SandboxRecord, read, sandbox_state, write_atomically
from edged.runtime.sysctls import split
from edged.runtime.volumes import ClaimStore, Volumes


class Namespace(Protocol):
    """edged.runtime.network.Netns, as far as it matters here."""

    @property
    def path(self) -> str: ...
    @property
    def ip(self) -> str: ...


class PodNetwork(Protocol):
    """edged.runtime.network.Network, as far as it matters here."""

    async def attach(self, pod_uid: str, sysctls: Sequence[tuple[str, str]] = ()) -> Namespace: ...
    async def detach(self, pod_uid: str) -> None: ...
    def observe(self) -> Mapping[str, Namespace]: ...
    def find(self, pod_uid: str) -> Namespace | None: ...


class Sandboxes:
    """All sandboxes of one node. Owned by PodRuntime; one loop.

    A pod's emptyDirs on disk outlive a power cut, as in Kubernetes: after one, the pod is seen as a sandbox that is
    not ready, so that it is made again around them, or removed with them if it is no longer wanted.
    """

    def __init__(
        self,
        places: Places,
        network: PodNetwork,
        cluster_domain: str,
        claims: ClaimStore | None = None,
        users: UsersConfig | None = None,
    ) -> None:
        self._places = places
        self._users = users or UsersConfig()
        self._network = network
        self._domain = cluster_domain
        self._claims = claims
        self._quotas = ScratchQuotas()
        self._remembered: dict[str, SandboxRecord] = {}
        self._nameserver = ""

    async def open(self) -> None:
        """Sweep what containers of an earlier boot wrote, and remember the pods whose volumes are still there."""
        self._places.pods.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._places.pods.chmod(0o711)  # each pod's own folder is closed
        self._places.writable.mkdir(mode=0o700, parents=True, exist_ok=True)
        for scratch in sorted(self._places.writable.iterdir()):
            if not UID.fullmatch(scratch.name) or self._places.pod(scratch.name).is_dir():
                continue  # lost+found, say
            record = read(scratch / "sandbox", SandboxRecord)
            if record is None or not (scratch / "volumes").is_dir():
                await remove_tree(scratch)
                continue
            self._remembered[scratch.name] = msgspec.structs.replace(record, ip="", created_at=0.0)
            for entry in scratch.iterdir():
                if entry.name not in ("sandbox", "volumes"):
                    await remove_tree(entry)

    def observe(self) -> Iterator[SandboxState]:
        alive = self._network.observe()
        seen = set()
        for record in self._places.sandboxes():
            seen.add(record.pod_uid)
            if record.names.host_network:
                record = msgspec.structs.replace(record, ip=own_address())
                ready = (self._places.pod(record.pod_uid) / "etc" / "resolv.conf").exists()  # the last to be made
            else:
                namespace = alive.get(record.pod_uid)
                ready = namespace is not None and namespace.ip == record.ip
            if record.shares_ipc:
                ready = ready and ipc.there(self._places.pod(record.pod_uid))
            yield sandbox_state(record, ready)
        for uid, record in self._remembered.items():
            if uid not in seen:
                yield sandbox_state(record, ready=False)

    async def prepare(self, pod: Pod, material: Material, nameserver: str) -> SandboxState:
        """Make what is missing, bring the rest up to date."""
        self._nameserver = nameserver
        folder = self._places.pod(pod.uid)
        try:
            record = self._begin(pod)
        except OSError as e:
            raise RetryError(f"sandbox of pod {pod.title} can't be made: {e}") from e
        sysctls = split(pod.sysctls)
        await self.volumes(pod).prepare(material)
        if record.shares_ipc:
            ipc.make(folder, sysctls.ipc)
        ip = own_address() if pod.host_network else (await self._network.attach(pod.uid, sysctls.net)).ip
        try:
            etc.write(folder / "etc", pod, ip, nameserver, self._domain)
        except OSError as e:
            raise RetryError(f"files of pod {pod.title} below /etc can't be written: {e}") from e
        record = msgspec.structs.replace(record, ip=ip, material=material.digest)
        self._places.write_sandbox(record)
        self._remembered.pop(pod.uid, None)
        return sandbox_state(record, ready=True)

    def _begin(self, pod: Pod) -> SandboxRecord:
        """The folders, and a record that says whose they are before there is anything in them."""
        folder, scratch = self._places.pod(pod.uid), self._places.scratch(pod.uid)
        (folder / "etc").mkdir(mode=0o755, parents=True, exist_ok=True)
        before = read(folder / "sandbox", SandboxRecord) or self._remembered.get(pod.uid)
        users = self._users_of(pod, before)
        if users:  # crun goes through here as the pod's own root; nobody else is let in
            os.chown(folder, 0, users)
        folder.chmod(0o710 if users else 0o700)
        record = SandboxRecord(
            pod.uid,
            pod.title,
            pod.termination_grace,
            memory_request=pod.memory_request,
            created_at=(before and before.created_at) or time.clock_gettime(time.CLOCK_BOOTTIME),
            evicted=before.evicted if before else "",
            evicted_message=before.evicted_message if before else "",
            names=policy_of(pod),
            shares_ipc=len(pod.all_containers) > 1,
            users=users,
        )
        if not (folder / "sandbox").exists():
            self._places.write_sandbox(record)
        if any(isinstance(v.source, EmptyDir) and not v.source.memory for v in pod.volumes):
            scratch.mkdir(parents=True, exist_ok=True)
            write_atomically(scratch / "sandbox", msgspec.msgpack.encode(record))
        return record

    def _users_of(self, pod: Pod, before: SandboxRecord | None) -> int:
        """The host ids of a pod that has users of its own: the same as long as it lives."""
        if pod.host_users:
            return 0
        if before is not None and before.users:
            return before.users
        userns.check_available(pod, self._places.pods)
        taken = {record.users for record in (*self._places.sandboxes(), *self._remembered.values())}
        return userns.choose(taken, self._users)

    def end(self, pod_uid: str, reason: str, message: str) -> None:
        """See api.Runtime.end_pod. Kept with the volumes too, where they outlive a power cut."""
        for folder in (self._places.scratch(pod_uid), self._places.pod(pod_uid)):
            record = read(folder / "sandbox", SandboxRecord)
            if record is None and folder == self._places.pod(pod_uid) and folder.is_dir():  # half made
                record = SandboxRecord(pod_uid, pod_uid, 0.0)
            if record is not None:
                record = msgspec.structs.replace(record, evicted=reason, evicted_message=message)
                write_atomically(folder / "sandbox", msgspec.msgpack.encode(record))
                if pod_uid in self._remembered:
                    self._remembered[pod_uid] = msgspec.structs.replace(record, ip="", created_at=0.0)

    def refresh(self, pod: Pod, material: Material) -> None:
        """Bring the files of configs, secrets and the pod's own fields up to date, and record what they show now.

        What can't be made anew stays: a pod that ran goes on after its config was removed.

        :raises RetryError, PermanentError: the first volume that failed; the others were brought up to date.
        """
        self.volumes(pod).refresh(material)
        record = read(self._places.pod(pod.uid) / "sandbox", SandboxRecord)
        if record is not None and record.material != material.digest:
            self._places.write_sandbox(msgspec.structs.replace(record, material=material.digest))

    def volumes(self, pod: Pod) -> Volumes:
        folder, scratch = self._places.pod(pod.uid), self._places.scratch(pod.uid)
        return Volumes(pod, folder / "volumes", scratch / "volumes", self._claims, self._quotas)

    def of(self, pod: Pod) -> Sandbox:
        """:raises RetryError: it is not ready."""
        folder = self._places.pod(pod.uid)
        record = read(folder / "sandbox", SandboxRecord)
        namespace = None if pod.host_network else self._network.find(pod.uid)
        if record is None or not (folder / "etc").is_dir() or (namespace is None and not pod.host_network):
            raise RetryError(f"the sandbox of pod {pod.title} is not ready")
        if record.shares_ipc and not ipc.there(folder):
            raise RetryError(f"the shared memory of pod {pod.title} is not ready")
        with contextlib.suppress(OSError):  # the machine may ask others by now
            etc.write_resolv_conf(folder / "etc", pod.namespace, record.names, self._nameserver, self._domain)
        # read-only: they live in run_dir, which a container could fill otherwise
        files = tuple(bundle.BindMount(f"{folder}/etc/{name}", f"/etc/{name}", read_only=True) for name in etc.NAMES)
        return Sandbox(
            netns="" if pod.host_network or namespace is None else os.fspath(namespace.path),
            mounts=files,
            # A message queue file system can only be mounted by who owns the namespace, which a user namespace doesn't.
            ipcns=f"{folder}/ipc" if record.shares_ipc and pod.host_users else "",
            shm=f"{folder}/shm" if record.shares_ipc else "",
            host_network=pod.host_network,
            ip=own_address() if pod.host_network or namespace is None else namespace.ip,
            users=record.users,
        )

    def to_ask(self, pod_uid: str, ip: str) -> str:
        """Where the pod listens: a pod in the machine's network does so also while the machine has no address."""
        record = None if ip else read(self._places.pod(pod_uid) / "sandbox", SandboxRecord)
        return "127.0.0.1" if record is not None and record.names.host_network else ip

    def network_of(self, pod_uid: str) -> str:
        """Path of its network namespace; "" = the machine's own. :raises PermanentError: it has none here."""
        record = read(self._places.pod(pod_uid) / "sandbox", SandboxRecord)
        if record is not None and record.names.host_network:
            return ""
        namespace = self._network.find(pod_uid)
        if record is None or namespace is None:
            raise PermanentError(f"pod {pod_uid} has no network on this node (any more)")
        return os.fspath(namespace.path)

    async def remove(self, pod_uid: str) -> None:
        """Repeatable; the record goes last."""
        folder = self._places.pod(pod_uid)
        await self._network.detach(pod_uid)
        if folder.is_dir():
            await nfs.unmount_below(folder)
            mounts.unmount_below(os.fspath(folder))
        if self._places.scratch(pod_uid).is_dir():  # what privileged containers mounted in an emptyDir, both ways
            mounts.unmount_below(os.fspath(self._places.scratch(pod_uid)))
        if self._claims is not None:
            self._claims.release()
        self._quotas.release(self._places.scratch(pod_uid))
        await remove_tree(self._places.scratch(pod_uid))
        for part in ("volumes", "etc", "containers"):
            shutil.rmtree(folder / part, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        self._remembered.pop(pod_uid, None)

    def use_nameserver(self, nameserver: str) -> None:
        """Tell the pods that are there: the first Service has come, the last one gone, or the machine asks others."""
        self._nameserver = nameserver
        for record in self._places.sandboxes():
            namespace = record.pod.partition("/")[0]
            folder = self._places.pod(record.pod_uid) / "etc"
            with contextlib.suppress(OSError):
                etc.write_resolv_conf(folder, namespace, record.names, nameserver, self._domain)
